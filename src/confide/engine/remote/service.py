"""How one endpoint is spoken with an engine: where its requests go, how they are written, and how answers are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from confide.engine.base import Call
from confide.engine.remote.dialect import Dialect
from confide.errors import ApiError
from confide.wire.answers import Usage


class Mender(Protocol):
    """An engine's stream as the client shall see it: :class:`~confide.engine.remote.mender.StreamMender`, or alike."""

    @property
    def usage(self) -> Usage:
        """Tokens until now."""
        ...

    @property
    def done(self) -> bool:
        """Whether nothing more is to come."""
        ...

    @property
    def last(self) -> bytes:
        """The event that ends the client's stream, once it was read."""
        ...

    def feed(self, data: bytes) -> list[bytes]:
        """Take some bytes, and give the events that they complete.

        Raises:
            ApiError: the engine tells of an error, in its first event; EngineFailed: later, or it gives no answer.
        """
        ...

    def passes(self, write: Callable[[bytes], bool], data: bytes) -> bool:
        """Have bytes written that need no look into them; says whether they were. Else nothing has happened."""
        ...

    def end(self) -> None:
        """The engine's answer has ended.

        Raises:
            EngineFailed: before it was complete.
        """
        ...


class Prepare(Protocol):
    """Writes the body for an engine."""

    def __call__(self, call: Call[Any], dialect: Dialect, *, model: str, salt: str | None) -> bytes:
        """``model`` is what the engine calls its model; ``salt`` separates the caches of tenants, None shares them.

        Raises:
            InvalidRequest: the engine can't honour the request.
        """
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """``path`` is after ``/v1``; ``stream`` makes what mends a stream, ``whole`` mends an answer in one piece.

    ``input`` is the member for what goes in.
    """

    path: str
    prepare: Prepare
    stream: Callable[[Call[Any], Dialect], Mender]
    whole: Callable[[Call[Any], Dialect, bytes], tuple[bytes, Usage]]
    input: str = "messages"

    def named(self, error: ApiError) -> ApiError:
        """An engine's error, which names the member that this endpoint has for what goes in."""
        if error.param == "messages" != self.input:
            error.param, error.message = self.input, error.message.replace("messages", self.input)
        return error
