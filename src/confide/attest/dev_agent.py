"""A development dstack guest agent on a unix socket, for clients that talk to dstack. DEVELOPMENT - NOT HARDWARE.

It answers ``GetQuote``, ``GetKey``, ``GetTlsKey``, ``Info``, ``EmitEvent`` and ``Version`` in the shapes of dstack OS
0.5, backed by a :class:`~confide.attest.dev.DevMachine`. There is no key provider behind it, so the signature chain
of a key is empty.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from confide.attest import der
from confide.attest.base import REPORT_DATA_SIZE, KeyAlgorithm
from confide.attest.dev import DevMachine
from confide.attest.dev_pki import pem

VERSION: Final = "0.5.0-development"
_MOST_HEAD: Final = 16 << 10
_MOST_BODY: Final = 1 << 20
_HEAD: Final = b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_QUOTE_OID: Final = x509.ObjectIdentifier("1.3.6.1.4.1.62397.1.1")
_EVENT_LOG_OID: Final = x509.ObjectIdentifier("1.3.6.1.4.1.62397.1.2")
_USAGES: Final = (
    ("usage_server_auth", ExtendedKeyUsageOID.SERVER_AUTH),
    ("usage_client_auth", ExtendedKeyUsageOID.CLIENT_AUTH),
)
_ALGORITHMS: Final[dict[str, KeyAlgorithm]] = {
    "": "secp256k1",
    "k256": "secp256k1",
    "secp256k1": "secp256k1",
    "ed25519": "ed25519",
}

Arguments = Mapping[str, Any]


class Refused(Exception):
    """The request is wrong; the text is for the client."""


class DevAgent:
    """The methods of the agent: JSON values in, JSON values out."""

    def __init__(self, machine: DevMachine) -> None:
        self._machine = machine
        self._methods: dict[str, Callable[[Arguments], dict[str, Any]]] = {
            "GetQuote": self._get_quote,
            "GetKey": self._get_key,
            "GetTlsKey": self._get_tls_key,
            "Info": lambda _: machine.info(),
            "EmitEvent": self._emit_event,
            "Version": lambda _: {"version": VERSION, "rev": "development"},
        }

    def answer(self, method: str, arguments: Arguments) -> dict[str, Any]:
        """The answer of one method."""
        if method not in self._methods:
            raise Refused(f"there is no method {method}")
        return self._methods[method](arguments)

    def _get_quote(self, arguments: Arguments) -> dict[str, Any]:
        given = _hex(arguments, "report_data")
        if not 0 < len(given) <= REPORT_DATA_SIZE:
            raise Refused(f"report_data is 1 to {REPORT_DATA_SIZE} bytes long")
        report_data = given.ljust(REPORT_DATA_SIZE, b"\0")
        return {
            "quote": self._machine.quote(report_data).hex(),
            "event_log": self._machine.event_log(),
            "report_data": report_data.hex(),
            "vm_config": self._machine.vm_config(),
        }

    def _get_key(self, arguments: Arguments) -> dict[str, Any]:
        name = _text(arguments, "algorithm")
        if name not in _ALGORITHMS:
            raise Refused(f"there is no algorithm {name}")
        key = self._machine.derive(_text(arguments, "path"), _ALGORITHMS[name])
        return {"key": key.hex(), "signature_chain": []}

    def _get_tls_key(self, arguments: Arguments) -> dict[str, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _tls_certificate(self._machine, key, arguments)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pki = self._machine.pki
        chain = [certificate, pki.pck_ca.certificate, pki.tdx_root.certificate]
        return {"key": private.decode(), "certificate_chain": [pem([each]).decode() for each in chain]}

    def _emit_event(self, arguments: Arguments) -> dict[str, Any]:
        name = _text(arguments, "event")
        if not name:
            raise Refused("an event has a name")
        self._machine.emit(name, _hex(arguments, "payload"))
        return {}


async def serve(machine: DevMachine, path: Path) -> asyncio.Server:
    """Start the agent. The socket is for this user only."""
    agent = DevAgent(machine)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
                while await _exchange(agent, reader, writer):
                    pass
        finally:
            writer.close()

    return await asyncio.start_unix_server(connected, sock=_bound(path), limit=_MOST_HEAD)


def _bound(path: Path) -> socket.socket:
    """A socket at this path, private before anybody can connect; a stale one is replaced."""
    if path.is_socket():
        path.unlink()
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(str(path))
        path.chmod(0o600)
    except OSError:
        bound.close()
        raise
    return bound


async def _exchange(agent: DevAgent, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """One request and its answer; whether the connection goes on."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request, *lines = head.split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    size = int(headers.get("content-length", "0"))
    if not 0 <= size <= _MOST_BODY:
        return False
    status, answer = _answer(agent, request, await reader.readexactly(size))
    body = msgspec.json.encode(answer)
    writer.write(_HEAD % (status.value, status.phrase.encode(), len(body)) + body)
    await writer.drain()
    return headers.get("connection", "").lower() != "close"


def _answer(agent: DevAgent, request: str, body: bytes) -> tuple[HTTPStatus, dict[str, Any]]:
    words = request.split(" ")
    method = words[1].rpartition("/")[2] if len(words) == 3 else ""
    try:
        return HTTPStatus.OK, agent.answer(method, msgspec.json.decode(body or b"{}", type=dict[str, Any]))
    except (Refused, msgspec.MsgspecError, ValueError, RecursionError) as failed:
        return HTTPStatus.BAD_REQUEST, {"error": str(failed)}


def _tls_certificate(machine: DevMachine, key: ec.EllipticCurvePrivateKey, arguments: Arguments) -> x509.Certificate:
    now = datetime.now(UTC)
    issuer = machine.pki.pck_ca
    subject = x509.NameAttribute(NameOID.COMMON_NAME, _text(arguments, "subject") or "development")
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([subject]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(arguments, "not_before", now - timedelta(hours=1)))
        .not_valid_after(_time(arguments, "not_after", now + timedelta(days=365)))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    names = [x509.DNSName(name) for name in arguments.get("alt_names") or [] if isinstance(name, str)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    usages = [oid for flag, oid in _USAGES if arguments.get(flag)]
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if arguments.get("usage_ra_tls"):
        for extension in _ra_tls(machine, key):
            builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def _ra_tls(machine: DevMachine, key: ec.EllipticCurvePrivateKey) -> list[x509.UnrecognizedExtension]:
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    quote = machine.quote(hashlib.sha512(b"ratls-cert:" + spki).digest())
    return [
        x509.UnrecognizedExtension(_QUOTE_OID, der.octets(quote)),
        x509.UnrecognizedExtension(_EVENT_LOG_OID, der.octets(machine.event_log().encode())),
    ]


def _time(arguments: Arguments, name: str, otherwise: datetime) -> datetime:
    value = arguments.get(name)
    if not isinstance(value, int):
        return otherwise
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise Refused(f"{name} is no time") from None


def _text(arguments: Arguments, name: str) -> str:
    value = arguments.get(name, "")
    if not isinstance(value, str):
        raise Refused(f"{name} is text")
    return value


def _hex(arguments: Arguments, name: str) -> bytes:
    try:
        return bytes.fromhex(_text(arguments, name))
    except ValueError:
        raise Refused(f"{name} is hexadecimal") from None
