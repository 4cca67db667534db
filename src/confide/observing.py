"""Metrics of a running server: where they are counted, who looks at the engines, and who answers Prometheus."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from confide.api.app import build_metrics
from confide.api.auth import Doorman, Token
from confide.api.endpoint import ENDPOINTS
from confide.api.metrics import Layout, MeteredSink, Metrics, memory
from confide.api.proof import ReceiptSink
from confide.api.seen import Meter, NoMeter
from confide.config import Settings
from confide.listening import Beside, bind
from confide.route.models import ServedModel
from confide.route.replicas import Replicas
from confide.secret import one_line

LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Board:
    """What all processes of a server share. ``listener`` and ``token`` are of the address where metrics are read."""

    layout: Layout
    memory: Any
    listener: socket.socket
    token: str | None


def board(settings: Settings, models: Sequence[str]) -> Board | None:
    """Made once, before there are several processes; None where the settings ask for no metrics.

    Raises:
        ConfigError: the address can't be had, or the token can't be read.
    """
    if settings.metrics is None:
        return None
    from importlib.metadata import version

    file = settings.metrics_token_file
    token = None if file is None else one_line(file, "a token")
    layout = Layout(tuple(endpoint.path for endpoint in ENDPOINTS), tuple(models), version("confide"))
    listener = bind(*settings.metrics_address, option="metrics")
    return Board(layout, memory(layout, settings.workers), listener, token)


class Observer:
    """Counts what one process of a server does, where the settings ask for it.

    Args:
        board: what all processes share; None to count nothing.
        row: which of them this is.
    """

    def __init__(self, board: Board | None, row: int) -> None:
        self._board = board
        self._metrics = None if board is None else Metrics(board.layout, board.memory, row)

    @property
    def meter(self) -> Meter:
        """Who counts requests and reports."""
        return NoMeter() if self._metrics is None else self._metrics

    def sink(self, sink: ReceiptSink) -> ReceiptSink:
        """A sink of receipts, counted."""
        return sink if self._metrics is None else MeteredSink(sink, self._metrics)

    @asynccontextmanager
    async def telling(self, served: Sequence[ServedModel]) -> AsyncIterator[None]:
        """Answer ``GET /metrics``, and look at the engines every second, until the end of the block."""
        if self._board is None or self._metrics is None:
            yield
            return
        token = self._board.token
        server = Beside(build_metrics(self._metrics.text, Doorman(None if token is None else Token(token).find)))
        answering = asyncio.create_task(server.serve(sockets=[self._board.listener]))
        looking = asyncio.create_task(_look_for_ever(self._metrics, served))
        try:
            yield
        finally:
            server.should_exit = True
            looking.cancel()
            await asyncio.gather(answering, looking, return_exceptions=True)


async def _look_for_ever(metrics: Metrics, served: Sequence[ServedModel]) -> None:
    while True:
        look(metrics, served)
        await asyncio.sleep(LOOK_SECONDS)


def look(metrics: Metrics, served: Sequence[ServedModel]) -> None:
    """Note how the engines stand."""
    for model in served:
        _note(metrics, model)


def _note(metrics: Metrics, model: ServedModel) -> None:
    engine = model.engine
    metrics.set(getattr(engine, "outstanding", 0), "confide_engine_running", model.id)
    metrics.set(getattr(engine, "waiting", 0), "confide_engine_waiting", model.id)
    if not isinstance(engine, Replicas):
        return
    replicas = engine.snapshot()
    for state in ("up", "trial", "ejected"):
        metrics.set(sum(one.state == state for one in replicas), "confide_replicas", model.id, state)
    metrics.advance(sum(one.failures for one in replicas), "confide_replica_failures_total", model.id)
    metrics.advance(sum(one.ejections for one in replicas), "confide_replica_ejections_total", model.id)
    metrics.advance(engine.retries, "confide_replica_retries_total", model.id)
