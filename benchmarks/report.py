"""The table of :mod:`benchmarks.gateway`, and its page."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import median
from typing import Final, Protocol

Figures = Mapping[str, Mapping[str, Sequence[float]]]
OURS: Final = "confide"


class Counts(Protocol):
    """What came back in all rounds."""

    answers: int
    errors: int
    wrong: int
    receipts: int
    false_receipts: int


@dataclass(frozen=True)
class Row:
    """One figure: ``goal`` and ``stretch`` are ratios to ``to``, or absolute where that is None."""

    name: str
    text: str
    goal: float
    stretch: float
    to: str | None = None
    digits: int = 0


ROWS: Final = (
    Row("small", "CPU per small request (300 B), µs", 1.8, 1.2, "floor"),
    Row("medium", "CPU per 32 KB request, µs", 1.9, 1.3, "floor"),
    Row("large", "CPU per 1 MB request, µs", 1.7, 1.2, "floor"),
    Row("chunk", "CPU per chunk, 32 streams at 100/s, µs", 1.5, 1.15, "floor", 1),
    Row("crowd", "CPU per chunk, 500 streams at 20/s, µs", 1.5, 1.15, "floor", 1),
    Row("latency", "added latency p50, one at a time, ms", 0.25, 0.15, None, 2),
    Row("first", "added time to first byte p50, ms", 0.8, 0.4, None, 2),
    Row("wait_50", "the end waits for its receipt's commit, p50, ms", 2, 1, None, 2),
    Row("wait_99", "the same, p99, ms", 10, 5, None, 2),
    Row("memory", "memory at 500 streams, MB", 80, 60),
    Row("many", "memory at 10,000 streams, MB", 1000, 500),
)
SEALED: Final = (
    Row("sealed_older", "CPU per sealed chunk, older protocol (one key an answer), µs", 1.15, 1.08, "chunk", 1),
    Row("sealed_aci", "CPU per sealed chunk, ACI (a new key for every field), µs", 1.15, 1.08, "chunk", 1),
)


def _ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    return [mine / other for mine, other in zip(ours, others, strict=True)]


def _spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def _cell(values: Sequence[float] | None, digits: int) -> str:
    return "" if values is None or isnan(median(values)) else f"{median(values):,.{digits}f}"


def _judged(values: Sequence[float], row: Row, sign: str) -> str:
    reached = median(values)
    word = "stretch met" if reached <= row.stretch else "met" if reached <= row.goal else "**missed**"
    return f"≤ {row.goal:g}{sign} | {word}"


def tables(figures: Figures) -> str:
    """Markdown: medians, and ratios with their lowest and highest round."""
    names = [name for name in ("nginx", "floor", OURS) if name in figures["small"]]
    lines = ["| | " + " | ".join(names) + " | ours : floor | ours : nginx | goal | |"]
    lines.append("|---|" + "---:|" * (len(names) + 3) + "---|")
    for row in ROWS:
        if row.name not in figures:
            continue
        by_name = figures[row.name]
        ours = by_name[OURS]
        cells = [_cell(by_name.get(name), row.digits) for name in names]
        ratios = [_ratios(ours, by_name[name]) if row.to and name in by_name else None for name in ("floor", "nginx")]
        cells += ["" if ratio is None else _spread(ratio) for ratio in ratios]
        judged = ours if ratios[0] is None else ratios[0]
        lines.append(f"| {row.text} | " + " | ".join(cells) + f" | {_judged(judged, row, '×' if row.to else '')} |")
    return "\n".join([*lines, "", *_sealed(figures), "", *_workers(figures)])


def _sealed(figures: Figures) -> list[str]:
    lines = ["| | confide | sealed : plain | goal | |", "|---|---:|---:|---:|---|"]
    plain = figures["chunk"][OURS]
    for row in SEALED:
        ours = figures[row.name][OURS]
        ratios = _ratios(ours, plain)
        lines.append(f"| {row.text} | {_cell(ours, 1)} | {_spread(ratios)} | {_judged(ratios, row, '×')} |")
    stored = figures["small"]["stored"]
    ratios = _ratios(stored, figures["small"][OURS])
    text = "CPU per small request with the older surface's signatures stored, µs"
    return [*lines, f"| {text} | {_cell(stored, 0)} | {_spread(ratios)} of a small request | | |"]


def _workers(figures: Figures) -> list[str]:
    lines = ["| small requests, nothing pinned | 1 worker | 2 workers | 2 : 1 |", "|---|---:|---:|---:|"]
    for name, text, digits in (
        ("shared_rate", "requests a second", 0),
        ("shared_cpu", "CPU per request, µs", 0),
        ("shared_rest", "the same of load generator, engine and all else, µs", 0),
        ("shared_busy", f"cores of the machine that were busy, of {os.cpu_count()}", 2),
    ):
        one, two = (figures[name][f"{number} workers"] for number in (1, 2))
        lines.append(f"| {text} | {_cell(one, digits)} | {_cell(two, digits)} | {_spread(_ratios(two, one))} |")
    return lines


def verdict(counts: Counts) -> str:
    """One sentence on what was checked."""
    return (
        f"{counts.answers:,} answers: {counts.errors} errors, {counts.wrong} not equal to the engine's byte for byte; "
        f"{counts.receipts} receipts fetched and compared, {counts.false_receipts} of them false."
    )


def disk(figures: Figures) -> str:
    """What the disk takes for itself."""
    middle, late = (median(figures[f"sync_{share}"]["disk"]) for share in (50, 99))
    return f"`fdatasync` of 4 KB on the same disk, alone: p50 {middle:.2f} ms, p99 {late:.2f} ms."


def machine() -> str:
    """What this ran on."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    kernel = platform.release().partition("-")[0]
    processor = found[1] if found else platform.machine()
    return f"{processor}, {os.cpu_count()} cores, Linux {kernel}, Python {platform.python_version()}"


def page(figures: Figures, verdict: str, rounds: int) -> str:
    """The page of the documentation."""
    text = (Path(__file__).parent / "gateway.md").read_text(encoding="utf-8")
    today = str(datetime.datetime.now(datetime.UTC).date())
    for name, value in (
        *(("TABLES", tables(figures)), ("VERDICT", verdict), ("DISK", disk(figures)), ("ROUNDS", str(rounds))),
        *(("DATE", today), ("MACHINE", machine())),
    ):
        text = text.replace("{" + name + "}", value)
    return text
