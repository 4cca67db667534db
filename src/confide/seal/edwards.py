"""Ed25519 keys used for key agreement: the older protocol signs and agrees with the same key.

Source: RFC 7748, section 4.1 (the map between the two curves); RFC 8032, sections 5.1.3 and 5.1.5.
"""

from __future__ import annotations

import hashlib
from typing import Final

from confide.seal.curves import P25519, X25519
from confide.seal.errors import BadKey

_D: Final = -121665 * pow(121666, -1, P25519) % P25519
_curve: Final = X25519()


def agreement_point(public_key: bytes) -> bytes:
    """The X25519 public key that belongs to an Ed25519 one.

    Raises:
        BadKey: not a point of the curve in its one proper form, or of low order.
    """
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    if y >= P25519 or y == 1 or not _is_square((y * y - 1) * pow(_D * y * y + 1, -1, P25519)):
        raise BadKey("not an Ed25519 public key")
    u = (1 + y) * pow(1 - y, -1, P25519) % P25519
    return _curve.point(u.to_bytes(32, "little"))


def _is_square(number: int) -> bool:
    return pow(number, (P25519 - 1) // 2, P25519) in (0, 1)


def agreement_secret(seed: bytes) -> bytes:
    """The X25519 private key that belongs to an Ed25519 one; X25519 itself clears and sets the bits that it must."""
    return hashlib.sha512(seed).digest()[:32]


class Ed25519AsX25519(X25519):
    """Agreement on Curve25519 with keys that headers give in Ed25519's form."""

    def point(self, key: bytes) -> bytes:
        """See :meth:`confide.seal.curves.Curve.point`."""
        return agreement_point(key)
