"""A stand-in for an engine: an HTTP server that speaks one engine's dialect, and does wrong what it is told.

``with standing_in("vllm", stall_after=3) as engine: engine.url`` listens on a free TCP port (or on ``uds``), in a
thread of its own, and remembers what it was asked. :class:`Faults` says what can go wrong; :meth:`StandIn.now` changes
it.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.simulator import engine_dialects as dialects
from tests.simulator import engine_endpoints as other

FOREVER: Final = 3600.0
Json = dict[str, Any]


@dataclass(frozen=True)
class Faults:
    """What goes wrong, and what is said. Nothing does by default.

    Attributes:
        text: what each choice says; ``reasoning`` before it; ``calls`` in its place, where the request has tools.
        events: payloads in place of the dialect's, each a JSON value or the bytes of an event.
        edit: changes the list of payloads of a stream, or the one of a whole answer.
        status: answers with this status and ``refusal`` (bytes, a JSON value, or a text that gets the dialect's shape).
        headers: more headers of the answer, such as ``Retry-After``.
        silent: never answers; ``late``: seconds until it does.
        die_after: closes the connection, rudely, after so many events; 0 before the first byte of the answer.
        deaths: how many requests die so; after them everything is well.
        stall_after: says nothing more after so many events; ``pace``: seconds before each event.
        garbage: ``http`` answers something that isn't HTTP; ``event`` an event that isn't JSON; ``line`` no event.
        hang_up: every so many answers, closes the connection after the answer without having said so.
        done: whether ``[DONE]`` is written.
        huge: bytes of an answer, or of an error, that never ends well.
        compressed: writes gzip, whatever was accepted.
        split: bytes per write, 0 for one write per event.
        cut: a stream comes in two writes, the first of so many bytes.
        key: asks for it as a bearer token.
        known_models: whether another model's name than :data:`~tests.simulator.engine_dialects.MODEL` is a 404.
        sick: whether the health probe fails.
    """

    text: str = dialects.TEXT
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] | None = None
    events: tuple[Any, ...] | None = None
    edit: Callable[[list[Any]], list[Any]] | None = None
    status: int = 200
    refusal: Any = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    silent: bool = False
    late: float = 0
    die_after: int | None = None
    deaths: int | None = None
    stall_after: int | None = None
    pace: float = 0
    garbage: str = ""
    hang_up: int = 0
    done: bool = True
    huge: int = 0
    compressed: bool = False
    split: int = 0
    cut: int = 0
    key: str | None = None
    known_models: bool = True
    sick: bool = False


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        """Its body, decoded."""
        found: Json = json.loads(self.body)
        return found


class StandIn:
    """The server. ``requests`` are all that came, ``chats`` those for an answer."""

    def __init__(
        self, dialect: str, faults: Faults, pages: Mapping[str, Any], routes: frozenset[str] | None = None
    ) -> None:
        self.dialect = dialect
        self.faults = faults
        self.pages = dialects.pages(dialect) | dict(pages)
        self.routes = other.ROUTES[dialect] if routes is None else routes
        self.url = ""
        self.requests: list[Received] = []
        self.connections = 0
        self.died = 0
        self.answered = 0
        self.left = threading.Event()
        """Set when a client closed the connection before its answer was complete."""

    @property
    def chats(self) -> list[Received]:
        """The requests for an answer."""
        return [request for request in self.requests if request.path.endswith("/chat/completions")]

    @property
    def asked(self) -> list[Received]:
        """The requests on the endpoints beside chat completions, but for those that find out which there are."""
        return [request for request in self.requests if request.path in self.routes and request.body != b"{}"]

    def now(self, **faults: Any) -> None:
        """Replace some faults from here on."""
        self.faults = replace(self.faults, **faults)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, for as many requests as it lasts."""
        self.connections += 1
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                if not await self._answer(request, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        except asyncio.CancelledError:
            pass  # the stand-in ends
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; returns whether the connection goes on."""
        answer = Answering(self, request, writer)
        work = asyncio.ensure_future(answer.run())
        watch = asyncio.ensure_future(_until_left(reader))
        done, _ = await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        if work not in done:
            self.left.set()
            work.cancel()
        watch.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)
        if not work.cancelled():
            error = work.exception()
            if isinstance(error, Rude):
                writer.transport.abort()
                return False
            if error is not None:
                raise error
        self.answered += 1
        every = self.faults.hang_up
        return work in done and not answer.closing and not (every and self.answered % every == 0)


class Rude(Exception):
    """The connection ends here."""


class Answering:
    """One answer under way."""

    def __init__(self, engine: StandIn, request: Received, writer: asyncio.StreamWriter) -> None:
        self._engine = engine
        self._request = request
        self._writer = writer
        self._faults = engine.faults
        self._dying = self._faults.die_after is not None and (
            self._faults.deaths is None or engine.died < self._faults.deaths
        )
        self.closing = False
        self._held = b""

    async def run(self) -> None:
        """Whatever the request and the faults ask for."""
        faults, request = self._faults, self._request
        path = request.path.partition("?")[0]
        if faults.key is not None and request.headers.get("authorization") != f"Bearer {faults.key}":
            await self._send(401, dialects.refusal(self._engine.dialect, 401, "Invalid API Key"))
        elif path == "/health" and faults.sick:
            await self._send(503, {"status": "no"})
        elif path in self._engine.pages:
            page = self._engine.pages[path]
            await (self._send(page, {}) if isinstance(page, int) else self._send(200, page))
        elif path.endswith("/chat/completions"):
            await self._chat()
        elif path in self._engine.routes and self._request.body != b"{}":
            await self._chat(path)
        elif path in self._engine.routes:
            await self._send(400, dialects.refusal(self._engine.dialect, 400, "1 validation error"))
        else:
            await self._send(404, {"detail": "Not Found"})

    async def _chat(self, path: str = "") -> None:
        faults = self._faults
        if faults.silent:
            await asyncio.sleep(FOREVER)
        await asyncio.sleep(faults.late)
        if faults.garbage == "http":
            self._writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
            self.closing = True
            return
        if self._dying and faults.die_after == 0:
            self._die()
        body = self._request.json
        refused = self._refused(body)
        if refused is not None:
            await self._send(*refused, headers=faults.headers)
        elif body.get("stream"):
            await self._stream(self._payloads(body, path))
        else:
            made = other.whole(self._engine.dialect, path, body, faults.text) if path else self._whole(body)
            (answer,) = self._edited([made])
            await self._send(200, answer)

    def _refused(self, body: Json) -> tuple[int, Any] | None:
        faults, dialect = self._faults, self._engine.dialect
        if faults.status != 200:
            refusal = faults.refusal
            return faults.status, dialects.refusal(dialect, faults.status, refusal) if isinstance(
                refusal, str
            ) else refusal
        if faults.known_models and body.get("model") != dialects.MODEL and dialect not in {"llama-server", "sglang"}:
            return 404, dialects.refusal(dialect, 404, f"The model `{body.get('model')}` does not exist.")
        unknown = sorted(body.keys() - dialects.TRANSFORMERS_KNOWS)
        if dialect == "transformers" and unknown:
            return 422, {"detail": f"Unexpected fields in the request: {set(unknown)}"}
        nulls = [name for name, value in body.items() if value is None]
        if dialect == "sglang" and nulls:
            return 400, dialects.refusal(dialect, 400, f"1 validation error: {nulls[0]} should not be null")
        return None

    def _whole(self, body: Json) -> Json:
        return dialects.whole(self._engine.dialect, self._asked(body))

    def _asked(self, body: Json) -> dialects.Asked:
        faults = self._faults
        one = dialects.say(body, text=faults.text, calls=faults.calls, reasoning=faults.reasoning)
        alone = self._engine.dialect in {"ollama", "transformers"}
        return dialects.Asked(body, [one] * (1 if alone else body.get("n") or 1))

    def _payloads(self, body: Json, path: str) -> list[Any]:
        if self._faults.events is not None:
            return list(self._faults.events)
        if path:
            return self._edited(other.stream(self._engine.dialect, path, body, self._faults.text))
        return self._edited(list(dialects.STREAMS[self._engine.dialect](self._asked(body))))

    def _edited(self, payloads: list[Any]) -> list[Any]:
        return payloads if self._faults.edit is None else self._faults.edit(payloads)

    async def _stream(self, payloads: list[Any]) -> None:
        faults = self._faults
        self._head(200, {"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"})
        if faults.garbage:
            payloads = [
                *payloads[:2],
                {"event": b'data: {"id": nope\n\n', "line": b"<html>no event</html>\n\n"}[faults.garbage],
            ]
        for count, payload in enumerate(payloads):
            if self._dying and count == faults.die_after:
                self._die()
            if count == faults.stall_after:
                await asyncio.sleep(FOREVER)
            await asyncio.sleep(faults.pace)
            await self._chunk(_event(payload))
        if faults.huge:
            for _ in range(faults.huge >> 16):
                await self._chunk(b"data: " + b"x" * (1 << 16))
        named = self._request.path in other.NAMED
        if faults.done and not named and self._engine.dialect != "transformers":
            await self._chunk(b"data: [DONE]\n\n")
        if faults.cut:
            await self._write(self._held[: faults.cut])
            await asyncio.sleep(0.002)
            await self._write(self._held[faults.cut :])
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def _die(self) -> None:
        self._engine.died += 1
        raise Rude

    async def _chunk(self, data: bytes) -> None:
        if self._faults.cut:
            self._held += data
            return
        size = self._faults.split or len(data)
        for start in range(0, len(data), size):
            await self._write(data[start : start + size])

    async def _write(self, piece: bytes) -> None:
        self._writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        await self._writer.drain()

    async def _send(self, status: int, answer: Any, headers: Mapping[str, str] | None = None) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer, ensure_ascii=False).encode()
        fields = {"Content-Type": "application/json"} | dict(headers or {})
        if self._faults.huge and self._request.path.endswith("/chat/completions"):
            data += b" " * self._faults.huge
        if self._faults.compressed:
            data = gzip.compress(data)
            fields["Content-Encoding"] = "gzip"
        self._head(status, fields | {"Content-Length": str(len(data))})
        self._writer.write(data)
        await self._writer.drain()

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        if self._faults.compressed:
            headers = {**headers, "Content-Encoding": "gzip"}
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
        self._writer.write("\r\n".join([*lines, "", ""]).encode())


def _event(payload: Any) -> bytes:
    if isinstance(payload, bytes):
        return payload
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def _until_left(reader: asyncio.StreamReader) -> None:
    """Wait for the connection's end without reading anything: that may be the next request."""
    while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110 - a reader has no event for it
        await asyncio.sleep(0.005)


async def _read(reader: asyncio.StreamReader) -> Received | None:
    """The next request of a connection; None at its end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body)


@contextmanager
def standing_in(
    dialect: str = "vllm",
    *,
    uds: str | None = None,
    pages: Mapping[str, Any] | None = None,
    routes: frozenset[str] | None = None,
    **faults: Any,
) -> Iterator[StandIn]:
    """A stand-in that listens, at :attr:`StandIn.url`, until the context ends.

    Args:
        dialect: ``vllm``, ``sglang``, ``llama-server``, ``ollama``, ``transformers`` or ``openai``.
        uds: a path to listen on in place of a TCP port.
        pages: answers to GET in place of the dialect's own, by path; a number is a status without an answer.
        routes: the paths beside chat completions that it answers, in place of the dialect's own.
        faults: of :class:`Faults`.
    """
    engine = StandIn(dialect, Faults(**faults), pages or {}, routes)
    loop = asyncio.new_event_loop()
    started = threading.Event()
    stop = asyncio.Event()

    async def run() -> None:
        if uds is None:
            server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, limit=1 << 26)
            engine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        else:
            server = await asyncio.start_unix_server(engine.serve, uds, limit=1 << 26)
            engine.url = f"unix:{uds}"
        started.set()
        await stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    try:
        assert started.wait(10)
        yield engine
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
