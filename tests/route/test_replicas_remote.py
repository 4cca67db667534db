"""Replicas that are real connections to stand-ins of engines: they die, fall silent, are cut off, and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest

from confide.engine.remote.address import parse_address
from confide.engine.remote.engine import RemoteEngine, RemoteModel, Timeouts
from confide.errors import EngineFailed
from confide.route.health import ReplicaPolicy
from confide.route.replicas import Replica, Replicas
from tests.route.fakes import Clock, chat
from tests.simulator.engines import StandIn, standing_in

SECRET = bytes(range(32))
FAST = Timeouts(connect=1, first=0.3, between=0.3, total=5)


class Cluster:
    def __init__(self, replicas: Replicas, engines: Sequence[StandIn], clock: Clock) -> None:
        self.replicas, self.engines, self.clock = replicas, engines, clock

    @property
    def states(self) -> list[str]:
        return [one.state for one in self.replicas.snapshot()]

    async def ask(self, number: int = 0, **members: Any) -> bytes:
        """One streamed request to its end."""
        reply = await self.replicas.chat(chat(f"conversation {number}", stream=True, **members))
        try:
            return b"".join([piece async for piece in reply])
        finally:
            await reply.aclose()

    async def preferring(self, wanted: int) -> int:
        """The number of a conversation that goes to that replica while all are well."""
        for number in range(100):
            before = len(self.engines[wanted].chats)
            await self.ask(number)
            if len(self.engines[wanted].chats) > before:
                return number
        raise AssertionError("none of a hundred")


@asynccontextmanager
async def cluster(size: int = 2, **policy: Any) -> AsyncIterator[Cluster]:
    clock = Clock()
    with ExitStack() as stack:
        stand_ins = [stack.enter_context(standing_in("vllm")) for _ in range(size)]
        engines = [
            await RemoteEngine.open(RemoteModel(parse_address(one.url), dialect="vllm", timeouts=FAST))
            for one in stand_ins
        ]
        replicas = Replicas(
            [Replica(engine, f"engine {number}") for number, engine in enumerate(engines)],
            secret=SECRET,
            policy=ReplicaPolicy(**policy),
            clock=clock,
            random=lambda: 0.0,
        )
        try:
            yield Cluster(replicas, stand_ins, clock)
            assert [one.outstanding for one in replicas.snapshot()] == [0] * size
        finally:
            await replicas.close()


@pytest.mark.parametrize(
    "fault",
    [
        {"die_after": 0},
        {"silent": True},
        {"garbage": "http"},
        {"status": 500, "refusal": "boom"},
        {"status": 503, "refusal": "loading"},
        {"status": 429, "refusal": "full"},
    ],
    ids=repr,
)
def test_what_fails_before_the_first_byte_is_answered_by_another(fault: dict[str, Any]) -> None:
    async def work() -> None:
        async with cluster() as made:
            number = await made.preferring(0)
            good = await made.ask(number)
            made.engines[0].now(**fault)
            before = len(made.engines[1].chats)
            assert len(await made.ask(number)) == len(good)
            assert len(made.engines[1].chats) == before + 1
            assert made.replicas.retries == 1

    asyncio.run(work())


@pytest.mark.parametrize("fault", [{"die_after": 2}, {"stall_after": 2}, {"garbage": "event"}], ids=repr)
def test_what_fails_in_the_midst_is_not(fault: dict[str, Any]) -> None:
    async def work() -> None:
        async with cluster() as made:
            number = await made.preferring(0)
            made.engines[0].now(**fault)
            before = len(made.engines[1].chats)
            with pytest.raises(EngineFailed):
                await made.ask(number)
            assert len(made.engines[1].chats) == before
            assert made.replicas.retries == 0

    asyncio.run(work())


def test_one_that_was_cut_off_returns() -> None:
    async def work() -> None:
        async with cluster(failures=2, first_ejection=1) as made:
            number = await made.preferring(0)
            made.engines[0].now(die_after=0, sick=True)
            for _ in range(3):
                await made.ask(number)
            assert made.states == ["ejected", "up"]
            made.clock.now += 1
            await made.replicas.probe()
            assert made.states == ["ejected", "up"]
            made.engines[0].now(die_after=None, sick=False)
            made.clock.now += 2
            await made.replicas.probe()
            assert made.states == ["trial", "up"]
            before = len(made.engines[0].chats)
            await made.ask(number)
            assert made.states == ["up", "up"]
            assert len(made.engines[0].chats) == before + 1

    asyncio.run(work())


def test_connections_that_are_closed_at_random_are_nobodys_failure() -> None:
    async def work() -> None:
        async with cluster(failures=1) as made:
            for engine in made.engines:
                engine.now(hang_up=2)
            for number in range(20):
                assert await made.ask(number)
            assert made.states == ["up", "up"]
            assert made.replicas.retries == 0

    asyncio.run(work())


def test_a_client_that_leaves_ends_the_work_at_the_second_one() -> None:
    async def work() -> None:
        async with cluster() as made:
            number = await made.preferring(0)
            made.engines[0].now(die_after=0)
            made.engines[1].now(late=60)
            task = asyncio.create_task(made.ask(number))
            before = len(made.engines[1].chats)
            while len(made.engines[1].chats) == before:  # noqa: ASYNC110 - the stand-in runs in another thread
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(made.engines[1].left.wait, 5)
            assert made.states == ["up", "up"]

    asyncio.run(work())
