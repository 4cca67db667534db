"""Fixtures for every room."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from confide.engine.catalogue import DEFAULT
from confide.engine.pull import LocalModel, pull
from tests.postgres import Postgres, running

ROOT = Path(__file__).parent.parent

# A machine that is busy must fail no test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# Who starts the tests in the background may ignore interrupts, and so would the programs that they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Silent:
    """A progress display that shows nothing."""

    def start(self, total: int, text: str) -> None: ...
    def advance(self, n: int) -> None: ...
    def done(self) -> None: ...


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """Where the real models of the tests are kept between runs."""
    return Path(os.environ.get("CONFIDE_TEST_CACHE") or ROOT / ".cache" / "test-models")


@pytest.fixture(scope="session")
def smollm2(model_cache: Path) -> LocalModel:
    """The default model, fetched once and checked in every session."""
    return pull(DEFAULT, model_cache, Silent())


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the whole session; whoever stops it starts it again."""
    with running() as server:
        yield server
