"""A policy of first use accepts what it was made from, and nothing that differs from it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from confide.verify.audit import check_report
from confide.verify.context import Context
from confide.verify.firstuse import accepting_anything, advisories_in, policy_from
from confide.verify.material import Item, Material
from confide.verify.policy import Policy, PolicyError, check, parse_policy
from confide.verify.roots import Roots
from confide.verify.services import named
from confide.verify.snp import verify_snp
from confide.verify.tdx import verify_tdx
from confide.verify.verdict import ExitCode, Ledger, Outcome, Verdict, judge
from tests.verify import tdx_maker
from tests.verify.making import MANIFEST, NOW, Made, made_machine, made_report
from tests.verify.test_verify_snp import REAL

EVIL = 'x"\n[tdx]\nstatuses = ["OutOfDate"]\n\x1b[2J\u202e\\'


def judged(made: Made, policy: Policy) -> Verdict:
    """The verdict over a report."""
    return check_report(made.saved(), named("aci"), made.context(policy))[0]


def first_used(made: Made) -> Policy:
    """The policy that is made of a report."""
    verdict = judged(made, accepting_anything())
    if advisories := advisories_in(verdict.facts):
        verdict = judged(made, accepting_anything(advisories))
    assert verdict.exit_code == ExitCode.DEVELOPMENT, verdict.problems()
    return parse_policy(policy_from(verdict))


def test_what_accepts_anything_is_a_policy_all_the_same() -> None:
    policy = check(accepting_anything(("INTEL-SA-00001",)))
    assert policy.unsafe_any_workload
    assert policy.tdx.advisories == ("INTEL-SA-00001",)


REPORTS: dict[str, Callable[[], Made]] = {
    "a guest": made_report,
    "with GPUs": lambda: made_report(gpus=2),
    "no compose file at hand": lambda: made_report(evidence={"app_compose": None}),
    "no event log": lambda: made_report(evidence={"event_log": None, "app_compose": None}),
    "no manifest at hand": lambda: made_report(with_manifest=False),
    "behind": lambda: made_report(collateral={"status": "OutOfDate", "advisories": ("INTEL-SA-00001",)}),
    "advisories": lambda: made_report(collateral={"status": "SWHardeningNeeded", "advisories": ("INTEL-SA-7",)}),
}


@pytest.mark.parametrize("what", REPORTS)
def test_it_accepts_what_it_was_made_from(what: str) -> None:
    made = REPORTS[what]()
    policy = first_used(made)
    assert policy.trust == "first use"
    assert policy.names_workload
    assert not policy.unsafe_any_workload
    verdict = judged(made, policy)
    assert verdict.exit_code == ExitCode.DEVELOPMENT, verdict.problems()


def test_it_names_everything_that_was_seen() -> None:
    policy = first_used(made_report(gpus=2))
    assert policy.roots == ("intel", "nvidia")
    assert policy.tdx.statuses == ("UpToDate",)
    assert policy.dstack.compose_hashes == (made_machine().compose_hash.hex(),)
    assert policy.models.manifests == (MANIFEST.digest(),)
    assert (policy.gpu.required, policy.gpu.count, policy.gpu.switches) == (True, 2, 0)
    (td,) = policy.tdx.measurements
    assert None not in (td.mr_td, td.rtmr0, td.rtmr1, td.rtmr2)
    assert td.rtmr3 is None  # holds the instance's own id


def test_a_guest_without_dstack_is_bound_by_every_register() -> None:
    (td,) = first_used(REPORTS["no event log"]()).tdx.measurements
    assert td.rtmr3 is not None


OTHERS: dict[str, Callable[[], Made]] = {
    "one GPU more": lambda: made_report(gpus=3),
    "no GPU": made_report,
    "a worse status": lambda: made_report(gpus=2, collateral={"status": "OutOfDate"}),
    "an advisory": lambda: made_report(gpus=2, collateral={"advisories": ("INTEL-SA-1",)}),
}


@pytest.mark.parametrize("what", OTHERS)
def test_it_accepts_nothing_else(what: str) -> None:
    policy = first_used(made_report(gpus=2))
    assert judged(OTHERS[what](), policy).exit_code in (ExitCode.FAILED, ExitCode.NOT_ENOUGH)


def flipped(value: Any) -> Any:
    """Another value of the same shape."""
    if isinstance(value, str):
        return ("0" if value[-1] != "0" else "1").join([value[:-1], ""])
    return value + 1 if isinstance(value, int) else value


@pytest.mark.parametrize(
    "path",
    [
        *[("tdx", "measurements", 0, name) for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")],
        *[("dstack", "compose_hashes", 0), ("dstack", "app_ids", 0), ("models", "manifests", 0), ("gpu", "count")],
    ],
    ids=str,
)
def test_each_value_binds(path: tuple[Any, ...]) -> None:
    made = made_report(gpus=1)
    text = policy_from(judged(made, accepting_anything()))
    value = tomllib.loads(text)
    place = value
    for step in path[:-1]:
        place = place[step]
    old = place[path[-1]]
    new = (
        text.replace(json.dumps(old), json.dumps(flipped(old)))
        if isinstance(old, str)
        else text.replace(f"count = {old}", f"count = {flipped(old)}")
    )
    assert new != text
    assert judged(made, parse_policy(new)).exit_code in (ExitCode.FAILED, ExitCode.NOT_ENOUGH)


# Hardware ------------------------------------------------------------------------------------------------------------


def quote_judged(name: str, policy: Policy) -> Verdict:
    """The verdict over a recorded quote with its own collateral, at its time."""
    material = Material((Item("tdx-collateral", "", tdx_maker.recorded_collateral(name), "stapled"),))
    context = Context(policy, Roots.of(policy.roots), tdx_maker.CAPTURED[name], material)
    ledger = Ledger()
    verify_tdx(ledger, context, tdx_maker.recorded(name))
    return judge(ledger, subject=name, at=context.now, policy=policy.digest())


@pytest.mark.parametrize("name", ["tdx_v4", "tdx_v4_near"])
def test_real_tds(name: str) -> None:
    advisories = advisories_in(quote_judged(name, accepting_anything()).facts)
    verdict = quote_judged(name, accepting_anything(advisories))
    assert verdict.exit_code == ExitCode.VERIFIED, verdict.problems()
    policy = parse_policy(policy_from(verdict))
    assert policy.roots == ("intel",)
    again = quote_judged(name, policy)
    assert (again.exit_code, again.hardware) == (ExitCode.VERIFIED, True), again.problems()


@pytest.mark.parametrize("name", sorted(REAL))
def test_real_guests_of_snp(name: str) -> None:
    real = REAL[name]
    context = replace(real.context(), policy=accepting_anything())
    ledger = Ledger()
    verify_snp(ledger, context, real.report)
    policy = parse_policy(policy_from(judge(ledger, subject=name, at=context.now, policy="")))
    assert policy.roots == ("amd",)
    again = Ledger()
    assert verify_snp(again, replace(context, policy=policy), real.report) is not None
    assert Outcome.FAIL not in {finding.outcome for finding in again.findings}
    assert again.passed("snp.8", "snp.9", "snp.11")


# The text ------------------------------------------------------------------------------------------------------------


def shown(facts: dict[str, Any], roots: tuple[str, ...] = ("Intel SGX Root CA",), subject: str = "x") -> Verdict:
    """A verdict with these facts."""
    return Verdict(
        verdict="verified",
        exit_code=0,
        hardware=True,
        subject=subject,
        at=NOW,
        policy="",
        roots=roots,
        findings=(),
        claims={},
        facts=facts,
    )


def test_what_names_no_workload_makes_no_policy() -> None:
    for facts in ({}, {"gpu": [{"arch": "HOPPER"}]}, {"report": {"manifest": None}}, {"tdx": {"mr_td": "0" * 96}}):
        with pytest.raises(PolicyError, match="names no workload"):
            policy_from(shown(facts))


def test_text_of_a_service_stays_in_its_place() -> None:
    facts = {
        "tdx": {"mr_td": "ab" * 48, "status": "UpToDate"},
        "gpu": [{"arch": EVIL, "kind": "gpu", "measured": True}],
        "report": {"provenance": {"repo_url": EVIL, "repo_commit": EVIL, "image_digest": None}},
    }
    text = policy_from(shown(facts, ("Intel SGX Root CA", "NVIDIA Device Identity CA"), subject=EVIL), name=EVIL)
    assert all(character.isprintable() or character == "\n" for character in text)
    policy = parse_policy(text)
    assert policy.tdx.statuses == ("UpToDate",)
    assert policy.gpu.architectures == (EVIL.replace("\n", " ").replace("\x1b", " ").replace("\u202e", " "),)
    assert policy.gpu.measurements


@pytest.mark.parametrize(
    ("names", "vendors"),
    [
        (("AMD ARK-Genoa",), ("amd",)),
        (("Intel SGX Root CA", "NVIDIA Device Identity CA", "NVIDIA CoRIM signing Root CA"), ("intel", "nvidia")),
        (("development root for quotes", "development root for GPUs"), ("intel", "nvidia")),
    ],
)
def test_roots_by_their_vendors(names: tuple[str, ...], vendors: tuple[str, ...]) -> None:
    text = policy_from(shown({"tdx": {"mr_td": "ab" * 48}}, names))
    assert tomllib.loads(text)["roots"] == list(vendors)


def test_a_guest_of_snp() -> None:
    seen = {"measurement": "ab" * 48, "host_data": "00" * 32, "id_key_digest": "00" * 48, "key": "vlek", "vmpl": 1}
    seen |= {"policy": "0x70000", "reported_tcb": {"snp": 22, "bootloader": 4, "fmc": 0}}
    text = policy_from(shown({"snp": seen}, ("AMD ARK-Milan",)))
    snp = parse_policy(text).snp
    assert (snp.vlek, snp.most_privileged_only, snp.migration_agent) == (True, False, True)
    assert [entry.host_data for entry in snp.measurements] == [None]
    assert "# minimum_tcb = { snp = 22, bootloader = 4 }" in text


def test_several_guests_are_each_named_once() -> None:
    facts = {"tdx:gateway": {"mr_td": "ab" * 48}, "tdx:model": {"mr_td": "cd" * 48}, "tdx:again": {"mr_td": "ab" * 48}}
    assert [one.mr_td for one in parse_policy(policy_from(shown(facts))).tdx.measurements] == ["ab" * 48, "cd" * 48]


def test_performance_counters_are_told() -> None:
    perfmon = (1 << 63 | 1 << 28).to_bytes(8, "little").hex()
    text = policy_from(shown({"tdx": {"mr_td": "ab" * 48, "td_attributes": perfmon}}))
    assert parse_policy(text).tdx.perfmon
