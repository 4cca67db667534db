from __future__ import annotations

import asyncio
import hashlib
import pickle
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from coincurve import PublicKey as RecoveredKey
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.vectors.loading import VECTORS, load

from confide.errors import StoreError
from confide.identity.custodian import DAY, Custodian
from confide.identity.identity import P256_ORDER, Identity, Terms
from confide.identity.legacy import SECP256K1_ORDER, LegacySigner
from confide.identity.roles import BadSecret, EphemeralKeys, KeyAlgorithm, Role, Secret, scalar
from confide.wire import aci, jcs, legacy
from confide.wire.receipt import Facts, RequestReceived, ResponseReturned, parse_receipt

T = TypeVar("T")
G1: Any = load(VECTORS / "phala" / "computed.json")
FACTS = Facts(
    receipt_id="rcpt-1",
    chat_id=None,
    model="m",
    endpoint="/v1/chat/completions",
    method="POST",
    served_at=1,
    events=(RequestReceived(body_hash=jcs.sha256(b"a")), ResponseReturned(body_hash=jcs.sha256(b"b"))),
)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def make(source: Any = None, terms: Terms | None = None, **when: int) -> Identity:
    source = EphemeralKeys(b"root" * 8) if source is None else source
    return run(Identity.create(source, terms or Terms(), **({"epoch": 1, "not_after": 2000} | when)))


class Fixed:
    """A source that gives what it was told to, and remembers what it was asked."""

    lasting = False

    def __init__(self, *secrets: bytes) -> None:
        self._secrets = secrets
        self.asked: list[tuple[str, str, str]] = []

    async def key(self, path: str, purpose: str, algorithm: KeyAlgorithm = "secp256k1") -> Secret:
        self.asked.append((path, purpose, algorithm))
        return Secret(self._secrets[min(len(self.asked), len(self._secrets)) - 1])


# Sources -------------------------------------------------------------------------------------------------------------


def test_ephemeral_keys_differ_by_path_and_by_process() -> None:
    async def main() -> None:
        one, other = EphemeralKeys(), EphemeralKeys()
        first = (await one.key("a", "p")).secret
        assert first == (await one.key("a", "p")).secret
        others = [
            (await one.key("b", "p")).secret,
            (await one.key("a", "q")).secret,
            (await one.key("a", "p", "ed25519")).secret,
            (await other.key("a", "p")).secret,
        ]
        assert len({first, *others}) == 5
        assert {len(secret) for secret in (first, *others)} == {32}

    run(main())


def test_workers_that_are_given_the_source_have_the_same_identity() -> None:
    source = EphemeralKeys()
    assert make(pickle.loads(pickle.dumps(source))).document == make(source).document


@pytest.mark.parametrize("root", [b"", bytes(31), bytes(33), bytes(32), b"\xff" * 32])
def test_roots_that_are_no_secret(root: bytes) -> None:
    with pytest.raises(BadSecret) as caught:
        EphemeralKeys(root)
    assert root.hex() not in str(caught.value) or not root


@pytest.mark.parametrize("secret", [b"short", bytes(32), b"\xff" * 32])
def test_sources_that_give_no_secret(secret: bytes) -> None:
    good = [bytes([number + 1]) * 31 + b"x" for number in range(len(Role) - 1)]
    with pytest.raises(BadSecret):
        make(Fixed(*good, secret))


def test_a_source_that_gives_one_key_twice() -> None:
    with pytest.raises(BadSecret, match="one key for two roles"):
        make(Fixed(b"one and the same key, 32 bytes..."[:32]))


@pytest.mark.parametrize("order", [SECP256K1_ORDER, P256_ORDER])
def test_scalars_are_in_range(order: int) -> None:
    assert scalar(b"\x07" * 32, order) == b"\x07" * 32
    assert scalar((order - 1).to_bytes(32), order) == (order - 1).to_bytes(32)
    for outside in (order.to_bytes(32), b"\xff" * 32, bytes(32)):
        assert scalar(outside, order) == hashlib.sha256(outside).digest()


# The identity --------------------------------------------------------------------------------------------------------


def test_every_role_has_a_key_and_a_path_of_its_own() -> None:
    source = Fixed(*[bytes([number + 1]) * 31 + b"x" for number in range(len(Role))])
    identity = make(source, epoch=7)
    assert len({path for path, _, _ in source.asked}) == len(Role)
    assert len({identity.secret(role) for role in Role}) == len(Role)
    assert {purpose: algorithm for _, purpose, algorithm in source.asked} == {
        "receipt": "ed25519",
        "legacy-ed25519": "ed25519",
        "e2ee-x25519": "secp256k1",
        "e2ee-secp256k1": "secp256k1",
        "tls": "secp256k1",
        "legacy-secp256k1": "secp256k1",
    }
    assert [path for path, purpose, _ in source.asked if purpose == "tls"] == ["confide/tls"]
    assert all(path == f"confide/7/{purpose}" for path, purpose, _ in source.asked if purpose != "tls")


def test_the_keyset_names_the_public_halves() -> None:
    identity = make(terms=Terms(subject="s", tls=True))
    keyset = aci.parse_keyset(identity.document)
    assert keyset == identity.keyset
    assert keyset.digest() == identity.digest
    assert (keyset.subject, keyset.not_after) == ("s", 2000)
    x25519, secp256k1 = keyset.e2ee_public_keys
    assert (x25519.algo, secp256k1.algo) == (aci.X25519_SUITE, aci.SECP256K1_SUITE)
    half = X25519PrivateKey.from_private_bytes(identity.secret(Role.E2EE_X25519)).public_key()
    assert x25519.public_key == half.public_bytes_raw().hex()
    point = ec.derive_private_key(int.from_bytes(identity.secret(Role.E2EE_SECP256K1)), ec.SECP256K1()).public_key()
    assert secp256k1.public_key == point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint).hex()
    spki = identity.tls.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert keyset.tls_keys_for("any.example.com") == {hashlib.sha256(spki).hexdigest()}


def test_tls_keys_are_listed_only_where_this_process_ends_tls() -> None:
    assert make().keyset.tls_public_keys == ()
    keyset = make(terms=Terms(tls=True, domains=("a.example.com", "b.example.com"))).keyset
    assert len(keyset.tls_keys_for("a.example.com")) == 1
    assert keyset.tls_keys_for("a.example.com") == keyset.tls_keys_for("b.example.com")
    assert keyset.tls_keys_for("c.example.com") == frozenset()


def test_receipts_verify_under_the_keyset() -> None:
    identity = make()
    receipt = parse_receipt(identity.sign_receipt(FACTS))
    assert receipt.facts == FACTS
    assert receipt.workload_keyset_digest == identity.digest
    key = Ed25519PublicKey.from_public_bytes(identity.keyset.receipt_key(receipt.key_id))
    key.verify(receipt.signature, receipt.signed_bytes)


def test_nothing_shows_a_key() -> None:
    source = EphemeralKeys(b"root" * 8)
    identity = make(source)
    secrets = [b"root" * 8, *[identity.secret(role) for role in Role]]
    released = run(source.key("p", "p"))
    shown = "".join(repr(one) + str(one) for one in (source, released, identity, identity.legacy, identity.tls))
    for secret in (*secrets, released.secret):
        assert secret.hex() not in shown.lower()
        assert repr(secret)[2:-1] not in shown
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(identity)


# The older surface ---------------------------------------------------------------------------------------------------


def legacy_signer() -> LegacySigner:
    keys = G1["keys"]
    return LegacySigner(bytes.fromhex(keys["secp256k1_private"]), bytes.fromhex(keys["ed25519_seed"]))


def test_legacy_keys_are_shown_as_peers_show_them() -> None:
    signer, keys = legacy_signer(), G1["keys"]
    assert signer.address("ecdsa") == keys["eth_address_checksummed"]
    assert signer.address("ed25519") == keys["ed25519_public"]
    assert signer.public_key("ecdsa").hex() == keys["signing_public_key_ecdsa"]
    assert signer.public_key("ed25519").hex() == keys["ed25519_public"]
    assert "0x" + signer.address_bytes("ecdsa").hex() == keys["eth_address_checksummed"].lower()
    assert signer.address_bytes("ed25519").hex() == keys["ed25519_public"]


@pytest.mark.parametrize("case", G1["signature"]["cases"])
def test_legacy_signatures_are_those_of_peers(case: dict[str, str]) -> None:
    proof = legacy_signer().sign(case["text"])
    assert proof.ecdsa.signature == case["signature_ecdsa"]
    assert proof.ed25519.signature == case["signature_ed25519"]


def test_the_signer_can_be_recovered() -> None:
    identity = make()
    proof = identity.legacy.sign("text")
    signature = legacy.parse_signature("ecdsa", proof.ecdsa.signature)
    recoverable = signature[:64] + bytes([signature[64] - 27])
    key = RecoveredKey.from_signature_and_message(recoverable, legacy.message_hash("text"), hasher=None)
    address = legacy.ethereum_address(key.format(compressed=False)[1:])
    assert legacy.checksummed(address) == proof.ecdsa.signing_address
    ed25519 = Ed25519PublicKey.from_public_bytes(bytes.fromhex(proof.ed25519.signing_address))
    ed25519.verify(bytes.fromhex(proof.ed25519.signature), b"text")


# Rotation ------------------------------------------------------------------------------------------------------------


class Archive:
    """Keeps keysets, or is down."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[bytes, int]] = {}
        self.down = False

    async def keep_keyset(self, digest: str, document: bytes, not_after: int) -> None:
        if self.down:
            raise StoreError("down")
        self.kept[digest] = (document, not_after)


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def custodian(clock: Clock, archive: Archive, source: EphemeralKeys | None = None) -> Custodian:
    terms = Terms(subject="s", tls=True)
    return Custodian(source or EphemeralKeys(), terms, archive, clock=clock, period=DAY)


def test_identities_change_with_the_epoch_and_the_last_is_honoured_until_it_expires() -> None:
    async def main() -> None:
        clock, archive = Clock(10 * DAY + 5), Archive()
        keeper = custodian(clock, archive)
        first = await keeper.refresh()
        assert first.keyset.not_after == 12 * DAY
        clock.now = 11 * DAY - 1
        assert await keeper.refresh() is first
        clock.now = 11 * DAY
        second = await keeper.refresh()
        assert second.digest != first.digest
        assert keeper.current is second
        assert keeper.honoured == (second, first)
        assert second.keyset.tls_public_keys == first.keyset.tls_public_keys
        assert {second.secret(role) == first.secret(role) for role in Role if role is not Role.TLS} == {False}
        clock.now = 12 * DAY
        third = await keeper.refresh()
        assert keeper.honoured == (third, second)
        assert archive.kept == {one.digest: (one.document, one.keyset.not_after) for one in (first, second, third)}

    run(main())


def test_replicas_with_one_source_agree() -> None:
    async def main() -> None:
        source = EphemeralKeys()
        one = await custodian(Clock(10 * DAY + 1), Archive(), source).refresh()
        other = await custodian(Clock(11 * DAY - 1), Archive(), source).refresh()
        assert one.document == other.document

    run(main())


def test_nothing_is_signed_under_a_keyset_that_is_not_kept() -> None:
    async def main() -> None:
        clock, archive = Clock(10 * DAY), Archive()
        keeper = custodian(clock, archive)
        first = await keeper.refresh()
        archive.down = True
        clock.now = 11 * DAY
        with pytest.raises(StoreError):
            await keeper.refresh()
        assert keeper.current is first
        archive.down = False
        assert await keeper.refresh() is not first

    run(main())


@pytest.mark.parametrize("period", [0, 59, 91 * DAY])
def test_periods_are_bounded(period: int) -> None:
    with pytest.raises(ValueError, match="keys change every"):
        Custodian(EphemeralKeys(), Terms(), Archive(), clock=Clock(0), period=period)
