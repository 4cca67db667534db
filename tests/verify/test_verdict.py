"""The ledger and its verdict: nothing is skipped in silence, and one failure is enough."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from confide.errors import ConfideError
from confide.verify.roots import Root
from confide.verify.verdict import (
    CheckFailed,
    Checks,
    ClaimMade,
    ExitCode,
    Ledger,
    NotChecked,
    Outcome,
    Steps,
    Verdict,
    bounded,
    judge,
)

STEPS = Steps.of("t", "Three steps", "a test", ("one", "proves one"), ("two", "proves two"), ("three", "proves three"))
CPU = Root("a root of CPUs", "intel", "tdx", b"")
SNP = Root("a root of AMD", "amd", "snp", b"")
GPU = Root("a root of GPUs", "nvidia", "gpu", b"")
DEVELOPMENT = Root("a development root", "intel", "tdx", b"", development=True)
DEVELOPMENT_GPU = Root("a development root of GPUs", "nvidia", "gpu", b"", development=True)


def fails() -> None:
    raise CheckFailed("found 1, expected 2")


def lacks() -> None:
    raise NotChecked("nothing at hand")


def lacks_what_nobody_needs() -> None:
    raise NotChecked("nobody asked", required=False)


def fine() -> None:
    return None


def verdict(ledger: Ledger) -> Verdict:
    return judge(ledger, subject="it", at=1, policy="sha256:0")


def made(*calls: Callable[[], None], roots: tuple[Root, ...] = (CPU,)) -> Verdict:
    """The verdict over as many checks, in one group."""
    ledger = Ledger()
    with ledger.group(STEPS) as checks:
        for number, call in enumerate(calls, 1):
            checks.check(number, call)
    for root in roots:
        ledger.trusted(root)
    return verdict(ledger)


def test_steps_are_numbered_from_one() -> None:
    assert [(step.id, step.title, step.proves) for step in STEPS.steps] == [
        ("t.1", "one", "proves one"),
        ("t.2", "two", "proves two"),
        ("t.3", "three", "proves three"),
    ]


@pytest.mark.parametrize(
    ("calls", "roots", "code", "word", "hardware"),
    [
        ((fine, fine, fine), (CPU,), ExitCode.VERIFIED, "verified", True),
        ((fine, fine, fine), (SNP, GPU), ExitCode.VERIFIED, "verified", True),
        ((fine, fine, lacks_what_nobody_needs), (CPU,), ExitCode.VERIFIED, "verified", True),
        ((fine, fails, fine), (CPU,), ExitCode.FAILED, "failed", False),
        ((fine, fails, lacks), (CPU,), ExitCode.FAILED, "failed", False),
        ((fine, fails, fine), (DEVELOPMENT,), ExitCode.FAILED, "failed", False),
        ((fine, fine, lacks), (CPU,), ExitCode.NOT_ENOUGH, "not enough evidence", True),
        ((fine, fine, lacks), (DEVELOPMENT,), ExitCode.NOT_ENOUGH, "not enough evidence", False),
        ((fine, fine), (CPU,), ExitCode.NOT_ENOUGH, "not enough evidence", True),
        ((fine, fine, fine), (), ExitCode.NOT_ENOUGH, "not enough evidence", False),
        ((fine, fine, fine), (GPU,), ExitCode.NOT_ENOUGH, "not enough evidence", False),
        ((lacks_what_nobody_needs,) * 3, (CPU,), ExitCode.NOT_ENOUGH, "not enough evidence", True),
        ((fine, fine, fine), (DEVELOPMENT,), ExitCode.DEVELOPMENT, "consistent, development root", False),
        ((fine, fine, fine), (CPU, DEVELOPMENT_GPU), ExitCode.DEVELOPMENT, "consistent, development root", False),
    ],
)
def test_the_verdict(
    calls: tuple[Callable[[], None], ...], roots: tuple[Root, ...], code: ExitCode, word: str, hardware: bool
) -> None:
    found = made(*calls, roots=roots)
    assert (found.exit_code, found.verdict, found.hardware) == (code, word, hardware)
    assert found.is_verified == (code == ExitCode.VERIFIED)
    assert found.roots == tuple(root.name for root in roots)


def test_nothing_at_all_is_not_enough() -> None:
    ledger = Ledger()
    ledger.trusted(CPU)
    assert verdict(ledger).exit_code == ExitCode.NOT_ENOUGH


def test_a_step_that_nobody_made_is_required_and_not_checked() -> None:
    ledger = Ledger()
    with ledger.group(STEPS, "a device") as checks:
        checks.check(2, fine)
    outcomes = [(f.step, f.outcome, f.detail, f.subject, f.required) for f in ledger.findings]
    assert outcomes == [
        ("t.2", Outcome.PASS, "", "a device", True),
        ("t.1", Outcome.NOT_CHECKED, "not reached", "a device", True),
        ("t.3", Outcome.NOT_CHECKED, "not reached", "a device", True),
    ]
    assert checks.failed


@pytest.mark.parametrize(
    ("call", "outcome", "required"),
    [
        (fails, Outcome.FAIL, True),
        (lacks, Outcome.NOT_CHECKED, True),
        (lacks_what_nobody_needs, Outcome.NOT_CHECKED, False),
    ],
)
def test_a_step_that_others_need_ends_its_group(call: Callable[[], None], outcome: Outcome, required: bool) -> None:
    ledger, reached = Ledger(), []
    with ledger.group(STEPS) as checks:
        checks.need(1, call)
        reached.append("never")
    assert reached == []
    assert ledger.findings[0].outcome is outcome
    assert [(f.outcome, f.detail, f.required) for f in ledger.findings[1:]] == [
        (Outcome.NOT_CHECKED, "needs step t.1", required)
    ] * 2
    assert checks.failed == required


def test_the_value_of_a_step_goes_on_and_is_said() -> None:
    ledger = Ledger()
    with ledger.group(STEPS) as checks:
        assert checks.need(1, lambda: 7, lambda value: f"found {value}") == 7
        assert checks.need(2, lambda: 8, "eight") == 8
        assert checks.check(3, lambda: "nine")
    assert [finding.detail for finding in ledger.findings] == ["found 7", "eight", "nine"]
    assert not checks.failed


def test_checks_go_on_after_a_failure_and_all_are_collected() -> None:
    ledger = Ledger()
    with ledger.group(STEPS) as checks:
        assert not checks.check(1, fails)
        assert not checks.check(2, lacks_what_nobody_needs)
        checks.skip(3, "not here", required=True)
    assert [(f.outcome, f.detail, f.required) for f in ledger.findings] == [
        (Outcome.FAIL, "found 1, expected 2", True),
        (Outcome.NOT_CHECKED, "nobody asked", False),
        (Outcome.NOT_CHECKED, "not here", True),
    ]
    assert [finding.step for finding in verdict(ledger).problems()] == ["t.1", "t.3"]


def test_every_exception_of_ours_is_a_failure() -> None:
    def other() -> None:
        raise ConfideError("something of ours")

    found = made(other, fine, fine)
    assert found.exit_code == ExitCode.FAILED
    assert found.findings[0].detail == "something of ours"


@pytest.mark.parametrize("make", [Checks.need, Checks.check])
def test_a_foreign_exception_leaves_the_group_closed_and_the_verdict_bad(make: Callable[..., object]) -> None:
    def breaks() -> None:
        raise ZeroDivisionError

    ledger = Ledger()
    ledger.trusted(CPU)

    def whole() -> None:
        with ledger.group(STEPS) as checks:
            checks.check(1, fine)
            make(checks, 2, breaks)

    with pytest.raises(ZeroDivisionError):
        whole()
    assert [finding.step for finding in ledger.findings] == ["t.1", "t.2", "t.3"]
    assert [finding.outcome for finding in ledger.findings[1:]] == [Outcome.NOT_CHECKED] * 2
    assert verdict(ledger).exit_code == ExitCode.NOT_ENOUGH


def test_leaving_a_group_early_closes_it() -> None:
    def early(ledger: Ledger) -> int:
        with ledger.group(STEPS) as checks:
            checks.check(1, fine)
            return 1
        return 2

    ledger = Ledger()
    assert early(ledger) == 1
    assert [finding.outcome for finding in ledger.findings[1:]] == [Outcome.NOT_CHECKED] * 2


def test_a_step_is_made_once_and_exists() -> None:
    ledger = Ledger()
    with ledger.group(STEPS) as checks:
        checks.check(1, fine)
        with pytest.raises(KeyError):
            checks.check(1, fine)
        with pytest.raises(KeyError):
            checks.skip(4, "there is no fourth")


def test_passed_needs_every_time() -> None:
    ledger = Ledger()
    for call in (fine, fails):
        with ledger.group(STEPS) as checks:
            checks.check(1, fine)
            checks.check(2, call)
    assert ledger.passed("t.1")
    assert not ledger.passed("t.2")
    assert not ledger.passed("t.3")
    assert not ledger.passed("t.1", "t.2")
    assert not ledger.passed("t.9")
    assert ledger.passed()


def test_a_root_is_named_once() -> None:
    ledger = Ledger()
    for root in (CPU, GPU, CPU):
        ledger.trusted(root)
    assert ledger.anchors == [CPU, GPU]


def test_details_are_one_short_line() -> None:
    assert bounded("a\nb\x1b[31m\u202e") == "a b [31m "
    assert bounded("x" * 600) == "x" * 600
    assert bounded("x" * 601) == "x" * 599 + "…"
    found = made(lambda: None, fails, fine)
    assert found.findings[1].detail == "found 1, expected 2"

    def long() -> None:
        raise CheckFailed("y" * 10_000)

    assert len(made(long, fine, fine).findings[0].detail) == 600


def test_a_verdict_is_a_json_text() -> None:
    ledger = Ledger()
    ledger.facts["tdx"] = {"mr_td": "00"}
    with ledger.group(STEPS) as checks:
        checks.check(1, fails)
    claims = {"tee_attested": ClaimMade(status="refuted", reason="it failed")}
    found = judge(ledger, subject="it", at=7, policy="sha256:0", claims=claims)
    value = json.loads(found.as_json())
    assert set(value) == {
        *("verdict", "exit_code", "hardware", "subject", "at", "policy"),
        *("roots", "findings", "claims", "facts"),
    }
    assert (value["verdict"], value["exit_code"], value["at"]) == ("failed", 1, 7)
    assert value["findings"][0] == {"step": "t.1", "title": "one", "outcome": "fail", "detail": "found 1, expected 2"}
    assert value["claims"] == {"tee_attested": {"status": "refuted", "reason": "it failed"}}
    assert value["facts"] == {"tdx": {"mr_td": "00"}}


def test_facts_of_a_verdict_are_its_own() -> None:
    ledger = Ledger()
    found = verdict(ledger)
    ledger.facts["later"] = 1
    assert found.facts == {}
