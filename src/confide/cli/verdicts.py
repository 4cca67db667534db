"""How a verdict is shown: each step with what became of it, then what all of it means and what to do next.

Evidence may quote anything, so every text goes through :func:`confide.verify.verdict.bounded` and into ``rich.Text``,
which reads no markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from confide.cli import console
from confide.verify.policy import Policy
from confide.verify.verdict import ExitCode, Finding, Outcome, Verdict, bounded

WORST_FIRST: Final = (
    ExitCode.FAILED,
    ExitCode.USAGE,
    ExitCode.UNREACHABLE,
    ExitCode.NOT_ENOUGH,
    ExitCode.DEVELOPMENT,
    ExitCode.VERIFIED,
)
"""Which exit code stands for several outcomes: the first of these that happened."""

FIRST_USE: Final = "The policy was written on first use and not reviewed: it accepts what this service showed then."
NO_POLICY: Final = (
    "No policy was given, so nothing says which workload is accepted. Write down what the service shows now with "
    "`confide policy init URL -o policy.toml`, read it, and give it with --policy."
)
_STYLES: Final = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.NOT_CHECKED: "yellow"}
_WORDS: Final = {Outcome.PASS: "pass", Outcome.FAIL: "FAIL", Outcome.NOT_CHECKED: "not checked"}
_SENTENCES: Final = {
    ExitCode.VERIFIED: ("Verified: everything that the policy needs was checked and passed.", "bold green"),
    ExitCode.FAILED: ("FAILED: do not send anything to this service, and believe nothing that it said.", "bold red"),
    ExitCode.DEVELOPMENT: (
        "Consistent, but it rests on a development root: no hardware protects anything here.",
        "bold yellow",
    ),
    ExitCode.USAGE: ("No verdict: nothing failed, and nothing says what is accepted.", "bold yellow"),
    ExitCode.NOT_ENOUGH: ("Not enough evidence: nothing failed, but the policy needs more.", "bold yellow"),
}
_IN_SHORT: Final = {
    ExitCode.VERIFIED: ("verified", "green"),
    ExitCode.FAILED: ("FAILED", "bold red"),
    ExitCode.USAGE: ("no verdict", "yellow"),
    ExitCode.DEVELOPMENT: ("consistent, development root", "yellow"),
    ExitCode.UNREACHABLE: ("unreachable", "yellow"),
    ExitCode.NOT_ENOUGH: ("not enough evidence", "yellow"),
}


def worst(codes: Iterable[int]) -> ExitCode:
    """The exit code that stands for all of these; usage (2) where there are none."""
    there = frozenset(codes)
    return next((code for code in WORST_FIRST if code in there), ExitCode.USAGE)


def exit_code(verdict: Verdict, policy: Policy | None) -> ExitCode:
    """The verdict's, except that without a policy nothing is good enough: then usage (2), unless a check failed."""
    code = ExitCode(verdict.exit_code)
    return code if policy is not None or code is ExitCode.FAILED else ExitCode.USAGE


def in_short(code: int) -> tuple[str, str]:
    """An exit code in a few words, and their style."""
    return _IN_SHORT[ExitCode(code)]


def moment(seconds: int) -> str:
    """Unix seconds as people read them."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s"


def as_builtins(verdict: Verdict, policy: Policy | None) -> dict[str, Any]:
    """The verdict for JSON, with how the policy came to be and what to do next. Without one, no word is good."""
    value: dict[str, Any] = msgspec.to_builtins(verdict)
    code = exit_code(verdict, policy)
    if code is ExitCode.USAGE:
        value |= {"verdict": "no policy", "exit_code": int(code)}
    return value | {"policy_trust": None if policy is None else policy.trust, "advice": list(advice(verdict, policy))}


def show(verdict: Verdict, policy: Policy | None) -> None:
    """The whole verdict on stdout. ``policy`` is None where none was given, and every workload passed."""
    show_steps(verdict.findings)
    console.say("")
    show_claims(verdict)
    for label, value in _summary(verdict, policy):
        console.say(f"{label:<10} {bounded(value)}")
    console.say(*_SENTENCES[exit_code(verdict, policy)])
    for line in advice(verdict, policy):
        console.say(line)


def note_word(verdict: Verdict, policy: Policy | None) -> None:
    """A verdict in short, on stderr, for commands whose stdout is for something else."""
    sentence, style = _SENTENCES[exit_code(verdict, policy)]
    console.note(f"{bounded(verdict.subject)}: {sentence}", style)
    if verdict.roots:
        console.note(f"Roots: {', '.join(verdict.roots)}. Policy: {verdict.policy}.")
    for line in advice(verdict, policy):
        console.note(line, "yellow")


def show_problems(verdict: Verdict, policy: Policy | None) -> None:
    """What did not pass, and what that means, on stderr."""
    show_steps(verdict.problems(), console.stderr())
    note_word(verdict, policy)


def show_steps(findings: Iterable[Finding], out: Console | None = None) -> None:
    """A table on a terminal; elsewhere one line for each step, with its parts separated by tabs. ``out`` is stdout."""
    out = out or console.stdout()
    rows = [
        (
            finding.step,
            _WORDS[finding.outcome] + ("" if finding.required else " (not needed)"),
            finding.title + (f" [{finding.subject}]" if finding.subject else ""),
            finding.detail,
        )
        for finding in findings
    ]
    styles = {word: style for outcome, style in _STYLES.items() if (word := _WORDS[outcome])}
    show_rows(out, ("step", "outcome", "what", "detail"), rows, styles)


def show_rows(out: Console, heads: Sequence[str], rows: Iterable[Sequence[str]], styles: Mapping[str, str]) -> None:
    """Rows as a table, or as lines; a cell that is a key of ``styles`` has that style on a terminal."""
    if not out.is_terminal:
        for row in rows:
            typer.echo("\t".join(bounded(cell) for cell in row).rstrip(), file=out.file)
        return
    table = console.table(*heads)
    for row in rows:
        table.add_row(*(Text(bounded(cell), style=styles.get(cell, "")) for cell in row))
    out.print(table)


def show_claims(verdict: Verdict) -> None:
    """The claims of ACI 8.3, and whose word each is."""
    if not verdict.claims:
        return
    rows = [(name, claim.status, claim.source, claim.reason) for name, claim in verdict.claims.items()]
    show_rows(
        console.stdout(), ("claim", "status", "source", "why"), rows, {"asserted": "green", "refuted": "bold red"}
    )
    console.say("")


def _summary(verdict: Verdict, policy: Policy | None) -> Iterator[tuple[str, str]]:
    yield "subject", verdict.subject
    yield "time", f"{moment(verdict.at)} (what dates were compared with)"
    yield "roots", ", ".join(verdict.roots) or "none: no signature chain was verified to a root"
    yield "hardware", "true" if verdict.hardware else "false"
    yield "policy", verdict.policy if policy is not None else "none: every workload passed"


def advice(verdict: Verdict, policy: Policy | None) -> Iterator[str]:
    """What to do next, in sentences."""
    yield from advice_on_policy(policy)
    problems = verdict.problems()
    failed = [finding.step for finding in problems if finding.outcome is Outcome.FAIL]
    missing = [finding.step for finding in problems if finding.outcome is Outcome.NOT_CHECKED]
    if failed:
        yield f"Look at {_named(failed)}: docs/verify.md says what each step proves, and how to check it by hand."
    elif verdict.exit_code == ExitCode.NOT_ENOUGH:
        yield from _what_is_missing(verdict, missing)
    if verdict.exit_code == ExitCode.DEVELOPMENT:
        yield "Use it to develop, never for data that matters."


def advice_on_policy(policy: Policy | None) -> Iterator[str]:
    """What has to be said of a policy, whatever is judged by it."""
    if policy is None:
        yield NO_POLICY
    elif policy.trust == "first use":
        yield FIRST_USE
    if policy is not None and policy.unsafe_any_workload:
        yield "The policy accepts any workload on genuine hardware (unsafe_any_workload)."


def _what_is_missing(verdict: Verdict, missing: list[str]) -> Iterator[str]:
    if missing:
        yield f"Could not be checked: {_named(missing)}."
    if not verdict.roots:
        yield "No root was reached: a development service needs --insecure-dev-root FILE."
    yield (
        "What vendors publish (collateral, certificates, RIMs) can come from --cache FOLDER, from --collateral FILE, "
        "or with --network from the vendors; otherwise the policy asks for more than this service shows."
    )


def _named(steps: list[str]) -> str:
    named = list(dict.fromkeys(steps))
    return ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")
