"""What the server asks of an engine, whichever it is.

An engine gives bytes that are ready for the client, so that one which speaks OpenAI's API already can pass its own
bytes through unchanged, and one which generates tokens builds them from :mod:`confide.wire.answers`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from confide.wire.answers import Usage
from confide.wire.digest import BodyDigest
from confide.wire.openai import ChatRequest
from confide.wire.sse import DONE

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"
RESPONSES: Final = "/v1/responses"
MESSAGES: Final = "/v1/messages"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine has, for ``/v1/models`` and for refusing by name what it has not.

    ``context_length`` and ``max_output_length`` are in tokens; ``parameters`` are the members of
    :class:`~confide.wire.openai.ChatRequest` that the engine honours, where it ``chats``; ``also`` names the paths of
    other endpoints that it answers, each with the members that it honours there.
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
    chats: bool = True
    also: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def endpoints(self) -> frozenset[str]:
        """The paths of all endpoints that it answers."""
        return frozenset(self.also) | ({CHAT} if self.chats else set())

    @property
    def sees(self) -> bool:
        """Whether the model takes images."""
        return "image" in self.input_modalities


R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Call(Generic[R_co]):
    """One request on its way to an engine.

    ``tenant`` is opaque and stands for whoever's caches may be shared with this request: nobody else's.
    ``body`` is the request as it was read, for engines that pass bytes through, and ``digest`` is made of it.
    """

    id: str
    created: int
    model: str
    tenant: str
    request: R_co
    body: bytes = field(repr=False)
    digest: BodyDigest | None = field(default=None, repr=False)


ChatCall: TypeAlias = Call[ChatRequest]


class Reply(Protocol):
    """A request that an engine has accepted and is answering.

    It may have three more members: ``forwarded``, the digest of the bytes that an engine in another process was sent;
    ``last``, the event that ends its stream where that isn't ``[DONE]``, there once the iteration has ended; and
    ``straight``, for :func:`go_straight`.
    """

    @property
    def usage(self) -> Usage:
        """Tokens spent until now; final once the iteration has ended."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The answer's bytes: whole SSE events without the one that ends the stream, or one JSON body.

        Raises:
            ApiError: the engine failed after it had accepted the request.
        """
        ...

    async def aclose(self) -> None:
        """Stop generating and free what the request holds. Safe to call twice, and after the end."""
        ...


def last_event(reply: Reply) -> bytes:
    """What ends the stream of a reply that was read to its end: ``[DONE]``, or the API's own last event."""
    last: bytes = getattr(reply, "last", DONE)
    return last


def go_straight(reply: Reply, write: Callable[[bytes], bool]) -> None:
    """Offer a reply a shorter way for the events that come while its iteration waits for them, if it knows one.

    Args:
        reply: one that is streamed, before its iteration begins.
        write: takes whole events, and says whether it did. What it doesn't take, the iteration gives.
    """
    offer: Callable[[Callable[[bytes], bool]], None] | None = getattr(reply, "straight", None)
    if offer is not None:
        offer(write)


class Engine(Protocol):
    """Something that answers for one model."""

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

    async def infer(self, call: Call[Any]) -> Reply:
        """The same for the request of another endpoint, one of those in :attr:`EngineInfo.also`.

        Raises:
            ApiError: as :meth:`chat`.
        """
        ...

    async def close(self) -> None:
        """Stop. Requests under way end with an error."""
        ...
