"""A replica that comes after the start."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.doubles import ScriptedEngine

from confide.engine.base import EngineInfo
from confide.engine.remote.late import LateEngine
from confide.errors import OperatorError, Unavailable

INFO = ScriptedEngine(also={"/v1/completions": frozenset({"n", "stop"})}).info
CALL: Any = object()


class Replica(ScriptedEngine):
    """A double that says whether it is well."""

    def __init__(self, info: EngineInfo = INFO) -> None:
        super().__init__(b"x")
        self._info = info
        self.well = True
        self.closed = 0

    async def healthy(self) -> bool:
        return self.well

    async def close(self) -> None:
        self.closed += 1


class Door:
    """Opens a replica once it is there."""

    def __init__(self, replica: Replica | None = None) -> None:
        self.replica = replica
        self.tries = 0

    async def open(self) -> Replica:
        self.tries += 1
        if self.replica is None:
            raise OperatorError("nobody there")
        return self.replica


def test_it_is_unavailable_until_it_is_there() -> None:
    async def test() -> None:
        door = Door()
        late = LateEngine(door.open, INFO)
        assert late.info == INFO
        assert not await late.healthy()
        with pytest.raises(Unavailable):
            await late.chat(CALL)
        with pytest.raises(Unavailable):
            await late.infer(CALL)
        door.replica = replica = Replica()
        assert await late.healthy()
        await late.chat(CALL)
        await late.infer(CALL)
        assert replica.calls == [CALL, CALL]
        replica.well = False
        assert not await late.healthy()
        assert door.tries == 2
        await late.close()
        assert replica.closed == 1

    asyncio.run(test())


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": "another"},
        {"version": "2"},
        {"context_length": 99},
        {"max_output_length": 49},
        {"max_choices": 1},
        {"parameters": frozenset({"n"})},
        {"input_modalities": ()},
        {"output_modalities": ()},
        {"chats": False},
        {"also": {}},
        {"also": {"/v1/completions": frozenset({"n"})}},
    ],
)
def test_one_that_is_not_a_replica_is_not_taken_in(changes: dict[str, Any]) -> None:
    async def test() -> None:
        replica = Replica(replace(INFO, **changes))
        late = LateEngine(Door(replica).open, INFO)
        assert not await late.healthy()
        assert replica.closed == 1
        with pytest.raises(Unavailable):
            await late.chat(CALL)

    asyncio.run(test())


def test_one_with_more_is_taken_in() -> None:
    more = replace(
        INFO, context_length=10**6, parameters=INFO.parameters | {"seed"}, input_modalities=("text", "image")
    )
    assert asyncio.run(LateEngine(Door(Replica(more)).open, INFO).healthy())


def test_one_that_was_closed_is_not_opened() -> None:
    async def test() -> None:
        door = Door(Replica())
        late = LateEngine(door.open, INFO)
        await late.close()
        await late.close()
        assert not await late.healthy()
        assert door.tries == 0

    asyncio.run(test())
