"""The plain Python recovery of secp256k1 keys, against libsecp256k1 and at every edge."""

from __future__ import annotations

import hashlib
import random

import coincurve
import pytest

from confide.wire import secp256k1
from confide.wire.binary import MalformedEvidence
from confide.wire.secp256k1 import FIELD, ORDER, compressed, decode, recover

DIGEST = hashlib.sha256(b"digest").digest()


def _signed(secret: bytes, digest: bytes) -> bytes:
    return coincurve.PrivateKey(secret).sign_recoverable(digest, hasher=None)


def _spelled(r: int, s: int, which: int = 0) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([which])


@pytest.mark.parametrize("seed", range(200))
def test_recovery_gives_the_key_that_libsecp256k1_signed_with(seed: int) -> None:
    source = random.Random(seed)
    secret = source.randrange(1, ORDER).to_bytes(32, "big")
    digest = source.randbytes(32)
    signature = _signed(secret, digest)
    key = coincurve.PrivateKey(secret).public_key
    assert b"\4" + recover(signature, digest, low_s=True) == key.format(compressed=False)
    assert compressed(recover(signature[:64] + bytes([signature[64] + 27]), digest)) == key.format()


@pytest.mark.parametrize("secret", [1, 2, 3, ORDER - 1, ORDER - 2, ORDER // 2, ORDER // 2 + 1])
@pytest.mark.parametrize("digest", [bytes(32), b"\xff" * 32, ORDER.to_bytes(32, "big"), (1).to_bytes(32, "big")])
def test_recovery_at_the_edges_of_keys_and_digests(secret: int, digest: bytes) -> None:
    raw = secret.to_bytes(32, "big")
    expected = coincurve.PrivateKey(raw).public_key.format(compressed=False)
    assert b"\4" + recover(_signed(raw, digest), digest) == expected


@pytest.mark.parametrize("seed", range(100))
def test_recovery_of_any_numbers_is_what_libsecp256k1_says(seed: int) -> None:
    """Random r and s, half of them no coordinates: the same key, or refused by both."""
    source = random.Random(1000 + seed)
    digest = source.randbytes(32)
    signature = _spelled(source.randrange(1, ORDER), source.randrange(1, ORDER), source.randrange(4))
    try:
        expected = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except ValueError:
        with pytest.raises(MalformedEvidence):
            recover(signature, digest)
    else:
        assert b"\4" + recover(signature, digest) == expected.format(compressed=False)


def test_recovery_of_an_r_above_the_order() -> None:
    """With recovery id 2 and 3 the x of the point is r plus the order, which only few r allow."""
    small = next(r for r in range(1, 100) if _is_coordinate(r + ORDER))
    for which in (2, 3):
        signature = _spelled(small, 5, which)
        expected = coincurve.PublicKey.from_signature_and_message(signature, DIGEST, hasher=None)
        assert b"\4" + recover(signature, DIGEST) == expected.format(compressed=False)


def _is_coordinate(x: int) -> bool:
    square = (x**3 + 7) % FIELD
    return pow(square, (FIELD - 1) // 2, FIELD) == 1


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        (b"", "65 over 32"),
        (bytes(64), "65 over 32"),
        (bytes(66), "65 over 32"),
        (_spelled(0, 1), "out of range"),
        (_spelled(1, 0), "out of range"),
        (_spelled(ORDER, 1), "out of range"),
        (_spelled(1, ORDER), "out of range"),
        (_spelled(2**256 - 1, 1), "out of range"),
        (_spelled(1, 1, 4), "recovery id is 4"),
        (_spelled(1, 1, 26), "recovery id is 26"),
        (_spelled(1, 1, 31), "recovery id is 31"),
        (_spelled(1, 1, 255), "recovery id is 255"),
        (_spelled(ORDER - 1, 1, 2), "no coordinate"),
        (_spelled(5, 1), "the x of no point"),
    ],
)
def test_what_is_no_signature_is_refused(signature: bytes, words: str) -> None:
    with pytest.raises(MalformedEvidence, match=words):
        recover(signature, DIGEST)


def test_a_digest_of_another_size_is_refused() -> None:
    with pytest.raises(MalformedEvidence):
        recover(_spelled(1, 1), DIGEST + b"\0")


def test_a_high_s_is_refused_where_that_is_said() -> None:
    signature = _signed(bytes(31) + b"\7", DIGEST)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    other = _spelled(r, ORDER - s, signature[64] ^ 1)
    assert recover(other, DIGEST) == recover(signature, DIGEST)
    with pytest.raises(MalformedEvidence, match="half the order"):
        recover(other, DIGEST, low_s=True)


def test_the_point_at_infinity_is_no_key() -> None:
    """With R = G, a digest that equals s gives s*G - s*G."""
    r = secp256k1._GENERATOR[0]
    s = int.from_bytes(DIGEST, "big") % ORDER
    with pytest.raises(MalformedEvidence, match="no key"):
        recover(_spelled(r, s), DIGEST)


def test_the_sum_of_equal_and_opposite_points() -> None:
    """R = -G makes one entry of the table the point at infinity, R = G makes it a doubling."""
    for which in (0, 1):
        signature = _spelled(secp256k1._GENERATOR[0], 12345, which)
        expected = coincurve.PublicKey.from_signature_and_message(signature, DIGEST, hasher=None)
        assert b"\4" + recover(signature, DIGEST) == expected.format(compressed=False)


@pytest.mark.parametrize("seed", range(20))
def test_encodings_of_a_point_are_one_key(seed: int) -> None:
    key = coincurve.PrivateKey(random.Random(seed).randrange(1, ORDER).to_bytes(32, "big")).public_key
    whole = key.format(compressed=False)
    assert decode(key.format()) == decode(whole) == decode(whole[1:]) == whole[1:]
    assert compressed(whole[1:]) == key.format()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(33),
        bytes(64),
        bytes(65),
        b"\2" + (5).to_bytes(32, "big"),
        b"\2" + FIELD.to_bytes(32, "big"),
        b"\5" + bytes(32),
        b"\4" + (FIELD + 1).to_bytes(32, "big") + bytes(32),
        b"\6" + coincurve.PrivateKey(bytes(31) + b"\1").public_key.format(compressed=False)[1:],
    ],
)
def test_what_is_no_point_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        decode(data)
