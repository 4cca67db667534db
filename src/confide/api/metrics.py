"""Metrics: a fixed set of numbers, which all processes of the server count together.

Which series there are is known at the start: every label is an endpoint or a model of ours, or one of a few words. So
each process counts in a row of its own in shared memory, which costs a handful of additions a request, and whichever is
asked adds the rows up. A process that is started anew goes on in the row of the one that died.

Source: the Prometheus text exposition format, 0.0.4.
"""

from __future__ import annotations

import multiprocessing
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Literal, get_args

from confide.api.metric_families import CODES, FAMILIES, Family
from confide.api.proof import ReceiptSink
from confide.api.seen import Outcome, Seen
from confide.errors import StoreError
from confide.store.receipts import ReceiptRow

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OTHER: Final = "other"


@dataclass(frozen=True)
class Layout:
    """Which series there are, and where in a row each begins.

    Args:
        endpoints: paths.
        models: ids. There is one more, the empty one, for requests that name none of them.
        version: of this program.
    """

    endpoints: tuple[str, ...]
    models: tuple[str, ...]
    version: str

    def places(self) -> dict[tuple[str, ...], int]:
        """Where a series begins, by the family's name and the values of its labels."""
        found: dict[tuple[str, ...], int] = {}
        end = 0
        for family, values in self._series():
            found[family.name, *values] = end
            end += family.width
        return found

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return sum(family.width for family, _ in self._series())

    def _series(self) -> Iterator[tuple[Family, tuple[str, ...]]]:
        known: Mapping[str, Sequence[str]] = {
            "version": (self.version,),
            "endpoint": self.endpoints,
            "model": (*self.models, ""),
            "outcome": get_args(Outcome),
            "code": (*CODES, OTHER),
            "result": ("committed", "failed"),
            "surface": ("aci", "older"),
            "state": ("up", "trial", "ejected"),
        }
        for family in FAMILIES:
            for values in product(*(known[label] for label in family.labels)):
                if "" not in values or family.kind != "gauge":  # no engine stands behind the empty model
                    yield family, values


def memory(layout: Layout, rows: int) -> Any:
    """The numbers of so many processes, all 0; for several, in memory that their parent hands on to them."""
    size = layout.width * rows
    return array("d", bytes(8 * size)) if rows == 1 else multiprocessing.get_context("spawn").RawArray("d", size)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the series of one endpoint and model are."""

    outcomes: Mapping[Outcome, int]
    first: int
    whole: int


class Metrics:
    """The numbers, of which this process counts one row.

    Args:
        layout: which there are.
        memory: of all processes: see :func:`memory`.
        row: which row is this process's.
        clock: monotonic seconds.
    """

    def __init__(
        self, layout: Layout, memory: Any, row: int = 0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._places = layout.places()
        self._all = memoryview(memory).cast("B").cast("d")
        self._width = layout.width
        self._row = self._all[row * self._width : (row + 1) * self._width]
        self._clock = clock
        self._durations = _family("confide_request_duration_seconds").buckets
        self._waits = _family("confide_commit_wait_seconds").buckets
        self._requests = {
            (endpoint, model): self._of(endpoint, model)
            for endpoint in layout.endpoints
            for model in (*layout.models, "")
        }
        self._totals: dict[tuple[str, ...], int] = {}
        for family, *values in self._places:
            if _family(family).kind == "gauge":
                self.set(0.0, family, *values)
        self.set(1.0, "confide_build_info", layout.version)

    def _of(self, endpoint: str, model: str) -> _Places:
        place = self._places
        outcomes: dict[Outcome, int] = {
            outcome: place["confide_requests_total", endpoint, model, outcome] for outcome in get_args(Outcome)
        }
        first = place["confide_time_to_first_byte_seconds", endpoint, model]
        return _Places(outcomes, first, place["confide_request_duration_seconds", endpoint, model])

    # Counting --------------------------------------------------------------------------------------------------------

    def add(self, amount: float, family: str, *values: str) -> None:
        """Add to a series that counts."""
        self._row[self._places[family, *values]] += amount

    def set(self, value: float, family: str, *values: str) -> None:
        """Say how a gauge stands in this process."""
        self._row[self._places[family, *values]] = value

    def advance(self, total: int, family: str, *values: str) -> None:
        """Bring a series that counts up to a total that is kept elsewhere in this process."""
        before = self._totals.get((family, *values), 0)
        self._totals[family, *values] = total
        self.add(total - before, family, *values)

    def began(self, seen: Seen) -> None:
        """A request has come."""
        self._row[self._places["confide_requests_in_flight", seen.endpoint]] += 1

    def finished(self, seen: Seen) -> None:
        """It has ended: all that is counted of it, at once."""
        row, place = self._row, self._places
        row[place["confide_requests_in_flight", seen.endpoint]] -= 1
        model = seen.model or ""
        places = self._requests[seen.endpoint, model]
        row[places.outcomes[seen.outcome]] += 1
        self._observe(places.whole, self._durations, self._clock() - seen.begun)
        if seen.first is not None:
            self._observe(places.first, self._durations, seen.first - seen.begun)
        if seen.usage is not None:
            row[place["confide_prompt_tokens_total", model]] += seen.usage.prompt
            row[place["confide_completion_tokens_total", model]] += seen.usage.completion
        if seen.sealed:
            row[place["confide_sealed_requests_total", seen.endpoint]] += 1
        if seen.code is not None:
            row[place.get(("confide_errors_total", seen.code), place["confide_errors_total", OTHER])] += 1

    def _observe(self, place: int, buckets: Sequence[float], value: float) -> None:
        """The count of the bucket (not cumulative here), and the sum after the last one."""
        self._row[place + bisect_left(buckets, value)] += 1
        self._row[place + len(buckets) + 1] += value

    def committed(self, waited: float) -> None:
        """A receipt was committed, after so many seconds."""
        self.add(1, "confide_receipts_total", "committed")
        self._observe(self._places["confide_commit_wait_seconds",], self._waits, waited)

    def store_failed(self) -> None:
        """The store could not be asked or written."""
        self.add(1, "confide_store_errors_total")

    def report_made(self, surface: Literal["aci", "older"]) -> None:
        """An attestation report was made."""
        self.add(1, "confide_reports_total", surface)

    # Telling ---------------------------------------------------------------------------------------------------------

    def text(self) -> bytes:
        """What Prometheus reads: all processes together, without the series that have counted nothing."""
        lines: list[str] = []
        rows = [self._all[at : at + self._width].tolist() for at in range(0, len(self._all), self._width)]
        told = None
        for (name, *values), place in self._places.items():
            family = _family(name)
            merge = max if family.across == "most" else sum
            numbers = [
                merge(column) for column in zip(*(row[place : place + family.width] for row in rows), strict=True)
            ]
            if told != name:
                lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"]
                told = name
            if any(numbers) or family.kind == "gauge" or not values:
                lines += _lines(family, dict(zip(family.labels, values, strict=True)), numbers)
        return ("\n".join(lines) + "\n").encode()


_BY_NAME: Final = {family.name: family for family in FAMILIES}


def _family(name: str) -> Family:
    return _BY_NAME[name]


def _lines(family: Family, labels: dict[str, str], numbers: Sequence[float]) -> Iterator[str]:
    if family.kind != "histogram":
        yield f"{family.name}{_braced(labels)} {_number(numbers[0])}"
        return
    count = 0.0
    for limit, number in zip([*map(_number, family.buckets), "+Inf"], numbers, strict=False):
        count += number
        yield f"{family.name}_bucket{_braced(labels | {'le': limit})} {_number(count)}"
    yield f"{family.name}_sum{_braced(labels)} {_number(numbers[-1])}"
    yield f"{family.name}_count{_braced(labels)} {_number(count)}"


def _braced(labels: Mapping[str, str]) -> str:
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


class MeteredSink:
    """A sink of receipts whose commits are counted and timed."""

    def __init__(self, sink: ReceiptSink, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink = sink
        self._metrics = metrics
        self._clock = clock

    async def commit(self, *rows: ReceiptRow) -> None:
        """As the sink's."""
        begun = self._clock()
        try:
            await self._sink.commit(*rows)
        except StoreError:
            self._metrics.add(len(rows), "confide_receipts_total", "failed")
            self._metrics.store_failed()
            raise
        self._metrics.committed(self._clock() - begun)

    async def claim(self, mark: str, *, now: int, expires: int) -> bool:
        """As the sink's."""
        return await self._sink.claim(mark, now=now, expires=expires)
