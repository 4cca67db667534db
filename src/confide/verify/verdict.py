"""What a verification found: numbered steps, each passed, failed or not checked, and one verdict over all of them.

A kind of evidence numbers its steps once (:class:`Steps`); the numbers stay the same in code, tests, documents and
output. A check returns or raises; what it raises is recorded by the :class:`Ledger`. A step that nobody recorded is
recorded as not checked, so nothing is skipped in silence. Nothing here reads a clock, a file or the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import Struct

from confide.errors import ConfideError
from confide.verify.roots import Root

T = TypeVar("T")
_LONGEST_DETAIL: Final = 600


class Outcome(StrEnum):
    """What became of one step."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    NOT_CHECKED = "not checked"


class ExitCode(IntEnum):
    """What the commands of the client half exit with."""

    VERIFIED = 0
    FAILED = 1
    USAGE = 2
    DEVELOPMENT = 3
    UNREACHABLE = 4
    NOT_ENOUGH = 5


class CheckFailed(ConfideError):
    """A check's answer is no; the text says what was found and what was expected."""


class NotChecked(ConfideError):
    """A check could not be made, and this is why. It counts as missing where the policy needs it."""

    def __init__(self, reason: str, *, required: bool = True) -> None:
        super().__init__(reason)
        self.required = required


# Steps ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered check: its id (``tdx.3``), what it asks in a few words, and what it proves in a sentence."""

    id: str
    title: str
    proves: str


@dataclass(frozen=True, slots=True)
class Steps:
    """The checks of one kind of evidence, numbered from 1 in the order in which they are made."""

    name: str
    title: str
    source: str
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, name: str, title: str, source: str, *steps: tuple[str, str]) -> Steps:
        """Steps from pairs of title and what it proves; ``source`` names the rule (specification and section)."""
        made = (Step(f"{name}.{number}", *step) for number, step in enumerate(steps, 1))
        return cls(name, title, source, tuple(made))


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one step. ``subject`` says of which of several devices or attestations; ``required`` whether the
    verdict may not be good without it."""

    step: str
    title: str
    outcome: Outcome
    detail: str = ""
    subject: str = ""
    required: bool = True


class _Ended(Exception):
    """A step that others need did not pass; the group ends here."""


class Checks:
    """The steps of one group while they are made; see :meth:`Ledger.group`."""

    def __init__(self, steps: Steps, subject: str, findings: list[Finding]) -> None:
        self._steps = steps
        self._subject = subject
        self._findings = findings
        self._open = dict(enumerate(steps.steps, 1))
        self._ended_by: Finding | None = None
        self.failed = False
        """Whether a step of this group failed, or was required and could not be made."""

    def need(self, number: int, call: Callable[[], T], said: Callable[[T], str] | str = "") -> T:
        """Make a step that all later ones need, and give its value; if it does not pass, the group ends."""
        try:
            value = call()
        except ConfideError as wrong:
            self._record_problem(number, wrong)
            self._ended_by = self._findings[-1]
            raise _Ended from None
        self._record(number, Outcome.PASS, said if isinstance(said, str) else said(value))
        return value

    def check(self, number: int, call: Callable[[], str | None]) -> bool:
        """Make a step that stands for itself; ``call`` may return what to say about it. Whether it passed."""
        try:
            said = call()
        except ConfideError as wrong:
            self._record_problem(number, wrong)
            return False
        self._record(number, Outcome.PASS, said or "")
        return True

    def skip(self, number: int, reason: str, *, required: bool = True) -> None:
        """Say that a step is not made, and why."""
        self._record_problem(number, NotChecked(reason, required=required))

    def _record_problem(self, number: int, wrong: ConfideError) -> None:
        if isinstance(wrong, NotChecked):
            self._record(number, Outcome.NOT_CHECKED, str(wrong), required=wrong.required)
        else:
            self._record(number, Outcome.FAIL, str(wrong))

    def _record(self, number: int, outcome: Outcome, detail: str, *, required: bool = True) -> None:
        step = self._open.pop(number)  # a step is made once; a second time is a mistake of the programmer
        self.failed = self.failed or (outcome is not Outcome.PASS and required)
        self._findings.append(
            Finding(
                step=step.id,
                title=step.title,
                outcome=outcome,
                detail=bounded(detail),
                subject=self._subject,
                required=required,
            )
        )

    def close(self) -> None:
        """Record what was not reached: as required, unless the step that ended the group was not."""
        required = self._ended_by is None or self._ended_by.required
        because = "not reached" if self._ended_by is None else f"needs step {self._ended_by.step}"
        for number in tuple(self._open):
            self._record(number, Outcome.NOT_CHECKED, because, required=required)


class Ledger:
    """Collects the findings of one verification, the trust anchors it ended at, and facts worth showing."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.anchors: list[Root] = []
        self.facts: dict[str, Any] = {}

    @contextmanager
    def group(self, steps: Steps, subject: str = "") -> Iterator[Checks]:
        """Make the steps of one kind. All of them are recorded in the end, whatever happens in between."""
        own: list[Finding] = []
        checks = Checks(steps, subject, own)
        try:
            yield checks
        except _Ended:
            pass
        finally:
            checks.close()
            self.findings += own

    def trusted(self, root: Root) -> None:
        """A signature chain was found good up to this root."""
        if root not in self.anchors:
            self.anchors.append(root)

    def passed(self, *steps: str) -> bool:
        """Whether each of these steps was made at least once and never ended otherwise than well."""
        made = {finding.step for finding in self.findings}
        bad = {finding.step for finding in self.findings if finding.outcome is not Outcome.PASS}
        return all(step in made and step not in bad for step in steps)


def bounded(text: str) -> str:
    """A detail as it may be shown: one line, no control characters, not long, because evidence may be quoted in it."""
    clean = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    return clean if len(clean) <= _LONGEST_DETAIL else clean[: _LONGEST_DETAIL - 1] + "…"


# The verdict ---------------------------------------------------------------------------------------------------------

Word = Literal["verified", "failed", "consistent, development root", "not enough evidence"]
_WORDS: Final[dict[ExitCode, Word]] = {
    ExitCode.VERIFIED: "verified",
    ExitCode.FAILED: "failed",
    ExitCode.DEVELOPMENT: "consistent, development root",
    ExitCode.NOT_ENOUGH: "not enough evidence",
}


class ClaimMade(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A typed claim of ACI 8.3, as this verification supports it."""

    status: Literal["asserted", "refuted", "unknown"]
    source: str = ""
    reason: str = ""


class Verdict(Struct, frozen=True, kw_only=True):
    """The outcome: one word, its exit code, every finding, the claims, and the facts that were found.

    ``hardware`` is true only where a vendor's pinned root stands behind the evidence and nothing rests on a
    development root. ``at`` is the time that dates were compared with, in Unix seconds.
    """

    verdict: Word
    exit_code: int
    hardware: bool
    subject: str
    at: int
    policy: str
    roots: tuple[str, ...]
    findings: tuple[Finding, ...]
    claims: dict[str, ClaimMade]
    facts: dict[str, Any]

    @property
    def is_verified(self) -> bool:
        """Whether everything that the policy needs was checked, passed, and rests on vendors' roots."""
        return self.exit_code == ExitCode.VERIFIED

    def problems(self) -> tuple[Finding, ...]:
        """What failed, or is missing though required."""
        return tuple(f for f in self.findings if f.outcome is not Outcome.PASS and f.required)

    def as_json(self) -> bytes:
        """The verdict as a JSON text."""
        return msgspec.json.encode(self)


def judge(ledger: Ledger, *, subject: str, at: int, policy: str, claims: dict[str, ClaimMade] | None = None) -> Verdict:
    """The verdict over everything in a ledger. Without a CPU's evidence that ends at a root there is not enough."""
    development = any(root.development for root in ledger.anchors)
    has_cpu = any(root.use in ("tdx", "snp") for root in ledger.anchors)
    outcomes = {finding.outcome for finding in ledger.findings if finding.required}
    if any(finding.outcome is Outcome.FAIL for finding in ledger.findings):
        code = ExitCode.FAILED
    elif Outcome.NOT_CHECKED in outcomes or Outcome.PASS not in outcomes or not has_cpu:
        code = ExitCode.NOT_ENOUGH
    else:
        code = ExitCode.DEVELOPMENT if development else ExitCode.VERIFIED
    return Verdict(
        verdict=_WORDS[code],
        exit_code=code,
        hardware=has_cpu and not development and code is not ExitCode.FAILED,
        subject=subject,
        at=at,
        policy=policy,
        roots=tuple(root.name for root in ledger.anchors),
        findings=tuple(ledger.findings),
        claims=claims or {},
        facts=dict(ledger.facts),
    )
