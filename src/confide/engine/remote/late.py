"""A replica that was not there when the server started, and may come."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from confide.engine.base import Call, ChatCall, Engine, EngineInfo, Reply
from confide.errors import ApiError, OperatorError, Unavailable

log = logging.getLogger("confide.late")


class Probed(Engine, Protocol):
    """An engine that says whether it is well."""

    async def healthy(self) -> bool:
        """Whether it can serve."""
        ...


class LateEngine:
    """:class:`~confide.engine.base.Engine` of a replica that is opened once it is there.

    Args:
        open: opens it; raises OperatorError or ApiError while it can't be reached.
        info: what replicas that are up have. One that is another engine or version, or has less, is not taken in: the
            manifest and ``/v1/models`` have been made without it.
    """

    def __init__(self, open: Callable[[], Awaitable[Probed]], info: EngineInfo) -> None:
        self._open = open
        self._info = info
        self._engine: Probed | None = None
        self._closed = False

    @property
    def info(self) -> EngineInfo:
        """What it must have, to be taken in."""
        return self._info

    async def healthy(self) -> bool:
        """Whether it can serve; tries to open it while it isn't."""
        if self._engine is None and not self._closed:
            self._engine = await self._opened()
        return self._engine is not None and await self._engine.healthy()

    async def _opened(self) -> Probed | None:
        try:
            engine = await self._open()
        except (OperatorError, ApiError):
            return None
        if not serves_as_much(engine.info, self._info) or self._closed:
            log.error("a replica is another engine, or has less than the others")
            await engine.close()
            return None
        return engine

    async def chat(self, call: ChatCall) -> Reply:
        """As the engine does.

        Raises:
            Unavailable: it isn't there yet.
        """
        return await self._there().chat(call)

    async def infer(self, call: Call[Any]) -> Reply:
        """As the engine does.

        Raises:
            Unavailable: it isn't there yet.
        """
        return await self._there().infer(call)

    def _there(self) -> Engine:
        if self._engine is None:
            raise Unavailable("The model is not available now. Please try again.", headers={"Retry-After": "5"})
        return self._engine

    async def close(self) -> None:
        """Close it, if it was opened. Safe to call twice."""
        self._closed = True
        if self._engine is not None:
            await self._engine.close()


def serves_as_much(found: EngineInfo, wanted: EngineInfo) -> bool:
    """Whether an engine can stand in for one that has so much."""
    return (
        (found.engine, found.version) == (wanted.engine, wanted.version)
        and found.context_length >= wanted.context_length
        and found.max_output_length >= wanted.max_output_length
        and found.max_choices >= wanted.max_choices
        and found.parameters >= wanted.parameters
        and set(found.input_modalities) >= set(wanted.input_modalities)
        and set(found.output_modalities) >= set(wanted.output_modalities)
        and found.chats >= wanted.chats
        and all(found.also.get(path, frozenset()) >= members for path, members in wanted.also.items())
    )
