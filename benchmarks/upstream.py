"""An engine that answers at once and computes nothing, so that only a gateway's own cost shows. It speaks as vLLM does.

The prompt says how to answer: ``chunks=128 every=20 `` streams 128 pieces, one in 20 ms (0: all in one write). Run it
as ``python -m benchmarks.upstream PORT``.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Final, cast

import uvloop

MODEL: Final = "bench"
ID: Final = b"0" * 32
"""Stands in answers to requests without an id of their own."""

_CREATED: Final = b'"created":1764000000,"model":"bench",'
_USAGE: Final = b'"usage":{"prompt_tokens":9,"total_tokens":137,"completion_tokens":128}'
_PAGES: Final = {
    b"/v1/models": b'{"object":"list","data":[{"id":"bench","object":"model","created":1764000000,"owned_by":"vllm",'
    b'"root":"bench","parent":null,"max_model_len":4194304}]}',
    b"/version": b'{"version":"0.32.0"}',
    b"/health": b"{}",
}
_WANTED: Final = re.compile(rb"chunks=(\d+) every=(\d+)")
_TAIL: Final = 1024
"""Members after the messages lie in this many last bytes."""


def whole_body(id: bytes) -> bytes:
    """An answer in one piece."""
    return (
        b'{"id":"chatcmpl-' + id + b'","object":"chat.completion",' + _CREATED + b'"choices":[{"index":0,"message":'
        b'{"role":"assistant","content":"It is a quiet day, and nothing of note has happened. The river is slow."},'
        b'"logprobs":null,"finish_reason":"stop","stop_reason":null}],' + _USAGE + b"}"
    )


class Pieces:
    """The events of one streamed answer."""

    def __init__(self, id: bytes) -> None:
        self._head = b'data: {"id":"chatcmpl-' + id + b'","object":"chat.completion.chunk",' + _CREATED
        self.first = self._choice(b'{"role":"assistant","content":""}')

    def _choice(self, delta: bytes, finish: bytes = b"null") -> bytes:
        choice = b'{"index":0,"delta":' + delta + b',"logprobs":null,"finish_reason":' + finish + b"}"
        return self._head + b'"choices":[' + choice + b"]}\n\n"

    def piece(self, number: int) -> bytes:
        """Some text; the number makes each another, so that a lost or doubled one is seen."""
        return self._choice(b'{"content":" the word %06d"}' % number)

    def last(self, usage: bool) -> bytes:
        """The end."""
        told = self._head + b'"choices":[],' + _USAGE + b"}\n\n" if usage else b""
        return self._choice(b"{}", b'"stop"') + told + b"data: [DONE]\n\n"

    def all(self, chunks: int) -> bytes:
        """The whole stream with its usage."""
        return b"".join([self.first, *map(self.piece, range(chunks)), self.last(True)])


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Upstream(asyncio.Protocol):
    """One connection, one request after the other."""

    def __init__(self) -> None:
        self._received: list[bytes] = []
        self._missing = 0
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        if self._missing:
            self._missing -= len(data)
        else:
            data = b"".join(self._received)
            head, found, body = data.partition(b"\r\n\r\n")
            if not found:
                return
            announced = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            self._missing = (int(announced[1]) if announced else 0) - len(body)
        if self._missing <= 0:
            request, self._received, self._missing = b"".join(self._received), [], 0
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        method, path, _ = request.split(b" ", 2)
        if method == b"GET":
            page = _PAGES.get(path)
            status = b"404 Not Found" if page is None else b"200 OK"
            self._whole(transport, page or b"{}", status)
            return
        tail = request[-_TAIL:]
        named = re.search(rb'"request_id":"([0-9a-f]{32})"', tail)
        name = named[1] if named else ID
        if b'"stream":true' not in tail:
            self._whole(transport, whole_body(name))
            return
        wanted = _WANTED.search(request)
        chunks, every = (int(wanted[1]), int(wanted[2])) if wanted else (0, 0)
        pieces = Pieces(name)
        transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
            + _framed(pieces.first)
        )
        if every:
            loop = asyncio.get_running_loop()
            self._next(loop, loop.time(), pieces, 0, chunks, every / 1000, b'"include_usage":true' in tail)
        else:
            transport.write(b"".join([_framed(pieces.piece(number)) for number in range(chunks)]))
            transport.write(_framed(pieces.last(b'"include_usage":true' in tail)) + b"0\r\n\r\n")

    def _next(
        self,
        loop: asyncio.AbstractEventLoop,
        begun: float,
        pieces: Pieces,
        number: int,
        chunks: int,
        every: float,
        usage: bool,
    ) -> None:
        if self._transport is None:
            return
        due = begun + (number + 1) * every
        if loop.time() < due:
            self._timer = loop.call_at(due, self._next, loop, begun, pieces, number, chunks, every, usage)
            return
        self._transport.write(_framed(pieces.piece(number)))
        if number + 1 == chunks:
            self._transport.write(_framed(pieces.last(usage)) + b"0\r\n\r\n")
            return
        self._timer = loop.call_at(due + every, self._next, loop, begun, pieces, number + 1, chunks, every, usage)

    @staticmethod
    def _whole(transport: asyncio.Transport, body: bytes, status: bytes = b"200 OK") -> None:
        transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)
        )


async def serve(port: int) -> None:
    """Answer until the process ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
