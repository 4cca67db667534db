"""One running server for all clients, and the environments that the clients run in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from confide.engine.pull import LocalModel
from tests.clients.environments import Environment, node_environment, python_environment
from tests.serving import RunningServer, serving

Outcomes = Callable[[str, str], dict[str, str | None]]


@pytest.fixture(scope="session")
def server(smollm2: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with keys, and a model whose id has a slash."""
    with serving(tmp_path_factory.mktemp("clients"), [f"acme/smol={smollm2.path}"]) as running:
        yield running


@pytest.fixture(scope="session")
def outcomes(server: RunningServer) -> Outcomes:
    """What became of the scenarios of a script, by environment and script; each script runs once."""
    known: dict[str, dict[str, str | None]] = {}

    def run(environment: str, script: str) -> dict[str, str | None]:
        if script not in known:
            made: Environment = node_environment() if environment == "node" else python_environment(environment)
            known[script] = made.scenarios(script, server)
        return known[script]

    return run
