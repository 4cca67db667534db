"""``httpx`` transports that talk to one verified service, on pinned connections, and check every answer.

Blocking and asyncio differ only in how bytes are moved; everything that is decided is in
:mod:`confide.client.exchange`. Streams stay streams: a piece is read off the wire when the application asks for one.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import httpx

from confide.client.errors import Misused
from confide.client.exchange import (
    MOST_PROOF,
    MOST_REQUEST,
    NO_REPLY,
    WITHOUT_BODY,
    Ask,
    Exchange,
    Reply,
    check_request,
)
from confide.client.lines import Line, Lines
from confide.client.trust import Standing, Trust

Contexts = Callable[[Standing], ssl.SSLContext]
"""Makes the TLS context for connections under a standing."""

PROOF_TIMEOUT: Final = {"connect": 10.0, "read": 30.0, "write": 10.0, "pool": 30.0}


def _get(exchange: Exchange, ask: Ask) -> httpx.Request:
    """The GET for part of a proof: over the same connections, as whoever made the request."""
    return httpx.Request(
        "GET",
        exchange.standing.address.origin + ask.path,
        headers={"Accept": "application/json", "Accept-Encoding": "identity", **exchange.authorization},
        extensions={"timeout": PROOF_TIMEOUT},
    )


def _check_size(size: int) -> None:
    if size > MOST_REQUEST:
        raise Misused(f"the request has more than {MOST_REQUEST} bytes")


# Blocking ------------------------------------------------------------------------------------------------------------


class VerifiedTransport(httpx.BaseTransport):
    """For :class:`httpx.Client`."""

    def __init__(self, trust: Trust, contexts: Contexts, limits: httpx.Limits) -> None:
        self._trust = trust
        self._lines: Lines[httpx.HTTPTransport] = Lines(
            lambda standing: httpx.HTTPTransport(verify=contexts(standing), trust_env=False, limits=limits)
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Make one request.

        Raises:
            ClientError: it is refused, or the service is.
            httpx.TransportError: the network failed.
        """
        standing = self._trust.current()
        check_request(standing, request)
        assert isinstance(request.stream, httpx.SyncByteStream)
        if request.method in WITHOUT_BODY:
            return self._pass(standing, request)
        return self._exchange(standing, request, _read(request.stream))

    def close(self) -> None:
        """Close every connection."""
        _close(self._lines.close())

    def _pass(self, standing: Standing, request: httpx.Request) -> httpx.Response:
        line = self._take(standing)
        response, kept = None, False
        try:
            response = line.inner.handle_request(request)
            self._trust.saw(standing, response.headers)
            kept = True
        finally:
            if not kept:
                self._drop(line, response)
        return _response(response, response.headers, _Watched(response, lambda: self._drop(line, None)))

    def _exchange(self, standing: Standing, request: httpx.Request, body: bytes) -> httpx.Response:
        exchange = Exchange(self._trust, standing, request, body)
        line = self._take(standing)
        response, kept = None, False
        try:
            response = line.inner.handle_request(exchange.request)
            is_checked = exchange.answered(response.status_code, response.headers)
            kept = True
        finally:
            if not kept:
                self._drop(line, response)
        done = _Watched(response, lambda: self._drop(line, None))
        if not is_checked:
            return _response(response, response.headers, done)
        stream = _Checked(exchange, done, lambda ask: _fetch(line.inner, exchange, ask))
        return _response(response, exchange.headers(response.headers), stream)

    def _take(self, standing: Standing) -> Line[httpx.HTTPTransport]:
        line, idle = self._lines.take(standing)
        _close(idle)
        return line

    def _drop(self, line: Line[httpx.HTTPTransport], response: httpx.Response | None) -> None:
        if response is not None:
            response.close()
        _close(self._lines.give(line))


class _Watched(httpx.SyncByteStream):
    """A body as it comes; says once when nobody reads it any more."""

    def __init__(self, response: httpx.Response, ended: Callable[[], None]) -> None:
        assert isinstance(response.stream, httpx.SyncByteStream)
        self._stream = response.stream
        self._ended: Callable[[], None] | None = ended

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def let_go(self) -> None:
        """Give the connection back, so that the proof can be fetched on it."""
        self._stream.close()

    def close(self) -> None:
        """End it."""
        self._stream.close()
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()


class _Checked(httpx.SyncByteStream):
    """An answer while it is checked."""

    def __init__(self, exchange: Exchange, wire: _Watched, fetch: Callable[[Ask], Reply]) -> None:
        self._exchange = exchange
        self._wire = wire
        self._fetch = fetch

    def __iter__(self) -> Iterator[bytes]:
        for data in self._wire:
            if out := self._exchange.feed(data):
                yield out
        self._wire.let_go()
        if rest := self._proven():
            yield rest

    def _proven(self) -> bytes:
        proof = self._exchange.proof()
        try:
            ask = next(proof)
            while True:
                time.sleep(ask.wait)
                ask = proof.send(self._fetch(ask))
        except StopIteration as ended:
            rest: bytes = ended.value
            return rest

    def close(self) -> None:
        """Stop reading. An answer that wasn't read to its end is not checked."""
        self._wire.close()


def _read(stream: httpx.SyncByteStream) -> bytes:
    body = bytearray()
    for piece in stream:
        body += piece
        _check_size(len(body))
    return bytes(body)


def _fetch(inner: httpx.HTTPTransport, exchange: Exchange, ask: Ask) -> Reply:
    body = bytearray()
    try:
        response = inner.handle_request(_get(exchange, ask))
        assert isinstance(response.stream, httpx.SyncByteStream)
        try:
            for piece in response.stream:
                body += piece
                if len(body) > MOST_PROOF:
                    return NO_REPLY
        finally:
            response.close()
    except httpx.HTTPError:
        return NO_REPLY
    return Reply(response.status_code, bytes(body))


def _close(inner: httpx.HTTPTransport | None) -> None:
    if inner is not None:
        inner.close()


def _response(response: httpx.Response, headers: httpx.Headers, stream: httpx.SyncByteStream) -> httpx.Response:
    return httpx.Response(response.status_code, headers=headers, stream=stream, extensions=response.extensions)


# asyncio -------------------------------------------------------------------------------------------------------------


class AsyncVerifiedTransport(httpx.AsyncBaseTransport):
    """For :class:`httpx.AsyncClient`: the same, step by step."""

    def __init__(self, trust: Trust, contexts: Contexts, limits: httpx.Limits) -> None:
        self._trust = trust
        self._lines: Lines[httpx.AsyncHTTPTransport] = Lines(
            lambda standing: httpx.AsyncHTTPTransport(verify=contexts(standing), trust_env=False, limits=limits)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Make one request.

        Raises:
            ClientError: it is refused, or the service is.
            httpx.TransportError: the network failed.
        """
        standing = self._trust.current()
        check_request(standing, request)
        assert isinstance(request.stream, httpx.AsyncByteStream)
        if request.method in WITHOUT_BODY:
            return await self._pass(standing, request)
        return await self._exchange(standing, request, await _aread(request.stream))

    async def aclose(self) -> None:
        """Close every connection."""
        await _aclose(self._lines.close())

    async def _pass(self, standing: Standing, request: httpx.Request) -> httpx.Response:
        line = await self._take(standing)
        response, kept = None, False
        try:
            response = await line.inner.handle_async_request(request)
            self._trust.saw(standing, response.headers)
            kept = True
        finally:
            if not kept:
                await self._drop(line, response)
        return _aresponse(response, response.headers, _AsyncWatched(response, self, line))

    async def _exchange(self, standing: Standing, request: httpx.Request, body: bytes) -> httpx.Response:
        exchange = Exchange(self._trust, standing, request, body)
        line = await self._take(standing)
        response, kept = None, False
        try:
            response = await line.inner.handle_async_request(exchange.request)
            is_checked = exchange.answered(response.status_code, response.headers)
            kept = True
        finally:
            if not kept:
                await self._drop(line, response)
        done = _AsyncWatched(response, self, line)
        if not is_checked:
            return _aresponse(response, response.headers, done)
        return _aresponse(response, exchange.headers(response.headers), _AsyncChecked(exchange, done, line.inner))

    async def _take(self, standing: Standing) -> Line[httpx.AsyncHTTPTransport]:
        line, idle = self._lines.take(standing)
        await _aclose(idle)
        return line

    async def _drop(self, line: Line[httpx.AsyncHTTPTransport], response: httpx.Response | None) -> None:
        if response is not None:
            await response.aclose()
        await self.ended(line)

    async def ended(self, line: Line[httpx.AsyncHTTPTransport]) -> None:
        """Nobody reads an answer on these connections any more."""
        await _aclose(self._lines.give(line))


class _AsyncWatched(httpx.AsyncByteStream):
    def __init__(
        self, response: httpx.Response, owner: AsyncVerifiedTransport, line: Line[httpx.AsyncHTTPTransport]
    ) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._stream = response.stream
        self._owner = owner
        self._line: Line[httpx.AsyncHTTPTransport] | None = line

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            yield piece

    async def let_go(self) -> None:
        await self._stream.aclose()

    async def aclose(self) -> None:
        line, self._line = self._line, None
        try:
            await self._stream.aclose()
        finally:
            if line is not None:
                await self._owner.ended(line)


class _AsyncChecked(httpx.AsyncByteStream):
    def __init__(self, exchange: Exchange, wire: _AsyncWatched, inner: httpx.AsyncHTTPTransport) -> None:
        self._exchange = exchange
        self._wire = wire
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._wire:
            if out := self._exchange.feed(data):
                yield out
        await self._wire.let_go()
        if rest := await self._proven():
            yield rest

    async def _proven(self) -> bytes:
        proof = self._exchange.proof()
        try:
            ask = next(proof)
            while True:
                await asyncio.sleep(ask.wait)
                ask = proof.send(await _afetch(self._inner, self._exchange, ask))
        except StopIteration as ended:
            rest: bytes = ended.value
            return rest

    async def aclose(self) -> None:
        await self._wire.aclose()


async def _aread(stream: httpx.AsyncByteStream) -> bytes:
    body = bytearray()
    async for piece in stream:
        body += piece
        _check_size(len(body))
    return bytes(body)


async def _afetch(inner: httpx.AsyncHTTPTransport, exchange: Exchange, ask: Ask) -> Reply:
    body = bytearray()
    try:
        response = await inner.handle_async_request(_get(exchange, ask))
        assert isinstance(response.stream, httpx.AsyncByteStream)
        try:
            async for piece in response.stream:
                body += piece
                if len(body) > MOST_PROOF:
                    return NO_REPLY
        finally:
            await response.aclose()
    except httpx.HTTPError:
        return NO_REPLY
    return Reply(response.status_code, bytes(body))


async def _aclose(inner: httpx.AsyncHTTPTransport | None) -> None:
    if inner is not None:
        await inner.aclose()


def _aresponse(response: httpx.Response, headers: httpx.Headers, stream: httpx.AsyncByteStream) -> httpx.Response:
    return httpx.Response(response.status_code, headers=headers, stream=stream, extensions=response.extensions)
