"""The local proxy: unchanged programs get checked answers, nobody else gets anything, and failures are seen."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from confide.client import renewal
from confide.client.errors import Misused
from confide.client.proxy import Proxy, ProxyLimits, serve_proxy
from confide.client.service import VerifiedService
from confide.errors import OperatorError
from confide.logs import FIELDS
from confide.verify.policy import ModelsPolicy, Policy
from tests.client.test_mitm import LIES, on_answers, on_receipts, receipt_with_another_hash
from tests.client.world import MANIFEST, PATIENCE, POLICY, Between, World, hello
from tests.conftest import ROOT
from tests.rawhttp import Connection, request
from tests.simulator.echo_server import MODEL

TOOL = {"type": "function", "function": {"name": "say", "parameters": {"type": "object", "properties": {}}}}
JSON = {"Content-Type": "application/json"}
CHAT = "/v1/chat/completions"


@dataclass
class Running:
    """A proxy in a thread."""

    proxy: Proxy
    url: str

    @property
    def port(self) -> int:
        """On 127.0.0.1."""
        return int(self.url.rsplit(":", 1)[1].partition("/")[0])

    def connection(self) -> Connection:
        """A connection to it."""
        return Connection(self.port, PATIENCE)

    def raw(self, method: str, path: str, headers: dict[str, str | None], body: bytes = b"") -> Any:
        """The answer to one request; ``Host`` is right unless it is given."""
        with self.connection() as connection:
            fields: dict[str, str | None] = {"Host": f"127.0.0.1:{self.port}", **headers}
            connection.send_as_long_as_anybody_reads([request(method, path, fields, body)])
            return connection.answer(to=method)

    def sdk(self, key: str = "unused") -> OpenAI:
        """OpenAI's own client, unchanged."""
        return OpenAI(api_key=key, base_url=self.url)


@contextmanager
def running(service: VerifiedService, limits: ProxyLimits | None = None, host: str = "127.0.0.1") -> Iterator[Running]:
    """A proxy in front of a service."""
    proxy, ready, urls = Proxy(service, limits or ProxyLimits()), threading.Event(), list[str]()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with proxy.listening(host, 0) as url:
            urls.append(url)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield Running(proxy, urls[0])
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE)
        loop.close()


@pytest.fixture(scope="module")
def proxy(secure: World) -> Iterator[Running]:
    """A proxy that has the key."""
    with running(secure.verified()) as made:
        yield made


@pytest.fixture
def lied_to(secure: World, inside: Between) -> Iterator[Running]:
    """A proxy behind whose service somebody tells lies; which, the test says."""
    with running(secure.verified(inside.url)) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.client.exchange._WAITS", (0.0, 0.0))


# Unchanged programs --------------------------------------------------------------------------------------------------


def test_openai_s_sdk(proxy: Running) -> None:
    with proxy.sdk() as client:
        answer = client.chat.completions.create(**hello("Grüße, 世界!"))
        assert answer.choices[0].message.content == "Grüße, 世界!"
        stream = client.chat.completions.create(**hello("piece by piece", stream=True, user="echo:by:1"))
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "piece by piece"
        assert len(chunks) > len("piece by piece")
        tools: Any = client.chat.completions.create(**hello("call me", tools=[TOOL]))
        assert json.loads(tools.choices[0].message.tool_calls[0].function.arguments) == {"said": "call me"}
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).id == MODEL
        with pytest.raises(openai.NotFoundError, match="unheard"):
            client.chat.completions.create(**{**hello(), "model": "unheard"})
    assert proxy.proxy.exit_code == 0


def test_openai_s_asyncio_sdk(proxy: Running) -> None:
    async def talk() -> list[str]:
        async with AsyncOpenAI(api_key="unused", base_url=proxy.url) as client:

            async def ask(number: int) -> str:
                stream = await client.chat.completions.create(**hello(f"I am {number}. " * 20, stream=True))
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

            return await asyncio.gather(*[ask(number) for number in range(8)])

    assert asyncio.run(talk()) == [f"I am {number}. " * 20 for number in range(8)]


def test_its_key_is_passed_on_or_replaced(secure: World, proxy: Running) -> None:
    with proxy.sdk("sk-wrong") as client:
        assert client.chat.completions.create(**hello()).choices
    with running(secure.verified(api_key=None)) as keyless:
        with keyless.sdk("sk-wrong") as client, pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(**hello())
        with keyless.sdk(secure.key) as client:
            assert client.chat.completions.create(**hello()).choices


def test_one_connection_takes_many_requests(proxy: Running) -> None:
    with proxy.connection() as connection:
        for stream in (True, False, True):
            body = json.dumps(hello(stream=stream)).encode()
            connection.send(request("POST", CHAT, {"Host": f"localhost:{proxy.port}", **JSON}, body))
            answer = connection.answer()
            assert answer.status == 200
            assert answer.headers["x-receipt-id"].startswith("rcpt-")
        connection.send(request("GET", "/v1/models", {"Host": f"[::1]:{proxy.port}"}))
        assert connection.answer(to="GET").json()["data"][0]["id"] == MODEL
        connection.send(request("HEAD", "/v1/models", {"Host": f"[::1]:{proxy.port}"}))
        assert connection.answer(to="HEAD").status in (200, 405)


def test_requests_one_after_another_without_waiting(proxy: Running) -> None:
    body = json.dumps(hello()).encode()
    one = request("POST", CHAT, {"Host": f"localhost:{proxy.port}", **JSON}, body)
    with proxy.connection() as connection:
        connection.send(one + one + one)
        assert [connection.answer().status for _ in range(3)] == [200] * 3


def test_a_client_that_asks_before_it_sends(proxy: Running) -> None:
    body = json.dumps(hello()).encode()
    head = request("POST", CHAT, {"Host": f"localhost:{proxy.port}", "Expect": "100-continue", **JSON}, body)
    with proxy.connection() as connection:
        connection.send(head[: -len(body)])
        status, _ = connection.head()
        assert status == 100
        connection.send(body)
        assert connection.answer().status == 200


def test_bytes_come_as_they_are(proxy: Running, inside: Between, lied_to: Running) -> None:
    """Nobody compresses for a client that did not ask for it, or asks in its place."""
    lied_to.raw("GET", "/v1/models", {"Accept-Encoding": "gzip"})
    assert inside.relay.encodings == {"identity"}
    assert "content-encoding" not in proxy.raw("GET", "/v1/models", {"Accept-Encoding": "gzip"}).headers


def test_a_stream_stays_a_stream(proxy: Running) -> None:
    times: list[float] = []
    with httpx.Client(trust_env=False) as client:  # noqa: SIM117
        with client.stream(
            "POST", proxy.url + "/chat/completions", json=hello("abcdef", stream=True, user="echo:slow:60", seed=3)
        ) as answer:
            for piece in answer.iter_raw():
                times.append(time.monotonic())
                last = piece
    assert b"[DONE]" in last
    assert times[-1] - times[0] > 0.1


# Who may ask ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1"}, 403),
        ({"Host": "127.0.0.1:1"}, 403),
        ({"Host": "localhost.evil.example:80"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": None}, 415),
    ],
)
def test_web_pages_get_nothing(proxy: Running, headers: dict[str, str | None], status: int) -> None:
    answer = proxy.raw("POST", CHAT, {**JSON, **headers}, json.dumps(hello()).encode())
    assert answer.status == status
    assert answer.error()["type"] == "invalid_request_error"
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_no_preflight(proxy: Running) -> None:
    answer = proxy.raw("OPTIONS", CHAT, {"Access-Control-Request-Method": "POST"})
    assert answer.status == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path", ["/", "/health", "/v2/models", "/v1/../admin", "/v1/%2e%2e/admin", "http://x/v1/models"]
)
def test_only_the_api(proxy: Running, path: str) -> None:
    assert proxy.raw("GET", path, {}).status == 404


def test_no_page_of_the_service_sets_cookies_or_other_hops(proxy: Running) -> None:
    answer = proxy.raw("GET", "/v1/models", {"Cookie": "a=b"})
    assert answer.status == 200
    assert not {"set-cookie", "access-control-allow-origin"} & set(answer.headers)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\n\r\n",
    ],
)
def test_what_is_no_request(proxy: Running, data: bytes) -> None:
    with proxy.connection() as connection:
        connection.send_as_long_as_anybody_reads([data])
        answer = connection.answer()
        assert answer.status in (400, 403, 431, 505)
        assert connection.closed()


def test_other_addresses_than_loopback_are_refused(secure: World) -> None:
    service = secure.verified()
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.com", ""):
        with pytest.raises(Misused, match="this machine only"):
            serve_proxy(service, host, 0)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OperatorError, match="can't listen"):
        serve_proxy(service, "127.0.0.1", taken.getsockname()[1])


# Limits --------------------------------------------------------------------------------------------------------------


def test_a_body_over_the_limit(secure: World) -> None:
    with running(secure.verified(), ProxyLimits(body=1000)) as proxy:
        answer = proxy.raw("POST", CHAT, JSON, json.dumps(hello("x" * 100_000)).encode())
        assert (answer.status, answer.error()["type"]) == (413, "invalid_request_error")
        assert proxy.raw("POST", CHAT, JSON, json.dumps(hello()).encode()).status == 200


def test_slow_clients_are_let_go(secure: World) -> None:
    with running(secure.verified(), ProxyLimits(request=0.3, idle=0.3)) as proxy:
        with proxy.connection() as connection:
            assert connection.closed()
        with proxy.connection() as connection:
            head = request("POST", CHAT, {"Host": f"localhost:{proxy.port}", **JSON, "Content-Length": "1000"}, b"{")
            connection.send(head)
            assert connection.answer().status == 408
            assert connection.closed()


def test_a_client_that_does_not_read_is_cut_off(secure: World) -> None:
    """And the service is not drained for it: what it doesn't take isn't fetched."""
    limits = ProxyLimits(write=0.5)
    with running(secure.verified(seal=False), limits) as proxy, proxy.connection() as connection:
        _wait_until(lambda: bool(proxy.proxy._clients))
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        body = json.dumps(hello("a long answer " * 600_000, stream=True, user="echo:by:50000")).encode()
        connection.send(request("POST", CHAT, {"Host": f"localhost:{proxy.port}", **JSON}, body))
        _wait_until(lambda: not proxy.proxy._clients)  # however long a busy machine takes
        assert b"[DONE]" not in _rest(connection)


def _rest(connection: Connection) -> bytes:
    try:
        return connection.rest()
    except ConnectionError:
        return b""


def test_a_client_that_leaves_takes_its_request_along(secure: World, caplog: pytest.LogCaptureFixture) -> None:
    with running(secure.verified()) as proxy:
        with proxy.connection() as connection:
            body = json.dumps(hello(stream=True, user="echo:hang:1")).encode()
            connection.send(request("POST", CHAT, {"Host": f"localhost:{proxy.port}", **JSON}, body))
            connection.head()
        _wait_until(lambda: not proxy.proxy._clients)


def _wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true() and time.monotonic() < until:
        time.sleep(0.05)
    assert true()


def test_only_so_many_connections(secure: World) -> None:
    with running(secure.verified(), ProxyLimits(connections=1)) as proxy, proxy.connection():
        time.sleep(0.1)
        with proxy.connection() as second:
            second.send_as_long_as_anybody_reads([request("GET", "/v1/models", {"Host": f"localhost:{proxy.port}"})])
            assert _rest(second) == b""


# Failures ------------------------------------------------------------------------------------------------------------

REFUSED_AT_ONCE = ["a bit in a whole answer", "half an answer", "no encryption", "no receipt's name", "a signature"]


@pytest.mark.parametrize("name", REFUSED_AT_ONCE)
def test_a_failed_proof_is_an_error_of_its_own(lied_to: Running, inside: Between, name: str) -> None:
    inside.relay.tamper = LIES[name][0]
    with lied_to.sdk() as client, pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(**hello("Some words to change. " * 3))
    assert refused.value.status_code == 502
    assert refused.value.type == "verification_failed"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert len(inside.relay.posts) == 1
    assert lied_to.proxy.exit_code == 1


@pytest.mark.parametrize("name", ["a bit in a stream", "the last frame", "a frame in the middle", "a signature"])
def test_a_stream_that_was_changed_has_no_end(lied_to: Running, inside: Between, name: str) -> None:
    """The status is out by then: the connection is cut, which no client takes for an end."""
    inside.relay.tamper = LIES[name][0]
    with lied_to.sdk() as client, pytest.raises(openai.APIConnectionError):
        list(client.chat.completions.create(**hello("Some words to change. " * 3, stream=True)))
    assert len(inside.relay.posts) == 1
    assert lied_to.proxy.exit_code == 1


def test_by_hand_it_is_a_cut(lied_to: Running, inside: Between) -> None:
    inside.relay.tamper = on_receipts(receipt_with_another_hash)
    with lied_to.connection() as connection:
        body = json.dumps(hello(stream=True)).encode()
        connection.send(request("POST", CHAT, {"Host": f"localhost:{lied_to.port}", **JSON}, body))
        status, headers = connection.head()
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        came = _rest(connection)
    assert came
    assert not came.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in came


def test_the_service_s_own_trouble_is_no_failed_proof(lied_to: Running, inside: Between) -> None:
    inside.relay.tamper = on_answers(lambda passing: setattr(passing, "cut", True))
    with lied_to.sdk() as client, pytest.raises(openai.InternalServerError, match="no whole answer") as failed:
        client.with_options(max_retries=0).chat.completions.create(**hello())
    assert failed.value.type == "upstream_error"
    with lied_to.sdk() as client, pytest.raises(openai.APIConnectionError):
        list(client.chat.completions.create(**hello(stream=True)))
    assert lied_to.proxy.exit_code == 0


def test_what_this_client_does_not_do_is_a_bad_request(proxy: Running) -> None:
    answer = proxy.raw("POST", "/v1/responses", JSON, json.dumps({"model": MODEL, "input": "secret"}).encode())
    assert answer.status == 400
    assert "not defined for /v1/responses" in answer.error()["message"]
    assert answer.headers["x-should-retry"] == "false"


def test_logs_say_what_happened_and_no_word_of_what_was_said(
    lied_to: Running, inside: Between, caplog: pytest.LogCaptureFixture
) -> None:
    inside.relay.tamper = on_receipts(receipt_with_another_hash)
    caplog.set_level(logging.DEBUG, "confide")
    with lied_to.sdk() as client:
        for stream in (True, False):
            with pytest.raises(openai.APIError):
                list(client.chat.completions.create(**hello("the secret of the sea", stream=stream)))
    for _ in range(50):
        ours = [record for record in caplog.records if record.name.startswith("confide.client")]
        if sum("forwarded" in record.msg for record in ours) == 2:
            break
        time.sleep(0.02)
    failures = [record for record in ours if record.levelno == logging.ERROR]
    assert [(record.__dict__["error"], record.__dict__["reason"]) for record in failures] == [
        ("ReceiptFailed", "receipt.2, receipt.5")
    ] * 2
    plain = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
    for record in ours:
        assert record.args in ((), None)
        assert set(record.__dict__) - plain <= FIELDS
        assert "secret" not in str(record.__dict__)


# Changes -------------------------------------------------------------------------------------------------------------


def test_a_new_keyset_is_verified_and_then_it_goes_on(own: World, caplog: pytest.LogCaptureFixture) -> None:
    with running(own.verified(clock=own.clock)) as proxy, proxy.sdk() as client:
        assert client.chat.completions.create(**hello()).choices
        own.rotate()
        with pytest.raises(openai.InternalServerError, match="verified again") as changed:
            client.with_options(max_retries=0).chat.completions.create(**hello())
        assert (changed.value.status_code, changed.value.type) == (503, "verification_required")
        assert client.with_options(max_retries=0).chat.completions.create(**hello()).choices
        own.rotate()
        assert client.chat.completions.create(**hello()).choices  # with its retries, an SDK notices nothing
    assert proxy.proxy.exit_code == 0
    assert sum("was verified again" in record.msg for record in caplog.records) == 2


def test_a_keyset_that_is_not_accepted_stays_refused(
    own: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = own.verified(clock=own.clock)
    calls: list[int] = []
    again = service.verify_again
    monkeypatch.setattr(service, "verify_again", lambda: calls.append(1) or again())
    monkeypatch.setattr(own.custodian, "_terms", own.custodian._terms.__class__(subject="other", tls=True))
    with running(service) as proxy, proxy.sdk().with_options(max_retries=0) as client:
        own.rotate()
        for _ in range(4):
            with pytest.raises(openai.InternalServerError, match="verified again"):
                client.chat.completions.create(**hello())
        with pytest.raises(openai.InternalServerError, match="verified again"):
            client.models.list()
    assert len(calls) == 1
    assert any("stays refused" in record.msg for record in caplog.records)


def test_a_service_that_can_not_be_asked_is_asked_again(own: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is no verdict: the next request tries once more, after a pause."""
    service = own.verified(clock=own.clock)
    failures = [renewal.Unreachable("nobody there")] * 2
    again = service.verify_again
    monkeypatch.setattr(renewal, "PAUSE", 0.2)

    def attempt() -> Any:
        if failures:
            raise failures.pop()
        return again()

    monkeypatch.setattr(service, "verify_again", attempt)
    with running(service) as proxy, proxy.sdk().with_options(max_retries=0) as client:
        own.rotate()
        statuses = []
        for _ in range(30):
            try:
                client.chat.completions.create(**hello())
                statuses.append(200)
                break
            except openai.InternalServerError as failed:
                statuses.append(failed.status_code)
                time.sleep(0.1)
    assert statuses[-1] == 200
    assert set(statuses[:-1]) == {503}
    assert not failures


# The process ---------------------------------------------------------------------------------------------------------

PROGRAM = """
import logging, sys
import confide
from pathlib import Path
from confide import logs
from confide.client.proxy import serve_proxy
from confide.verify.policy import ModelsPolicy, Policy
from confide.verify.roots import development
logs.setup("info")
url, key, roots, manifest = sys.argv[1:]
policy = Policy(roots=("intel", "nvidia"), models=ModelsPolicy(manifests=(manifest,)))
service = confide.verified(url, policy, api_key=key, development=development(Path(roots).read_bytes()), webpki=False)
sys.exit(serve_proxy(service, port=0, on_ready=lambda url: print("Ready", url, flush=True)))
"""


@pytest.mark.parametrize("lie", [False, True])
def test_the_exit_code_tells_of_failed_proofs(secure: World, inside: Between, tmp_path: Path, lie: bool) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(secure.pki.roots_pem())
    command = [sys.executable, "-c", PROGRAM, inside.url, secure.key, str(roots), MANIFEST.digest()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        url = re.match(r"Ready (http://127\.0\.0\.1:\d+/v1)\n", process.stdout.readline())
        assert url is not None, process.communicate()[1]
        if lie:
            inside.relay.tamper = on_receipts(receipt_with_another_hash)
        with OpenAI(api_key="unused", base_url=url[1]) as client:
            stream = client.chat.completions.create(**hello("the secret of the sea", stream=True))
            if lie:
                with pytest.raises(openai.APIConnectionError):
                    list(stream)
            else:
                list(stream)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in err.splitlines()]
    assert process.returncode == int(lie)
    assert [line["reason"] for line in lines if line["level"] == "error"] == ["receipt.2, receipt.5"] * lie
    assert "secret" not in out + err


def test_policies_of_this_file_are_what_they_seem() -> None:
    assert Policy(roots=("intel", "nvidia"), models=ModelsPolicy(manifests=(MANIFEST.digest(),))) == POLICY
