"""Points of secp256k1, and the public key behind a recoverable ECDSA signature, in plain Python.

Source: SEC 2 (the curve), SEC 1, sections 2.3 (encodings of points) and 4.1.6 (public key recovery). Only public data
comes in here: signatures, digests and public keys that everybody may know. So the time that a call takes may depend on
them, and nothing of this may ever see a private key.
"""

from __future__ import annotations

from typing import Final

from confide.wire.binary import MalformedEvidence

FIELD: Final = 2**256 - 2**32 - 977
ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
SIGNATURE_SIZE: Final = 65
DIGEST_SIZE: Final = 32
POINT_SIZE: Final = 64
_GENERATOR: Final = (
    0x79BE667E_F9DCBBAC_55A06295_CE870B07_029BFCDB_2DCE28D9_59F2815B_16F81798,
    0x483ADA77_26A3C465_5DA4FBFC_0E1108A8_FD17B448_A6855419_9C47D08F_FB10D4B8,
)
_ETHEREUM: Final = 27

_Affine = tuple[int, int]
_Jacobian = tuple[int, int, int]
_INFINITY: Final[_Jacobian] = (0, 1, 0)


def recover(signature: bytes, digest: bytes, *, low_s: bool = False) -> bytes:
    """The key whose signature this is: the 64 bytes x and y, big-endian.

    Every signature that is in range is some key's signature over any digest, so the caller must know the key that it
    expects. The last byte of a signature says which of the candidates it is: 0 to 3, or 27 to 30 as Ethereum has it.

    Args:
        signature: 65 bytes: r, s, and the recovery id.
        digest: the 32 bytes that were signed.
        low_s: refuse an s above half the order, so that a signature has one spelling only.

    Raises:
        MalformedEvidence: r or s is out of range, the recovery id is none, or no point of the curve fits.
    """
    if len(signature) != SIGNATURE_SIZE or len(digest) != DIGEST_SIZE:
        raise MalformedEvidence(f"a signature of {len(signature)} bytes over {len(digest)}; 65 over 32 are recoverable")
    r, s = _number(signature[:32]), _number(signature[32:64])
    which = signature[64] - _ETHEREUM if signature[64] >= _ETHEREUM else signature[64]
    if not 0 < r < ORDER or not 0 < s < ORDER:
        raise MalformedEvidence("a signature whose r or s is out of range")
    if low_s and s > ORDER // 2:
        raise MalformedEvidence("a signature whose s is above half the order")
    if not 0 <= which <= 3:
        raise MalformedEvidence(f"a signature whose recovery id is {signature[64]}")
    x = r + ORDER * (which >> 1)
    if x >= FIELD:
        raise MalformedEvidence("a signature whose r is no coordinate of the curve with this recovery id")
    point = (x, _lift(x, which & 1))
    inverse = pow(r, -1, ORDER)
    key = _combine(-_number(digest) * inverse % ORDER, s * inverse % ORDER, point)
    if key is None:
        raise MalformedEvidence("a signature that no key can have made over this digest")
    return _raw(key)


def decode(data: bytes) -> bytes:
    """A public key in any encoding (33 bytes, 65, or 64 without a prefix) as the 64 bytes x and y.

    Raises:
        MalformedEvidence: it is no point of the curve.
    """
    if len(data) == 33 and data[0] in (2, 3):
        x = _number(data[1:])
        if x >= FIELD:
            raise MalformedEvidence("a public key whose x is out of range")
        return _raw((x, _lift(x, data[0] & 1)))
    raw = data[1:] if len(data) == 65 and data[0] == 4 else data
    if len(raw) != POINT_SIZE:
        raise MalformedEvidence(f"a public key of {len(data)} bytes that is no point of secp256k1")
    x, y = _number(raw[:32]), _number(raw[32:])
    if x >= FIELD or y >= FIELD or (y * y - x * x * x - 7) % FIELD:
        raise MalformedEvidence("a public key that is not on the curve secp256k1")
    return raw


def compressed(point: bytes) -> bytes:
    """The 33 bytes of a public key of 64 bytes, as :func:`decode` gives them."""
    return bytes([2 + (point[-1] & 1)]) + point[:32]


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _raw(point: _Affine) -> bytes:
    return point[0].to_bytes(32, "big") + point[1].to_bytes(32, "big")


def _lift(x: int, odd: int) -> int:
    """The y of the point with this x and this parity."""
    square = (x * x * x + 7) % FIELD
    y = pow(square, (FIELD + 1) // 4, FIELD)
    if y * y % FIELD != square:
        raise MalformedEvidence("a number that is the x of no point of secp256k1")
    return y if y & 1 == odd else FIELD - y


def _combine(first: int, second: int, point: _Affine) -> _Affine | None:
    """``first`` times the generator plus ``second`` times a point, bit by bit for both; None at infinity."""
    generator, other = (*_GENERATOR, 1), (*point, 1)
    table = (None, generator, other, _add(generator, other))
    total = _INFINITY
    for bit in range(ORDER.bit_length() - 1, -1, -1):
        total = _double(total)
        chosen = table[(first >> bit & 1) | (second >> bit & 1) << 1]
        total = total if chosen is None else _add(total, chosen)
    return _affine(total)


def _affine(point: _Jacobian) -> _Affine | None:
    x, y, z = point
    if z == 0:
        return None
    inverse = pow(z, -1, FIELD)
    squared = inverse * inverse % FIELD
    return x * squared % FIELD, y * squared * inverse % FIELD


def _double(point: _Jacobian) -> _Jacobian:
    """No point has order 2, so a y of 0 is only the point at infinity."""
    x, y, z = point
    if z == 0:
        return _INFINITY
    squared = y * y % FIELD
    product = 4 * x * squared % FIELD
    slope = 3 * x * x % FIELD
    new_x = (slope * slope - 2 * product) % FIELD
    new_y = (slope * (product - new_x) - 8 * squared * squared) % FIELD
    return new_x, new_y, 2 * y * z % FIELD


def _add(first: _Jacobian, second: _Jacobian) -> _Jacobian:
    if first[2] == 0:
        return second
    if second[2] == 0:
        return first
    (x1, y1, z1), (x2, y2, z2) = first, second
    square1, square2 = z1 * z1 % FIELD, z2 * z2 % FIELD
    u1, u2 = x1 * square2 % FIELD, x2 * square1 % FIELD
    s1, s2 = y1 * square2 * z2 % FIELD, y2 * square1 * z1 % FIELD
    if u1 == u2:
        return _double(first) if s1 == s2 else _INFINITY
    width, slope = (u2 - u1) % FIELD, (s2 - s1) % FIELD
    width2 = width * width % FIELD
    width3, product = width2 * width % FIELD, u1 * width2 % FIELD
    x = (slope * slope - width3 - 2 * product) % FIELD
    y = (slope * (product - x) - s1 * width3) % FIELD
    return x, y, width * z1 * z2 % FIELD
