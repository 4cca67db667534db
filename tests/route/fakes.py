"""Engines whose every answer a test decides, a clock that it moves, and chance that it chooses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from confide.engine.base import Call, ChatCall, EngineInfo
from confide.errors import EngineFailed
from confide.route.health import ReplicaPolicy
from confide.route.replicas import Replica, Replicas
from confide.wire.answers import Usage
from confide.wire.openai import parse_chat

SECRET = bytes(range(32))
INFO = EngineInfo("vllm", "0.32.0", 8192, 4096, frozenset({"max_tokens", "n"}), max_choices=4, created=1_790_000_000)


def chat(text: str = "hello", *, tenant: str = "key_1", more: Sequence[Any] = (), **members: Any) -> ChatCall:
    """A request that starts with this text of the user's."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}, *more]} | members
    data = json.dumps(body).encode()
    return Call("chatcmpl-1", 1_790_000_000, "m", tenant, parse_chat(data), data)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeReply:
    """Yields pieces, or raises; waits where it is told ``None``, until :attr:`go` is set."""

    def __init__(self, steps: Sequence[bytes | BaseException | None] = (b"a", b"b")) -> None:
        self.steps = steps
        self.closed = 0
        self.go = asyncio.Event()
        self.usage = Usage(3, 5)
        self.forwarded = "sha256:00"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for step in self.steps:
            if isinstance(step, BaseException):
                raise step
            if step is None:
                await self.go.wait()
            else:
                yield step

    async def aclose(self) -> None:
        self.closed += 1


class FakeEngine:
    """Does with each request what is next in :attr:`script`: reply, raise, or wait for :attr:`go` and then do the next.

    With an empty script it replies.
    """

    def __init__(self, *script: FakeReply | BaseException | None, info: EngineInfo = INFO) -> None:
        self.script = list(script)
        self.info = info
        self.calls: list[ChatCall] = []
        self.cancelled = 0
        self.closed = 0
        self.go = asyncio.Event()

    async def chat(self, call: ChatCall) -> FakeReply:
        self.calls.append(call)
        step = self.script.pop(0) if self.script else FakeReply()
        while step is None:
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            step = self.script.pop(0) if self.script else FakeReply()
        if isinstance(step, BaseException):
            raise step
        return step

    async def infer(self, call: Call[Any]) -> FakeReply:
        return await self.chat(call)

    async def close(self) -> None:
        self.closed += 1


class ProbedEngine(FakeEngine):
    """Can be asked whether it is well: it is while :attr:`well` says so; an exception there is raised."""

    def __init__(self, *script: FakeReply | BaseException | None, info: EngineInfo = INFO) -> None:
        super().__init__(*script, info=info)
        self.well: bool | BaseException | None = True
        self.probes = 0
        self.probed = asyncio.Event()
        self.slow: asyncio.Event | None = None

    async def healthy(self) -> bool:
        self.probes += 1
        self.probed.set()
        if self.slow is not None:
            await self.slow.wait()
        if isinstance(self.well, BaseException):
            raise self.well
        if self.well is None:
            await asyncio.Event().wait()
        return bool(self.well)


class World:
    """Replicas over engines, named ``http://10.0.0.N:8000``."""

    def __init__(self, *engines: FakeEngine, chance: float = 0.0, **policy: Any) -> None:
        self.engines = engines
        self.clock = Clock()
        self.chance = chance
        self.replicas = Replicas(
            [Replica(engine, f"http://10.0.0.{number}:8000") for number, engine in enumerate(engines)],
            secret=SECRET,
            policy=replace(ReplicaPolicy(), **policy),
            clock=self.clock,
            random=lambda: self.chance,
        )

    @property
    def outstanding(self) -> list[int]:
        return [one.outstanding for one in self.replicas.snapshot()]

    @property
    def states(self) -> list[str]:
        return [one.state for one in self.replicas.snapshot()]

    @property
    def calls(self) -> list[int]:
        return [len(engine.calls) for engine in self.engines]

    async def whole(self, call: ChatCall | None = None) -> bytes:
        """One request to its end."""
        reply = await self.replicas.chat(call or chat())
        try:
            return b"".join([piece async for piece in reply])
        finally:
            await reply.aclose()


def broken() -> EngineFailed:
    return EngineFailed("The engine broke.")


async def turns(count: int = 10) -> None:
    """Let other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)
