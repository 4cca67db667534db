"""HTTP to one engine: pooled connections, bounded reads and time limits, on nothing but a socket.

Nothing of the environment is used (no proxies, no ``.netrc``), no redirect is followed and no cookie kept. Only
uncompressed answers are taken: what passes through must be the bytes that the engine wrote, and nothing may grow while
it is read. A general HTTP client costs more for each request and piece than all of our own work on them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from confide.engine.remote.address import Address
from confide.engine.remote.connection import MOST_STREAM, Connection, Pool, Straight
from confide.engine.remote.failures import LONGEST_BODY as LONGEST_ERROR
from confide.errors import EngineFailed

_LONGEST_PAGE: Final = 4 * 1024 * 1024
_DRAIN_SECONDS: Final = 0.25
_DRAIN_BYTES: Final = 64 * 1024

UNREACHABLE: Final = "The engine could not be reached."
CUT: Final = "The engine closed the connection before the answer was complete."
NO_HTTP: Final = "The engine closed the connection, or answered with something that is not HTTP."


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds of patience.

    Attributes:
        connect: until a connection stands, and for a health probe in all.
        first: from the request until the first event of a stream. An answer that isn't streamed comes when it is
            complete, so that only ``total`` holds for it.
        between: from one event to the next. Comments, by which an engine keeps a connection open, are no events.
        total: from the request until the end of the answer.
    """

    connect: float = 5.0
    first: float = 300.0
    between: float = 60.0
    total: float = 1800.0


class Incoming:
    """An answer that has begun: its status, and its body in pieces."""

    def __init__(self, connection: Connection, pool: Pool) -> None:
        head = connection.reader.head
        assert head is not None
        self.status = head.status
        self.headers: Mapping[str, str] = head.headers
        self._connection = connection
        self._pool = pool
        self._left = MOST_STREAM
        self._ended = self._closed = False

    async def read(self, until: float, straight: Straight | None = None) -> bytes | None:
        """The next piece; None at the end.

        Args:
            until: when to give up, by the loop's clock.
            straight: may take pieces before; this gives the first one that it doesn't.

        Raises:
            TimeoutError: it didn't come in time.
            EngineFailed: the connection broke, or the body is too long.
        """
        if self._ended:
            return None
        self._ended = True  # unless a piece comes
        connection = self._connection
        while not (data := connection.take()):
            if connection.reader.done:
                return None
            if connection.lost:
                raise EngineFailed(CUT)
            await connection.more(until, straight)
        self._ended = False
        self._left -= len(data)
        if self._left < connection.passed:
            raise EngineFailed("The engine gave an answer that is too long.")
        return data

    async def read_all(self, until: float, most: int) -> bytes:
        """The whole body.

        Raises:
            TimeoutError: it wasn't complete in time.
            EngineFailed: the connection broke, or the body is longer than ``most`` bytes.
        """
        pieces: list[bytes] = []
        size = 0
        while (piece := await self.read(until)) is not None:
            size += len(piece)
            if size > most:
                raise EngineFailed("The engine gave an answer that is too long.")
            pieces.append(piece)
        return b"".join(pieces)

    async def read_start(self, until: float, most: int) -> bytes:
        """The body as far as it comes, up to ``most`` bytes; of an error there is seldom more to learn."""
        pieces: list[bytes] = []
        with suppress(TimeoutError, EngineFailed):
            while most > 0 and (piece := await self.read(until)) is not None:
                pieces.append(piece[:most])
                most -= len(piece)
        return b"".join(pieces)

    async def drain(self) -> None:
        """Read what little may follow a complete answer, so that the connection can serve the next request."""
        until = asyncio.get_running_loop().time() + _DRAIN_SECONDS
        await self.read_start(until, _DRAIN_BYTES)

    async def aclose(self) -> None:
        """Give the connection back, or close it at once where the answer isn't at its end. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._pool.give_back(self._connection)


class Channel:
    """The way to one engine."""

    def __init__(self, address: Address, timeouts: Timeouts, api_key: str | None) -> None:
        self._timeouts = timeouts
        parts = urlsplit(address.base_url)
        self._paths = {False: parts.path, True: urlsplit(address.root_url).path}
        self._headers = f"Host: {parts.netloc}\r\nAccept: */*\r\nAccept-Encoding: identity\r\nUser-Agent: confide\r\n"
        if api_key is not None:
            self._headers += f"Authorization: Bearer {api_key}\r\n"
        self._pool = Pool(address)

    async def get(self, path: str, *, beside: bool = False) -> tuple[int, bytes]:
        """Status and body of one of the engine's pages.

        Args:
            path: after ``/v1``, or beside it.
            beside: which of the two.

        Raises:
            TimeoutError: it took longer than ``connect`` seconds.
            EngineFailed: it couldn't be reached, or answered with something else than a page.
        """
        return await self._page("GET", path, b"", beside=beside)

    async def ask(self, path: str, body: bytes) -> tuple[int, bytes]:
        """As :meth:`get`, with a JSON body, beside ``/v1``."""
        return await self._page("POST", path, body, beside=True)

    async def _page(self, method: str, path: str, body: bytes, *, beside: bool) -> tuple[int, bytes]:
        until = asyncio.get_running_loop().time() + self._timeouts.connect
        incoming = await self._send(method, self._paths[beside] + path, body, until)
        try:
            return incoming.status, await incoming.read_all(until, _LONGEST_PAGE)
        finally:
            await incoming.aclose()

    async def post(self, path: str, body: bytes, until: float) -> Incoming:
        """Send a request, and wait until its answer begins.

        A connection that was kept open may turn out to be closed by now. Where it breaks before any byte of an answer,
        the request is sent once more, on a new one; on a connection of its own it isn't, since there the engine has
        failed with it.

        Raises:
            TimeoutError: the answer didn't begin until then, by the loop's clock.
            EngineFailed: the engine can't be reached, broke the connection, or compresses.
        """
        return await self._send("POST", self._paths[False] + path, body, until)

    async def _send(self, method: str, path: str, body: bytes, until: float) -> Incoming:
        head = f"{method} {path} HTTP/1.1\r\n{self._headers}"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        request = head.encode("latin-1") + b"\r\n"
        connection = self._pool.kept() or await self._connect(until)
        if not await self._answered(connection, request, body, until):
            stale = connection.served and not connection.reader.begun
            if stale:
                connection = await self._connect(until)
            if not (stale and await self._answered(connection, request, body, until)):
                raise EngineFailed(NO_HTTP)
        incoming = Incoming(connection, self._pool)
        if incoming.headers.get("content-encoding", "identity") != "identity":
            await incoming.aclose()
            raise EngineFailed("The engine compressed its answer, which it was not asked to.")
        return incoming

    async def _connect(self, until: float) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(until, loop.time() + self._timeouts.connect)):
                return await self._pool.new()
        except OSError as error:
            if isinstance(error, TimeoutError) and loop.time() >= until:
                raise
            raise EngineFailed(UNREACHABLE) from None

    async def _answered(self, connection: Connection, request: bytes, body: bytes, until: float) -> bool:
        """Send, and wait for the head of the answer; False where the connection broke before."""
        connection.send(request, body)
        try:
            while connection.reader.head is None and not connection.lost:
                await connection.more(until)
        finally:
            if connection.reader.head is None:
                self._pool.give_back(connection)
        return connection.reader.head is not None

    async def aclose(self) -> None:
        """Close all connections; answers under way break."""
        self._pool.close()


__all__ = ["LONGEST_ERROR", "Channel", "Incoming", "Timeouts"]
