"""Who runs now, who waits, and whose cached prompt may be reused.

An engine has a fixed number of slots; each keeps the key-value cache of the last prompt it ran. Reuse of that cache is
a gain for the next turn of the same conversation and a timing side channel between tenants, so a slot's cache is warm
only for the tenant that filled it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from confide.errors import TooManyRequests, Unavailable


@dataclass(slots=True)
class _Slot:
    number: int
    tenant: str | None = None
    messages: tuple[int, ...] = ()
    used: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """A slot for the length of one generation. ``warm``: its cache may be reused for this request."""

    slot: int
    warm: bool


class SlotPool:
    """A fixed number of slots with a bounded first-come queue. For use from one event loop."""

    def __init__(self, slots: int, *, max_queue: int, queue_timeout: float) -> None:
        self._free = [_Slot(number) for number in range(slots)]
        self._busy: dict[int, _Slot] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._max_queue = max_queue
        self._timeout = queue_timeout
        self._clock = 0
        self._closed = False
        self._promised = 0  # slots in _free that belong to a waiter which has been woken but has not run yet

    @property
    def busy(self) -> int:
        """How many slots are taken."""
        return len(self._busy)

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    async def acquire(self, tenant: str, messages: Sequence[int], *, admitted: bool = False) -> Lease:
        """Take a slot, waiting for one if need be.

        Args:
            tenant: whose request it is.
            messages: one hash per message of the prompt, to find the slot that holds the longest part of it.
            admitted: part of a request that runs already (a further choice): it waits whatever the queue's length.

        Raises:
            TooManyRequests: the queue is full (429).
            Unavailable: no slot came free in time (503).
        """
        if self._closed:
            raise _stopping()
        if self._waiting or len(self._free) <= self._promised:
            await self._wait(admitted=admitted)
        slot = max(self._free, key=lambda slot: self._fit(slot, tenant, messages))
        self._free.remove(slot)
        self._busy[slot.number] = slot
        warm = slot.tenant == tenant
        self._clock += 1
        slot.tenant, slot.messages, slot.used = tenant, tuple(messages), self._clock
        return Lease(slot.number, warm)

    def release(self, lease: Lease) -> None:
        """Give a slot back."""
        self._free.append(self._busy.pop(lease.slot))
        self._wake()

    def close(self) -> None:
        """Turn away everyone who waits, and whoever comes."""
        self._closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(_stopping())

    async def _wait(self, *, admitted: bool) -> None:
        if not admitted and len(self._waiting) >= self._max_queue:
            raise TooManyRequests(
                "The server is at its limit of waiting requests. Please try again shortly.",
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(None if admitted else self._timeout):
                await turn
            self._promised -= 1
        except TimeoutError:
            self._abandon(turn)
            raise Unavailable(
                "The server is overloaded: no slot came free in time. Please try again later.",
                headers={"Retry-After": "5"},
            ) from None
        except asyncio.CancelledError:
            self._abandon(turn)
            raise

    def _abandon(self, turn: asyncio.Future[None]) -> None:
        """Leave the queue; a turn that was already given passes on to the next in line."""
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif turn.done() and not turn.cancelled() and turn.exception() is None:
            self._promised -= 1
            self._wake()

    def _wake(self) -> None:
        while self._waiting and len(self._free) > self._promised:
            turn = self._waiting.popleft()
            if not turn.done():
                self._promised += 1
                turn.set_result(None)

    def _fit(self, slot: _Slot, tenant: str, messages: Sequence[int]) -> tuple[int, int, int]:
        """Longest shared start of the same tenant's prompt first; then beside busy slots; then idle longest.

        llama.cpp decodes neighbouring slots in one step and others in several, which costs up to half the speed.
        """
        shared = 0
        if slot.tenant == tenant:
            for kept, wanted in zip(slot.messages, messages, strict=False):
                if kept != wanted:
                    break
                shared += 1
        neighbours = (slot.number - 1 in self._busy) + (slot.number + 1 in self._busy)
        return shared, neighbours, -slot.used


def _stopping() -> Unavailable:
    return Unavailable("The server is stopping. Please try again shortly.", headers={"Retry-After": "5"})
