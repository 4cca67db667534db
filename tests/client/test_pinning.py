"""Handshakes end at the key of the keyset, or nowhere."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from confide.client.errors import Misused, PinMismatch
from confide.client.pinning import UNREADABLE, pinned_context, plain_context, shown_key, spki_sha256
from tests.client.interceptor import HOST, Interceptor


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def interceptor(authority: trustme.CA) -> Iterator[Interceptor]:
    with Interceptor(authority) as made:
        yield made


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def test_the_digest_is_that_of_the_public_key_info(interceptor: Interceptor) -> None:
    key = x509.load_der_x509_certificate(interceptor.der).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert spki_sha256(interceptor.der) == hashlib.sha256(spki).hexdigest()


@pytest.mark.parametrize("certificate", [None, b"", b"\x30\x00", b"no certificate"])
def test_what_is_no_certificate_is_no_key(certificate: bytes | None) -> None:
    assert spki_sha256(certificate) == UNREADABLE


@pytest.mark.parametrize("webpki", [True, False])
def test_a_pinned_key_is_let_through(interceptor: Interceptor, ca_file: Path, webpki: bool) -> None:
    asked: list[str] = []

    def pins(host: str) -> frozenset[str]:
        asked.append(host)
        return frozenset({spki_sha256(interceptor.der)})

    context = pinned_context(pins, webpki=webpki, ca_file=ca_file if webpki else None)
    with (
        httpx.Client(verify=context, trust_env=False) as client,
        client.stream("GET", f"https://{HOST}:{interceptor.port}/") as answer,
    ):
        assert answer.status_code == 200
        assert shown_key(answer) == spki_sha256(interceptor.der)
    assert asked == [HOST]


@pytest.mark.parametrize("webpki", [True, False])
@pytest.mark.parametrize("expected", [frozenset(), frozenset({"00" * 32})])
def test_another_key_is_refused_before_any_byte(
    interceptor: Interceptor, ca_file: Path, webpki: bool, expected: frozenset[str]
) -> None:
    """The certificate is good for every public rule; only its key is another."""
    context = pinned_context(lambda _: expected, webpki=webpki, ca_file=ca_file if webpki else None)
    with (
        httpx.Client(verify=context, trust_env=False) as client,
        pytest.raises(PinMismatch, match="attested keyset") as refused,
    ):
        client.post(f"https://{HOST}:{interceptor.port}/", content=b"prompt")
    assert refused.value.found == spki_sha256(interceptor.der)
    assert refused.value.expected == expected
    assert not interceptor.received


def test_asyncio_refuses_it_too(interceptor: Interceptor, ca_file: Path) -> None:
    async def post(expected: frozenset[str]) -> httpx.Response:
        context = pinned_context(lambda _: expected, webpki=True, ca_file=ca_file)
        url = f"https://{HOST}:{interceptor.port}/"
        async with (
            httpx.AsyncClient(verify=context, trust_env=False) as client,
            client.stream("POST", url, content=b"prompt") as answer,
        ):
            assert shown_key(answer) == spki_sha256(interceptor.der)
            return answer

    with pytest.raises(PinMismatch):
        asyncio.run(post(frozenset({"00" * 32})))
    assert not interceptor.received
    assert asyncio.run(post(frozenset({spki_sha256(interceptor.der)}))).status_code == 200


def test_every_connection_is_looked_at(interceptor: Interceptor, ca_file: Path) -> None:
    """Not only the first one: here the key counts no longer when the second is made."""
    allowed = [frozenset({spki_sha256(interceptor.der)}), frozenset[str]()]
    context = pinned_context(lambda _: allowed.pop(0), webpki=True, ca_file=ca_file)
    with httpx.Client(verify=context, trust_env=False, headers={"Connection": "close"}) as client:
        assert client.get(f"https://{HOST}:{interceptor.port}/").status_code == 200
        with pytest.raises(PinMismatch):
            client.get(f"https://{HOST}:{interceptor.port}/")


def test_the_public_rules_hold_as_well(interceptor: Interceptor) -> None:
    """A pinned key in a certificate of an authority that nobody trusts."""
    pins = frozenset({spki_sha256(interceptor.der)})
    with (
        httpx.Client(verify=pinned_context(lambda _: pins, webpki=True), trust_env=False) as client,
        pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        client.get(f"https://{HOST}:{interceptor.port}/")


def test_a_file_of_authorities_must_hold_some(tmp_path: Path) -> None:
    with pytest.raises(Misused, match=r"missing\.pem holds no certificates"):
        plain_context(webpki=True, ca_file=tmp_path / "missing.pem")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(Misused, match=r"empty\.pem holds no certificates"):
        plain_context(webpki=True, ca_file=empty)


def test_old_versions_of_tls_are_off() -> None:
    for webpki in (True, False):
        assert plain_context(webpki=webpki).minimum_version >= ssl.TLSVersion.TLSv1_2


def test_without_tls_no_key_is_shown() -> None:
    assert shown_key(httpx.Response(200)) is None
