"""TLS to the keys of an attested keyset: looked at when the handshake ends, before any byte of a request is written.

The check is part of the handshake itself: a context gives sockets (and, for asyncio, the objects that stand for them)
whose handshake is complete only when the peer's key is a pinned one. So it holds for every connection that a pool
opens, for reconnects, and for whatever HTTP library is given the context.

A certificate that is not validated still proves its key: TLS itself verifies the server's signature.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from confide.client.errors import Misused, PinMismatch

UNREADABLE: Final = "in a certificate that can't be read"
Pins = Callable[[str], frozenset[str]]
"""The hex SHA-256 digests of the SubjectPublicKeyInfo that a host may show."""


def spki_sha256(certificate: bytes | None) -> str:
    """The digest of a DER certificate's SubjectPublicKeyInfo (RFC 5280, 4.1), as keysets list it, or
    :data:`UNREADABLE`, which no keyset can list."""
    try:
        key = x509.load_der_x509_certificate(certificate or b"").public_key()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        return UNREADABLE
    return hashlib.sha256(spki).hexdigest()


def plain_context(*, webpki: bool, ca_file: Path | None = None) -> ssl.SSLContext:
    """A context that looks at no pins: for the first connection, whose key the report has to name.

    Args:
        webpki: validate the certificate and its name against the public authorities.
        ca_file: against those in this PEM file instead.

    Raises:
        Misused: the file holds no authorities.
    """
    if not webpki:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is not None:
        context = _trusting(ca_file)
    else:
        context = httpx.create_ssl_context(trust_env=False)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _trusting(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as failed:  # ssl.SSLError is one
        raise Misused(f"{ca_file} holds no certificates of authorities: {failed.strerror or failed}") from None


def pinned_context(pins: Pins, *, webpki: bool, ca_file: Path | None = None) -> ssl.SSLContext:
    """A context whose handshakes end in :class:`PinMismatch` unless the peer's key is one of ``pins`` for its host.

    The other arguments and what they raise are those of :func:`plain_context`.
    """

    class PinnedSocket(ssl.SSLSocket):
        """What blocking clients get."""

        def do_handshake(self, block: bool = False) -> None:
            """Shake hands, then look at the key."""
            super().do_handshake(block)
            try:
                _check(pins, self.server_hostname, self.getpeercert(binary_form=True))
            except PinMismatch:
                self.close()
                raise

    class PinnedObject(ssl.SSLObject):
        """What asyncio gets."""

        def do_handshake(self) -> None:
            """Shake hands, then look at the key."""
            super().do_handshake()
            _check(pins, self.server_hostname, self.getpeercert(binary_form=True))

    context = plain_context(webpki=webpki, ca_file=ca_file)
    context.sslsocket_class = PinnedSocket
    context.sslobject_class = PinnedObject
    return context


def _check(pins: Pins, host: str | bytes | None, certificate: bytes | None) -> None:
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host or ""
    expected = pins(name)
    found = spki_sha256(certificate)
    if found not in expected:
        raise PinMismatch(name, found, expected)


def shown_key(response: httpx.Response) -> str | None:
    """The digest of the key that the connection of a response was made to; None without TLS, or when it is closed, so
    ask before the body is read."""
    stream: Any = response.extensions.get("network_stream")
    shown = None if stream is None else stream.get_extra_info("ssl_object")
    return None if shown is None else spki_sha256(shown.getpeercert(True))
