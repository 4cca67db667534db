"""HTTP itself, on a running server: connections, bodies and methods of every kind, models, keys, and the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.rawhttp import Answer, Connection, request
from tests.serving import RunningServer, serving

from confide.engine.pull import LocalModel

PATH = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"
PATIENCE = 60.0
"""Seconds for an answer that the model must think about."""


def chat(server: RunningServer, **members: Any) -> bytes:
    body = {"model": server.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    return json.dumps(body | members).encode()


def headers(server: RunningServer, **more: str) -> dict[str, str | None]:
    return {"Content-Type": "application/json", **server.headers, **more}


def ask(server: RunningServer, method: str, path: str, body: bytes = b"", **more: str) -> Answer:
    with Connection(server.port, PATIENCE) as connection:
        connection.send(request(method, path, headers(server, **more), body))
        return connection.answer(to=method)


@pytest.fixture
def connection(server: RunningServer) -> Iterator[Connection]:
    with Connection(server.port, PATIENCE) as one:
        yield one


# One connection, many requests ---------------------------------------------------------------------------------------


def test_a_connection_outlives_errors(server: RunningServer, connection: Connection) -> None:
    good, auth = chat(server), headers(server)
    for raw, status in (
        (request("POST", PATH, auth, b"{"), 400),
        (request("POST", PATH, {"Content-Type": "application/json"}, good), 401),
        (request("POST", PATH, auth | {"Content-Type": "text/plain"}, good), 400),
        (request("POST", PATH, auth, chat(server, model="x")), 404),
        (request("GET", PATH, auth), 405),
        (request("GET", "/nothing", auth), 404),
        (request("POST", PATH, auth, good), 200),
        (request("POST", PATH, auth, chat(server, stream=True)), 200),
        (request("POST", PATH, auth, b" " * (33 << 20)), 413),
        (request("GET", "/v1/models", auth), 200),
        (request("POST", PATH, auth, good), 200),
    ):
        connection.send_as_long_as_anybody_reads([raw])
        answer = connection.answer()
        assert answer.status == status, answer
        if status >= 400:
            answer.error()


def test_requests_in_a_row_are_answered_in_order(server: RunningServer, connection: Connection) -> None:
    auth = headers(server)
    connection.send(
        request("GET", "/v1/models", auth)
        + request("POST", PATH, auth, chat(server))
        + request("GET", "/nothing", auth)
        + request("POST", PATH, auth, chat(server, stream=True))
        + request("GET", f"/v1/models/{server.model}", auth)
    )
    answers = [connection.answer() for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 404, 200, 200]
    assert answers[0].json()["object"] == "list"
    assert answers[1].json()["object"] == "chat.completion"
    assert answers[3].body.endswith(DONE)
    assert answers[4].json()["id"] == server.model


def test_a_connection_is_closed_when_asked(server: RunningServer, connection: Connection) -> None:
    connection.send(request("GET", "/v1/models", headers(server, Connection="close")))
    assert connection.answer().status == 200
    assert connection.closed()


def test_nothing_after_a_malformed_request_is_believed(server: RunningServer, connection: Connection) -> None:
    smuggled = request("GET", "/v1/models", headers(server))
    raw = request("POST", PATH, headers(server) | {"Content-Length": "4", "Transfer-Encoding": "chunked"})
    connection.send(raw + b"0\r\n\r\n" + smuggled)
    assert connection.answer().status == 400
    assert connection.closed()


# Bodies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_body_in_chunks(server: RunningServer, connection: Connection, size: int) -> None:
    body = chat(server)
    fields = headers(server) | {"Transfer-Encoding": "chunked"}
    connection.send(request("POST", PATH, fields))
    for start in range(0, len(body), size):
        piece = body[start : start + size]
        connection.send(b"%X;ext=1\r\n%b\r\n" % (len(piece), piece))
    connection.send(b"0\r\nX-Trailer: 1\r\n\r\n")
    assert connection.answer().status == 200
    connection.send(request("GET", "/v1/models", headers(server)))
    assert connection.answer().status == 200


def test_a_request_byte_by_byte(server: RunningServer, connection: Connection) -> None:
    for byte in request("POST", PATH, headers(server), chat(server)):
        connection.send(bytes([byte]))
    assert connection.answer().status == 200


def test_a_body_that_waits_to_be_asked_for(server: RunningServer, connection: Connection) -> None:
    body = chat(server)
    fields = headers(server) | {"Expect": "100-continue", "Content-Length": str(len(body))}
    connection.send(request("POST", PATH, fields))
    assert connection.line() == b"HTTP/1.1 100 Continue\r\n"
    assert connection.line() == b"\r\n"
    connection.send(body)
    assert connection.answer().status == 200


def test_a_refusal_does_not_ask_for_the_body_first(server: RunningServer, connection: Connection) -> None:
    fields: dict[str, str | None] = {
        "Content-Type": "application/json",
        "Expect": "100-continue",
        "Content-Length": "100",
    }
    connection.send(request("POST", PATH, fields))
    answer = connection.answer()
    assert (answer.status, answer.went_on) == (401, False)


@pytest.mark.parametrize(
    "media",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "Application/JSON",
        "application/json ; x=y",
    ],
)
def test_ways_to_say_json(server: RunningServer, media: str) -> None:
    body = chat(server, max_tokens=1)
    assert ask(server, "POST", PATH, body, **{"Content-Type": media}).status == 200


@pytest.mark.parametrize("accept", ["text/event-stream", "*/*", "text/html", "application/json"])
def test_accept_changes_nothing(server: RunningServer, accept: str) -> None:
    answer = ask(server, "POST", PATH, chat(server, max_tokens=1), Accept=accept)
    assert answer.headers["content-type"] == "application/json"


def test_what_clients_add_is_ignored(server: RunningServer) -> None:
    more = {
        "X-Stainless-Lang": "python",
        "X-Stainless-Retry-Count": "1",
        "OpenAI-Organization": "org-x",
        "OpenAI-Beta": "x",
        "Idempotency-Key": "stainless-python-retry-x",
        "X-Client-Request-Id": "x\xe9" * 99,
        "Cookie": "a=b",
    }
    answer = ask(server, "POST", f"{PATH}?api-version=2024-10-21&x=%00", chat(server, max_tokens=1), **more)
    assert answer.status == 200


# HTTP/1.0 ------------------------------------------------------------------------------------------------------------


def test_a_stream_for_http_1_0(server: RunningServer, connection: Connection) -> None:
    connection.send(request("POST", PATH, headers(server), chat(server, stream=True), version="1.0"))
    answer = connection.answer()
    assert answer.status == 200
    assert "transfer-encoding" not in answer.headers
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.endswith(DONE)
    assert connection.closed()


def test_an_error_for_http_1_0(server: RunningServer, connection: Connection) -> None:
    connection.send(request("POST", PATH, headers(server), b"{", version="1.0"))
    answer = connection.answer()
    assert answer.status == 400
    answer.error()
    assert connection.closed()


# Streams on the wire -------------------------------------------------------------------------------------------------


def test_a_stream_on_the_wire(server: RunningServer, connection: Connection) -> None:
    body = chat(server, stream=True, max_tokens=4, stream_options={"include_usage": True})
    connection.send(request("POST", PATH, headers(server), body))
    status, fields = connection.head()
    assert status == 200
    assert fields["transfer-encoding"] == "chunked"
    assert "content-length" not in fields
    assert fields["content-type"].startswith("text/event-stream")
    assert fields["cache-control"] == "no-cache"
    pieces = list(iter(connection.chunk, b""))
    assert all(piece.startswith(b"data: ") and piece.endswith(b"\n\n") for piece in pieces)
    assert pieces[-1] == DONE
    chunks = [json.loads(piece[6:]) for piece in pieces[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == len({chunk["created"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1] if c["choices"][0]["finish_reason"]] in (
        ["length"],
        ["stop"],
    )
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] > 0


# Headers, methods, paths ---------------------------------------------------------------------------------------------


def test_every_answer_has_an_id_of_its_own(server: RunningServer) -> None:
    answers = [
        ask(server, "POST", PATH, chat(server, max_tokens=1)),
        ask(server, "POST", PATH, chat(server, max_tokens=1, stream=True)),
        ask(server, "POST", PATH, b"{"),
        ask(server, "GET", PATH),
        ask(server, "GET", "/nothing"),
        ask(server, "GET", "/v1/models"),
        ask(server, "GET", "/v1/models/x"),
        ask(server, "GET", "/v1/models", Authorization="Bearer x", **{"X-Request-ID": "mine"}),
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", each) for each in ids)
    assert all(re.fullmatch(r"[0-9]+", answer.headers["openai-processing-ms"]) for answer in answers)
    assert not any("server" in answer.headers for answer in answers)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", PATH, 405, "POST"),
        ("PUT", PATH, 405, "POST"),
        ("DELETE", PATH, 405, "POST"),
        ("PATCH", PATH, 405, "POST"),
        ("OPTIONS", PATH, 405, "POST"),
        ("TRACE", PATH, 405, "POST"),
        ("POST", "/v1/models", 405, "GET"),
        ("DELETE", "/v1/models/x", 405, "GET"),
        ("POST", "/health", 405, "GET"),
        ("GET", "/v1", 404, None),
        ("GET", "/v1/", 404, None),
        ("POST", "/chat/completions", 404, None),
        ("POST", PATH + "/", 404, None),
        ("POST", "/v1//chat/completions", 404, None),
        ("POST", "/V1/chat/completions", 404, None),
        ("GET", "/v1/completions", 405, "POST"),
        ("DELETE", "/v1/responses", 405, "POST"),
        ("GET", "/v1/responses/resp_1", 404, None),
        ("POST", "/v1/messages/count_tokens", 404, None),
        ("POST", "/v1/images/generations", 404, None),
        ("GET", "/v1/chat/completions/chatcmpl-1", 404, None),
        ("GET", "/docs", 404, None),
        ("GET", "/openapi.json", 404, None),
        ("GET", "/metrics", 404, None),
        ("GET", "/%00", 404, None),
        ("GET", "/%ff%fe", 404, None),
        ("GET", "/" + "a" * 5000, 404, None),
    ],
)
def test_what_is_not_there(server: RunningServer, method: str, path: str, status: int, allow: str | None) -> None:
    answer = ask(server, method, path)
    assert answer.status == status
    error = answer.error()
    assert error["type"] == "invalid_request_error"
    assert error["code"] == ("method_not_allowed" if status == 405 else None)
    if allow:
        assert allow in answer.headers["allow"]


def test_head(server: RunningServer, connection: Connection) -> None:
    for path, status in (("/v1/models", 200), ("/health", 200), (PATH, 405), ("/nothing", 404)):
        connection.send(request("HEAD", path, headers(server)))
        answer = connection.answer(to="HEAD")
        assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    connection.send(request("GET", "/v1/models", headers(server)))
    assert connection.answer().status == 200  # so no body came after those heads


def test_a_health_check_needs_no_key(server: RunningServer) -> None:
    assert ask(server, "GET", "/health", Authorization="").status == 200


@pytest.mark.parametrize("path", [PATH, "/v1/models", "/v1/models/x", "/nothing"])
def test_sites(server: RunningServer, path: str) -> None:
    fields = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, x-stainless-os",
        "Authorization": "",
    }
    answer = ask(server, "OPTIONS", path, **fields)
    assert answer.status in (200, 204)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in answer.headers["access-control-allow-headers"]
    answer = ask(server, "GET", path, Origin="https://app.example", Authorization="")
    assert answer.status >= 400
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    answer = ask(server, "GET", path, Origin="https://evil.example", Authorization="")
    assert "access-control-allow-origin" not in answer.headers


# Models --------------------------------------------------------------------------------------------------------------


def test_the_list_of_models(server: RunningServer) -> None:
    answer = ask(server, "GET", "/v1/models")
    assert answer.status == 200
    value = answer.json()
    assert value["object"] == "list"
    (model,) = value["data"]
    assert {"id", "object", "created", "owned_by", "name", "context_length", "max_output_length"} <= model.keys()
    assert {"input_modalities", "output_modalities", "supported_parameters", "pricing", "is_tee"} <= model.keys()
    assert {"providers", "description", "metadata"} <= model.keys()
    assert (model["id"], model["object"], model["context_length"]) == (server.model, "model", 1024)
    assert isinstance(model["created"], int)
    assert {"temperature", "tools", "tool_choice", "response_format", "seed"} <= set(model["supported_parameters"])
    assert {"guided_json", "user", "messages"} & set(model["supported_parameters"]) == set()


@pytest.mark.parametrize("path", ["acme/small-1", "acme%2Fsmall-1", "acme%2fsmall-1", "%61cme/small-1"])
def test_one_model_by_its_id(server: RunningServer, path: str) -> None:
    answer = ask(server, "GET", f"/v1/models/{path}")
    assert answer.status == 200
    assert answer.json() == ask(server, "GET", "/v1/models").json()["data"][0]


@pytest.mark.parametrize(
    "path",
    [
        "x",
        "acme",
        "small-1",
        "acme/small-1/",
        "acme//small-1",
        "acme/../acme/small-1",
        "../models/acme/small-1",
        "..",
        "%2e%2e",
        "%2e%2e%2fmodels",
        "..%2f..%2fetc%2fpasswd",
        "../../../../etc/passwd",
        "%00",
        "%ff",
        "%",
        "a" * 5000,
        "",
    ],
)
def test_no_other_path_is_a_model(server: RunningServer, path: str) -> None:
    answer = ask(server, "GET", f"/v1/models/{path}")
    assert answer.status == 404
    error = answer.error()
    assert (error["type"], error["code"]) == ("invalid_request_error", "model_not_found")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/acme/small-1", "/v1/models/x"])
def test_models_are_for_those_with_a_key(server: RunningServer, path: str) -> None:
    answer = ask(server, "GET", path, Authorization="")
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert ask(server, "GET", path, Authorization="Bearer x").error()["code"] == "invalid_api_key"


# Keys while it runs --------------------------------------------------------------------------------------------------


def keys(server: RunningServer, *args: str) -> str:
    env = os.environ | {"CONFIDE_DATA_DIR": str(server.log.parent / "data")}
    command = [sys.executable, "-m", "confide", "keys", *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def becomes(server: RunningServer, key: str, status: int) -> bool:
    """Whether requests with the key get that status within some seconds; a running server looks once a second."""
    pause = threading.Event()
    for _ in range(50):
        if ask(server, "GET", "/v1/models", Authorization=f"Bearer {key}").status == status:
            return True
        pause.wait(0.1)
    return False


def test_keys_come_and_go_while_the_server_runs(server: RunningServer) -> None:
    made = keys(server, "create", "later")
    key = next(word for word in made.split() if word.startswith("sk-"))
    assert becomes(server, key, 200)
    keys(server, "revoke", "later")
    assert becomes(server, key, 401)
    assert ask(server, "GET", "/v1/models").status == 200


# Without keys, and the end -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_server(smollm2: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server without keys. The last test of this module ends it."""
    with serving(tmp_path_factory.mktemp("open"), [f"small={smollm2.path}"], auth=False) as running:
        yield running


def test_a_server_without_keys_serves_this_machine_only(open_server: RunningServer) -> None:
    assert ask(open_server, "GET", "/v1/models").status == 200
    assert ask(open_server, "GET", "/v1/models", Host=f"localhost:{open_server.port}").status == 200
    for path in ("/v1/models", "/v1/models/small"):
        assert ask(open_server, "GET", path, Host="rebound.example").error()["type"] == "invalid_request_error"
    answer = ask(open_server, "POST", PATH, chat(open_server), Host=f"rebound.example:{open_server.port}")
    assert answer.status == 403
    answer = ask(open_server, "POST", PATH, chat(open_server, max_tokens=1), Authorization="Bearer whatever")
    assert answer.status == 200


def test_no_site_is_allowed_by_default(open_server: RunningServer) -> None:
    for method in ("OPTIONS", "POST"):
        answer = ask(open_server, method, PATH, b"{", Origin="https://app.example")
        assert answer.status in (400, 405)
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_signal_in_the_middle_of_a_stream_ends_it_in_order(open_server: RunningServer, tmp_path: Path) -> None:
    """Answers under way may end; what is cut says so; and nothing is left of the process."""
    body = chat(open_server, stream=True, max_tokens=4000, ignore_eos=True, temperature=0)
    with Connection(open_server.port, PATIENCE) as connection:
        connection.send(request("POST", PATH, headers(open_server), body))
        assert connection.head()[0] == 200
        assert connection.chunk().startswith(b"data: ")
        open_server.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        pieces = list(iter(connection.chunk, b""))
        took = time.monotonic() - begun
    *_, last_event, done, _ = b"".join(pieces).split(b"\n\n")
    assert done + b"\n\n" == DONE
    last = json.loads(last_event[6:])
    assert "error" in last or last["choices"][0]["finish_reason"]
    assert took < 20
    assert open_server.process.wait(20) == 0
    assert "Traceback" not in open_server.log.read_text()
