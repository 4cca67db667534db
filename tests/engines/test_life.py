"""An engine as our child: measured, started, attached to by another server, started anew, and ended with us."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest

from tests.engines.kinds import ID
from tests.engines.ledger import Ledger, Refusal, capability
from tests.engines.stage import Stage, descendants, staged, stat, until

pytestmark = pytest.mark.timeout(1800)


@capability("a child: its weights' digests in the manifest")
def test_manifest(stage: Stage) -> None:
    entry = stage.model
    assert (entry.id, entry.runs) == (ID, "child")
    assert entry.engine.arguments
    weights = Path(stage.weights)
    for file in entry.files:
        if file.role == "weights":
            path = weights / file.name if weights.is_dir() else weights
            with path.open("rb") as stream:
                assert hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    assert {file.role for file in entry.files} >= {"weights"}
    assert entry.tokenizer
    assert entry.chat_template


@capability("attached by its address; which engine it is, found out by asking")
def test_attached(stage: Stage) -> None:
    folder = stage.server.log.parent / "attached"
    folder.mkdir()
    table = {"id": ID, "urls": [stage.address]} | stage.kind.attached(stage.weights)
    with staged(folder, stage.kind, table, Ledger()) as other:
        assert (other.model.runs, other.model.files) == ("attached", ())
        assert other.model.engine.name == stage.model.engine.name
        assert other.model.engine.version == stage.model.engine.version
        assert other.ask().text == stage.ask().text
        assert other.ask(stream=True).chunks


@capability("a child that is killed: an error in OpenAI's shape, then started anew")
def test_killed(stage: Stage) -> None:
    before = stage.engine
    os.kill(before, signal.SIGKILL)
    statuses = set()

    def answers() -> bool:
        try:
            return bool(stage.ask().text)
        except Refusal as refusal:
            statuses.add(refusal.status)
            return False

    until(answers, stage.kind.patience)
    assert statuses
    assert statuses <= {502, 503}
    assert stage.engine != before


@capability("a child ends with the server, also when that is killed")
def test_ended(stage: Stage) -> None:
    """The last test of an engine: after it there is none."""
    pids = descendants(stage.server.process.pid)
    assert len(pids) > 1
    stage.server.process.kill()
    stage.server.process.wait()
    until(lambda: not any(stat(pid) and stat(pid)[0] != "Z" for pid in pids), 30)
