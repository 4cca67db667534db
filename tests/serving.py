"""A real server in a process of its own, for tests that talk to it as clients do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_SECONDS = 120


@dataclass(frozen=True)
class RunningServer:
    """``url`` ends in ``/v1``; ``key`` is an API key, or None where keys are off."""

    url: str
    key: str | None
    model: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def headers(self) -> dict[str, str]:
        """What a request needs to be let in."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return int(self.url.rsplit(":", 1)[1].partition("/")[0])

    def client(self, timeout: float = 120) -> httpx.Client:
        """An HTTP client that is let in."""
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=timeout)


@contextmanager
def serving(
    folder: Path,
    models: Sequence[str],
    *args: str,
    auth: bool = True,
    model: str | None = None,
    key_name: str = "test",
    patience: int = START_SECONDS,
) -> Iterator[RunningServer]:
    """``confide serve`` on a free port with a data folder of its own.

    Args:
        folder: where the data folder and the log go.
        models: sources as for ``--model``, ``ID=PATH`` for instance.
        args: further arguments.
        auth: whether keys are asked for; then one is made first, with ``confide keys create``.
        model: the id that tests use; by default the first one's.
        key_name: of that key.
        patience: seconds until it must be ready.
    """
    env = os.environ | {"CONFIDE_DATA_DIR": str(folder / "data")}
    confide = [sys.executable, "-m", "confide"]
    key = None
    if auth:
        made = subprocess.run(
            [*confide, "keys", "create", key_name], env=env, capture_output=True, text=True, check=True
        )
        key = next(word for word in made.stdout.split() if word.startswith("sk-"))
    command = [*confide, "serve", "--tee", "dev", "--port", "0", *args]
    for source in models:
        command += ["--model", source]
    if not auth:
        command.append("--no-auth")
    log = folder / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT, text=True)
    try:
        url = _wait_until_ready(process, log, patience)
        yield RunningServer(url, key, model or models[0].partition("=")[0], process, log)
    finally:
        stop(process)


def stop(process: subprocess.Popen[str]) -> int:
    """End it as an operator would; by force if it doesn't go."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError("the server did not end on SIGTERM within 20 seconds") from None
    return process.returncode


def _wait_until_ready(process: subprocess.Popen[str], log: Path, patience: int) -> str:
    tick = threading.Event()
    for _ in range(patience * 10):
        for line in log.read_text().splitlines():
            if "Serving " in line and "://" in line:
                return next(word for word in line.split() if word.startswith(("http://", "https://")))
        if process.poll() is not None:
            break
        tick.wait(0.1)
    raise AssertionError(f"the server did not start; it said:\n{log.read_text()}")
