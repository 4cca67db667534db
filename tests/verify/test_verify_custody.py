"""Key custody: the recorded signature of a KMS verifies, each step fails alone, and nothing signed can be changed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import coincurve
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.verify.context import Context
from confide.verify.custody import CUSTODY, MOST_KEYS, verify_custody
from confide.verify.dstack import DstackFacts
from confide.verify.policy import DstackPolicy, KeysPolicy, Policy
from confide.verify.roots import Roots
from confide.verify.verdict import Ledger, Outcome
from confide.wire import secp256k1
from confide.wire.legacy import keccak256
from tests.verify.dstack_maker import NOW, VECTORS, detail, failed, missing, recorded, unmade

STEPS = [step.id for step in CUSTODY.steps]
RECORDED = json.loads((VECTORS / "simulator.json").read_text())
KMS = coincurve.PrivateKey(bytes(31) + b"\1")
APPLICATION = coincurve.PrivateKey(bytes(31) + b"\2")
OTHER = coincurve.PrivateKey(bytes(31) + b"\3")
APP_ID = "5b" * 20
RECEIPT = bytes(range(32))
SEALING = coincurve.PrivateKey(bytes(31) + b"\4").public_key
X25519 = bytes(range(1, 33))
FACTS = DstackFacts(app_id=APP_ID, key_provider={"name": "kms", "id": "3059"})


def signed(key: coincurve.PrivateKey, message: bytes) -> str:
    return key.sign_recoverable(keccak256(message), hasher=None).hex()


def proof(
    public_key: bytes,
    *,
    purpose: str = "receipt",
    algorithm: str = "ed25519",
    application: coincurve.PrivateKey = APPLICATION,
    kms: coincurve.PrivateKey = KMS,
    app_id: str = APP_ID,
    **members: Any,
) -> dict[str, Any]:
    """A released key with the signatures over it, made as the KMS and the guest's agent make them."""
    over = members.get("kms_public_key") or public_key.hex()
    issued = b"dstack-kms-issued:" + bytes.fromhex(app_id) + application.public_key.format()
    chain = [signed(application, f"{purpose}:{over}".encode()), signed(kms, issued)]
    value = {"path": f"confide/1/{purpose}", "purpose": purpose, "algorithm": algorithm, "public_key": public_key.hex()}
    return value | {"signature_chain": chain} | members


def sealing(**members: Any) -> dict[str, Any]:
    return proof(SEALING.format(), purpose="e2ee-secp256k1", algorithm="secp256k1", **members)


def root(key: coincurve.PrivateKey = KMS) -> str:
    return key.public_key.format().hex()


def policy(*providers: str, custody: bool = True) -> Policy:
    dstack, keys = DstackPolicy(key_providers=providers), KeysPolicy(custody=custody)
    return Policy(roots=("intel",), unsafe_any_workload=True, dstack=dstack, keys=keys)


def custody(*keys: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"provider": "dstack-kms", "keys": list(keys)} | members


@dataclass(frozen=True)
class Case:
    """What one verification is given; every step of it passes."""

    shown: Any = field(default_factory=lambda: custody(proof(RECEIPT), sealing()))
    keys: tuple[bytes, ...] = (RECEIPT, SEALING.format(compressed=False))
    facts: DstackFacts | None = FACTS
    policy: Policy = field(default_factory=lambda: policy(root()))

    def changed(self, **members: Any) -> Case:
        return replace(self, **members)

    def first(self, **members: Any) -> Case:
        """The same with a changed first proof; None leaves a member out."""
        one, *others = self.shown["keys"]
        one = {name: value for name, value in (one | members).items() if value is not None}
        return replace(self, shown=custody(one, *others))

    def verify(self) -> Ledger:
        ledger = Ledger()
        context = Context(self.policy, Roots.of(()), NOW)
        verify_custody(ledger, context, self.shown, keyset_keys=self.keys, dstack=self.facts)
        assert [finding.step for finding in ledger.findings] == STEPS
        return ledger


GOOD = Case()


def test_every_step_passes_where_all_keys_are_released_ones() -> None:
    ledger = GOOD.verify()
    assert {finding.outcome for finding in ledger.findings} == {Outcome.PASS}
    assert not ledger.anchors
    shown = ledger.facts["custody"]
    assert shown == {
        "application_key": APPLICATION.public_key.format().hex(),
        "root": root(),
        "released": [RECEIPT.hex(), SEALING.format().hex()],
        "not_shown": [],
    }


def test_the_recorded_signature_of_a_kms_verifies_with_the_recorded_guest() -> None:
    facts, _ = recorded("simulator").verify()
    shown = RECORDED["key_custody"]
    keys = tuple(bytes.fromhex(key["public_key"]) for key in shown["keys"])
    ledger = Case(shown, keys, facts, policy(RECORDED["kms_root"])).verify()
    assert {finding.outcome for finding in ledger.findings} == {Outcome.PASS}
    assert ledger.facts["custody"]["application_key"] == RECORDED["application_key"]
    assert ledger.facts["custody"]["root"] == RECORDED["kms_root"]
    ledger = Case(shown, keys, FACTS, policy(RECORDED["kms_root"])).verify()
    assert failed(ledger) == ["custody.3"]


BREAKS: dict[str, tuple[str, Case]] = {
    "another provider": ("custody.1", GOOD.changed(shown=custody(proof(RECEIPT), provider="other"))),
    "no provider": ("custody.1", GOOD.changed(shown={"keys": [proof(RECEIPT)]})),
    "no keys": ("custody.1", GOOD.changed(shown=custody())),
    "too many keys": ("custody.1", GOOD.changed(shown=custody(*[proof(RECEIPT)] * (MOST_KEYS + 1)))),
    "keys are no list": ("custody.1", GOOD.changed(shown=custody(keys={}))),
    "one signature": ("custody.1", GOOD.first(signature_chain=["00" * 65])),
    "three signatures": ("custody.1", GOOD.first(signature_chain=["00" * 65] * 3)),
    "signatures are numbers": ("custody.1", GOOD.first(signature_chain=[1, 2])),
    "signature without hex": ("custody.1", GOOD.first(signature_chain=["zz", "00"])),
    "no public key": ("custody.1", GOOD.first(public_key=None)),
    "public key without hex": ("custody.1", GOOD.first(public_key="x")),
    "public key of another size": ("custody.1", GOOD.first(public_key="00" * 31)),
    "public key off the curve": ("custody.1", GOOD.first(public_key="02" + "00" * 32, algorithm="secp256k1")),
    "public key of another algorithm": ("custody.1", GOOD.first(algorithm="secp256k1")),
    "unknown algorithm": ("custody.1", GOOD.first(algorithm="rsa")),
    "KMS's public key off the curve": ("custody.1", GOOD.first(kms_public_key="02" + "00" * 32)),
    "no purpose": ("custody.1", GOOD.first(purpose=None)),
    "signed for another purpose": ("custody.2", GOOD.first(purpose="other")),
    "signed for another key": ("custody.2", GOOD.first(public_key=X25519.hex())),
    "two applications": ("custody.2", GOOD.changed(shown=custody(proof(RECEIPT), sealing(application=OTHER)))),
    "two roots": ("custody.2", GOOD.changed(shown=custody(proof(RECEIPT), sealing(kms=OTHER)))),
    "two ids": ("custody.2", GOOD.changed(shown=custody(proof(RECEIPT), sealing(app_id="00" * 20)))),
    "signature that is none": ("custody.2", GOOD.first(signature_chain=["00" * 65, "00" * 65])),
    "short signature": ("custody.2", GOOD.first(signature_chain=["00" * 64, "00" * 65])),
    "measured id of another size": ("custody.2", GOOD.changed(facts=replace(FACTS, app_id="00"))),
    "another root": ("custody.3", GOOD.changed(policy=policy(root(OTHER)))),
    "one proof for another application": (
        "custody.3",
        GOOD.changed(shown=custody(proof(RECEIPT, app_id="00" * 20)), keys=(RECEIPT,)),
    ),
    "no KMS measured": ("custody.3", GOOD.changed(facts=replace(FACTS, key_provider={"name": "none", "id": ""}))),
    "no provider measured": ("custody.3", GOOD.changed(facts=replace(FACTS, key_provider=None))),
    "keys that are not in the keyset": ("custody.4", GOOD.changed(keys=(X25519,))),
    "an empty keyset": ("custody.4", GOOD.changed(keys=())),
}


@pytest.mark.parametrize(("step", "case"), BREAKS.values(), ids=[f"{v[0]} {k}" for k, v in BREAKS.items()])
def test_one_thing_broken_fails_its_own_step(step: str, case: Case) -> None:
    ledger = case.verify()
    assert failed(ledger) == [step]
    if step in STEPS[:2]:
        assert missing(ledger) == STEPS[STEPS.index(step) + 1 :]
        assert "custody" not in ledger.facts


def test_a_key_that_no_proof_covers_is_named_custody_5() -> None:
    """custody.5: X25519 keys are of no kind that a KMS releases, so they are never shown to be released."""
    ledger = GOOD.changed(keys=(*GOOD.keys, X25519)).verify()
    assert not failed(ledger)
    assert not missing(ledger)
    assert unmade(ledger) == ["custody.5"]
    assert X25519.hex() in detail(ledger, "custody.5")
    assert ledger.facts["custody"]["not_shown"] == [X25519.hex()]


@pytest.mark.parametrize("key", [SEALING.format(), SEALING.format(compressed=False), SEALING.format(False)[1:]])
def test_a_point_is_one_key_in_any_encoding(key: bytes) -> None:
    shown = custody(sealing() | {"public_key": key.hex()})
    for other in (SEALING.format(), SEALING.format(compressed=False)):
        assert not failed(GOOD.changed(shown=shown, keys=(other,)).verify())


def test_proofs_of_another_server_say_less() -> None:
    """Where the signature is over a counterpart of the same secret, that it is one is only the workload's word."""
    counterpart = {"kms_public_key": OTHER.public_key.format().hex(), "algo": "ed25519", "role": "receipt"}
    shown = custody(proof(RECEIPT, algorithm="", **counterpart))
    ledger = GOOD.changed(shown=shown, keys=(RECEIPT,)).verify()
    assert not failed(ledger)
    assert missing(ledger) == ["custody.4"]
    assert unmade(ledger) == ["custody.5"]
    same = sealing(kms_public_key=SEALING.format().hex())
    assert not failed(GOOD.changed(shown=custody(same), keys=(SEALING.format(compressed=False),)).verify())
    assert not missing(GOOD.changed(shown=custody(same), keys=(SEALING.format(compressed=False),)).verify())


# What is missing -----------------------------------------------------------------------------------------------------

NOT_NEEDED = policy(custody=False)


@pytest.mark.parametrize(("wanted", "needed"), [(NOT_NEEDED, False), (policy(), True), (policy(root()), True)])
def test_proofs_that_are_missing_matter_where_the_policy_wants_them(wanted: Policy, needed: bool) -> None:
    ledger = GOOD.changed(shown=None, policy=wanted).verify()
    assert (missing(ledger), unmade(ledger)) == ((STEPS, []) if needed else ([], STEPS))


def test_a_named_root_wants_proofs_and_the_key_of_a_ca_does_not() -> None:
    named = GOOD.changed(shown=None, policy=policy(root(), custody=False)).verify()
    assert missing(named) == STEPS
    other = GOOD.changed(shown=None, policy=policy("3059301306", custody=False)).verify()
    assert unmade(other) == STEPS


@pytest.mark.parametrize(("wanted", "needed"), [(NOT_NEEDED, False), (policy(), True)])
@pytest.mark.parametrize("facts", [None, DstackFacts()])
def test_without_a_measured_application_nothing_is_shown(
    wanted: Policy, needed: bool, facts: DstackFacts | None
) -> None:
    ledger = GOOD.changed(facts=facts, policy=wanted).verify()
    assert not failed(ledger)
    assert (missing(ledger), unmade(ledger)) == ((STEPS[1:], []) if needed else ([], STEPS[1:]))


@pytest.mark.parametrize(("wanted", "needed"), [(NOT_NEEDED, False), (policy(), True), (policy("3059"), True)])
def test_without_a_known_root_the_chain_shows_nothing(wanted: Policy, needed: bool) -> None:
    ledger = GOOD.changed(policy=wanted).verify()
    assert not failed(ledger)
    assert (missing(ledger), unmade(ledger)) == ((["custody.3"], []) if needed else ([], ["custody.3"]))
    assert root() in detail(ledger, "custody.3")


# Mutations -----------------------------------------------------------------------------------------------------------


def _flipped(text: str, place: int) -> str:
    data = bytearray.fromhex(text)
    data[place] ^= 1
    return data.hex()


def _mutations(case: Case) -> Iterator[Case]:
    """Every byte of every signature and key, the purposes, and the measured id: one proof alone, and both."""
    count = len(case.shown["keys"])
    for place in range(count):
        value = case.shown["keys"][place]
        first, second = value["signature_chain"]
        changes: list[dict[str, Any]] = [{"purpose": value["purpose"] + "x"}, {"purpose": value["purpose"][:-1]}]
        changes += [{"signature_chain": [_flipped(first, byte), second]} for byte in range(65)]
        changes += [{"signature_chain": [first, _flipped(second, byte)]} for byte in range(65)]
        changes += [{"signature_chain": [second, first]}]
        changes += [{"public_key": _flipped(value["public_key"], byte)} for byte in range(32)]
        for change in changes:
            keys = list(case.shown["keys"])
            keys[place] = value | change
            yield case.changed(shown=custody(*keys))
    for byte in range(20):
        assert case.facts is not None
        assert case.facts.app_id is not None
        yield case.changed(facts=replace(case.facts, app_id=_flipped(case.facts.app_id, byte)))


def _made() -> Iterator[Case]:
    yield from _mutations(GOOD)


def _single() -> Iterator[Case]:
    yield from _mutations(Case(custody(proof(RECEIPT)), (RECEIPT,)))


def _recorded() -> Iterator[Case]:
    facts, _ = recorded("simulator").verify()
    shown = RECORDED["key_custody"]
    keys = tuple(bytes.fromhex(key["public_key"]) for key in shown["keys"])
    yield from _mutations(Case(shown, keys, facts, policy(RECORDED["kms_root"])))


@pytest.mark.parametrize("mutations", [_made, _single, _recorded])
def test_no_mutation_is_accepted(mutations: Callable[[], Iterator[Case]]) -> None:
    tried = accepted = 0
    for case in mutations():
        tried += 1
        accepted += not failed(case.verify())
    print(f"custody, {mutations.__name__}: {tried} mutations tried, {accepted} accepted")
    assert accepted == 0
    assert tried > 150


# Hostile input -------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    member=st.sampled_from(["purpose", "public_key", "algorithm", "kms_public_key", "signature_chain"]), value=VALUES
)
def test_any_member_gives_findings_and_no_exception(member: str, value: Any) -> None:
    one = proof(RECEIPT) | {member: value}
    GOOD.changed(shown=custody(one)).verify()


@settings(max_examples=100, derandomize=True, deadline=None)
@given(value=st.dictionaries(st.text(max_size=8) | st.sampled_from(["provider", "keys"]), VALUES, max_size=3))
def test_any_proofs_give_findings_and_no_exception(value: Any) -> None:
    GOOD.changed(shown=value).verify()


def test_any_signatures_give_findings_and_no_exception() -> None:
    source = random.Random(1)
    for _ in range(60):
        chain = [source.randbytes(64).hex() + f"{source.randrange(4):02x}" for _ in range(2)]
        GOOD.first(signature_chain=chain).verify()


def test_the_forms_of_this_projects_own_evidence_are_read() -> None:
    """What the server's ``KeyProof`` becomes in JSON, field by field."""
    assert set(proof(RECEIPT)) == {"path", "purpose", "algorithm", "public_key", "signature_chain"}
    decoded = msgspec.json.decode(msgspec.json.encode(GOOD.shown))
    assert not failed(GOOD.changed(shown=decoded).verify())
    assert secp256k1.decode(SEALING.format()) == SEALING.format(compressed=False)[1:]
