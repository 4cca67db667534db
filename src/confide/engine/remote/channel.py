"""HTTP to one engine: pooled connections, bounded reads, time limits, and httpx's errors as ours.

Nothing of the environment is used (no proxies, no ``.netrc``), no redirect is followed and no cookie kept, since this
talks to the transport below httpx's client, which has none of these. Only uncompressed answers are taken: what passes
through must be the bytes that the engine wrote, and nothing may grow while it is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx

from confide.engine.remote.address import Address
from confide.engine.remote.failures import LONGEST_BODY as LONGEST_ERROR
from confide.errors import EngineFailed

MOST_STREAM: Final = 1024 * 1024 * 1024
"""The most bytes of one stream."""

_LONGEST_PAGE: Final = 4 * 1024 * 1024
_DRAIN_SECONDS: Final = 0.25
_DRAIN_BYTES: Final = 64 * 1024
_IDLE_SECONDS: Final = 60.0
_MOST_IDLE: Final = 256

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

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self._response = response
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        self._pieces: AsyncIterator[bytes] = aiter(stream)
        self._left = MOST_STREAM
        self._ended = False

    async def read(self, until: float) -> bytes | None:
        """The next piece; None at the end.

        Args:
            until: when to give up, by the loop's clock.

        Raises:
            TimeoutError: it didn't come in time.
            EngineFailed: the connection broke, or the body is too long.
        """
        if self._ended:
            return None
        self._ended = True  # unless a piece comes
        try:
            async with asyncio.timeout_at(until):
                piece = await anext(self._pieces, None)
        except httpx.TransportError:
            raise EngineFailed(CUT) from None
        if piece is None:
            return None
        self._ended = False
        self._left -= len(piece)
        if self._left < 0:
            raise EngineFailed("The engine gave an answer that is too long.")
        return piece

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
        """Give the connection back, or close it at once where the answer isn't at its end."""
        with suppress(httpx.TransportError):
            await self._response.aclose()


class Channel:
    """The way to one engine."""

    def __init__(self, address: Address, timeouts: Timeouts, api_key: str | None) -> None:
        self._address = address
        self._timeouts = timeouts
        self._headers = {
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": "confide",
            **({} if api_key is None else {"Authorization": f"Bearer {api_key}"}),
        }
        self._pool = _transport(address, keep=_MOST_IDLE)
        self._fresh = _transport(address, keep=0)

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
        base = self._address.root_url if beside else self._address.base_url
        incoming = await self._send(method, base + path, body, until)
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
        return await self._send("POST", self._address.base_url + path, body, until)

    async def _send(self, method: str, url: str, body: bytes, until: float) -> Incoming:
        first = _Attempt(self._request(method, url, body))
        async with asyncio.timeout_at(until):
            try:
                response = await first.send(self._pool)
            except httpx.TransportError:
                if not first.stale:
                    raise EngineFailed(NO_HTTP if first.connected else UNREACHABLE) from None
                response = await self._send_again(self._request(method, url, body))
        if response.headers.get("content-encoding", "identity") != "identity":
            await Incoming(response).aclose()
            raise EngineFailed("The engine compressed its answer, which it was not asked to.")
        return Incoming(response)

    async def _send_again(self, request: httpx.Request) -> httpx.Response:
        again = _Attempt(request)
        try:
            return await again.send(self._fresh)
        except httpx.TransportError:
            raise EngineFailed(NO_HTTP if again.connected else UNREACHABLE) from None

    def _request(self, method: str, url: str, body: bytes) -> httpx.Request:
        headers = {**self._headers, "Content-Type": "application/json"} if body else self._headers
        timeout = {"connect": self._timeouts.connect, "read": None, "write": None, "pool": None}
        return httpx.Request(method, url, headers=headers, content=body or None, extensions={"timeout": timeout})

    async def aclose(self) -> None:
        """Close all connections; answers under way break."""
        await self._pool.aclose()
        await self._fresh.aclose()


class _Attempt:
    """One try, and what became of its connection."""

    def __init__(self, request: httpx.Request) -> None:
        self._request = request
        request.extensions = {**request.extensions, "trace": self._trace}
        self._new = False
        self.connected = False

    @property
    def stale(self) -> bool:
        """Whether it failed on a connection that had served before."""
        return self.connected and not self._new

    async def send(self, transport: httpx.AsyncHTTPTransport) -> httpx.Response:
        return await transport.handle_async_request(self._request)

    async def _trace(self, name: str, info: dict[str, Any]) -> None:
        if name in {"connection.connect_tcp.started", "connection.connect_unix_socket.started"}:
            self._new = True
        elif name == "http11.send_request_headers.started":
            self.connected = True


def _transport(address: Address, *, keep: int) -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport(
        uds=address.uds,
        trust_env=False,
        http2=False,
        retries=0,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=keep, keepalive_expiry=_IDLE_SECONDS),
    )


__all__ = ["LONGEST_ERROR", "Channel", "Incoming", "Timeouts"]
