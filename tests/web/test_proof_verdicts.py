"""The page's modules judge as Python does: the same outcome for every step of every case, in Node and in a browser."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import msgspec
import pytest

from confide.verify.audit import check_report
from confide.verify.policy import Policy, check
from confide.verify.services import named
from tests.verify.making import NOW, Made, made_identity, made_report
from tests.web.cases import Json, recorded, saved_json
from tests.web.running import Run

MUTATED = 150
"""Mutations of each document; about a thousand in all."""
ELSEWHERE = ("gpu.", "gpus.")
"""Groups that a page doesn't check, and says so."""


@cache
def cases() -> tuple[Json, ...]:
    """What Python was given, and found. None at all is a failure."""
    found = tuple(recorded(MUTATED))
    assert len({one["name"] for one in found}) == len(found) > 800
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


def has_gpus(expected: Json) -> bool:
    """Whether there are devices in the case that only Python looks at."""
    return any(one["step"].startswith("gpu.") for one in expected["findings"])


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
    assert set(kinds) == {"report", "quote", "dstack", "receipt", "session", "saved"}
    failing = [one for one in cases() if any(step["outcome"] == "fail" for step in one["expected"]["findings"])]
    assert len(failing) > len(cases()) / 2
    broken = {step["step"] for one in failing for step in one["expected"]["findings"] if step["outcome"] == "fail"}
    wanted = {f"report.{number}" for number in range(1, 12)} - {"report.7"} | {
        f"tdx.{number}" for number in range(1, 11)
    }
    wanted |= {f"dstack.{number}" for number in range(1, 12)} - {"dstack.7"}
    wanted |= {f"receipt.{number}" for number in range(1, 10)} | {f"session.{number}" for number in range(1, 5)}
    assert wanted <= broken


def test_every_step_of_every_case_comes_out_as_in_python(results: dict[str, Any]) -> None:
    wrong = []
    for one in cases():
        found = results[one["name"]]
        assert "findings" in found, (one["name"], found)
        if not has_gpus(one["expected"]):
            wrong += [f"{one['name']}: {each}" for each in differences(one["expected"], found)]
    assert not wrong, "\n".join(wrong[:40])


def test_what_a_page_cannot_check_is_said_and_never_passed(results: dict[str, Any]) -> None:
    """GPUs: every step that Python makes is listed, as not checked; all other steps come out the same."""
    some = [one for one in cases() if has_gpus(one["expected"])]
    assert some
    for one in some:
        python, page = by_step(one["expected"]["findings"]), by_step(results[one["name"]]["findings"])
        assert python.keys() == page.keys()
        for step, outcome in page.items():
            if (step[0].startswith(ELSEWHERE) and step[0] != "gpus.1") or step[0] == "report.9":
                assert outcome[0] == "not checked", step
            else:
                assert outcome == python[step], step


def test_the_same_roots_and_the_same_proof(results: dict[str, Any]) -> None:
    """Where chains end, and whether a quote, a receipt or a report establishes anything."""
    for one in cases():
        expected, found = one["expected"], results[one["name"]]
        for name in ("roots", "proven", "good", "established"):
            if name in expected and not has_gpus(expected):
                assert (
                    list(expected[name]) == list(found[name]) if name == "roots" else expected[name] == found[name]
                ), (
                    one["name"],
                    name,
                )


def test_the_same_verdict_in_the_same_words(results: dict[str, Any]) -> None:
    some = [one for one in cases() if one["kind"] == "saved"]
    for one in some:
        expected, found = one["expected"], results[one["name"]]
        for name in ("verdict", "exit_code", "hardware", "subject", "at", "policy", "claims"):
            assert found[name] == expected[name], (one["name"], name)
        facts = {name: value for name, value in expected["facts"].items() if name != "gpu"}
        assert found["facts"] == facts, one["name"]
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
}
REFUSED = {"other nonce", "expired", "another log"}


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
        assert not differences({"findings": msgspec.to_builtins(expected.findings)}, verdict)


def pem_of(made: Made) -> str:
    """The development root that a person names."""
    return made.pki.roots_pem().decode()
