"""Reports of ``aci/1``: each step broken alone, what is missing, provenance, and single-field mutations."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from confide.attest import dev_sign
from confide.attest.dev import DevMachine
from confide.identity.identity import Identity, Terms
from confide.identity.roles import EphemeralKeys
from confide.verify import provenance
from confide.verify.context import Context
from confide.verify.dstack import DstackFacts
from confide.verify.policy import (
    AgePolicy,
    ChannelPolicy,
    DstackPolicy,
    GpuPolicy,
    KeysPolicy,
    ModelsPolicy,
    Policy,
    ProvenancePolicy,
    TdMeasurement,
    TdxPolicy,
)
from confide.verify.provenance import images
from confide.verify.report import MOST_BYTES, REPORT, verify_report
from confide.verify.roots import Roots
from confide.verify.saved import Channel, Established, SavedReport
from confide.verify.verdict import CheckFailed, ExitCode, Ledger, judge
from confide.wire import aci, jcs
from confide.wire.aci import SourceProvenance
from tests.vectors.loading import VECTORS, load
from tests.verify.making import (
    APP_COMPOSE,
    HOST,
    IMAGE,
    MANIFEST,
    NONCE,
    NOW,
    PROVENANCE,
    SUBJECT,
    Made,
    failing,
    made_channel,
    made_gpus,
    made_identity,
    made_machine,
    made_pki,
    made_policy,
    made_report,
    missing,
)

PUBLISHED: Any = load(VECTORS / "aci" / "published.json")
OTHER = "sha256:" + "0" * 64
SEALED = Channel(host=HOST, sealed_to=made_identity().keyset.e2ee_public_keys[0].public_key)


def check(made: Made, policy: Policy | None = None, *, now: int | None = None) -> tuple[Established | None, Ledger]:
    ledger = Ledger()
    return verify_report(ledger, made.context(policy, now=now), made.saved()), ledger


def changed(**members: Any) -> Made:
    made = made_report()
    return made.but(made.value | members)


def attested(**members: Any) -> Made:
    made = made_report()
    return made.but(made.value | {"attestation": made.value["attestation"] | members})


def shown(**members: Any) -> Made:
    return made_report(evidence=members)


def with_image(compose: str) -> Made:
    """The report of a machine that runs another compose document."""
    machine = DevMachine(made_pki(), compose)
    slot = aci.report_data_slot(made_identity().digest, NONCE)
    return made_report(
        evidence={
            "quote": machine.quote(slot).hex(),
            "event_log": machine.event_log(),
            "vm_config": machine.vm_config(),
            "app_compose": compose,
        }
    )


LATER, EXPIRED = made_identity(not_after=NOW + 401 * 86400), made_identity(not_after=NOW)
NAMELESS = made_identity(None)
MEASURED = TdxPolicy(measurements=(TdMeasurement(mr_td=dev_sign.MR_TD.hex()),))
FOREIGN = SourceProvenance(repo_url=PROVENANCE.repo_url, image_digest=OTHER)
IMAGES = ProvenancePolicy(images=(IMAGE,))
LOOSE = json.dumps({"docker_compose_file": "services:\n  a:\n    image: registry.example/confide:latest\n"})
BREAKS: dict[str, tuple[str, Callable[[], tuple[Established | None, Ledger]]]] = {
    "no JSON": ("report.1", lambda: verdict_of(b"{")),
    "too long": ("report.1", lambda: verdict_of(b" " * (MOST_BYTES + 1))),
    "too deep": ("report.1", lambda: verdict_of(b"[" * 100_000)),
    "other version": ("report.1", lambda: check(changed(api_version="aci/2"))),
    "other digest": ("report.1", lambda: check(changed(workload_keyset_digest=OTHER))),
    "other keyset": ("report.1", lambda: check(attested(workload_keyset=jcs.parse(NAMELESS.document)))),
    "no quote": ("report.1", lambda: check(shown(quote=None))),
    "log of another type": ("report.1", lambda: check(shown(event_log=1))),
    "too many GPUs": (
        "report.1",
        lambda: check(
            shown(gpu={"status": "available", "devices": [{"arch": "", "certificate": "", "evidence": ""}] * 33})
        ),
    ),
    "other kind": ("report.2", lambda: check(made_report(tee_type="sev_snp"))),
    "unknown kind": ("report.2", lambda: check(made_report(tee_type="sgx"))),
    "quote in no hex": ("report.2", lambda: check(shown(quote="zz"))),
    "other keys": ("report.3", lambda: check(made_report(report_data=aci.report_data_slot(OTHER, NONCE)))),
    "other nonce": ("report.3", lambda: check(made_report(sent="00" * 32))),
    "not padded": (
        "report.3",
        lambda: check(made_report(report_data=aci.report_data(made_identity().digest, NONCE) * 2)),
    ),
    "report_data": ("report.3", lambda: check(attested(report_data="00" * 32))),
    "quote_report_data": ("report.3", lambda: check(shown(quote_report_data="00" * 64))),
    "no nonce in the quote": ("report.4", lambda: check(made_report(None, sent=NONCE))),
    "expired": ("report.5", lambda: check(made_report(identity=EXPIRED))),
    "counts for too long": ("report.5", lambda: check(made_report(identity=LATER))),
    "other repository": (
        "report.6",
        lambda: check(made_report(), made_policy(provenance=ProvenancePolicy(repositories=("https://other",)))),
    ),
    "other commit": (
        "report.6",
        lambda: check(made_report(), made_policy(provenance=ProvenancePolicy(commits=("0" * 40,)))),
    ),
    "other image": (
        "report.6",
        lambda: check(made_report(), made_policy(provenance=ProvenancePolicy(images=(OTHER,)))),
    ),
    "image that does not run": (
        "report.6",
        lambda: check(made_report(provenance=FOREIGN), made_policy(provenance=ProvenancePolicy(images=(OTHER,)))),
    ),
    "image that is not pinned": (
        "report.6",
        lambda: check(with_image(LOOSE), made_policy(dstack=DstackPolicy(), provenance=IMAGES)),
    ),
    "other subject": ("report.8", lambda: check(made_report(), made_policy(keys=KeysPolicy(subjects=("app",))))),
    "other models": ("report.8", lambda: check(made_report(), made_policy(models=ModelsPolicy(manifests=(OTHER,))))),
    "manifest of nobody": (
        "report.8",
        lambda: check(made_report(identity=NAMELESS), made_policy(models=ModelsPolicy())),
    ),
    "GPUs that are not available": (
        "report.9",
        lambda: check(shown(gpu={"status": "not available"} | {"devices": made_gpus(1, bytes(32))[0]})),
    ),
    "GPUs that are none": ("report.9", lambda: check(shown(gpu={"status": "available"}))),
    "GPUs in no base64": (
        "report.9",
        lambda: check(
            shown(gpu={"status": "available", "devices": [{"arch": "HOPPER", "certificate": "*", "evidence": ""}]})
        ),
    ),
    "other TLS key": ("report.10", lambda: check(made_report(channel=Channel(host=HOST, tls_spki_sha256="00" * 32)))),
    "sealed to another key": (
        "report.10",
        lambda: check(made_report(channel=replace(made_channel(), sealed_to="00" * 32))),
    ),
    "too old": (
        "report.11",
        lambda: check(made_report(captured_at=NOW - 3 * 86400), made_policy(age=AgePolicy(report_days=2))),
    ),
    "from the future": ("report.11", lambda: check(made_report(captured_at=NOW + 1))),
}


def verdict_of(document: bytes) -> tuple[Established | None, Ledger]:
    ledger = Ledger()
    return verify_report(ledger, made_report().context(), SavedReport(document=document, nonce=NONCE)), ledger


@pytest.mark.parametrize("name", BREAKS, ids=lambda name: f"{BREAKS[name][0]} {name}")
def test_each_broken_step_is_the_one_that_fails(name: str) -> None:
    step, run = BREAKS[name]
    established, ledger = run()
    assert failing(ledger) == {step}
    assert (established is None) == (step in ("report.1", "report.3")) or name == "quote in no hex"
    assert {one.id for one in REPORT.steps} <= {finding.step for finding in ledger.findings}


def test_a_good_report_passes_and_rests_on_the_development_root() -> None:
    made = made_report(gpus=2)
    established, ledger = check(made)
    assert not failing(ledger) | missing(ledger)
    assert established == made.established()
    assert judge(ledger, subject="", at=NOW, policy="").exit_code == ExitCode.DEVELOPMENT
    assert ledger.facts["report"]["keyset_digest"] == made.identity.digest
    json.dumps(ledger.facts)


def test_nothing_passes_without_the_development_root() -> None:
    made, ledger = made_report(gpus=1), Ledger()
    context = Context(made_policy(), Roots.of(("intel", "nvidia")), NOW)
    assert verify_report(ledger, context, made.saved()) is None
    assert "report.2" in failing(ledger)
    assert not ledger.anchors


def test_a_failed_group_fails_the_step_that_stands_for_it() -> None:
    made = made_report(collateral={"status": "OutOfDate"})
    established, ledger = check(made)
    assert "report.2" in failing(ledger)
    assert established is not None  # genuine and bound; the verdict is what says no
    assert any(step.startswith("tdx.") for step in failing(ledger))
    made = made_report(gpus=1, gpu_nonce=bytes(32))
    _, ledger = check(made)
    assert {"gpu.4", "report.9"} <= failing(ledger)


def test_proofs_of_custody_that_are_none_fail_custody_report_7() -> None:
    _, ledger = check(shown(key_custody={"provider": "dstack-kms", "keys": []}))
    assert failing(ledger) == {"custody.1", "report.7"}


def test_a_report_of_sev_snp_is_verified_as_one() -> None:
    """A real report, which of course does not commit to this keyset."""
    folder = VECTORS / "evidence" / "amd"
    vcek = base64.b64encode((folder / "vcek.der").read_bytes()).decode()
    bare: dict[str, Any] = {"event_log": None, "app_compose": None, "vm_config": None}
    evidence = bare | {
        "quote": (folder / "milan_v2.report").read_bytes().hex(),
        "collateral": {"vcek": vcek, "ark": None},
    }
    policy = made_policy(roots=("amd",), dstack=DstackPolicy())
    _, ledger = check(made_report(tee_type="sev_snp", evidence=evidence), policy)
    assert ledger.passed("snp.1", "snp.2", "snp.3")
    assert "report.3" in failing(ledger)
    assert not any(finding.step.startswith("tdx") for finding in ledger.findings)
    _, ledger = check(made_report(evidence=evidence), policy)
    assert {"report.2", "report.3"} <= failing(ledger)
    _, ledger = check(made_report(tee_type="sev_snp", evidence=evidence | {"collateral": {"vcek": "*"}}), policy)
    assert "report.2" in failing(ledger)


def test_keys_and_quotes_of_unknown_kinds() -> None:
    made = made_report()
    value = made.value
    keyset = value["attestation"]["workload_keyset"]
    keyset["e2ee_public_keys"].append({"key_id": "new", "algo": "new", "public_key": "in no hex"})
    value["workload_keyset_digest"] = jcs.digest(keyset)
    _, ledger = check(made.but(value))
    assert failing(ledger) == {"report.3"}
    _, ledger = check(made_report(tee_type="new", evidence={"quote": "00"}))
    assert "report.2" in failing(ledger)


def test_a_keyset_without_tls_needs_a_seal() -> None:
    plain = asyncio.run(Identity.create(EphemeralKeys(b"r" * 32), Terms(SUBJECT), epoch=1, not_after=NOW + 9))
    made = made_report(identity=plain, channel=Channel(host=HOST, tls_spki_sha256="00" * 32))
    _, ledger = check(made)
    assert (failing(ledger), missing(ledger)) == (set(), {"report.10"})
    sealed = Channel(host=HOST, sealed_to=plain.keyset.e2ee_public_keys[0].public_key)
    _, ledger = check(replace(made, channel=sealed))
    assert not failing(ledger) | missing(ledger)


# What is missing -----------------------------------------------------------------------------------------------------


MISSING: dict[str, tuple[str, Made, Policy | None]] = {
    "no nonce": ("report.4", made_report(None), None),
    "no channel": ("report.10", made_report(channel=None), None),
    "no key for the host": ("report.10", made_report(channel=made_channel(host="other.example")), None),
    "no manifest": (
        "report.8",
        made_report(identity=NAMELESS, with_manifest=False),
        made_policy(models=ModelsPolicy(manifests=(MANIFEST.digest(),))),
    ),
    "no seal": ("report.10", made_report(), made_policy(channel=ChannelPolicy(require="sealed"))),
    "no compose hash behind a repository": (
        "report.6",
        made_report(),
        made_policy(dstack=DstackPolicy(), provenance=ProvenancePolicy(repositories=("https://git.example/confide",))),
    ),
}


@pytest.mark.parametrize("name", MISSING, ids=lambda name: f"{MISSING[name][0]} {name}")
def test_what_is_missing_is_not_enough(name: str) -> None:
    step, made, policy = MISSING[name]
    _, ledger = check(made, policy)
    assert (failing(ledger), missing(ledger)) == (set(), {step})
    assert judge(ledger, subject="", at=NOW, policy="").exit_code == ExitCode.NOT_ENOUGH


def test_without_collateral_nothing_is_known_to_be_genuine() -> None:
    _, ledger = check(shown(collateral=None))
    assert not failing(ledger)
    assert {"tdx.8", "report.2"} <= missing(ledger)
    assert judge(ledger, subject="", at=NOW, policy="").exit_code == ExitCode.NOT_ENOUGH


def test_a_policy_that_demands_gpus_or_custody_is_not_satisfied_without() -> None:
    _, ledger = check(made_report(), made_policy(gpu=GpuPolicy(required=True)))
    assert "report.9" in missing(ledger)
    _, ledger = check(made_report(), made_policy(keys=KeysPolicy(custody=True)))
    assert "report.7" in missing(ledger)
    _, ledger = check(made_report(gpus=1), made_policy(gpu=GpuPolicy(nras=True)))
    assert "report.9" in missing(ledger)


def test_a_nonce_that_is_none_is_refused() -> None:
    _, ledger = check(made_report(None, sent="ABC"))
    assert failing(ledger) == {"report.4"}


def test_a_keyset_without_a_manifest_is_fine_where_the_policy_asks_for_none() -> None:
    made = made_report(identity=NAMELESS, with_manifest=False)
    established, ledger = check(made, made_policy(models=ModelsPolicy()))
    assert not failing(ledger) | missing(ledger)
    assert established is not None
    assert established.manifest is None


@pytest.mark.parametrize("require", ["either", "sealed"])
def test_a_sealed_channel_without_tls(require: Any) -> None:
    _, ledger = check(made_report(channel=SEALED), made_policy(channel=ChannelPolicy(require=require)))
    assert not failing(ledger) | missing(ledger)


def test_a_log_that_is_not_nested_in_a_text() -> None:
    log = json.loads(made_machine().event_log())
    _, ledger = check(shown(event_log=log))
    assert not failing(ledger) | missing(ledger)


def test_a_machine_without_dstack() -> None:
    made = shown(event_log=None, app_compose=None, vm_config=None)
    _, ledger = check(made, made_policy(dstack=DstackPolicy()))
    assert not failing(ledger) | missing(ledger)
    assert not any(finding.step.startswith("dstack") for finding in ledger.findings)
    _, ledger = check(made)
    assert "dstack.1" in missing(ledger)


def test_serving_that_is_not_known_reads_as_an_aggregator() -> None:
    established, _ = check(made_report(serving="new"))
    assert established is not None
    assert established.serving == "aggregator"


# Provenance ----------------------------------------------------------------------------------------------------------


def test_provenance_that_an_accepted_measurement_backs() -> None:
    wanted = ProvenancePolicy(repositories=("https://git.example/confide",), commits=(str(PROVENANCE.repo_commit),))
    _, ledger = check(made_report(), made_policy(provenance=wanted))
    assert not failing(ledger) | missing(ledger)
    _, ledger = check(made_report(), made_policy(dstack=DstackPolicy(), provenance=IMAGES))
    assert not failing(ledger) | missing(ledger)


def test_provenance_without_a_measured_compose_file_is_missing() -> None:
    _, ledger = check(shown(app_compose=None), made_policy(provenance=IMAGES))
    assert (failing(ledger), missing(ledger)) == (set(), {"report.6"})
    stated, measured = SourceProvenance(image_digest=OTHER), DstackFacts(compose_hash=HASH, app_compose=APP_COMPOSE)
    with pytest.raises(CheckFailed, match="runs"):
        provenance.check(stated, measured, made_policy(provenance=ProvenancePolicy(images=(OTHER,))))
    with pytest.raises(CheckFailed, match="image_digest is"):
        provenance.check(stated, measured, made_policy(provenance=ProvenancePolicy(images=(IMAGE, OTHER))))
    with pytest.raises(CheckFailed, match="not the measured one"):
        provenance.check(PROVENANCE, replace(measured, app_compose="{}"), made_policy(provenance=IMAGES))


HASH = made_machine().compose_hash.hex()
DIGEST = "sha256:" + "ab" * 32
PINNED = f"registry.example:5000/a/b:tag@{DIGEST}"


@pytest.mark.parametrize(
    "text",
    [
        f"services:\n  a:\n    image: {PINNED}\n",
        f"services:\n  a:\n    image: '{PINNED}' # note\n  b: {{image: \"{PINNED}\", restart: always}}\n",
        json.dumps({"services": {"a": {"image": PINNED}}}),
        f"services:\n  my-image:\n    image: {PINNED}\n    environment:\n      - DIR=/build:/include:x\n",
    ],
)
def test_images_of_a_compose_file(text: str) -> None:
    assert images(json.dumps({"docker_compose_file": text})) == (DIGEST,)


@pytest.mark.parametrize(
    "text",
    [
        "services: {}",
        "services:\n  a:\n    image: a:latest\n",
        f"services:\n  a:\n    image: {PINNED}0\n",
        f"services:\n  a:\n    image: {PINNED}\n  b:\n    image: *x\n",
        f"services:\n  a:\n    image: {PINNED}\n  b:\n    image:\n      evil\n",
        f"services:\n  a:\n    image: {PINNED}\n  b:\n    build: .\n",
        f"services:\n  a:\n    image: {PINNED}\n  b:\n    ? image\n    : evil\n",
        f'services:\n  a:\n    image: {PINNED}\n  b:\n    "im\\x61ge": evil\n',
        json.dumps({"services": {"a": {"image": PINNED}, "b": {"build": "."}}}),
        f"include:\n  - evil.yaml\nservices:\n  a:\n    image: {PINNED}\n",
        f"    image: {PINNED}\n" * 65,
    ],
)
def test_images_that_are_not_told(text: str) -> None:
    with pytest.raises(CheckFailed):
        images(json.dumps({"docker_compose_file": text}))
    with pytest.raises(CheckFailed):
        images("[" * 100_000)


# Vectors and mutations -----------------------------------------------------------------------------------------------


def test_the_published_statement_and_keyset() -> None:
    digest, nonce = PUBLISHED["keyset"]["digest"], PUBLISHED["statement"]["nonce"]
    assert aci.parse_keyset(PUBLISHED["keyset"]["canonical"].encode()).digest() == digest
    machine, keyset = made_machine(), PUBLISHED["keyset"]["canonical"]
    slot = bytes.fromhex(PUBLISHED["statement"]["slot"])
    for sent, held in (
        (nonce, slot),
        (None, bytes.fromhex(PUBLISHED["statement"]["null_report_data"]).ljust(64, b"\0")),
    ):
        made = made_report(nonce, report_data=held)
        value = made.value
        value["workload_keyset_digest"] = digest
        value["attestation"] |= {"workload_keyset": json.loads(keyset), "report_data": held[:32].hex()}
        value["attestation"]["evidence"]["quote"] = machine.quote(held).hex()
        saved = SavedReport(document=jcs.canonical(value), nonce=sent)
        ledger = Ledger()
        verify_report(ledger, made.context(made_policy(models=ModelsPolicy())), saved)
        assert ledger.passed("report.1", "report.2", "report.3")
        assert ledger.passed("report.4") == (sent is not None)


LEFT = {"service_capabilities", "source_provenance", "source", "vm_config", "reason"}
"""Members that nothing binds (ACI 4.1) or that only describe: other values of them don't change what is proven."""


REPEATED = {"app_compose", "quote_report_data"}
"""Members that repeat what is measured: left out they prove nothing less; changed they contradict."""


FREE = ("certificate", "_chain", "event_log")
"""Texts in which some letters mean nothing (line ends of PEM, payloads of boot events). The tests of the modules that
read them change each of their parts."""
QUOTED = 2 * (48 + 584 + 4 + 64 + 64)
"""The hex digits of a quote from its start to the attestation key; PEM comes later."""


def mutations(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every member of a JSON value left out, of another type, or with one letter changed."""
    if isinstance(value, dict):
        out = [((*path, name), {n: m for n, m in value.items() if n != name}) for name in value]
        for name in value:
            out += [(where, value | {name: one}) for where, one in mutations(value[name], (*path, name))]
        return out
    if isinstance(value, list):
        out = [((*path, "-"), value[:place] + value[place + 1 :]) for place in range(len(value))]
        for place, item in enumerate(value):
            out += [
                (at, [*value[:place], one, *value[place + 1 :]]) for at, one in mutations(item, (*path, str(place)))
            ]
        return out
    if isinstance(value, str) and value:
        most = 0 if path[-1].endswith(FREE) else QUOTED if path[-1] == "quote" else len(value) - 1
        spots = sorted({most * part // 12 for part in range(13)}) if most else []
        return [(path, value[:n] + ("0" if value[n] != "0" else "1") + value[n + 1 :]) for n in spots]
    return [(path, value + 1 if isinstance(value, int) else "x")]


def test_every_single_field_mutation_is_refused() -> None:
    made = made_report(gpus=1)
    value, tried, accepted = made.value, 0, []
    for path, one in mutations(value):
        if (
            one == value
            or LEFT & set(path)
            or (path[-1] in REPEATED and path[-1] not in one["attestation"]["evidence"])
        ):
            continue
        tried += 1
        _, ledger = check(made.but(one), made_policy(gpu=GpuPolicy(required=True, count=1)))
        if not failing(ledger) | missing(ledger):
            accepted.append(path)
    print(f"report: {tried} mutations tried, {len(accepted)} accepted")
    assert accepted == [], accepted
    assert tried > 50
