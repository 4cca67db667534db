"""Cases of secp256k1 for ``make_wire.py``: recovered keys, points in all encodings, shared points; and what is none.

Nothing of the package is used here. What is right comes from libsecp256k1 (``coincurve``) and, for agreement, from
OpenSSL (``cryptography``); what is refused is written by hand.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from typing import Any

import coincurve
from cryptography.hazmat.primitives.asymmetric import ec

Outcome = dict[str, Any]
FIELD = 2**256 - 2**32 - 977
ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
GENERATOR_X = 0x79BE667E_F9DCBBAC_55A06295_CE870B07_029BFCDB_2DCE28D9_59F2815B_16F81798
DIGEST = hashlib.sha256(b"digest").digest()
X_OF_1 = pow(1 - 7, (FIELD + 2) // 9, FIELD)
"""The x of a point whose y is 1: a cube root of y^2 - 7."""
SECRETS = {"1": 1, "2": 2, "0xac...": int("ac" * 32, 16), "half the order": ORDER // 2, "the order less 1": ORDER - 1}
NO_SECRETS = {"0": bytes(32), "the order": ORDER.to_bytes(32), "of ones": b"\xff" * 32, "of 31 bytes": b"\1" * 31}


def key_of(number: int) -> coincurve.PrivateKey:
    return coincurve.PrivateKey(number.to_bytes(32))


def point_of(number: int, *, compressed: bool = False) -> bytes:
    return bytes(key_of(number).public_key.format(compressed=compressed))


def spelled(r: int, s: int, which: int = 0) -> bytes:
    return r.to_bytes(32) + s.to_bytes(32) + bytes([which])


def text(call: str, **members: bytes | bool) -> bytes:
    """An input: what is asked, and of what."""
    shown = {name: value.hex() if isinstance(value, bytes) else value for name, value in members.items()}
    return json.dumps({"call": call, **shown}).encode()


def wrong(reason: str, error: str = "MalformedEvidence") -> Outcome:
    return {"error": error, "reason": reason}


def cases() -> list[tuple[str, bytes, Outcome]]:
    """Every case: its name, its input, what must come of it."""
    return [*recovered(), *unrecoverable(), *points(), *agreed()]


def drawn(number: int, chosen: random.Random) -> Iterator[tuple[str, bytes, Outcome]]:
    """Cases of any numbers: a signature, one that perhaps nobody can have made, an agreement."""
    secret, other, digest = chosen.randrange(1, ORDER), chosen.randrange(1, ORDER), chosen.randbytes(32)
    signature = key_of(secret).sign_recoverable(digest, hasher=None)
    anybody = spelled(chosen.randrange(1, ORDER), chosen.randrange(1, ORDER), chosen.randrange(2))
    for name, one in {"signed": signature, "of anybody": anybody}.items():
        yield f"{name} {number}", text("recover", signature=one, digest=digest, low_s=False), found(one, digest)
    yield f"agreed {number}", text("agree", secret=secret.to_bytes(32), point=point_of(other)), shared(secret, other)


def found(signature: bytes, digest: bytes) -> Outcome:
    """The key that libsecp256k1 recovers, if any."""
    try:
        key = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except ValueError:
        return wrong("none")
    return {"ok": {"key": key.format(compressed=False)[1:].hex()}}


def shared(secret: int, other: int) -> Outcome:
    """What OpenSSL agrees on."""
    peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), point_of(other))
    made = ec.derive_private_key(secret, ec.SECP256K1()).exchange(ec.ECDH(), peer)
    return {"ok": {"own": point_of(secret).hex(), "shared": made.hex()}}


# Signatures ----------------------------------------------------------------------------------------------------------


def recovered() -> Iterator[tuple[str, bytes, Outcome]]:
    def good(name: str, signature: bytes, digest: bytes = DIGEST, *, low_s: bool = False) -> Any:
        given = text("recover", signature=signature, digest=digest, low_s=low_s)
        return f"recover: {name}", given, found(signature[:64] + bytes([signature[64] % 27]), digest)

    for name, secret in SECRETS.items():
        yield good(f"signed by {name}", key_of(secret).sign_recoverable(DIGEST, hasher=None), low_s=True)
    signature = key_of(7).sign_recoverable(DIGEST, hasher=None)
    yield good("Ethereum's recovery id", signature[:64] + bytes([signature[64] + 27]), low_s=True)
    yield good("s above half the order", turned(signature))
    for name, digest in {"zeros": bytes(32), "the order": ORDER.to_bytes(32), "ones": b"\xff" * 32}.items():
        yield good(f"over {name}", key_of(7).sign_recoverable(digest, hasher=None), digest)
    for which in (0, 1):
        yield good(f"R is the generator or its opposite, {which}", spelled(GENERATOR_X, 12345, which))
    small = next(r for r in range(1, 100) if is_coordinate(r + ORDER))
    for which in (2, 3):
        yield good(f"x of R is r and the order, {which}", spelled(small, 5, which))


def turned(signature: bytes) -> bytes:
    """The other spelling: s from the upper half."""
    return spelled(int.from_bytes(signature[:32]), ORDER - int.from_bytes(signature[32:64]), signature[64] ^ 1)


def y_of(x: int) -> int:
    """One of both."""
    return pow(x**3 + 7, (FIELD + 1) // 4, FIELD)


def is_coordinate(x: int) -> bool:
    return pow(x**3 + 7, (FIELD - 1) // 2, FIELD) == 1


def unrecoverable() -> Iterator[tuple[str, bytes, Outcome]]:
    def bad(name: str, signature: bytes, reason: str, digest: bytes = DIGEST, *, low_s: bool = False) -> Any:
        given = text("recover", signature=signature, digest=digest, low_s=low_s)
        return f"recover: {name}", given, wrong(reason)

    signature = key_of(7).sign_recoverable(DIGEST, hasher=None)
    sizes, spans = (
        "a signature of {} bytes over {}; 65 over 32 are recoverable",
        "a signature whose r or s is out of range",
    )
    yield bad("no bytes", b"", sizes.format(0, 32))
    yield bad("a byte less", signature[:64], sizes.format(64, 32))
    yield bad("a byte more", signature + b"\0", sizes.format(66, 32))
    yield bad("a longer digest", signature, sizes.format(65, 33), DIGEST + b"\0")
    yield bad("a shorter digest", signature, sizes.format(65, 20), DIGEST[:20])
    for name, r, s in (
        ("r is 0", 0, 1),
        ("s is 0", 1, 0),
        ("r is the order", ORDER, 1),
        ("s is the order", 1, ORDER),
        ("r is of ones", 2**256 - 1, 1),
        ("s is of ones", 1, 2**256 - 1),
    ):
        yield bad(name, spelled(r, s), spans)
    for which in (4, 26, 31, 255):
        yield bad(f"recovery id {which}", spelled(1, 1, which), f"a signature whose recovery id is {which}")
    coordinate = "a signature whose r is no coordinate of the curve with this recovery id"
    yield bad("r and the order are above the prime", spelled(ORDER - 1, 1, 2), coordinate)
    yield bad("r is the x of no point", spelled(5, 1), "a number that is the x of no point of secp256k1")
    low = "a signature whose s is above half the order"
    yield bad("s above half the order, where that is refused", turned(signature), low, low_s=True)
    infinite = "a signature that no key can have made over this digest"
    yield bad("the key would be at infinity", spelled(GENERATOR_X, int.from_bytes(DIGEST) % ORDER), infinite)


# Points --------------------------------------------------------------------------------------------------------------


def points() -> Iterator[tuple[str, bytes, Outcome]]:
    def bad(name: str, point: bytes, reason: str) -> Any:
        return f"decode: {name}", text("decode", point=point), wrong(reason)

    for name, secret in list(SECRETS.items())[2:4]:
        whole, short = point_of(secret), point_of(secret, compressed=True)
        for form, data in {"compressed": short, "uncompressed": whole, "bare": whole[1:]}.items():
            outcome = {"point": whole[1:].hex(), "compressed": short.hex()}
            yield f"decode: {form}, of {name}", text("decode", point=data), {"ok": outcome}
    whole = point_of(7)
    size, off = (
        "a public key of {} bytes that is no point of secp256k1",
        "a public key that is not on the curve secp256k1",
    )
    yield bad("no bytes", b"", size.format(0))
    yield bad("at infinity", b"\0", size.format(1))
    yield bad("33 zeros", bytes(33), size.format(33))
    yield bad("a compressed one of an unknown kind", b"\5" + whole[1:33], size.format(33))
    yield bad("hybrid", bytes([6 + whole[64] % 2]) + whole[1:], size.format(65))
    yield bad("a byte less", whole[:-1], off)
    yield bad("a byte more", whole + b"\0", size.format(66))
    yield bad("x is the prime", b"\2" + FIELD.to_bytes(32), "a public key whose x is out of range")
    yield bad("x of no point", b"\3" + (5).to_bytes(32), "a number that is the x of no point of secp256k1")
    yield bad("zeros", bytes(64), off)
    yield bad("a bit of y", whole[:64] + bytes([whole[64] ^ 1]), off)
    root = y_of(1)
    yield bad("x and the prime, of a point", b"\4" + (1 + FIELD).to_bytes(32) + root.to_bytes(32), off)
    yield bad("y and the prime, of a point", X_OF_1.to_bytes(32) + (1 + FIELD).to_bytes(32), off)
    yield bad("y of ones", whole[:33] + b"\xff" * 32, off)


# Agreement -----------------------------------------------------------------------------------------------------------


def agreed() -> Iterator[tuple[str, bytes, Outcome]]:
    for name, secret in SECRETS.items():
        given = text("agree", secret=secret.to_bytes(32), point=point_of(0x1234567))
        yield f"agree: with {name}", given, shared(secret, 0x1234567)
    whole = point_of(7)
    for name, raw in NO_SECRETS.items():
        given = text("agree", secret=raw, point=whole)
        yield f"agree: a secret {name}", given, wrong("not a secp256k1 private key", "BadKey")
    for name, point, reason in (
        ("compressed", point_of(7, compressed=True), "not an uncompressed point"),
        ("bare", whole[1:], "not an uncompressed point"),
        ("hybrid", bytes([6 + whole[64] % 2]) + whole[1:], "not an uncompressed point"),
        ("at infinity", b"\0", "not an uncompressed point"),
        ("zeros", b"\4" + bytes(64), "not on the curve"),
        ("off the curve", whole[:64] + bytes([whole[64] ^ 1]), "not on the curve"),
        ("x and the prime", b"\4" + (1 + FIELD).to_bytes(32) + y_of(1).to_bytes(32), "not on the curve"),
        ("y and the prime", b"\4" + X_OF_1.to_bytes(32) + (1 + FIELD).to_bytes(32), "not on the curve"),
    ):
        yield f"agree: a point {name}", text("agree", secret=DIGEST, point=point), wrong(reason, "BadKey")
