"""Fixtures for every room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from confide.engine.catalogue import DEFAULT
from confide.engine.pull import LocalModel, pull

ROOT = Path(__file__).parent.parent


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
