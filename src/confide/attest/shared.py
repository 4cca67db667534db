"""Asking slow machines from many requests: one question in flight per key, a time limit, blocking calls in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from confide.attest.base import (
    Description,
    Evidence,
    EvidenceFailed,
    EvidenceSource,
    GpuAnswer,
    GpuSource,
    GpuUnavailable,
)

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Callers with the same key share one answer while it is being made; nothing is kept after.

    A caller that is cancelled leaves the others alone. When the last one leaves, the work is cancelled.
    """

    def __init__(self) -> None:
        self._tasks: dict[bytes, asyncio.Task[T]] = {}
        self._waiting: dict[asyncio.Task[T], int] = {}

    async def run(self, key: bytes, make: Callable[[], Awaitable[T]]) -> T:
        """The answer to ``make``, or to that of somebody who asked for the same first."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.create_task(_settled(make))
            self._tasks[key] = task
            self._waiting[task] = 0
        self._waiting[task] += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._leave(key, task)

    def _leave(self, key: bytes, task: asyncio.Task[T]) -> None:
        self._waiting[task] -= 1
        if self._waiting[task] and not task.done():
            return
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not self._waiting[task]:
            del self._waiting[task]
            task.cancel()


async def _settled(make: Callable[[], Awaitable[T]]) -> T:
    return await make()


@asynccontextmanager
async def within(seconds: float, what: str) -> AsyncIterator[None]:
    """A limit on how long ``what`` may take."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise EvidenceFailed(f"{what} took longer than {seconds:g} seconds") from None


class Blocking:
    """One thread for calls that block. A caller may stop waiting; the call itself runs to its end and cleans up."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, call: Callable[[], T]) -> T:
        """The result of ``call``, after the calls before it."""
        return await asyncio.wrap_future(self._pool.submit(call))

    def close(self) -> None:
        """Take no more calls; those that have not started are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class SharedEvidence:
    """A source for many requests: one quote in flight per ``report_data``, and a limit on how long it may take."""

    def __init__(self, source: EvidenceSource, seconds: float = 20.0) -> None:
        self._source = source
        self._seconds = seconds
        self._flights: SingleFlight[Evidence] = SingleFlight()

    async def quote(self, report_data: bytes) -> Evidence:
        """Evidence over 64 bytes, shared with whoever asks for the same at the same time."""
        return await self._flights.run(report_data, lambda: self._quote(report_data))

    async def _quote(self, report_data: bytes) -> Evidence:
        async with within(self._seconds, "a quote of this machine"):
            return await self._source.quote(report_data)

    def describe(self) -> Description:
        """What the source is."""
        return self._source.describe()

    async def aclose(self) -> None:
        """Close the source."""
        await self._source.aclose()


class SharedGpu:
    """GPU evidence for many requests. GPUs that do not answer in time are unavailable; the text says so."""

    def __init__(self, source: GpuSource, seconds: float = 20.0) -> None:
        self._source = source
        self._seconds = seconds
        self._flights: SingleFlight[GpuAnswer] = SingleFlight()

    async def evidence(self, nonce: bytes) -> GpuAnswer:
        """Evidence over 32 bytes, shared with whoever asks for the same at the same time."""
        return await self._flights.run(nonce, lambda: self._evidence(nonce))

    async def _evidence(self, nonce: bytes) -> GpuAnswer:
        try:
            async with within(self._seconds, "evidence of the GPUs"):
                return await self._source.evidence(nonce)
        except EvidenceFailed as failed:
            return GpuUnavailable(str(failed))

    async def aclose(self) -> None:
        """Close the source."""
        await self._source.aclose()
