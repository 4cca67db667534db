"""How verdicts are shown: on a terminal, in a pipe, as JSON; and that nothing foreign gets through."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from confide.cli import console, verdicts
from confide.cli.explain import explain
from confide.verify.policy import (
    AgePolicy,
    DstackPolicy,
    GpuPolicy,
    KeysPolicy,
    ModelsPolicy,
    Policy,
    ProvenancePolicy,
    SessionsPolicy,
    SnpMeasurement,
    SnpPolicy,
    SnpTcb,
    TdMeasurement,
    TdxPolicy,
)
from confide.verify.roots import Root, pinned
from confide.verify.verdict import (
    CheckFailed,
    ClaimMade,
    ExitCode,
    Finding,
    Ledger,
    NotChecked,
    Outcome,
    Steps,
    Verdict,
    judge,
)

EVIL = "\x1b[2J\x1b]0;owned\x07[bold red]\u202e\x9b31m\n\ttwo"
STEPS = Steps.of("test", "A test", "nowhere", ("one", "proves one"), ("two", "proves two"))
POLICY = Policy(roots=("intel",), models=ModelsPolicy(manifests=("sha256:" + "00" * 32,)))
INTEL = next(root for root in pinned() if root.use == "tdx")
DEVELOPMENT = Root("development root for quotes", "intel", "tdx", b"", development=True)

Captured = pytest.CaptureFixture[str]


def verdict(problem: Exception | None = None, root: Root | None = INTEL, subject: str = "the service") -> Verdict:
    """Of two steps, of which the second may end badly."""
    ledger = Ledger()

    def second() -> str:
        if problem is not None:
            raise problem
        return "found"

    with ledger.group(STEPS, "gpu 0") as checks:
        checks.check(1, lambda: "fine")
        checks.check(2, second)
    if root is not None:
        ledger.trusted(root)
    claims = {"tee_attested": ClaimMade(status="asserted", source="hardware_proven", reason=subject)}
    return judge(ledger, subject=subject, at=1_790_000_000, policy=POLICY.digest(), claims=claims)


CASES = {
    0: verdict(),
    1: verdict(CheckFailed("found a, expected b")),
    3: verdict(root=DEVELOPMENT),
    5: verdict(NotChecked("nothing is at hand")),
}


@pytest.mark.parametrize("code", CASES)
def test_each_verdict_has_its_code_and_sentence(code: int, capsys: Captured) -> None:
    given = CASES[code]
    assert verdicts.exit_code(given, POLICY) == code
    verdicts.show(given, POLICY)
    out = capsys.readouterr().out
    sentence = {0: "Verified: ", 1: "FAILED: ", 3: "Consistent, but", 5: "Not enough evidence: "}[code]
    assert [word for word in ("Verified: ", "FAILED: ", "Consistent, but", "Not enough evidence: ") if word in out] == [
        sentence
    ]
    assert f"hardware   {str(code in (0, 5)).lower()}" in out
    assert "test.1\tpass\tone [gpu 0]\tfine\n" in out
    outcome = {0: "pass", 1: "FAIL", 3: "pass", 5: "not checked"}[code]
    assert f"test.2\t{outcome}\ttwo [gpu 0]" in out
    value = verdicts.as_builtins(given, POLICY)
    assert (value["exit_code"], value["verdict"]) == (code, given.verdict)


@pytest.mark.parametrize("code", CASES)
def test_without_a_policy_nothing_is_good(code: int, capsys: Captured) -> None:
    expected = 1 if code == 1 else 2
    assert verdicts.exit_code(CASES[code], None) == expected
    verdicts.show(CASES[code], None)
    out = capsys.readouterr().out
    assert verdicts.NO_POLICY in out
    assert "Verified" not in out
    value = verdicts.as_builtins(CASES[code], None)
    assert (value["exit_code"], value["verdict"]) == (expected, "failed" if code == 1 else "no policy")


def test_what_to_do_next() -> None:
    first = Policy(roots=("intel",), trust="first use", unsafe_any_workload=True)
    assert list(verdicts.advice(CASES[0], POLICY)) == []
    said = list(verdicts.advice(CASES[0], first))
    assert said[0] == verdicts.FIRST_USE
    assert "unsafe_any_workload" in said[1]
    assert "Look at test.2" in next(verdicts.advice(CASES[1], POLICY))
    assert "Could not be checked: test.2." in list(verdicts.advice(CASES[5], POLICY))
    assert any("--insecure-dev-root" in line for line in verdicts.advice(verdict(root=None), POLICY))


def test_many_failing_steps_are_not_all_named() -> None:
    steps = Steps.of("many", "Many", "nowhere", *[(f"step {n}", "proves") for n in range(12)])
    ledger = Ledger()
    with ledger.group(steps) as checks:
        for number in range(1, 13):
            checks.check(number, _fail)
    made = judge(ledger, subject="x", at=0, policy="")
    assert "many.8 and 4 more" in next(verdicts.advice(made, POLICY))


def _fail() -> None:
    raise CheckFailed("no")


def test_the_worst_of_several() -> None:
    assert list(map(int, verdicts.WORST_FIRST)) == [1, 2, 4, 5, 3, 0]
    assert set(verdicts.WORST_FIRST) == set(ExitCode)
    assert verdicts.worst([0, 0]) == 0
    assert verdicts.worst([0, 3, 5]) == 5
    assert verdicts.worst([2, 1, 5]) == 1
    assert verdicts.worst([]) == 2


def controls(text: str) -> list[str]:
    """Control characters that could do something to a terminal."""
    return re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_table_shows_text_as_text(is_terminal: bool) -> None:
    out = io.StringIO()
    finding = Finding(step=EVIL, title=EVIL, outcome=Outcome.FAIL, detail=EVIL, subject=EVIL)
    terminal = Console(file=out, force_terminal=is_terminal, width=300, color_system=None)
    verdicts.show_steps([finding], terminal)
    shown = out.getvalue()
    assert controls(shown) == []
    assert "[bold red]" in shown
    assert len(shown.splitlines()) == (2 if is_terminal else 1)
    assert (shown.count("\t") == 3) is not is_terminal


def test_nothing_foreign_gets_through(capsys: Captured) -> None:
    given = verdict(CheckFailed(EVIL), subject=EVIL)
    verdicts.show(given, POLICY)
    verdicts.show_problems(given, POLICY)
    verdicts.note_word(given, POLICY)
    console.say_json(verdicts.as_builtins(given, POLICY))
    console.say(EVIL)
    console.note(EVIL)
    console.fail(EVIL)
    said = capsys.readouterr()
    assert controls(said.out + said.err) == []


def test_json_stays_what_it_was(capsys: Captured) -> None:
    console.say_json({"text": EVIL, "more": "ä\U0001f600"})
    assert json.loads(capsys.readouterr().out) == {"text": EVIL, "more": "ä\U0001f600"}


def test_times_that_no_calendar_has() -> None:
    assert verdicts.moment(0) == "1970-01-01 00:00:00 UTC"
    assert verdicts.moment(1 << 62) == f"{1 << 62} s"


# Policies in words ---------------------------------------------------------------------------------------------------

FULL = Policy(
    roots=("intel", "amd", "nvidia"),
    tdx=TdxPolicy(
        statuses=("UpToDate", "OutOfDate"),
        advisories=("INTEL-SA-00001",),
        grace_days=7,
        minimum_evaluation_number=17,
        measurements=(TdMeasurement(mr_td="ab" * 48, note="release 1"),),
    ),
    snp=SnpPolicy(vlek=True, minimum_tcb=SnpTcb(snp=22), measurements=(SnpMeasurement(measurement="cd" * 48),)),
    dstack=DstackPolicy(
        compose_hashes=("01" * 32,), os_images=("02" * 32,), app_ids=("03" * 20,), key_providers=("04" * 33,)
    ),
    gpu=GpuPolicy(
        required=True, count=8, switches=4, architectures=("HOPPER",), drivers=("580.1",), measurements=True, nras=True
    ),
    models=ModelsPolicy(manifests=("sha256:" + "05" * 32,)),
    provenance=ProvenancePolicy(
        repositories=("https://example.org/code",), commits=("c0ffee",), images=("sha256:" + "06" * 32,)
    ),
    keys=KeysPolicy(custody=True, longest_days=30, subjects=("someone",)),
    age=AgePolicy(report_days=2),
    sessions=SessionsPolicy(claims={}),
    claims={"gpu_attested": ("hardware_proven",)},
)


def test_every_value_of_a_policy_is_told() -> None:
    said = "\n".join(f"{subject}: {text}" for subject, text in explain(FULL))
    for value in (
        *("ab" * 48, "cd" * 48, "01" * 32, "02" * 32, "03" * 20, "04" * 33, "05" * 32, "06" * 32),
        *("release 1", "OutOfDate", "7 days", "INTEL-SA-00001", "17", "snp 22", "VLEK", "exactly 8", "4 switches"),
        *("HOPPER", "580.1", "equal NVIDIA's", "NVIDIA's service", "https://example.org/code", "c0ffee", "30 days"),
        *("someone", "proof of who released", "counts for 2 days", "claim gpu_attested", "hardware_proven"),
    ):
        assert value in said, value
    assert "one of" not in said.split("workload")[1].splitlines()[0]


def test_what_accepts_anything_says_so() -> None:
    said = dict(explain(Policy(roots=("amd",), unsafe_any_workload=True, sessions=SessionsPolicy(required=False))))
    assert said["workload"].startswith("ANY workload")
    assert said["upstreams"] == "an answer need not name a verified upstream"
    assert "TDX status" not in said
