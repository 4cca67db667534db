"""The handler of chat completions over engines that do as they are told, and over engines that fail in every way."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any

import pytest
from tests.doubles import FOREVER, SECRET, Client, ScriptedEngine, app_with, asked, chat_body

from confide.errors import (
    ApiError,
    EngineFailed,
    InvalidRequest,
    StoreError,
    TooManyRequests,
    Unavailable,
)

DONE = b"data: [DONE]\n\n"
ONE, TWO = b'data: {"a":1}\n\n', b'data: {"a":2}\n\n'
STREAM = chat_body(stream=True)
INTERNAL = "The server had an error while processing your request. Sorry about that!"

MODES = pytest.mark.parametrize("body", [chat_body(), STREAM], ids=["whole", "streamed"])


class ForeignError(Exception):
    """What some library raises, with the conversation in its text."""

    def __init__(self) -> None:
        super().__init__(f"can't tokenize '{SECRET}'")


# Answers -------------------------------------------------------------------------------------------------------------


def test_a_body_is_passed_on_as_it_came() -> None:
    engine = ScriptedEngine(b'{"x":', b" 1 }\n")
    client = asked(app_with(engine))
    assert (client.status, client.body, client.complete) == (200, b'{"x": 1 }\n', True)
    assert client.headers["content-type"] == "application/json"
    assert client.headers["content-length"] == str(len(client.body))
    assert engine.replies[0].closed


def test_a_stream_is_passed_on_as_it_came_and_ended() -> None:
    engine = ScriptedEngine(ONE, TWO)
    client = asked(app_with(engine), Client(STREAM))
    assert (client.status, client.body, client.complete) == (200, ONE + TWO + DONE, True)
    assert client.headers["content-type"].startswith("text/event-stream")
    assert client.headers["cache-control"] == "no-cache"
    assert client.headers["x-accel-buffering"] == "no"
    assert "content-length" not in client.headers
    assert [message["body"] for message in client.sent[1:]] == [ONE, TWO, DONE]
    assert engine.replies[0].closed


@MODES
def test_what_every_answer_carries(body: bytes) -> None:
    client = asked(app_with(ScriptedEngine(ONE)), Client(body))
    assert re.fullmatch(r"req_[0-9a-f]{32}", client.headers["x-request-id"])
    assert re.fullmatch(r"[0-9]+", client.headers["openai-processing-ms"])
    assert client.headers["openai-version"] == "2020-10-01"


def test_a_stream_over_http_1_0_is_one_piece_of_known_length() -> None:
    client = asked(app_with(ScriptedEngine(ONE, TWO)), Client(STREAM, version="1.0"))
    assert client.body == ONE + TWO + DONE
    assert client.headers["content-length"] == str(len(client.body))
    assert client.headers["content-type"].startswith("text/event-stream")


def test_a_stream_over_http_1_0_that_fails_is_an_error_with_its_status() -> None:
    client = asked(app_with(ScriptedEngine(ONE, EngineFailed("broke"), TWO)), Client(STREAM, version="1.0"))
    assert (client.status, client.error()["message"]) == (502, "broke")


def test_odd_frames_do_no_harm() -> None:
    client = asked(app_with(ScriptedEngine(b"", ONE, b"", b"")), Client(STREAM))
    assert (client.body, client.complete) == (ONE + DONE, True)
    client = asked(app_with(ScriptedEngine()), Client(STREAM))
    assert (client.body, client.complete) == (DONE, True)


def test_what_an_engine_is_told() -> None:
    class Key:
        id = "key_7"
        require_e2ee = False

    engine = ScriptedEngine(b"{}")
    body = chat_body(model="alias", max_tokens=3, unknown=[1])
    client = Client([body[:9], b"", body[9:]], headers={"authorization": "Bearer sk-x"})
    asked(app_with(engine, find={"sk-x": Key()}.get), client)
    asked(app_with(engine))
    first, second = engine.calls
    assert (first.tenant, first.model, first.body, first.request.max_tokens) == ("key_7", "alias", body, 3)
    assert second.tenant == "local"
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", first.id)
    assert first.id != second.id
    assert SECRET not in repr(first).replace(repr(first.request), "")


@pytest.mark.parametrize("scheme", ["Bearer sk-x", "bearer sk-x", "BEARER   sk-x", "Bearer sk-x "])
def test_ways_to_write_a_key(scheme: str) -> None:
    class Key:
        id = "key_7"
        require_e2ee = False

    engine = ScriptedEngine(b"{}")
    client = Client(chat_body(), headers={"authorization": scheme})
    assert asked(app_with(engine, find={"sk-x": Key()}.get), client).status == 200


# Refusals ------------------------------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize(
    "refusal",
    [
        InvalidRequest("no", param="messages", code="context_length_exceeded"),
        TooManyRequests("full", code="rate_limit_exceeded", headers={"Retry-After": "1"}),
        Unavailable("later", headers={"Retry-After": "5"}),
        EngineFailed("broke"),
        ApiError("teapot", status=418, type="x"),
    ],
)
def test_a_refusal_is_a_status_in_both_modes(refusal: ApiError, body: bytes) -> None:
    client = asked(app_with(ScriptedEngine(refusal=refusal)), Client(body))
    assert (client.status, client.complete) == (refusal.status, True)
    assert client.error() == refusal.body()["error"]
    assert client.headers.get("retry-after") == refusal.headers.get("Retry-After")
    assert client.headers["content-type"] == "application/json"
    assert "x-request-id" in client.headers


@MODES
def test_a_foreign_exception_at_the_start(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    client = asked(app_with(ScriptedEngine(refusal=ForeignError())), Client(body))
    assert client.status == 500
    assert client.error() == {"message": INTERNAL, "type": "server_error", "param": None, "code": None}
    (record,) = caplog.records
    assert (record.__dict__["error"], record.__dict__["place"].partition(":")[0]) == ("ForeignError", "doubles.py")
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("failure", "message", "kind"),
    [
        (EngineFailed("broke", code="c"), "broke", "server_error"),
        (InvalidRequest("late"), "late", "invalid_request_error"),
        (ForeignError(), INTERNAL, "server_error"),
        (RuntimeError(SECRET), INTERNAL, "server_error"),
        (KeyError(SECRET), INTERNAL, "server_error"),
    ],
)
def test_a_failure_in_the_middle_of_a_stream(
    failure: Exception, message: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ScriptedEngine(ONE, failure, TWO)
    client = asked(app_with(engine), Client(STREAM))
    assert (client.status, client.complete) == (200, True)
    assert client.body.startswith(ONE)
    assert client.body.endswith(DONE)
    (event,) = client.body.removeprefix(ONE).removesuffix(DONE).strip().split(b"\n")
    error = json.loads(event.removeprefix(b"data: "))["error"]
    assert (error["message"], error["type"], set(error)) == (message, kind, {"message", "type", "param", "code"})
    assert SECRET not in caplog.text
    assert engine.replies[0].closed


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [(EngineFailed("broke"), 502, "broke"), (ForeignError(), 500, INTERNAL), (StopAsyncIteration(), 500, INTERNAL)],
)
def test_a_failure_in_the_middle_of_a_body(
    failure: Exception, status: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ScriptedEngine(b'{"half":', failure)
    client = asked(app_with(engine))
    assert (client.status, client.error()["message"], client.complete) == (status, message, True)
    assert b"half" not in client.body
    assert SECRET not in caplog.text
    assert engine.replies[0].closed


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (chat_body(model="x"), 404, "model"),
        (chat_body(temperature=1), 400, "temperature"),
        (chat_body(guided_json={}), 400, "guided_json"),
        (chat_body(n=3), 400, "n"),
        (chat_body(stream_options={}), 400, "stream_options"),
        (chat_body(max_tokens=0), 400, "max_tokens"),
        (b"{", 400, None),
        (b" " * 10_001, 413, None),
    ],
)
def test_what_never_reaches_an_engine(body: bytes, status: int, param: str | None) -> None:
    engine = ScriptedEngine(b"{}")
    client = asked(app_with(engine), Client(body))
    assert (client.status, client.error()["param"]) == (status, param)
    assert engine.calls == []


def test_a_body_too_large_in_pieces() -> None:
    engine = ScriptedEngine(b"{}")
    client = asked(app_with(engine), Client([b" " * 6000, b" " * 6000, b" " * 6000]))
    assert (client.status, client.error()["code"]) == (413, "request_too_large")


def test_a_store_that_breaks_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    def find(presented: str) -> Any:
        raise StoreError(f"can't look up {presented}")

    engine = ScriptedEngine(b"{}")
    client = asked(app_with(engine, find=find), Client(chat_body(), headers={"authorization": "Bearer sk-secret"}))
    assert client.status == 503
    assert client.error()["message"] == "The server can't reach its store. Please try again later."
    assert engine.calls == []
    assert "sk-secret" not in caplog.text


def test_nothing_of_a_prompt_is_logged_when_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    asked(app_with(ScriptedEngine(ONE, TWO)), Client(STREAM))
    assert SECRET not in caplog.text


# Silence, and clients that leave -------------------------------------------------------------------------------------

COMMENT = b": keep-alive\n\n"


def test_comments_fill_a_silence() -> None:
    client = asked(app_with(ScriptedEngine(ONE, 0.3, TWO), keep_alive=0.05), Client(STREAM))
    pieces = [message["body"] for message in client.sent[1:]]
    assert pieces[0] == ONE
    assert pieces[-2:] == [TWO, DONE]
    assert set(pieces[1:-2]) == {COMMENT}
    assert 2 <= len(pieces[1:-2]) <= 6


@pytest.mark.parametrize("keep_alive", [0, 5])
def test_no_comments_without_a_silence(keep_alive: float) -> None:
    client = asked(app_with(ScriptedEngine(ONE, 0.1, TWO), keep_alive=keep_alive), Client(STREAM))
    assert client.body == ONE + TWO + DONE


def test_no_comments_in_a_whole_answer() -> None:
    client = asked(app_with(ScriptedEngine(0.1, b"{}"), keep_alive=0.01))
    assert client.body == b"{}"


async def left(app: Any, client: Client, *, after: float | None) -> None:
    """Leave after so many seconds, or (None) once something of the answer has come."""
    async with asyncio.timeout(10):
        work = asyncio.ensure_future(client.of(app))
        if after is None:
            await client.got_something.wait()
        else:
            await asyncio.sleep(after)
        client.gone.set()
        await work


@MODES
def test_a_client_that_leaves_while_it_waits_for_a_slot(body: bytes) -> None:
    engine = ScriptedEngine(ONE, wait=FOREVER)
    client = Client(body)
    asyncio.run(left(app_with(engine), client, after=0.05))
    assert (engine.given_up, client.sent) == (1, [])


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@MODES
def test_a_client_that_leaves_before_the_first_token(body: bytes, version: str) -> None:
    engine = ScriptedEngine(FOREVER)
    asyncio.run(left(app_with(engine), Client(body, version=version), after=0.05))
    assert engine.replies[0].closed


def test_a_client_that_leaves_in_the_middle_of_a_stream() -> None:
    engine = ScriptedEngine(ONE, FOREVER, TWO)
    client = Client(STREAM)
    asyncio.run(left(app_with(engine, keep_alive=0.01), client, after=None))
    assert engine.replies[0].closed
    assert not client.complete
    assert DONE not in client.body


def test_a_client_that_leaves_before_it_has_asked() -> None:
    engine = ScriptedEngine(ONE)
    client = Client([])
    asyncio.run(left(app_with(engine), client, after=0))
    assert (engine.calls, client.sent) == ([], [])


def test_nothing_is_left_running() -> None:
    async def work() -> None:
        for steps in ((ONE,), (ONE, ForeignError()), (ONE, FOREVER)):
            engine = ScriptedEngine(*steps)
            client = Client(STREAM)
            await left(app_with(engine, keep_alive=0.01), client, after=None)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(work())


# Hosts, without keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "localhost:8000", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8000"]
)
def test_without_keys_this_machine_is_served(host: str) -> None:
    client = Client(chat_body(), headers={"host": host})
    assert asked(app_with(ScriptedEngine(b"{}")), client).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "example.com:8000",
        "localhost.example.com",
        "localhost:8000.example.com",
        "127.0.0.1.example.com:80",
        "example.com:localhost",
        "127.0.0.2",
        "0.0.0.0",
        "[::]",
        "[::1].example.com",
        "::1",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/models/m"])
def test_without_keys_a_foreign_name_is_refused(host: str, path: str) -> None:
    engine = ScriptedEngine(b"{}")
    method = "POST" if path.endswith("completions") else "GET"
    client = asked(app_with(engine), Client(chat_body(), headers={"host": host}, method=method, path=path))
    assert (client.status, client.error()["type"]) == (403, "invalid_request_error")
    assert engine.calls == []


# Other sites' pages --------------------------------------------------------------------------------------------------

SITE = "https://app.example"
PREFLIGHT = {
    "origin": SITE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang,x-stainless-retry-count",
}


def preflight(origins: list[str], **headers: str) -> Client:
    app = app_with(ScriptedEngine(b"{}"), origins=origins, find={}.get)
    return asked(app, Client(method="OPTIONS", headers=PREFLIGHT | headers))


@pytest.mark.parametrize("origins", [[SITE], ["*"], ["https://other.example", SITE]])
def test_a_preflight_needs_no_key(origins: list[str]) -> None:
    client = preflight(origins)
    assert client.status in (200, 204)
    assert client.headers["access-control-allow-origin"] in (SITE, "*")
    assert "POST" in client.headers["access-control-allow-methods"]
    allowed = client.headers["access-control-allow-headers"].lower()
    assert {"authorization", "content-type", "x-stainless-lang", "x-stainless-retry-count"} <= {
        name.strip() for name in allowed.split(",")
    }
    assert "access-control-allow-credentials" not in client.headers


def test_a_preflight_of_another_site_is_refused() -> None:
    client = preflight([SITE], origin="https://evil.example")
    assert "access-control-allow-origin" not in client.headers


@pytest.mark.parametrize("body", [b"{", chat_body(), STREAM, chat_body(model="x")])
def test_answers_of_all_kinds_can_be_read_by_an_allowed_site(body: bytes) -> None:
    app = app_with(ScriptedEngine(ONE), origins=[SITE])
    client = asked(app, Client(body, headers={"origin": SITE}))
    assert client.headers["access-control-allow-origin"] == SITE
    assert "x-request-id" in client.headers["access-control-expose-headers"].lower()


@pytest.mark.parametrize("failure", [ForeignError(), InvalidRequest("no")])
def test_so_can_errors(failure: Exception) -> None:
    app = app_with(ScriptedEngine(refusal=failure), origins=[SITE])
    client = asked(app, Client(chat_body(), headers={"origin": SITE}))
    assert client.headers["access-control-allow-origin"] == SITE
    app = app_with(ScriptedEngine(), origins=[SITE], find={}.get)
    client = asked(app, Client(chat_body(), headers={"origin": SITE}))
    assert (client.status, client.headers["access-control-allow-origin"]) == (401, SITE)


def test_by_default_no_other_site_reads_anything() -> None:
    client = asked(app_with(ScriptedEngine(b"{}")), Client(chat_body(), headers={"origin": SITE}))
    assert not any(name.startswith("access-control") for name in client.headers)
    client = preflight([])
    assert client.status == 405
    assert client.error()["code"] == "method_not_allowed"
    assert not any(name.startswith("access-control") for name in client.headers)
