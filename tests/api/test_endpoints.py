"""The walk of the endpoints beside chat completions, over the bare application: refusals by name, errors in the form of
each API, and the receipt before whatever ends a stream.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image
from starlette.types import Message
from tests.doubles import SECRET, Client, MemorySink, ScriptedEngine, app_with, asked

from confide.engine.base import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES
from confide.engine.remote.offers import OFFERS
from confide.errors import EngineFailed
from confide.wire.receipt import ResponseAborted
from confide.wire.sse import DONE

ALSO = {path: offer.members for path, offer in OFFERS["vllm"].items()}
SAID: list[Any] = [{"role": "user", "content": SECRET}]
LEAST: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": SECRET},
    EMBEDDINGS: {"input": SECRET},
    RESPONSES: {"input": SECRET},
    MESSAGES: {"messages": SAID, "max_tokens": 9},
}
STREAMED = (COMPLETIONS, RESPONSES, MESSAGES)
ENDS = {COMPLETIONS: DONE, RESPONSES: b"event: response.completed\ndata: {}\n\n", MESSAGES: b"event: message_stop\n\n"}


def body(path: str, **members: Any) -> bytes:
    return json.dumps({"model": "m"} | LEAST[path] | members).encode()


def ask(path: str, *steps: Any, sink: MemorySink | None = None, raw: bytes | None = None, **members: Any) -> Client:
    engine = ScriptedEngine(*(steps or (b"{}",)), also=ALSO, last=ENDS.get(path, DONE))
    return asked(app_with(engine, sink=sink), Client(body(path, **members) if raw is None else raw, path=path))


def error_in(path: str, client: Client) -> dict[str, Any]:
    """The error, which has the form of the endpoint."""
    value: dict[str, Any] = json.loads(client.body)
    error: dict[str, Any] = value["error"]
    if path == MESSAGES:
        assert (value.keys(), value["type"]) == ({"type", "error"}, "error")
        assert error.keys() == {"type", "message"}
    else:
        assert value.keys() == {"error"}
        assert error.keys() == {"message", "type", "param", "code"}
    assert SECRET not in client.body.decode()
    return error


# Bad input -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One bad request: the members that replace those of a good one, and what the error names."""

    path: str
    members: dict[str, Any]
    param: str
    code: str | None = None
    says: str = ""


UNSUPPORTED, TYPE, MISSING = "unsupported_parameter", "invalid_type", "missing_required_parameter"
LOW, HIGH = "integer_below_min_value", "integer_above_max_value"


def item(**members: Any) -> dict[str, Any]:
    """One input of a response."""
    return {"input": [members]}


def part(**members: Any) -> dict[str, Any]:
    """One part of such an input."""
    return item(role="user", content=[members])


def block(role: str = "user", **members: Any) -> dict[str, Any]:
    """One block of a message."""
    return {"messages": [{"role": role, "content": [members]}]}


ROWS = [
    Row(COMPLETIONS, {"prompt": None}, "prompt", TYPE),
    Row(COMPLETIONS, {"prompt": ""}, "prompt", "empty_string"),
    Row(COMPLETIONS, {"prompt": []}, "prompt", "empty_array"),
    Row(COMPLETIONS, {"prompt": [""]}, "prompt[0]", "empty_string"),
    Row(COMPLETIONS, {"prompt": [[1], []]}, "prompt[1]", "empty_array"),
    Row(COMPLETIONS, {"prompt": ["a", 1]}, "prompt", TYPE),
    Row(COMPLETIONS, {"prompt": [1, [1]]}, "prompt", TYPE),
    Row(COMPLETIONS, {"prompt": [-1]}, "prompt[0]", LOW),
    Row(COMPLETIONS, {"prompt": [1.5]}, "prompt[0]", TYPE),
    Row(COMPLETIONS, {"prompt": {"a": 1}}, "prompt", TYPE),
    Row(COMPLETIONS, {"prompt": ["a"] * 129}, "prompt", "array_above_max_length"),
    Row(COMPLETIONS, {"prompt": ["a", "b"], "n": 2}, "prompt", "array_above_max_length"),
    Row(COMPLETIONS, {"n": 3}, "n", HIGH),
    Row(COMPLETIONS, {"n": 0}, "n", LOW),
    Row(COMPLETIONS, {"best_of": 2}, "best_of", UNSUPPORTED),
    Row(COMPLETIONS, {"best_of": 1, "n": 2}, "best_of", "invalid_value"),
    Row(COMPLETIONS, {"suffix": "x"}, "suffix", UNSUPPORTED),
    Row(COMPLETIONS, {"logprobs": True}, "logprobs", TYPE),
    Row(COMPLETIONS, {"logprobs": 21}, "logprobs", HIGH),
    Row(COMPLETIONS, {"max_tokens": -1}, "max_tokens", LOW),
    Row(COMPLETIONS, {"stop": ["a"] * 5}, "stop", "array_above_max_length"),
    Row(COMPLETIONS, {"stop": ""}, "stop", "invalid_value"),
    Row(COMPLETIONS, {"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
    Row(COMPLETIONS, {"stream_options": {}}, "stream_options"),
    Row(COMPLETIONS, {"prompt_embeds": "AAAA"}, "prompt_embeds", UNSUPPORTED),
    Row(COMPLETIONS, {"guided_regex": "a+"}, "guided_regex", UNSUPPORTED),
    Row(COMPLETIONS, {"use_beam_search": True}, "use_beam_search", UNSUPPORTED),
    Row(COMPLETIONS, {"provider": {"aci_new": 1}}, "provider.aci_new"),
    Row(EMBEDDINGS, {"input": ""}, "input", "empty_string"),
    Row(EMBEDDINGS, {"input": []}, "input", "empty_array"),
    Row(EMBEDDINGS, {"input": [[]]}, "input[0]", "empty_array"),
    Row(EMBEDDINGS, {"input": [1] * 2049}, "input", "array_above_max_length"),
    Row(EMBEDDINGS, {"input": [1, "a"]}, "input", TYPE),
    Row(EMBEDDINGS, {"encoding_format": "bytes"}, "encoding_format", "invalid_value"),
    Row(EMBEDDINGS, {"dimensions": 0}, "dimensions", LOW),
    Row(EMBEDDINGS, {"messages": SAID}, "messages", UNSUPPORTED),
    Row(EMBEDDINGS, {"task": "classify"}, "task", UNSUPPORTED),
    Row(RESPONSES, {"store": True}, "store", UNSUPPORTED),
    Row(RESPONSES, {"background": True}, "background", UNSUPPORTED),
    Row(RESPONSES, {"previous_response_id": "resp_1"}, "previous_response_id", UNSUPPORTED),
    Row(RESPONSES, {"conversation": {"id": "c"}}, "conversation", UNSUPPORTED),
    Row(RESPONSES, {"prompt": {"id": "p"}}, "prompt", UNSUPPORTED),
    Row(RESPONSES, {"context_management": []}, "context_management", UNSUPPORTED),
    Row(RESPONSES, {"previous_input_messages": []}, "previous_input_messages", UNSUPPORTED),
    Row(RESPONSES, {"enable_response_messages": True}, "enable_response_messages", UNSUPPORTED),
    Row(RESPONSES, {"logit_bias": {"1": 1}}, "logit_bias", UNSUPPORTED),
    Row(RESPONSES, {"include": ["file_search_call.results"]}, "include[0]", "unsupported_value"),
    Row(RESPONSES, {"input": []}, "input", "empty_array"),
    Row(RESPONSES, {"input": 5}, "input", TYPE),
    Row(RESPONSES, {"input": ["a"]}, "input[0]", TYPE),
    Row(RESPONSES, item(type="item_reference", id="msg_1"), "input[0].type", "unsupported_value", "item_reference"),
    Row(RESPONSES, item(type="web_search_call"), "input[0].type", "unsupported_value"),
    Row(RESPONSES, item(content="a"), "input[0].type", "unsupported_value"),
    Row(RESPONSES, item(role="tool", content="a"), "input[0].role", "invalid_value"),
    Row(RESPONSES, item(role="user"), "input[0].content", MISSING),
    Row(RESPONSES, part(type="input_audio"), "input[0].content[0].type", "invalid_value"),
    Row(RESPONSES, part(type="input_file", file_url="https://x"), "input[0].content[0].type", "unsupported_value"),
    Row(RESPONSES, part(type="input_image", file_id="f"), "input[0].content[0].image_url", MISSING),
    Row(RESPONSES, part(type="input_text"), "input[0].content[0].text", MISSING),
    Row(RESPONSES, item(type="function_call", name="f", arguments="{}"), "input[0].call_id", MISSING),
    Row(RESPONSES, {"tools": [{"type": "mcp", "server_url": "https://x"}]}, "tools[0].type", "unsupported_value"),
    Row(RESPONSES, {"tools": [{"type": "function"}]}, "tools[0].name", MISSING),
    Row(RESPONSES, {"tools": [5]}, "tools[0]", TYPE),
    Row(RESPONSES, {"tool_choice": "any"}, "tool_choice", "invalid_value"),
    Row(RESPONSES, {"tool_choice": "required"}, "tool_choice"),
    Row(RESPONSES, {"tool_choice": {"type": "web_search"}}, "tool_choice.type", "unsupported_value"),
    Row(RESPONSES, {"tool_choice": {"type": "function", "name": "f"}}, "tool_choice.name"),
    Row(RESPONSES, {"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", MISSING),
    Row(RESPONSES, {"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
    Row(RESPONSES, {"max_output_tokens": 0}, "max_output_tokens", LOW),
    Row(RESPONSES, {"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", "unsupported_value"),
    Row(RESPONSES, {"metadata": {str(number): "a" for number in range(17)}}, "metadata", "object_above_max_length"),
    Row(MESSAGES, {"max_tokens": None}, "max_tokens", TYPE),
    Row(MESSAGES, {"max_tokens": 0}, "max_tokens", LOW),
    Row(MESSAGES, {"messages": []}, "messages", "empty_array"),
    Row(MESSAGES, {"messages": [{"role": "system", "content": "a"}]}, "messages[0].role", "invalid_value"),
    Row(MESSAGES, {"messages": [{"role": "user", "content": []}]}, "messages[0].content", "empty_array"),
    Row(MESSAGES, block(type="document", source={}), "messages[0].content[0].type", "invalid_value"),
    Row(MESSAGES, block(type="server_tool_use"), "messages[0].content[0].type", "invalid_value"),
    Row(MESSAGES, block(type="image", source={"type": "file"}), "messages[0].content[0].source.type", "invalid_value"),
    Row(MESSAGES, block(type="text"), "messages[0].content[0].text", MISSING),
    Row(MESSAGES, {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type", "unsupported_value"),
    Row(MESSAGES, {"tools": [{"name": "f"}]}, "tools[0].input_schema", MISSING),
    Row(MESSAGES, {"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name", "invalid_value"),
    Row(MESSAGES, {"tool_choice": {"type": "any"}}, "tool_choice"),
    Row(MESSAGES, {"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice.name"),
    Row(MESSAGES, {"mcp_servers": [{"url": "https://x"}]}, "mcp_servers", UNSUPPORTED),
    Row(MESSAGES, {"container": "c"}, "container", UNSUPPORTED),
    Row(MESSAGES, {"context_management": {}}, "context_management", UNSUPPORTED),
    Row(MESSAGES, {"stop_sequences": [""]}, "stop_sequences", "invalid_value"),
    Row(MESSAGES, {"stop_sequences": ["a"] * 17}, "stop_sequences", "array_above_max_length"),
    Row(MESSAGES, {"temperature": 3}, "temperature", "decimal_above_max_value"),
    Row(MESSAGES, {"thinking": {"type": "maybe"}}, "thinking.type", "invalid_value"),
    Row(MESSAGES, {"system": [{"type": "image"}]}, "system[0].type"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.path}-{json.dumps(row.members)[:60]}")
def test_bad_input(row: Row) -> None:
    client = ask(row.path, **row.members)
    assert client.status == 400, client.body
    error = error_in(row.path, client)
    assert error["type"] == "invalid_request_error"
    if row.path == MESSAGES:
        assert row.param in error["message"]
        return
    assert (error["param"], error["code"]) == (row.param, row.code), error
    assert row.says in error["message"]


@pytest.mark.parametrize("path", LEAST)
@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 5000, b'{"model":' + b"[" * 5000])
def test_what_is_no_request(path: str, raw: bytes) -> None:
    sink = MemorySink()
    client = ask(path, sink=sink, raw=raw)
    assert client.status == 400
    error_in(path, client)
    assert sink.rows == []


@pytest.mark.parametrize("path", LEAST)
def test_what_is_too_large(path: str) -> None:
    client = ask(path, raw=body(path) + b" " * 10_000)
    assert client.status == 413
    assert error_in(path, client)["type"] == ("request_too_large" if path == MESSAGES else "invalid_request_error")


@pytest.mark.parametrize("path", [CHAT, *LEAST])
def test_a_model_that_isnt_offered_there(path: str) -> None:
    engine = ScriptedEngine(b"{}")
    members = {"messages": SAID} if path == CHAT else LEAST[path]
    client = asked(app_with(engine), Client(json.dumps({"model": "m"} | members).encode(), path=path))
    assert client.status == (200 if path == CHAT else 404)
    if path != CHAT:
        assert path in error_in(path, client)["message"]
    assert len(engine.calls) == (path == CHAT)


@pytest.mark.parametrize("path", LEAST)
def test_hints_and_unknown_members_are_no_mistake(path: str) -> None:
    hints = {"metadata": {"user_id": "a"}, "cache_salt": "theirs", "priority": 1, "x_unknown": 1}
    assert ask(path, **hints).status == 200


def test_values_that_ask_for_what_happens_anyway() -> None:
    assert ask(COMPLETIONS, best_of=2, n=2, suffix="", echo=False).status == 200
    assert ask(RESPONSES, store=False, background=False, truncation="disabled", include=[], tools=[]).status == 200
    assert ask(MESSAGES, mcp_servers=[], tools=[]).status == 200


# Images --------------------------------------------------------------------------------------------------------------


def picture() -> str:
    out = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def with_image(path: str, url: str) -> dict[str, Any]:
    if path == RESPONSES:
        return part(type="input_image", image_url=url)
    data = url.partition("base64,")[2]
    source = {"type": "base64", "media_type": "image/png", "data": data} if data else {"type": "url", "url": url}
    return block(type="tool_result", tool_use_id="t", content=[{"type": "image", "source": source}])


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
def test_images_need_a_model_that_sees(path: str) -> None:
    client = ask(path, **with_image(path, f"data:image/png;base64,{picture()}"))
    assert client.status == 400
    assert "is not supported by the model" in error_in(path, client)["message"]


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
def test_images_are_checked_and_never_fetched_by_the_engine(path: str) -> None:
    engine = ScriptedEngine(b"{}", also=ALSO)
    object.__setattr__(engine.info, "input_modalities", ("text", "image"))
    app = app_with(engine)
    for url in ("https://example.org/a.png", "http://10.0.0.1/", "file:///etc/passwd", "data:image/png;base64,AAAA"):
        client = asked(app, Client(body(path, **with_image(path, url)), path=path))
        assert client.status == 400, url
        error_in(path, client)
    assert engine.calls == []
    good = f"data:image/png;base64,{picture()}"
    assert asked(app, Client(body(path, **with_image(path, good)), path=path)).status == 200
    (call,) = engine.calls
    found = call.request.parts[0][0].image_url if path == RESPONSES else call.request.blocks[1][0].source.data
    assert found.removeprefix("data:image/png;base64,") == picture()


# The end of a stream -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", STREAMED)
def test_the_receipt_is_there_before_the_end_is_sent(path: str) -> None:
    sink = MemorySink()
    rows: list[int] = []

    class Watching(Client):
        async def send(self, message: Message) -> None:
            rows.append(len(sink.rows))
            await super().send(message)

    engine = ScriptedEngine(b"data: {}\n\n", also=ALSO, last=ENDS[path])
    client = asked(app_with(engine, sink=sink), Watching(body(path, stream=True), path=path))
    assert client.body == b"data: {}\n\n" + ENDS[path]
    assert client.complete
    assert rows == [0] * (len(rows) - 1) + [1]
    (receipt,) = sink.receipts
    assert receipt.facts.endpoint == path


@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize("error", [EngineFailed("It broke."), RuntimeError(SECRET)])
def test_a_failure_in_a_stream_is_told_in_the_endpoints_own_form(path: str, error: Exception) -> None:
    sink = MemorySink()
    client = ask(path, b"data: {}\n\n", error, sink=sink, stream=True)
    assert client.complete
    assert client.body.endswith(DONE) == (path == COMPLETIONS)
    assert ENDS[path] not in client.body or path == COMPLETIONS
    *_, told, _ = client.body.removesuffix(DONE).split(b"\n\n")
    name, _, data = told.rpartition(b"data: ")
    value = json.loads(data)
    assert name == (b"" if path == COMPLETIONS else b"event: error\n")
    assert value["error"]["message"]
    assert (value.get("type") == "error") == (path != COMPLETIONS)
    (receipt,) = sink.receipts
    assert ResponseAborted(reason="engine_failed") in receipt.facts.events
    assert SECRET.encode() not in client.body


@pytest.mark.parametrize("path", STREAMED)
def test_without_a_store_no_stream_has_an_end(path: str) -> None:
    client = ask(path, b"data: {}\n\n", sink=MemorySink(broken=True), stream=True)
    assert client.complete
    assert ENDS[path] not in client.body
    assert b"can't reach its store" in client.body


# Keys and origins ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneKey:
    id: str = "key_1"
    require_e2ee: bool = False


@pytest.mark.parametrize("path", LEAST)
def test_a_key_for_sealed_requests_takes_nothing_else(path: str) -> None:
    app = app_with(ScriptedEngine(b"{}", also=ALSO), find=lambda _: OneKey(require_e2ee=True))
    client = asked(app, Client(body(path), path=path, headers={"authorization": "Bearer k"}))
    assert client.status == 400
    assert error_in(path, client)["type"] == "e2ee_header_missing"


def test_only_messages_take_the_other_header() -> None:
    app = app_with(ScriptedEngine(b"{}", also=ALSO), find=lambda key: OneKey() if key == "k" else None)
    for path in LEAST:
        client = asked(app, Client(body(path), path=path, headers={"x-api-key": "k"}))
        assert client.status == (200 if path == MESSAGES else 401)
    client = asked(app, Client(body(MESSAGES), path=MESSAGES, headers={"x-api-key": "other"}))
    assert (client.status, error_in(MESSAGES, client)["type"]) == (401, "authentication_error")


@pytest.mark.parametrize("path", LEAST)
def test_scripts_of_allowed_origins(path: str) -> None:
    app = app_with(ScriptedEngine(b"{}", also=ALSO), origins=("https://app.example",))
    asking = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-api-key,anthropic-version,content-type",
    }
    preflight = asked(app, Client(method="OPTIONS", path=path, headers=asking))
    assert preflight.status == 200
    assert "x-api-key" in preflight.headers["access-control-allow-headers"]
    client = asked(app, Client(body(path), path=path, headers={"origin": "https://app.example"}))
    assert client.headers["access-control-allow-origin"] == "https://app.example"
    assert "X-Receipt-Id" in client.headers["access-control-expose-headers"]


@pytest.mark.parametrize("path", LEAST)
def test_a_client_that_leaves_frees_the_engine(path: str) -> None:
    engine = ScriptedEngine(b"{}", wait=60, also=ALSO)
    sink = MemorySink()

    async def leave() -> None:
        client = Client(body(path), path=path)
        work = asyncio.ensure_future(client.of(app_with(engine, sink=sink)))
        while not engine.calls:  # noqa: ASYNC110 - the walk has no event for it
            await asyncio.sleep(0.001)
        client.gone.set()
        await work

    asyncio.run(leave())
    assert engine.given_up == 1
    (receipt,) = sink.receipts
    assert ResponseAborted(reason="client_closed") in receipt.facts.events


def test_models_say_where_they_are_offered() -> None:
    app = app_with(ScriptedEngine(b"{}", also={EMBEDDINGS: frozenset()}))
    (model,) = json.loads(asked(app, Client(method="GET", path="/v1/models")).body)["data"]
    assert model["endpoints"] == [CHAT, EMBEDDINGS]
