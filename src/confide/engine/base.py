"""What the server asks of an engine, whichever it is.

An engine gives bytes that are ready for the client, so that one which speaks OpenAI's API already can pass its own
bytes through unchanged, and one which generates tokens builds them from :mod:`confide.wire.answers`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from confide.wire.answers import Usage
from confide.wire.openai import ChatRequest

CHAT: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine has, for ``/v1/models`` and for refusing by name what it has not.

    ``context_length`` and ``max_output_length`` are in tokens; ``parameters`` are the members of
    :class:`~confide.wire.openai.ChatRequest` that the engine honours; ``endpoints`` are the paths that it answers.
    """

    engine: str
    version: str
    context_length: int
    max_output_length: int
    parameters: frozenset[str]
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    max_choices: int = 1
    created: int = 0
    endpoints: frozenset[str] = frozenset({CHAT})

    @property
    def sees(self) -> bool:
        """Whether the model takes images."""
        return "image" in self.input_modalities


R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Call(Generic[R_co]):
    """One request on its way to an engine.

    ``tenant`` is opaque and stands for whoever's caches may be shared with this request: nobody else's.
    ``body`` is the request as it was read, for engines that pass bytes through.
    """

    id: str
    created: int
    model: str
    tenant: str
    request: R_co
    body: bytes = field(repr=False)


ChatCall: TypeAlias = Call[ChatRequest]


class Reply(Protocol):
    """A request that an engine has accepted and is answering."""

    @property
    def usage(self) -> Usage:
        """Tokens spent until now; final once the iteration has ended."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The answer's bytes: whole SSE events without the final ``[DONE]``, or one JSON body.

        Raises:
            ApiError: the engine failed after it had accepted the request.
        """
        ...

    async def aclose(self) -> None:
        """Stop generating and free what the request holds. Safe to call twice, and after the end."""
        ...


class Engine(Protocol):
    """Something that answers chat completions for one model."""

    @property
    def info(self) -> EngineInfo:
        """What this engine has; does not change while it runs."""
        ...

    async def chat(self, call: ChatCall) -> Reply:
        """Accept a request, or refuse it while the client can still be told with a status.

        Raises:
            InvalidRequest: it can't be honoured (``context_length_exceeded`` included).
            TooManyRequests, Unavailable: no room now.
            EngineFailed: the engine broke.
        """
        ...

    async def close(self) -> None:
        """Stop. Requests under way end with an error."""
        ...
