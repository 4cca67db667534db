"""The two curves on which keys are agreed: X25519 (RFC 7748) and secp256k1 (SEC 1).

A key from a header is checked here completely, before anything is computed with it.
"""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Callable
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256K1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from confide.seal.errors import BadKey

Randomness = Callable[[int], bytes]


class PrivateKey(Protocol):
    """Our half of a key agreement."""

    @property
    def point(self) -> bytes:
        """The public half, as it stands in front of a ciphertext."""
        ...

    def exchange(self, point: bytes) -> bytes:
        """The 32 shared bytes.

        Raises:
            BadKey: the other half isn't a point that may be used.
        """
        ...


class Curve(Protocol):
    """A curve, and how its public keys are written in headers."""

    @property
    def point_size(self) -> int:
        """The length of a public key in front of a ciphertext."""
        ...

    def read(self, text: str) -> bytes:
        """A public key from its hexadecimal form, which may have ``0x`` in front; all forms of one key read alike.

        Raises:
            BadKey: wrong length or characters.
        """
        ...

    def point(self, key: bytes) -> bytes:
        """What to agree with, from what :meth:`read` gave.

        Raises:
            BadKey: not on the curve, or of low order, so that the shared bytes would be no secret.
        """
        ...

    def load(self, secret: bytes) -> PrivateKey:
        """A private key from its 32 bytes.

        Raises:
            BadKey: not a private key of this curve.
        """
        ...

    def generate(self, random: Randomness) -> PrivateKey:
        """A new private key."""
        ...


def read_hex(text: str, sizes: tuple[int, ...]) -> bytes:
    """Bytes of one of these lengths, from hexadecimal text with or without ``0x``."""
    try:
        key = unhexlify(text.removeprefix("0x"))
    except ValueError:
        raise BadKey("not hexadecimal") from None
    if len(key) not in sizes:
        raise BadKey("wrong length")
    return key


# X25519 --------------------------------------------------------------------------------------------------------------

P25519: Final = 2**255 - 19
_ORDER_8: Final = 325606250916557431795983626356110631294008115727848805560023387167927233504
_ORDER_8_TOO: Final = 39382357235489614581723060781553021112529911719440698176882885853963445705823
LOW_ORDER: Final = frozenset({0, 1, P25519 - 1, _ORDER_8, _ORDER_8_TOO})
"""The coordinates of all points of order 1, 2, 4 and 8 on the curve and on its twist, modulo the prime."""


class X25519Key:
    """A private key on Curve25519."""

    __slots__ = ("_key", "point")

    def __init__(self, secret: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(secret)
        self.point = self._key.public_key().public_bytes_raw()

    def exchange(self, point: bytes) -> bytes:
        """See :meth:`PrivateKey.exchange`; the library refuses a shared secret of zeros."""
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(point))
        except ValueError:
            raise BadKey("no key can be agreed with this point") from None


class X25519:
    """Curve25519: every 32 bytes are a point, but not every point may be used."""

    point_size = 32

    def read(self, text: str) -> bytes:
        """See :meth:`Curve.read`."""
        return read_hex(text, (32,))

    def point(self, key: bytes) -> bytes:
        """See :meth:`Curve.point`."""
        if (int.from_bytes(key, "little") & (2**255 - 1)) % P25519 in LOW_ORDER:
            raise BadKey("a point of low order")
        return key

    def load(self, secret: bytes) -> X25519Key:
        """See :meth:`Curve.load`."""
        try:
            return X25519Key(secret)
        except ValueError:
            raise BadKey("an X25519 private key has 32 bytes") from None

    def generate(self, random: Randomness) -> X25519Key:
        """See :meth:`Curve.generate`."""
        return X25519Key(random(32))


# secp256k1 -----------------------------------------------------------------------------------------------------------

N256K1: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def read_point(point: bytes) -> EllipticCurvePublicKey:
    """A point from its 65 bytes."""
    if len(point) != 65 or point[0] != 4:
        raise BadKey("not an uncompressed point")
    try:
        return EllipticCurvePublicKey.from_encoded_point(SECP256K1(), point)
    except ValueError:
        raise BadKey("not on the curve") from None


class Secp256k1Key:
    """A private key on secp256k1."""

    __slots__ = ("_key", "point")

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        self._key = key
        self.point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def exchange(self, point: bytes) -> bytes:
        """See :meth:`PrivateKey.exchange`."""
        return self._key.exchange(ECDH(), read_point(point))


class Secp256k1:
    """secp256k1, with uncompressed points; a key in a header may lack the ``04`` in front."""

    point_size = 65

    def read(self, text: str) -> bytes:
        """See :meth:`Curve.read`."""
        key = read_hex(text, (64, 65))
        return key if len(key) == 65 else b"\x04" + key

    def point(self, key: bytes) -> bytes:
        """See :meth:`Curve.point`. Its order is prime: there are no points of low order."""
        read_point(key)
        return key

    def load(self, secret: bytes) -> PrivateKey:
        """See :meth:`Curve.load`."""
        number = int.from_bytes(secret)
        if len(secret) != 32 or not 0 < number < N256K1:
            raise BadKey("not a secp256k1 private key")
        return Secp256k1Key(derive_private_key(number, SECP256K1()))

    def generate(self, random: Randomness) -> PrivateKey:
        """See :meth:`Curve.generate`."""
        while True:
            try:
                return self.load(random(32))
            except BadKey:
                continue  # one time in 2**128
