"""Handshakes with a server that ends TLS itself, as clients and as operators see them."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import http.client
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from confide import tls
from confide.api.http1 import HttpProtocol
from confide.config import load
from confide.errors import ConfigError
from confide.identity.identity import Identity, Terms
from confide.identity.roles import EphemeralKeys
from confide.tls import ServerTls, csr, server_context, spki_sha256

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
DAY = 86400
NOW = 1_700_000_000.0
DOMAIN = "api.example"


class Authority:
    """A root and an intermediate that sign certificates for any key, as a public authority would."""

    def __init__(self, begin: float) -> None:
        self._begin = begin
        self._root = ec.generate_private_key(ec.SECP256R1())
        self._middle = ec.generate_private_key(ec.SECP256R1())
        self.root = self._sign(self._root, "root", self._root, "root", ca=True)
        self.middle = self._sign(self._middle, "middle", self._root, "root", ca=True)

    def issue(self, key: ec.EllipticCurvePrivateKey, *names: str, begin: float | None = None) -> x509.Certificate:
        return self._sign(key, "leaf", self._middle, "middle", names=names, begin=begin)

    def _sign(
        self,
        key: ec.EllipticCurvePrivateKey,
        subject: str,
        issuer: ec.EllipticCurvePrivateKey,
        issuer_name: str,
        *,
        names: Sequence[str] = (),
        begin: float | None = None,
        ca: bool = False,
    ) -> x509.Certificate:
        start = datetime.fromtimestamp(self._begin if begin is None else begin, UTC)
        builder = x509.CertificateBuilder(_name(issuer_name), _name(subject), key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start)
        builder = builder.not_valid_after(start + timedelta(days=30))
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        return builder.sign(issuer, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


AUTHORITY = Authority(NOW - DAY)
CHAIN = pem(AUTHORITY.issue(KEY, DOMAIN), AUTHORITY.middle)


@pytest.fixture
def chain_file(tmp_path: Path) -> Path:
    file = tmp_path / "chain.pem"
    file.write_bytes(CHAIN)
    return file


# A server and its clients --------------------------------------------------------------------------------------------


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": scope["scheme"].encode()})


def made(key: ec.EllipticCurvePrivateKey, **options: Any) -> ServerTls:
    return ServerTls(server_context(), key, **options)


@contextmanager
def serving(server_tls: ServerTls) -> Iterator[int]:
    """The port of a uvicorn server that is set up as ours is."""
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        log_level="error",
        ssl_context_factory=lambda *_: server_tls.context,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


def unchecking() -> ssl.SSLContext:
    """What a client uses that pins the key: no certificate is trusted for its issuer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def trusting(root: x509.Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem(root).decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


@contextmanager
def connected(
    port: int, context: ssl.SSLContext | None = None, name: str | None = "localhost"
) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        (context or unchecking()).wrap_socket(plain, server_hostname=name) as secure,
    ):
        yield secure


def peer(connection: ssl.SSLSocket) -> x509.Certificate:
    return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")


def spki(certificate: x509.Certificate) -> str:
    der = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def get(connection: ssl.SSLSocket) -> bytes:
    """One exchange; the connection stays open."""
    connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.read()


def names(certificate: x509.Certificate) -> list[str]:
    held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in held]


# The key in the keyset is the key on the wire ------------------------------------------------------------------------


def test_the_peer_shows_the_key_that_the_keyset_lists() -> None:
    identity = asyncio.run(Identity.create(EphemeralKeys(), Terms(tls=True), epoch=1, not_after=2))
    with serving(made(identity.tls)) as port, connected(port) as connection:
        shown = spki(peer(connection))
        assert get(connection) == b"https"
    assert identity.keyset.tls_keys_for("localhost") == {shown} == {spki_sha256(identity.tls.public_key())}


def test_a_self_signed_certificate_can_be_trusted_as_it_is() -> None:
    server_tls = made(KEY)
    with serving(server_tls) as port:
        for name in ("localhost", "127.0.0.1", "::1"):
            with connected(port, trusting(server_tls.chain[0]), name) as connection:
                assert get(connection) == b"https"
        with pytest.raises(ssl.SSLCertVerificationError), connected(port, trusting(server_tls.chain[0]), DOMAIN):
            pass


def test_a_certificate_of_an_authority_is_served_with_its_chain(chain_file: Path) -> None:
    authority = Authority(time.time() - DAY)
    chain_file.write_bytes(pem(authority.issue(KEY, DOMAIN), authority.middle))
    client = trusting(authority.root)
    client.verify_flags &= ~ssl.VERIFY_X509_STRICT
    server_tls = made(KEY, domains=[DOMAIN], certificate=chain_file)
    with serving(server_tls) as port, connected(port, client, DOMAIN) as connection:
        assert get(connection) == b"https"
        assert spki(peer(connection)) == spki_sha256(KEY.public_key())


# Protocols -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_new_protocols_are_spoken(version: ssl.TLSVersion) -> None:
    client = unchecking()
    client.minimum_version = client.maximum_version = version
    client.set_alpn_protocols(["h2", "http/1.1"])
    with serving(made(KEY)) as port, connected(port, client) as connection:
        assert get(connection) == b"https"
        assert connection.version() == version.name.replace("_", ".")
        assert connection.selected_alpn_protocol() == "http/1.1"
        assert connection.compression() is None
        assert connection.session is not None
        assert not connection.session.has_ticket


def test_the_newest_protocol_is_preferred() -> None:
    with serving(made(KEY)) as port, connected(port) as connection:
        assert connection.version() == "TLSv1.3"


def hello(minor: int) -> bytes:
    """A ClientHello of TLS 1.``minor``, made by hand: today's libraries no longer make old ones."""
    suites = bytes.fromhex("c02bc009c00ac013c0140035002f")
    extensions = bytes.fromhex("000a000400020017000b00020100000d000400020403")  # P-256, plain points, ECDSA
    body = bytes([3, minor + 1]) + bytes(range(32)) + b"\0" + len(suites).to_bytes(2) + suites + b"\x01\0"
    body += len(extensions).to_bytes(2) + extensions
    handshake = b"\x01" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + len(handshake).to_bytes(2) + handshake


def test_old_protocols_are_refused() -> None:
    with serving(made(KEY)) as port:
        for minor in (0, 1, 2):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
                plain.sendall(hello(minor))
                answer = plain.recv(100)
            assert answer[:1] == (b"\x16" if minor == 2 else b"")  # a handshake, or the end


def test_old_protocols_are_refused_for_being_old() -> None:
    to_server, from_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = made(KEY).context.wrap_bio(to_server, from_server, server_side=True)
    to_server.write(hello(1))
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        server.do_handshake()
    assert from_server.read()[-2:] == bytes([2, 70])  # an alert: fatal, protocol_version


def test_plain_http_and_rubbish_get_no_answer_of_the_application() -> None:
    with serving(made(KEY)) as port:
        for data in (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\0" * 64):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
                plain.sendall(data)
                assert b"HTTP" not in plain.recv(100)
        with connected(port) as connection:
            assert get(connection) == b"https"


def test_weak_ciphers_and_renegotiation_are_off() -> None:
    context = server_context()
    assert all("GCM" in c["name"] or "CHACHA20" in c["name"] for c in context.get_ciphers())
    for option in (ssl.OP_NO_RENEGOTIATION, ssl.OP_NO_COMPRESSION, ssl.OP_NO_TICKET):
        assert context.options & option


# Renewal -------------------------------------------------------------------------------------------------------------


def test_renewal_keeps_the_key_and_open_connections() -> None:
    clock = Clock()
    server_tls = made(KEY, clock=clock)
    with serving(server_tls) as port, connected(port) as old:
        assert get(old) == b"https"
        clock.now += tls.RENEWED.total_seconds()
        server_tls.refresh()
        with connected(port) as new:
            assert get(new) == get(old) == b"https"
            assert peer(new) == server_tls.chain[0] != peer(old)
            assert spki(peer(new)) == spki(peer(old)) == spki_sha256(KEY.public_key())


def test_a_self_signed_certificate_is_always_valid_for_weeks() -> None:
    clock = Clock()
    server_tls = made(KEY, clock=clock)
    seen = set()
    for _ in range(200):
        server_tls.refresh()
        leaf = server_tls.chain[0]
        now = datetime.fromtimestamp(clock.now, UTC)
        assert leaf.not_valid_before_utc + timedelta(days=1) <= now
        assert now + timedelta(days=60) <= leaf.not_valid_after_utc
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(days=91)
        seen.add(leaf.serial_number)
        clock.now += DAY
    assert 7 <= len(seen) <= 8


def test_workers_with_one_key_show_one_certificate() -> None:
    one, two = made(KEY, clock=Clock()), made(KEY, clock=Clock(NOW + 60))
    assert one.chain == two.chain
    assert one.chain != made(OTHER, clock=Clock()).chain
    assert one.chain[0].serial_number != made(KEY, domains=[DOMAIN], clock=Clock()).chain[0].serial_number


def test_a_self_signed_certificate_names_the_domains() -> None:
    assert names(made(KEY).chain[0]) == ["localhost", "127.0.0.1", "::1"]
    assert names(made(KEY, domains=[DOMAIN, "10.0.0.7"]).chain[0]) == [DOMAIN, "10.0.0.7"]


def test_a_changed_file_is_served_without_a_restart(chain_file: Path) -> None:
    server_tls = made(KEY, domains=[DOMAIN], certificate=chain_file, clock=Clock())
    with serving(server_tls) as port, connected(port) as old:
        first = peer(old)
        server_tls.refresh()
        renewed = AUTHORITY.issue(KEY, DOMAIN)
        chain_file.write_bytes(pem(renewed, AUTHORITY.middle))
        server_tls.refresh()
        with connected(port) as new:
            assert peer(new) == renewed != first
            assert spki(peer(new)) == spki(first)
        assert get(old) == b"https"


@pytest.mark.parametrize("bad", [b"", b"half a certificate", pem(AUTHORITY.issue(OTHER, DOMAIN)), None])
def test_a_bad_change_is_said_once_and_not_served(chain_file: Path, bad: bytes | None) -> None:
    server_tls = made(KEY, certificate=chain_file, clock=Clock())
    before = server_tls.chain
    if bad is None:
        chain_file.unlink()
    else:
        chain_file.write_bytes(bad)
    with pytest.raises(ConfigError, match=r"tls_certificate .*chain\.pem: "):
        server_tls.refresh()
    server_tls.refresh()
    with serving(server_tls) as port, connected(port) as connection:
        assert peer(connection) == before[0] == server_tls.chain[0]
    chain_file.write_bytes(pem(good := AUTHORITY.issue(KEY)))
    server_tls.refresh()
    assert server_tls.chain == (good,)


def test_a_certificate_of_our_own_bridges_the_time_until_one_is_issued(tmp_path: Path) -> None:
    clock = Clock()
    file = tmp_path / "chain.pem"
    server_tls = made(KEY, domains=[DOMAIN], certificate=file, interim=True, clock=clock)
    assert server_tls.chain[0].issuer == server_tls.chain[0].subject
    first = server_tls.chain
    file.write_bytes(b"not yet")
    clock.now += tls.RENEWED.total_seconds()
    server_tls.refresh()
    assert server_tls.chain != first
    file.write_bytes(pem(issued := AUTHORITY.issue(KEY, DOMAIN, begin=clock.now), AUTHORITY.middle))
    server_tls.refresh()
    assert server_tls.chain[0] == issued
    file.write_bytes(b"no more")
    with pytest.raises(ConfigError, match="no certificates in PEM"):
        server_tls.refresh()
    assert server_tls.chain[0] == issued


# What is refused -----------------------------------------------------------------------------------------------------


KEY_PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
REFUSED = {
    "another key": (pem(AUTHORITY.issue(OTHER, DOMAIN)), "for another key: got SPKI SHA-256 [0-9a-f]{64}, .*has "),
    "only the issuer": (pem(AUTHORITY.middle), "for another key"),
    "the wrong order": (pem(AUTHORITY.issue(KEY, DOMAIN), AUTHORITY.root), "1 isn't signed by certificate 2"),
    "a chain with a stranger": (CHAIN + pem(AUTHORITY.issue(KEY)), "2 isn't signed by certificate 3"),
    "expired": (pem(AUTHORITY.issue(KEY, DOMAIN, begin=NOW - 31 * DAY)), "valid from .* to .* UTC, not now"),
    "not valid yet": (pem(AUTHORITY.issue(KEY, DOMAIN, begin=NOW + DAY)), "valid from .* to .* UTC, not now"),
    "another name": (pem(AUTHORITY.issue(KEY, "www.example")), "doesn't name api.example; it names www.example"),
    "no name": (pem(AUTHORITY.issue(KEY)), "it names nothing"),
    "a deep wildcard": (pem(AUTHORITY.issue(KEY, "*.api.example")), "doesn't name api.example"),
    "with its private key": (CHAIN + KEY_PEM, "holds a private key"),
    "no certificate": (b"hello", "no certificates in PEM"),
    "empty": (b"", "no certificates in PEM"),
    "cut": (CHAIN[:200], "no certificates in PEM"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_certificate_of_ours_is_refused_at_start(chain_file: Path, case: str) -> None:
    data, message = REFUSED[case]
    chain_file.write_bytes(data)
    with pytest.raises(ConfigError, match=message) as refused:
        made(KEY, domains=[DOMAIN], certificate=chain_file, clock=Clock())
    assert refused.value.exit_code == 2


def test_a_missing_file_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        made(KEY, certificate=tmp_path / "none.pem")


def test_names_match_as_clients_match_them(chain_file: Path) -> None:
    chain_file.write_bytes(pem(AUTHORITY.issue(KEY, "*.example", "API.test")))
    made(KEY, domains=[DOMAIN, "api.test"], certificate=chain_file, clock=Clock())


def test_a_certificate_request_is_for_our_key_and_names() -> None:
    request = x509.load_pem_x509_csr(csr(KEY, [DOMAIN, "www.example"]))
    assert request.is_signature_valid
    assert request.public_key() == KEY.public_key()
    held = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert held.get_values_for_type(x509.DNSName) == [DOMAIN, "www.example"]
    assert x509.load_pem_x509_csr(csr(KEY, ["a" * 60 + ".example"])).subject == x509.Name([])
    with pytest.raises(ConfigError, match="tls_domains"):
        csr(KEY, [])


# Settings ------------------------------------------------------------------------------------------------------------


def test_settings() -> None:
    assert not load({}, environ={}).tls
    environ = {
        "CONFIDE_TLS": "true",
        "CONFIDE_TLS_DOMAINS": "api.example, b.example",
        "CONFIDE_TLS_CERTIFICATE": "chain.pem",
    }
    settings = load({}, environ=environ)
    assert (settings.tls, settings.tls_domains) == (True, ("api.example", "b.example"))
    assert settings.tls_certificate == Path("chain.pem")


@pytest.mark.parametrize("domain", ["", "*.example", "https://a.example", "A.example", "a..b", "-a", "a\n", "a" * 64])
def test_what_is_no_host_name_is_refused(domain: str) -> None:
    with pytest.raises(ConfigError, match="tls-domains: expected a list of host names"):
        load({"tls": True, "tls_domains": [domain]}, environ={})


def test_settings_of_tls_without_tls_are_refused() -> None:
    with pytest.raises(ConfigError, match="--tls-domains: has a meaning only with tls = true"):
        load({"tls_domains": [DOMAIN]}, environ={})
    with pytest.raises(ConfigError, match="CONFIDE_TLS_CERTIFICATE: has a meaning only with tls = true"):
        load({}, environ={"CONFIDE_TLS_CERTIFICATE": "chain.pem"})


def test_settings_of_acme() -> None:
    url = "https://acme.example/directory"
    settings = load({"tls": True, "tls_domains": [DOMAIN], "tls_acme": url}, environ={})
    assert (settings.tls_acme, settings.tls_acme_contact, settings.tls_acme_port) == (url, None, 80)
    wrong: list[tuple[dict[str, object], str]] = [
        ({"tls_domains": [DOMAIN], "tls_acme": "http://acme.example/"}, "expected the https URL of an ACME directory"),
        ({"tls_acme": url}, "set tls_domains"),
        ({"tls_domains": [DOMAIN], "tls_acme": url, "tls_certificate": "chain.pem"}, "choose one"),
    ]
    for flags, message in wrong:
        with pytest.raises(ConfigError, match=f"--tls-acme: .*{message}"):
            load({"tls": True} | flags, environ={})


# The key stays in memory ---------------------------------------------------------------------------------------------


def shapes(key: ec.EllipticCurvePrivateKey) -> list[bytes]:
    """How the private key would look in a file."""
    scalar = key.private_numbers().private_value.to_bytes(32)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).splitlines()[1:-1]
    sec1 = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).splitlines()[1:-1]
    return [scalar, scalar.hex().encode(), base64.b64encode(scalar), *text, *sec1]


def open_files() -> dict[str, bytes]:
    """Every regular file that this process has open, those without a name as well."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            if stat.S_ISREG(link.stat().st_mode) and link.stat().st_size < 2**24:
                found[f"{link.name} {link.readlink()}"] = link.read_bytes()
        except OSError:
            continue
    return found


def test_nothing_of_the_key_is_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with serving(made(KEY)) as port, connected(port) as connection:
        assert get(connection) == b"https"
        files = open_files() | {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert not [name for name in files if "memfd:confide" in name]
    assert not [name for name, data in files.items() if any(shape in data for shape in shapes(KEY))]


class Reader:
    """Stands where the TLS library does, and looks at what it is given."""

    path = ""
    data = b""
    password = ""

    def load_cert_chain(self, path: str, *, password: str) -> None:
        self.path, self.password = str(Path(path).readlink()), password
        self.data = Path(path).read_bytes()
        descriptor = int(path.rpartition("/")[2])
        assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == tls._SEALS
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        assert not os.get_inheritable(descriptor)


def test_the_key_is_handed_over_encrypted_in_memory() -> None:
    chain = made(KEY).chain
    first, second = Reader(), Reader()
    for reader in (first, second):
        tls._load(reader, KEY, chain)  # type: ignore[arg-type]
        assert reader.path.startswith("/memfd:")
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in reader.data
        assert pem(*chain) in reader.data
        assert not any(shape in reader.data for shape in shapes(KEY))
    assert len(first.password) == 64
    assert first.password != second.password
    assert first.data != second.data
