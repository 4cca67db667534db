"""What the commands print with: answers on stdout, everything else on stderr."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from confide.announcing import clean as clean  # for those who print by themselves

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


def stdout() -> Console:
    return Console(highlight=False)


def stderr() -> Console:
    return Console(stderr=True, highlight=False)


def say(text: str, style: str = "") -> None:
    """One line on stdout: no markup, no wrapping, so that it can be copied or piped."""
    stdout().print(Text(clean(text), style=style), soft_wrap=True)


def note(text: str, style: str = "dim", to: Console | None = None) -> None:
    """One line on stderr, or on the console that has a bar there."""
    (to or stderr()).print(Text(clean(text), style=style), soft_wrap=True)


def fail(text: str, to: Console | None = None) -> None:
    """One red line on stderr, or on the console that has a bar there."""
    note(f"Error: {' '.join(text.split())}", "bold red", to)


def say_json(value: object) -> None:
    """A value as JSON on stdout, in ASCII, so that nothing in it can move a cursor."""
    typer.echo(json.dumps(msgspec.to_builtins(value), indent=2))


def table(*columns: str) -> Table:
    """An empty table whose cells are never cut off."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=number == 0)
    return made


class Downloads:
    """A progress bar on stderr; one plain line where nobody watches, or where the size is not known."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or stderr()
        self._bar: Bar | None = None

    def start(self, total: int, text: str) -> None:
        if not total or not self._console.is_terminal:
            size = f" ({total / 1e6:.0f} MB)" if total else ""
            self._console.print(Text(f"{text}{size} …"), soft_wrap=True)
            return
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        self._bar = Bar(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=self._console)
        self._bar.add_task(text, total=total)
        self._bar.start()

    def advance(self, n: int) -> None:
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], n)

    def done(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
