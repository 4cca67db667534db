"""An engine in a process of its own, or on a machine of its own, behind the contract of the embedded one.

A request is rewritten for the engine's dialect (:mod:`confide.engine.remote.request`), sent over a pooled connection
(:mod:`confide.engine.remote.channel`), and what comes back passes as it is or is mended
(:mod:`confide.engine.remote.mender`). A request counts as accepted when its first event is there, so that a refusal is
a status, and another replica can still be tried.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Self

from confide.engine.base import Call, ChatCall, EngineInfo
from confide.engine.remote import anthropic, responses
from confide.engine.remote.address import Address
from confide.engine.remote.channel import LONGEST_ERROR, Channel, Incoming, Timeouts
from confide.engine.remote.connection import Straight
from confide.engine.remote.dialect import AUTO, TOOLS, Dialect
from confide.engine.remote.failures import from_engine
from confide.engine.remote.gather import Gatherer
from confide.engine.remote.mender import StreamMender, mend_whole
from confide.engine.remote.offers import OFFERS
from confide.engine.remote.probe import Found, probe
from confide.engine.remote.request import prepare
from confide.engine.remote.rules import choices_of
from confide.engine.remote.service import Mender, Service
from confide.engine.remote.shapes import LONGEST_BODY
from confide.engine.remote.texts import TEXTS
from confide.engine.remote.vectors import VECTORS
from confide.engine.salts import cache_salt
from confide.errors import ApiError, ConfigError, EngineFailed, TooManyRequests
from confide.wire.answers import Usage
from confide.wire.messages import MessagesRequest
from confide.wire.responses import ResponsesRequest
from confide.wire.texts import CompletionRequest
from confide.wire.vectors import EmbeddingRequest

log = logging.getLogger("confide.engine")

__all__ = ["RemoteEngine", "RemoteModel", "RemoteReply", "Timeouts"]

_CHAT: Final = Service("/chat/completions", prepare, StreamMender, mend_whole)
SERVICES: Final[dict[type, Service]] = {
    CompletionRequest: TEXTS,
    EmbeddingRequest: VECTORS,
    ResponsesRequest: responses.SERVICE,
    MessagesRequest: anthropic.SERVICE,
}
"""By the type of the request."""
_RETRY_SECONDS: Final = "1"
_MOST_SALTS: Final = 10_000
"""Tenants whose salts are kept, since to make one costs as much as to write a request."""


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """An engine to attach to.

    Attributes:
        address: where it listens.
        dialect: a name of :data:`~confide.engine.remote.dialect.DIALECTS`, or ``auto``.
        model: what the engine calls its model; None where it has only one.
        timeouts: in seconds.
        api_key: the engine's, as a bearer token.
        salt_secret: at least 16 bytes; makes the salts that keep tenants' prefix caches apart. None shares the caches.
        max_outstanding: requests at once; more are refused with 429. 0 for no limit.
        context_length: tokens; None asks the engine.
        vision: whether the model takes images; None asks the engine, and where that doesn't say, it doesn't.
        created: Unix seconds, for ``/v1/models``.
    """

    address: Address = field(repr=False)
    dialect: str = AUTO
    model: str | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    api_key: str | None = field(default=None, repr=False)
    salt_secret: bytes | None = field(default=None, repr=False)
    max_outstanding: int = 0
    context_length: int | None = None
    vision: bool | None = None
    created: int = 0


class RemoteEngine:
    """:class:`~confide.engine.base.Engine` over HTTP. Made by :meth:`open`."""

    def __init__(self, model: RemoteModel, found: Found, channel: Channel, info: EngineInfo) -> None:
        self._settings = model
        self._dialect = found.dialect
        self._model = found.model
        self._channel = channel
        self._info = info
        self._under_way: set[RemoteReply] = set()
        self._salts: dict[str, str] = {}
        self._waiting = 0

    @classmethod
    async def open(cls, model: RemoteModel) -> Self:
        """Attach to an engine that runs.

        Raises:
            OperatorError: it can't be reached, or isn't one.
            ConfigError: it doesn't have the model, refuses our key, or doesn't say what must be known.
        """
        channel = Channel(model.address, model.timeouts, model.api_key)
        async with AsyncExitStack() as unless_it_succeeds:
            unless_it_succeeds.push_async_callback(channel.aclose)
            found = await probe(channel, dialect=model.dialect, model=model.model)
            info = _info(model, found)
            unless_it_succeeds.pop_all()
        if model.salt_secret is not None and not found.dialect.separates_caches:
            log.warning("this engine can't keep the prompt caches of tenants apart")
        return cls(model, found, channel, info)

    @property
    def info(self) -> EngineInfo:
        """What this engine has."""
        return self._info

    @property
    def dialect(self) -> Dialect:
        """How it speaks."""
        return self._dialect

    @property
    def outstanding(self) -> int:
        """Requests that it works on."""
        return self._waiting + len(self._under_way)

    async def chat(self, call: ChatCall) -> RemoteReply:
        """Send the request, and wait for the first event of the answer, or for all of one that isn't streamed.

        Raises:
            InvalidRequest: the engine can't honour it, or refuses it.
            TooManyRequests, Unavailable: it has no room now.
            EngineFailed: it can't be reached, broke, or took too long; no byte of an answer was seen by the client.
        """
        self._check_room()
        gathered = not call.request.stream and self._dialect.gathers(choices_of(call))
        body = prepare(call, self._dialect, model=self._model, salt=self._salt(call), stream=True if gathered else None)
        return await self._send(call, _CHAT, body, gathered=gathered)

    async def infer(self, call: Call[Any]) -> RemoteReply:
        """The same for a request of another endpoint.

        Raises:
            ApiError: as :meth:`chat`.
        """
        self._check_room()
        service = SERVICES[type(call.request)]
        body = service.prepare(call, self._dialect, model=self._model, salt=self._salt(call))
        return await self._send(call, service, body, gathered=False)

    def _check_room(self) -> None:
        limit = self._settings.max_outstanding
        if limit and self.outstanding >= limit:
            raise TooManyRequests(
                "The engine has as many requests as it may; try again later.",
                code="rate_limit_exceeded",
                headers={"Retry-After": _RETRY_SECONDS},
            )

    async def _send(self, call: Call[Any], service: Service, body: bytes, *, gathered: bool) -> RemoteReply:
        self._waiting += 1
        try:
            reply = RemoteReply(self, call, service, body)
            await reply.start(self._channel, self._settings.timeouts, gathered=gathered)
        finally:
            self._waiting -= 1
        self._under_way.add(reply)
        return reply

    def _salt(self, call: Call[Any]) -> str | None:
        secret = self._settings.salt_secret
        if secret is None:
            return None
        if call.tenant not in self._salts:
            if len(self._salts) >= _MOST_SALTS:
                self._salts.clear()
            self._salts[call.tenant] = cache_salt(secret, call.tenant)
        return self._salts[call.tenant]

    async def healthy(self) -> bool:
        """Whether the engine answers its cheapest route, within the seconds of ``connect``."""
        path, beside = self._dialect.health, True
        if path.startswith("/v1/"):
            path, beside = path.removeprefix("/v1"), False
        try:
            status, _ = await self._channel.get(path, beside=beside)
        except (ApiError, TimeoutError):
            return False
        return status == 200

    def forget(self, reply: RemoteReply) -> None:
        """The reply is over."""
        self._under_way.discard(reply)

    async def close(self) -> None:
        """Close all connections: what is under way ends with an error. Safe to call twice."""
        await self._channel.aclose()


def _info(model: RemoteModel, found: Found) -> EngineInfo:
    context = model.context_length or found.context_length
    if context is None:
        raise ConfigError("an engine does not say how many tokens it takes; the settings must give its context length")
    sees = model.vision if model.vision is not None else bool(found.sees)
    return EngineInfo(
        engine=found.dialect.engine,
        version=found.version,
        context_length=context,
        max_output_length=context,
        parameters=found.dialect.parameters - (TOOLS if found.tools is False else frozenset()),
        input_modalities=("text", "image") if sees else ("text",),
        max_choices=found.max_choices or found.dialect.max_choices,
        created=model.created,
        chats=found.chats,
        also={
            path: one.members
            for path, one in OFFERS[found.dialect.name].items()
            if path in found.paths and (one.separates or model.salt_secret is None)
        },
    )


class RemoteReply:
    """An answer on its way: :class:`~confide.engine.base.Reply`.

    ``forwarded`` is the digest of the request's bytes as the engine got them, ``sha256:`` and 64 hexadecimal digits.
    """

    def __init__(self, engine: RemoteEngine, call: Call[Any], service: Service, body: bytes) -> None:
        self.forwarded = f"sha256:{call.digest.of(body) if call.digest else hashlib.sha256(body).hexdigest()}"
        self._engine = engine
        self._call = call
        self._body = body
        self._service = service
        self._mending: Mender | None = None
        self._whole: tuple[bytes, Usage] | None = None
        self._ready: list[bytes] = []
        self._straight: Straight | None = None
        self._incoming: Incoming | None = None
        self._loop = asyncio.get_running_loop()
        self._patience = Timeouts()
        self._deadline = 0.0
        self._given_up = False

    @property
    def _mender(self) -> Mender:
        """Made for answers that are streamed only."""
        if self._mending is None:
            self._mending = self._service.stream(self._call, self._engine.dialect)
        return self._mending

    @property
    def usage(self) -> Usage:
        """Tokens until now."""
        return self._mender.usage if self._whole is None else self._whole[1]

    @property
    def last(self) -> bytes:
        """The event that ends the stream, which isn't among those that are given."""
        return self._mender.last

    async def start(self, channel: Channel, patience: Timeouts, *, gathered: bool) -> None:
        """Send, and wait for the first event or for the whole answer; for :class:`RemoteEngine` alone."""
        begun = self._loop.time()
        self._patience, self._deadline = patience, begun + patience.total
        streamed = bool(self._call.request.stream) or gathered
        until = min(begun + patience.first, self._deadline) if streamed else self._deadline
        begins = False
        try:
            await self._begin(channel, until, streamed=streamed)
            if gathered:
                await self._gather()
            begins = True
        except TimeoutError:
            raise EngineFailed("The engine did not answer in time.") from None
        finally:
            if not begins:
                await self._let_go()

    async def _begin(self, channel: Channel, until: float, *, streamed: bool) -> None:
        incoming = self._incoming = await channel.post(self._service.path, self._body, until)
        self._body = b""
        if incoming.status != 200:
            soon = self._loop.time() + self._patience.connect
            body = await incoming.read_start(min(until, soon), LONGEST_ERROR)
            after = incoming.headers.get("retry-after")
            raise self._service.named(from_engine(incoming.status, body, self._engine.dialect, retry_after=after))
        if streamed:
            self._ready = await self._next(until)
            return
        body = await incoming.read_all(until, LONGEST_BODY)
        self._whole = self._service.whole(self._call, self._engine.dialect, body)
        await self._let_go()

    async def _gather(self) -> None:
        gatherer = Gatherer(choices_of(self._call))
        async for event in self._events():
            gatherer.add(event)
        usage = self._mender.usage
        self._whole = (gatherer.body(usage), usage)
        await self._let_go()

    # Reading ---------------------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[bytes]:
        """SSE events, or one body.

        Raises:
            EngineFailed: the engine broke, stalled, or took too long.
        """
        return self._events() if self._whole is None else self._body_alone(self._whole[0])

    async def _body_alone(self, body: bytes) -> AsyncIterator[bytes]:
        yield body

    def straight(self, write: Callable[[bytes], bool]) -> None:
        """Have events written where they come, without a turn of the event loop for each: those that need no look."""
        self._straight = Straight(partial(self._mender.passes, write), self._patience.between, self._deadline)

    def _next_until(self) -> float:
        return min(self._loop.time() + self._patience.between, self._deadline)

    async def _events(self) -> AsyncIterator[bytes]:
        ready, self._ready = self._ready, []
        while ready:
            for event in ready:
                yield event
                if self._given_up:
                    raise EngineFailed("The answer was given up.")
            try:
                ready = await self._next(self._next_until())
            except TimeoutError:
                raise EngineFailed("The engine stopped in the middle of its answer.") from None

    async def _next(self, until: float) -> list[bytes]:
        """The next events, at least one; none at the end of a complete answer."""
        incoming = self._incoming
        if incoming is None:
            raise EngineFailed("The answer was given up.")
        while not self._mender.done:
            data = await incoming.read(until, self._straight)
            if data is None:
                break
            events = self._mender.feed(data)
            if events:
                return events
        self._mender.end()
        if self._mender.done:
            await incoming.drain()
        return []

    async def aclose(self) -> None:
        """Close the engine's connection unless the answer is complete: it stops generating. Safe to call twice."""
        self._given_up = True
        self._engine.forget(self)
        await self._let_go()

    async def _let_go(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            await incoming.aclose()
