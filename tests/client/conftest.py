"""Servers and relays that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.world import Between, World, between, world


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server without TLS. Nobody rotates its keys."""
    with world(tmp_path_factory.mktemp("plain")) as made:
        yield made


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server that ends TLS with an attested key. Nobody rotates its keys."""
    with world(tmp_path_factory.mktemp("secure"), tls=True) as made:
        yield made


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server with TLS for one test."""
    with world(tmp_path_factory.mktemp("own"), tls=True) as made:
        yield made


@pytest.fixture(scope="session")
def _plain_relay(plain: World) -> Iterator[Between]:
    with between(plain) as made:
        yield made


@pytest.fixture(scope="session")
def _secure_relay(secure: World) -> Iterator[Between]:
    with between(secure, tls=True) as made:
        yield made


@pytest.fixture
def on_wire(_plain_relay: Between) -> Between:
    """A relay that sees bytes only, honest until it is told otherwise."""
    return _fresh(_plain_relay)


@pytest.fixture
def inside(_secure_relay: Between) -> Between:
    """A relay behind the end of TLS, as if it had the attested key; honest until it is told otherwise."""
    return _fresh(_secure_relay)


def _fresh(made: Between) -> Between:
    made.relay.tamper = lambda _: None
    made.relay.reroute.clear()
    made.relay.seen.clear()
    made.relay.keys.clear()
    made.relay.encodings.clear()
    return made
