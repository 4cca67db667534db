"""Other people's formats: told apart, each of their own steps broken alone, hostile input, and mutations."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from confide.attest.dev import DevMachine
from confide.attest.dev_pki import create_pki
from confide.verify import services
from confide.verify.material import Item
from confide.verify.policy import (
    AgePolicy,
    DstackPolicy,
    GpuPolicy,
    ModelsPolicy,
    Policy,
    SessionsPolicy,
    SnpMeasurement,
    SnpPolicy,
    TdMeasurement,
    TdxPolicy,
)
from confide.verify.saved import Channel, Established, Signer
from confide.verify.services import ADAPTERS, detect, named
from confide.verify.services.base import UnknownService
from confide.verify.services.near import MOST_ACTIONS, NEAR
from confide.verify.services.tinfoil import TINFOIL
from confide.verify.services.tinfoil_wire import MOST_BYTES, read_document
from confide.verify.verdict import ExitCode, Ledger, Outcome
from tests.vectors.loading import VECTORS
from tests.verify import making, snp_maker
from tests.verify.making_services import (
    COMPOSE_MANAGER,
    HOST,
    HPKE,
    MODEL,
    NONCE,
    NOW,
    OTHER_SIGNER,
    OTHER_TLS,
    SIGNER,
    TLS,
    Case,
    chain_entry,
    code,
    compose_manager,
    failing,
    flat,
    intel_entry,
    listed,
    machine,
    missing,
    near,
    near_gateway,
    near_machine,
    policy,
    tinfoil_gpus,
    tinfoil_keys,
    tinfoil_sections,
)

OTHER_NONCE = "5b" * 32
EVIDENCE = VECTORS / "evidence"
V2 = {"format": "https://tinfoil.sh/predicate/tdx-guest/v2", "body": "H4sI"}
RELAYED: Mapping[str, Any] = {"attestation_type": "chutes", "nonce": NONCE, "all_attestations": []}


# Telling them apart --------------------------------------------------------------------------------------------------

DOCUMENTS: dict[str, tuple[str, Any]] = {
    "aci/1": ("aci", making.made_report().value),
    "flat": ("vllm-proxy", listed(flat())),
    "flat of a gateway of aci/1": ("vllm-proxy", flat(api_version="aci/1")),
    "passed on by RedPill": ("vllm-proxy", RELAYED),
    "NEAR's gateway": ("near", near()),
    "NEAR's machine": ("near", listed(near_machine())),
    "Tinfoil, keys": ("tinfoil", tinfoil_keys()),
    "Tinfoil, sections": ("tinfoil", tinfoil_sections()),
    "Tinfoil, older": ("tinfoil", V2),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_format_is_recognised_by_one_adapter(name: str) -> None:
    expected, value = DOCUMENTS[name]
    document = msgspec.json.encode(value)
    assert [adapter.name for adapter in ADAPTERS if adapter.recognises(document)] == [expected]
    assert detect(document) is named(expected)


@pytest.mark.parametrize(
    "document",
    [b"", b"null", b"[]", b"{}", b"x", b"\xff", b"[" * 100_000, b'{"format":"x"}', b'{"format":1}', b'{"info":{}}'],
)
def test_other_documents_are_no_service(document: bytes) -> None:
    with pytest.raises(UnknownService, match="no format that is known here"):
        detect(document)


def test_adapters_have_names() -> None:
    assert [adapter.name for adapter in ADAPTERS] == ["aci", "vllm-proxy", "near", "tinfoil"]
    with pytest.raises(UnknownService, match="no service is called 'x'; known are aci, vllm-proxy, near, tinfoil"):
        named("x")
    assert services.STEPS == (NEAR, TINFOIL)


def test_paths() -> None:
    paths = {adapter.name: adapter.path(NONCE, "a/b:c &d") for adapter in ADAPTERS}
    model = "model=a%2Fb%3Ac+%26d"
    older = f"/v1/attestation/report?{model}&nonce={NONCE}&signing_algo=ecdsa"
    assert paths == {
        "aci": f"/v1/aci/attestation?nonce={NONCE}",
        "vllm-proxy": older,
        "near": f"{older}&include_tls_fingerprint=true",
        "tinfoil": f"/.well-known/tinfoil-attestation?nonce={NONCE}",
    }
    assert named("near").path(NONCE) == f"{older}&include_tls_fingerprint=true".replace(f"{model}&", "")


def test_the_adapter_of_this_project() -> None:
    made = making.made_report()
    ledger = Ledger()
    assert named("aci").verify(ledger, made.context(), made.saved()) == made.established()
    assert code(ledger) is ExitCode.DEVELOPMENT


# NEAR AI -------------------------------------------------------------------------------------------------------------

GATEWAY = Case(near())
DIRECT = Case(listed(near_machine(signer=SIGNER, tls=TLS)))
ADDRESS, OTHER_ADDRESS = (Signer("ecdsa", one.address_bytes("ecdsa")) for one in (SIGNER, OTHER_SIGNER))


def run_near(case: Case) -> tuple[Ledger, Established | None]:
    return case.run(named("near"))


def with_log(log: Any) -> Any:
    """A gateway whose one machine shows this log."""
    return near(machines=[near_machine(compose_manager_attestation=log)])


def test_a_gateway_and_its_machines() -> None:
    ledger, established = run_near(GATEWAY)
    assert code(ledger) is ExitCode.DEVELOPMENT
    assert established == Established(signers=(ADDRESS, OTHER_ADDRESS))
    assert ledger.passed(*(step.id for step in NEAR.steps))
    (deployments,) = ledger.facts["near"]["deployments"].values()
    assert (ledger.facts["near"]["models"], deployments) == ([MODEL], COMPOSE_MANAGER)


def test_a_machine_alone() -> None:
    ledger, established = run_near(DIRECT)
    assert code(ledger) is ExitCode.DEVELOPMENT
    assert established == Established(signers=(ADDRESS,))


def test_two_algorithms_in_one_answer() -> None:
    """Unless one is asked for, the gateway signs with Ed25519 and the machines with ECDSA."""
    gateway = flat("ed25519", gpus=0, nvidia_payload=None, signing_public_key=None)
    ledger, established = run_near(GATEWAY.but(value=near(gateway)))
    assert code(ledger) is ExitCode.DEVELOPMENT
    assert established == Established(signers=(Signer("ed25519", SIGNER.address_bytes("ed25519")), OTHER_ADDRESS))


def test_requests_sealed_to_a_machine_pass_a_gateway_that_is_not_trusted_with_them() -> None:
    sealed = Channel(HOST, tls_spki_sha256="c3" * 32, sealed_to=OTHER_SIGNER.public_key("ecdsa").hex())
    ledger, _ = run_near(GATEWAY.but(channel=sealed))
    assert [f.outcome for f in ledger.findings if f.step == "legacy.8"] == [Outcome.NOT_CHECKED, Outcome.PASS]
    assert code(ledger) is ExitCode.DEVELOPMENT


def test_gpus_are_demanded_of_machines_and_not_of_the_gateway() -> None:
    demanding = policy(gpu=GpuPolicy(required=True, count=1))
    ledger, _ = run_near(GATEWAY.but(policy=demanding))
    assert code(ledger) is ExitCode.DEVELOPMENT
    ledger, _ = run_near(GATEWAY.but(policy=demanding, value=near(machines=[near_machine(gpus=0)])))
    assert missing(ledger, "legacy") == {"legacy.6"}


def another_machine() -> DevMachine:
    """The same TD with one more event in its log: another instance, or another state."""
    made = DevMachine(machine().pki, machine().app_compose)
    made.emit("more", b"")
    return made


NEAR_BREAKS: dict[str, Case] = {
    "near.1 no JSON": GATEWAY.but(raw=b"<html>"),
    "near.1 no gateway": GATEWAY.but(value={"model_attestations": [near_machine()]}),
    "near.1 no list": GATEWAY.but(value={**near(), "model_attestations": {}}),
    "near.1 too long a list": GATEWAY.but(value={**near(), "model_attestations": [{}] * 65}),
    "near.3 two models": GATEWAY.but(value=near(machines=[near_machine(), near_machine(model_name="b")])),
    "near.4 another log": GATEWAY.but(value=with_log({**compose_manager(), "actions": COMPOSE_MANAGER[:1]})),
    "near.4 another hash": GATEWAY.but(value=with_log(compose_manager(actions_hash="11" * 32))),
    "near.4 another hash for the same quote": GATEWAY.but(
        value=with_log(compose_manager(actions=[]) | {"quote": compose_manager()["quote"]})
    ),
    "near.4 another nonce": GATEWAY.but(value=with_log(compose_manager(nonce=OTHER_NONCE))),
    "near.4 another TD": GATEWAY.but(value=with_log(compose_manager(made_by=another_machine()))),
    "near.4 no quote": GATEWAY.but(value=with_log({**compose_manager(), "quote": "00"})),
    "near.4 a quote in no hex": GATEWAY.but(value=with_log({**compose_manager(), "quote": "zz"})),
    "near.4 a quote too long": GATEWAY.but(value=with_log({**compose_manager(), "quote": "00" * 70_000})),
    "near.4 too many actions": GATEWAY.but(value=with_log({**compose_manager(), "actions": [{}] * (MOST_ACTIONS + 1)})),
    "near.4 no object": GATEWAY.but(value=with_log(["x"])),
    "near.4 a text that is no JSON": GATEWAY.but(value=with_log("{")),
}


@pytest.mark.parametrize("name", NEAR_BREAKS)
def test_each_step_of_near_breaks_alone(name: str) -> None:
    ledger, _ = run_near(NEAR_BREAKS[name])
    assert failing(ledger, "near", "legacy") == {name.split()[0]}
    assert code(ledger) is ExitCode.FAILED


def test_every_step_of_near_is_broken_or_missing() -> None:
    assert {name.split()[0] for name in NEAR_BREAKS} | {"near.2"} == {step.id for step in NEAR.steps}


def test_a_gateway_without_machines_is_not_enough_near_2() -> None:
    for value in (near(machines=[]), {"gateway_attestation": near_gateway()}):
        ledger, _ = run_near(GATEWAY.but(value=value))
        assert missing(ledger, "near") == {"near.2"}
        assert code(ledger) is ExitCode.NOT_ENOUGH
        ledger, _ = run_near(GATEWAY.but(value=value, policy=policy(sessions=SessionsPolicy(required=False))))
        assert code(ledger) is ExitCode.DEVELOPMENT


@pytest.mark.parametrize("is_ordered", [True, False])
@pytest.mark.parametrize("as_text", [True, False])
def test_logs_in_the_spellings_of_newer_and_older_managers(is_ordered: bool, as_text: bool) -> None:
    log: Any = compose_manager(is_ordered=is_ordered)
    ledger, _ = run_near(GATEWAY.but(value=with_log(msgspec.json.encode(log).decode() if as_text else log)))
    assert ledger.passed("near.4")


def test_a_log_is_not_needed() -> None:
    ledger, _ = run_near(GATEWAY.but(value=with_log(None)))
    assert code(ledger) is ExitCode.DEVELOPMENT
    assert not ledger.passed("near.4")
    ledger, _ = run_near(GATEWAY.but(nonce=None))
    assert missing(ledger, "near", "legacy") == {"legacy.4"}


def test_a_manager_whose_quote_is_not_proven_is_not_believed() -> None:
    slot = bytes.fromhex(compose_manager()["report_data"])
    stranger = DevMachine(create_pki(datetime.fromtimestamp(NOW, UTC)), machine().app_compose)
    ledger, _ = run_near(GATEWAY.but(value=with_log({**compose_manager(), "quote": stranger.quote(slot).hex()})))
    assert failing(ledger, "near", "legacy") == {"near.4"}


LEG_BREAKS: dict[str, tuple[str, Any]] = {
    "a gateway for another nonce": (
        "legacy.4",
        near(gateway=near_gateway(nonce=OTHER_NONCE, request_nonce=NONCE, report_data_text=None)),
    ),
    "a machine for another nonce": (
        "legacy.4",
        near(machines=[near_machine(nonce=OTHER_NONCE, request_nonce=None, nvidia_payload=None)]),
    ),
    "another text of report data": ("legacy.3", near(gateway=near_gateway(report_data_text="00" * 64))),
    "a machine of another network": (
        "legacy.1",
        near(machines=[{"intel_quote": "00", "instance_id": "x", "request_nonce": NONCE}]),
    ),
    "a machine that is none": ("legacy.1", near(machines=["x"])),
}


@pytest.mark.parametrize("name", LEG_BREAKS)
def test_every_layer_must_pass(name: str) -> None:
    step, value = LEG_BREAKS[name]
    ledger, _ = run_near(GATEWAY.but(value=value))
    assert failing(ledger, "near", "legacy") == {step}


# Tinfoil -------------------------------------------------------------------------------------------------------------

ANY_TD = policy(dstack=DstackPolicy())
SNP_POLICY = Policy(roots=("amd", "nvidia"), snp=SnpPolicy(measurements=(SnpMeasurement(measurement="11" * 48),)))
SNP_ITEMS = tuple(snp_maker.items())
SNP_NOW = int(snp_maker.NOW.timestamp())
OTHER_ITEM = Item("jwks", "", b"{}")
KEYS = Case(tinfoil_keys(), policy=ANY_TD)
SECTIONS = Case(tinfoil_sections(), policy=ANY_TD)


def on_snp(value: Any) -> Case:
    """A document of an SNP guest, with what it takes."""
    return Case(value, policy=SNP_POLICY, items=SNP_ITEMS, now=SNP_NOW)


def run_tinfoil(case: Case) -> tuple[Ledger, Established | None]:
    return case.run(named("tinfoil"))


GOOD: dict[str, Case] = {
    "keys, TDX": KEYS,
    "keys, SNP": on_snp(tinfoil_keys(platform="sev-snp")),
    "keys, no GPU": KEYS.but(value=tinfoil_keys(gpus=0)),
    "keys, SNP, no GPU": on_snp(tinfoil_keys(platform="sev-snp", gpus=0)),
    "keys, three GPUs": KEYS.but(
        value=tinfoil_keys(gpus=3), policy=policy(dstack=DstackPolicy(), gpu=GpuPolicy(required=True, count=3))
    ),
    "sections, TDX": SECTIONS,
    "sections, SNP": on_snp(tinfoil_sections(platform="sev-snp")),
    "sections, no GPU": SECTIONS.but(value=tinfoil_sections(gpus=0)),
    "sections, stapled by Intel's service": SECTIONS.but(
        value=tinfoil_sections(collateral_entries=[intel_entry()]), items=(OTHER_ITEM,)
    ),
    "sections, stapled by AMD's service": on_snp(
        tinfoil_sections(platform="sev-snp", collateral_entries=[chain_entry()])
    ).but(items=(OTHER_ITEM,)),
    "sealed to the HPKE key": KEYS.but(channel=Channel(HOST, sealed_to=HPKE)),
    "another key besides": SECTIONS.but(
        value=tinfoil_sections(
            keys=[
                {"id": "tls", "format": "https://tinfoil.sh/key/spki-fp-sha256/v1", "data": TLS},
                {"id": "workload-key", "format": "https://tinfoil.sh/key/spki/v1", "data": "30"},
            ]
        )
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_documents(name: str) -> None:
    ledger, established = run_tinfoil(GOOD[name])
    assert [f for f in ledger.findings if f.outcome is Outcome.FAIL] == []
    assert missing(ledger, "tinfoil", "tdx", "snp") == set()
    assert code(ledger) is ExitCode.DEVELOPMENT
    assert established == Established()
    assert (ledger.facts["tinfoil"]["tls_key"], ledger.facts["tinfoil"]["layout"]) == (
        TLS,
        read_document(GOOD[name].document).layout,
    )


def put(value: Any, *path: Any) -> Any:
    """A copy of a document with the value at a path replaced: the last of the arguments."""
    copy = msgspec.json.decode(msgspec.json.encode(value))
    target = copy
    for part in path[:-2]:
        target = target[part]
    target[path[-2]] = path[-1]
    return copy


def respelt(document: Any) -> Any:
    """The GPU's evidence with a member more, which changes nothing but its bytes."""
    return put(document, "gpu", "evidences", 0, "more", "x")


def gpu_item(number: int) -> dict[str, Any]:
    """A GPU whose evidence is none."""
    known = {"kind": "gpu", "vendor": "nvidia", "format": "https://tinfoil.sh/format/nvidia-gpu-evidence/v1"}
    return {"id": f"gpu{number}", **known, "evidence": {"arch": "", "certificate": "", "evidence": ""}}


def unlisted(kind: str) -> dict[str, Any]:
    """A device of a format that is not known."""
    return {"id": "x0", "kind": "gpu", "vendor": "x", "format": kind, "evidence": {}}


TLS_ITEM = {"id": "tls", "format": "https://tinfoil.sh/key/spki-fp-sha256/v1", "data": TLS}
BREAKS: dict[str, Case] = {
    "tinfoil.1 version 2": KEYS.but(value=V2),
    "tinfoil.1 no JSON": KEYS.but(raw=b'{"format":'),
    "tinfoil.1 no object": KEYS.but(value=[]),
    "tinfoil.1 too long": KEYS.but(raw=b" " * (MOST_BYTES + 1)),
    "tinfoil.1 an unknown platform": KEYS.but(value=put(tinfoil_keys(), "cpu", "platform", "dummy")),
    "tinfoil.1 no keys": KEYS.but(value=put(tinfoil_keys(), "report_data", {})),
    "tinfoil.1 a key in capitals": KEYS.but(value=put(tinfoil_keys(), "report_data", "hpke_key", HPKE.upper())),
    "tinfoil.1 no base64": KEYS.but(value=put(tinfoil_keys(), "cpu", "report", "=")),
    "tinfoil.1 another spelling": KEYS.but(
        value=put(tinfoil_keys(), "cpu", "report", tinfoil_keys()["cpu"]["report"].rstrip("=") + "\n")
    ),
    "tinfoil.1 bits that mean nothing": KEYS.but(value=put(tinfoil_keys(), "cpu", "report", "AB==")),
    "tinfoil.1 too many GPUs in sections": SECTIONS.but(
        value=tinfoil_sections(devices=[gpu_item(number) for number in range(1, 34)])
    ),
    "tinfoil.1 too long a quote": KEYS.but(value=put(tinfoil_keys(), "cpu", "report", "A" * 140_000)),
    "tinfoil.1 switches without GPUs": KEYS.but(
        value=put(tinfoil_keys(gpus=0), "report_data", "nvswitch_evidence_hash", "11" * 32)
    ),
    "tinfoil.1 too many GPUs": KEYS.but(value=put(tinfoil_keys(), "gpu", {"evidences": tinfoil_gpus(1) * 33})),
    "tinfoil.1 another derivation": SECTIONS.but(
        value=put(tinfoil_sections(), "challenge", "report_data_algorithm", "https://tinfoil.sh/report-data/v2")
    ),
    "tinfoil.1 no section": SECTIONS.but(value=put(tinfoil_sections(), "crypto_material", "e30=")),
    "tinfoil.1 a section that is no JSON": SECTIONS.but(value=put(tinfoil_sections(), "device_evidence", "eA==")),
    "tinfoil.1 a section of another kind": SECTIONS.but(
        value=put(tinfoil_sections(), "crypto_material", tinfoil_sections()["device_evidence"])
    ),
    "tinfoil.1 no TLS key": SECTIONS.but(value=tinfoil_sections(keys=[])),
    "tinfoil.1 a TLS key of another format": SECTIONS.but(
        value=tinfoil_sections(keys=[TLS_ITEM | {"format": "https://tinfoil.sh/key/x25519-hpke/v1"}])
    ),
    "tinfoil.1 a TLS key too short": SECTIONS.but(value=tinfoil_sections(keys=[TLS_ITEM | {"data": "c0"}])),
    "tinfoil.1 two keys of one id": SECTIONS.but(
        value=tinfoil_sections(keys=[TLS_ITEM, TLS_ITEM | {"data": OTHER_TLS}])
    ),
    "tinfoil.2 another TD": KEYS.but(
        policy=policy(dstack=DstackPolicy(), tdx=TdxPolicy(measurements=(TdMeasurement(mr_td="11" * 48),)))
    ),
    "tinfoil.2 another guest": on_snp(tinfoil_keys(platform="sev-snp")).but(
        policy=Policy(roots=("amd", "nvidia"), snp=SnpPolicy(measurements=(SnpMeasurement(measurement="12" * 48),)))
    ),
    "tinfoil.2 evidence of another kind": KEYS.but(value=put(tinfoil_keys(), "cpu", "platform", "sev-snp")),
    "tinfoil.3 another TLS key": KEYS.but(
        value=put(tinfoil_keys(), "report_data", "tls_key_fp", OTHER_TLS),
        channel=Channel(HOST, tls_spki_sha256=OTHER_TLS),
    ),
    "tinfoil.3 another HPKE key": KEYS.but(value=put(tinfoil_keys(), "report_data", "hpke_key", "11" * 32)),
    "tinfoil.3 bytes in the second half": KEYS.but(
        value=tinfoil_keys(slot=read_document(KEYS.document).report_data[:63] + b"\1")
    ),
    "tinfoil.3 nothing bound": SECTIONS.but(value=tinfoil_sections(slot=bytes(64))),
    "tinfoil.3 other report data in words": SECTIONS.but(
        value=put(tinfoil_sections(), "challenge", "report_data", "00" * 64)
    ),
    "tinfoil.4 other evidence of GPUs": KEYS.but(value=respelt(tinfoil_keys())),
    "tinfoil.4 another hash of GPUs": KEYS.but(value=tinfoil_keys(gpu_hash="11" * 32)),
    "tinfoil.4 evidence without a hash": KEYS.but(value=tinfoil_keys(gpus=0) | {"gpu": {"evidences": tinfoil_gpus(1)}}),
    "tinfoil.4 another hash of keys": SECTIONS.but(
        value=put(tinfoil_sections(), "cpu_evidence", "endorsed", "crypto_material_hash", "11" * 32)
    ),
    "tinfoil.4 another hash of devices": SECTIONS.but(
        value=put(tinfoil_sections(), "cpu_evidence", "endorsed", "device_evidence_hash", "11" * 32)
    ),
    "tinfoil.5 switches without a hash": KEYS.but(value=tinfoil_keys() | {"nvswitch": {"evidences": []}}),
    "tinfoil.6 another nonce": KEYS.but(
        value=tinfoil_keys(nonce=OTHER_NONCE, gpus=0),
    ),
    "tinfoil.6 another nonce in sections": SECTIONS.but(value=tinfoil_sections(nonce=OTHER_NONCE, gpus=0)),
    "tinfoil.7 GPUs for another nonce": KEYS.but(value=tinfoil_keys(gpu_nonce=OTHER_NONCE)),
    "tinfoil.7 GPUs for another nonce in sections": SECTIONS.but(value=tinfoil_sections(gpu_nonce=OTHER_NONCE)),
    "tinfoil.7 an unknown device": SECTIONS.but(value=tinfoil_sections(devices=[unlisted("https://x/y")])),
    "tinfoil.7 too few GPUs": KEYS.but(policy=policy(dstack=DstackPolicy(), gpu=GpuPolicy(required=True, count=8))),
    "tinfoil.8 another channel": KEYS.but(channel=Channel(HOST, tls_spki_sha256=OTHER_TLS)),
    "tinfoil.8 sealed to a stranger": KEYS.but(channel=Channel(HOST, tls_spki_sha256=TLS, sealed_to="11" * 32)),
    "tinfoil.10 from the future": KEYS.but(captured_at=NOW + 1),
    "tinfoil.10 too old": KEYS.but(
        captured_at=NOW - 8 * 86400, policy=policy(dstack=DstackPolicy(), age=AgePolicy(report_days=7))
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_step_of_tinfoil_breaks_alone(name: str) -> None:
    ledger, established = run_tinfoil(BREAKS[name])
    assert failing(ledger, "tinfoil") == {name.split()[0]}
    assert (code(ledger), established) == (ExitCode.FAILED, None)


def test_every_step_of_tinfoil_is_broken_or_missing() -> None:
    assert {name.split()[0] for name in BREAKS} | {"tinfoil.9"} == {step.id for step in TINFOIL.steps}


UNANSWERED: dict[str, Case] = {
    "tinfoil.2 no collateral": KEYS.but(items=(OTHER_ITEM,)),
    "tinfoil.2 no certificates": on_snp(tinfoil_keys(platform="sev-snp", gpus=0)).but(items=(OTHER_ITEM,)),
    "tinfoil.5 no switches": KEYS.but(policy=policy(dstack=DstackPolicy(), gpu=GpuPolicy(switches=4))),
    "tinfoil.6 no nonce": KEYS.but(nonce=None),
    "tinfoil.7 no GPUs": KEYS.but(
        value=tinfoil_keys(gpus=0), policy=policy(dstack=DstackPolicy(), gpu=GpuPolicy(required=True))
    ),
    "tinfoil.8 no channel": KEYS.but(channel=None),
    "tinfoil.9 a dstack guest is demanded": KEYS.but(policy=policy()),
    "tinfoil.9 manifests": KEYS.but(
        policy=policy(dstack=DstackPolicy(), models=ModelsPolicy(manifests=("sha256:" + "11" * 32,)))
    ),
    "tinfoil.9 nothing said of SNP": on_snp(tinfoil_keys(platform="sev-snp")).but(
        policy=Policy(roots=("amd", "intel", "nvidia"), tdx=TdxPolicy(measurements=ANY_TD.tdx.measurements))
    ),
}


@pytest.mark.parametrize("name", UNANSWERED)
def test_what_the_policy_needs_and_a_document_lacks_is_missing(name: str) -> None:
    ledger, _ = run_tinfoil(UNANSWERED[name])
    if "tinfoil.5" not in name:
        assert failing(ledger, "tinfoil") == set()
        assert code(ledger) is ExitCode.NOT_ENOUGH
    assert name.split()[0] in missing(ledger, "tinfoil")


# Tinfoil's switches --------------------------------------------------------------------------------------------------

SWITCH = bytes.fromhex((EVIDENCE / "nvidia" / "nvswitch.hex").read_text().strip())
SWITCH_NONCE = SWITCH[4:36].hex()
SWITCHES = [
    {
        "arch": "LS10",
        "certificate": base64.b64encode((EVIDENCE / "nvidia" / "devices" / "nvswitch.pem").read_bytes()).decode(),
        "evidence": base64.b64encode(SWITCH).decode(),
        "nonce": SWITCH_NONCE,
    }
]
SWITCH_ITEM = {
    "id": "nvswitch0",
    "kind": "nvswitch",
    "vendor": "nvidia",
    "format": "https://tinfoil.sh/format/nvidia-nvswitch-evidence/v1",
    "evidence": {"evidences": SWITCHES, "result_code": 0},
}


def of_switch(ledger: Ledger) -> dict[str, Outcome]:
    return {finding.step: finding.outcome for finding in ledger.findings if finding.subject == "switch 0"}


@pytest.mark.parametrize("layout", ["keys", "sections"])
def test_a_real_switch_is_verified_with_the_gpus(layout: str) -> None:
    """A switch of NVIDIA's samples; development GPUs answer the nonce that it was asked with."""
    value = (
        tinfoil_keys(nonce=SWITCH_NONCE, switches=SWITCHES)
        if layout == "keys"
        else tinfoil_sections(nonce=SWITCH_NONCE, devices=[SWITCH_ITEM])
    )
    ledger, _ = run_tinfoil(KEYS.but(value=value, nonce=SWITCH_NONCE))
    assert ledger.passed("tinfoil.3", "tinfoil.4", "tinfoil.5", "tinfoil.6")
    assert [of_switch(ledger)[f"gpu.{number}"] for number in (1, 2, 3, 4)] == [Outcome.PASS] * 4
    ledger, _ = run_tinfoil(KEYS.but(value=put(value, *NONCES[layout]), nonce=SWITCH_NONCE))
    assert code(ledger) is ExitCode.FAILED


NONCES = {"keys": ("nvswitch", "evidences", 0, "nonce", NONCE), "sections": ("challenge", "nonce", NONCE)}


def test_switches_that_were_formatted_anew_are_not_bound() -> None:
    """Servers of the first layout hashed what NVIDIA's tool wrote, so that nobody can tell."""
    value = tinfoil_keys(nonce=SWITCH_NONCE, switches=SWITCHES, switch_hash="11" * 32)
    for wanted in (None, 1):
        demand = policy(dstack=DstackPolicy(), gpu=GpuPolicy(switches=wanted))
        ledger, _ = run_tinfoil(KEYS.but(value=value, nonce=SWITCH_NONCE, policy=demand))
        assert ledger.passed("tinfoil.3")
        assert missing(ledger, "tinfoil") == (set() if wanted is None else {"tinfoil.5"})
    ledger, _ = run_tinfoil(KEYS.but(value={k: v for k, v in value.items() if k != "nvswitch"}, nonce=SWITCH_NONCE))
    assert "tinfoil.5" in failing(ledger, "tinfoil")


# What Tinfoil staples ------------------------------------------------------------------------------------------------


def stapled_with(entry: Any) -> Case:
    return SECTIONS.but(value=tinfoil_sections(collateral_entries=[entry]), items=(OTHER_ITEM,))


STAPLES: dict[str, Any] = {
    "another role": intel_entry() | {"role": "reference-values"},
    "another subject": intel_entry() | {"subjects": ["gpu0"]},
    "another format": intel_entry() | {"format": "https://tinfoil.sh/collateral/intel-pcs/v9"},
    "no data": intel_entry() | {"data": {}},
    "an answer missing": put(intel_entry(), "data", "responses", intel_entry()["data"]["responses"][1:]),
    "a body that is no base64": put(intel_entry(), "data", "responses", 0, "body_base64", "="),
    "a body that is no JSON": put(intel_entry(), "data", "responses", 0, "body_base64", "eA=="),
    "a header missing": put(intel_entry(), "data", "responses", 0, "headers", {}),
    "a header twice": put(intel_entry(), "data", "responses", 0, "headers", {"TCB-Info-Issuer-Chain": ["a", "b"]}),
    "another URL": put(intel_entry(), "data", "responses", 0, "url", "https://x/y"),
    "a URL that is none": put(intel_entry(), "data", "responses", 0, "url", "https://[x"),
    "no PEM": put(chain_entry(), "data", "cert_chain_pem", "x"),
    "a broken PEM": put(
        chain_entry(), "data", "cert_chain_pem", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
    ),
    "no CRL": {
        "id": "crl",
        "role": "endorsement",
        "format": "https://tinfoil.sh/collateral/amd-crl/v1",
        "subjects": ["cpu"],
        "data": {"crl_der_base64": "="},
    },
}


@pytest.mark.parametrize("name", STAPLES)
def test_what_is_stapled_and_of_no_use_is_missing(name: str) -> None:
    ledger, _ = run_tinfoil(stapled_with(STAPLES[name]))
    assert "tinfoil.2" in missing(ledger, "tinfoil")
    assert code(ledger) is ExitCode.NOT_ENOUGH


def test_a_stapled_crl_is_an_item() -> None:
    entry = STAPLES["no CRL"] | {"data": {"crl_der_base64": "AAAA"}}
    document = read_document(msgspec.json.encode(tinfoil_sections(collateral_entries=[entry])))
    assert document.collateral == (Item("amd-crl", "", bytes(3), "stapled"),)


# Mutations -----------------------------------------------------------------------------------------------------------

UNBOUND = frozenset({"certificate", "signature"})
"""Members around the parts of a Tinfoil document in the layout of keys that nobody reads."""


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield from leaves(member, (*path, name))
    elif isinstance(value, list):
        for place, member in enumerate(value):
            yield from leaves(member, (*path, place))
    elif isinstance(value, str):
        yield path, value


def changed(text: str, at: int) -> str:
    """One character replaced by another one of its kind."""
    kind = "0123456789abcdef" if text[at] in "0123456789abcdef" else "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    other = kind[(kind.find(text[at]) + 1 + at % (len(kind) - 1)) % len(kind)]
    return text[:at] + (other if other != text[at] else "z") + text[at + 1 :]


@pytest.mark.parametrize("layout", ["keys", "keys on SNP", "sections", "sections on SNP"])
def test_every_single_mutation_of_a_document_is_rejected(layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    make = tinfoil_keys if "keys" in layout else tinfoil_sections
    case = on_snp(make(platform="sev-snp")) if "SNP" in layout else KEYS.but(value=make())
    tried, accepted = 0, []
    for path, leaf in leaves(case.value):
        if len(path) == 1 and path[0] in UNBOUND:
            continue
        step = max(1, len(leaf) // (60 if len(leaf) > 200 else 16))
        for at in range(0, len(leaf), step):
            tried += 1
            ledger, _ = run_tinfoil(case.but(value=put(case.value, *path, changed(leaf, at))))
            accepted += [] if code(ledger) is ExitCode.FAILED else [(path, at)]
    for other in ({"nonce": OTHER_NONCE}, {"now": NOW + 30 * 365 * 86400}):
        tried += 1
        ledger, _ = run_tinfoil(case.but(**other))
        accepted += [] if code(ledger) is ExitCode.FAILED else [(tuple(other), 0)]
    with capsys.disabled():
        print(f"\nTinfoil, {layout}: {tried} mutations tried, {len(accepted)} accepted")
    assert accepted == []
    assert tried > 100


def test_every_single_mutation_of_a_log_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    good = compose_manager()
    tried, accepted = 0, []
    for path, leaf in leaves({name: good[name] for name in ("actions", "actions_hash", "quote")}):
        for at in range(0, len(leaf), max(1, len(leaf) // 50)):
            tried += 1
            ledger, _ = run_near(GATEWAY.but(value=with_log(put(good, *path, changed(leaf, at)))))
            accepted += [] if code(ledger) is ExitCode.FAILED else [(path, at)]
    with capsys.disabled():
        print(f"\ndeployment logs: {tried} mutations tried, {len(accepted)} accepted")
    assert accepted == []
    assert tried > 100


def test_no_other_exception_leaves_on_any_bytes() -> None:
    for value in (near(), tinfoil_keys(), tinfoil_sections(collateral_entries=[intel_entry(), chain_entry()])):
        document = msgspec.json.encode(value)
        for seed in range(60):
            at = (seed * 7919) % len(document)
            for raw in (document[:at], document[:at] + bytes([seed * 4]) + document[at + 1 :]):
                for adapter in ADAPTERS[1:]:
                    Case(None, raw=raw).run(adapter)
