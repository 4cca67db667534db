"""Engines that fail behind a whole server, over real connections: what the client gets, and what its receipt says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from confide.wire.aci import parse_keyset
from confide.wire.receipt import Receipt, RequestForwarded, parse_receipt
from tests.conftest import ROOT
from tests.proof.talking import aborted, check_receipt, data_lines, sha256, text_of
from tests.serving import RunningServer, serving
from tests.simulator.engine_dialects import MODEL, TEXT
from tests.simulator.engines import StandIn, standing_in

ID = "org/served"
HELLO = [{"role": "user", "content": "Good day."}]
PATIENCE = 30.0
WAITS = "connect_timeout = 2\nfirst_token_timeout = 1\nbetween_tokens_timeout = 1\ntotal_timeout = 4\n"


def attached(*urls: str, id: str = ID) -> str:
    return f'[[model]]\nid = "{id}"\nurls = {json.dumps(urls)}\nupstream_model = "{MODEL}"\n{WAITS}'


@contextmanager
def server(folder: Path, *urls: str, id: str = ID) -> Iterator[RunningServer]:
    config = folder / "confide.toml"
    config.write_text(attached(*urls, id=id))
    with serving(folder, (), "--config", str(config), model=id) as running:
        yield running


def ask(running: RunningServer, **members: Any) -> tuple[httpx.Response, Receipt]:
    """A request and its receipt, which must be of the bytes that were sent and that came."""
    body = json.dumps({"model": running.model, "messages": HELLO, **members}).encode()
    with running.client() as client:
        answer = client.post("chat/completions", content=body, headers={"Content-Type": "application/json"})
        keyset = parse_keyset(client.get(f"aci/keysets/{answer.headers['X-ACI-Keyset-Digest']}").content)
        manifest = sha256(client.get("aci/manifest").content)
        found = client.get(f"aci/receipts/{answer.headers['X-Receipt-Id']}")
    receipt = check_receipt(found.content, keyset, asked=body, answered=answer.content, manifest=manifest)
    return answer, receipt


def broken_off(stream: bytes) -> bool:
    """Whether it tells of an error after some text, before its end."""
    *before, last, done = data_lines(stream)
    return bool(before) and set(json.loads(last)["error"]) >= {"message", "type"} and done == b"[DONE]"


def forwarded(receipt: Receipt) -> list[str]:
    return [event.body_hash for event in receipt.facts.events if isinstance(event, RequestForwarded)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, StandIn]]:
    """A server with one engine."""
    with standing_in("vllm") as engine, server(tmp_path_factory.mktemp("one"), engine.url) as running:
        yield running, engine


@contextmanager
def failing(engine: StandIn, **faults: Any) -> Iterator[None]:
    """It goes wrong until the context ends."""
    before = engine.faults
    engine.now(**faults)
    try:
        yield
    finally:
        engine.faults = before


def test_all_is_well(one: tuple[RunningServer, StandIn]) -> None:
    running, engine = one
    for stream in (False, True):
        answer, receipt = ask(running, stream=stream)
        assert (answer.status_code, text_of(answer.content)) == (200, [TEXT])
        assert forwarded(receipt) == [sha256(engine.chats[-1].body)]
        assert aborted(receipt) is None


# Before the first byte: an error with a status, on one engine ---------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"die_after": 0}, 502, None),
        ({"silent": True}, 502, None),
        ({"garbage": "http"}, 502, None),
        ({"compressed": True}, 502, None),
        ({"status": 500, "refusal": "CUDA out of memory at /srv/models: Good day."}, 502, None),
        ({"status": 503, "refusal": "loading /srv/models"}, 503, None),
        ({"status": 429, "refusal": "queue at 10.0.0.7 is full"}, 429, "rate_limit_exceeded"),
        ({"status": 401, "refusal": "wrong key"}, 502, None),
        ({"status": 404, "refusal": "no model at /srv/models"}, 502, None),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else None,
)
def test_it_fails_before_the_first_byte(
    one: tuple[RunningServer, StandIn], fault: dict[str, Any], status: int, code: str | None, stream: bool
) -> None:
    running, engine = one
    with failing(engine, **fault):
        answer, receipt = ask(running, stream=stream)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert code is None or error["code"] == code
    assert not any(word in answer.text for word in ("/srv", "10.0.0.7", "Good day"))
    assert aborted(receipt) is None, "it is a complete answer, and an error"
    assert ask(running)[0].status_code == 200


@pytest.mark.parametrize(
    "edit",
    [
        lambda payloads: ["no object"],
        lambda payloads: [{}],
        lambda payloads: [payloads[0] | {"choices": []}],
        lambda payloads: [{"error": {"message": "Good day. at /srv/models", "code": 500}}],
    ],
    ids=["text", "empty", "no-choice", "error"],
)
def test_a_whole_answer_that_is_none(one: tuple[RunningServer, StandIn], edit: Any) -> None:
    running, engine = one
    with failing(engine, edit=edit):
        answer, receipt = ask(running)
    assert answer.status_code == 502
    assert "Good day" not in answer.text
    assert forwarded(receipt) in ([], [sha256(engine.chats[-1].body)])


# In mid-stream: an error event, then the end, and a receipt that says so ----------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        {"die_after": 3},
        {"garbage": "event"},
        {"garbage": "line"},
        {"stall_after": 3},
        {"edit": lambda payloads: [*payloads[:3], {"error": {"message": "Good day.", "code": 500}}]},
        {"edit": lambda payloads: payloads[:3]},
    ],
    ids=["dies", "no-json", "no-event", "stalls", "error-event", "ends-early"],
)
def test_it_fails_in_mid_stream(one: tuple[RunningServer, StandIn], fault: dict[str, Any]) -> None:
    running, engine = one
    with failing(engine, **fault):
        answer, receipt = ask(running, stream=True)
    assert answer.status_code == 200
    assert broken_off(answer.content)
    assert "Good day" not in answer.text
    assert aborted(receipt) is not None
    assert forwarded(receipt) == [sha256(engine.chats[-1].body)]
    assert ask(running)[0].status_code == 200


def test_a_slow_engine_is_waited_for(one: tuple[RunningServer, StandIn]) -> None:
    """Slower than any one wait, but for the total."""
    running, engine = one
    with failing(engine, pace=0.15):
        answer, receipt = ask(running, stream=True)
    assert text_of(answer.content) == [TEXT]
    assert aborted(receipt) is None
    with failing(engine, pace=0.7):
        answer, receipt = ask(running, stream=True)
    assert broken_off(answer.content)
    assert aborted(receipt) is not None


def test_connections_that_the_engine_closes_at_random(one: tuple[RunningServer, StandIn]) -> None:
    running, engine = one
    for every in (1, 2, 3):
        with failing(engine, hang_up=every):
            for number in range(8):
                answer, _ = ask(running, stream=bool(number % 2))
                assert (answer.status_code, text_of(answer.content)) == (200, [TEXT])


# Replicas ------------------------------------------------------------------------------------------------------------


def program(socket: Path, faults: dict[str, Any] | None = None) -> subprocess.Popen[bytes]:
    """An engine in a process of its own."""
    words = ["vllm", "serve", "m", "--served-model-name", MODEL, "--uds", str(socket)]
    command = [sys.executable, "-m", "tests.simulator.engine_program", *words, "--faults", json.dumps(faults or {})]
    socket.unlink(missing_ok=True)
    started = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while not socket.exists():
        assert time.monotonic() < deadline
        assert started.poll() is None
        time.sleep(0.02)
    return started


def questions() -> Iterator[list[dict[str, str]]]:
    """Conversations of which each may go to another replica."""
    for number in range(10_000):
        yield [{"role": "user", "content": f"Question {number}"}]


@pytest.mark.parametrize("fault", [{"die_after": 0}, {"silent": True}, {"garbage": "http"}, {"status": 500}], ids=repr)
def test_another_replica_answers(tmp_path: Path, fault: dict[str, Any]) -> None:
    with (
        standing_in("vllm") as first,
        standing_in("vllm") as second,
        server(tmp_path, first.url, second.url) as running,
    ):
        first.now(**fault)
        asked = questions()
        while not first.chats:
            answer, receipt = ask(running, messages=next(asked), stream=True)
            assert (answer.status_code, text_of(answer.content)) == (200, [TEXT])
        assert forwarded(receipt)[-1] == sha256(second.chats[-1].body)


def test_a_replica_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    """In mid-stream the client is told; then the other one answers; the first gets requests again when it is there."""
    place = tmp_path / "first.sock"
    with ExitStack() as stack:
        second = stack.enter_context(standing_in("vllm"))
        first = program(place, {"pace": 0.3})
        stack.callback(lambda: first.kill())
        running = stack.enter_context(server(tmp_path, f"unix:{place}", second.url))
        asked = questions()
        with running.client() as client:
            while True:
                body = {"model": ID, "messages": next(asked), "stream": True}
                before = len(second.chats)
                with client.stream("POST", "chat/completions", json=body) as answer:
                    lines = answer.iter_lines()
                    next(lines)
                    if len(second.chats) == before:
                        first.send_signal(signal.SIGKILL)
                        first.wait()
                        rest = list(lines)
                        break
        assert '"error"' in rest[-4]
        for _ in range(6):
            assert ask(running, messages=next(asked))[0].status_code == 200
        first = program(place)
        deadline = time.monotonic() + PATIENCE
        before = len(second.chats)
        count = 0
        while len(second.chats) - before == count:
            assert time.monotonic() < deadline, "it gets no request"
            assert ask(running, messages=next(asked))[0].status_code == 200
            count += 1
        first.terminate()
        first.wait()


# Bytes ---------------------------------------------------------------------------------------------------------------


def test_a_stream_split_at_every_byte_reaches_the_socket_as_it_was_written(tmp_path: Path) -> None:
    """The engine's bytes are the client's, and those of the receipt, wherever they are cut on the way."""
    members: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 2}
    written: list[bytes] = []

    def remember(payloads: list[Any]) -> list[Any]:
        events = [json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode() for one in payloads]
        written[:] = [b"data: " + event + b"\n\n" for event in [*events, b"[DONE]"]]
        return payloads

    with standing_in("vllm", edit=remember) as engine, server(tmp_path, engine.url, id=MODEL) as running:
        ask(running, **members)
        length = len(b"".join(written))
        assert length > 500
        with running.client() as client:
            for cut in range(1, length):
                engine.now(cut=cut)
                answer = client.post("chat/completions", json={"model": MODEL, "messages": HELLO, **members})
                assert answer.content == b"".join(written), cut
                receipt = parse_receipt(client.get(f"aci/receipts/{answer.headers['X-Receipt-Id']}").content)
                assert (receipt.response_hash(), aborted(receipt)) == (sha256(answer.content), None), cut
        engine.now(cut=0, split=1)
        assert ask(running, **members)[0].content == b"".join(written)
