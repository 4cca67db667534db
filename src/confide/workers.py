"""Several server processes behind one listening socket, kept alive by a parent that serves nothing itself."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Semaphore
from typing import Final

TOO_SOON: Final = 10.0
"""Seconds; a worker that ends sooner than this after its start would only end again."""

Worker = Callable[[Callable[[], object]], None]
"""What a process runs; it calls its argument when it can take requests. Must be picklable."""


def run_workers(worker: Worker, count: int, *, on_ready: Callable[[], None]) -> int:
    """Run until a signal, starting a worker anew when it dies; returns the exit code.

    A worker that dies right after its start ends them all, with exit code 1.
    """
    context = multiprocessing.get_context("spawn")
    ready = context.Semaphore(0)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    running = {_start(worker, ready): time.monotonic() for _ in range(count)}
    waiting = count
    failed = False
    while not (stopping.is_set() or failed):
        wait([process.sentinel for process in running], timeout=0.2)
        while waiting and ready.acquire(block=False):
            waiting -= 1
            if waiting == 0:
                on_ready()
        for process, started in list(running.items()):
            if process.is_alive() or stopping.is_set():
                continue
            del running[process]
            failed = failed or time.monotonic() - started < TOO_SOON
            if not failed:
                running[_start(worker, ready)] = time.monotonic()
    for process in running:
        process.terminate()
    for process in running:
        process.join()
    return int(failed)


def _start(worker: Worker, ready: Semaphore) -> SpawnProcess:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_run, args=(worker, ready), name="confide-worker")
    process.start()
    return process


def _run(worker: Worker, ready: Semaphore) -> None:
    worker(ready.release)
