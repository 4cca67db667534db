"""Whole servers in front of engines: what is forwarded stands in the receipt, what runs stands in the manifest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from confide.wire.aci import parse_keyset, subject_manifest
from confide.wire.manifest import NOT_MEASURED, Manifest, RemoteEntry, parse_manifest
from confide.wire.receipt import (
    ModelManifest,
    Receipt,
    RequestForwarded,
    RequestReceived,
    ResponseReturned,
    parse_receipt,
)
from tests.conftest import ROOT
from tests.proof.talking import sha256, text_of
from tests.serving import RunningServer, serving
from tests.simulator.engine_dialects import MODEL, TEXT
from tests.simulator.engines import StandIn, standing_in
from tests.unmeasured import unmeasured

ID = "org/served"
SECRET = "the-secret-of-the-prompt"
PATIENCE = 30.0


@contextmanager
def server(folder: Path, models: str, top: str = "") -> Iterator[RunningServer]:
    config = folder / "confide.toml"
    config.write_text(top + models)
    with serving(folder, (), "--config", str(config), model=ID) as running:
        yield running


def attached(*urls: str, more: str = "") -> str:
    return f'[[model]]\nid = "{ID}"\nurls = {json.dumps(urls)}\nupstream_model = "{MODEL}"\n{more}\n'


def ask(running: RunningServer, **members: Any) -> tuple[bytes, httpx.Response]:
    messages = [{"role": "user", "content": SECRET}]
    body = json.dumps({"model": ID, "messages": messages, "cache_salt": "mine", **members}).encode()
    with running.client() as client:
        return body, client.post("chat/completions", content=body, headers={"Content-Type": "application/json"})


def receipt_of(running: RunningServer, answer: httpx.Response) -> Receipt:
    with running.client() as client:
        found = client.get(f"aci/receipts/{answer.headers['X-Receipt-Id']}")
    assert found.status_code == 200
    return parse_receipt(found.content)


def manifest_of(running: RunningServer) -> Manifest:
    with running.client() as client:
        return parse_manifest(client.get("aci/manifest").content)


@pytest.fixture(scope="module")
def engine() -> Iterator[StandIn]:
    with standing_in("vllm") as one:
        yield one


@pytest.fixture(scope="module")
def running(engine: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with server(tmp_path_factory.mktemp("attached"), attached(engine.url)) as one:
        yield one


@pytest.mark.parametrize("stream", [False, True])
def test_the_receipt_names_the_bytes_that_the_engine_got(running: RunningServer, engine: StandIn, stream: bool) -> None:
    body, answer = ask(running, stream=stream)
    assert answer.status_code == 200
    assert text_of(answer.content) == [TEXT]
    sent = engine.chats[-1]
    assert receipt_of(running, answer).facts.events == (
        RequestReceived(body_hash=sha256(body)),
        ModelManifest(digest=manifest_of(running).digest()),
        RequestForwarded(body_hash=sha256(sent.body)),
        ResponseReturned(body_hash=sha256(answer.content)),
    )
    assert sent.json["model"] == MODEL
    assert sent.json["cache_salt"] not in ("", "mine")


def test_a_request_that_no_engine_got(running: RunningServer, engine: StandIn) -> None:
    before = len(engine.chats)
    _, answer = ask(running, model="nobody's")
    assert answer.status_code == 404
    assert len(engine.chats) == before
    kinds = [type(event) for event in receipt_of(running, answer).facts.events]
    assert kinds == [RequestReceived, ModelManifest, ResponseReturned]


def test_the_manifest_says_that_nothing_was_measured(running: RunningServer) -> None:
    manifest = manifest_of(running)
    (model,) = manifest.models
    assert isinstance(model, RemoteEntry)
    assert manifest.manifest_version == "confide-manifest/2"
    assert (model.id, model.runs, model.reached) == (ID, "attached", ("loopback",))
    assert (model.files, model.source) == ((), NOT_MEASURED)
    assert model.engine.name == "vLLM"
    assert model.engine.version != "unknown"
    with running.client() as client:
        report = client.get("aci/attestation").json()
        keyset = parse_keyset(client.get(f"aci/keysets/{report_digest(client)}").content)
    assert report
    assert subject_manifest(keyset.subject) == manifest.digest()


def report_digest(client: httpx.Client) -> str:
    return client.get("models").headers["X-ACI-Keyset-Digest"]


def test_the_list_of_models_says_which_engine(running: RunningServer) -> None:
    with running.client() as client:
        (model,) = client.get("models").json()["data"]
    assert (model["id"], model["metadata"]["engine"]) == (ID, "vLLM")


# Replicas ------------------------------------------------------------------------------------------------------------


def test_a_replica_that_comes_later(tmp_path: Path) -> None:
    late = tmp_path / "late.sock"
    with standing_in("vllm") as first, server(tmp_path, attached(first.url, f"unix:{late}")) as running:
        assert ask(running)[1].status_code == 200
        model = manifest_of(running).models[0]
        assert isinstance(model, RemoteEntry)
        assert model.reached == ("loopback", "unix")
        with standing_in("vllm", uds=str(late)) as second:
            deadline = time.monotonic() + PATIENCE
            while not second.chats:
                assert time.monotonic() < deadline
                _, answer = ask(running, messages=[{"role": "user", "content": str(time.monotonic())}])
                assert answer.status_code == 200
            assert RequestForwarded(body_hash=sha256(second.chats[-1].body)) in receipt_of(running, answer).facts.events


# Children ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(b"{}")
    (folder / "config.json").write_bytes(b'{"architectures": ["TinyForCausalLM"]}')
    return folder


def child(weights: Path, *arguments: str) -> str:
    program = [sys.executable, "-m", "tests.simulator.engine_program", "vllm", "serve"]
    return (
        f'[[model]]\nid = "{ID}"\nengine = "vllm"\nweights = "{weights}"\ncommand = {json.dumps(program)}\n'
        f"arguments = {json.dumps(arguments)}\n[model.environment]\nPYTHONPATH = {json.dumps(str(ROOT))}\n"
    )


def processes_of(folder: Path) -> list[int]:
    """Engines that were given this folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(folder).encode() in words:
                found.append(int(process.name))
    return found


def wait_until_none(folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while processes_of(folder):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_child_is_measured_started_and_ended(tmp_path: Path, weights: Path) -> None:
    with server(tmp_path, child(weights, "--seed", "1")) as running:
        body, answer = ask(running)
        assert (answer.status_code, text_of(answer.content)) == (200, [TEXT])
        forwarded = [event for event in receipt_of(running, answer).facts.events if isinstance(event, RequestForwarded)]
        assert len(forwarded) == 1
        assert forwarded[0].body_hash != sha256(body)
        (model,) = manifest_of(running).models
        assert isinstance(model, RemoteEntry)
        assert (model.runs, model.reached, model.architecture) == ("child", ("unix",), "TinyForCausalLM")
        assert [file.name for file in model.files] == ["config.json", "tokenizer.json"]
        assert model.engine.arguments == ("--seed", "1")
        assert processes_of(weights)
        given = tmp_path / "given.json"
        given.write_bytes(manifest_of(running).document())
    wait_until_none(weights)
    log = (tmp_path / "server.log").read_text()
    assert SECRET not in log
    assert "loading" not in log

    check = f'manifest = "{given}"\n'
    (tmp_path / "again").mkdir()
    with server(tmp_path / "again", child(weights, "--seed", "1"), top=check) as again:
        assert manifest_of(again).document() == given.read_bytes()
    (weights / "config.json").write_bytes(b"{}")
    text = refused(tmp_path, child(weights, "--seed", "1"), top=check)
    assert "file config.json.sha256: expected" in text
    assert "Traceback" not in text


def test_a_child_that_dies_comes_back(tmp_path: Path, weights: Path) -> None:
    with server(tmp_path, child(weights)) as running:
        assert ask(running)[1].status_code == 200
        for pid in processes_of(weights):
            if b"guard.py" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        statuses = set()
        while True:
            assert time.monotonic() < deadline
            _, answer = ask(running)
            statuses.add(answer.status_code)
            if answer.status_code == 200 and len(statuses) > 1:
                break
        assert statuses <= {200, 502, 503}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_the_server(tmp_path: Path, weights: Path, number: signal.Signals) -> None:
    with server(tmp_path, child(weights)) as running:
        assert processes_of(weights)
        running.process.send_signal(number)
        running.process.wait(PATIENCE)
        wait_until_none(weights)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_server_that_is_ended_while_its_child_starts(tmp_path: Path, weights: Path, number: signal.Signals) -> None:
    program = json.dumps([sys.executable, str(ROOT / "tests/engine/remote/fake_engine.py"), "serve"])
    config = tmp_path / "confide.toml"
    config.write_text(
        f'[[model]]\nid = "{ID}"\nengine = "vllm"\nweights = "{weights}"\ncommand = {program}\narguments = ["--never"]'
    )
    with subprocess.Popen(command(config), env=unmeasured(environment(tmp_path))) as process:
        deadline = time.monotonic() + PATIENCE
        while len(processes_of(weights)) < 2:  # the guard and the engine
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        process.wait(PATIENCE)
    wait_until_none(weights)


# Starts that fail ----------------------------------------------------------------------------------------------------


def command(config: Path) -> list[str]:
    return [sys.executable, "-m", "confide", "serve", "--tee", "dev", "--port", "0", "--config", str(config)]


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"CONFIDE_DATA_DIR": str(folder / "data")}


def refused(folder: Path, models: str, top: str = "") -> str:
    """What ``confide serve`` says when it can't start."""
    config = folder / "confide.toml"
    config.write_text(top + models)
    done = subprocess.run(
        command(config), env=environment(folder), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode in (1, 2)
    return done.stdout + done.stderr


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    text = refused(tmp_path, attached(f"unix:{tmp_path}/nobody.sock"))
    assert f"model {ID}: no engine can be used" in text
    assert "Traceback" not in text


def test_a_child_that_does_not_start(tmp_path: Path, weights: Path) -> None:
    program = child(weights).replace("tests.simulator.engine_program", "tests.simulator.no_such_program")
    text = refused(tmp_path, program)
    assert "ended with code 1 before it was ready" in text
    assert "no_such_program" in text
    assert "Traceback" not in text


def test_a_model_that_the_engine_does_not_have(tmp_path: Path, engine: StandIn) -> None:
    models = attached(engine.url, f"unix:{tmp_path}/down.sock").replace(MODEL, "another")
    text = refused(tmp_path, models)
    assert "does not have the model" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("key", [b"", b"two words", b"\xff", b"x" * 5000])
def test_a_key_that_is_none(tmp_path: Path, engine: StandIn, key: bytes) -> None:
    (tmp_path / "key").write_bytes(key)
    text = refused(tmp_path, attached(engine.url, more=f'api_key_file = "{tmp_path}/key"'))
    assert "key: expected an API key, one line of ASCII" in text


def test_a_key_that_cannot_be_read(tmp_path: Path, engine: StandIn) -> None:
    text = refused(tmp_path, attached(engine.url, more=f'api_key_file = "{tmp_path}/key"'))
    assert "key: can't be read: No such file" in text
