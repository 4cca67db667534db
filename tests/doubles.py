"""Engines that do what a test tells them, and a client of the bare ASGI application; no sockets, nothing patched."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from confide.api.app import ApiParts, build
from confide.api.attestation import Attestor
from confide.api.auth import Doorman
from confide.api.chat import ChatLimits
from confide.api.exchange import LEAVING
from confide.api.proof import Prover, ReceiptSink
from confide.api.seen import Meter, NoMeter
from confide.engine.base import Call, EngineInfo
from confide.errors import StoreError
from confide.identity.custodian import Custodian
from confide.identity.identity import Terms
from confide.identity.roles import EphemeralKeys
from confide.route.models import ModelTable, ServedModel
from confide.store.receipts import ReceiptRow
from confide.wire import jcs
from confide.wire.answers import Usage
from confide.wire.receipt import Receipt, parse_receipt
from confide.wire.sse import DONE

SECRET = "the-secret-of-the-prompt"
"""Stands in every conversation; must stand in no log and no error."""

Step = bytes | BaseException | float
"""What a reply does next: yield bytes, raise, or wait for so many seconds."""

FOREVER = 3600.0


class ScriptedReply:
    """A reply that follows its script."""

    def __init__(self, steps: Sequence[Step], last: bytes = DONE) -> None:
        self._steps = steps
        self.last = last
        self.closed = 0

    @property
    def usage(self) -> Usage:
        return Usage(3, 5)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for step in self._steps:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, bytes):
                yield step
            else:
                await asyncio.sleep(step)

    async def aclose(self) -> None:
        self.closed += 1


class ScriptedEngine:
    """Accepts after ``wait`` seconds and replies by script, or refuses with ``refusal``."""

    def __init__(
        self,
        *steps: Step,
        refusal: BaseException | None = None,
        wait: float = 0,
        parameters: frozenset[str] = frozenset({"max_tokens", "n"}),
        also: Mapping[str, frozenset[str]] | None = None,
        last: bytes = DONE,
    ) -> None:
        self._steps = steps
        self._refusal = refusal
        self._wait = wait
        self._last = last
        self._info = EngineInfo(
            "double", "1", 100, 50, parameters, max_choices=2, created=1_760_000_000, also=also or {}
        )
        self.calls: list[Call[Any]] = []
        self.replies: list[ScriptedReply] = []
        self.given_up = 0

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def infer(self, call: Call[Any]) -> ScriptedReply:
        return await self.chat(call)

    async def chat(self, call: Call[Any]) -> ScriptedReply:
        self.calls.append(call)
        try:
            await asyncio.sleep(self._wait)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self._refusal is not None:
            raise self._refusal
        self.replies.append(ScriptedReply(self._steps, self._last))
        return self.replies[-1]

    async def close(self) -> None: ...


class MemorySink:
    """Receipts and marks in memory. ``broken`` makes it fail as a store that is down does."""

    def __init__(self, *, broken: bool = False) -> None:
        self.rows: list[ReceiptRow] = []
        self.marks: set[str] = set()
        self.broken = broken

    async def commit(self, *rows: ReceiptRow) -> None:
        if self.broken:
            raise StoreError("the store is down")
        self.rows.extend(rows)

    async def claim(self, mark: str, *, now: int, expires: int) -> bool:
        if self.broken:
            raise StoreError("the store is down")
        new = mark not in self.marks
        self.marks.add(mark)
        return new

    async def keep_keyset(self, digest: str, document: bytes, not_after: int) -> None: ...

    @property
    def receipts(self) -> list[Receipt]:
        """What was committed, read."""
        return [parse_receipt(row.document) for row in self.rows]


MANIFEST = b'{"models":[]}'


@functools.cache
def custodian() -> Custodian:
    """Keys for a test session."""
    made = Custodian(
        EphemeralKeys(bytes(range(32))), Terms(subject="test"), MemorySink(), clock=lambda: 1_800_000_000.0
    )
    with ThreadPoolExecutor(1) as thread:  # a loop may be running in this one
        thread.submit(asyncio.run, made.refresh()).result()
    return made


def app_with(
    engine: ScriptedEngine,
    *,
    keep_alive: float = 0,
    origins: Sequence[str] = (),
    find: Any = None,
    sink: ReceiptSink | None = None,
    meter: Meter | None = None,
    more: Sequence[str] = (),
    max_body_bytes: int = 10_000,
) -> ASGIApp:
    """The application over one engine, which serves the model ``m``, also called ``alias``, and those of ``more``;
    without keys by default."""
    keys = custodian()
    nothing: Any = None  # no test of the chat route asks for evidence or looks receipts up
    return build(
        ApiParts(
            models=ModelTable(
                [
                    ServedModel(id="m", engine=engine, name="M", aliases=("alias",)),
                    *(ServedModel(id=name, engine=engine, name=name) for name in more),
                ]
            ),
            doorman=Doorman(find),
            prover=Prover(keys, sink or MemorySink(), manifest=jcs.sha256(MANIFEST), clock=lambda: 1_800_000_000.0),
            attestor=Attestor(keys, nothing, MANIFEST),
            meter=meter or NoMeter(),
            receipts=nothing,
            limits=ChatLimits(max_body_bytes=max_body_bytes, keep_alive=keep_alive),
            cors_origins=origins,
        )
    )


def chat_body(**members: Any) -> bytes:
    """A request for the model ``m`` that tells a secret."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": SECRET}]} | members).encode()


class Leaving(asyncio.Event):
    """Set when a client leaves; tells at once whoever watches it, as the connection does."""

    def __init__(self) -> None:
        super().__init__()
        self._call: Callable[[], object] | None = None

    def watch(self, call: Callable[[], object] | None) -> None:
        self._call = call

    def set(self) -> None:
        super().set()
        if self._call is not None:
            self._call()


class Client:
    """One request to the application. It leaves when :attr:`gone` is set."""

    def __init__(
        self,
        body: bytes | Sequence[bytes] = b"",
        *,
        method: str = "POST",
        path: str = "/v1/chat/completions",
        headers: Mapping[str, str] | None = None,
        version: str = "1.1",
    ) -> None:
        fields = {"host": "localhost", "content-type": "application/json"} | dict(headers or {})
        self._pieces = [body] if isinstance(body, bytes) else list(body)
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": version,
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in fields.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        self.gone = Leaving()
        self.scope["extensions"] = {LEAVING: self.gone.watch}
        self.got_something = asyncio.Event()
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if self._pieces:
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message.get("body"):
            self.got_something.set()

    def of(self, app: ASGIApp) -> Awaitable[None]:
        """The application's work on this request."""
        return app(self.scope, self.receive, self.send)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def complete(self) -> bool:
        """Whether the answer has been sent to its end, and nothing after it."""
        flags = [message.get("more_body", False) for message in self.sent[1:]]
        return bool(flags) and flags == [True] * (len(flags) - 1) + [False]

    def error(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        assert list(value) == ["error"]
        assert set(value["error"]) == {"message", "type", "param", "code"}
        error: dict[str, Any] = value["error"]
        return error


def asked(app: ASGIApp, client: Client | None = None, *, patience: float = 10) -> Client:
    """Run one request to its end."""
    one = client or Client(chat_body())

    async def bounded() -> None:
        async with asyncio.timeout(patience):
            await one.of(app)

    asyncio.run(bounded())
    return one
