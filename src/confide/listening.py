"""The socket, and uvicorn on it: says when it is ready, and ends in good order."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from confide.api.http1 import HttpProtocol
from confide.errors import ConfigError

_GC_THRESHOLDS: Final = (10_000, 20, 50)
_SWITCH_SECONDS: Final = 0.0002
"""How long the thread that writes waits for the one that serves: it asks for the interpreter after each statement, and
each answer's end waits for it."""
GRACE_SECONDS: Final = 5
"""How long answers under way may go on after a signal to stop."""


@dataclass(frozen=True, slots=True)
class Stages:
    """What a server does besides serving: ``start`` before it takes connections, ``ready`` when it does,
    ``end_answers`` when the grace is over, ``close`` at the end. The last two may both be called."""

    start: Callable[[], Awaitable[None]]
    ready: Callable[[], object]
    end_answers: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]]


class Server(uvicorn.Server):
    """uvicorn with our stages."""

    def __init__(self, app: ASGIApp, stages: Stages, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(_config(app, grace=GRACE_SECONDS + 3, tls=tls))
        self._stages = stages
        self._ending: asyncio.Future[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start what the application needs, then take connections."""
        await self._stages.start()
        _settle()
        await super().startup(sockets=sockets)
        if self.started:
            self._stages.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers go on for a while, then have the engines end them, so that each ends as an error and not cut."""
        grace = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._end_answers)
        await super().shutdown(sockets=sockets)
        grace.cancel()
        await self._stages.end_answers()
        await self._stages.close()

    def _end_answers(self) -> None:
        self._ending = asyncio.ensure_future(self._stages.end_answers())

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal ends in a return: uvicorn raises it anew, and what is left to close stays open."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _config(app: ASGIApp, *, grace: int, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=grace,
        backlog=2048,
        ssl_context_factory=(lambda *_: tls) if tls else None,
    )


class Beside(uvicorn.Server):
    """A second server on the loop of a first, which alone hears signals."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(_config(app, grace=1))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield


def _settle() -> None:
    """Set the interpreter up for many short pieces of work."""
    _settle_memory()
    sys.setswitchinterval(_SWITCH_SECONDS)


def _settle_memory() -> None:
    """Have the garbage collector leave alone what was made until now, and look at the rest less often.

    It would walk through all modules again and again, a tenth of what a small request costs; requests leave few cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run on the event loop that uvicorn would choose; one that was ended before it served simply returns."""
    factory = uvicorn.Config("", log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner, suppress(asyncio.CancelledError):
        runner.run(main)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Cancel the running task on SIGTERM, as on SIGINT, so that what it has started is closed; for before uvicorn."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """Listen before the models load, so that a port in use is told at once.

    Args:
        host, port: where.
        option: what chooses another port.

    Raises:
        ConfigError: the address can't be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigError(
            f"Can't listen on {host} port {port}: {error.strerror or error}. Choose another with {option}."
        ) from error
    return listener


def base_url(host: str, listener: socket.socket, *, tls: bool = False) -> str:
    """The URL under which clients on this machine reach the server."""
    port = listener.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{'https' if tls else 'http'}://{name}:{port}/v1"
