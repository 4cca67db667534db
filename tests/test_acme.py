"""Orders for certificates, at an authority of our own."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from confide import acme
from confide.acme import Authority, NoCertificate, Renewal
from confide.errors import ConfigError
from confide.tls import ServerTls, server_context
from tests.simulator.acme_authority import AcmeAuthority, Problem, acme_authority

KEY = ec.generate_private_key(ec.SECP256R1())
NAMES = ("api.example", "www.example")
DAY = 86400


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def authority() -> Iterator[AcmeAuthority]:
    with acme_authority(free_port()) as running:
        yield running


def renewal(authority: AcmeAuthority, folder: Path, clock: Clock | None = None) -> Renewal:
    whom = Authority(authority.directory, contact="ops@example.com", host="127.0.0.1", port=authority.http01_port)
    return Renewal(whom, KEY, NAMES, folder / "chain.pem", clock=clock or Clock())


def test_a_certificate_is_issued_for_our_key_and_served(authority: AcmeAuthority, tmp_path: Path) -> None:
    file = tmp_path / "chain.pem"
    server_tls = ServerTls(server_context(), KEY, domains=NAMES, certificate=file, interim=True)
    asyncio.run(renewal(authority, tmp_path).refresh())
    server_tls.refresh()
    assert server_tls.chain == tuple(x509.load_pem_x509_certificates(file.read_bytes()))
    assert server_tls.chain[0].public_key() == KEY.public_key() == authority.orders[0].public_key()
    assert authority.agreed[0]["contact"] == ["mailto:ops@example.com"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["chain.attempt", "chain.pem"]
    assert not any(b"PRIVATE" in one.read_bytes() for one in tmp_path.iterdir())


def test_it_is_renewed_when_a_third_of_its_time_is_left(authority: AcmeAuthority, tmp_path: Path) -> None:
    clock = Clock()
    keeping = renewal(authority, tmp_path, clock)
    for ahead, orders in ((0, 1), (1 * DAY, 1), (59 * DAY, 1), (61 * DAY, 2), (62 * DAY, 2)):
        clock.ahead = ahead
        if ahead >= 61 * DAY:
            authority.days = 180  # the authority's clock stays
        asyncio.run(keeping.refresh())
        assert len(authority.orders) == orders


def test_a_refusal_is_told_and_not_tried_again_within_the_hour(authority: AcmeAuthority, tmp_path: Path) -> None:
    clock = Clock()
    keeping = renewal(authority, tmp_path, clock)
    authority.refusal = Problem("rateLimited", "too many certificates for example", 429)
    with pytest.raises(NoCertificate, match=r"rateLimited.*too many certificates for example"):
        asyncio.run(keeping.refresh())
    authority.refusal = None
    asyncio.run(keeping.refresh())
    asyncio.run(renewal(authority, tmp_path, clock).refresh())  # as after a restart
    assert keeping.due()
    assert not authority.orders
    clock.ahead = acme.RETRY_SECONDS
    asyncio.run(keeping.refresh())
    assert not keeping.due()


def test_workers_make_one_order(authority: AcmeAuthority, tmp_path: Path) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*[renewal(authority, tmp_path).refresh() for _ in range(8)])

    asyncio.run(all_at_once())
    assert len(authority.orders) == 1


def test_what_is_issued_for_another_key_is_not_kept(authority: AcmeAuthority, tmp_path: Path) -> None:
    authority.substitute = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(NoCertificate, match="can't be served: the certificate is for another key"):
        asyncio.run(renewal(authority, tmp_path).refresh())
    assert not (tmp_path / "chain.pem").exists()


def test_an_authority_that_can_not_see_us_says_so(authority: AcmeAuthority, tmp_path: Path) -> None:
    keeping = renewal(authority, tmp_path)
    authority.http01_port = free_port()
    with pytest.raises(NoCertificate, match=r"No certificate from http://127.*acme-challenge.*refused"):
        asyncio.run(keeping.refresh())


def test_only_http01_is_answered(authority: AcmeAuthority, tmp_path: Path) -> None:
    authority.challenge = "dns-01"
    with pytest.raises(NoCertificate, match=r"offers no HTTP-01 for api\.example"):
        asyncio.run(renewal(authority, tmp_path).refresh())


def test_a_port_in_use_and_no_authority_are_told(authority: AcmeAuthority, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", authority.http01_port)),
        pytest.raises(NoCertificate, match="Address already in use"),
    ):
        asyncio.run(renewal(authority, tmp_path).refresh())
    nobody = Authority(f"http://127.0.0.1:{free_port()}/directory", host="127.0.0.1", port=authority.http01_port)
    with pytest.raises(NoCertificate, match="refused"):
        acme.obtain(nobody, KEY, NAMES)


def test_answers_are_only_what_was_asked_for() -> None:
    port = free_port()
    with acme._answering(Authority("", host="127.0.0.1", port=port)) as answers:
        answers["/.well-known/acme-challenge/t"] = b"t.print"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/.well-known/acme-challenge/t") as answer:
            assert answer.read() == b"t.print"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/etc/passwd")
        refused.value.close()
        assert refused.value.code == 404
        with socket.create_connection(("127.0.0.1", port)) as odd:
            odd.sendall(b"no HTTP at all\r\n\r\n")
            assert b"400" in odd.recv(1000)
        with socket.create_connection(("127.0.0.1", port)) as rude:
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            rude.sendall(b"GET /")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/.well-known/acme-challenge/t") as answer:
            assert answer.status == 200
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))


def test_a_name_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tls_domains"):
        Renewal(Authority("https://acme.example/directory"), KEY, (), tmp_path / "chain.pem")


def test_the_library_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "acme", None)
    with pytest.raises(ConfigError, match=r"confide\[acme\]"):
        Renewal(Authority("https://acme.example/directory"), KEY, NAMES, tmp_path / "chain.pem")


def test_an_order_of_another_worker_is_waited_for(tmp_path: Path) -> None:
    mark = tmp_path / "chain.attempt"
    with acme._turn(mark, 1000.0) as first, acme._turn(mark, 1000.0 + DAY) as second:
        assert (first, second) == (True, False)
    assert mark.stat().st_mtime == 1000.0
