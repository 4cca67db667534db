"""Servers that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.proof.talking import EchoServer, echoing


@pytest.fixture(scope="session")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """An echo server that nobody kills."""
    with echoing(tmp_path_factory.mktemp("echo")) as server:
        yield server
