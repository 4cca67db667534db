"""Metrics of a running server: where they are counted, who looks at the engines, and who answers Prometheus."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from confide.api.app import build_metrics
from confide.api.auth import Doorman, Token
from confide.api.endpoint import ENDPOINTS
from confide.api.metrics import Layout, Metrics, memory
from confide.config import Settings
from confide.listening import Beside, bind
from confide.route.models import ServedModel
from confide.route.replicas import Replicas
from confide.secret import one_line


@dataclass(frozen=True)
class Board:
    """What all processes of a server share. ``listener`` and ``token`` are of the address where metrics are read."""

    layout: Layout
    memory: Any
    listener: socket.socket
    token: str | None

    def metrics(self, row: int) -> Metrics:
        """Those that one process counts."""
        return Metrics(self.layout, self.memory, row)


def board(settings: Settings, models: Sequence[str]) -> Board | None:
    """Made once, before there are several processes; None where the settings ask for no metrics.

    Raises:
        ConfigError: the address can't be had, or the token can't be read.
    """
    if settings.metrics is None:
        return None
    file = settings.metrics_token_file
    token = None if file is None else one_line(file, "a token")
    layout = Layout(tuple(endpoint.path for endpoint in ENDPOINTS), tuple(models), version("confide"))
    listener = bind(*settings.metrics_address, option="metrics")
    return Board(layout, memory(layout, settings.workers), listener, token)


@asynccontextmanager
async def told(board: Board, metrics: Metrics) -> AsyncIterator[None]:
    """Answer ``GET /metrics`` until the end of the block."""
    doorman = Doorman(None if board.token is None else Token(board.token).find)
    server = Beside(build_metrics(metrics.text, doorman))
    task = asyncio.create_task(server.serve(sockets=[board.listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)


def looking(metrics: Metrics, served: Sequence[ServedModel]) -> Callable[[], None]:
    """A chore that notes how the engines stand."""

    def look() -> None:
        for model in served:
            _note(metrics, model)

    return look


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
