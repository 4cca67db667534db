"""The older surface: each step broken alone, what is missing, layouts, channels, hostile input, and mutations."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from confide.errors import ConfideError
from confide.verify.chain import read_pem
from confide.verify.context import Context
from confide.verify.demands import Held, check_channel
from confide.verify.flat import MOST_ATTESTATIONS, MOST_BYTES
from confide.verify.legacy import LEGACY, MOST_SIGNATURE, SIGNATURE, verify_signature
from confide.verify.material import Item
from confide.verify.policy import (
    AgePolicy,
    ChannelPolicy,
    DstackPolicy,
    GpuPolicy,
    KeysPolicy,
    ModelsPolicy,
    ProvenancePolicy,
    SnpMeasurement,
    SnpPolicy,
    TdMeasurement,
    TdxPolicy,
)
from confide.verify.roots import Roots
from confide.verify.saved import Channel, Established, Signer
from confide.verify.services import named
from confide.verify.verdict import CheckFailed, ExitCode, Ledger, NotChecked, Outcome
from confide.wire import jcs, legacy, secp256k1
from confide.wire.eventlog import RUNTIME_EVENT
from confide.wire.legacy import Algorithm
from confide.wire.tdx import parse_quote
from tests.vectors.loading import VECTORS, load
from tests.verify import making
from tests.verify.making_services import (
    HOST,
    NONCE,
    NOW,
    OTHER_SIGNER,
    OTHER_TLS,
    SIGNER,
    TLS,
    Case,
    answer,
    code,
    collateral,
    failing,
    flat,
    listed,
    machine,
    missing,
    policy,
)

ADAPTER = named("vllm-proxy")
OTHER_NONCE = "5b" * 32
PUBLISHED: Any = load(VECTORS / "phala" / "computed.json")
GOOD = Case(listed(flat()))


def run(case: Case) -> tuple[Ledger, Established | None]:
    return case.run(ADAPTER)


# Good reports --------------------------------------------------------------------------------------------------------

INFO = machine().info()
SEALED = Channel(HOST, sealed_to=SIGNER.public_key("ecdsa").hex())
SHAPES: dict[str, Case] = {
    "an address and a TLS key": GOOD,
    "an address alone, sealed": GOOD.but(value=listed(flat(tls=None)), channel=SEALED),
    "an Ed25519 key and a TLS key": GOOD.but(value=listed(flat("ed25519"))),
    "an Ed25519 key alone, sealed": GOOD.but(
        value=listed(flat("ed25519", tls=None)), channel=Channel(HOST, sealed_to=SIGNER.public_key("ed25519").hex())
    ),
    "a TLS key that the report does not repeat": GOOD.but(value=listed(flat(tls_cert_fingerprint=None))),
    "no list": GOOD.but(value=flat()),
    "no list, but null": GOOD.but(value={**flat(), "all_attestations": None}),
    "a key with its prefix": GOOD.but(value=flat(signing_public_key="04" + SIGNER.public_key("ecdsa").hex())),
    "no key": GOOD.but(value=flat(signing_public_key=None)),
    "no key of Ed25519": GOOD.but(value=flat("ed25519", signing_public_key=None)),
    "no nonce echoed": GOOD.but(value=flat(request_nonce=None)),
    "a nonce in capitals": GOOD.but(value=flat(request_nonce=NONCE.upper()), nonce=NONCE.upper()),
    "an address in lower case": GOOD.but(value=flat(signing_address=SIGNER.address("ecdsa").lower())),
    "tcb_info as an object": GOOD.but(value=flat(info={**INFO, "tcb_info": msgspec.json.decode(INFO["tcb_info"])})),
    "an event log as a list": GOOD.but(value=flat(event_log=msgspec.json.decode(machine().event_log()))),
    "an event log in tcb_info only": GOOD.but(value=flat(event_log="")),
    "a payload as an object": GOOD.but(value=flat(nvidia_payload=msgspec.json.decode(flat()["nvidia_payload"]))),
    "three GPUs": GOOD.but(value=flat(gpus=3), policy=policy(gpu=GpuPolicy(required=True, count=3))),
    "no GPUs": GOOD.but(value=flat(gpus=0)),
    "no payload": GOOD.but(value=flat(nvidia_payload=None)),
    "a key that is empty": GOOD.but(value=flat(signing_public_key="")),
    "saved three days ago": GOOD.but(captured_at=NOW - 3 * 86400, policy=policy(age=AgePolicy(report_days=7))),
    "a token of another machine": GOOD.but(items=(collateral(), Item("nras-token", "0xff", b"[]"))),
    "several instances": GOOD.but(
        value=listed(flat(), flat(signer=OTHER_SIGNER, tls=OTHER_TLS), flat("ed25519", signer=OTHER_SIGNER))
    ),
    "both bound": GOOD.but(
        channel=Channel(HOST, tls_spki_sha256=TLS, sealed_to=SIGNER.public_key("ecdsa").hex()),
        policy=policy(channel=ChannelPolicy(require="both")),
    ),
    "a gateway of aci/1": GOOD.but(
        value=flat(
            event_log=None,
            vm_config=None,
            info=None,
            quote=None,
            request_nonce=None,
            api_version="aci/1",
            attestation={"evidence": {"event_log": machine().event_log(), "app_compose": machine().app_compose}},
        )
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_good_reports_of_every_shape(shape: str) -> None:
    ledger, established = run(SHAPES[shape])
    assert [f for f in ledger.findings if f.outcome is Outcome.FAIL] == []
    assert missing(ledger, "legacy", "tdx", "dstack") == set()
    assert code(ledger) is ExitCode.DEVELOPMENT
    assert established is not None
    assert Signer("ecdsa", SIGNER.address_bytes("ecdsa")) in established.signers or "Ed25519" in shape


def test_instances_are_established_once_each() -> None:
    ledger, established = run(SHAPES["several instances"])
    assert established == Established(
        signers=(
            Signer("ecdsa", SIGNER.address_bytes("ecdsa")),
            Signer("ecdsa", OTHER_SIGNER.address_bytes("ecdsa")),
            Signer("ed25519", OTHER_SIGNER.address_bytes("ed25519")),
        )
    )
    facts = ledger.facts["attestations"]
    assert [fact["tls_key"] for fact in facts] == [TLS, OTHER_TLS, TLS]
    assert {fact["compose_hash"] for fact in facts} == {machine().compose_hash.hex()}


def test_an_attestation_that_the_list_repeats_is_verified_once() -> None:
    """NEAR's machines and Venice put more members around a report than into its repetition."""
    ledger, _ = run(GOOD.but(value=listed(flat(), verified=True, compose_manager_attestation={})))
    assert sum(finding.step == "legacy.1" for finding in ledger.findings) == 1


def test_what_our_own_server_serves_is_of_this_format() -> None:
    """The members that ``api/attestation.py`` builds with :class:`FlatReport`, and the list around them."""
    report = msgspec.convert(flat(), legacy.FlatReport)
    ledger, established = run(GOOD.but(value=report.body()))
    assert code(ledger) is ExitCode.DEVELOPMENT
    assert established is not None


# Each step, broken alone ---------------------------------------------------------------------------------------------


def slot(signer: Any = SIGNER, nonce: str = NONCE, tls: str | None = TLS) -> bytes:
    spki = None if tls is None else bytes.fromhex(tls)
    return legacy.report_data(signer.address_bytes("ecdsa"), bytes.fromhex(nonce), spki)


ELSEWHERE = TdxPolicy(measurements=(TdMeasurement(mr_td="11" * 48),))
BREAKS: dict[str, Case] = {
    "legacy.1 no address": GOOD.but(value=flat(signing_address="0x12")),
    "legacy.1 no algorithm": GOOD.but(value=flat(signing_algo="rsa")),
    "legacy.1 no quote": GOOD.but(value=flat(intel_quote="zz", quote=None)),
    "legacy.1 an empty quote": GOOD.but(value=flat(intel_quote="", quote=None)),
    "legacy.1 a quote too long": GOOD.but(value=flat(intel_quote="00" * 70_000, quote=None)),
    "legacy.1 two quotes": GOOD.but(value=flat(quote=machine().quote(bytes(64)).hex())),
    "legacy.1 no fingerprint": GOOD.but(value=flat(tls_cert_fingerprint="c0")),
    "legacy.1 no key in hex": GOOD.but(value=flat(signing_public_key="xyz")),
    "legacy.1 a key too long": GOOD.but(value=flat(signing_public_key="00" * 99)),
    "legacy.1 no object": GOOD.but(value=[flat()]),
    "legacy.1 no JSON": GOOD.but(raw=b"<html>"),
    "legacy.1 a member twice": GOOD.but(raw=b'{"signing_algo":"ecdsa","signing_algo":"ed25519"}'),
    "legacy.1 a list that is none": GOOD.but(value={**flat(), "all_attestations": {}}),
    "legacy.1 another of the list": GOOD.but(value=listed(flat(), {"signing_address": "0x"})),
    "legacy.2 another TD": GOOD.but(policy=policy(tdx=ELSEWHERE)),
    "legacy.2 a quote with other bytes": GOOD.but(
        value=flat(intel_quote=flat()["quote"][:1400] + "00000000" + flat()["quote"][1408:], quote=None)
    ),
    "legacy.3 another's address": GOOD.but(value=flat(report_data=slot(OTHER_SIGNER))),
    "legacy.3 another's address, and no TLS key": GOOD.but(
        value=flat(tls=None, report_data=slot(OTHER_SIGNER, tls=None)), channel=SEALED
    ),
    "legacy.3 another TLS key": GOOD.but(value=flat(report_data=slot(tls=OTHER_TLS))),
    "legacy.3 a TLS key that is not in the quote": GOOD.but(value=flat(report_data=slot(tls=None))),
    "legacy.3 a text that is not in the quote": GOOD.but(value={**flat(), "report_data": "00" * 64}),
    "legacy.4 a quote for another nonce": GOOD.but(value=flat(report_data=slot(nonce=OTHER_NONCE))),
    "legacy.4 another nonce echoed": GOOD.but(value=flat(request_nonce=OTHER_NONCE)),
    "legacy.5 another's key": GOOD.but(value=flat(signing_public_key=OTHER_SIGNER.public_key("ecdsa").hex())),
    "legacy.5 a key off the curve": GOOD.but(value=flat(signing_public_key="11" * 64)),
    "legacy.5 another's Ed25519 key": GOOD.but(
        value=flat("ed25519", signing_public_key=OTHER_SIGNER.public_key("ed25519").hex())
    ),
    "legacy.6 GPUs for another nonce": GOOD.but(value=flat(gpu_nonce=OTHER_NONCE)),
    "legacy.6 a payload for another nonce": GOOD.but(
        value=flat(nvidia_payload=legacy.nvidia_payload(OTHER_NONCE, [], ""))
    ),
    "legacy.6 one GPU twice": GOOD.but(
        value=flat(nvidia_payload=legacy.nvidia_payload(NONCE, making.made_gpus(1, bytes.fromhex(NONCE))[0] * 2, ""))
    ),
    "legacy.6 a token that is none": GOOD.but(items=(collateral(), Item("nras-token", "", b"[]"))),
    "legacy.6 no payload": GOOD.but(value=flat(nvidia_payload="[]")),
    "legacy.6 too many GPUs": GOOD.but(
        value=flat(
            nvidia_payload=legacy.nvidia_payload(NONCE, [{"certificate": "", "evidence": "", "arch": ""}] * 33, "")
        )
    ),
    "legacy.6 too few GPUs": GOOD.but(policy=policy(gpu=GpuPolicy(required=True, count=2))),
    "legacy.7 another compose file": GOOD.but(policy=policy(dstack=DstackPolicy(compose_hashes=("11" * 32,)))),
    "legacy.7 an event that was not measured": GOOD.but(
        value=flat(event_log=machine().event_log().replace("key-provider", "key-provided"))
    ),
    "legacy.8 another TLS key": GOOD.but(channel=Channel(HOST, tls_spki_sha256=OTHER_TLS)),
    "legacy.8 no TLS": GOOD.but(channel=Channel(HOST)),
    "legacy.8 sealed to a stranger": GOOD.but(
        channel=Channel(HOST, tls_spki_sha256=TLS, sealed_to=OTHER_SIGNER.public_key("ecdsa").hex())
    ),
    "legacy.8 sealed to no key that long": GOOD.but(channel=Channel(HOST, tls_spki_sha256=TLS, sealed_to="04" * 99)),
    "legacy.8 sealed to no key": GOOD.but(channel=Channel(HOST, tls_spki_sha256=TLS, sealed_to="nonsense")),
    "legacy.9 another image": GOOD.but(policy=policy(provenance=ProvenancePolicy(images=("sha256:" + "11" * 32,)))),
    "legacy.10 too old": GOOD.but(captured_at=NOW - 8 * 86400, policy=policy(age=AgePolicy(report_days=7))),
    "legacy.10 from the future": GOOD.but(captured_at=NOW + 1),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_step_breaks_alone(name: str) -> None:
    ledger, established = run(BREAKS[name])
    assert failing(ledger, "legacy") == {name.split()[0]}
    assert code(ledger) is ExitCode.FAILED
    if "another of the list" not in name:
        assert established is None


def test_every_step_is_broken() -> None:
    assert {name.split()[0] for name in BREAKS} == {step.id for step in LEGACY.steps}


# What is missing -----------------------------------------------------------------------------------------------------

V1 = flat(tls=None)
NO_COLLATERAL = (Item("jwks", "", b"{}"),)
UNANSWERED: dict[str, Case] = {
    "legacy.2 no collateral": GOOD.but(items=NO_COLLATERAL),
    "legacy.4 no nonce": GOOD.but(nonce=None),
    "legacy.6 no GPUs": GOOD.but(value=flat(gpus=0), policy=policy(gpu=GpuPolicy(required=True))),
    "legacy.6 no nonce for GPUs": GOOD.but(nonce=None, policy=policy(gpu=GpuPolicy(required=True))),
    "legacy.6 no token": GOOD.but(policy=policy(gpu=GpuPolicy(nras=True))),
    "legacy.7 no log": GOOD.but(value=flat(event_log=None, info=None)),
    "legacy.8 no channel": GOOD.but(channel=None),
    "legacy.8 nothing bound": GOOD.but(value=V1),
    "legacy.8 TLS demanded": GOOD.but(value=V1, channel=SEALED, policy=policy(channel=ChannelPolicy(require="tls"))),
    "legacy.8 both demanded": GOOD.but(policy=policy(channel=ChannelPolicy(require="both"))),
    "legacy.8 sealing demanded": GOOD.but(policy=policy(channel=ChannelPolicy(require="sealed"))),
    "legacy.9 manifests": GOOD.but(policy=policy(models=ModelsPolicy(manifests=("sha256:" + "11" * 32,)))),
    "legacy.9 custody": GOOD.but(policy=policy(keys=KeysPolicy(custody=True))),
    "legacy.9 subjects": GOOD.but(policy=policy(keys=KeysPolicy(subjects=("a",)))),
    "legacy.9 repositories": GOOD.but(policy=policy(provenance=ProvenancePolicy(repositories=("a",)))),
    "legacy.9 commits": GOOD.but(policy=policy(provenance=ProvenancePolicy(commits=("a",)))),
    "legacy.9 no workload on TDX": GOOD.but(
        policy=policy(
            tdx=TdxPolicy(), dstack=DstackPolicy(), snp=SnpPolicy(measurements=(SnpMeasurement(measurement="11" * 48),))
        )
    ),
}


@pytest.mark.parametrize("name", UNANSWERED)
def test_what_the_policy_needs_and_the_report_lacks_is_missing(name: str) -> None:
    ledger, _ = run(UNANSWERED[name])
    assert failing(ledger, "legacy") == set()
    assert name.split()[0] in missing(ledger, "legacy")
    assert code(ledger) is ExitCode.NOT_ENOUGH


def test_without_a_nonce_only_freshness_is_missing() -> None:
    ledger, established = run(GOOD.but(nonce=None))
    assert missing(ledger, "legacy") == {"legacy.4"}
    assert established is not None


def test_images_of_the_measured_compose_file_may_name_the_workload() -> None:
    accepted = policy(tdx=TdxPolicy(), dstack=DstackPolicy(), provenance=ProvenancePolicy(images=(making.IMAGE,)))
    ledger, _ = run(GOOD.but(policy=accepted))
    assert code(ledger) is ExitCode.DEVELOPMENT
    ledger, _ = run(GOOD.but(value=flat(event_log=None, info=None), policy=accepted))
    assert missing(ledger, "legacy") == {"legacy.9"}


def test_a_td_without_dstack_is_judged_by_its_registers() -> None:
    bare = GOOD.but(value=flat(event_log=None, vm_config=None, info=None), policy=policy(dstack=DstackPolicy()))
    ledger, _ = run(bare)
    assert code(ledger) is ExitCode.DEVELOPMENT
    ledger, _ = run(bare.but(policy=policy(dstack=DstackPolicy(), tdx=TdxPolicy(), unsafe_any_workload=True)))
    assert code(ledger) is ExitCode.DEVELOPMENT


# Several attestations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(2))
def test_one_bad_attestation_spoils_the_report(place: int) -> None:
    reports = [flat(), flat(signer=OTHER_SIGNER, tls=OTHER_TLS)]
    reports[place] = {**reports[place], "request_nonce": OTHER_NONCE}
    ledger, established = run(GOOD.but(value=listed(*reports)))
    assert failing(ledger, "legacy") == {"legacy.4"}
    assert code(ledger) is ExitCode.FAILED
    kept = (OTHER_SIGNER, SIGNER)[place]
    assert established == Established(signers=(Signer("ecdsa", kept.address_bytes("ecdsa")),))


def test_the_channel_must_end_at_one_of_them() -> None:
    several = GOOD.but(value=listed(flat(), flat(signer=OTHER_SIGNER, tls=OTHER_TLS)))
    for tls, outcomes in ((TLS, ["pass", "not checked"]), (OTHER_TLS, ["not checked", "pass"])):
        ledger, _ = run(several.but(channel=Channel(HOST, tls_spki_sha256=tls)))
        found = [(f.outcome, f.required) for f in ledger.findings if f.step == "legacy.8"]
        assert [outcome for outcome, _ in found] == outcomes
        assert code(ledger) is ExitCode.DEVELOPMENT
    ledger, _ = run(several.but(channel=Channel(HOST, tls_spki_sha256="c2" * 32)))
    assert [f.outcome for f in ledger.findings if f.step == "legacy.8"] == [Outcome.FAIL, Outcome.FAIL]


def test_a_claim_of_a_tls_key_in_an_attestation_that_does_not_bind_it_counts_for_nothing() -> None:
    liar = flat(signer=OTHER_SIGNER, tls=OTHER_TLS, report_data=slot(OTHER_SIGNER, tls=None))
    ledger, _ = run(GOOD.but(value=listed(flat(), liar), channel=Channel(HOST, tls_spki_sha256=OTHER_TLS)))
    assert failing(ledger, "legacy") == {"legacy.3", "legacy.8"}


@pytest.mark.parametrize("kind", ["chutes", "tinfoil", "x\x1b[31m" * 200])
def test_answers_that_a_gateway_passes_on_are_not_fresh(kind: str) -> None:
    """RedPill picks the nonce for these, so even one that is ours by chance is refused."""
    quote = base64.b64encode(machine().quote(slot())).decode()
    entry = {"instance_id": "a", "nonce": NONCE, "e2e_pubkey": "AA==", "intel_quote": quote, "gpu_evidence": []}
    document = {"attestation_type": kind, "nonce": NONCE, "all_attestations": [entry, entry]}
    ledger, established = run(GOOD.but(value=document))
    assert failing(ledger, "legacy") == {"legacy.4"}
    assert (established, code(ledger)) == (None, ExitCode.FAILED)
    (found,) = (finding for finding in ledger.findings if finding.step == "legacy.4")
    assert "the gateway and not the client chooses the nonce" in found.detail
    assert "\x1b" not in found.detail + found.subject


def test_an_attestation_that_is_passed_on_is_none_of_a_list_either() -> None:
    ledger, _ = run(GOOD.but(value=listed(flat(), flat(attestation_type="chutes"))))
    assert failing(ledger, "legacy") == {"legacy.1"}


# The channel ---------------------------------------------------------------------------------------------------------

KEY, NO = "aa" * 32, None
CHANNELS = [
    # require, TLS attested, TLS seen, sealed to, outcome
    ("either", TLS, TLS, NO, "pass"),
    ("either", TLS, OTHER_TLS, NO, "fail"),
    ("either", TLS, OTHER_TLS, KEY, "pass"),
    ("either", TLS, NO, NO, "fail"),
    ("either", NO, TLS, NO, "not checked"),
    ("either", NO, TLS, KEY, "pass"),
    ("either", TLS, TLS, "bb" * 32, "fail"),
    ("tls", TLS, TLS, NO, "pass"),
    ("tls", TLS, OTHER_TLS, KEY, "fail"),
    ("tls", NO, TLS, KEY, "not checked"),
    ("sealed", TLS, TLS, NO, "not checked"),
    ("sealed", TLS, OTHER_TLS, KEY, "pass"),
    ("sealed", NO, NO, KEY, "pass"),
    ("both", TLS, TLS, KEY, "pass"),
    ("both", TLS, OTHER_TLS, KEY, "fail"),
    ("both", TLS, TLS, NO, "not checked"),
    ("both", NO, TLS, KEY, "not checked"),
]


@pytest.mark.parametrize(("require", "attested", "seen", "sealed", "outcome"), CHANNELS)
def test_channels(require: Any, attested: str | None, seen: str | None, sealed: str | None, outcome: str) -> None:
    context = Context(policy(channel=ChannelPolicy(require=require)), Roots(()), NOW)
    held = Held(() if attested is None else (attested,), lambda key: key == KEY)
    made = "pass"
    try:
        check_channel(context, Channel(HOST, tls_spki_sha256=seen, sealed_to=sealed), held)
    except CheckFailed:
        made = "fail"
    except NotChecked as missed:
        made = "not checked" if missed.required else "not needed"
    assert made == outcome


# Hostile reports -----------------------------------------------------------------------------------------------------


def refused(case: Case) -> None:
    ledger, established = run(case)
    assert failing(ledger, "legacy") == {"legacy.1"}
    assert established is None


def test_too_much_is_not_read() -> None:
    refused(GOOD.but(raw=b" " * (MOST_BYTES + 1)))
    refused(GOOD.but(value={**flat(), "all_attestations": [flat()] * (MOST_ATTESTATIONS + 1)}))
    refused(GOOD.but(raw=b'{"signing_address":' + b"[" * 100_000))
    refused(GOOD.but(raw=b'{"a":' * 70 + b"1" + b"}" * 70))


def test_as_many_as_are_read_are_verified_in_time() -> None:
    others = [{**flat(gpus=0), "vm_config": str(number)} for number in range(MOST_ATTESTATIONS)]
    ledger, _ = run(GOOD.but(value={**flat(), "all_attestations": others}))
    assert sum(finding.step == "legacy.1" for finding in ledger.findings) == MOST_ATTESTATIONS + 1


@pytest.mark.parametrize(
    "value",
    [None, 1, "x", [], {}, {"a": 1}, {"signing_address": 1, "intel_quote": 2}, {"all_attestations": [1, None, "x"]}],
)
def test_other_values_are_refused(value: Any) -> None:
    ledger, established = run(GOOD.but(value=value))
    assert failing(ledger, "legacy") == {"legacy.1"}
    assert established is None


WRONG_TYPES: tuple[Any, ...] = (None, True, 7, -1, 1.5, "", "x", "00", "\N{GRINNING FACE}", [], [1], {}, {"a": [{}]})


@pytest.mark.parametrize("member", sorted(flat()))
def test_members_of_other_types_are_refused_or_left_unread(member: str) -> None:
    for wrong in WRONG_TYPES:
        value = flat()
        value[member] = wrong
        ledger, _ = run(GOOD.but(value=value))
        is_optional = member in ("signing_public_key", "tls_cert_fingerprint", "vm_config") and wrong in ("", {})
        if code(ledger) is ExitCode.DEVELOPMENT:
            assert is_optional or (member, wrong) in ACCEPTED, (member, wrong)


ACCEPTED: list[tuple[str, Any]] = [
    ("nvidia_payload", ""),
    ("nvidia_payload", {}),
    ("event_log", ""),
    ("event_log", []),
    ("vm_config", ""),
    ("vm_config", {}),
    ("info", {}),
    ("info", {"a": [{}]}),
    ("vm_config", {"a": [{}]}),
]


# Signatures ----------------------------------------------------------------------------------------------------------

REQUEST = PUBLISHED["signature"]["request_body"].encode()
RESPONSE = PUBLISHED["signature"]["response_body"].encode()
ASKED, ANSWERED = jcs.sha256(REQUEST), jcs.sha256(RESPONSE)
HASHES = f"{hashlib.sha256(REQUEST).hexdigest()}:{hashlib.sha256(RESPONSE).hexdigest()}"
KEYS = PUBLISHED["keys"]
HARDHAT = Established(
    signers=(
        Signer("ecdsa", legacy.parse_address("ecdsa", KEYS["eth_address_checksummed"])),
        Signer("ed25519", bytes.fromhex(KEYS["ed25519_public"])),
    )
)
OURS = Established(signers=tuple(Signer(name, SIGNER.address_bytes(name)) for name in legacy.ALGORITHMS))


def signature(
    value: Any,
    established: Established = OURS,
    *,
    asked: str | None = ASKED,
    answered: str | None = ANSWERED,
    model: str | None = None,
) -> Ledger:
    ledger = Ledger()
    data = value if isinstance(value, bytes) else msgspec.json.encode(value)
    context = Context(policy(), Roots(()), NOW)
    verify_signature(ledger, context, established, data, request_digest=asked, response_digest=answered, model=model)
    return ledger


@pytest.mark.parametrize("case", PUBLISHED["signature"]["cases"], ids=["two parts", "three parts"])
@pytest.mark.parametrize("algorithm", legacy.ALGORITHMS)
def test_published_signatures_pass(case: dict[str, str], algorithm: Algorithm) -> None:
    address = KEYS["eth_address_checksummed"] if algorithm == "ecdsa" else KEYS["ed25519_public"]
    value = {
        "text": case["text"],
        "signature": case[f"signature_{algorithm}"],
        "signing_address": address,
        "signing_algo": algorithm,
    }
    ledger = signature(value, HARDHAT)
    assert failing(ledger, "signature") == missing(ledger, "signature") == set()
    assert signature({**value, "signing_address": address.lower()}, HARDHAT).passed("signature.3")


@pytest.mark.parametrize("algorithm", legacy.ALGORITHMS)
@pytest.mark.parametrize("model", ["m", "phala/m:free", "a:b:c", "00" * 32])
def test_signatures_of_our_server_pass(algorithm: Algorithm, model: str) -> None:
    ledger = signature(answer(f"{model}:{HASHES}", algorithm), model=model)
    assert ledger.passed(*(step.id for step in SIGNATURE.steps))
    ledger = signature(answer(HASHES, algorithm), model=model)
    assert ledger.passed(*(step.id for step in SIGNATURE.steps[:5]))
    assert missing(ledger, "signature") == set()


def flipped() -> dict[str, Any]:
    """The other spelling of a signature: s from the upper half, and v turned."""
    made = answer(HASHES)
    raw = bytes.fromhex(made["signature"][2:])
    high = secp256k1.ORDER - int.from_bytes(raw[32:64], "big")
    return {**made, "signature": "0x" + (raw[:32] + high.to_bytes(32, "big") + bytes([55 - raw[64]])).hex()}


SIGNATURE_BREAKS: dict[str, Callable[[], Ledger]] = {
    "signature.1 no JSON": lambda: signature(b"<html>"),
    "signature.1 no object": lambda: signature([]),
    "signature.1 no algorithm": lambda: signature(answer(HASHES, signing_algo="rsa")),
    "signature.1 no signature": lambda: signature({"text": HASHES}),
    "signature.1 too long": lambda: signature(b" " * (MOST_SIGNATURE + 1)),
    "signature.2 no hashes": lambda: signature(answer("hello")),
    "signature.2 one hash": lambda: signature(answer(HASHES.split(":")[0])),
    "signature.2 hashes in capitals": lambda: signature(answer(HASHES.upper())),
    "signature.2 an empty model": lambda: signature(answer(":" + HASHES)),
    "signature.3 another's": lambda: signature(answer(HASHES, signer=OTHER_SIGNER)),
    "signature.3 another's Ed25519": lambda: signature(answer(HASHES, "ed25519", OTHER_SIGNER)),
    "signature.3 under our name": lambda: signature(
        answer(HASHES, signer=OTHER_SIGNER, signing_address=SIGNER.address("ecdsa"))
    ),
    "signature.3 over another text": lambda: signature({**answer("x:" + HASHES), "text": HASHES}),
    "signature.3 over another text, Ed25519": lambda: signature({**answer("x:" + HASHES, "ed25519"), "text": HASHES}),
    "signature.3 high s": lambda: signature(flipped()),
    "signature.3 an odd v": lambda: signature(answer(HASHES, signature=answer(HASHES)["signature"][:-2] + "00")),
    "signature.3 an Ed25519 key as an address": lambda: signature(
        answer(HASHES, "ed25519", signing_algo="ecdsa", signature=answer(HASHES)["signature"])
    ),
    "signature.3 the right key, another algorithm": lambda: signature(
        answer(HASHES), Established(signers=(Signer("ed25519", SIGNER.address_bytes("ecdsa")),))
    ),
    "signature.4 another request": lambda: signature(answer(HASHES), asked=jcs.sha256(b"{}")),
    "signature.5 another response": lambda: signature(answer(HASHES), answered=jcs.sha256(RESPONSE + b"\n")),
    "signature.6 another model": lambda: signature(answer("m:" + HASHES), model="n"),
    "signature.6 a model with more": lambda: signature(answer("x:m:" + HASHES), model="m"),
}


@pytest.mark.parametrize("name", SIGNATURE_BREAKS)
def test_each_step_of_a_signature_breaks_alone(name: str) -> None:
    assert failing(SIGNATURE_BREAKS[name](), "signature") == {name.split()[0]}


def test_every_step_of_a_signature_is_broken() -> None:
    assert {name.split()[0] for name in SIGNATURE_BREAKS} == {step.id for step in SIGNATURE.steps}


def test_what_is_not_at_hand_is_missing() -> None:
    assert missing(signature(answer(HASHES), asked=None), "signature") == {"signature.4"}
    assert missing(signature(answer(HASHES), answered=None), "signature") == {"signature.5"}
    assert missing(signature(answer(HASHES), Established()), "signature") == {"signature.3"}
    unsupported = signature({"error_code": "SIGNATURE_UNSUPPORTED", "message": "x"})
    assert failing(unsupported, "signature") == set()
    assert missing(unsupported, "signature") == {step.id for step in SIGNATURE.steps}


def test_a_header_that_writes_into_the_text_names_a_model_and_no_other_request() -> None:
    """vllm-proxy signs what a caller put into X-Request-Hash: it can be taken for a model, never for our request."""
    injected = answer(f"openai/gpt-5:{'11' * 32}:{HASHES.split(':')[1]}")
    assert failing(signature(injected), "signature") == {"signature.4"}


# Mutations -----------------------------------------------------------------------------------------------------------

UNREAD = frozenset({"app_name", "app_cert", "device_id"})
"""Members of ``info`` that say nothing which anybody relies on."""


def is_unread(name: str, within: tuple[Any, ...], inner: Any) -> bool:
    """Whether nobody relies on a member: a log's repetition, words of firmware events, an agent's word on the VM."""
    if name == "event_log":
        return (
            within[-1] in ("event", "event_type", "event_payload") and inner[within[0]]["event_type"] != RUNTIME_EVENT
        )
    is_repeated = name == "tcb_info" and within[0] == "event_log"
    return is_repeated or name == "vm_config" or within == ("arch",) or within[-1] in UNREAD


def is_respelt(new: Any, old: Any) -> bool:
    """Whether both texts hold the same chain: what stands around certificates is not read, nor a copy of the root."""
    try:
        found = [read_pem(base64.b64decode(text), "it") for text in (new, old)]
    except (ConfideError, TypeError, ValueError):
        return False
    return found[0] in (found[1], found[1][:-1])


def is_respelt_quote(new: Any, old: Any) -> bool:
    """Whether both quotes differ only in what stands around the certificates of one chain: white space of PEM."""
    try:
        one, other = (parse_quote(bytes.fromhex(text)) for text in (new, old))
        chains = [read_pem(quote.signature.certification, "it") for quote in (one, other)]
    except (ConfideError, ValueError):
        return False
    rest = [replace(quote, signature=replace(quote.signature, certification=b"")) for quote in (one, other)]
    return rest[0] == rest[1] and chains[0] == chains[1]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value in a document that holds no other, with its place."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield from leaves(member, (*path, name))
    elif isinstance(value, list):
        for place, member in enumerate(value):
            yield from leaves(member, (*path, place))
    else:
        yield path, value


def changed(value: Any, seed: int) -> Any:
    """A leaf with one character or bit changed: another of the same kind."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if not value:
        return "00"
    at = seed % len(value)
    kinds = ("0123456789abcdef", "0123456789ABCDEF")
    other = "x" if value[at] != "x" else "y"
    for kind in kinds:
        if value[at] in kind:
            other = kind[(kind.index(value[at]) + 1 + seed % 15) % 16]
            break
    other = other if other != value[at] else "1" if value[at] != "1" else "2"
    return value[:at] + other + value[at + 1 :]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of a document with one leaf replaced."""
    copy = msgspec.json.decode(msgspec.json.encode(value))
    target = copy
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = new
    return copy


def mutants() -> Iterator[tuple[str, Any]]:
    """The report with one thing changed; long texts at many places, the JSON inside of them by member."""
    good = flat(quote=None)
    for path, leaf in leaves(good):
        name = str(path[-1])
        if name in ("nvidia_payload", "event_log", "vm_config", "tcb_info"):
            inner = msgspec.json.decode(leaf)
            for within, one in leaves(inner):
                if is_unread(name, within, inner):
                    continue
                for seed in range(100) if len(str(one)) > 1000 else range(2):
                    new = changed(one, seed * 97 + 3)
                    if not is_respelt(new, one):
                        text = msgspec.json.encode(put(inner, within, new)).decode()
                        yield f"{name} {within} {seed}", put(good, path, text)
        elif name not in UNREAD:
            count = 400 if len(str(leaf)) > 1000 else 4
            for seed in range(count):
                new = changed(leaf, seed * max(1, len(str(leaf)) // count) + seed % 7)
                if new != leaf and not (name.endswith("quote") and is_respelt_quote(new, leaf)):
                    yield f"{name} {seed}", put(good, path, new)


def is_same(name: str, value: Any) -> bool:
    """Another spelling of the same value: the case of hex digits."""
    good = flat(quote=None)
    member = name.split()[0]
    return bool(member in good and isinstance(value.get(member), str) and value[member].lower() == good[member].lower())


def test_every_single_mutation_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    tried, accepted = 0, []
    for name, value in mutants():
        if is_same(name, value):
            continue
        tried += 1
        ledger, _ = run(GOOD.but(value=value))
        if code(ledger) is not ExitCode.FAILED:
            accepted.append(name)
    for members in ({"nonce": OTHER_NONCE}, {"now": NOW + 40 * 86400}, {"now": NOW - 2 * 86400}):
        tried += 1
        ledger, _ = run(GOOD.but(**members))
        accepted += [str(members)] if code(ledger) is not ExitCode.FAILED else []
    with capsys.disabled():
        print(f"\nflat reports: {tried} mutations tried, {len(accepted)} accepted")
    assert accepted == []
    assert tried > 500


def test_every_single_mutation_of_a_signature_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    tried, accepted = 0, []
    for algorithm in legacy.ALGORITHMS:
        good = answer("m:" + HASHES, algorithm)
        for path, leaf in leaves(good):
            for seed in range(len(leaf)):
                value = put(good, path, changed(leaf, seed))
                if value == good or str(value[path[0]]).lower() == str(leaf).lower():
                    continue
                tried += 1
                if not failing(signature(value, model="m"), "signature"):
                    accepted.append((path, seed))
    with capsys.disabled():
        print(f"\nsignatures: {tried} mutations tried, {len(accepted)} accepted")
    assert accepted == []
    assert tried > 500


def test_no_other_exception_leaves_on_any_bytes() -> None:
    document = msgspec.json.encode(flat())
    for seed in range(200):
        at = (seed * 7919) % len(document)
        run(GOOD.but(raw=document[:at]))
        run(GOOD.but(raw=document[:at] + bytes([seed]) + document[at + 1 :]))
    with pytest.raises(ConfideError):
        raise NotChecked("the class that everything here is of")
