"""The yardstick: the least that a gateway in Python can do and still prove what it did.

A bare ``asyncio.Protocol`` on uvloop on both sides. It checks the bearer key, decodes the request as far as a gateway
must, hashes request and response as they pass, signs both hashes with Ed25519, and keeps the last receipts in memory.
It trusts both sides to speak proper HTTP, validates nothing else and stores nothing, so nobody should serve with it.
Run it as ``python -m benchmarks.floor PORT UPSTREAM_PORT KEY``.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import sys
from collections import OrderedDict
from typing import Final, cast

import msgspec
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_KEPT: Final = 10_000
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_BEARER: Final = re.compile(rb"(?i)\r\nauthorization: *bearer (\S+)")


class Wanted(msgspec.Struct):
    """What a gateway must know of a request."""

    model: str
    messages: msgspec.Raw
    stream: bool = False


_decoder: Final = msgspec.json.Decoder(Wanted)


class Floor:
    """What all connections share."""

    def __init__(self, upstream: int, key: str) -> None:
        self.upstream = upstream
        self.idle: list[Upward] = []
        self._key = hashlib.sha256(key.encode()).digest()
        self._signing = Ed25519PrivateKey.generate()
        self._receipts: OrderedDict[int, tuple[str, bytes]] = OrderedDict()
        self._count = 0

    def knows(self, head: bytes) -> bool:
        """Whether the request bears the key."""
        borne = _BEARER.search(head)
        return borne is not None and hmac.compare_digest(hashlib.sha256(borne[1]).digest(), self._key)

    def sign(self, request: str, response: str) -> None:
        """Make and keep a receipt."""
        text = f"{request}:{response}"
        self._receipts[self._count] = (text, self._signing.sign(text.encode()))
        self._count += 1
        if len(self._receipts) > _KEPT:
            self._receipts.popitem(last=False)


class Downward(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._pieces: list[bytes] = []
        self._missing = 0
        self._head = b""
        self.transport: asyncio.Transport | None = None
        self.up: Upward | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.up is not None and self.up.transport is not None:
            self.up.transport.close()

    def pause_writing(self) -> None:
        if self.up is not None and self.up.transport is not None:
            self.up.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.up is not None and self.up.transport is not None:
            self.up.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            self._head, _, data = data.partition(b"\r\n\r\n")
            announced = _LENGTH.search(self._head)
            self._missing = int(announced[1]) if announced else 0
        self._pieces.append(data)
        self._missing -= len(data)
        if not self._missing:
            pieces, self._pieces = self._pieces, []
            self._forward(b"".join(pieces) if len(pieces) > 1 else pieces[0])

    def _forward(self, body: bytes) -> None:
        assert self.transport is not None
        if not self._floor.knows(self._head):
            self.transport.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
            return
        _decoder.decode(body)
        digest = hashlib.sha256(body).hexdigest()
        if self._floor.idle:
            self._floor.idle.pop().send(self, digest, body)
            return
        loop = asyncio.get_running_loop()
        up = Upward(self._floor, self, digest, body)
        self._connecting = loop.create_task(loop.create_connection(lambda: up, "127.0.0.1", self._floor.upstream))


class Upward(asyncio.Protocol):
    """A connection to the engine, kept for the next request."""

    def __init__(self, floor: Floor, down: Downward, digest: str, body: bytes) -> None:
        self._floor = floor
        self._first = (down, digest, body)
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.send(*self._first)

    def send(self, down: Downward, digest: str, body: bytes) -> None:
        """Send one request."""
        assert self.transport is not None
        down.up = self
        self._down, self._request, self._first = down, digest, (down, digest, b"")
        self._response = hashlib.sha256()
        self._left: int | None = None
        self._begun = False
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"
        head += b"content-length: %d\r\n\r\n" % len(body)
        if len(body) < 65536:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def data_received(self, data: bytes) -> None:
        body = data
        if not self._begun:
            self._begun = True
            head, _, body = data.partition(b"\r\n\r\n")
            announced = _LENGTH.search(head)
            self._left = int(announced[1]) if announced else None
        self._response.update(body)
        if self._left is not None:
            self._left -= len(body)
        over = self._left == 0 or (self._left is None and body.endswith(b"0\r\n\r\n"))
        if over:
            self._floor.sign(self._request, self._response.hexdigest())
        if self._down.transport is not None:
            self._down.transport.write(data)
        if over:
            self._down.up = None
            self._floor.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self in self._floor.idle:
            self._floor.idle.remove(self)
        elif self._down.transport is not None:
            self._down.transport.close()


async def serve(port: int, upstream: int, key: str) -> None:
    """Forward until the process ends."""
    floor = Floor(upstream, key)
    server = await asyncio.get_running_loop().create_server(lambda: Downward(floor), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
