"""What the proof costs: our request path beside a floor and nginx, with an engine that answers at once.

Each gateway is a process of its own, pinned to one core; the engine (:mod:`benchmarks.upstream`) and the load generator
(:mod:`benchmarks.load`) have another. They take turns, round by round, and a ratio is taken within a round. CPU time is
the scheduler's account of the gateway's threads, in nanoseconds, so that a busy machine shifts it little. Every answer
is checked byte for byte, and some against their stored receipts. ``--help`` shows what can be changed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import uvloop

from benchmarks import report, targets
from benchmarks.load import Asking, Case, Crowd, Tally, in_turns, percentile
from benchmarks.targets import Gateway

SEALED: Final = {"aci": "x25519-aes-256-gcm-hkdf-sha256", "older": "older"}
"""Both generations of end-to-end encryption, on the same curve: the first takes a new key for every field."""

_KB: Final = 1024
_SPREAD_PER_STREAM: Final = 0.002


@dataclass(frozen=True)
class Size:
    """How much is asked for one figure."""

    rounds: int = 5
    small: int = 1500
    medium: int = 600
    large: int = 60
    streams: int = 32
    crowd: int = 500
    single: int = 150
    many: int = 10_000


QUICK: Final = Size(rounds=1, small=40, medium=20, large=4, streams=4, crowd=8, single=5, many=0)
"""For the tests of this program: everything once, nothing to be measured by."""


@dataclass
class Results:
    """Figures by their name and gateway, one for each round; and what was wrong in all of them."""

    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    answers: int = 0
    errors: int = 0
    wrong: int = 0
    receipts: int = 0
    false_receipts: int = 0

    def put(self, name: str, gateway: Gateway, value: float) -> None:
        """Take a figure."""
        self.figures.setdefault(name, {}).setdefault(gateway.name, []).append(value)

    def count(self, gateway: Gateway, tally: Tally) -> None:
        """Take what came back, and ask for the receipts of some of it."""
        self.answers += tally.answers
        self.errors += tally.errors
        self.wrong += tally.wrong
        for receipt, request, response in tally.receipts:
            self.receipts += 1
            self.false_receipts += targets.stored_digests(gateway, receipt) != (request, response)


# Figures -------------------------------------------------------------------------------------------------------------


async def requests(results: Results, name: str, gateway: Gateway, case: Case, total: int, parallel: int) -> None:
    """CPU per request, in microseconds."""
    asking = Asking(gateway, case)
    await in_turns(asking, total=parallel, parallel=parallel)  # connections and caches
    before = gateway.cpu()
    await in_turns(asking, total=total, parallel=parallel)
    results.put(name, gateway, (gateway.cpu() - before) / total * 1e6)
    results.count(gateway, asking.tally)


async def paced(results: Results, name: str, gateway: Gateway, case: Case, streams: int) -> None:
    """CPU per chunk of streams with 100 chunks a second each, their requests included; waits for the commit."""
    asking = Asking(gateway, case)
    crowd, before = Crowd(asking, streams), gateway.cpu()
    await crowd.begin(streams * _SPREAD_PER_STREAM)
    tally = await crowd.end(60)
    results.put(name, gateway, (gateway.cpu() - before) / max(1, tally.chunks) * 1e6)
    _waits(results, gateway, tally)
    results.count(gateway, tally)


def _waits(results: Results, gateway: Gateway, tally: Tally) -> None:
    for share in (50, 99):
        results.put(f"wait_{share}", gateway, percentile(tally.waits, share / 100) * 1e3)


async def _crowd(results: Results, gateway: Gateway, streams: int, *, memory: bool) -> None:
    """While all streams are open and none begins or ends, 20 chunks a second each: CPU per chunk, or memory."""
    spread = streams * _SPREAD_PER_STREAM
    asking = Asking(gateway, Case(300, chunks=int((spread + 2.0) * 20), every=50))
    crowd = Crowd(asking, streams)
    await crowd.begin(spread)
    await asyncio.sleep(0.3)
    if memory:
        results.put("memory", gateway, targets.resident(gateway.pid))
    else:
        before, chunks = gateway.cpu(), crowd.chunks
        await asyncio.sleep(1.2)
        results.put("crowd", gateway, (gateway.cpu() - before) / max(1, crowd.chunks - chunks) * 1e6)
    results.count(gateway, await crowd.end(60))


async def alone(results: Results, gateway: Gateway, direct: Gateway, count: int) -> None:
    """What is added to one request at a time, in milliseconds: to all of an answer, and to a stream's first byte."""
    for name, case in (("latency", Case(300)), ("first", Case(300, chunks=2, every=1))):
        both = []
        for one in (gateway, direct):
            tally = await in_turns(Asking(one, case), total=count, parallel=1)
            both.append(percentile(tally.first if case.chunks else tally.whole, 0.5) * 1e3)
            results.count(one, tally)
        results.put(name, gateway, both[0] - both[1])


async def _round(results: Results, gateway: Gateway, direct: Gateway, size: Size) -> None:
    await requests(results, "small", gateway, Case(300), size.small, 32)
    await requests(results, "medium", gateway, Case(32 * _KB), size.medium, 32)
    await requests(results, "large", gateway, Case(_KB * _KB), size.large, 4)
    await paced(results, "chunk", gateway, Case(300, chunks=128, every=10), size.streams)
    await _crowd(results, gateway, size.crowd, memory=False)
    await alone(results, gateway, direct, size.single)
    for name, algorithm in SEALED.items() if gateway.keys else ():
        sealed = Case(300, chunks=128, every=10, seal=algorithm)
        await paced(results, f"sealed_{name}", gateway, sealed, size.streams)


async def _many(results: Results, gateway: Gateway, streams: int) -> None:
    """Memory with very many streams open, all of which are answered in the end."""
    spread = streams / 1000
    asking = Asking(gateway, Case(300, chunks=4, every=int((spread + 5) * 250)))
    crowd = Crowd(asking, streams)
    await crowd.begin(spread)
    results.put("many", gateway, targets.resident(gateway.pid))
    results.count(gateway, await crowd.end(spread + 60))


async def _shared(results: Results, gateway: Gateway, total: int) -> None:
    """Requests a second, CPU per request, that of all else, and how many cores were busy; cores are for everybody."""
    asking = Asking(gateway, Case(300))
    await in_turns(asking, total=64, parallel=64)
    begun, busy, before = time.perf_counter(), targets.busy_seconds(), gateway.cpu()
    await in_turns(asking, total=total, parallel=64)
    taken = time.perf_counter() - begun
    ours, all_of_it = gateway.cpu() - before, targets.busy_seconds() - busy
    results.put("shared_rate", gateway, total / taken)
    results.put("shared_cpu", gateway, ours / total * 1e6)
    results.put("shared_rest", gateway, (all_of_it - ours) / total * 1e6)
    results.put("shared_busy", gateway, all_of_it / taken)
    results.count(gateway, asking.tally)


def _disk(results: Results, folder: Path) -> None:
    """How long the disk itself takes to keep something, in milliseconds."""
    times = targets.sync_seconds(folder)
    for share in (50, 99):
        results.put(f"sync_{share}", Gateway("disk", 0), percentile(times, share / 100) * 1e3)


# Running -------------------------------------------------------------------------------------------------------------


def measure(size: Size, folder: Path, say: Callable[[str], None]) -> Results:
    """Start everything, take turns, stop everything."""
    results = Results()
    files = targets.files_allowed()
    targets.pin(targets.LOAD_CORE)
    with ExitStack() as stack:
        direct = stack.enter_context(targets.engine(folder))
        starters = [targets.floor, targets.confide]
        if targets.has_nginx():
            starters.insert(0, targets.nginx)
        gateways = [stack.enter_context(start(folder, direct.port)) for start in starters]
        stored = stack.enter_context(
            targets.confide(folder, direct.port, name="stored", serve=(sys.executable, "-m", "confide"))
        )
        for gateway in gateways:  # before they have done anything else
            say(f"memory: {gateway.name}")
            uvloop.run(_crowd(results, gateway, size.crowd, memory=True))
        for number in range(size.rounds):
            turns = gateways[number % len(gateways) :] + gateways[: number % len(gateways)]
            for gateway in turns:
                say(f"round {number + 1} of {size.rounds}: {gateway.name}")
                uvloop.run(_round(results, gateway, direct, size))
            uvloop.run(requests(results, "small", stored, Case(300), size.small, 32))
            _disk(results, folder)
    many = min(size.many, (files - 400) // 2)
    if many > 0:
        _very_many(results, many, folder / "many", say)
    _workers(results, size, folder, say)
    return results


def _very_many(results: Results, streams: int, folder: Path, say: Callable[[str], None]) -> None:
    """Each with an engine of its own, at a port of its own: connections that were closed hold theirs for a minute."""
    folder.mkdir()
    for start in (targets.floor, targets.confide):
        with targets.engine(folder) as direct, start(folder, direct.port) as gateway:
            say(f"{streams} streams: {gateway.name}")
            uvloop.run(_many(results, gateway, streams))


def _workers(results: Results, size: Size, folder: Path, say: Callable[[str], None]) -> None:
    """One worker and two, unpinned, taking turns."""
    with ExitStack() as stack:
        direct = stack.enter_context(targets.engine(folder))
        pair = [
            stack.enter_context(
                targets.confide(folder, direct.port, name=f"{number} workers", workers=number, cores=None)
            )
            for number in (1, 2)
        ]
        for number in range(size.rounds):
            for gateway in pair if number % 2 else pair[::-1]:
                say(f"workers, round {number + 1} of {size.rounds}: {gateway.name}")
                uvloop.run(_shared(results, gateway, size.small))


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """What can be changed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=Size.rounds, help="(default: %(default)s)")
    parser.add_argument("--many", type=int, default=Size.many, help="streams at once (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a little of everything: a test, no measurement")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page of the documentation")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Measure and report; 1 where an answer or a receipt was wrong."""
    options = arguments(given)
    size = QUICK if options.quick else Size(rounds=options.rounds, many=options.many)
    with tempfile.TemporaryDirectory(prefix="confide-bench-") as folder:
        results = measure(size, Path(folder), lambda text: print(text, file=sys.stderr, flush=True))
    verdict = report.verdict(results)
    print(f"{report.tables(results.figures)}\n\n{verdict} {report.disk(results.figures)}")
    if options.write:
        options.write.write_text(report.page(results.figures, verdict, size.rounds), encoding="utf-8")
    return int(results.errors + results.wrong + results.false_receipts > 0)


if __name__ == "__main__":
    sys.exit(main())
