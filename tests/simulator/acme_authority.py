"""An authority that speaks ACME (RFC 8555) on a local port: it checks signatures, nonces, URLs, HTTP-01 and requests.

Written from the RFC, without the library that the client uses. One attribute breaks one thing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID


class Problem(Exception):
    """A refusal, as RFC 8555 section 6.7 words it."""

    def __init__(self, kind: str, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.document = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail, "status": status}
        self.status = status


class AcmeAuthority(ThreadingHTTPServer):
    """``directory`` is its URL; ``orders`` are the requests for certificates that it granted."""

    daemon_threads = True

    def __init__(self, http01_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = f"http://127.0.0.1:{self.server_port}"
        self.directory = f"{self.root}/directory"
        self.http01_port = http01_port
        self.challenge = "http-01"
        self.substitute: ec.EllipticCurvePrivateKey | None = None
        self.days = 90
        self.refusal: Problem | None = None
        self.agreed: list[dict[str, Any]] = []
        self.orders: list[x509.CertificateSigningRequest] = []
        self.nonces: set[str] = set()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
        self._accounts: dict[str, dict[str, str]] = {}
        self._tokens: dict[str, str] = {}
        self._state: dict[str, dict[str, Any]] = {}
        self._chains: dict[str, bytes] = {}

    def act(self, path: str, body: dict[str, str]) -> tuple[int, dict[str, str], object]:
        """Status, headers and JSON (or bytes) for a POST."""
        header = json.loads(unpadded(body["protected"]))
        if header["url"] != self.root + path:
            raise Problem("unauthorized", "the url in the JWS isn't the one of the request")
        if header["nonce"] not in self.nonces:
            raise Problem("badNonce", "never given or used before")
        self.nonces.discard(header["nonce"])
        jwk = header["jwk"] if path == "/account" else self._accounts[header["kid"]]
        check_signature(jwk, body)
        payload = json.loads(unpadded(body["payload"]) or b"null")
        if self.refusal:
            raise self.refusal
        step, _, number = path[1:].partition("/")
        return getattr(self, f"_{step}")(number, payload, jwk)

    def _account(self, _: str, payload: Any, jwk: dict[str, str]) -> tuple[int, dict[str, str], object]:
        if payload.get("termsOfServiceAgreed") is not True:
            raise Problem("userActionRequired", "agree first")
        self.agreed.append(payload)
        url = f"{self.root}/account/{len(self._accounts)}"
        self._accounts[url] = jwk
        return 201, {"Location": url}, {"status": "valid"}

    def _order(self, number: str, payload: Any, _: object) -> tuple[int, dict[str, str], object]:
        if payload is None:
            return 200, {}, self._state[number]
        number = str(len(self._state))
        for index, name in enumerate(payload["identifiers"]):
            self._tokens[f"{number}-{index}"] = secrets.token_urlsafe(24)
            self._state[f"{number}-{index}"] = {"status": "pending", "identifier": name}
        self._state[number] = {
            "status": "pending",
            "identifiers": payload["identifiers"],
            "authorizations": [f"{self.root}/authz/{number}-{i}" for i in range(len(payload["identifiers"]))],
            "finalize": f"{self.root}/finalize/{number}",
        }
        return 201, {"Location": f"{self.root}/order/{number}"}, self._state[number]

    def _authz(self, number: str, *_: object) -> tuple[int, dict[str, str], object]:
        return 200, {}, self._state[number] | {"challenges": [self._challenge_object(number)]}

    def _challenge_object(self, number: str) -> dict[str, object]:
        state = self._state[number]
        shown = {"type": self.challenge, "url": f"{self.root}/challenge/{number}", "token": self._tokens[number]}
        return shown | {"status": state["status"]} | ({"error": state["error"]} if "error" in state else {})

    def _challenge(self, number: str, _: object, jwk: dict[str, str]) -> tuple[int, dict[str, str], object]:
        token, state = self._tokens[number], self._state[number]
        url = f"http://127.0.0.1:{self.http01_port}/.well-known/acme-challenge/{token}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                said = answer.read().decode()
        except OSError as error:
            said = str(error)
        good = said == f"{token}.{thumbprint(jwk)}"
        state["status"] = "valid" if good else "invalid"
        if not good:
            state["error"] = Problem("unauthorized", f"{url} said {said!r}", 403).document
        return 200, {"Link": f'<{self.root}/authz/{number}>;rel="up"'}, self._challenge_object(number)

    def _finalize(self, number: str, payload: Any, _: object) -> tuple[int, dict[str, str], object]:
        order = self._state[number]
        if any(self._state[url.rpartition("/")[2]]["status"] != "valid" for url in order["authorizations"]):
            raise Problem("orderNotReady", "prove the names first", 403)
        request = x509.load_der_x509_csr(unpadded(payload["csr"]))
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        asked = {name["value"] for name in order["identifiers"]}
        if not request.is_signature_valid or set(names.get_values_for_type(x509.DNSName)) != asked:
            raise Problem("badCSR", "not for the names of the order")
        self.orders.append(request)
        self._chains[number] = self._issue(request)
        order |= {"status": "valid", "certificate": f"{self.root}/certificate/{number}"}
        return 200, {"Location": f"{self.root}/order/{number}"}, order

    def _certificate(self, number: str, *_: object) -> tuple[int, dict[str, str], object]:
        return 200, {}, self._chains[number]

    def _issue(self, request: x509.CertificateSigningRequest) -> bytes:
        key: Any = self.substitute.public_key() if self.substitute else request.public_key()
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self._name, x509.Name([]), key).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=self.days))
        certificate = builder.add_extension(names, critical=True).sign(self._key, hashes.SHA256())
        return certificate.public_bytes(Encoding.PEM)


class _Handler(BaseHTTPRequestHandler):
    server: AcmeAuthority

    def do_GET(self) -> None:
        root = self.server.root
        links = {"newNonce": "nonce", "newAccount": "account", "newOrder": "order"}
        self._answer(200, {}, {name: f"{root}/{path}" for name, path in links.items()})

    def do_HEAD(self) -> None:
        self._answer(200, {}, b"")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            answer = self.server.act(self.path, body)
        except Problem as problem:
            answer = (problem.status, {"Content-Type": "application/problem+json"}, problem.document)
        self._answer(*answer)

    def _answer(self, status: int, headers: dict[str, str], body: object) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.server.nonces.add(nonce := secrets.token_urlsafe(16))
        kind = "application/pem-certificate-chain" if isinstance(body, bytes) else "application/json"
        fixed = {"Content-Type": kind, "Content-Length": str(len(data)), "Replay-Nonce": nonce}
        self.send_response_only(status)
        for name, value in (fixed | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def acme_authority(http01_port: int) -> Iterator[AcmeAuthority]:
    """A running one."""
    with AcmeAuthority(http01_port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def check_signature(jwk: dict[str, str], body: dict[str, str]) -> None:
    """ES256 over the protected header and the payload."""
    x, y = (int.from_bytes(unpadded(jwk[name])) for name in "xy")
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    signature = unpadded(body["signature"])
    der = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    try:
        key.verify(der, f"{body['protected']}.{body['payload']}".encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Problem("malformed", "the signature is wrong") from None


def thumbprint(jwk: dict[str, str]) -> str:
    """RFC 7638."""
    text = json.dumps({name: jwk[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def unpadded(text: str) -> bytes:
    """Base64url as JOSE writes it."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
