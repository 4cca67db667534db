"""What became of each capability on each engine: judged against what is known, and kept for the table in the docs."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from tests.engines.stage import Stage

FILE: Final = ROOT / "docs" / "engines.json"
YES: Final = "yes"
BY_NAME: Final = {"unsupported_parameter", "unsupported_value", "integer_above_max_value"}
CAPABILITIES: Final[list[str]] = []
"""In the order of the table."""

_LONGEST: Final = 160


class Refusal(AssertionError):
    """The server answered with an error."""

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(f"{status}: {error}")
        self.status = status
        self.error = error
        self.by_name = status == 400 and error.get("code") in BY_NAME


class NotOffered(AssertionError):
    """The engine has no such thing, and the answer doesn't claim it."""


@dataclass
class Ledger:
    """The cells of the engines that ran, and what they said of themselves; kept in a file where there is one."""

    file: Path | None = None
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)

    def open(self, name: str, title: str, version: str, how: str) -> None:
        """A column."""
        self.columns[name] = {"title": title, "version": version, "how": how, "cells": {}, "notes": {}}

    def note(self, name: str, capability: str, notes: Mapping[str, str]) -> None:
        """What stands below the table."""
        self.columns[name]["notes"][capability] = dict(notes)

    def judge(
        self,
        name: str,
        capability: str,
        known: Mapping[str, str],
        check: Callable[[], str | None],
        *,
        any_cell: bool = False,
    ) -> None:
        """Run a check, write its cell, and fail where that isn't what is known of this engine.

        Args:
            name: the engine's.
            capability: the row.
            known: cells of this engine that aren't "yes".
            check: gives the cell, None for "yes", or raises.
            any_cell: whether the check itself knows what is expected.
        """
        column = self.columns[name]
        problem: BaseException | None = None
        try:
            cell = check() or YES
        except Refusal as refusal:
            problem = refusal
            cell = f"refused by name (`{refusal.error['param']}`)" if refusal.by_name else _failure(refusal)
        except NotOffered as reason:
            cell = f"not offered by the engine: {reason}" if str(reason) else "not offered by the engine"
        except Exception as error:  # noqa: BLE001 - whatever it is stands in the table, and fails the test below
            problem, cell = error, _failure(error)
        column["cells"][capability] = cell
        self.save()
        expected = known.get(capability, YES)
        if cell == expected or (any_cell and problem is None):
            return
        if cell.startswith("fails: ") and expected.startswith("fails: "):
            column["cells"][capability] = expected
            self.save()
            pytest.xfail(expected)
        raise AssertionError(f"{capability}: {cell!r}, and {expected!r} is what is known") from problem

    def save(self) -> None:
        """Write the columns, where there is a file. What was tried on the same day and version stays beside them."""
        if self.file is None:
            return
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        saved = json.loads(self.file.read_text()) if self.file.exists() else {"capabilities": [], "engines": {}}
        engines: dict[str, Any] = saved["engines"]
        for name, column in self.columns.items():
            before = engines.get(name, {})
            if (before.get("version"), before.get("date")) == (column["version"], today):
                for part in ("cells", "notes"):
                    column[part] = before[part] | column[part]
            engines[name] = column | {"date": today}
        rows = list(dict.fromkeys([*CAPABILITIES, *saved["capabilities"]]))
        write(self.file, {"capabilities": rows, "engines": dict(sorted(engines.items()))})


def write(path: Path, value: Any) -> None:
    """As JSON that people compare."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _failure(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"fails: {first[:_LONGEST]}"


def capability(name: str) -> Callable[[Callable[[Stage], str | None]], Callable[[Stage], None]]:
    """A test that is a row of the table."""

    def decorate(check: Callable[[Stage], str | None]) -> Callable[[Stage], None]:
        @functools.wraps(check)
        def test(stage: Stage) -> None:
            stage.ledger.judge(stage.kind.name, name, stage.kind.cells, functools.partial(check, stage))

        CAPABILITIES.append(name)
        return test

    return decorate
