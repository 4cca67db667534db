"""One request and its answer on a connection: what ASGI calls scope, receive and send."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final, Protocol, cast
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope
from uvicorn.server import ServerState

from confide.api.head import Head
from confide.logs import place_of
from confide.wire.http1 import ChunkReader

log = logging.getLogger("confide.http")

LEAVING: Final = "confide.leaving"
"""The extension of ASGI by which an application learns at once that the client has left: a function that takes what is
to be called then, or None for nothing."""

STRAIGHT: Final = "confide.straight"
"""The extension of ASGI by which an application writes pieces of a body without waiting: a :class:`StraightWriter`."""

_STATUS: Final = {one.value: b"HTTP/1.1 %d %b\r\n" % (one.value, one.phrase.encode()) for one in HTTPStatus}
_BATCH: Final = 1024 * 1024
"""Bytes of a body that are handed over together."""
_MOST_IGNORED: Final = 256 * 1024 * 1024
"""Bytes of a body that are read and thrown away after its request was refused."""
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return _STATUS.get(status) or b"HTTP/1.1 %d \r\n" % status


class StraightWriter(Protocol):
    """Writes between two messages of ASGI, in the order of the calls."""

    @property
    def writable(self) -> bool:
        """Whether a piece can be written now, without waiting: the client has the answer's beginning, keeps up, and is
        still there."""
        ...

    def write(self, data: bytes) -> None:
        """Write a piece of the body, not empty; only while :attr:`writable`."""
        ...


class Connection(Protocol):
    """What an exchange needs of the connection that it is on: :class:`confide.api.http1.HttpProtocol`."""

    app: ASGIApp
    server: ServerState
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport | None
    peer: tuple[str, int] | None
    name: tuple[str, int] | None
    scheme: str
    paused: bool
    ending: bool

    def pause_reading(self) -> None:
        """Let the client wait with what it sends."""
        ...

    def resume_reading(self) -> None:
        """Take more."""
        ...

    def finished(self, exchange: Exchange) -> None:
        """The answer is complete."""
        ...


class Exchange:
    """One request. ``complete``: its answer was written; ``gone``: nobody waits for it any more."""

    __slots__ = (
        *("_buffered", "_chunks", "_framed", "_head", "_ignored", "_left", "_missing", "_on_leaving", "_pieces"),
        *("_protocol", "_reader", "_scope", "_silent", "_start", "_task", "_told", "_way", "_writer"),
        *("awaits_body", "complete", "gone", "keep_alive", "started", "writable"),
    )

    def __init__(self, protocol: Connection, head: Head) -> None:
        self._protocol = protocol
        self._head = head
        self._chunks = ChunkReader() if head.length is None else None
        self._left = head.length or 0
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._ignored = 0
        self._told = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._on_leaving: Callable[[], object] | None = None
        self._start: Message | None = None
        self._framed = self._silent = False
        self._missing = 0
        self._way: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._scope: Scope = {}
        self.awaits_body = head.length != 0
        self.keep_alive = head.keep_alive
        self.started = self.complete = self.gone = self.writable = False

    def begin(self) -> None:
        """Run the application."""
        protocol, head = self._protocol, self._head
        path, _, query = head.target.partition(b"?")
        text = path.decode("ascii")
        self._scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": head.version,
            "server": protocol.name,
            "client": protocol.peer,
            "scheme": protocol.scheme,
            "method": head.method,
            "root_path": "",
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "headers": head.headers,
            "state": {},
            "extensions": {LEAVING: self._when_leaving, STRAIGHT: self},
        }
        protocol.server.total_requests += 1
        running = cast("Coroutine[Any, Any, None]", protocol.app(self._scope, self._receive, self._send))
        task = self._task = protocol.loop.create_task(running)
        protocol.server.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """An answer that isn't complete is cut, so that nobody takes it for a whole one."""
        protocol = self._protocol
        protocol.server.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:  # the application has a boundary of its own, which should have caught it
            log.error("a request failed", extra={"error": type(error).__name__, "place": place_of(error.__traceback__)})
        if not self.complete and protocol.transport is not None:
            protocol.transport.abort()

    # The connection's side -------------------------------------------------------------------------------------------

    def take(self, data: bytes) -> bytes:
        """Take bytes of the body; gives those that come after it.

        Raises:
            BadHttp: no body in chunks.
        """
        if self._chunks is not None:
            pieces = self._chunks.feed(data)
            rest, self.awaits_body = self._chunks.rest, not self._chunks.done
        else:
            pieces, rest = ([data], b"") if len(data) <= self._left else ([data[: self._left]], data[self._left :])
            self._left -= len(pieces[0])
            self.awaits_body = self._left > 0
        size = sum(map(len, pieces))
        if self.complete:
            self._ignored += size
            if self._ignored > _MOST_IGNORED:
                self.keep_alive = False
                self.awaits_body = False
            return rest
        self._pieces += pieces
        self._buffered += size
        if self._buffered >= _BATCH and self.awaits_body:
            self._protocol.pause_reading()
        if not self.awaits_body or self._buffered >= _BATCH:
            self.wake()
        return rest

    def leave(self) -> None:
        """The client has gone, or what it sends can't be understood."""
        self.gone = True
        self.set_writable()
        self.wake()
        if self._on_leaving is not None and not self.complete:
            self._on_leaving()

    def set_writable(self) -> None:
        """Find out anew whether a piece may be written without waiting: when something changes, and not for each."""
        protocol = self._protocol
        writing = self._framed and self.started and not self.complete
        self._way = None if protocol.paused or self.gone or not writing else protocol.transport
        self.writable = self._way is not None

    def wake(self) -> None:
        """Something has happened that the application may wait for."""
        for waiter in (self._reader, self._writer):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    # The application's side ------------------------------------------------------------------------------------------

    def _when_leaving(self, call: Callable[[], object] | None) -> None:
        self._on_leaving = call
        if call is not None and self.gone:
            call()

    def write(self, data: bytes) -> None:
        """Write a piece of the body at once, not empty; only while :attr:`writable`."""
        way = self._way
        if way is None:
            raise RuntimeError("a body out of turn")
        way.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def _receive(self) -> Message:
        """A piece of the body, as large as it can be; after the last one, that the client has left."""
        protocol = self._protocol
        if self._told:
            while not (self.gone or self.complete):
                await self._more()
            return {"type": "http.disconnect"}
        if self._head.expects and not self.started and self.awaits_body and not self._buffered:
            self._head.expects = False
            if protocol.transport is not None:
                protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while self.awaits_body and self._buffered < _BATCH and not self.gone:
            await self._more()
        if self.awaits_body and self.gone:
            return {"type": "http.disconnect"}
        pieces, self._pieces, self._buffered = self._pieces, [], 0
        self._told = not self.awaits_body
        if self.awaits_body:
            protocol.resume_reading()
        return {
            "type": "http.request",
            "body": pieces[0] if len(pieces) == 1 else b"".join(pieces),
            "more_body": self.awaits_body,
        }

    async def _more(self) -> None:
        self._reader = self._protocol.loop.create_future()
        await self._reader

    async def _send(self, message: Message) -> None:
        """A head, which waits for what follows it, or a piece of a body; returns when the client keeps up."""
        protocol = self._protocol
        if message["type"] == "http.response.start":
            if self._start is not None:
                raise RuntimeError("a second answer")
            self._start = message
            protocol.loop.call_soon(self._write_head)
            return
        if self.gone or protocol.transport is None:
            return
        if self.complete or self._start is None:
            raise RuntimeError("a body out of turn")
        body, more = message.get("body", b""), message.get("more_body", False)
        if more and body and self.started and self._framed:  # a piece of a stream: what most messages are
            protocol.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        else:
            head = b"" if self.started else self._begin_answer(self._start)
            protocol.transport.write(head + self._frame(body, more))
        if more:
            while protocol.paused and not self.gone:
                self._writer = protocol.loop.create_future()
                await self._writer
            return
        if self._missing and not self._silent:
            raise RuntimeError("an answer that is shorter than it says")
        self.complete = True
        self.set_writable()
        self.wake()
        protocol.finished(self)

    def _frame(self, body: bytes, more: bool) -> bytes:
        if self._silent:
            return b""
        if not self._framed:
            self._missing -= len(body)
            return body
        if not more:
            return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        return b"%x\r\n%b\r\n" % (len(body), body) if body else b""

    def _write_head(self) -> None:
        """Alone, where no piece of the body has followed at once."""
        transport = self._protocol.transport
        if self._start is not None and not (self.started or self.gone or transport is None):
            transport.write(self._begin_answer(self._start))

    def _begin_answer(self, start: Message) -> bytes:
        """The head of the answer, and how its body will be framed."""
        self.started = True
        status: int = start["status"]
        lines = [status_line(status)]
        length = None
        for name, value in (*self._protocol.server.default_headers, *start.get("headers", ())):
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                length = int(value)
        self._silent = self._head.method == "HEAD" or status in (204, 304)
        if length is not None:
            self._missing = length
        elif not self._silent and self._head.version == "1.1":
            self._framed = True
            lines.append(b"transfer-encoding: chunked\r\n")
        elif not self._silent:
            self.keep_alive = False
        if not self.keep_alive or self._protocol.ending:
            self.keep_alive = False
            lines.append(b"connection: close\r\n")
        self.set_writable()
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise RuntimeError("a line break in a header")
        return head + b"\r\n"
