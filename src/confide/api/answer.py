"""Writes the answer to one request: seals it, hashes what is written, commits the receipt before the last byte leaves.

One object per request, and the only one that sends. Whoever has the whole answer can therefore always fetch its
receipt, and the receipt's hash is of the bytes that were sent, since both are done by the same lines.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from starlette.types import Send

from confide.api.exchange import StraightWriter
from confide.api.proof import Abort, Record
from confide.api.respond import JSON, Field, fields_of, send_bytes, store_down
from confide.api.seen import Seen
from confide.errors import ApiError, StoreError
from confide.seal.service import ResponseSealer
from confide.seal.terms import NOT_APPLIED
from confide.wire.failing import OPENAI, ErrorForm
from confide.wire.sse import KEEP_ALIVE, MEDIA_TYPE

log = logging.getLogger("confide.answer")

_STREAM: Final = fields_of(
    {"Content-Type": f"{MEDIA_TYPE}; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
)
_PLAIN: Final = fields_of(NOT_APPLIED)


class Answer:
    """The answer being written.

    Args:
        send: ASGI.
        record: what becomes the receipt.
        sealer: what seals the answer; None where the request wasn't sealed.
        seen: where to note how it went.
        keep_alive: seconds of silence in a stream before a comment is sent, 0 for never.
        errors: how the endpoint tells of an error.
        straight: writes without waiting, where the server can.
    """

    __slots__ = (
        *("_clock", "_comment", "_errors", "_keep_alive", "_last", "_record", "_sealer", "_seen", "_send"),
        *("_straight", "_timer", "_writing", "chat_id", "started"),
    )

    def __init__(
        self,
        send: Send,
        record: Record,
        sealer: ResponseSealer | None,
        seen: Seen,
        *,
        keep_alive: float,
        errors: ErrorForm = OPENAI,
        straight: StraightWriter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._record = record
        self._sealer = sealer
        self._seen = seen
        self._keep_alive = keep_alive
        self._errors = errors
        self._straight = straight
        self._clock = clock
        self._last = clock()
        self._writing = False
        self._comment: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.chat_id: str | None = None
        self.started = False

    @property
    def _fields(self) -> list[Field]:
        return self._record.fields + (_PLAIN if self._sealer is None else fields_of(self._sealer.headers))

    async def whole(self, body: bytes, *, media_type: bytes = JSON) -> None:
        """An answer in one piece.

        Raises:
            SealingFailed, StoreError: nothing was sent.
        """
        out = self._record.add(body if self._sealer is None else self._sealer.whole(body))
        await self._send_all(out, media_type)

    async def whole_stream(self, events: bytes) -> None:
        """A stream in one piece, its last event included."""
        out = events
        if self._sealer is not None:
            out = self._sealer.feed(events)
            self._sealer.end()
        await self._send_all(self._record.add(out), MEDIA_TYPE.encode())

    async def _send_all(self, out: bytes, media_type: bytes) -> None:
        await self._record.commit(chat_id=self.chat_id)
        self.started = True
        self._seen.first = self._clock()
        await send_bytes(self._send, out, media_type=media_type, fields=self._fields)
        self._seen.outcome = "answered"

    async def refuse(self, error: ApiError) -> None:
        """An error in place of an answer. It holds no content, so it isn't sealed."""
        body = self._errors.body(error)
        if not self._record.committed:
            self._record.add(body)
            try:
                await self._record.commit(chat_id=None)
            except StoreError:
                error = store_down()
                body = self._errors.body(error)
        self.started = True
        self._seen.told(error)
        fields = fields_of(error.headers) + self._record.fields + _PLAIN
        await send_bytes(self._send, body, status=error.status, fields=fields)

    # Streams ---------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[None]:
        """Begins a stream; inside, :meth:`frame` writes. Ends it with :meth:`finish`."""
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM + self._fields})
        self._later(self._keep_alive)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._comment is not None:  # what it has hashed must leave
                await asyncio.wait({self._comment})

    async def frame(self, frame: bytes) -> None:
        """Write one event.

        Raises:
            SealingFailed: it wasn't written.
        """
        data = frame if self._sealer is None else self._sealer.feed(frame)
        if not data:
            return
        if self._comment is not None:  # hashed and sent in one order, whoever writes
            await asyncio.wait({self._comment})
        self._writing = True
        await self._send({"type": "http.response.body", "body": self._record.add(data), "more_body": True})
        self._writing = False
        self._last = self._clock()
        if self._seen.first is None:
            self._seen.first = self._last

    def at_once(self, data: bytes) -> bool:
        """Write whole events without waiting, between two calls of :meth:`frame`.

        Returns:
            Whether it took them. Where it didn't, :meth:`frame` does, or says why not.
        """
        straight = self._straight
        if straight is None or self._comment is not None or not straight.writable:
            return False
        if self._sealer is not None:
            try:
                data = self._sealer.feed(data)
            except ApiError:  # from now on it seals nothing, and says so again when it is asked by `frame`
                return False
        if data:
            straight.write(self._record.add(data))
            self._last = self._clock()
        return True

    async def finish(self, last: bytes) -> None:
        """Write the last event of a stream, once its receipt is stored."""
        try:
            if self._sealer is not None:
                last = self._sealer.feed(last)
                self._sealer.end()
        except ApiError as error:
            await self.fail(error)
        else:
            await self._end(last, None)

    async def fail(self, failure: ApiError) -> None:
        """Write an error event and the end of a stream that can't be completed, once its receipt is stored."""
        self._seen.broke(failure)
        await self._end(self._errors.event(failure) + self._errors.end, "engine_failed")

    async def _end(self, last: bytes, aborted: Abort | None) -> None:
        try:
            self._record.add(last)
            await self._record.commit(chat_id=self.chat_id, aborted=aborted)
        except StoreError:
            log.error("a receipt could not be stored; its answer was ended with an error")  # noqa: TRY400
            last, aborted = self._errors.event(store_down()), "engine_failed"
            self._seen.broke(store_down())
        await self._send({"type": "http.response.body", "body": last, "more_body": False})
        if aborted is None:
            self._seen.outcome = "answered"

    async def broken_off(self, reason: Abort) -> None:
        """Nobody reads any more: what was written until now goes into the receipt."""
        self._seen.outcome = "left" if reason == "client_closed" else "stopped"
        try:
            await self._record.commit(chat_id=self.chat_id, aborted=reason)
        except StoreError:
            log.error("the receipt of an answer that was broken off could not be stored")  # noqa: TRY400

    def _later(self, seconds: float) -> None:
        if self._keep_alive:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._tick)

    def _tick(self) -> None:
        """While nothing is written for a while, write a comment, so that no proxy gives the stream up."""
        busy = self._writing or self._comment is not None  # a client that doesn't read needs no comment
        silent = 0.0 if busy else self._clock() - self._last
        if silent >= self._keep_alive:
            self._comment = asyncio.ensure_future(self._write_comment())
            silent = 0.0
        self._later(self._keep_alive - silent)

    async def _write_comment(self) -> None:
        data = self._record.add(KEEP_ALIVE)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._last = self._clock()
        self._comment = None
