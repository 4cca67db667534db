"""A running server for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.serving import RunningServer, serving

from confide.engine.pull import LocalModel

MODEL = "acme/small-1"
CONTEXT = 1024

SETTINGS = """
cors_origins = ["https://app.example"]

[[model]]
id = "{id}"
source = "{path}"
slots = 2
context_length = {context}
"""


@pytest.fixture(scope="session")
def server(smollm2: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """``confide serve`` with keys, one model of two slots, and one origin allowed."""
    folder = tmp_path_factory.mktemp("server")
    settings = folder / "confide.toml"
    settings.write_text(SETTINGS.format(id=MODEL, path=smollm2.path, context=CONTEXT))
    with serving(folder, [], "--config", str(settings), model=MODEL) as running:
        yield running
