"""What the commands print with: answers on stdout, everything else on stderr."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text


def stdout() -> Console:
    return Console(highlight=False)


def stderr() -> Console:
    return Console(stderr=True, highlight=False)


def say(text: str, style: str = "") -> None:
    """One line on stdout, as it is: no markup, no wrapping, so that it can be copied or piped."""
    stdout().print(Text(text, style=style), soft_wrap=True)


def note(text: str, style: str = "dim") -> None:
    """One line on stderr."""
    stderr().print(Text(text, style=style), soft_wrap=True)


def fail(text: str) -> None:
    """One red line on stderr."""
    note(f"Error: {text}", style="bold red")


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
