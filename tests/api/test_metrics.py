"""What is counted, by whom, and who may read it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp
from tests.doubles import FOREVER, Client, MemorySink, ScriptedEngine, app_with, asked, chat_body
from tests.serving import serving
from tests.test_workers import children

from confide.api.app import build_metrics
from confide.api.auth import Doorman, Token
from confide.api.metric_families import CODES, FAMILIES
from confide.api.metrics import Layout, MeteredSink, Metrics, memory
from confide.engine.pull import LocalModel
from confide.errors import EngineFailed, InvalidRequest, StoreError, TooManyRequests
from confide.observing import look
from confide.route.models import ServedModel
from confide.route.replicas import Replica, Replicas

CHAT = "/v1/chat/completions"
LAYOUT = Layout((CHAT, "/v1/other"), ("m", 'odd"\\'), "1.2.3")
FRAME = b'data: {"choices":[]}\n\n'
_SAMPLE = re.compile(r'([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)+\})? ([0-9.e+-]+)')


def made(rows: int = 1) -> list[Metrics]:
    """Those of so many processes."""
    shared = memory(LAYOUT, rows)
    return [Metrics(LAYOUT, shared, row) for row in range(rows)]


def samples(metrics: Metrics) -> dict[str, float]:
    """What Prometheus would read, which is a whole number of well-formed lines."""
    return parsed(metrics.text().decode())


def parsed(text: str) -> dict[str, float]:
    """The samples of a text."""
    assert text.endswith("\n")
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("# "):
            sample = _SAMPLE.fullmatch(line)
            assert sample, line
            name = sample[1] + (sample[2] or "")
            assert name not in found
            found[name] = float(sample[3])
    return found


def counted(engine: ScriptedEngine, client: Client | None = None, **options: Any) -> dict[str, float]:
    """The numbers after one request."""
    (metrics,) = made()
    sink = MeteredSink(options.pop("sink", MemorySink()), metrics)
    asked(app_with(engine, meter=metrics, sink=sink, **options), client)
    return samples(metrics)


def requests(found: dict[str, float]) -> dict[tuple[str, str], float]:
    """How many requests ended how, by model and outcome."""
    wanted = re.compile(rf'confide_requests_total\{{endpoint="{CHAT}",model="(.*)",outcome="(.*)"\}}')
    return {(hit[1], hit[2]): value for name, value in found.items() if (hit := wanted.fullmatch(name))}


# Each way in which a request can end ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("stream", "name"), [(False, "m"), (True, "m"), (True, "alias")])
def test_an_answer(stream: bool, name: str) -> None:
    steps = [FRAME, FRAME] if stream else [b"{}"]
    found = counted(ScriptedEngine(*steps), Client(chat_body(stream=stream, model=name)))
    assert requests(found) == {("m", "answered"): 1}, "by its id, whatever it was called"
    assert found['confide_prompt_tokens_total{model="m"}'] == 3
    assert found['confide_completion_tokens_total{model="m"}'] == 5
    assert found['confide_receipts_total{result="committed"}'] == 1
    assert found["confide_commit_wait_seconds_count"] == 1
    for name in ("request_duration", "time_to_first_byte"):
        labels = f'endpoint="{CHAT}",model="m"'
        assert found[f"confide_{name}_seconds_count{{{labels}}}"] == 1
        assert found[f'confide_{name}_seconds_bucket{{{labels},le="300"}}'] == 1
    assert found[f'confide_requests_in_flight{{endpoint="{CHAT}"}}'] == 0
    assert not any(name.startswith("confide_errors_total") for name in found)


REFUSALS: dict[str, tuple[Callable[[], ScriptedEngine], bytes, tuple[str, str], str]] = {
    "no JSON": (ScriptedEngine, b"{", ("", "refused"), "invalid_request_error"),
    "no such model": (ScriptedEngine, chat_body(model="secret"), ("", "refused"), "model_not_found"),
    "a parameter": (ScriptedEngine, chat_body(logprobs=True), ("m", "refused"), "unsupported_parameter"),
    "by the engine": (
        lambda: ScriptedEngine(refusal=InvalidRequest("no", code="context_length_exceeded")),
        chat_body(),
        ("m", "refused"),
        "context_length_exceeded",
    ),
    "no room": (lambda: ScriptedEngine(refusal=TooManyRequests("no")), chat_body(), ("m", "unavailable"), "requests"),
    "a broken engine": (
        lambda: ScriptedEngine(refusal=EngineFailed("no")),
        chat_body(),
        ("m", "failed"),
        "server_error",
    ),
    "a bug": (lambda: ScriptedEngine(refusal=RuntimeError("secret")), chat_body(), ("m", "failed"), "server_error"),
    "a code of the engine's": (
        lambda: ScriptedEngine(refusal=InvalidRequest("no", code="secret")),
        chat_body(),
        ("m", "refused"),
        "other",
    ),
    "in mid-stream": (
        lambda: ScriptedEngine(FRAME, EngineFailed("no")),
        chat_body(stream=True),
        ("m", "failed"),
        "server_error",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_an_error(what: str) -> None:
    engine, body, outcome, code = REFUSALS[what]
    found = counted(engine(), Client(body))
    assert requests(found) == {outcome: 1}
    errors = {name: value for name, value in found.items() if name.startswith("confide_errors_total")}
    assert errors == {f'confide_errors_total{{code="{code}"}}': 1}
    assert "secret" not in str(found)


def test_nobody_is_let_in() -> None:
    found = counted(ScriptedEngine(b"{}"), find=lambda presented: None)
    assert requests(found) == {("", "refused"): 1}
    assert found['confide_errors_total{code="invalid_request_error"}'] == 1
    assert not any("receipts" in name for name in found)


@pytest.mark.parametrize("stream", [False, True])
def test_a_store_that_is_down_at_the_end(stream: bool) -> None:
    found = counted(
        ScriptedEngine(FRAME if stream else b"{}"), Client(chat_body(stream=stream)), sink=MemorySink(broken=True)
    )
    assert requests(found) == {("m", "failed" if stream else "unavailable"): 1}
    assert found['confide_receipts_total{result="failed"}'] == 1
    assert found["confide_store_errors_total"] == 1


def test_a_store_that_is_down_at_the_start() -> None:
    def find(presented: str) -> Any:
        raise StoreError("down")

    client = Client(chat_body(), headers={"authorization": "Bearer x"})
    found = counted(ScriptedEngine(b"{}"), client, find=find)
    assert client.status == 503
    assert requests(found) == {("", "unavailable"): 1}
    assert found["confide_store_errors_total"] == 1


def test_a_client_that_leaves_is_counted_and_under_way_until_then() -> None:
    (metrics,) = made()
    app = app_with(ScriptedEngine(FRAME, FOREVER), meter=metrics)
    client = Client(chat_body(stream=True))

    async def main() -> None:
        task = asyncio.ensure_future(client.of(app))
        await asyncio.wait_for(client.got_something.wait(), 10)
        assert samples(metrics)[f'confide_requests_in_flight{{endpoint="{CHAT}"}}'] == 1
        client.gone.set()
        await task

    asyncio.run(main())
    found = samples(metrics)
    assert requests(found) == {("m", "left"): 1}
    assert found[f'confide_requests_in_flight{{endpoint="{CHAT}"}}'] == 0
    assert found['confide_completion_tokens_total{model="m"}'] == 5, "tokens that were made for nobody count"


def test_engines_and_replicas_as_they_stand() -> None:
    async def main() -> None:
        (metrics,) = made()
        failing = ScriptedEngine(refusal=EngineFailed("no"))
        replicas = Replicas(
            [Replica(failing, "one"), Replica(ScriptedEngine(b"{}"), "two")],
            secret=bytes(16),
            clock=time.monotonic,
            random=lambda: 0.5,
        )
        served = [ServedModel(id="m", engine=replicas, name="M")]
        app = app_with(replicas, meter=metrics)  # type: ignore[arg-type]
        for number in range(40):
            message = [{"role": "user", "content": f"conversation {number}"}]
            await Client(chat_body(messages=message)).of(app)
        look(metrics, served)
        look(metrics, served)
        found = samples(metrics)
        assert found['confide_replicas{model="m",state="up"}'] == 1
        assert found['confide_replicas{model="m",state="ejected"}'] == 1
        assert found['confide_replica_failures_total{model="m"}'] == len(failing.calls)
        assert found['confide_replica_ejections_total{model="m"}'] == 1
        assert found['confide_replica_retries_total{model="m"}'] == len(failing.calls)
        assert found['confide_engine_running{model="m"}'] == 0
        await replicas.close()

    asyncio.run(main())


# The numbers themselves ----------------------------------------------------------------------------------------------


def test_a_histogram_counts_up_to_and_with_its_limits() -> None:
    (metrics,) = made()
    for waited in (0.0005, 0.0006, 4.9, 5.0, 5.1, 100.0):
        metrics.committed(waited)
    found = samples(metrics)
    assert found['confide_commit_wait_seconds_bucket{le="0.0005"}'] == 1
    assert found['confide_commit_wait_seconds_bucket{le="0.001"}'] == 2
    assert found['confide_commit_wait_seconds_bucket{le="5"}'] == 4
    assert found['confide_commit_wait_seconds_bucket{le="+Inf"}'] == found["confide_commit_wait_seconds_count"] == 6
    assert found["confide_commit_wait_seconds_sum"] == pytest.approx(115.0011)


def test_no_series_is_beside_another() -> None:
    """Every cell belongs to one series: to count in one changes no other."""
    (metrics,) = made()
    ends = [*list(metrics._places.values())[1:], LAYOUT.width]
    for (name, *_), start, end in zip(metrics._places, metrics._places.values(), ends, strict=True):
        assert end - start == next(family.width for family in FAMILIES if family.name == name)


def test_labels_are_escaped() -> None:
    (metrics,) = made()
    metrics.add(1, "confide_prompt_tokens_total", 'odd"\\')
    assert b'confide_prompt_tokens_total{model="odd\\"\\\\"} 1\n' in metrics.text()


def test_processes_add_up_and_one_that_starts_anew_goes_on() -> None:
    one, other = made(2)
    for metrics in (one, other, other):
        metrics.store_failed()
        metrics.set(2, "confide_replicas", "m", "up")
        metrics.set(3, "confide_engine_running", "m")
    for metrics in (one, other):
        found = samples(metrics)
        assert found["confide_store_errors_total"] == 3
        assert found['confide_replicas{model="m",state="up"}'] == 2, "the same ones, seen by both"
        assert found['confide_engine_running{model="m"}'] == 6
        assert found['confide_build_info{version="1.2.3"}'] == 1
    again = Metrics(LAYOUT, one._all, 1)
    found = samples(again)
    assert found["confide_store_errors_total"] == 3
    assert found['confide_engine_running{model="m"}'] == 3, "what the dead one had under way is gone"


def count_here(shared: Any) -> None:
    Metrics(LAYOUT, shared, 1).store_failed()


def test_another_process_counts_in_the_same_memory() -> None:
    shared = memory(LAYOUT, 2)
    metrics = Metrics(LAYOUT, shared, 0)
    process = multiprocessing.get_context("spawn").Process(target=count_here, args=(shared,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert samples(metrics)["confide_store_errors_total"] == 1


def test_names_follow_the_conventions_and_labels_are_of_ours() -> None:
    ours = {"version", "endpoint", "model", "outcome", "code", "result", "surface", "state"}
    for family in FAMILIES:
        assert family.name.startswith("confide_")
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.name.endswith("_seconds") == (family.kind == "histogram")
        assert list(family.buckets) == sorted(set(family.buckets))
        assert bool(family.buckets) == (family.kind == "histogram")
        assert set(family.labels) <= ours
    assert list(CODES) == sorted(set(CODES))


# Who may read them ---------------------------------------------------------------------------------------------------


def scraped(app: ASGIApp, **headers: str) -> Client:
    """One look."""
    client = Client(method="GET", path="/metrics", headers=headers)
    work: Awaitable[None] = client.of(app)

    async def main() -> None:
        await work

    asyncio.run(main())
    return client


def test_with_a_token_only_who_has_it() -> None:
    (metrics,) = made()
    app = build_metrics(metrics.text, Doorman(Token("correct horse").find))
    assert scraped(app).status == 401
    for wrong in ("Bearer wrong", "Bearer correct hors", "Bearer é", "Basic correct horse", "correct horse"):
        assert scraped(app, authorization=wrong).status == 401
    right = scraped(app, authorization="Bearer correct horse", host="metrics.internal")
    assert (right.status, right.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert right.body == metrics.text()


def test_without_one_no_page_whose_name_was_bound_to_this_machine() -> None:
    (metrics,) = made()
    app = build_metrics(metrics.text, Doorman(None))
    assert scraped(app).status == 200
    assert scraped(app, host="evil.example").status == 403


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/metrics", 405), ("GET", "/v1/models", 404)])
def test_nothing_else_is_there(method: str, path: str, status: int) -> None:
    (metrics,) = made()
    client = Client(method=method, path=path)
    asked(build_metrics(metrics.text, Doorman(None)), client)
    assert client.status == status
    assert client.error()["type"] == "invalid_request_error"


# A server ------------------------------------------------------------------------------------------------------------


def test_a_server_of_two_processes_tells_of_both_also_after_one_died(
    smollm2: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "token").write_text("correct-horse\n")
    monkeypatch.setenv("CONFIDE_METRICS", address)
    monkeypatch.setenv("CONFIDE_METRICS_TOKEN_FILE", str(tmp_path / "token"))
    headers = {"Authorization": "Bearer correct-horse"}

    def total() -> float:
        text = httpx.get(f"http://{address}/metrics", headers=headers).text
        return requests(parsed(text)).get(("smol", "answered"), 0)

    def ask(times: int) -> None:
        for _ in range(times):
            body = {"model": "smol", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
            assert httpx.post(f"{server.url}/chat/completions", json=body, timeout=120).status_code == 200

    with serving(tmp_path, [f"smol={smollm2.path}"], "--workers", "2", auth=False) as server:
        assert httpx.get(f"http://{address}/metrics").status_code == 401
        assert httpx.get(f"{server.url.removesuffix('/v1')}/metrics").status_code == 404, "not where clients are"
        ask(6)
        assert {total() for _ in range(6)} == {6}, "whichever of the two is asked"
        before = children(server.process.pid)
        os.kill(min(before), signal.SIGKILL)
        until = time.monotonic() + 60
        while len(children(server.process.pid) - before) < 1:
            assert time.monotonic() < until
            time.sleep(0.1)
        ask(4)
        assert total() == 10
    assert server.process.returncode == 0
    assert "correct-horse" not in server.log.read_text()
