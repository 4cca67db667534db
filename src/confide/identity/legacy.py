"""The signing keys of the older surface: one Ethereum account, one Ed25519 key."""

from __future__ import annotations

from typing import Final

from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from confide.identity.roles import scalar
from confide.wire import legacy
from confide.wire.legacy import Algorithm, Proof, Signed

SECP256K1_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_RECOVERY_BASE: Final = 27


class LegacySigner:
    """Signs hash texts with both algorithms.

    Args:
        ecdsa: the 32 bytes of a secp256k1 key.
        ed25519: the seed of an Ed25519 key.
    """

    __slots__ = ("_addresses", "_ecdsa", "_ed25519", "_ethereum", "_public")

    def __init__(self, ecdsa: bytes, ed25519: bytes) -> None:
        self._ecdsa = PrivateKey(scalar(ecdsa, SECP256K1_ORDER))
        self._ed25519 = Ed25519PrivateKey.from_private_bytes(ed25519)
        self._public = self._ed25519.public_key().public_bytes_raw()
        self._ethereum = legacy.ethereum_address(self.public_key("ecdsa"))
        self._addresses: dict[Algorithm, str] = {
            "ecdsa": legacy.checksummed(self._ethereum),
            "ed25519": self._public.hex(),
        }

    def public_key(self, algorithm: Algorithm) -> bytes:
        """The 64 bytes x and y, or the 32 of Ed25519: what ``signing_public_key`` shows in hex."""
        return self._ecdsa.public_key.format(compressed=False)[1:] if algorithm == "ecdsa" else self._public

    def address_bytes(self, algorithm: Algorithm) -> bytes:
        """What report data holds."""
        return self._ethereum if algorithm == "ecdsa" else self._public

    def address(self, algorithm: Algorithm) -> str:
        """What ``signing_address`` shows."""
        return self._addresses[algorithm]

    def sign(self, text: str) -> Proof:
        """Both signatures over a text."""
        return Proof(
            text=text,
            ecdsa=Signed(signature=self._sign_ecdsa(text), signing_address=self.address("ecdsa")),
            ed25519=Signed(signature=self._ed25519.sign(text.encode()).hex(), signing_address=self.address("ed25519")),
        )

    def _sign_ecdsa(self, text: str) -> str:
        """r, s (the lower of the two) and v, with the nonce of RFC 6979."""
        signature = self._ecdsa.sign_recoverable(legacy.message_hash(text), hasher=None)
        return "0x" + signature[:64].hex() + f"{signature[64] + _RECOVERY_BASE:02x}"
