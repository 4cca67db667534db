"""What keys are for, and where their 32 secret bytes come from."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, Protocol

from confide.errors import ConfideError

KEY_SIZE: Final = 32
KeyAlgorithm = Literal["secp256k1", "ed25519"]


class BadSecret(ConfideError):
    """A key source gave something that is no key. The text never holds what it gave."""


class Role(StrEnum):
    """One use of a key. No key has two."""

    RECEIPT = "receipt"
    E2EE_X25519 = "e2ee-x25519"
    E2EE_SECP256K1 = "e2ee-secp256k1"
    TLS = "tls"
    LEGACY_ECDSA = "legacy-secp256k1"
    LEGACY_ED25519 = "legacy-ed25519"

    @property
    def algorithm(self) -> KeyAlgorithm:
        """Of the two that platforms release keys for, the one whose public key ours is, if either."""
        return "ed25519" if self in (Role.RECEIPT, Role.LEGACY_ED25519) else "secp256k1"

    def path(self, epoch: int) -> str:
        """The name of the key in a source. The TLS key lasts, so that connections outlive a rotation."""
        return f"confide/{self}" if self is Role.TLS else f"confide/{epoch}/{self}"


class Released(Protocol):
    """A key that a source gave."""

    @property
    def secret(self) -> bytes:
        """32 bytes."""
        ...


class KeySource(Protocol):
    """Something that gives this workload, and no other, a key for each path: the same one each time."""

    @property
    def lasting(self) -> bool:
        """Whether it does so after this process has ended, too."""
        ...

    async def key(self, path: str, purpose: str, algorithm: KeyAlgorithm = "secp256k1") -> Released:
        """The key for a path."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """32 bytes that are never shown."""

    secret: bytes


class EphemeralKeys:
    """Keys that this process makes and that end with it.

    All derive (HKDF-SHA256, RFC 5869) from one root, so that worker processes that are started with the same object
    have the same keys.

    Args:
        root: 32 random bytes; from the system where there are none.
    """

    __slots__ = ("_root",)
    lasting = False

    def __init__(self, root: bytes | None = None) -> None:
        self._root = os.urandom(KEY_SIZE) if root is None else checked(root)

    async def key(self, path: str, purpose: str, algorithm: KeyAlgorithm = "secp256k1") -> Secret:
        """The key for a path."""
        extracted = hmac.digest(bytes(KEY_SIZE), self._root, "sha256")
        info = f"{algorithm}\0{purpose}\0{path}\x01"
        return Secret(hmac.digest(extracted, info.encode(), "sha256"))


def checked(secret: bytes) -> bytes:
    """The bytes, if they can be a key.

    Raises:
        BadSecret: they aren't 32, or all the same.
    """
    if len(secret) != KEY_SIZE:
        raise BadSecret(f"the key source gave {len(secret)} bytes instead of {KEY_SIZE}")
    if len(set(secret)) == 1 and secret[0] in (0x00, 0xFF):
        raise BadSecret("the key source gave a key that is no secret")
    return secret


def scalar(secret: bytes, order: int) -> bytes:
    """The private key of a curve of this order: the bytes themselves, unless they are out of range.

    That happens once in 2^32 keys for P-256 and once in 2^128 for secp256k1; then it is their SHA-256.
    """
    while not 0 < int.from_bytes(secret) < order:
        secret = hashlib.sha256(secret).digest()
    return secret
