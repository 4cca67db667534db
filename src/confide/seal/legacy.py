"""The older encryption, chosen by ``X-Signing-Algo``: version 1 without associated data, version 2 with it.

Source: the public proxy that defined it, Dstack-TEE/vllm-proxy (``docs/e2ee_protocol.md`` and its own test clients).
The service's signing keys are also the keys that clients encrypt to. Version 1 binds a field to nothing and can be
sent again; a server may leave it out. Where the text of an associated datum could be read in two ways, it is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from confide.seal.aci_v2 import read_client_key, read_timestamp
from confide.seal.client import SealedCall, seal_call
from confide.seal.curves import PrivateKey, Randomness, X25519Key
from confide.seal.ecies import Suite
from confide.seal.edwards import Ed25519AsX25519, agreement_secret
from confide.seal.errors import (
    BadKey,
    HeaderMissing,
    InvalidNonce,
    InvalidPublicKey,
    InvalidSigningAlgo,
    InvalidVersion,
    ModelKeyMismatch,
    UnsupportedEndpoint,
)
from confide.seal.fastcurve import best_secp256k1
from confide.seal.fields import ENDPOINTS, TEXT_PARTS, Endpoint, Path, dotted
from confide.seal.service import Session
from confide.seal.terms import WINDOW, Head, ReplayMark, ServiceKey, Terms
from confide.seal.terms import Binding as AnyBinding

Algo = Literal["ecdsa", "ed25519"]
KEY_HEADERS: Final = ("x-signing-algo", "x-client-pub-key", "x-model-pub-key")
CHAT: Final = ENDPOINTS["/v1/chat/completions"]


def suite(algo: str) -> Suite:
    """A suite by its name in ``X-Signing-Algo``.

    Raises:
        BadKey: an unknown one.
    """
    if algo == "ecdsa":
        return Suite(algo, best_secp256k1(), b"ecdsa_encryption")
    if algo == "ed25519":
        return Suite(algo, Ed25519AsX25519(), b"ed25519_encryption")
    raise BadKey(f"unknown algorithm {algo!r}")


def service_key(algo: Algo, secret: bytes) -> ServiceKey:
    """A signing key of this service, from its 32 private bytes (for Ed25519: the seed).

    Raises:
        BadKey: not a private key.
    """
    chosen = suite(algo)
    private, identity = _load(chosen, secret)
    return ServiceKey(chosen, private, identity)


def _load(chosen: Suite, secret: bytes) -> tuple[PrivateKey, bytes]:
    """The key to agree with, and its public half as headers have it."""
    if chosen.name == "ecdsa":
        private = chosen.curve.load(secret)
        return private, private.point
    if len(secret) != 32:
        raise BadKey("an Ed25519 seed has 32 bytes")
    public = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    return X25519Key(agreement_secret(secret)), public


@dataclass(frozen=True, slots=True)
class NoBinding:
    """Version 1: a field may stand anywhere."""

    def allows(self, model: str) -> bool:
        """Every model."""
        return True

    def request(self, model: str, path: Path) -> None:
        """Nothing."""

    def response(self, model: str, head: Head, path: Path) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Version 2: text with ``|`` between its members, so that none of them may contain one."""

    algo: str
    nonce: str
    timestamp: int

    def allows(self, model: str) -> bool:
        """See :meth:`confide.seal.terms.Binding.allows`."""
        return "|" not in model

    def request(self, model: str, path: Path) -> bytes:
        """See :meth:`confide.seal.terms.Binding.request`."""
        part = path[3] if len(path) > 3 else "-"
        return self._text("req", f"model={model}|m={path[1]}|c={part}")

    def response(self, model: str, head: Head, path: Path) -> bytes:
        """See :meth:`confide.seal.terms.Binding.response`. The choice is its ``index``, as the clients have it."""
        choice, rest = ("-", path) if path[0] != "choices" or len(path) < 3 else (str(path[1]), path[2:])
        if rest[0] in ("message", "delta") and len(rest) > 1:
            rest = rest[1:]
        return self._text("resp", f"model={head.model}|id={head.id}|choice={choice}|field={dotted(rest)}")

    def _text(self, way: str, middle: str) -> bytes:
        return f"v2|{way}|algo={self.algo}|{middle}|n={self.nonce}|ts={self.timestamp}".encode()


def terms(version: str, chosen: Suite, binding: AnyBinding) -> Terms:
    """The terms of one request."""
    return Terms(
        version=version,
        algo=chosen.name,
        suite=chosen,
        endpoint=CHAT,
        binding=binding,
        parts=TEXT_PARTS,
        new_key_per_field=False,
        hashes_wire=True,
    )


# The server's side ---------------------------------------------------------------------------------------------------


def accept(
    headers: Mapping[str, str], keys: Iterable[ServiceKey], versions: frozenset[str], endpoint: Endpoint, now: float
) -> Session:
    """Check everything that the headers say.

    Args:
        headers: by lower-case name; ``x-signing-algo`` is there.
        keys: the signing keys of this service.
        versions: the versions that it offers, of ``"1"`` and ``"2"``.
        endpoint: where the request goes.
        now: Unix time.

    Raises:
        SealError: what is wrong.
    """
    if endpoint is not CHAT:
        raise UnsupportedEndpoint
    if missing := [name for name in KEY_HEADERS if name not in headers]:
        raise HeaderMissing(f"Missing for end-to-end encryption: {', '.join(missing)}.")
    algo = headers["x-signing-algo"].strip().lower()
    if algo not in ("ecdsa", "ed25519"):
        raise InvalidSigningAlgo
    version = _version(headers)
    if version not in versions:
        raise InvalidVersion
    key = _find([key for key in keys if key.suite.name == algo], headers["x-model-pub-key"])
    client = read_client_key(key.curve, headers["x-client-pub-key"])
    if version == "1":
        return Session(terms(version, key.suite, NoBinding()), key, client, None)
    nonce = _nonce(headers["x-e2ee-nonce"])
    timestamp = read_timestamp(headers["x-e2ee-timestamp"], now)
    bound = terms(version, key.suite, Binding(algo, nonce, timestamp))
    return Session(bound, key, client, _mark(key, nonce, timestamp))


def _version(headers: Mapping[str, str]) -> str:
    """Version 2 where it is asked for, or where its two headers are; half of them is an error, never version 1."""
    asked = headers.get("x-e2ee-version")
    bound = [name for name in ("x-e2ee-nonce", "x-e2ee-timestamp") if name in headers]
    if asked not in (None, "1", "2"):
        raise InvalidVersion
    if len(bound) == 1 or (asked == "2" and not bound):
        raise HeaderMissing("X-E2EE-Nonce and X-E2EE-Timestamp are needed together.")
    return "2" if bound else "1"


def _find(keys: list[ServiceKey], text: str) -> ServiceKey:
    for key in keys:
        try:
            if key.curve.read(text) == key.identity:
                return key
        except BadKey:
            raise InvalidPublicKey from None
    raise ModelKeyMismatch


def _nonce(text: str) -> str:
    if not re.fullmatch(r"[!-{}~]{16,256}", text):
        raise InvalidNonce("X-E2EE-Nonce must be 16 to 256 printable characters without spaces and '|'.")
    return text


def _mark(key: ServiceKey, nonce: str, timestamp: int) -> ReplayMark:
    """With the timestamp: a nonce may have sixteen characters, and the protocol's own clients make it from the time."""
    digest = sha256(b"legacy.e2ee.v2\x00%b%d\x00%b" % (key.identity, timestamp, nonce.encode())).hexdigest()
    return ReplayMark(digest, timestamp + WINDOW + 1)


# The client's side ---------------------------------------------------------------------------------------------------


def seal_request(
    body: bytes,
    algo: Algo,
    service_public_key: str,
    now: float,
    *,
    version: Literal["1", "2"] = "2",
    random: Randomness = os.urandom,
) -> SealedCall:
    """Seal a chat request, with a new key pair for its answer.

    Args:
        body: the JSON of the request.
        algo: of the key.
        service_public_key: ``signing_public_key`` of the attestation report.
        now: Unix time.
        version: which of the two.
        random: a source of random bytes.

    Raises:
        BadKey: the service's key can't be used.
        CannotSeal: the request has nothing to encrypt, or can't be bound to its model.
    """
    chosen = suite(algo)
    identity = chosen.curve.read(service_public_key)
    pair, public = _generate(chosen, random)
    headers = {"X-Signing-Algo": algo, "X-Client-Pub-Key": _short(public), "X-Model-Pub-Key": _short(identity)}
    binding: AnyBinding = NoBinding()
    if version == "2":
        nonce, timestamp = random(32).hex(), int(now)
        headers |= {"X-E2EE-Version": "2", "X-E2EE-Nonce": nonce, "X-E2EE-Timestamp": str(timestamp)}
        binding = Binding(algo, nonce, timestamp)
    return seal_call(body, terms(version, chosen, binding), chosen.curve.point(identity), pair, headers, random)


def _generate(chosen: Suite, random: Randomness) -> tuple[PrivateKey, bytes]:
    while True:
        try:
            return _load(chosen, random(32))
        except BadKey:
            continue  # one time in 2**128


def _short(public: bytes) -> str:
    """A point without the ``04`` in front, as reports give it."""
    return (public[1:] if len(public) == 65 else public).hex()
