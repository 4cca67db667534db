"""Certificate chains: each rule broken alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from confide.verify.chain import MOST_BYTES, MOST_CERTIFICATES, check_chain, guarded, read_der, read_pem
from confide.verify.roots import Root
from confide.verify.verdict import CheckFailed

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "ca", "sub", "leaf", "other")}
ISSUERS = {"root": "root", "ca": "root", "sub": "ca", "leaf": "sub"}
PATH_LENGTHS = {"root": 2, "ca": 1, "sub": 0}


def certificate(name: str, **changes: Any) -> x509.Certificate:
    """One of a chain of four, with something changed."""
    given: dict[str, Any] = {
        "subject": name,
        "issuer": ISSUERS[name],
        "signer": ISSUERS[name],
        "first": NOW - DAY,
        "last": NOW + DAY,
        "constraints": x509.BasicConstraints(ca=name != "leaf", path_length=PATH_LENGTHS.get(name)),
        "usage": usage(signs=name != "leaf"),
        "more": None,
    } | changes
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(given["subject"]))
        .issuer_name(_name(given["issuer"]))
        .public_key(KEYS[name].public_key())
        .serial_number(7)
        .not_valid_before(given["first"])
        .not_valid_after(given["last"])
    )
    for extension in (given["constraints"], given["usage"]):
        if extension is not None:
            builder = builder.add_extension(extension, critical=True)
    if given["more"] is not None:
        builder = builder.add_extension(*given["more"])
    return builder.sign(KEYS[given["signer"]], hashes.SHA256())


def usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(not signs, False, False, False, False, signs, signs, False, False)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def anchor(made: x509.Certificate) -> Root:
    return Root("the root", "intel", "tdx", made.public_bytes(Encoding.DER))


GOOD = [certificate(name) for name in ("leaf", "sub", "ca", "root")]
ROOT = anchor(GOOD[3])
OTHER_ROOT = anchor(certificate("root", first=NOW - 2 * DAY))


def walk(path: Sequence[x509.Certificate], roots: Sequence[Root] = (ROOT,), time: datetime = NOW) -> Root:
    return check_chain(path, roots, time, "the chain")


@pytest.mark.parametrize("path", [GOOD, GOOD[:3], GOOD[1:], GOOD[2:], GOOD[3:]])
def test_a_good_chain_ends_at_its_root(path: list[x509.Certificate]) -> None:
    assert walk(path) is ROOT
    assert walk(path, (anchor(certificate("root", subject="another", issuer="another")), ROOT)) is ROOT


@pytest.mark.parametrize("time", [NOW - DAY, NOW + DAY])
def test_the_first_and_the_last_second_count(time: datetime) -> None:
    assert walk(GOOD, time=time) is ROOT


def _with(name: str, **changes: Any) -> list[x509.Certificate]:
    place = ["leaf", "sub", "ca", "root"].index(name)
    return [*GOOD[:place], certificate(name, **changes), *GOOD[place + 1 :]]


CRITICAL = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
NAME_CONSTRAINTS = (x509.NameConstraints([x509.DNSName("example.com")], None), True)
BROKEN: dict[str, tuple[list[x509.Certificate], str]] = {
    "nothing": ([], "has 0 certificates"),
    "too many": ([GOOD[0]] * (MOST_CERTIFICATES + 1), "has 11 certificates"),
    "the leaf has expired": (_with("leaf", last=NOW - timedelta(seconds=1)), "certificate 0 is valid from"),
    "the leaf is not valid yet": (_with("leaf", first=NOW + timedelta(seconds=1)), "certificate 0 is valid from"),
    "a CA has expired": (_with("ca", last=NOW - timedelta(seconds=1)), "certificate 2 is valid from"),
    "a CA is not valid yet": (_with("sub", first=NOW + timedelta(seconds=1)), "certificate 1 is valid from"),
    "an issuer is no CA": (_with("sub", constraints=x509.BasicConstraints(False, None)), "certificate 1 is no CA"),
    "an issuer says nothing": (_with("sub", constraints=None), "certificate 1 is no CA"),
    "the path is too long": (
        _with("ca", constraints=x509.BasicConstraints(True, 0)),
        "certificate 2 allows 0 CAs below it, and 1 are there",
    ),
    "an issuer may not sign": (_with("ca", usage=usage(signs=False)), "certificate 2 may not sign certificates"),
    "a critical extension of the leaf": (_with("leaf", more=CRITICAL), "certificate 0 has a critical extension"),
    "a critical extension of a CA": (_with("sub", more=CRITICAL), "not known here (1.2.3.4)"),
    "constraints on names": (_with("ca", more=NAME_CONSTRAINTS), "certificate 2 has a critical extension"),
    "a forged leaf": (_with("leaf", signer="other"), "certificate 0 is not signed by the next one"),
    "a forged CA": (_with("sub", signer="other"), "certificate 1 is not signed by the next one"),
    "another issuer's name": (_with("leaf", issuer="ca"), "certificate 0 is not signed by the next one"),
    "one is left out": ([GOOD[0], GOOD[2], GOOD[3]], "certificate 0 is not signed by the next one"),
    "the wrong order": ([GOOD[1], GOOD[0], GOOD[2], GOOD[3]], "certificate 1 is no CA"),
    "no end": (GOOD[:2], "ends at no accepted root (accepted: the root)"),
    "a root of the same name": ([*GOOD[:3], certificate("root", last=NOW + 2 * DAY, signer="other")], "no accepted"),
    "signed by a root's namesake": ([certificate("ca", signer="other")], "no accepted root"),
}
"""A chain with one thing wrong, and what must be said about it."""


@pytest.mark.parametrize("name", BROKEN)
def test_each_rule(name: str) -> None:
    path, text = BROKEN[name]
    with pytest.raises(CheckFailed) as refused:
        walk(path)
    assert text in str(refused.value)


def test_the_root_itself_has_dates() -> None:
    later = [certificate(name, last=NOW + 9 * DAY) for name in ("leaf", "sub", "ca")]
    with pytest.raises(CheckFailed, match="certificate 3 is valid from"):
        walk(later, time=NOW + 2 * DAY)


def test_without_roots_nothing_is_accepted() -> None:
    with pytest.raises(CheckFailed, match="accepted: none"):
        walk(GOOD, ())
    with pytest.raises(CheckFailed, match=r"no accepted root \(accepted: the root\)"):
        walk(GOOD, (anchor(certificate("root", subject="x", issuer="x")),))


def test_a_root_with_the_same_key_and_name_is_a_root_too() -> None:
    """The vendors renew roots with the same key: what ends at the older one is issued by the newer one as well."""
    assert walk(GOOD[:3], (OTHER_ROOT,)) is OTHER_ROOT


def test_a_usage_that_is_not_stated_restricts_nothing() -> None:
    assert walk(_with("ca", usage=None)) is ROOT


def test_duplicate_extensions_are_a_failed_check() -> None:
    """A leaf is read before its signature is checked, so this is what anybody can send."""
    constraints, usages = b"\x06\x03\x55\x1d\x13", b"\x06\x03\x55\x1d\x0f"
    der = certificate("leaf").public_bytes(Encoding.DER).replace(constraints, usages, 1)
    with pytest.raises(CheckFailed):
        walk([x509.load_der_x509_certificate(der), *GOOD[1:]])


def test_a_signature_with_bits_that_do_not_count_is_a_failed_check() -> None:
    """A bit string may leave bits of its last byte unused; then one signature would have several spellings."""
    leaf = GOOD[0]
    der = leaf.public_bytes(Encoding.DER)
    even = bytes([leaf.signature[-1] & 0xFE])
    loose = der[: -len(leaf.signature) - 1] + b"\x01" + leaf.signature[:-1] + even
    with pytest.raises(CheckFailed, match=r"not whole bytes|can't be read"):
        walk([x509.load_der_x509_certificate(loose), *GOOD[1:]])


def test_a_warning_that_is_an_error_is_a_failed_check() -> None:
    """Tests and careful programs turn warnings into errors; hostile certificates must not raise through them."""
    serial = b"\x02\x01\x07\x30"
    der = GOOD[0].public_bytes(Encoding.DER)
    assert der.count(serial) == 1
    with pytest.raises(CheckFailed, match="can't be read"):
        read_der(der.replace(serial, b"\x02\x01\x87\x30"), "it")


# Reading -------------------------------------------------------------------------------------------------------------

PEM = b"".join(one.public_bytes(Encoding.PEM) for one in GOOD)


def test_pem_texts() -> None:
    assert list(read_pem(PEM, "it")) == GOOD
    assert list(read_pem(b"text\n" + PEM.replace(b"\n", b"\r\n") + b"\0", "it")) == GOOD


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "it can't be read"),
        (b"text", "it can't be read"),
        (PEM.replace(b"MII", b"!!!"), "it can't be read"),
        (PEM[:400], "it can't be read"),
        (PEM * 3, "more than 10 certificates"),
        (PEM.ljust(MOST_BYTES + 1), "longer than"),
    ],
)
def test_what_is_no_pem_text(data: bytes, text: str) -> None:
    with pytest.raises(CheckFailed, match=text):
        read_pem(data, "it")


def test_der() -> None:
    der = GOOD[0].public_bytes(Encoding.DER)
    assert read_der(der, "it") == GOOD[0]
    for wrong in (b"", der[:-1], der + b"\0", b"\x30\x82" + bytes(500)):
        with pytest.raises(CheckFailed, match="it can't be read"):
            read_der(wrong, "it")
    with pytest.raises(CheckFailed, match="longer than"):
        read_der(bytes(MOST_BYTES + 1), "it")


@pytest.mark.parametrize(
    "error", [ValueError, TypeError, KeyError, IndexError, OverflowError, UnsupportedAlgorithm("x"), UnicodeError]
)
def test_what_a_foreign_parser_raises_is_a_failed_check(error: Any) -> None:
    def call() -> None:
        raise error

    with pytest.raises(CheckFailed, match="it can't be read"):
        guarded("it", call)
