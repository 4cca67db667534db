"""Real clients of the endpoints beside chat completions, at a server in front of an engine with vLLM's shapes, and
through ``confide proxy``, which checks the receipt of every answer before its end is given on.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
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


def models_of(engines: tuple[StandIn, StandIn]) -> str:
    talking, vectors = engines
    second = f'[[model]]\nid = "org/vectors"\nurls = {json.dumps([vectors.url])}\nupstream_model = "{MODEL}"\n'
    return attached(talking.url, more="vision = true") + second


@contextmanager
def reached(engines: tuple[StandIn, StandIn], folder: Path, way: str) -> Iterator[RunningServer]:
    """A server, or a proxy in front of one that ends TLS at its attested key."""
    top = "" if way == "direct" else "tls = true\n"
    with server(folder, models_of(engines), top) as running:
        if way == "direct":
            yield running
            return
        (folder / "proxy").mkdir()
        with proxying(running, folder / "proxy", "--no-seal", rewritten=True) as proxied:
            yield proxied.server


def pixel() -> str:
    out = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


@pytest.mark.parametrize(("environment", "script"), SCRIPTS)
@pytest.mark.parametrize("way", ["direct", "proxy"])
def test_every_scenario(
    engines: tuple[StandIn, StandIn], tmp_path: Path, environment: str, script: str, way: str
) -> None:
    made = python_environment(environment)
    before = len(engines[0].asked)
    with reached(engines, tmp_path, way) as at:
        done = made.scenarios(script, at, {"PIXEL": pixel()})
    assert list(done) == scenario_names(script)
    wrong = {name: error for name, error in done.items() if error}
    assert not wrong, "\n".join(f"{name}: {error}" for name, error in wrong.items())
    sent = [request.json for request in engines[0].asked[before:]]
    assert {body["model"] for body in sent} == {MODEL}
    assert ID not in json.dumps(sent)
    assert all(len(body["cache_salt"]) == 43 for body in sent)
    assert {body.get("store", False) for body in sent} == {False}
