"""TLS that ends in this workload: one key that stays, certificates that come and go over it.

The key is made in the workload, or released to it, and its digest is in the attested keyset: clients that check pin the
key and not the certificate. So a certificate may be self-signed, and may be replaced while connections go on.

No key is ever in a file in clear: see :func:`_load`.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import os
import secrets
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from confide.errors import ConfigError

DAY: Final = timedelta(days=1)
VALID: Final = 90 * DAY
RENEWED: Final = 30 * DAY
"""A self-signed certificate has 60 days left when the next one takes over."""

LOCAL: Final = ("localhost", "127.0.0.1", "::1")
"""What a self-signed certificate names where no domains are set."""

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; those of TLS 1.3 are all good."""

_MOST_BYTES: Final = 256 * 1024
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_COMMON_NAME: Final = 64

Chain = tuple[x509.Certificate, ...]
"""The server's certificate first, then each one's issuer."""


class ServerTls:
    """The certificate in a context. Call :meth:`refresh` every few seconds.

    Args:
        context: of :func:`server_context`; it can't serve before.
        key: the workload's TLS key.
        domains: host names that the certificate is for.
        certificate: a PEM file with a certificate that was issued for ``key`` and its chain; self-signed without one.
        interim: be self-signed until ``certificate`` holds something to serve.
        clock: Unix time.

    Raises:
        ConfigError: the file can't be served.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        key: ec.EllipticCurvePrivateKey,
        *,
        domains: Sequence[str] = (),
        certificate: Path | None = None,
        interim: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.context: Final = context
        self._key: Final = key
        self._clock: Final = clock
        self._source: Final = _source(key, domains, certificate, interim=interim)
        self._chain: Chain = ()
        self.refresh()

    def refresh(self) -> None:
        """Serve new connections with the certificate of now. Connections that are open keep theirs.

        Raises:
            ConfigError: the file can't be served; said once for each content. The certificate before stays in use.
        """
        chain = self._source.change(self._clock())
        if chain is not None:
            _load(self.context, self._key, chain)
            self._chain = chain

    @property
    def chain(self) -> Chain:
        """What new connections are shown."""
        return self._chain


def server_context() -> ssl.SSLContext:
    """TLS 1.2 and 1.3, HTTP/1.1 only, no tickets: every TLS 1.3 connection proves anew that the server has the key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def spki_sha256(key: ec.EllipticCurvePublicKey) -> str:
    """What a keyset lists for a TLS key."""
    return hashlib.sha256(_spki(key)).hexdigest()


def csr(key: ec.EllipticCurvePrivateKey, domains: Sequence[str]) -> bytes:
    """A request, in PEM, for a certificate of this key. What comes back is good for ``tls_certificate``.

    Raises:
        ConfigError: no domain is set.
    """
    if not domains:
        raise ConfigError("A certificate is for names: set tls_domains.")
    name = [x509.NameAttribute(NameOID.COMMON_NAME, domains[0])] if len(domains[0]) <= _COMMON_NAME else []
    builder = x509.CertificateSigningRequestBuilder(x509.Name(name)).add_extension(_names(domains), critical=not name)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


# Where certificates come from ----------------------------------------------------------------------------------------


class _Source(Protocol):
    def change(self, now: float) -> Chain | None:
        """The chain to serve from now on; None while it is the same as before."""
        ...


class _SelfSigned:
    """A new certificate in every period.

    Periods are counted from the Unix epoch and signatures are deterministic, so that workers and replicas with one key
    show one certificate at any time.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, domains: Sequence[str]) -> None:
        self._key = key
        self._domains = domains or LOCAL
        self._period: int | None = None

    def change(self, now: float) -> Chain | None:
        period = int(now // RENEWED.total_seconds())
        if period == self._period:
            return None
        self._period = period
        return (self_signed(self._key, self._domains, datetime.fromtimestamp(0, UTC) + period * RENEWED),)


class _File:
    """What an authority issued, read anew whenever the file holds something else."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, domains: Sequence[str], path: Path) -> None:
        self._key = key
        self._domains = domains
        self._path = path
        self._seen: bytes | None = None

    def change(self, now: float) -> Chain | None:
        data, problem = self._read()
        if data == self._seen:
            return None
        self._seen = data
        try:
            return checked_chain(data, self._key.public_key(), self._domains, datetime.fromtimestamp(now, UTC))
        except ConfigError as error:
            raise ConfigError(f"tls_certificate {self._path}: {problem or error}") from None

    def _read(self) -> tuple[bytes, str]:
        try:
            with self._path.open("rb") as file:
                return file.read(_MOST_BYTES), ""
        except OSError as error:
            return b"", f"it can't be read: {error.strerror}"


class _Interim:
    """Self-signed until the file holds something to serve."""

    def __init__(self, file: _File, own: _SelfSigned) -> None:
        self._file = file
        self._own = own
        self._issued = False

    def change(self, now: float) -> Chain | None:
        try:
            chain = self._file.change(now)
        except ConfigError:
            if self._issued:
                raise
            chain = None
        self._issued = self._issued or chain is not None
        return chain if self._issued else self._own.change(now)


def _source(
    key: ec.EllipticCurvePrivateKey, domains: Sequence[str], certificate: Path | None, *, interim: bool
) -> _Source:
    own = _SelfSigned(key, domains)
    if certificate is None:
        return own
    file = _File(key, domains, certificate)
    return _Interim(file, own) if interim else file


def self_signed(key: ec.EllipticCurvePrivateKey, domains: Sequence[str], begin: datetime) -> x509.Certificate:
    """A certificate that the key signs for itself: the same bytes for the same arguments."""
    public = key.public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "confide")])
    serial = hashlib.sha256(_spki(public) + begin.isoformat().encode() + "\0".join(domains).encode()).digest()[:16]
    usage = x509.KeyUsage(True, *[False] * 8)
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    return (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=public)
        .serial_number(int.from_bytes(serial) >> 1 | 1)
        .not_valid_before(begin - DAY)  # for clients whose clock is late
        .not_valid_after(begin + VALID)
        .add_extension(_names(domains), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )


def checked_chain(data: bytes, key: ec.EllipticCurvePublicKey, domains: Sequence[str], now: datetime) -> Chain:
    """The certificates of a PEM text, if a server with this key can serve them to clients who ask for these names.

    1. It holds no private key: ours was never in a file.
    2. It holds certificates.
    3. The first one is for our key.
    4. Each is signed by the one after it.
    5. The first one is valid now.
    6. It names every domain.

    What clients still owe: whether they trust the last one's issuer.

    Raises:
        ConfigError: one of these doesn't hold.
    """
    if b"PRIVATE KEY" in data:  # 1
        raise ConfigError("it holds a private key; only certificates belong there")
    try:
        chain = tuple(x509.load_pem_x509_certificates(data))  # 2
    except ValueError:
        raise ConfigError("it holds no certificates in PEM") from None
    _check_key(chain[0], key)  # 3
    _check_order(chain)  # 4
    _check_dates(chain[0], now)  # 5
    _check_names(chain[0], domains)  # 6
    return chain


def _check_key(certificate: x509.Certificate, key: ec.EllipticCurvePublicKey) -> None:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if spki != _spki(key):
        raise ConfigError(
            f"the certificate is for another key: got SPKI SHA-256 {hashlib.sha256(spki).hexdigest()}, this workload "
            f"has {spki_sha256(key)}. Have one issued for what `confide csr` prints in it."
        )


def _check_order(chain: Chain) -> None:
    for number, (certificate, issuer) in enumerate(pairwise(chain), 1):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, TypeError, ValueError):
            raise ConfigError(f"certificate {number} isn't signed by certificate {number + 1}") from None


def _check_dates(certificate: x509.Certificate, now: datetime) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now <= end:
        raise ConfigError(f"the certificate is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, not now")


def _check_names(certificate: x509.Certificate, domains: Sequence[str]) -> None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        names = x509.SubjectAlternativeName([])
    hosts = {host.lower() for host in names.get_values_for_type(x509.DNSName)}
    held = hosts | {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    for domain in domains:
        if domain not in held and f"*.{domain.partition('.')[2]}" not in hosts:
            raise ConfigError(f"the certificate doesn't name {domain}; it names {', '.join(sorted(held)) or 'nothing'}")


def _names(domains: Sequence[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_name(domain) for domain in domains])


def _name(domain: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(domain))
    except ValueError:
        return x509.DNSName(domain)


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# Into the context -----------------------------------------------------------------------------------------------------


def _load(context: ssl.SSLContext, key: ec.EllipticCurvePrivateKey, chain: Chain) -> None:
    """Give a context its key and certificates.

    Python's ``ssl`` takes them from files only. This file is in memory, has no name, can't be changed, ends with this
    call, and holds the key encrypted under a password that ends with this call as well.
    """
    password = secrets.token_hex(32)
    certificates = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
    descriptor = os.memfd_create("confide-tls", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(descriptor, certificates + encrypted)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=password)
    finally:
        os.close(descriptor)
