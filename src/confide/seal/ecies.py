"""One sealed field: a key agreed with a new key pair, and AES-256-GCM under it.

``hex(point || nonce (12) || ciphertext || tag (16))``, with ``key = HKDF-SHA256(shared secret, info)`` without a salt.
Source: E2EE v2 of the ACI specification, section 4; the older protocol differs in ``info`` only.
"""

from __future__ import annotations

import hmac
from binascii import hexlify, unhexlify
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from confide.seal.curves import Curve, PrivateKey, Randomness
from confide.seal.errors import BadBlob, BadKey

NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class Suite:
    """A curve, and what the keys that are derived on it are for."""

    name: str
    curve: Curve
    info: bytes

    def cipher(self, shared: bytes) -> AESGCM:
        """The cipher for a shared secret: HKDF (RFC 5869) with a single block of output."""
        extracted = hmac.digest(bytes(32), shared, "sha256")
        return AESGCM(hmac.digest(extracted, self.info + b"\x01", "sha256"))


class Sealer:
    """One new key pair, agreed with one recipient. Seals any number of fields, where the protocol allows more than one.

    Raises:
        BadKey: nothing can be sealed for this recipient.
    """

    __slots__ = ("_cipher", "_point", "_random")

    def __init__(self, suite: Suite, recipient: bytes, random: Randomness) -> None:
        pair = suite.curve.generate(random)
        self._point = pair.point
        self._cipher = suite.cipher(pair.exchange(recipient))
        self._random = random

    def seal(self, plaintext: bytes, aad: bytes | None) -> str:
        """One field."""
        return self.digits(plaintext, aad).decode()

    def digits(self, plaintext: bytes, aad: bytes | None) -> bytes:
        """The same, as it is written."""
        nonce = self._random(NONCE_SIZE)
        return hexlify(self._point + nonce + self._cipher.encrypt(nonce, plaintext, aad))


class Opener:
    """Opens what was sealed for one private key. Keeps the last cipher, for senders that use a key pair repeatedly."""

    __slots__ = ("_cipher", "_head", "_key", "_point", "_suite")

    def __init__(self, suite: Suite, key: PrivateKey) -> None:
        self._suite = suite
        self._key = key
        self._head = suite.curve.point_size
        self._point = b""
        self._cipher: AESGCM | None = None

    @property
    def shortest(self) -> int:
        """The number of characters of a sealed empty field."""
        return 2 * (self._head + NONCE_SIZE + TAG_SIZE)

    def open(self, text: str, aad: bytes | None) -> bytes:
        """The plaintext of one field.

        Raises:
            BadBlob: whatever is wrong, it is the same exception.
        """
        try:
            blob = unhexlify(text)
            if 2 * len(blob) < self.shortest:
                raise BadBlob("too short")
            start = self._head + NONCE_SIZE
            return self._agreed(blob[: self._head]).decrypt(blob[self._head : start], blob[start:], aad)
        except (ValueError, BadKey, InvalidTag):
            raise BadBlob("can't be opened") from None

    def _agreed(self, point: bytes) -> AESGCM:
        if self._cipher is None or point != self._point:
            self._cipher = self._suite.cipher(self._key.exchange(point))
            self._point = point
        return self._cipher
