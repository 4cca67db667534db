"""``POST /v1/chat/completions`` and its siblings: one list of steps, top to bottom.

Who asks, the body's bytes, opening what was sealed, reading it; then, each ending in a receipt: whether it makes sense,
the model, what that lacks, its images, the engine's start, and the answer with its record. What differs between the
endpoints is in their values (:mod:`confide.api.endpoint`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from confide.api.answer import Answer
from confide.api.auth import Doorman
from confide.api.body import ClientLeft, headers_of, read_body
from confide.api.endpoint import Asked, Endpoint
from confide.api.exchange import LEAVING, STRAIGHT
from confide.api.proof import Prover, Record
from confide.api.respond import internal_error, send_error, store_down
from confide.api.seen import Meter, Seen
from confide.api.vision import ImageRules, load_images
from confide.engine.base import Call, Reply, go_straight, last_event
from confide.errors import ApiError, StoreError
from confide.logs import place_of
from confide.route.models import ModelTable, ServedModel
from confide.seal.errors import HeaderMissing
from confide.store.ids import ordered_id
from confide.wire.digest import BodyDigest

log = logging.getLogger("confide.chat")


@dataclass(frozen=True, slots=True)
class ChatLimits:
    """``max_body_bytes`` per request; ``keep_alive`` in seconds of silence before a comment is sent, 0 for never."""

    max_body_bytes: int = 32 * 1024 * 1024
    keep_alive: float = 15.0


class InferenceRoute:
    """The ASGI application of one endpoint."""

    def __init__(
        self,
        endpoint: Endpoint[Any],
        doorman: Doorman,
        models: ModelTable,
        prover: Prover,
        limits: ChatLimits,
        images: ImageRules,
        meter: Meter,
    ) -> None:
        self.path = endpoint.path
        self._endpoint = endpoint
        self._doorman = doorman
        self._models = models
        self._prover = prover
        self._limits = limits
        self._images = images
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        seen = Seen(self.path)
        self._meter.began(seen)
        try:
            await self._walk(scope, receive, send, seen)
        finally:
            self._meter.finished(seen)

    async def _walk(self, scope: Scope, receive: Receive, send: Send, seen: Seen) -> None:
        endpoint = self._endpoint
        try:
            headers = headers_of(scope)
            caller = self._doorman.caller(headers, endpoint.key_header)
            body = await read_body(headers, receive, self._limits.max_body_bytes)
            opened = await self._prover.open(headers.items(), endpoint.path, body)
            if opened is None and caller.require_e2ee:
                raise HeaderMissing("This API key accepts only end-to-end encrypted requests: send the X-E2EE headers.")
            request = endpoint.parse(body if opened is None else opened.body)
        except ClientLeft:
            seen.outcome = "left"
            return
        except ApiError as error:
            seen.told(error)
            await send_error(send, error, endpoint.errors)
            return
        except StoreError:
            seen.told(store_down())
            self._meter.store_failed()
            await send_error(send, store_down(), endpoint.errors)
            return
        seen.sealed = opened is not None
        plain, received, sealer = (
            (body, body, None) if opened is None else (opened.body, opened.hashed, opened.sealer())
        )
        # A name that isn't one of ours is the client's text, and has no place in the store.
        name = request.model if request.model in self._models else None
        digest = BodyDigest(received)
        record = self._prover.begin(digest, owner=caller.owner, endpoint=endpoint.path, model=name)
        answer = Answer(
            send,
            record,
            sealer,
            seen,
            keep_alive=self._limits.keep_alive,
            errors=endpoint.errors,
            straight=scope.get("extensions", {}).get(STRAIGHT),
        )
        await self._recorded(scope, answer, Walked(caller.tenant, plain, digest, request, record, seen))

    async def _recorded(self, scope: Scope, answer: Answer, asked: Walked) -> None:
        """From here on, whatever happens ends in a receipt."""
        try:
            self._endpoint.check(asked.request)
            model = self._models.offering(self._endpoint.path, asked.request.model)
            asked.seen.model = model.id
            self._endpoint.refuse(asked.request, model)
            await unless_the_client_leaves(scope, self._answer(scope, answer, asked, model))
        except ClientLeft:
            await answer.broken_off("client_closed")
        except ApiError as error:
            await answer.refuse(error)
        except StoreError:
            await answer.refuse(store_down())
        except Exception as error:  # the boundary to engines: no foreign exception gets past it
            if answer.started:
                raise
            await answer.refuse(_bug(error))
        except asyncio.CancelledError:
            await asyncio.shield(answer.broken_off("shutdown"))
            raise

    async def _answer(self, scope: Scope, answer: Answer, asked: Walked, model: ServedModel) -> None:
        await load_images(self._endpoint.pictures(asked.request), self._images)
        now = time.time()
        call = Call(
            id=f"{self._endpoint.prefix}{ordered_id(now, 32)}",
            created=int(now),
            model=asked.request.model,
            tenant=asked.tenant,
            request=asked.request,
            body=asked.body,
            digest=asked.digest,
        )
        # Waits until the engine has accepted, so that a refusal is a status and not a broken stream.
        async with aclosing(await self._endpoint.start(model.engine, call)) as reply:
            answer.chat_id = call.id
            note_forwarding(reply, asked.record)
            try:
                if asked.request.stream and scope["http_version"] != "1.0":
                    await _stream(reply, answer)
                else:
                    await _send_whole(reply, answer, streamed=bool(asked.request.stream))
            finally:
                asked.seen.usage = reply.usage


@dataclass(frozen=True, slots=True)
class Walked:
    """A request that was read. ``body`` is its plaintext, ``digest`` of what its receipt hashes."""

    tenant: str
    body: bytes = field(repr=False)
    digest: BodyDigest = field(repr=False)
    request: Asked = field(repr=False)
    record: Record = field(repr=False)
    seen: Seen = field(repr=False)


# Steps ---------------------------------------------------------------------------------------------------------------


def note_forwarding(reply: Reply, record: Record) -> None:
    """Have the receipt say which bytes an engine in another process was sent: those that inference used.

    Such a reply has a member ``forwarded``, the digest of them, which the code that sends them makes.
    """
    digest: str | None = getattr(reply, "forwarded", None)
    if digest is not None:
        record.forwarded(digest)


async def _stream(reply: Reply, answer: Answer) -> None:
    """Frames as they come; whatever goes wrong in their middle becomes an error event, and then the end."""
    failure: ApiError | None = None
    async with answer.stream():
        go_straight(reply, answer.at_once)
        try:
            async for frame in reply:
                await answer.frame(frame)
        except ApiError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - as above, and the status has been sent already
            failure = _bug(error)
    await (answer.finish(last_event(reply)) if failure is None else answer.fail(failure))


def _bug(error: Exception) -> ApiError:
    """Log where it happened, but not its text: that may quote the conversation."""
    log.error("unexpected exception", extra={"error": type(error).__name__, "place": place_of(error.__traceback__)})
    return internal_error()


async def _send_whole(reply: Reply, answer: Answer, *, streamed: bool) -> None:
    """One body: an answer that isn't streamed, or a stream for HTTP/1.0, which knows no chunks."""
    body = b"".join([piece async for piece in reply])
    if not body:
        raise internal_error()
    if streamed:
        await answer.whole_stream(body + last_event(reply))
    else:
        await answer.whole(body)


# The connection ------------------------------------------------------------------------------------------------------


async def unless_the_client_leaves(scope: Scope, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, and give it up as soon as the client closes the connection: a slot must not work for nobody.

    The connection itself says so (:data:`~confide.api.exchange.LEAVING`), and no second task waits for it. On another
    ASGI server than ours, which doesn't, the work goes on.

    Raises:
        ClientLeft: it did.
    """
    task, left = asyncio.current_task(), False
    assert task is not None

    def leave() -> None:
        nonlocal left
        left = True
        task.cancel()

    watch = scope.get("extensions", {}).get(LEAVING, lambda _: None)
    watch(leave)
    try:
        await work
    except asyncio.CancelledError:
        if left and task.uncancel() == 0:
            raise ClientLeft from None
        raise
    finally:
        watch(None)
