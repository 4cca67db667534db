"""The other side, in threads of the test: a whole attested server, and a relay in front of it that tells lies.

Everything of the server is real but its engine, which echoes (:mod:`tests.simulator.echo_server`). The relay may end
TLS with the server's own attested key, which no attacker has: so it can do what TLS and pinning would prevent, and
what is left to find it out are sealing and receipts.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

import confide
from confide.api.app import ApiParts, build
from confide.api.attestation import Attestor, Throttle
from confide.api.auth import Doorman
from confide.api.chat import ChatLimits
from confide.api.images import ImagePolicy
from confide.api.proof import Prover
from confide.api.vision import ImageRules
from confide.attest.choose import Sources
from confide.attest.dev import DevGpu, DevMachine, DevSource
from confide.attest.dev_pki import Pki, create_pki
from confide.client.service import VerifiedService
from confide.identity.custodian import DEFAULT_PERIOD, Custodian
from confide.identity.identity import Identity, Terms
from confide.identity.roles import EphemeralKeys
from confide.listening import Server, Stages, bind
from confide.route.models import ModelTable, ServedModel
from confide.store.keys import KeyRing, KeyStore
from confide.store.receipts import ReceiptStore, ReceiptWriter
from confide.store.sqlite import SqliteFile
from confide.tls import ServerTls, server_context
from confide.verify.policy import ModelsPolicy, Policy
from confide.verify.roots import Root, development
from confide.wire.aci import manifest_subject
from tests.simulator.echo_server import BUILT as MANIFEST
from tests.simulator.echo_server import MODEL, EchoEngine

POLICY: Final = Policy(roots=("intel", "nvidia"), models=ModelsPolicy(manifests=(MANIFEST.digest(),)))
PATIENCE: Final = 30.0


def hello(text: str = "Hello, world!", **members: Any) -> dict[str, Any]:
    """The arguments of a chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **members}


class Threaded:
    """An application, served in a thread."""

    def __init__(
        self, app: ASGIApp, *, tls: ssl.SSLContext | None = None, start: Callable[[], Any] | None = None
    ) -> None:
        self._ready = threading.Event()
        self._listener = bind("127.0.0.1", 0)
        self.port: int = self._listener.getsockname()[1]

        async def begin() -> None:
            if start is not None:
                await start()

        async def nothing() -> None: ...

        stages = Stages(start=begin, ready=self._ready.set, end_answers=nothing, close=nothing)
        self._server = Server(app, stages, tls)
        self._server.config.timeout_graceful_shutdown = 1
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)

    def __enter__(self) -> Threaded:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        self._listener.close()


# The server ----------------------------------------------------------------------------------------------------------


@dataclass
class World:
    """A running server. ``key`` is an API key; ``moved`` seconds are added to its clock."""

    pki: Pki
    folder: Path
    key: str = ""
    port: int = 0
    tls: bool = False
    moved: float = 0.0
    custodian: Custodian = field(init=False)

    @property
    def identity(self) -> Identity:
        """Its keys of now."""
        return self.custodian.current

    @property
    def roots(self) -> tuple[Root, ...]:
        """What a client must name to accept it."""
        return development(self.pki.roots_pem())

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def clock(self) -> float:
        """Its time."""
        return time.time() + self.moved

    def rotate(self, seconds: float = DEFAULT_PERIOD) -> None:
        """Let time pass, so that it has other keys."""
        self.moved += seconds
        asyncio.run(self.custodian.refresh())

    def verified(self, url: str | None = None, **options: Any) -> VerifiedService:
        """A client that accepts it: by default sealing, with its key, without a public certificate."""
        defaults: dict[str, Any] = {"api_key": self.key, "development": self.roots, "webpki": False}
        return confide.verified(url or self.url, options.pop("policy", POLICY), **(defaults | options))


@contextmanager
def world(
    folder: Path, *, tls: bool = False, listed: bool | None = None, root: bytes = b"\x01\x02" * 16
) -> Iterator[World]:
    """A server on a free port. ``listed`` is whether the keyset lists its TLS key, as it ends TLS by default."""
    made = World(create_pki_now(), folder, tls=tls)
    listed = tls if listed is None else listed
    machine, path = DevMachine(made.pki), folder / "confide.db"
    with ExitStack() as closing:
        store = closing.enter_context(KeyStore(SqliteFile(path)))
        made.key = store.create("test")
        receipts = closing.enter_context(ReceiptStore(SqliteFile(path)))
        writer = ReceiptWriter(SqliteFile(path))
        closing.callback(writer.close)
        terms = Terms(subject=manifest_subject(MANIFEST.digest()), tls=listed)
        made.custodian = Custodian(EphemeralKeys(root), terms, writer, clock=made.clock)
        prover = Prover(made.custodian, writer, manifest=MANIFEST.digest(), clock=made.clock)
        sources = Sources(DevSource(machine, lambda: datetime.fromtimestamp(made.clock(), UTC)), DevGpu(made.pki))
        throttle = Throttle(rate=1000, burst=1000)
        context = server_context() if tls else None

        async def start() -> None:
            identity = await made.custodian.refresh()
            if context is not None:
                ServerTls(context, identity.tls)

        app = build(
            ApiParts(
                models=ModelTable([ServedModel(id=MODEL, engine=EchoEngine(), name="Echo", aliases=("echo",))]),
                doorman=Doorman(KeyRing(store, max_age=0.1).find),
                prover=prover,
                attestor=Attestor(made.custodian, sources, MANIFEST.document(), throttle=throttle),
                receipts=receipts,
                limits=ChatLimits(max_body_bytes=16 * 2**20, keep_alive=15.0),
                images=ImageRules(ImagePolicy(max_bytes=2**20, max_pixels=10**6, allow_urls=False), None),
            )
        )
        served = closing.enter_context(Threaded(app, tls=context, start=start))
        made.port = served.port
        yield made


def create_pki_now() -> Pki:
    """A development PKI of this moment."""
    return create_pki(datetime.now(UTC))


# The relay -----------------------------------------------------------------------------------------------------------


@dataclass
class Passing:
    """One answer on its way. ``cut`` ends the connection after the body, with no end of the answer."""

    method: str
    path: str
    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool = False

    @property
    def is_answer(self) -> bool:
        """Whether it answers a prompt."""
        return self.method == "POST"

    @property
    def is_receipt(self) -> bool:
        """Whether it is a receipt."""
        return self.path.startswith("/v1/aci/receipts/")


Tamper = Callable[[Passing], None]


class Relay:
    """Forwards everything, keeps what it saw, and changes answers as it is told."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.tamper: Tamper = lambda _: None
        self.reroute: dict[str, str] = {}
        self.seen: list[tuple[str, str, bytes]] = []
        self.keys: set[str] = set()
        self.encodings: set[str] = set()

    @property
    def posts(self) -> list[bytes]:
        """The bodies of the POSTs it saw."""
        return [body for method, _, body in self.seen if method == "POST"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await _body(receive)
        target = scope["raw_path"].decode() + (f"?{scope['query_string'].decode()}" if scope["query_string"] else "")
        self.seen.append((scope["method"], target, body))
        self.keys |= {value.decode() for name, value in scope["headers"] if name == b"authorization"}
        self.encodings |= {value.decode() for name, value in scope["headers"] if name == b"accept-encoding"}
        headers = [(name, value) for name, value in scope["headers"] if name not in (b"host", b"content-length")]
        url = self._world.url + self.reroute.get(target, target)
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=PATIENCE) as client:
            answer = await client.request(scope["method"], url, headers=headers, content=body)
        kept = {
            name: value for name, value in answer.headers.items() if name not in ("transfer-encoding", "content-length")
        }
        passing = Passing(scope["method"], target, answer.status_code, kept, answer.content)
        self.tamper(passing)
        fields = [(name.encode(), value.encode()) for name, value in passing.headers.items()]
        await send({"type": "http.response.start", "status": passing.status, "headers": fields})
        async for piece in _pieces(passing.body):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if passing.cut:
            raise ConnectionError("cut")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """In odd pieces, as networks do."""
    size = max(77, len(body) // 500)
    for begin in range(0, len(body), size):
        yield body[begin : begin + size]
        await asyncio.sleep(0)


@dataclass
class Between:
    """A relay that runs; ``url`` is where clients find it."""

    relay: Relay
    url: str


@contextmanager
def between(world: World, *, tls: bool = False) -> Iterator[Between]:
    """A relay in front of a server; with TLS it has the server's own key."""
    context = None
    if tls:
        context = server_context()
        ServerTls(context, world.identity.tls)
    relay = Relay(world)
    with Threaded(relay, tls=context) as served:
        yield Between(relay, f"{'https' if tls else 'http'}://127.0.0.1:{served.port}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
