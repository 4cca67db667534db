"""A load generator that checks every answer byte for byte, and costs little enough to sit beside what it measures.

It knows what :mod:`benchmarks.upstream` answers, so that it needs no parser: a body must be the expected one, with the
id that it names put in the place of the usual one.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from benchmarks import upstream
from confide.seal.aci_v2 import seal_request
from confide.seal.client import ResponseOpener
from confide.seal.legacy import seal_request as seal_older_request

PATH: Final = "/v1/chat/completions"
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_NAMED: Final = re.compile(rb'"id":"chatcmpl-([0-9a-f]{32})"')
_RECEIPT: Final = re.compile(rb"(?i)\r\nx-receipt-id: *(\S+)")
_KEPT: Final = 4
"""Of how many answers what was sent and received is kept, to be compared with their receipts."""


@dataclass(frozen=True)
class Case:
    """What is asked: ``size`` is of the body in bytes; ``chunks`` None for an answer in one piece; ``every`` in ms."""

    size: int
    chunks: int | None = None
    every: int = 0
    seal: str | None = None

    def body(self) -> bytes:
        """The JSON of the request."""
        stream = self.chunks is not None
        ask = f"chunks={self.chunks or 0} every={self.every} "
        head = b'{"model":"%b","messages":[{"role":"user","content":"%b' % (upstream.MODEL.encode(), ask.encode())
        end = b'"}],"max_tokens":1024,"temperature":0.7'
        end += b',"stream":true,"stream_options":{"include_usage":true}}' if stream else b"}"
        words = b"Once upon a time there was a river. "
        room = max(0, self.size - len(head) - len(end))
        return head + (words * (room // len(words) + 1))[:room] + end

    def expected(self) -> bytes:
        """The answer, under the usual id."""
        if self.chunks is None:
            return upstream.whole_body(upstream.ID)
        return upstream.Pieces(upstream.ID).all(self.chunks)


@dataclass
class Target:
    """Where requests go. ``keys`` are the public ones that requests are sealed for, by algorithm."""

    name: str
    port: int
    key: str = "none"
    keys: dict[str, str] = field(default_factory=dict)


@dataclass
class Received:
    """One answer, times by ``perf_counter``. The body is still in chunks where it isn't ``whole``."""

    head: bytes
    body: bytes
    whole: bool
    begun: float
    first: float
    last: float
    done: float


@dataclass
class Tally:
    """What came back: numbers, times in seconds, and for a few answers what their receipts must say."""

    answers: int = 0
    chunks: int = 0
    wrong: int = 0
    errors: int = 0
    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    receipts: list[tuple[str, str, str]] = field(default_factory=list)


class Asking:
    """Makes requests of one case for one target, and judges the answers."""

    def __init__(self, target: Target, case: Case) -> None:
        self.target = target
        self.case = case
        self.tally = Tally()
        self._body = case.body()
        self._expected = case.expected()
        self._digest = hashlib.sha256(self._body).hexdigest()
        self._plain = self._message(self._body, {})
        self._unjudged: list[tuple[Received, ResponseOpener | None]] = []

    def _message(self, body: bytes, more: dict[str, str]) -> bytes:
        head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{self.target.port}\r\nuser-agent: bench/1\r\n"
        head += f"authorization: Bearer {self.target.key}\r\naccept: application/json\r\n"
        head += "".join(f"{name.lower()}: {value}\r\n" for name, value in more.items())
        return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    def message(self) -> tuple[bytes, ResponseOpener | None]:
        """The bytes of a request, and what opens its answer where it is sealed."""
        if self.case.seal is None:
            return self._plain, None
        now, key = time.time(), self.target.keys[self.case.seal]
        if self.case.seal == "older":
            call = seal_older_request(self._body, "ed25519", key, now)
        else:
            call = seal_request(self._body, PATH, self.case.seal, key, now)
        return self._message(call.body, call.headers), call.opener

    def take(self, received: Received, opener: ResponseOpener | None) -> None:
        """Note when an answer came. To open a sealed one takes longer than to wait for its end, and would make the
        others look late; so :meth:`judge` does it when all are there."""
        self._unjudged.append((received, opener))

    def judge(self) -> None:
        """Count what was taken, right or wrong."""
        unjudged, self._unjudged = self._unjudged, []
        for received, opener in unjudged:
            try:
                self._judge(received, opener)
            except ValueError:  # sealed answers that can't be opened are one, too
                self.tally.wrong += 1

    def _judge(self, received: Received, opener: ResponseOpener | None) -> None:
        tally = self.tally
        tally.answers += 1
        tally.whole.append(received.done - received.begun)
        tally.first.append(received.first - received.begun)
        if received.last:
            tally.waits.append(received.done - received.last)
        if not received.head.startswith(b"HTTP/1.1 200"):
            tally.errors += 1
            return
        body = received.body if received.whole else _unframed(received.body)
        receipt = _RECEIPT.search(received.head)
        if receipt is not None and opener is None and len(tally.receipts) < _KEPT:
            tally.receipts.append((receipt[1].decode(), self._digest, hashlib.sha256(body).hexdigest()))
        expected = self._expected
        if opener is not None:
            expected = expected.replace(b',"content":""', b"")  # a sealed answer leaves out what is empty
            body = opener.feed(body) if self.case.chunks is not None else opener.whole(body)
            opener.end()
        named = _NAMED.search(body)
        tally.wrong += named is None or body != expected.replace(upstream.ID, named[1])


Finished = Callable[["Client"], None]


class Client(asyncio.Protocol):
    """One connection, kept from request to request."""

    def __init__(self, finished: Finished) -> None:
        self._finished = finished
        self.transport: asyncio.Transport | None = None
        self._asking: Asking | None = None
        self._pieces: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self, asking: Asking, message: bytes, opener: ResponseOpener | None) -> None:
        """Ask; ``finished`` is called when the answer is there, right or wrong."""
        assert self.transport is not None
        self._asking, self._opener, self._pieces = asking, opener, []
        self._left: int | None = None
        self._head = b""
        self._first = self._last = 0.0
        self._begun = time.perf_counter()
        self.transport.write(message)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self._head:
            self._head, _, data = data.partition(b"\r\n\r\n")
            announced = _LENGTH.search(self._head)
            self._left = int(announced[1]) if announced else None
        if not data:
            return
        if not self._first:
            self._first = now
        self._pieces.append(data)
        if self._left is not None:
            self._left -= len(data)
            if self._left <= 0:
                self._end(now)
            return
        assert self._asking is not None
        self._asking.tally.chunks += data.count(b'"content":"')
        if b'"finish_reason":"stop"' in data:
            self._last = now
        if data.endswith(b"0\r\n\r\n"):
            self._end(now)

    def _end(self, now: float) -> None:
        asking, body = self._asking, b"".join(self._pieces)
        assert asking is not None
        self._asking, self._pieces = None, []
        whole = self._left is not None
        asking.take(Received(self._head, body, whole, self._begun, self._first, self._last, now), self._opener)
        self._finished(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._asking is not None:
            self._asking.tally.errors += 1
            self._asking = None
            self._finished(self)

    def close(self) -> None:
        """Close the connection."""
        if self.transport is not None:
            self.transport.close()


def _unframed(data: bytes) -> bytes:
    """What a chunked body holds."""
    pieces, at = [], 0
    while size := int(data[at : (end := data.index(b"\r\n", at))], 16):
        pieces.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(pieces)


async def connect(port: int, finished: Finished) -> Client:
    """A new connection.

    Raises:
        OSError: nobody takes it.
    """
    client = Client(finished)
    await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", port)
    return client


async def in_turns(asking: Asking, *, total: int, parallel: int, seconds: float = 60.0) -> Tally:
    """So many requests, of which ``parallel`` are always under way, each on a connection of its own that is kept."""
    loop = asyncio.get_running_loop()
    messages = [asking.message() for _ in range(total)]
    ended: asyncio.Future[None] = loop.create_future()
    left = [total, total]  # to be sent, to be answered

    def next_one(client: Client) -> None:
        if left[0] > 0 and client.transport is not None:
            left[0] -= 1
            client.send(asking, *messages[left[0]])

    def finished(client: Client) -> None:
        left[1] -= 1
        if left[1] > 0:
            next_one(client)
        elif not ended.done():
            ended.set_result(None)

    clients = [await connect(asking.target.port, finished) for _ in range(min(parallel, total))]
    try:
        for client in clients:
            next_one(client)
        async with asyncio.timeout(seconds):
            await ended
    except TimeoutError:
        asking.tally.errors += left[1]
    finally:
        for client in clients:
            client.close()
        asking.judge()
    return asking.tally


class Crowd:
    """Many streams at once, each on its own connection: :meth:`begin`, look at them, :meth:`end`."""

    def __init__(self, asking: Asking, count: int) -> None:
        self._asking = asking
        self._count = count
        self._open = 0
        self._ended = asyncio.get_running_loop().create_future()
        self._clients: list[Client] = []

    @property
    def chunks(self) -> int:
        """Received until now."""
        return self._asking.tally.chunks

    def _finished(self, _: Client) -> None:
        self._open -= 1
        if self._open == 0 and not self._ended.done():
            self._ended.set_result(None)

    async def begin(self, spread: float = 0.0) -> None:
        """Connect and ask, evenly over so many seconds."""
        begun = time.perf_counter()
        messages = [self._asking.message() for _ in range(self._count)]
        self._open = self._count
        for number, message in enumerate(messages):
            await asyncio.sleep(max(0.0, begun + spread * number / self._count - time.perf_counter()))
            try:
                client = await connect(self._asking.target.port, self._finished)
            except OSError:
                self._asking.tally.errors += 1
                self._open -= 1
                continue
            self._clients.append(client)
            client.send(self._asking, *message)

    async def end(self, seconds: float) -> Tally:
        """Wait until all are answered; those that aren't by then are errors."""
        try:
            if self._open:
                async with asyncio.timeout(seconds):
                    await asyncio.shield(self._ended)
        except TimeoutError:
            self._asking.tally.errors += self._open
        finally:
            for client in self._clients:
                client.close()
            self._asking.judge()
        return self._asking.tally


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of them doesn't exceed; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
