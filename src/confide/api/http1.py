"""The HTTP/1.1 connection: httptools decides what a request's head means, this moves the bytes, within limits.

uvicorn's server runs it, and any ASGI application runs on it. uvicorn's own protocol costs half as much again as all
of our work on a small request; this one hands a body over in one piece, writes a head and what follows it together,
and says at once when the client leaves. Source: RFC 9112. A head that could be read in two ways is refused, and the
connection closed, since nothing after it can be trusted to begin where it seems to.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final, cast

import httptools
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from confide.api.exchange import Exchange, status_line
from confide.api.head import MAX_HEADER_BYTES, BadHead, read_head
from confide.errors import ApiError, InvalidRequest
from confide.wire.answers import error_body
from confide.wire.http1 import BadHttp

HEAD_SECONDS: Final = 30.0
"""From the first byte of a head to its last."""
STALL_SECONDS: Final = 60.0
"""Between two pieces of a body."""
BODY_SECONDS: Final = 900.0
"""For a whole body."""
IDLE_SECONDS: Final = 75.0
"""Between two requests."""
WRITE_SECONDS: Final = 300.0
"""For a client that reads nothing of what was written."""
_MOST_AHEAD: Final = 64 * 1024
"""Bytes of requests that were sent before the one under way is answered."""
_END: Final = b"\r\n\r\n"
_BEGIN: Final = re.compile(rb"[A-Za-z]{1,24}(?: |\Z)|\Z")
"""How a request begins. What doesn't, TLS for instance, is told so at once, and not when its head should have ended."""


class HttpProtocol(asyncio.Protocol):
    """One connection of a client; requests on it are answered one after the other. Made by uvicorn's server."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.app: ASGIApp = config.loaded_app
        self.server = server_state
        self.loop = _loop or asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.peer: tuple[str, int] | None = None
        self.name: tuple[str, int] | None = None
        self.scheme = "http"
        self.paused = False
        self.ending = False
        self._refusing = getattr(config.app, "every", None)
        self._buffer = b""
        self._exchange: Exchange | None = None
        self._deadline = 0.0
        self._body_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # The transport's side --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self.transport = cast("asyncio.Transport", transport)
        self.peer = _address(transport.get_extra_info("peername"))
        self.name = _address(transport.get_extra_info("sockname"))
        self.scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self.server.connections.add(cast("Any", self))
        self._set_deadline(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self.transport = None
        self.server.connections.discard(cast("Any", self))
        if self._timer is not None:
            self._timer.cancel()
        if self._exchange is not None:
            self._exchange.leave()

    def data_received(self, data: bytes) -> None:
        """Bytes of a head, of a body, or of requests that are sent before their turn."""
        exchange = self._exchange
        if exchange is None:
            if not self._buffer:
                self._set_deadline(HEAD_SECONDS)
            self._buffer = self._buffer + data if self._buffer else data
            self._next()
        elif exchange.awaits_body:
            self._body(exchange, data)
        else:
            self._buffer += data
            if len(self._buffer) > _MOST_AHEAD:
                self.pause_reading()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self.paused = True
        self._set_deadline(WRITE_SECONDS)
        if self._exchange is not None:
            self._exchange.set_writable()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.paused = False
        self._deadline = float("inf")
        if self._exchange is not None:
            self._exchange.set_writable()
            self._exchange.wake()

    def pause_reading(self) -> None:
        """Let the client wait with what it sends."""
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more."""
        if self.transport is not None:
            self.transport.resume_reading()

    # Requests --------------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Begin with the request in the buffer, once its head is whole."""
        buffer = self._buffer.lstrip(b"\r\n") if self._buffer[:1] in (b"\r", b"\n") else self._buffer
        end = buffer.find(_END, 0, MAX_HEADER_BYTES + len(_END))
        if end < 0:
            self._buffer = buffer
            if len(buffer) > MAX_HEADER_BYTES or not _BEGIN.match(buffer):
                self.refuse()
            return
        end += len(_END)
        self._buffer = b""
        try:
            head = read_head(buffer[:end])
        except (BadHead, httptools.HttpParserError):
            self.refuse()
            return
        exchange = self._exchange = Exchange(self, head)
        self._deadline = float("inf")
        if exchange.awaits_body:
            self._body_until = self.loop.time() + BODY_SECONDS
            self._set_deadline(STALL_SECONDS)
        if len(buffer) > end:
            self.data_received(buffer[end:])
        if self.transport is not None and not exchange.gone:
            exchange.begin()

    def _body(self, exchange: Exchange, data: bytes) -> None:
        try:
            self._buffer += exchange.take(data)
        except BadHttp:
            exchange.leave()
            self.refuse()
            return
        if exchange.awaits_body:
            self._set_deadline(min(STALL_SECONDS, self._body_until - self.loop.time()))
        else:
            self._deadline = float("inf")
        self.finished(exchange)

    def finished(self, exchange: Exchange) -> None:
        """Go on with the next request, once this one was read and answered."""
        if exchange is not self._exchange or not exchange.complete or self.transport is None:
            return
        if not exchange.keep_alive or self.ending or exchange.gone:
            self.transport.close()
            return
        if exchange.awaits_body:  # to close with unread bytes would reset the connection, and the answer with it
            self.resume_reading()
            return
        self._exchange = None
        self.resume_reading()
        self._set_deadline(IDLE_SECONDS)
        if self._buffer:
            self._next()

    # The end ---------------------------------------------------------------------------------------------------------

    def refuse(self) -> None:
        """Refuse what is no request, in OpenAI's shape, and close."""
        if self.transport is None:
            return
        error: ApiError = InvalidRequest(
            "The HTTP request is malformed: expected one valid HTTP/1.1 request with at most one Content-Length, no "
            f"Transfer-Encoding beside it, and at most {MAX_HEADER_BYTES} bytes of headers."
        )
        if self._exchange is None or not self._exchange.started:
            self.transport.write(self._refusal(error))
        self.transport.close()

    def _refusal(self, error: ApiError) -> bytes:
        body = error_body(error)
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        every = self._refusing() if self._refusing is not None else ()
        return b"%b%b%b\r\n%b" % (
            status_line(error.status),
            head,
            b"".join([b"%b: %b\r\n" % field for field in every]),
            body,
        )

    def shutdown(self) -> None:
        """Close once the request under way is answered; uvicorn calls it when the server ends."""
        self.ending = True
        if self.transport is not None and self._exchange is None:
            self.transport.close()

    def _set_deadline(self, seconds: float) -> None:
        """Give the connection up after so long. One timer serves all deadlines: most are moved before they come."""
        self._deadline = self.loop.time() + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            self._look_at(self._deadline)

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        if self.transport is None or self._deadline == float("inf"):
            return
        if self.loop.time() < self._deadline:
            self._look_at(self._deadline)
        elif self._exchange is None:
            self.transport.close()
        else:
            self.transport.abort()


def _address(value: Any) -> tuple[str, int] | None:
    return (str(value[0]), int(value[1])) if isinstance(value, tuple) else None
