"""One identity: a private key for each role, and the keyset that names their public halves."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from confide.identity.legacy import SECP256K1_ORDER, LegacySigner
from confide.identity.roles import BadSecret, KeySource, Role, checked, scalar
from confide.wire import jcs
from confide.wire.aci import ED25519, SECP256K1_SUITE, X25519_SUITE, Keyset, PublicKey, TlsKey
from confide.wire.receipt import Facts, Form, Receipt

P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ORDERS: Final = {
    Role.E2EE_SECP256K1: SECP256K1_ORDER,
    Role.LEGACY_ECDSA: SECP256K1_ORDER,
    Role.TLS: P256_ORDER,
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a keyset says besides its keys.

    ``domains`` limits the TLS key to host names; without any it stands for every one. ``tls`` is False where this
    process doesn't end TLS itself: then no TLS key may be listed.
    """

    subject: str | None = None
    domains: tuple[str, ...] = ()
    tls: bool = False


class Identity:
    """Private keys and their keyset. Shows nothing of the keys in ``repr``; make it with :meth:`create`."""

    __slots__ = (
        *("_form", "_receipt_key", "_secrets", "digest", "document", "epoch", "keyset", "lasting", "legacy"),
        *("receipt_key_id", "tls"),
    )

    def __init__(
        self, secrets: Mapping[Role, bytes], terms: Terms, *, epoch: int, not_after: int, lasting: bool = False
    ) -> None:
        keys = {role: _private(role, secret) for role, secret in secrets.items()}
        self._secrets: Final = keys
        self._receipt_key: Final = Ed25519PrivateKey.from_private_bytes(keys[Role.RECEIPT])
        self.epoch: Final = epoch
        self.lasting: Final = lasting
        self.legacy: Final = LegacySigner(keys[Role.LEGACY_ECDSA], keys[Role.LEGACY_ED25519])
        self.tls: Final = _p256(keys[Role.TLS])
        receipt = _named("receipt", ED25519, self._receipt_key.public_key().public_bytes_raw())
        self.receipt_key_id: Final = receipt.key_id
        self.keyset: Final = Keyset(
            subject=terms.subject,
            not_after=not_after,
            receipt_signing_keys=(receipt,),
            e2ee_public_keys=_e2ee_keys(keys),
            tls_public_keys=_tls_keys(self.tls.public_key(), terms),
        )
        self.document: Final = self.keyset.document()
        self.digest: Final = jcs.sha256(self.document)
        self._form: Final = Form(self.digest, self.receipt_key_id)

    @classmethod
    async def create(cls, source: KeySource, terms: Terms, *, epoch: int, not_after: int) -> Identity:
        """The identity of an epoch: the same one for as long as the source gives the same keys.

        Raises:
            BadSecret: the source gave something that is no key, or one key twice.
        """
        released = await asyncio.gather(*[source.key(role.path(epoch), role, role.algorithm) for role in Role])
        secrets = {role: key.secret for role, key in zip(Role, released, strict=True)}
        if len(set(secrets.values())) != len(secrets):
            raise BadSecret("the key source gave one key for two roles")
        return cls(secrets, terms, epoch=epoch, not_after=not_after, lasting=source.lasting)

    def __repr__(self) -> str:
        return f"<Identity {self.digest}>"

    def __reduce__(self) -> str:
        raise TypeError("an identity stays in its process; pass its key source on instead")

    def secret(self, role: Role) -> bytes:
        """The private key of one role, for the room that agrees on keys with it."""
        return self._secrets[role]

    def sign_receipt(self, facts: Facts) -> bytes:
        """The receipt as it is stored and served.

        Raises:
            InvalidReceipt: the events don't tell one exchange.
        """
        return self._form.signed(facts, self._receipt_key.sign)

    def signed(self, receipt: Receipt) -> bool:
        """Whether a receipt is one of ours: signed with our key."""
        try:
            self._receipt_key.public_key().verify(receipt.signature, receipt.signed_bytes)
        except InvalidSignature:
            return False
        return receipt.key_id == self.receipt_key_id


async def tls_key(source: KeySource) -> ec.EllipticCurvePrivateKey:
    """The TLS key that every identity of this source has, by itself.

    Raises:
        BadSecret: the source gave something that is no key.
    """
    role = Role.TLS
    released = await source.key(role.path(0), role, role.algorithm)
    return _p256(_private(role, released.secret))


def _private(role: Role, secret: bytes) -> bytes:
    return scalar(checked(secret), _ORDERS[role]) if role in _ORDERS else checked(secret)


def _p256(secret: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(secret), ec.SECP256R1())


def _e2ee_keys(keys: Mapping[Role, bytes]) -> tuple[PublicKey, ...]:
    x25519 = X25519PrivateKey.from_private_bytes(keys[Role.E2EE_X25519]).public_key().public_bytes_raw()
    secp256k1 = ec.derive_private_key(int.from_bytes(keys[Role.E2EE_SECP256K1]), ec.SECP256K1()).public_key()
    point = secp256k1.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return (_named("e2ee-x25519", X25519_SUITE, x25519), _named("e2ee-secp256k1", SECP256K1_SUITE, point))


def _tls_keys(key: ec.EllipticCurvePublicKey, terms: Terms) -> tuple[TlsKey, ...]:
    if not terms.tls:
        return ()
    spki = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    if not terms.domains:
        return (TlsKey(spki_sha256=spki),)
    return tuple(TlsKey(spki_sha256=spki, domain=domain) for domain in terms.domains)


def _named(prefix: str, algo: str, public_key: bytes) -> PublicKey:
    """A public key under a name of its own, which stays the same for as long as the key does."""
    name = f"{prefix}-{hashlib.sha256(public_key).hexdigest()[:16]}"
    return PublicKey(key_id=name, algo=algo, public_key=public_key.hex())
