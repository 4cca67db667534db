"""Several processes: all answer, a dead one is replaced, a hopeless one ends them all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx

from confide.engine.pull import LocalModel
from tests.serving import serving

HOPELESS = """
import sys
from confide.errors import StoreError
from confide.workers import run_workers

def dies(number, ready):
    raise StoreError("the store can't be used")

if __name__ == "__main__":
    sys.exit(run_workers(dies, 2, on_ready=lambda: None))
"""


def children(parent: int) -> set[int]:
    """The worker processes: children that aren't multiprocessing's own helper."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mine = f"PPid:\t{parent}\n" in (folder / "status").read_text()
            if mine and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return found


def test_a_killed_worker_is_replaced(smollm2: LocalModel, tmp_path: Path) -> None:
    with serving(tmp_path, [f"smol={smollm2.path}"], "--workers", "2", auth=False) as server:
        before = children(server.process.pid)
        assert len(before) == 2
        os.kill(min(before), signal.SIGKILL)
        tick = threading.Event()
        for _ in range(600):
            if len(children(server.process.pid)) == 2 and children(server.process.pid) != before:
                break
            tick.wait(0.1)
        assert len(children(server.process.pid) - before) == 1
        for _ in range(4):
            body = {"model": "smol", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}
            assert httpx.post(f"{server.url}/chat/completions", json=body, timeout=120).status_code == 200
    assert server.process.returncode == 0


def test_workers_that_never_start_end_the_server(tmp_path: Path) -> None:
    script = tmp_path / "hopeless.py"
    script.write_text(HOPELESS)
    ended = subprocess.run([sys.executable, script], timeout=60, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert set(ended.stderr.splitlines()) == {"Error: the store can't be used"}
