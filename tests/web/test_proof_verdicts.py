"""The page's modules judge as Python does: the same outcome for every step of every case, in Node and in a browser."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec
import pytest

from confide.verify.audit import check_report
from confide.verify.firstuse import accepting_anything, policy_from
from confide.verify.policy import Policy, check, parse_policy
from confide.verify.services import named
from confide.verify.snp import verify_snp
from confide.verify.verdict import Ledger, judge
from tests.verify import test_verify_snp
from tests.verify.making import NOW, Made, made_identity, made_report
from tests.web import signed_cases
from tests.web.cases import KINDS, Json, recorded, saved_json
from tests.web.devices import recorded_devices
from tests.web.running import Run

MUTATED = 150
"""Mutations of each document; about a thousand in all."""
MUTATED_DEVICES = 40
"""Mutations of each recorded report, device and manifest; about five hundred in all."""
OTHER_WORDS = {"snp.2", "snp.7", "gpu.1", "gpu.2", "rim.1", "rim.3"}
"""Steps of devices whose failures may be told otherwise than by Python: that something can't be read is said in the
words of whoever reads it."""


@cache
def cases() -> tuple[Json, ...]:
    """What Python was given, and found. None at all is a failure."""
    signed = ({**one, "name": f"signed {one['name']}"} for one in signed_cases.recorded(MUTATED))
    found = (*recorded(MUTATED), *recorded_devices(MUTATED_DEVICES), *signed)
    assert len({one["name"] for one in found}) == len(found) > 2000
    return found


@cache
def _results(run: Run) -> dict[str, Any]:
    given = [{name: value for name, value in one.items() if name != "expected"} for one in cases()]
    return {one["name"]: one for one in run("outcomes", given)}


@pytest.fixture(scope="session")
def results(run: Run) -> dict[str, Any]:
    """What the modules found, by the name of the case."""
    return _results(run)


def by_step(findings: list[Json]) -> dict[tuple[str, str], tuple[str, bool]]:
    """Outcome and whether it is required, of each step and subject."""
    found = {(one["step"], one.get("subject", "")): (one["outcome"], one.get("required", True)) for one in findings}
    assert len(found) == len(findings)
    return found


def differences(expected: Json, found: Json) -> list[str]:
    """Where the two disagree, in words."""
    python, page = by_step(expected["findings"]), by_step(found["findings"])
    return [
        f"{step} {subject}: Python {python.get((step, subject))}, the page {page.get((step, subject))}"
        for step, subject in sorted(python.keys() | page.keys())
        if python.get((step, subject)) != page.get((step, subject))
    ]


def test_most_cases_are_wrong_ones_and_every_kind_is_there() -> None:
    kinds = Counter(one["kind"] for one in cases())
    assert set(kinds) == KINDS
    failing = [one for one in cases() if any(step["outcome"] == "fail" for step in one["expected"]["findings"])]
    assert len(failing) > len(cases()) / 2
    broken = {step["step"] for one in failing for step in one["expected"]["findings"] if step["outcome"] == "fail"}
    wanted = {f"report.{number}" for number in range(1, 12)} | {f"tdx.{number}" for number in range(1, 11)}
    wanted |= {f"dstack.{number}" for number in range(1, 12)} - {"dstack.7"}
    wanted |= {f"receipt.{number}" for number in range(1, 10)} | {f"session.{number}" for number in range(1, 5)}
    wanted |= {f"snp.{number}" for number in range(1, 12)} | {f"rim.{number}" for number in (1, 2, 3, 4, 6)}
    wanted |= {f"gpu.{number}" for number in range(1, 7)} | {f"gpus.{number}" for number in range(1, 6)}
    wanted |= {f"custody.{number}" for number in range(1, 5)} | {f"signature.{number}" for number in range(1, 7)}
    assert wanted <= broken


def test_every_step_of_every_case_comes_out_as_in_python(results: dict[str, Any]) -> None:
    wrong = []
    for one in cases():
        found = results[one["name"]]
        assert "findings" in found, (one["name"], found)
        wrong += [f"{one['name']}: {each}" for each in differences(one["expected"], found)]
    assert not wrong, "\n".join(wrong[:40])


def test_devices_are_judged_in_the_same_words(results: dict[str, Any]) -> None:
    compared = 0
    for one in cases():
        if one["kind"] not in ("snp", "gpus", "rim"):
            continue
        expected, found = one["expected"], results[one["name"]]
        for python, page in zip(expected["findings"], found["findings"], strict=True):
            assert python["step"] == page["step"]
            if python["step"] not in OTHER_WORDS or python["outcome"] != "fail":
                compared += 1
                assert page["detail"] == python.get("detail", ""), (one["name"], python["step"])
        if "facts" in expected:
            assert found["facts"] == json.loads(json.dumps(expected["facts"])), one["name"]
    assert compared > 5000


READERS = ("found proofs in another form than dstack's KMS's: ", "no answer with a signature: ", "not JSON at ")
"""Where the words of a library follow, which JavaScript has not."""


def test_custody_and_older_signatures_come_out_in_the_same_words(results: dict[str, Any]) -> None:
    for one in cases():
        found = results[one["name"]]
        if one["kind"] not in ("custody", "signature", "report"):
            continue
        details = {(step["step"], step.get("subject", "")): step.get("detail", "") for step in found["findings"]}
        for step in one["expected"]["findings"]:
            detail = step.get("detail", "")
            if step["step"].startswith(("custody.", "signature.")) and not detail.startswith(READERS):
                assert details[step["step"], step.get("subject", "")] == detail, one["name"]
        if one["kind"] == "custody":
            assert found["facts"] == one["expected"]["facts"], one["name"]


def test_the_same_roots_and_the_same_proof(results: dict[str, Any]) -> None:
    """Where chains end, and whether a quote, a receipt or a report establishes anything."""
    for one in cases():
        expected, found = one["expected"], results[one["name"]]
        assert list(expected["roots"]) == list(found["roots"]), one["name"]
        for name in ("proven", "good", "established"):
            if name in expected:
                assert expected[name] == found[name], (one["name"], name)


def test_the_same_verdict_in_the_same_words(results: dict[str, Any]) -> None:
    some = [one for one in cases() if one["kind"] == "saved"]
    for one in some:
        expected, found = one["expected"], results[one["name"]]
        for name in ("verdict", "exit_code", "hardware", "subject", "at", "policy", "claims"):
            assert found[name] == expected[name], (one["name"], name)
        assert found["facts"] == expected["facts"], one["name"]
        titles = {step["step"]: step["title"] for step in expected["findings"]}
        assert {step["step"]: step["title"] for step in found["findings"]} == titles
        assert found["development"] is ("development root for quotes" in expected["roots"])
        assert found["ok"] is (expected["exit_code"] == 0)
    assert {one["expected"]["exit_code"] for one in some} == {1, 3, 5}


# First use -----------------------------------------------------------------------------------------------------------

SEEN = {
    "good": made_report(),
    "out of date": made_report(collateral={"status": "OutOfDate"}),
    "with advisories": made_report(collateral={"advisories": ("INTEL-SA-1", "INTEL-SA-2")}),
    "no dstack": made_report(evidence={"event_log": None, "app_compose": None}),
    "other nonce": made_report(sent="00" * 32),
    "expired": made_report(identity=made_identity(not_after=NOW)),
    "another log": made_report(evidence={"event_log": "[]"}),
    "with GPUs": made_report(gpus=2),
    "GPUs of another nonce": made_report(gpus=2, gpu_nonce=bytes(32)),
}
REFUSED = {"other nonce", "expired", "another log", "GPUs of another nonce"}


def test_a_policy_of_first_use_accepts_what_it_was_made_from(run: Run) -> None:
    """Only what is genuine, and only this workload; under it Python says the same."""
    given = [
        {"name": name, "kind": "first_use", "saved": saved_json(made.saved()), "now": NOW, "pem": pem_of(made)}
        for name, made in SEEN.items()
    ]
    for one, found in zip(given, run("outcomes", given), strict=True):
        made = SEEN[one["name"]]
        if one["name"] in REFUSED:
            assert found.get("error") == "PolicyError", (one["name"], found)
            continue
        policy = check(msgspec.convert(found["ok"]["policy"], Policy))
        assert (policy.trust, policy.names_workload, policy.unsafe_any_workload) == ("first use", True, False)
        expected, _ = check_report(made.saved(), named("aci"), made.context(policy))
        verdict = found["ok"]["verdict"]
        assert (verdict["exit_code"], verdict["policy"]) == (expected.exit_code, expected.policy), one["name"]
        assert expected.exit_code == 3
        assert (policy.gpu.required, policy.gpu.count) == ((True, 2) if one["name"] == "with GPUs" else (False, None))
        assert not differences({"findings": msgspec.to_builtins(expected.findings)}, verdict)


def pem_of(made: Made) -> str:
    """The development roots that a person names."""
    return "".join(pki.roots_pem().decode() for pki in (made.pki, *made.gpu_pkis))


@pytest.mark.parametrize("name", test_verify_snp.REAL)
def test_a_policy_of_first_use_names_a_guest_of_snp_as_in_python(run: Run, name: str) -> None:
    """Recorded reports, with what Python found about them."""
    real, ledger = test_verify_snp.REAL[name], Ledger()
    verify_snp(ledger, replace(real.context(), policy=accepting_anything()), real.report)
    verdict = judge(ledger, subject=name, at=0, policy="")
    given = {"name": name, "kind": "first_use_of", "verdict": msgspec.to_builtins(verdict)}
    (found,) = run("outcomes", [given])
    python = parse_policy(policy_from(verdict))
    assert python.snp.measurements
    assert check(msgspec.convert(found["ok"], Policy)) == python
