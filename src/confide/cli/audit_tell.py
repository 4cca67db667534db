"""What ``confide audit`` says while it audits and in the end. Nothing that was said is kept, except how often."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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


def tell_many(audited: Iterable[Audited], policy: Policy | None, others: Others, *, every_step: bool) -> Codes:
    """A line for each bundle, with what did not pass below it, or with all steps; in the end how many of each kind."""
    codes, out = Codes(), console.stdout()
    for one in audited:
        codes[one.code] += 1
        word, style = verdicts.in_short(one.code)
        _line(out, f"{one.name}: {word}", style)
        if one.verdict is None:
            console.fail(one.problem)
        elif every_step:
            verdicts.show(one.verdict, policy)
        else:
            verdicts.show_steps(one.verdict.findings, out)
    for line in _in_the_end(codes, others):
        console.say(line)
    for line in verdicts.advice_on_policy(policy):
        console.say(line)
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


@contextmanager
def progress(
    total: Callable[[], int], clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[Audited], None]]:
    """Show on stderr how far it is: a bar on a terminal, else a line now and then.

    Args:
        total: how many bytes there are to read; asked only for a bar.
        clock: in seconds.
    """
    err = console.stderr()
    if not err.is_terminal:
        yield _Lines(clock).advance
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Auditing"), BarColumn(), TextColumn("{task.fields[count]:,} bundles"), TimeRemainingColumn())
    # Lines on the same terminal stay above the bar; a file that stdout leads to gets its lines itself.
    with Progress(*columns, console=err, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task("", total=total(), count=0)

        def advance(one: Audited) -> None:
            count = bar.tasks[0].fields["count"] + 1
            bar.update(task, advance=one.size, count=count)

        yield advance


class _Lines:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next = clock() + EVERY
        self._count = 0

    def advance(self, _: Audited) -> None:
        self._count += 1
        if self._clock() >= self._next:
            self._next += EVERY
            console.note(f"{self._count:,} bundles audited ...")


def watched(audited: Iterable[Audited], advance: Callable[[Audited], None]) -> Iterator[Audited]:
    """The same, with progress."""
    for one in audited:
        advance(one)
        yield one
