"""Both kinds of database: a test that asks for ``database`` runs for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.postgres import Postgres

from confide.store.base import Database
from confide.store.open import database as open_database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where SQLite's file goes."""
    return tmp_path / "data" / "confide.db"


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, path: Path) -> tuple[str | None, Path]:
    """What the settings would say: a URL or None, and a file."""
    if request.param == "sqlite":
        return None, path
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.fresh(), path


@pytest.fixture
def database(where: tuple[str | None, Path]) -> Database:
    """An empty database."""
    return open_database(*where)
