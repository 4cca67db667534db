"""E2EE v2 of the ACI specification: both suites, what fields are bound to, how it is negotiated, and its client.

Source: E2EE v2, sections 3 to 7. What it can't do: nothing binds ``X-Client-Pub-Key``, so whoever can change headers
between a client and the TEE can have an answer encrypted to himself; TLS that ends inside the TEE prevents that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec

from confide.seal.client import SealedCall, seal_call
from confide.seal.curves import X25519, Curve, Randomness
from confide.seal.ecies import Suite
from confide.seal.errors import (
    BadKey,
    CannotSeal,
    HeaderMissing,
    InvalidNonce,
    InvalidPublicKey,
    InvalidTimestamp,
    InvalidVersion,
    ModelKeyMismatch,
)
from confide.seal.fastcurve import best_secp256k1
from confide.seal.fields import ALL_PARTS, ENDPOINTS, Endpoint, Path, dotted
from confide.seal.service import Session
from confide.seal.terms import WINDOW, Head, ReplayMark, ServiceKey, Terms

VERSION: Final = "2"
X25519_SUITE: Final = "x25519-aes-256-gcm-hkdf-sha256"
SECP256K1_SUITE: Final = "secp256k1-aes-256-gcm-hkdf-sha256"
HEADERS: Final = ("x-e2ee-version", "x-client-pub-key", "x-model-pub-key", "x-e2ee-nonce", "x-e2ee-timestamp")

_encode = msgspec.json.Encoder().encode


def suite(algo: str) -> Suite:
    """A suite by its ``algo`` in a keyset.

    Raises:
        BadKey: an unknown one.
    """
    if algo == X25519_SUITE:
        return Suite(algo, X25519(), b"aci.e2ee.v2.x25519")
    if algo == SECP256K1_SUITE:
        return Suite(algo, best_secp256k1(), b"aci.e2ee.v2.secp256k1")
    raise BadKey(f"unknown suite {algo!r}")


def service_key(algo: str, secret: bytes) -> ServiceKey:
    """A key of this service from its 32 private bytes.

    Raises:
        BadKey: an unknown suite, or not a private key.
    """
    chosen = suite(algo)
    private = chosen.curve.load(secret)
    return ServiceKey(chosen, private, private.point)


@dataclass(frozen=True, slots=True)
class Binding:
    """Associated data in the canonical form of RFC 8785. Its members are written in that form's order."""

    algo: str
    nonce: str
    timestamp: int

    def allows(self, model: str) -> bool:
        """See :meth:`confide.seal.terms.Binding.allows`."""
        return True

    def request(self, model: str, path: Path) -> bytes:
        """See :meth:`confide.seal.terms.Binding.request`."""
        return b'{"algo":%s,"field":%s,"model":%s,"nonce":%s,"purpose":"aci.e2ee.request.v2","ts":%s}' % tuple(
            map(_encode, (self.algo, dotted(path), model, self.nonce, self.timestamp))
        )

    def response(self, model: str, head: Head, path: Path) -> bytes:
        """See :meth:`confide.seal.terms.Binding.response`."""
        return b'{"algo":%s,"field":%s,"id":%s,"model":%s,"nonce":%s,"purpose":"aci.e2ee.response.v2","ts":%s}' % tuple(
            map(_encode, (self.algo, dotted(path), head.id, model, self.nonce, self.timestamp))
        )


def terms(chosen: Suite, endpoint: Endpoint, nonce: str, timestamp: int) -> Terms:
    """The terms of one request."""
    return Terms(
        version=VERSION,
        algo=chosen.name,
        suite=chosen,
        endpoint=endpoint,
        binding=Binding(chosen.name, nonce, timestamp),
        parts=ALL_PARTS,
        new_key_per_field=True,
        hashes_wire=False,
    )


# The server's side ---------------------------------------------------------------------------------------------------


def accept(headers: Mapping[str, str], keys: Iterable[ServiceKey], endpoint: Endpoint, now: float) -> Session:
    """Check everything that the headers say.

    Args:
        headers: by lower-case name; at least one of :data:`HEADERS` is there.
        keys: the keys in the attested keyset.
        endpoint: where the request goes.
        now: Unix time.

    Raises:
        SealError: what is wrong.
    """
    if headers.get("x-e2ee-version", VERSION) != VERSION:
        raise InvalidVersion
    if missing := [name for name in HEADERS if name not in headers]:
        raise HeaderMissing(f"Missing for end-to-end encryption: {', '.join(missing)}.")
    nonce = headers["x-e2ee-nonce"]
    if not re.fullmatch("[0-9a-fA-F]{64}", nonce):
        raise InvalidNonce
    timestamp = read_timestamp(headers["x-e2ee-timestamp"], now)
    key = _find(keys, headers["x-model-pub-key"])
    client = read_client_key(key.curve, headers["x-client-pub-key"])
    return Session(terms(key.suite, endpoint, nonce, timestamp), key, client, _mark(key, nonce, timestamp))


def read_timestamp(text: str, now: float) -> int:
    """Unix seconds, close enough to now.

    Raises:
        InvalidTimestamp: they aren't.
    """
    if not re.fullmatch("[0-9]{1,15}", text) or abs(now - int(text)) > WINDOW:
        raise InvalidTimestamp
    return int(text)


def read_client_key(curve: Curve, text: str) -> bytes:
    """The point to which an answer will be sealed.

    Raises:
        InvalidPublicKey: it can't be.
    """
    try:
        return curve.point(curve.read(text))
    except BadKey:
        raise InvalidPublicKey from None


def _find(keys: Iterable[ServiceKey], text: str) -> ServiceKey:
    for key in keys:
        try:
            if key.curve.read(text) == key.identity:
                return key
        except BadKey:
            continue
    raise ModelKeyMismatch


def _mark(key: ServiceKey, nonce: str, timestamp: int) -> ReplayMark:
    """Without the client's key, which the specification has in it: nothing authenticates that key, and with it a
    captured request could be sent again under another one. It must be kept as long as the timestamp is accepted.
    """
    digest = sha256(b"aci.e2ee.v2\x00" + key.identity + bytes.fromhex(nonce)).hexdigest()
    return ReplayMark(digest, timestamp + WINDOW + 1)


# The client's side ---------------------------------------------------------------------------------------------------


def seal_request(
    body: bytes, path: str, algo: str, service_public_key: str, now: float, random: Randomness = os.urandom
) -> SealedCall:
    """Seal a request, with a new key pair for its answer.

    Args:
        body: the JSON of the request.
        path: the endpoint.
        algo: of the key, from the attested keyset.
        service_public_key: the key, from there.
        now: Unix time.
        random: a source of random bytes.

    Raises:
        BadKey: the service's key can't be used.
        CannotSeal: the request has nothing to encrypt, or the endpoint has no encryption.
    """
    endpoint = ENDPOINTS.get(path)
    if endpoint is None:
        raise CannotSeal(f"Encryption is not defined for {path}.")
    chosen = suite(algo)
    identity = chosen.curve.read(service_public_key)
    pair, nonce, timestamp = chosen.curve.generate(random), random(32).hex(), int(now)
    headers = {
        "X-E2EE-Version": VERSION,
        "X-Client-Pub-Key": pair.point.hex(),
        "X-Model-Pub-Key": identity.hex(),
        "X-E2EE-Nonce": nonce,
        "X-E2EE-Timestamp": str(timestamp),
    }
    agreed = terms(chosen, endpoint, nonce, timestamp)
    return seal_call(body, agreed, chosen.curve.point(identity), pair, headers, random)
