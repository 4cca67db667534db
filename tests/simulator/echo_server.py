"""A whole server, real in everything but its engine, which says at once what it was told.

``python -m tests.simulator.echo_server --data-dir FOLDER`` serves the model :data:`MODEL`. The stores, keys, evidence
(``dev``), proofs, routes and the listening server are those of ``confide serve``. What the engine does besides echoing
is said in the request's member ``user``: ``echo:WHAT`` or ``echo:WHAT:NUMBER``, and anything after a blank.

========= =============================================================================
refuse    refuses with 400; ``busy`` with 429, ``down`` with 503
bug       raises something foreign, whose text quotes the request, instead of accepting
fail:N    fails after N pieces; ``crash:N`` with something foreign that quotes the request
slow:N    waits N milliseconds before each piece
hang:N    says nothing more after N pieces
badend    ends well, and then fails when it is closed
by:N      the text in pieces of N characters
========= =============================================================================

Other endpoints echo too, in vLLM's shapes (:mod:`tests.simulator.echo_endpoints`); a request for a message says what to
do in ``metadata.user_id``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from confide.api.app import ApiParts, build
from confide.api.attestation import Attestor
from confide.api.auth import Doorman
from confide.api.chat import ChatLimits
from confide.api.endpoint import ENDPOINTS
from confide.api.images import ImagePolicy
from confide.api.metrics import Layout, memory
from confide.api.page import Page
from confide.api.proof import Prover
from confide.api.vision import ImageRules
from confide.attest.choose import Places, Sources, choose
from confide.engine.base import Call, ChatCall, EngineInfo
from confide.errors import ApiError, EngineFailed, InvalidRequest, TooManyRequests, Unavailable
from confide.identity.custodian import DEFAULT_PERIOD, Custodian
from confide.identity.identity import Terms
from confide.identity.roles import EphemeralKeys
from confide.listening import Server, Stages, base_url, bind
from confide.observing import Board, Observer
from confide.route.models import ModelTable, ServedModel
from confide.store import open as stores
from confide.wire import jcs, manifest
from confide.wire.aci import manifest_subject
from confide.wire.answers import (
    AnswerHead,
    CallArguments,
    CallStarted,
    ChunkWriter,
    Collector,
    Delta,
    Finished,
    ReasoningDelta,
    TextDelta,
    Usage,
)
from tests.simulator.echo_endpoints import ALSO, OtherEcho, ordered

MODEL: Final = "acme/echo-1"
BUILT: Final = manifest.build(
    [
        manifest.ModelEntry(
            id=MODEL,
            files=(manifest.ModelFile(name="echo.gguf", role="weights", sha256="11" * 32, size=64),),
            tokenizer="sha256:" + "22" * 32,
            chat_template=None,
            architecture="echo",
            quantisation=manifest.Quantisation(file_type=None, tensors={"Q8_0": 3}),
            context_length=4096,
            engine=manifest.Engine(name="echo", version="1", arguments={}),
            source="a test",
            licence=None,
            aliases=("echo",),
        )
    ]
)
"""What it claims to serve."""
MANIFEST: Final = BUILT.document()
MANIFEST_DIGEST: Final = jcs.sha256(MANIFEST)
PARAMETERS: Final = frozenset(
    {"max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "seed", "tools", "tool_choice"}
    | {"parallel_tool_calls", "functions", "function_call", "response_format", "logprobs", "top_logprobs"}
)
THOUGHT: Final = "I was told something."

_ORDER: Final = re.compile(r"echo:([a-z]+)(?::([0-9]+))?(?: |\Z)")
_REFUSALS: Final[dict[str, Callable[[], ApiError]]] = {
    "refuse": lambda: InvalidRequest("The engine doesn't want this.", param="messages"),
    "busy": lambda: TooManyRequests("The engine is busy.", headers={"Retry-After": "1"}),
    "down": lambda: Unavailable("The engine is down.", headers={"Retry-After": "1"}),
}


def last_said(call: ChatCall) -> str:
    """The text that is echoed: of the last message that has any."""
    for message in reversed(call.request.messages):
        content = message.content
        if isinstance(content, str):
            return content
        if isinstance(content, list):
            return "".join(getattr(part, "text", "") for part in content)
    return ""


class Echo:
    """One echo under way."""

    def __init__(self, call: ChatCall) -> None:
        order = _ORDER.match(call.request.user or "")
        self._call = call
        self._what, self._number = (order[1], int(order[2] or 0)) if order else ("", 0)
        self._text = last_said(call)
        self._random = random.Random(call.request.seed or 0)

    @property
    def usage(self) -> Usage:
        return Usage(len(self._call.body), len(self._text))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        head = AnswerHead(self._call.id, self._call.created, self._call.model, "fp_echo", self._has_functions)
        if not self._call.request.stream:
            collector = Collector(head, self._call.request.n or 1)
            async for delta in self._at_its_pace():
                collector.add(delta)
            yield collector.body(self.usage)
            return
        writer = ChunkWriter(head)
        waiting = b"".join(writer.role(index) for index in range(self._call.request.n or 1))
        async for delta in self._at_its_pace():
            waiting += writer.delta(delta)
            if self._random.random() < 0.7:  # several events in one piece are fine
                yield waiting
                waiting = b""
        options = self._call.request.stream_options
        if options is not None and options.include_usage:
            waiting += writer.usage(self.usage)
        if waiting:
            yield waiting

    @property
    def _has_functions(self) -> bool:
        return bool(self._call.request.functions)

    async def _at_its_pace(self) -> AsyncIterator[Delta]:
        for count, delta in enumerate(self._deltas()):
            if self._what in ("fail", "crash", "hang") and count >= self._number:
                await self._go_wrong()
            if self._what == "slow":
                await asyncio.sleep(self._number / 1000)
            yield delta

    async def _go_wrong(self) -> None:
        if self._what == "fail":
            raise EngineFailed("The engine broke.")
        if self._what == "crash":
            raise RuntimeError(f"what a foreign library says: {self._text} {self._call.body!r}")
        await asyncio.sleep(3600)

    def _deltas(self) -> Iterator[Delta]:
        for index in range(self._call.request.n or 1):
            if self._random.random() < 0.2:
                yield ReasoningDelta(index, THOUGHT)
            tools = self._call.request.tools or []
            names = [tool.function.name for tool in tools if hasattr(tool, "function")]
            names += [function.name for function in self._call.request.functions or []]
            if names:
                yield CallStarted(index, 0, f"call_{index}", names[0])
                arguments = json.dumps({"said": self._text}, ensure_ascii=False)
                yield from (CallArguments(index, 0, piece) for piece in self._pieces(arguments))
                yield Finished(index, "function_call" if self._has_functions else "tool_calls")
            else:
                yield from (TextDelta(index, piece) for piece in self._pieces(self._text))
                yield Finished(index, "stop")

    def _pieces(self, text: str) -> Iterator[str]:
        at = 0
        while at < len(text):
            size = self._number if self._what == "by" else self._random.choice((1, 1, 2, 3, 5, 8, 13, 34))
            yield text[at : at + size]
            at += size

    async def aclose(self) -> None:
        if self._what == "badend":
            raise RuntimeError(f"what a foreign library says: {self._text}")


class EchoEngine:
    """Accepts everything but what it is told to refuse."""

    def __init__(self, *, sees: bool = False) -> None:
        info = EngineInfo("echo", "1", 100_000, 100_000, PARAMETERS, max_choices=3, created=1_790_000_000, also=ALSO)
        self.info: Final = replace(info, input_modalities=("text", "image")) if sees else info

    async def chat(self, call: ChatCall) -> Echo:
        order = _ORDER.match(call.request.user or "")
        if order and order[1] in _REFUSALS:
            raise _REFUSALS[order[1]]()
        if order and order[1] == "bug":
            raise RuntimeError(f"what a foreign library says: {last_said(call)} {call.body!r}")
        return Echo(call)

    async def infer(self, call: Call[Any]) -> OtherEcho:
        order = _ORDER.match(ordered(call.request))
        if order and order[1] in _REFUSALS:
            raise _REFUSALS[order[1]]()
        if order and order[1] == "bug":
            raise RuntimeError(f"what a foreign library says: {call.body!r}")
        return OtherEcho(call, order[1] if order else "", int(order[2] or 0) if order else 0)

    async def close(self) -> None: ...


class Clock:
    """The time, moved by as many seconds as a file says."""

    def __init__(self, moved: Path | None) -> None:
        self._moved = moved

    def __call__(self) -> float:
        if self._moved is None or not self._moved.exists():
            return time.time()
        return time.time() + float(self._moved.read_text() or 0)


def main() -> None:
    """Serve until a signal."""
    asked = _arguments()
    _log_everything()
    sources = choose("dev", Places(asked.data_dir))
    clock = Clock(asked.moved_clock)
    root = bytes.fromhex(asked.root) if asked.root else None
    database = stores.database(asked.database, asked.data_dir / "confide.db")
    listener = bind("127.0.0.1", asked.port)
    with ExitStack() as closing:
        store = closing.enter_context(stores.opened(database))
        terms = Terms(subject=manifest_subject(MANIFEST_DIGEST))
        custodian = Custodian(EphemeralKeys(root), terms, store.writer, clock=clock, period=asked.key_period)
        layout = Layout(tuple(endpoint.path for endpoint in ENDPOINTS), (MODEL,), "0")
        board = Board(layout, memory(layout, 1), bind("127.0.0.1", 0), None)
        observer = Observer(board, 0)
        sink = observer.sink(store.writer)
        prover = Prover(custodian, sink, manifest=MANIFEST_DIGEST, clock=clock, model_in_text=asked.signature_model)
        engine = EchoEngine(sees=asked.sees)
        app = build(
            ApiParts(
                models=ModelTable([ServedModel(id=MODEL, engine=engine, name="Echo", aliases=("echo",))]),
                doorman=Doorman(None if asked.no_auth else store.keys.find),
                prover=prover,
                attestor=Attestor(custodian, sources, MANIFEST, meter=observer.meter),
                receipts=store.receipts,
                limits=ChatLimits(max_body_bytes=16 * 2**20, keep_alive=asked.keep_alive),
                images=ImageRules(ImagePolicy(max_bytes=2**20, max_pixels=10**6, allow_urls=False), None),
                cors_origins=("https://app.example",),
                meter=observer.meter,
                page=Page.load(sources.development_roots),
            )
        )
        where = base_url("127.0.0.1", listener)
        where_metrics = base_url("127.0.0.1", board.listener).replace("/v1", "/metrics")
        stages = _Stages(custodian, sources, lambda: print(f"Serving {MODEL} on {where}", flush=True))
        if asked.metrics:
            print(f"Metrics on {where_metrics}", flush=True)
            stages.beside = lambda: observer.telling(())
        server = Server(app, stages.made())
        _log_everything()  # uvicorn has set its own levels
        server.run(sockets=[listener])


class _Whole(logging.Formatter):
    """A line, a traceback where there is one, and every field: more than any real configuration shows."""

    def format(self, record: logging.LogRecord) -> str:
        """All of it."""
        return f"{super().format(record)} {record.__dict__!r}"


def _log_everything() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Whole(logging.BASIC_FORMAT))
    logging.basicConfig(level=logging.DEBUG, handlers=[handler])
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "asyncio"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger("echo").debug("everything is logged")


def _arguments() -> Any:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator.echo_server", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--database", help="the URL of a PostgreSQL database, in place of a file")
    parser.add_argument("--metrics", action="store_true", help="answer GET /metrics on a port of its own")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--no-auth", action="store_true")
    parser.add_argument("--root", help="64 hex digits from which all keys are derived; new ones where absent")
    parser.add_argument("--key-period", type=int, default=DEFAULT_PERIOD)
    parser.add_argument("--moved-clock", type=Path, help="a file that says by how many seconds the clock is moved")
    parser.add_argument("--keep-alive", type=float, default=15.0)
    parser.add_argument("--signature-model", action="store_true")
    parser.add_argument("--sees", action="store_true", help="it takes images, and says nothing of them")
    return parser.parse_args()


class _Stages:
    def __init__(self, custodian: Custodian, sources: Sources, ready: Callable[[], object]) -> None:
        self._custodian = custodian
        self._sources = sources
        self._ready = ready
        self._chore: asyncio.Task[None] | None = None
        self._closing = AsyncExitStack()
        self.beside: Callable[[], AbstractAsyncContextManager[None]] = nullcontext

    def made(self) -> Stages:
        """As the server takes them."""
        return Stages(start=self._start, ready=self._ready, end_answers=self._nothing, close=self._close)

    async def _start(self) -> None:
        await self._custodian.refresh()
        await self._closing.enter_async_context(self.beside())
        self._chore = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            await self._custodian.refresh()

    async def _nothing(self) -> None: ...

    async def _close(self) -> None:
        if self._chore is not None:
            self._chore.cancel()
        await self._closing.aclose()
        await self._sources.aclose()


if __name__ == "__main__":
    main()
