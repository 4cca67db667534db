"""The two places where the page's modules run, and the cases that both are given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.world import Between, World, between, world
from tests.web.running import Run, in_browser, in_node


@pytest.fixture(scope="session", params=["node", "chromium"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs the modules: once in Node, once in a browser."""
    if request.param == "node":
        yield in_node(tmp_path_factory.mktemp("node"))
        return
    with in_browser() as running:
        yield running


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server without TLS, whose engine echoes."""
    with world(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture(scope="session")
def _relay(served: World) -> Iterator[Between]:
    with between(served) as made:
        yield made


@pytest.fixture
def relay(_relay: Between) -> Between:
    """A relay in front of it that may change every answer, honest until it is told otherwise."""
    _relay.relay.tamper = lambda _: None
    _relay.relay.seen.clear()
    return _relay
