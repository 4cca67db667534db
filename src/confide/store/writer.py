"""One thread that writes: whatever is waiting goes into one transaction, and each caller waits for its commit.

A commit that has reached the disk costs the same for one row as for a hundred, so callers share it (group commit).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
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
class Insert:
    """A job that is nothing but rows for one table. Those of one batch become one statement.

    Attributes:
        table: its name.
        columns: their names.
        rows: a value for each column.
    """

    table: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]

    def run(self, db: Session) -> None:
        """Insert them."""
        db.insert(self.table, self.columns, self.rows)


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
        self._most_waiting = most_waiting
        self._waiting = 0
        self._room: deque[asyncio.Future[None]] = deque()
        self._fresh: list[_Waiting] = []
        self._left: list[_Waiting] = []
        self._last = False
        self._queue: SimpleQueue[list[_Waiting] | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="confide-writer", daemon=True)
        self._thread.start()

    async def commit(self, job: Job[T]) -> T:
        """Run a job and return its result once it is committed. A caller that is cancelled doesn't undo its job.

        Raises:
            StoreError: it isn't committed.
        """
        loop = asyncio.get_running_loop()
        if self._waiting >= self._most_waiting or self._room:
            return await asyncio.shield(loop.create_task(self._once_there_is_room(job, loop)))
        return await self._put(job, loop)  # from here on the thread has it, whoever is cancelled

    def _put(self, job: Job[T], loop: asyncio.AbstractEventLoop) -> asyncio.Future[T]:
        done: asyncio.Future[T] = loop.create_future()
        with self._closing:
            if self._closed:
                done.set_exception(self._is_closed())
            else:
                self._waiting += 1
                self._fresh.append(_Waiting(job, loop, done))
                if len(self._fresh) == 1:
                    loop.call_soon(self._hand_over)
        return done

    def _hand_over(self) -> None:
        """Give the thread at once what one turn of the loop has brought: to wake it costs more than a job."""
        with self._closing:
            fresh, self._fresh = self._fresh, []
            if not self._closed:
                self._queue.put(fresh)
                return
        if fresh:
            self._settle([_Outcome(waiting, error=self._is_closed()) for waiting in fresh])

    async def _once_there_is_room(self, job: Job[T], loop: asyncio.AbstractEventLoop) -> T:
        room: asyncio.Future[None] = loop.create_future()
        self._room.append(room)
        await room
        return await self._put(job, loop)

    def close(self) -> None:
        """Commit what is waiting and end the thread; closing twice is fine."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(self._fresh)
                self._queue.put(None)
                self._fresh = []
        self._thread.join()

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
        """What is waiting, and whether it is the last."""
        left = self._left
        with suppress(Empty):
            while len(left) < self._most_batch and not self._last:
                item = self._queue.get(block=not left)
                self._last = item is None
                left += item or ()
        batch, self._left = left[: self._most_batch], left[self._most_batch :]
        return batch, self._last and not self._left

    def _commit(self, batch: Sequence[_Waiting]) -> None:
        """One transaction; if a job is at fault, each in its own, so that it fails alone."""
        try:
            self._deliver(self._transaction(batch))
        except self._database.faults as failed:
            self._db.rollback()
            if len(batch) > 1:
                for waiting in batch:
                    self._commit([waiting])
            else:
                self._deliver([_Outcome(waiting, error=self._database.failure(failed)) for waiting in batch])
        except self._database.errors as failed:
            self._db.rollback()
            self._deliver([_Outcome(waiting, error=self._database.failure(failed)) for waiting in batch])

    def _transaction(self, batch: Sequence[_Waiting]) -> list[_Outcome]:
        if not batch:
            return []
        together = _joined([waiting.job for waiting in batch])
        if together is not None:
            together.run(self._db)
            return [_Outcome(waiting) for waiting in batch]
        self._db.begin()
        outcomes = [_Outcome(waiting, result=waiting.job.run(self._db)) for waiting in batch]
        self._db.commit()
        return outcomes

    def _give_up(self, batch: Sequence[_Waiting]) -> None:
        """Leave nobody waiting, however the thread ends."""
        with self._closing:
            self._closed = True
        left = [*batch, *self._left]
        with suppress(Empty):
            while True:
                item = self._queue.get_nowait()
                left += item or []
        self._deliver([_Outcome(waiting, error=self._is_closed()) for waiting in left])

    def _deliver(self, outcomes: Sequence[_Outcome]) -> None:
        """Wake the callers, each loop once. A loop that has ended has no callers left."""
        for loop in {outcome.waiting.loop for outcome in outcomes}:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(
                    self._settle, [outcome for outcome in outcomes if outcome.waiting.loop is loop]
                )

    def _settle(self, outcomes: Sequence[_Outcome]) -> None:
        """In the callers' loop."""
        self._waiting -= len(outcomes)
        for outcome in outcomes:
            done = outcome.waiting.done
            if done.done():
                continue
            if outcome.error is None:
                done.set_result(outcome.result)
            else:
                done.set_exception(outcome.error)
        for _ in range(min(len(self._room), self._most_waiting - self._waiting)):
            room = self._room.popleft()
            if not room.done():
                room.set_result(None)


def _joined(jobs: Sequence[Job[Any]]) -> Insert | None:
    """All jobs as one, where they are rows for the same table."""
    inserts = [job for job in jobs if isinstance(job, Insert)]
    if len(inserts) < len(jobs) or len({(job.table, job.columns) for job in inserts}) > 1:
        return None
    return Insert(inserts[0].table, inserts[0].columns, [row for job in inserts for row in job.rows])
