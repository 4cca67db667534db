"""The OpenAI SDKs, unchanged, through ``confide proxy``: verified, sealed, every receipt checked."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from confide.engine.pull import LocalModel
from tests.clients.environments import node_environment, python_environment, scenario_names
from tests.serving import RunningServer, serving

pytestmark = pytest.mark.timeout(1200)
CONFIDE = [sys.executable, "-m", "confide"]
DEVELOPMENT = 3


@dataclass(frozen=True)
class Proxied:
    """The server as programs see it through the proxy, and the proxy."""

    server: RunningServer
    process: subprocess.Popen[str]
    written: list[Path]
    """Where it writes, standard output and error."""


@pytest.fixture(scope="module")
def fresh_server(smollm2: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that nobody talked to before."""
    with serving(tmp_path_factory.mktemp("behind"), [f"acme/smol={smollm2.path}"]) as running:
        yield running


@pytest.fixture(scope="module")
def proxied(fresh_server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    with proxying(fresh_server, tmp_path_factory.mktemp("proxy")) as made:
        yield made


@contextmanager
def proxying(server: RunningServer, folder: Path, *options: str, rewritten: bool = False) -> Iterator[Proxied]:
    """``confide policy init``, then ``confide proxy`` with that policy; ``rewritten`` is for engines behind HTTP."""
    origin = server.url.removesuffix("/v1")
    roots = server.log.parent / "data" / "dev-pki" / "development-roots.pem"
    shared = ["--insecure-dev-root", str(roots), *(["--self-signed"] if origin.startswith("https:") else [])]
    made = subprocess.run(
        [*CONFIDE, "policy", "init", origin, "-o", str(folder / "policy.toml"), *shared], capture_output=True, text=True
    )
    assert made.returncode == DEVELOPMENT, made.stdout + made.stderr
    policy = folder / "policy.toml"
    if rewritten:
        policy.write_text(policy.read_text() + "\n[receipts]\nrewritten = true\n")
    command = [*CONFIDE, "proxy", origin, "--port", "0", "--policy", str(policy), *shared, *options]
    written = [folder / "proxy.out", folder / "proxy.err"]
    with written[0].open("w") as out, written[1].open("w") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, text=True, env=_without_keys())
    yield Proxied(replace(server, url=_address(process, written)), process, written)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    assert process.wait(30) == DEVELOPMENT, written[1].read_text()


def _address(process: subprocess.Popen[str], written: list[Path]) -> str:
    tick = threading.Event()
    for _ in range(600):
        found = re.match(r"export OPENAI_BASE_URL=(\S+)", written[0].read_text())
        if found:
            return found[1]
        assert process.poll() is None, written[1].read_text()
        tick.wait(0.1)
    raise AssertionError(f"the proxy did not start: {written[1].read_text()}")


def _without_keys() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "API_KEY" not in name}


@pytest.mark.parametrize("script", ["openai_sdk.py", "openai_sdk.mjs"])
def test_every_scenario_of_the_sdk(proxied: Proxied, script: str) -> None:
    environment = node_environment() if script.endswith(".mjs") else python_environment("clients-openai")
    done = environment.scenarios(script, proxied.server)
    assert list(done) == scenario_names(script)
    wrong = {name: error for name, error in done.items() if error}
    assert not wrong, "\n".join(f"{name}: {error}" for name, error in wrong.items())
    assert proxied.process.poll() is None


def test_the_proxy_shows_no_content(proxied: Proxied) -> None:
    """What it writes is for terminals and logs."""
    secret = "aurora-borealis-over-the-fjord"
    with proxied.server.client() as client:
        answer = client.post(
            "/chat/completions",
            json={"model": proxied.server.model, "messages": [{"role": "user", "content": secret}], "max_tokens": 4},
        )
    assert answer.status_code == 200, answer.text
    texts = [path.read_text() for path in proxied.written]
    assert all(texts), "nothing was written that could be looked at"
    assert not any(secret in text for text in texts)
