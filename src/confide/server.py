"""The composition root: builds every object once, in order, runs the server, and closes them in reverse."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn

from confide import config
from confide.api.app import ApiParts, build
from confide.api.auth import Doorman
from confide.api.chat import ChatLimits
from confide.api.fetch import PinnedFetcher
from confide.api.http1 import HttpProtocol
from confide.api.images import ImagePolicy
from confide.api.vision import ImageRules
from confide.config import ModelSettings, Settings
from confide.engine.embedded import EmbeddedEngine, EmbeddedModel
from confide.engine.pull import LocalModel
from confide.errors import ConfigError
from confide.route.models import FREE, ModelTable, ServedModel
from confide.store.keys import KeyRing, KeyStore
from confide.workers import run_workers

Models = Sequence[tuple[ModelSettings, LocalModel]]

GRACE_SECONDS = 5
"""How long answers under way may go on after a signal to stop."""


def run(settings: Settings, models: Models, *, on_ready: Callable[[str], None]) -> int:
    """Serve until a signal; returns the exit code.

    Args:
        settings: validated settings.
        models: what to serve, already on disk and verified.
        on_ready: called with the base URL when requests can come.

    Raises:
        ConfigError: the address can't be bound.
        ModelFileError: a model can't be loaded.
    """
    config.prepare_for_engine()
    listener = _bind(settings)
    url = base_url(settings.host, listener)
    if settings.workers == 1:
        return _serve(settings, models, partial(on_ready, url), [listener])
    worker = partial(_worker, settings, models, listener)
    return run_workers(worker, settings.workers, on_ready=partial(on_ready, url))


def _worker(settings: Settings, models: Models, listener: socket.socket, ready: Callable[[], object]) -> None:
    """One of several processes: each has models and a store connection of its own, all share the listener."""
    config.prepare_for_engine()
    _serve(settings, models, ready, [listener])


def _serve(settings: Settings, models: Models, on_ready: Callable[[], object], sockets: list[socket.socket]) -> int:
    store = KeyStore(settings.data_dir / "confide.db") if settings.auth else None
    served: list[ServedModel] = []
    try:
        for model_settings, local in models:
            served.append(_load(settings, model_settings, local))
        doorman = Doorman(KeyRing(store).find if store else None)
        images = image_rules(settings)
        app = build(
            ApiParts(
                models=ModelTable(served),
                doorman=doorman,
                limits=ChatLimits(settings.max_body_bytes, settings.keep_alive),
                images=images,
                cors_origins=settings.cors_origins,
            )
        )
        server = _Server(_uvicorn_config(app), on_ready, partial(_close, served, images))
        server.run(sockets=sockets)
    finally:
        if store is not None:
            store.close()
    return 0


def _uvicorn_config(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        loop="auto",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS + 3,
        backlog=2048,
    )


async def _close(served: Sequence[ServedModel], images: ImageRules) -> None:
    for model in served:
        await model.engine.close()
    if images.fetcher is not None:
        await images.fetcher.aclose()


class _Server(uvicorn.Server):
    """Says when it is ready, and closes what lives on its loop."""

    def __init__(
        self,
        server_config: uvicorn.Config,
        on_ready: Callable[[], object],
        on_close: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        super().__init__(server_config)
        self._on_ready = on_ready
        self._on_close = on_close
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers go on for a while, then have the engines end them, so that each ends as an error and not cut."""
        grace = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._end_answers)
        await super().shutdown(sockets=sockets)
        grace.cancel()
        await self._on_close()

    def _end_answers(self) -> None:
        self._ending = asyncio.create_task(self._on_close())

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


def _load(settings: Settings, model: ModelSettings, local: LocalModel) -> ServedModel:
    projector = local.projector
    engine = EmbeddedEngine(
        EmbeddedModel(
            path=local.path,
            projector=projector,
            slots=model.slots,
            context_length=model.context_length,
            threads=model.threads,
            max_queue=settings.max_queue,
            queue_timeout=settings.queue_timeout,
            created=int(time.time()),
        )
    )
    return ServedModel(
        id=model.id or local.id,
        engine=engine,
        name=model.name or local.name,
        description=model.description or local.description or "",
        aliases=model.aliases,
        pricing=FREE | (model.pricing or {}),
    )


def image_rules(settings: Settings) -> ImageRules:
    """What images may be, by the settings."""
    policy = ImagePolicy(
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        allow_urls=settings.fetch_images,
    )
    return ImageRules(policy, PinnedFetcher() if settings.fetch_images else None)


def _bind(settings: Settings) -> socket.socket:
    """Listen before the models load, so that a port in use is told at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigError(
            f"Can't listen on {settings.host} port {settings.port}: {error.strerror or error}. "
            "Choose another with --port."
        ) from error
    return listener


def base_url(host: str, listener: socket.socket) -> str:
    """The URL under which clients on this machine reach the server."""
    port = listener.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{name}:{port}/v1"
