"""Several server processes behind one listening socket, kept alive by a parent that serves nothing itself."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event

from confide.errors import OperatorError

Worker = Callable[[int, Callable[[], object]], None]
"""What a process runs: its number from 0, which passes to whoever replaces it, and what to call when it can take
requests. Must be picklable."""


@dataclass(frozen=True, eq=False)
class _Running:
    number: int
    process: SpawnProcess
    ready: Event


def run_workers(worker: Worker, count: int, *, on_ready: Callable[[], None]) -> int:
    """Run until a signal, starting a worker anew when it dies; returns the exit code.

    A worker that dies before it was ready would only die again: then all are ended, with exit code 1.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    running = [_start(worker, number) for number in range(count)]
    announced = failed = False
    while not (stopping.is_set() or failed):
        wait([one.process.sentinel for one in running], timeout=0.2)
        if not announced and all(one.ready.is_set() for one in running):
            announced = True
            on_ready()
        for one in [one for one in running if not one.process.is_alive()]:
            running.remove(one)
            failed = failed or not one.ready.is_set()
            if not (failed or stopping.is_set()):
                running.append(_start(worker, one.number))
    for one in running:
        one.process.terminate()
    for one in running:
        one.process.join()
    return int(failed)


def _start(worker: Worker, number: int) -> _Running:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_run, args=(worker, number, ready), name="confide-worker")
    process.start()
    return _Running(number, process, ready)


def _run(worker: Worker, number: int, ready: Event) -> None:
    try:
        worker(number, ready.set)
    except OperatorError as error:  # a sentence for whoever started the server, and no traceback
        raise SystemExit(f"Error: {error}") from None
