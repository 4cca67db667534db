"""``POST /v1/chat/completions``: one list of steps, top to bottom."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from confide.api.auth import Doorman
from confide.api.body import ClientLeft, read_body
from confide.api.respond import internal_error, send_bytes, send_error
from confide.api.vision import ImageRules, load_images
from confide.engine.base import ChatCall, Engine, Reply
from confide.errors import ApiError, InvalidRequest
from confide.route.models import ModelTable, ServedModel
from confide.wire.answers import error_event
from confide.wire.conversation import check
from confide.wire.openai import ChatRequest, parse_chat, refuse_unsupported
from confide.wire.sse import DONE, KEEP_ALIVE, MEDIA_TYPE

log = logging.getLogger("confide.chat")

_STREAM_HEADERS: Final = [
    (b"content-type", f"{MEDIA_TYPE}; charset=utf-8".encode()),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class ChatLimits:
    """``max_body_bytes`` per request; ``keep_alive`` in seconds of silence before a comment is sent, 0 for never."""

    max_body_bytes: int = 32 * 1024 * 1024
    keep_alive: float = 15.0


class ChatEndpoint:
    """The ASGI application of the route."""

    def __init__(self, doorman: Doorman, models: ModelTable, limits: ChatLimits, images: ImageRules) -> None:
        self._doorman = doorman
        self._models = models
        self._limits = limits
        self._images = images

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            headers = Headers(scope=scope)
            tenant = self._doorman.tenant(headers)
            body = await read_body(headers, receive, self._limits.max_body_bytes)
            request = read_request(body)
            model = self._models.find(request.model)
            refuse_what_the_model_lacks(request, model)
            await unless_the_client_leaves(receive, self._answer(scope, send, tenant, body, request, model))
        except ClientLeft:
            return
        except ApiError as error:
            await send_error(send, error)

    async def _answer(
        self, scope: Scope, send: Send, tenant: str, body: bytes, request: ChatRequest, model: ServedModel
    ) -> None:
        await load_images(request, self._images)
        call = ChatCall(
            id=f"chatcmpl-{secrets.token_hex(16)}",
            created=int(time.time()),
            model=request.model,
            tenant=tenant,
            request=request,
            body=body,
        )
        async with aclosing(await start(model.engine, call)) as reply:
            if request.stream and scope["http_version"] != "1.0":
                await self._stream(reply, send)
            else:
                await _send_whole(reply, send, streamed=bool(request.stream))

    async def _stream(self, reply: Reply, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        writer = StreamWriter(send, self._limits.keep_alive)
        async with writer:
            async for frame in frames(reply):
                await writer.write(frame)
        await send({"type": "http.response.body", "body": DONE, "more_body": False})


# Steps ---------------------------------------------------------------------------------------------------------------


def read_request(body: bytes) -> ChatRequest:
    """Decode and check, once."""
    request = parse_chat(body)
    check(request)
    return request


def refuse_what_the_model_lacks(request: ChatRequest, model: ServedModel) -> None:
    """Refuse by name what can't be honoured, rather than ignore it.

    Raises:
        InvalidRequest: naming the member.
    """
    info = model.engine.info
    refuse_unsupported(request, info.parameters, request.model)
    if (request.n or 1) > info.max_choices:
        raise InvalidRequest(
            f"Invalid 'n': integer above maximum value. Expected a value <= {info.max_choices} for the model "
            f"'{request.model}', but got {request.n} instead.",
            param="n",
            code="integer_above_max_value",
        )
    refuse_content(request, sees=info.sees)


def refuse_content(request: ChatRequest, *, sees: bool) -> None:
    """Refuse content parts that the model can't take, naming it."""
    known = {"text", "refusal"} | ({"image_url"} if sees else set())
    for index, message in enumerate(request.messages):
        for position, part in enumerate(message.content if isinstance(message.content, list) else ()):
            kind = str(part.__struct_config__.tag)
            if kind not in known:
                raise InvalidRequest(
                    f"Invalid content type: '{kind}' is not supported by the model '{request.model}'.",
                    param=f"messages[{index}].content[{position}].type",
                    code="unsupported_value",
                )


async def start(engine: Engine, call: ChatCall) -> Reply:
    """Wait until the engine has accepted, so that a refusal is a status and not a broken stream."""
    try:
        return await engine.chat(call)
    except ApiError:
        raise
    except Exception as error:  # noqa: BLE001 - the boundary to engines: no foreign exception gets past it
        raise _bug(error) from None


async def frames(reply: Reply) -> AsyncIterator[bytes]:
    """The reply's frames; whatever goes wrong in their middle becomes one last error event."""
    try:
        async for frame in reply:
            yield frame
    except ApiError as error:
        yield error_event(error)
    except Exception as error:  # noqa: BLE001 - as above, and the status has been sent already
        yield error_event(_bug(error))


def _bug(error: Exception) -> ApiError:
    """Log where it happened, but not its text: that may quote the conversation."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
    log.error("unexpected %s at %s", type(error).__name__, where)
    return internal_error()


async def _send_whole(reply: Reply, send: Send, *, streamed: bool) -> None:
    """One body: an answer that isn't streamed, or a stream for HTTP/1.0, which knows no chunks."""
    if streamed:
        events = [frame async for frame in frames(reply)]
        await send_bytes(send, b"".join([*events, DONE]), media_type=MEDIA_TYPE.encode())
        return
    try:
        body = b"".join([piece async for piece in reply])
    except ApiError:
        raise
    except Exception as error:  # noqa: BLE001 - the boundary to engines
        raise _bug(error) from None
    if not body:
        raise internal_error()
    await send_bytes(send, body)


# The connection ------------------------------------------------------------------------------------------------------


async def unless_the_client_leaves(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, and give it up as soon as the client closes the connection: a slot must not work for nobody.

    Raises:
        ClientLeft: it did.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_until_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        task.result()
    finally:
        for either in (task, gone):
            either.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class StreamWriter:
    """Writes frames; while nothing is written for a while, writes a comment, so that no proxy gives the stream up."""

    def __init__(self, send: Send, keep_alive: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._send: Callable[[Any], Awaitable[None]] = send
        self._keep_alive = keep_alive
        self._clock = clock
        self._last = clock()
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> StreamWriter:
        """Begin to watch for silence."""
        if self._keep_alive:
            self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop watching."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)

    async def write(self, frame: bytes) -> None:
        """Write one frame."""
        self._last = self._clock()
        await self._send({"type": "http.response.body", "body": frame, "more_body": True})

    async def _tick(self) -> None:
        while True:
            silent = self._clock() - self._last
            if silent >= self._keep_alive:
                await self.write(KEEP_ALIVE)
                silent = 0
            await asyncio.sleep(self._keep_alive - silent)
