"""Real clients of the endpoints beside chat completions, at a server in front of an engine with vLLM's shapes, and
through ``confide proxy``, which checks the receipt of every answer before its end is given on.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.clients.environments import python_environment, scenario_names
from tests.clients.test_through_proxy import proxying
from tests.proof.test_forwarded import ID, attached, server
from tests.serving import RunningServer
from tests.simulator.engine_dialects import MODEL
from tests.simulator.engine_endpoints import EMBEDDINGS
from tests.simulator.engines import StandIn, standing_in

pytestmark = pytest.mark.timeout(1200)
SCRIPTS = [("clients-openai", "openai_endpoints.py"), ("clients-anthropic", "anthropic_sdk.py")]


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[StandIn, StandIn]]:
    """One that talks and sees, and one that gives vectors."""
    with standing_in("vllm") as talking, standing_in("vllm", routes=frozenset({EMBEDDINGS})) as vectors:
        yield talking, vectors


@pytest.fixture(scope="module")
def running(engines: tuple[StandIn, StandIn], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    talking, vectors = engines
    second = f'[[model]]\nid = "org/vectors"\nurls = {json.dumps([vectors.url])}\nupstream_model = "{MODEL}"\n'
    models = attached(talking.url, more="vision = true") + second
    with server(tmp_path_factory.mktemp("endpoints"), models) as one:
        yield one


def pixel() -> str:
    out = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


@contextmanager
def reached(running: RunningServer, folder: Path, way: str) -> Iterator[RunningServer]:
    if way == "direct":
        yield running
        return
    with proxying(running, folder, "--no-seal") as proxied:
        yield replace(running, url=proxied.server.url)


@pytest.mark.parametrize(("environment", "script"), SCRIPTS)
@pytest.mark.parametrize("way", ["direct", "proxy"])
def test_every_scenario(
    running: RunningServer,
    engines: tuple[StandIn, StandIn],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: str,
    script: str,
    way: str,
) -> None:
    made = python_environment(environment)
    before = len(engines[0].asked)
    with reached(running, tmp_path, way) as at:
        done = made.scenarios(script, at, {"PIXEL": pixel()})
    assert list(done) == scenario_names(script)
    wrong = {name: error for name, error in done.items() if error}
    assert not wrong, "\n".join(f"{name}: {error}" for name, error in wrong.items())
    sent = [request.json for request in engines[0].asked[before:]]
    assert {body["model"] for body in sent} == {MODEL}
    assert ID not in json.dumps(sent)
    assert all(len(body["cache_salt"]) == 43 for body in sent)
    assert {body.get("store", False) for body in sent} == {False}
