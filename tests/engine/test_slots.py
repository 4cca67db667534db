"""The pool of slots on a real event loop: who gets in, in which order, and that no slot is ever lost or lent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.engine.slots import Lease, SlotPool
from confide.errors import TooManyRequests, Unavailable


def pool(slots: int = 1, max_queue: int = 8, queue_timeout: float = 30) -> SlotPool:
    return SlotPool(slots, max_queue=max_queue, queue_timeout=queue_timeout)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(bounded())


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_free_slot_is_taken_at_once() -> None:
    async def work() -> None:
        one = pool(2)
        leases = [await one.acquire("a", []), await one.acquire("a", [])]
        assert {lease.slot for lease in leases} == {0, 1}
        assert (one.busy, one.waiting) == (2, 0)
        for lease in leases:
            one.release(lease)
        assert (one.busy, one.waiting) == (0, 0)

    run(work())


def test_first_come_first_served() -> None:
    async def work() -> None:
        one, order = pool(), list[int]()

        async def request(number: int) -> None:
            lease = await one.acquire("a", [])
            order.append(number)
            await asyncio.sleep(0)
            one.release(lease)

        held = await one.acquire("a", [])
        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(request(number)))
            await settle()
        assert (one.busy, one.waiting) == (1, 6)
        one.release(held)
        await asyncio.gather(*tasks)
        assert order == list(range(6))
        assert (one.busy, one.waiting) == (0, 0)

    run(work())


def test_nobody_jumps_the_queue_between_a_release_and_the_waking() -> None:
    async def work() -> None:
        one, order = pool(), list[str]()

        async def request(name: str) -> Lease:
            lease = await one.acquire("a", [])
            order.append(name)
            return lease

        held = await one.acquire("a", [])
        waiter = asyncio.create_task(request("waiter"))
        await settle()
        one.release(held)
        late = asyncio.create_task(request("late"))  # runs before the waiter does
        one.release(await waiter)
        await late
        assert order == ["waiter", "late"]

    run(work())


@pytest.mark.parametrize("max_queue", [0, 1, 3])
def test_a_full_queue_refuses_with_a_time_to_come_back(max_queue: int) -> None:
    async def work() -> None:
        one = pool(max_queue=max_queue)
        held = await one.acquire("a", [])
        waiters = [asyncio.create_task(one.acquire("a", [])) for _ in range(max_queue)]
        await settle()
        with pytest.raises(TooManyRequests) as caught:
            await one.acquire("a", [])
        assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
        assert int(caught.value.headers["Retry-After"]) >= 1
        assert one.waiting == max_queue
        one.release(held)
        for waiter in waiters:
            one.release(await waiter)
        assert (one.busy, one.waiting) == (0, 0)

    run(work())


def test_a_further_choice_waits_whatever_the_queue() -> None:
    async def work() -> None:
        one = pool(max_queue=0, queue_timeout=0.01)
        held = await one.acquire("a", [])
        more = asyncio.create_task(one.acquire("a", [], admitted=True))
        await asyncio.sleep(0.05)
        assert not more.done()
        one.release(held)
        one.release(await more)

    run(work())


def test_waiting_ends() -> None:
    async def work() -> None:
        one = pool(queue_timeout=0.02)
        held = await one.acquire("a", [])
        with pytest.raises(Unavailable) as caught:
            await one.acquire("a", [])
        assert caught.value.status == 503
        assert int(caught.value.headers["Retry-After"]) >= 1
        assert (one.busy, one.waiting) == (1, 0)
        one.release(held)
        one.release(await one.acquire("a", []))

    run(work())


def test_a_waiter_that_leaves_makes_room() -> None:
    async def work() -> None:
        one = pool(max_queue=2)
        held = await one.acquire("a", [])
        first, second = (asyncio.create_task(one.acquire("a", [])) for _ in range(2))
        await settle()
        await ended(first)
        assert one.waiting == 1
        one.release(held)
        one.release(await second)
        assert (one.busy, one.waiting) == (0, 0)

    run(work())


def test_a_turn_that_was_given_to_one_who_leaves_goes_to_the_next() -> None:
    async def work() -> None:
        one = pool()
        held = await one.acquire("a", [])
        first, second = (asyncio.create_task(one.acquire("a", [])) for _ in range(2))
        await settle()
        one.release(held)  # the first has its turn, and is cancelled before it runs
        await ended(first)
        one.release(await second)
        assert (one.busy, one.waiting) == (0, 0)
        one.release(await one.acquire("a", []))

    run(work())


def test_one_who_left_just_before_a_release_gets_no_turn() -> None:
    async def work() -> None:
        one = pool()
        held = await one.acquire("a", [])
        first, second = (asyncio.create_task(one.acquire("a", [])) for _ in range(2))
        await settle()
        first.cancel()
        one.release(held)
        lease = await second
        assert (one.busy, one.waiting) == (1, 0)
        one.release(lease)
        await ended(first)

    run(work())


def test_a_slot_is_given_back_once() -> None:
    async def work() -> None:
        one = pool()
        lease = await one.acquire("a", [])
        one.release(lease)
        with pytest.raises(KeyError):
            one.release(lease)
        assert one.busy == 0

    run(work())


# Whose cache ---------------------------------------------------------------------------------------------------------


def test_a_cache_is_warm_only_for_who_filled_it() -> None:
    async def work() -> None:
        one = pool()
        for tenant, warm in (("a", False), ("a", True), ("b", False), ("a", False), ("a", True)):
            lease = await one.acquire(tenant, [1, 2])
            assert lease.warm is warm
            one.release(lease)

    run(work())


def test_the_longest_shared_start_wins() -> None:
    async def work() -> None:
        one = pool(3)
        leases = [await one.acquire("a", messages) for messages in ([1], [1, 2, 3], [1, 2, 9])]
        for lease in leases:
            one.release(lease)
        for wanted, number in (([1, 2, 3, 4], 1), ([1, 2, 9, 4], 2), ([1, 2, 3, 5], 1)):
            lease = await one.acquire("a", wanted)
            assert (lease.slot, lease.warm) == (leases[number].slot, True)
            one.release(lease)

    run(work())


def test_without_anything_shared_the_slot_that_was_idle_longest_is_taken() -> None:
    async def work() -> None:
        one = pool(3)
        first = [await one.acquire("a", [n]) for n in range(3)]
        for lease in first:
            one.release(lease)
        again = [await one.acquire("b", [7]) for _ in range(3)]
        assert [lease.slot for lease in again] == [lease.slot for lease in first]
        assert not any(lease.warm for lease in again)

    run(work())


def test_another_tenants_same_prompt_attracts_nobody() -> None:
    async def work() -> None:
        one = pool(2)
        mine, theirs = await one.acquire("a", [5]), await one.acquire("b", [1, 2, 3])
        one.release(theirs)
        one.release(mine)
        lease = await one.acquire("a", [1, 2, 3])
        assert (lease.slot, lease.warm) == (mine.slot, True)

    run(work())


# Any order of events -------------------------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("ab")),
        st.tuples(st.just("choice"), st.sampled_from("ab")),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("run"), st.integers(1, 3)),
        st.tuples(st.just("time out"), st.none()),
    ),
    max_size=40,
)


class Model:
    """Asks, cancels and releases in the order that hypothesis chose, and counts."""

    def __init__(self, slots: int, max_queue: int) -> None:
        self.slots, self.max_queue = slots, max_queue
        self.pool = pool(slots, max_queue, queue_timeout=0.001)
        self.tasks: list[asyncio.Task[None]] = []
        self.held: list[Lease] = []
        self.refused = 0

    async def ask(self, tenant: str, admitted: bool) -> None:
        try:
            lease = await self.pool.acquire(tenant, [1], admitted=admitted)
        except (TooManyRequests, Unavailable):
            self.refused += 1
            return
        assert lease.slot not in {held.slot for held in self.held}
        self.held.append(lease)

    async def step(self, kind: str, value: Any) -> None:
        if kind in ("ask", "choice"):
            self.tasks.append(asyncio.create_task(self.ask(value, kind == "choice")))
        elif kind == "release" and self.held:
            self.pool.release(self.held.pop(value % len(self.held)))
        elif kind == "cancel" and self.tasks:
            self.tasks[value % len(self.tasks)].cancel()
        elif kind == "run":
            for _ in range(value):
                await asyncio.sleep(0)
        elif kind == "time out":
            await asyncio.sleep(0.002)
        assert len(self.held) <= self.pool.busy <= self.slots

    async def finish(self) -> None:
        """Whoever still waits is served once the others have given back, and then every slot can be had."""
        while any(not task.done() for task in self.tasks):
            while self.held:
                self.pool.release(self.held.pop())
            await asyncio.sleep(0.0005)
        while self.held:
            self.pool.release(self.held.pop())
        for task in self.tasks:
            assert task.cancelled() or task.exception() is None
        assert (self.pool.busy, self.pool.waiting) == (0, 0)
        leases = [await asyncio.wait_for(self.pool.acquire("z", []), 5) for _ in range(self.slots)]
        assert {lease.slot for lease in leases} == set(range(self.slots))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), steps)
def test_no_slot_is_lost_or_lent_twice(slots: int, max_queue: int, events: list[tuple[str, Any]]) -> None:
    async def work() -> None:
        model = Model(slots, max_queue)
        for kind, value in events:
            await model.step(kind, value)
        await model.finish()

    run(work())
