"""Key custody: who released the private keys behind the keyset, by the signatures of dstack's KMS.

Source: Attested Confidential Inference, ``aci/1``, section 3.3; the public dstack repository, ``kms`` (``crypto.rs``)
and ``guest-agent`` (``GetKey``). The chain of a key is two recoverable signatures of secp256k1 over Keccak-256:

* the application's key signs ``<purpose>:<public key in hex>``;
* the KMS's root key signs ``dstack-kms-issued:`` with the application's id and compressed key after it.

A recoverable signature fits *some* key for every message, so nothing is shown by one chain whose root nobody expects.
Whoever holds the application's key, which is every guest that the KMS lets run this application, may sign for any
public key: the chain shows where keys come from, and that no other application has them, not that they never left.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from confide.verify.context import Context
from confide.verify.dstack import DstackFacts, is_signing_root
from confide.verify.verdict import CheckFailed, Ledger, NotChecked, Steps
from confide.wire import secp256k1
from confide.wire.binary import MalformedEvidence, from_hex
from confide.wire.legacy import keccak256

CUSTODY: Final = Steps.of(
    "custody",
    "Key custody",
    "ACI aci/1, 3.3; Dstack-TEE/dstack: kms, guest-agent",
    ("proofs", "The report shows signatures over released keys, in the form of dstack's KMS."),
    (
        "signatures",
        "All proofs are by one key of this application, which one root issued for the measured application id. Any "
        "guest that runs this application under the same KMS has the same keys.",
    ),
    (
        "root",
        "The root that issued the application's key is one that the policy accepts. dstack measures the key of the "
        "KMS's CA, which is another key, so this root must be known from elsewhere.",
    ),
    ("a key of the keyset", "At least one key of the keyset is itself a released one, and signed for as such."),
    (
        "every key of the keyset",
        "Each key of the keyset is a released one. A key of a kind that the KMS doesn't know (X25519) can't be: that "
        "it is made from a released secret is the word of the measured code.",
    ),
)
MOST_KEYS: Final = 32
_ISSUED: Final = b"dstack-kms-issued:"
_ED25519_SIZE: Final = 32
_KEY_SIZES: Final = {"ed25519": (_ED25519_SIZE,), "secp256k1": (33, 64, 65)}
_APP_ID_SIZE: Final = 20

_Hex = Annotated[str, Meta(max_length=2048)]
_Name = Annotated[str, Meta(max_length=256)]


class _Key(Struct, frozen=True):
    """A proof as this project's servers show it, or as private-ai-gateway does (``algo``, ``kms_public_key``)."""

    purpose: _Name
    public_key: _Hex
    signature_chain: Annotated[tuple[_Hex, ...], Meta(min_length=2, max_length=2)]
    path: _Name = ""
    algorithm: _Name = ""
    kms_public_key: _Hex | None = None


class _Custody(Struct, frozen=True):
    provider: Literal["dstack-kms"]
    keys: Annotated[tuple[_Key, ...], Meta(min_length=1, max_length=MOST_KEYS)]


@dataclass(frozen=True, slots=True)
class Proof:
    """One released key. ``signed`` is the public key that the signature is over, which for a server that shows
    ``kms_public_key`` is another key of the same secret, as that server says."""

    purpose: str
    public_key: bytes
    signed: bytes
    chain: tuple[bytes, bytes]

    def covers(self, key: bytes) -> bool:
        """Whether this signature is over this key of the keyset."""
        return self.public_key == self.signed and key == self.public_key


@dataclass(frozen=True, slots=True)
class _Issuer:
    """Compressed public keys: the application's, and that of the root that issued it."""

    application: bytes
    root: bytes


def verify_custody(
    ledger: Ledger,
    context: Context,
    custody: Mapping[str, Any] | None,
    *,
    keyset_keys: Collection[bytes],
    dstack: DstackFacts | None,
) -> None:
    """Check the proofs of released keys against the measured application and the policy's roots.

    What the caller still owes: a verdict over the whole ledger; without the steps of dstack the application's id is
    anybody's word.

    Args:
        custody: the member ``key_custody`` of a report's evidence.
        keyset_keys: the raw public keys of the keyset; points in any encoding.
        dstack: what the guest's log proves.
    """
    keys = tuple(dict.fromkeys(_plain(key) for key in keyset_keys))
    roots = tuple(one for one in context.policy.dstack.key_providers if is_signing_root(one))
    is_needed = context.policy.keys.custody or bool(roots)
    with ledger.group(CUSTODY) as checks:
        proofs = checks.need(1, lambda: _read(custody, is_needed), lambda read: f"{len(read)} keys")
        issuer = checks.need(2, lambda: _issuer(proofs, dstack, is_needed), _said)
        checks.check(3, lambda: _check_root(issuer, roots, dstack, is_needed))
        checks.check(4, lambda: _check_some(proofs, keys, is_needed))
        checks.check(5, lambda: _check_all(proofs, keys))
        ledger.facts["custody"] = _facts(proofs, keys, issuer)


def _read(custody: Mapping[str, Any] | None, is_needed: bool) -> tuple[Proof, ...]:
    if custody is None:
        raise NotChecked("the report shows no proof of who released its keys", required=is_needed)
    try:
        keys = msgspec.convert(dict(custody), _Custody).keys
    except (msgspec.ValidationError, RecursionError) as wrong:
        raise CheckFailed(f"found proofs in another form than dstack's KMS's: {wrong}") from None
    return tuple(_proof(key) for key in keys)


def _proof(key: _Key) -> Proof:
    public_key = from_hex(key.public_key, f"the public key for {key.purpose!r}")
    if key.algorithm and len(public_key) not in _KEY_SIZES.get(key.algorithm, ()):
        raise MalformedEvidence(f"a key of {len(public_key)} bytes for {key.algorithm!r}")
    first, second = (from_hex(signature, "a signature") for signature in key.signature_chain)
    plain = public_key if len(public_key) == _ED25519_SIZE else secp256k1.decode(public_key)
    other = key.kms_public_key
    signed = plain if other is None else secp256k1.decode(from_hex(other, "kms_public_key"))
    return Proof(key.purpose, plain, signed, (first, second))


def _plain(key: bytes) -> bytes:
    """A key of the keyset in one encoding: the 64 bytes x and y where it is a point, else as it is."""
    try:
        return secp256k1.decode(key)
    except MalformedEvidence:
        return key


def _issuer(proofs: tuple[Proof, ...], dstack: DstackFacts | None, is_needed: bool) -> _Issuer:
    """The one issuer behind all proofs."""
    if dstack is None or dstack.app_id is None:
        raise NotChecked("no application id was measured that keys could be released to", required=is_needed)
    app_id = bytes.fromhex(dstack.app_id)
    if len(app_id) != _APP_ID_SIZE:
        raise CheckFailed(f"found an application id of {len(app_id)} bytes, expected {_APP_ID_SIZE}")
    issued = {(_application(proof), proof.chain[1]) for proof in proofs}
    issuers = {_Issuer(key, _root(app_id, key, signature)) for key, signature in issued}
    if len(issuers) != 1:
        raise CheckFailed(f"found signatures of {len(issuers)} issuers, expected one: some are over something else")
    return issuers.pop()


def _application(proof: Proof) -> bytes:
    """The key that signed for the released one."""
    message = f"{proof.purpose}:{_hex(proof.signed)}".encode()
    return secp256k1.compressed(secp256k1.recover(proof.chain[0], keccak256(message)))


def _root(app_id: bytes, application: bytes, signature: bytes) -> bytes:
    """The key that signed for the application's."""
    return secp256k1.compressed(secp256k1.recover(signature, keccak256(_ISSUED + app_id + application)))


def _hex(key: bytes) -> str:
    """A public key as the guest's agent writes it: a point compressed."""
    return (secp256k1.compressed(key) if len(key) == secp256k1.POINT_SIZE else key).hex()


def _said(issuer: _Issuer) -> str:
    return f"application key {issuer.application.hex()}, root {issuer.root.hex()}"


def _check_root(issuer: _Issuer, roots: tuple[str, ...], dstack: DstackFacts | None, is_needed: bool) -> str:
    provider = ((dstack and dstack.key_provider) or {}).get("name")
    if provider != "kms":
        raise CheckFailed(f"the guest measured that its keys are of {provider!r}, expected 'kms'")
    if not roots:
        reason = (
            f"the policy names no root of a KMS's signatures; the chain ends at {issuer.root.hex()}, "
            "which belongs in dstack.key_providers where it is known to be the KMS's"
        )
        raise NotChecked(reason, required=is_needed)
    if issuer.root.hex() not in roots:
        raise CheckFailed(f"found the root {issuer.root.hex()}, expected one of {', '.join(roots)}")
    return issuer.root.hex()


def _check_some(proofs: tuple[Proof, ...], keys: tuple[bytes, ...], is_needed: bool) -> str:
    covered = _covered(proofs, keys)
    if covered:
        return f"released and signed for: {', '.join(_hex(key) for key in covered)}"
    if any(proof.public_key in keys for proof in proofs):
        reason = "the signatures are over other keys, of which the workload only says that they have the same secrets"
        raise NotChecked(reason, required=is_needed)
    raise CheckFailed(f"found proofs of {len(proofs)} keys, and none of them is in the keyset")


def _check_all(proofs: tuple[Proof, ...], keys: tuple[bytes, ...]) -> str:
    covered = _covered(proofs, keys)
    rest = [_hex(key) for key in keys if key not in covered]
    if rest:
        reason = f"not shown to be released, on the word of the measured code: {', '.join(rest)}"
        raise NotChecked(reason, required=False)
    return f"all {len(keys)}"


def _covered(proofs: tuple[Proof, ...], keys: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(key for key in keys if any(proof.covers(key) for proof in proofs))


def _facts(proofs: tuple[Proof, ...], keys: tuple[bytes, ...], issuer: _Issuer) -> dict[str, Any]:
    covered = _covered(proofs, keys)
    return {
        "application_key": issuer.application.hex(),
        "root": issuer.root.hex(),
        "released": [_hex(key) for key in covered],
        "not_shown": [_hex(key) for key in keys if key not in covered],
    }
