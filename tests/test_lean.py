"""What a server keeps in memory: no library that only other servers, or only the command line, need."""

from __future__ import annotations

import json
import re
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchmarks import targets
from benchmarks.load import PATH, Case

OTHERS = {
    "the command line": ("typer", "rich", "pydantic", "pygments", "confide.cli"),
    "HTTP as a client": ("httpx", "httpcore", "h11"),
    "images": ("PIL", "confide.api.fetch"),
    "the embedded engine": (
        "xllamacpp",
        "llguidance",
        "jsonschema",
        "confide.engine.embedded",
        "confide.engine.schema",
    ),
    "engines that it starts": ("confide.engine.remote.child",),
    "evidence of other machines": ("confide.attest.dstack", "pynvml"),
    "TLS that ends here": ("confide.tls",),
    "ACME": ("acme", "josepy", "confide.acme"),
    "PostgreSQL": ("psycopg", "confide.store.postgres"),
    "checking": ("dcap_qvl", "lxml", "confide.verify", "confide.client"),
    "models": ("huggingface_hub", "gguf", "numpy"),
}
"""What a server whose engines all run elsewhere, and which is sent no image, has no use for."""

_IMPORTED = re.compile(r"^import time: +\d+ \| +\d+ \| +(\S+)$", re.MULTILINE)
_BEGINS = "import time: self [us]"


@dataclass(frozen=True)
class Running:
    """A server that somebody may have asked something; ``at_start``: what it had loaded before."""

    server: targets.Gateway
    log: Path
    at_start: list[str]

    def asked(self, chunks: int | None) -> bytes:
        """An answer of the server, once it has ended."""
        case = Case(300, chunks=chunks)
        headers = {"Authorization": f"Bearer {self.server.key}", "Content-Type": "application/json"}
        asking = urllib.request.Request(f"http://127.0.0.1:{self.server.port}{PATH}", case.body(), headers)
        with urllib.request.urlopen(asking, timeout=30) as answer:
            body: bytes = answer.read()
        return body


def imported(log: Path) -> list[str]:
    """Every module that the process which serves has loaded, in order."""
    return _IMPORTED.findall(log.read_text().rpartition(_BEGINS)[2])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("lean")
    with (
        targets.engine(folder) as engine,
        targets.confide(
            folder, engine.port, serve=(sys.executable, "-m", "confide"), cores=None, PYTHONPROFILEIMPORTTIME="1"
        ) as server,
    ):
        log = folder / server.name / "log"
        yield Running(server, log, imported(log))


@pytest.mark.parametrize("use", OTHERS)
def test_what_only_others_need_is_not_loaded(running: Running, use: str) -> None:
    json.loads(running.asked(None))
    loaded = imported(running.log)
    assert "confide.engine.remote.engine" in loaded
    assert [name for name in loaded if _within(name, OTHERS[use])] == []


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_a_first_request_finds_everything_loaded(running: Running) -> None:
    json.loads(running.asked(None))
    assert running.asked(3).endswith(b"data: [DONE]\n\n")
    assert imported(running.log) == running.at_start
