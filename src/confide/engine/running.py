"""One generation in the embedded engine, from its slot to its end; and several of them as one sequence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from confide.engine import translate
from confide.engine.llama import Event, Generation
from confide.engine.slots import Lease, SlotPool
from confide.errors import ApiError, InvalidRequest
from confide.wire.answers import Usage

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(eq=False, slots=True)
class Run:
    """A generation.

    Attributes:
        generate: begins it, in the slot that it was given.
        pool: the slots.
        under_way: where it stands while it runs.
        tenant: whose cached prompts may be reused.
        hashes: of the prompt's parts, to find the slot that holds most of it.
        refused: what the client is told where the library doesn't take the request.
        admitted: whether it is part of a request that runs already.
        usage: tokens until now.
    """

    generate: Callable[[Lease], Generation]
    pool: SlotPool
    under_way: set[Run]
    tenant: str
    hashes: Sequence[int]
    refused: InvalidRequest
    admitted: bool
    usage: Usage = field(default_factory=Usage)
    _generation: Generation | None = None
    _lease: Lease | None = None
    _first: Event | None = None
    _events: AsyncIterator[Event] | None = None

    async def start(self) -> None:
        """Wait for a slot, and for the engine to begin; raises what the engine refuses."""
        if self._events is not None:
            return
        self._lease = await self.pool.acquire(self.tenant, self.hashes, admitted=self.admitted)
        self._generation = self.generate(self._lease)
        self.under_way.add(self)
        self._events = aiter(self._generation)
        self._first = await self._next()

    async def _next(self) -> Event | None:
        assert self._events is not None
        try:
            event = await anext(self._events, None)
        except RuntimeError as error:
            # The library refuses with an exception whose text may quote the conversation: only its kind is told.
            raise self.refused from error
        if event is not None and event.error is not None:
            raise translate.refusal(event, param=self.refused.param or "messages")
        return event

    async def events(self) -> AsyncGenerator[Event, None]:
        """All of its events, beginning with the one that :meth:`start` waited for."""
        event, self._first = self._first, None
        while event is not None:
            self._count(event)
            yield event
            event = await self._next()

    def _count(self, event: Event) -> None:
        if event.usage is not None:
            details = event.usage.prompt_tokens_details
            cached = details.cached_tokens if details else 0
            self.usage = Usage(event.usage.prompt_tokens, event.usage.completion_tokens, cached, self.usage.reasoning)
        elif event.prompt_progress is not None:
            self.usage = Usage(event.prompt_progress.total, 0, event.prompt_progress.cache)

    def add_token(self, *, reasoning: bool = False) -> None:
        """One more was generated."""
        spent = self.usage
        self.usage = Usage(spent.prompt, spent.completion + 1, spent.cached, spent.reasoning + reasoning)

    async def aclose(self) -> None:
        """Stop, and give the slot back as soon as the engine has left it."""
        generation, lease = self._generation, self._lease
        self._generation = self._lease = None
        if lease is None:
            return
        if generation is None:
            self.pool.release(lease)
            return
        generation.cancel()
        self.under_way.discard(self)
        task = asyncio.create_task(self._release(generation, lease))
        await asyncio.shield(task)

    async def _release(self, generation: Generation, lease: Lease) -> None:
        await generation.finished.wait()
        self.pool.release(lease)


class Source(Protocol[T_co]):
    """One choice of an answer."""

    async def start(self) -> None:
        """Wait until it has begun."""
        ...

    def deltas(self) -> AsyncGenerator[T_co, None]:
        """What is generated, until it is finished."""
        ...


async def merged(sources: Sequence[Source[T]]) -> AsyncGenerator[T, None]:
    """All choices' deltas: of the only one as they come, of several merged. The first has been started."""
    if len(sources) == 1:
        async with aclosing(sources[0].deltas()) as deltas:
            async for delta in deltas:
                yield delta
        return
    queue: asyncio.Queue[Any] = asyncio.Queue()
    tasks = [asyncio.create_task(_pump(source, queue)) for source in sources]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if isinstance(item, ApiError):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(source: Source[Any], queue: asyncio.Queue[Any]) -> None:
    try:
        await source.start()
        async for delta in source.deltas():
            queue.put_nowait(delta)
    except ApiError as error:
        queue.put_nowait(error)
    else:
        queue.put_nowait(None)


def summed(runs: Sequence[Run]) -> Usage:
    """The tokens of all; the prompt counts once, as they share it."""
    first = runs[0].usage
    completion = sum(run.usage.completion for run in runs)
    reasoning = sum(run.usage.reasoning for run in runs)
    return Usage(first.prompt, completion, first.cached, reasoning)
