"""What ``confide audit`` says while it audits and in the end. Nothing that was said is kept, except how often."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import typer
from rich.console import Console
from rich.text import Text

from confide.cli import console, verdicts
from confide.cli.audit_find import Others
from confide.cli.audit_work import Audited, as_json
from confide.verify.policy import Policy
from confide.verify.verdict import ExitCode

EVERY: Final = 10.0
"""Seconds between two lines of progress where no bar can be shown."""

Codes = Counter[int]
"""How many bundles ended with which exit code."""


# One, or many --------------------------------------------------------------------------------------------------------


def tell_one(one: Audited, policy: Policy | None) -> Codes:
    """The whole verdict over one bundle."""
    if one.verdict is None:
        console.fail(one.problem)
    else:
        verdicts.show(one.verdict, policy)
        if one.captured_at == one.verdict.at:
            console.say("Dates were compared with the time that the bundle states; --now compares with the clock.")
    return Codes([one.code])


def tell_many(
    audited: Iterable[Audited], policy: Policy | None, others: Others, to: Screen, *, every_step: bool
) -> Codes:
    """A line for each bundle, with what did not pass below it, or with all steps; in the end how many of each kind."""
    codes = Codes()
    for one in audited:
        codes[one.code] += 1
        word, style = verdicts.in_short(one.code)
        _line(to.out, f"{one.name}: {word}", style)
        if one.verdict is None:
            console.fail(one.problem, to=to.err)
        elif every_step:
            verdicts.show(one.verdict, policy)
        elif one.verdict.findings:
            verdicts.show_steps(one.verdict.findings, to.out)
    for line in (*_in_the_end(codes, others), *verdicts.advice_on_policy(policy)):
        _line(to.out, line, "")
    return codes


def tell_json(audited: Iterable[Audited], policy: Policy | None, others: Others) -> Codes:
    """One JSON document, each bundle on a line of its own as soon as it was audited. Cut off, it is no JSON."""
    codes, before = Codes(), '{"audits": [\n'
    for one in audited:
        codes[one.code] += 1
        typer.echo(before + (one.json or as_json(one, policy)), nl=False)
        before = ",\n"
    counts = {str(code.value): codes[code] for code in verdicts.WORST_FIRST if code in codes}
    end = json.dumps({"exit_code": verdicts.worst(codes), "counts": counts, "not_looked_at": others.count})
    typer.echo(f"\n],\n{end[1:]}")
    return codes


def _line(out: Console, text: str, style: str) -> None:
    if out.is_terminal:
        out.print(Text(console.clean(text), style=style), soft_wrap=True)
    else:
        typer.echo(console.clean(text))


def _in_the_end(codes: Codes, others: Others) -> Iterator[str]:
    there = [code for code in verdicts.WORST_FIRST if code in codes]
    said = (f"{codes[code]:,} {verdicts.in_short(code)[0]} (exit code {code.value})" for code in there)
    yield f"{codes.total():,} bundles: {'; '.join(said)}"
    if ExitCode.FAILED in codes:
        yield "docs/verify.md says what each step proves, and how to check it by hand."
    if others.count:
        yield f"{others.count:,} files with other names than *.json and *.jsonl were not looked at."
    if len(there) > 1:
        yield f"The exit code is that of the worst: {verdicts.worst(codes).value}."


# Meanwhile -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Screen:
    """Where lines and problems go, and whom to tell of each bundle."""

    out: Console
    err: Console
    advance: Callable[[Audited], None]

    def watched(self, audited: Iterable[Audited]) -> Iterator[Audited]:
        """The same, with progress."""
        for one in audited:
            self.advance(one)
            yield one


@contextmanager
def screen(total: Callable[[], int], *, above: bool, clock: Callable[[], float] = time.monotonic) -> Iterator[Screen]:
    """Show on stderr how far it is: a bar on a terminal, else a line now and then.

    Args:
        total: how many bytes there are to read; asked only for a bar.
        above: whether all that is said goes through the screen, so that it may share a terminal with a bar.
        clock: in seconds.
    """
    out, err = console.stdout(), console.stderr()
    if not err.is_terminal or (out.is_terminal and not above):
        yield Screen(out, err, _Lines(err, clock).advance)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Auditing"), BarColumn(), TextColumn("{task.fields[count]:,} bundles"), TimeRemainingColumn())
    shared = out if out.is_terminal else err  # what is printed through the bar's own console stands above the bar
    with Progress(*columns, console=shared, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task, count = bar.add_task("", total=total(), count=0), itertools.count(1)
        yield Screen(out, shared, lambda one: bar.update(task, advance=one.size, count=next(count)))


class _Lines:
    def __init__(self, err: Console, clock: Callable[[], float]) -> None:
        self._err = err
        self._clock = clock
        self._next = clock() + EVERY
        self._count = 0

    def advance(self, _: Audited) -> None:
        self._count += 1
        if self._clock() >= self._next:
            self._next += EVERY
            console.note(f"{self._count:,} bundles audited ...", to=self._err)
