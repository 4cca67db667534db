"""The two places where the page's modules run, and the cases that both are given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from confide.identity import identity
from confide.wire.aci import SECP256K1_SUITE, X25519_SUITE, PublicKey
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


def _offering(suite: str, folder: Path) -> Iterator[World]:
    """A server whose keyset has a key of one suite only."""
    both = identity._e2ee_keys

    def listed(keys: Any) -> tuple[PublicKey, ...]:
        return tuple(key for key in both(keys) if key.algo == suite)

    with ExitStack() as closing:
        with mock.patch.object(identity, "_e2ee_keys", listed):  # until it has made its keys
            made = closing.enter_context(world(folder))
        yield made


@pytest.fixture(scope="session")
def only_x25519(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server that offers sealing under X25519 only."""
    yield from _offering(X25519_SUITE, tmp_path_factory.mktemp("x25519"))


@pytest.fixture(scope="session")
def only_secp256k1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server that offers sealing under secp256k1 only."""
    yield from _offering(SECP256K1_SUITE, tmp_path_factory.mktemp("secp256k1"))


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
