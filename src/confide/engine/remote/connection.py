"""One connection to an engine, and the pool of them."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

from confide.engine.remote.address import Address
from confide.wire.http1 import BadHttp, ResponseReader

_IDLE_SECONDS: Final = 60.0
_MOST_IDLE: Final = 1024
_MOST_UNREAD: Final = 256 * 1024
"""Bytes that wait for a client which reads slowly; then the engine has to wait, too."""
_LOOK_SECONDS: Final = 60.0
_ONE_WRITE: Final = 64 * 1024

MOST_STREAM: Final = 1024 * 1024 * 1024
"""The most bytes of one stream."""


@dataclass(frozen=True, slots=True)
class Straight:
    """Who takes pieces of a body where they come, without a turn of the event loop for each.

    Attributes:
        take: takes the content of whole chunks, and says whether it did.
        patience: seconds from such a piece to the next.
        deadline: when the last one must have come, by the loop's clock.
    """

    take: Callable[[bytes], bool]
    patience: float
    deadline: float


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time.

    ``served``: it has answered before; ``passed``: bytes of the answer's body that went straight.
    """

    __slots__ = (
        *("_loop", "_paused", "_pieces", "_straight", "_timer", "_transport", "_unread", "_until", "_waiter"),
        *("idle_since", "lost", "passed", "reader", "served"),
    )

    def __init__(self) -> None:
        self.reader = ResponseReader()
        self.served = False
        self.passed = 0
        self.lost = False
        self.idle_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._straight: Straight | None = None
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        straight, waiter = self._straight, self._waiter
        if straight is not None and waiter is not None and not waiter.done() and self.passed <= MOST_STREAM:
            chunks = self.reader.chunks
            body = chunks.whole(data) if chunks is not None else b""
            if body and straight.take(body):  # the wait goes on, and nobody is woken
                self.passed += len(body)
                self._until = min(self._loop.time() + straight.patience, straight.deadline)
                return
        try:
            pieces = self.reader.feed(data)
        except BadHttp:
            self.close()
        else:
            self._pieces.extend(pieces)
            self._unread += len(data)
            if self._unread > _MOST_UNREAD and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if exc is None:
            self.reader.eof()
        if self._timer is not None:
            self._timer.cancel()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def send(self, head: bytes, body: bytes) -> None:
        """Send a request."""
        self.reader = ResponseReader()
        self.passed = 0
        if self._transport is None or self.lost:
            return
        if len(body) <= _ONE_WRITE:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def take(self) -> bytes:
        """All of the body that has come and wasn't taken yet."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._unread = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def more(self, until: float, straight: Straight | None = None) -> None:
        """Return when something has happened that ``straight`` didn't take.

        One timer serves all waits, since setting one for each costs more than the wait.

        Raises:
            TimeoutError: nothing until then, by the loop's clock.
        """
        self._until = until
        if self._timer is None or self._timer.when() > until:
            self._look_later()
        self._waiter = self._loop.create_future()
        self._straight = straight
        try:
            await self._waiter
        finally:
            self._waiter = self._straight = None

    def _look_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        when = min(self._until, self._loop.time() + _LOOK_SECONDS)
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() >= self._until:
            self._waiter.set_exception(TimeoutError())
        else:
            self._look_later()

    @property
    def reusable(self) -> bool:
        """Whether it can take another request."""
        return (
            self.reader.done
            and self.reader.reusable
            and not (self.lost or self._pieces or self._paused or self._transport is None)
            and self._transport.get_write_buffer_size() == 0
        )

    def close(self) -> None:
        """Close it; what it has under way breaks."""
        self.lost = True
        if self._transport is not None:
            self._transport.abort()


def _public_authorities() -> ssl.SSLContext:
    import httpx  # it brings their certificates, and is needed for nothing else here

    return httpx.create_ssl_context(trust_env=False)


class Pool:
    """The connections to one engine."""

    def __init__(self, address: Address) -> None:
        parts = urlsplit(address.base_url)
        self._uds = address.uds
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = _public_authorities() if parts.scheme == "https" else None
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._closed = False

    def kept(self) -> Connection | None:
        """A connection that has served before, the last one used."""
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            self._let_go(connection)
        return None

    async def new(self) -> Connection:
        """A new connection.

        Raises:
            OSError: there is nobody, or somebody else.
        """
        loop = asyncio.get_running_loop()
        if self._uds is not None:
            _, connection = await loop.create_unix_connection(Connection, self._uds)
        else:
            _, connection = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
        if self._closed:
            connection.close()
            raise ConnectionAbortedError
        self._all.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next request, where it can take one."""
        now = asyncio.get_running_loop().time()
        if connection.reusable and len(self._idle) < _MOST_IDLE and not self._closed:
            connection.served = True
            connection.idle_since = now
            self._idle.append(connection)
        else:
            self._let_go(connection)
        while self._idle and (self._idle[0].lost or now - self._idle[0].idle_since > _IDLE_SECONDS):
            self._let_go(self._idle.popleft())

    def _let_go(self, connection: Connection) -> None:
        self._all.discard(connection)
        connection.close()

    def close(self) -> None:
        """Close all; answers under way break."""
        self._closed = True
        self._idle.clear()
        for connection in self._all:
            connection.close()
        self._all.clear()
