"""One thread that writes: whatever is waiting goes into one transaction, and each caller waits for its commit.

A commit that has reached the disk costs the same for one row as for a hundred, so callers share it (group commit).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, TypeVar

from confide.errors import StoreError
from confide.store.base import Database, Session

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MOST_WAITING: Final = 1024
MOST_BATCH: Final = 256


class Job(Protocol[T_co]):
    """Statements that belong together."""

    def run(self, db: Session) -> T_co:
        """Execute them in a transaction that is open; the result is given to the caller after the commit."""
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    job: Job[Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Outcome:
    waiting: _Waiting
    result: Any = None
    error: Exception | None = None


class Writer:
    """Owns a connection and the thread that uses it, from now until :meth:`close`.

    Args:
        database: where to write.
        most_waiting: how many jobs may wait; the callers after those wait for room.
        most_batch: how many jobs share a transaction.

    Raises:
        StoreError: the database can't be used.
    """

    def __init__(self, database: Database, *, most_waiting: int = MOST_WAITING, most_batch: int = MOST_BATCH) -> None:
        self._database = database
        with database.mapped():
            self._db = database.session()
        self._most_batch = most_batch
        self._room = asyncio.Semaphore(most_waiting)
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="confide-writer", daemon=True)
        self._thread.start()

    async def commit(self, job: Job[T]) -> T:
        """Run a job and return its result once it is committed. A caller that is cancelled doesn't undo its job.

        Raises:
            StoreError: it isn't committed.
        """
        await self._room.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        done.add_done_callback(self._make_room)
        with self._closing:
            if self._closed:
                done.set_exception(self._is_closed())
            else:
                self._queue.put(_Waiting(job, loop, done))
        return await asyncio.shield(done)

    def close(self) -> None:
        """Commit what is waiting and end the thread; closing twice is fine."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _make_room(self, done: asyncio.Future[Any]) -> None:
        done.exception()  # a caller that was cancelled never asks for it
        self._room.release()

    def _is_closed(self) -> StoreError:
        return StoreError(f"the store {self._database.name} is closed")

    # In the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        batch: list[_Waiting] = []
        try:
            last = False
            while not last:
                batch, last = self._next_batch()
                self._commit(batch)
        finally:
            self._give_up(batch)
            self._db.close()

    def _next_batch(self) -> tuple[list[_Waiting], bool]:
        """What is waiting, at least one, and whether it is the last."""
        batch: list[_Waiting] = []
        item = self._queue.get()
        with suppress(Empty):
            while item is not None:
                batch.append(item)
                if len(batch) == self._most_batch:
                    return batch, False
                item = self._queue.get_nowait()
        return batch, item is None

    def _commit(self, batch: Sequence[_Waiting]) -> None:
        """One transaction; if a job is at fault, each in its own, so that it fails alone."""
        try:
            _deliver(self._transaction(batch))
        except self._database.faults as failed:
            self._db.rollback()
            if len(batch) > 1:
                for waiting in batch:
                    self._commit([waiting])
            else:
                _deliver([_Outcome(waiting, error=self._database.failure(failed)) for waiting in batch])
        except self._database.errors as failed:
            self._db.rollback()
            _deliver([_Outcome(waiting, error=self._database.failure(failed)) for waiting in batch])

    def _transaction(self, batch: Sequence[_Waiting]) -> list[_Outcome]:
        if not batch:
            return []
        self._db.begin()
        outcomes = [_Outcome(waiting, result=waiting.job.run(self._db)) for waiting in batch]
        self._db.commit()
        return outcomes

    def _give_up(self, batch: Sequence[_Waiting]) -> None:
        """Leave nobody waiting, however the thread ends."""
        with self._closing:
            self._closed = True
        left = list(batch)
        with suppress(Empty):
            while True:
                item = self._queue.get_nowait()
                if item is not None:
                    left.append(item)
        _deliver([_Outcome(waiting, error=self._is_closed()) for waiting in left])


def _deliver(outcomes: Sequence[_Outcome]) -> None:
    """Wake the callers, each loop once. A loop that has ended has no callers left."""
    for loop in {outcome.waiting.loop for outcome in outcomes}:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, [outcome for outcome in outcomes if outcome.waiting.loop is loop])


def _settle(outcomes: Sequence[_Outcome]) -> None:
    for outcome in outcomes:
        done = outcome.waiting.done
        if done.done():
            continue
        if outcome.error is None:
            done.set_result(outcome.result)
        else:
            done.set_exception(outcome.error)
