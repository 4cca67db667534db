"""The endpoints beside chat completions with stand-ins: what is sent, what is refused, what of answers passes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import struct
from collections.abc import Callable
from contextlib import aclosing
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.engine.remote.asking import CREATED, SECRET
from tests.engine.remote.test_remote_engine import SALT, using
from tests.simulator import engine_endpoints as theirs
from tests.simulator.engine_dialects import MODEL, PROMPT_TOKENS, TEXT
from tests.simulator.engine_endpoints import COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES
from tests.simulator.engines import StandIn, standing_in

from confide.engine.base import CHAT, Call
from confide.engine.remote import anthropic, responses
from confide.engine.remote.dialect import DIALECTS
from confide.engine.remote.engine import SERVICES, RemoteEngine
from confide.engine.remote.offers import OFFERS
from confide.engine.remote.pruning import prune, read
from confide.errors import ApiError, EngineFailed, InvalidRequest
from confide.wire.answers import Usage
from confide.wire.messages import MessagesRequest, check_message, parse_message
from confide.wire.responses import ResponsesRequest, check_response, parse_response
from confide.wire.sse import DONE
from confide.wire.texts import CompletionRequest, check_completion, parse_completion
from confide.wire.vectors import EmbeddingRequest, check_embedding, parse_embedding

USER = [{"role": "user", "content": SECRET}]
IDS = {COMPLETIONS: "cmpl-0a1b", EMBEDDINGS: "embd-0a1b", RESPONSES: "resp_0a1b", MESSAGES: "msg_0a1b"}
LEAST: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": SECRET},
    EMBEDDINGS: {"input": SECRET},
    RESPONSES: {"input": SECRET},
    MESSAGES: {"messages": USER, "max_tokens": 100},
}
PARSE: dict[str, Any] = {
    COMPLETIONS: (parse_completion, check_completion),
    EMBEDDINGS: (parse_embedding, check_embedding),
    RESPONSES: (parse_response, check_response),
    MESSAGES: (parse_message, check_message),
}
STREAMED = (COMPLETIONS, RESPONSES, MESSAGES)
TYPES = {
    COMPLETIONS: CompletionRequest,
    EMBEDDINGS: EmbeddingRequest,
    RESPONSES: ResponsesRequest,
    MESSAGES: MessagesRequest,
}
OFFERED = [(name, path) for name in DIALECTS for path in OFFERS[name] if path != EMBEDDINGS]


def call(path: str, *, tenant: str = "key_1", model: str = MODEL, **members: Any) -> Call[Any]:
    """A request on its way."""
    body = json.dumps({"model": model} | LEAST[path] | members, ensure_ascii=False).encode()
    parse, check = PARSE[path]
    request = parse(body)
    check(request)
    return Call(IDS[path], CREATED, model, tenant, request, body)


def sent(path: str, name: str = "vllm", salt: str | None = None, **members: Any) -> dict[str, Any]:
    """What the engine gets for a request."""
    body = SERVICES[TYPES[path]].prepare(call(path, **members), DIALECTS[name], model="theirs", salt=salt)
    found: dict[str, Any] = json.loads(body)
    return found


def written(payload: Any) -> bytes:
    """An event as it is on the wire."""
    return payload if isinstance(payload, bytes) else b"data: " + json.dumps(payload).encode() + b"\n\n"


def mended(path: str, payloads: list[Any], name: str = "vllm", size: int = 0, **members: Any) -> list[bytes]:
    """What a client gets of a stream, whose bytes come in pieces of this size."""
    one = call(path, stream=True, **members)
    data = b"".join(map(written, payloads))
    mender = SERVICES[TYPES[path]].stream(one, DIALECTS[name])
    out: list[bytes] = []
    step = size or len(data) or 1
    for start in range(0, len(data), step):
        out += mender.feed(data[start : start + step])
    mender.end()
    return [*out, mender.last]


def stream_of(path: str, name: str = "vllm", **members: Any) -> list[Any]:
    """A stream as the engine writes it for what it is sent."""
    body = sent(path, name, stream=True, **members) | {"model": MODEL}
    return [*theirs.stream(name, path, body), *([] if path in theirs.NAMED else [DONE])]


async def answer(engine: RemoteEngine, one: Call[Any]) -> bytes:
    """The whole answer, its last event included where it is a stream."""
    async with aclosing(await engine.infer(one)) as reply:
        body = b"".join([piece async for piece in reply])
        return body + reply.last if one.request.stream else body


def refused(path: str, name: str = "vllm", **members: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        sent(path, name, **members)
    assert SECRET not in caught.value.message
    return caught.value


# What an engine is offered for --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIALECTS)
def test_an_engine_is_asked_what_it_answers(name: str) -> None:
    async def look(engine: RemoteEngine) -> frozenset[str]:
        return engine.info.endpoints

    with standing_in(name) as one:
        found = using(one, look)
        known = frozenset(OFFERS[name]) & one.routes - ({EMBEDDINGS} if name in {"sglang", "ollama"} else set())
        assert found == known | {CHAT}


@pytest.mark.parametrize(("name", "pages"), [("vllm", {}), ("llama-server", {}), ("sglang", {"is_generation": False})])
def test_an_engine_for_embeddings_doesnt_chat(name: str, pages: dict[str, Any]) -> None:
    async def look(engine: RemoteEngine) -> frozenset[str]:
        return engine.info.endpoints

    routes = frozenset({EMBEDDINGS, COMPLETIONS} if pages else {EMBEDDINGS})
    with standing_in(name, routes=routes, pages={"/model_info": pages} if pages else None) as one:
        assert using(one, look) == {EMBEDDINGS}


@pytest.mark.parametrize("name", DIALECTS)
def test_what_cant_be_separated_isnt_offered_where_caches_are(name: str) -> None:
    async def look(engine: RemoteEngine) -> frozenset[str]:
        return engine.info.endpoints

    with standing_in(name) as one:
        lost = using(one, look) - using(one, look, salt_secret=SALT)
        assert lost == {path for path, offer in OFFERS[name].items() if not offer.separates} & one.routes - {EMBEDDINGS}


# Requests ------------------------------------------------------------------------------------------------------------

DANGEROUS: dict[str, Any] = {
    "cache_salt": "theirs",
    "priority": -9,
    "request_id": "theirs",
    "rid": "theirs",
    "session_id": "s",
    "kv_transfer_params": {"do_remote_decode": True},
    "vllm_xargs": {"a": 1},
    "lora_path": "/etc",
    "id_slot": 0,
    "cache_prompt": True,
    "custom_logit_processor": "x",
    "unknown_to_all": 1,
}


@pytest.mark.parametrize(("name", "path"), OFFERED)
def test_only_known_members_are_sent(name: str, path: str) -> None:
    body = sent(path, name, salt="ours", **DANGEROUS)
    allowed = (
        OFFERS[name][path].members | {"model", "stream", "stream_options", "store", "max_tokens"} | set(LEAST[path])
    )
    dialect = DIALECTS[name]
    own = {dialect.request_id, dialect.cache_salt, *dialect.unsalted}
    assert body.keys() <= allowed | own
    assert body["model"] == "theirs"
    assert "theirs" not in [value for member, value in body.items() if member != "model"]
    if dialect.cache_salt and OFFERS[name][path].separates:
        assert body[dialect.cache_salt] == "ours"
    assert dialect.unsalted.items() <= body.items()
    assert (dialect.cache_salt or "-") not in sent(path, name, **DANGEROUS)


@pytest.mark.parametrize("path", [COMPLETIONS, EMBEDDINGS, RESPONSES])
def test_vllm_repeats_our_id(path: str) -> None:
    prefix = {COMPLETIONS: "cmpl-", EMBEDDINGS: "embd-", RESPONSES: ""}[path]
    assert prefix + sent(path)["request_id"] == IDS[path]


def test_a_text_is_continued_by_as_much_as_the_api_says() -> None:
    assert sent(COMPLETIONS)["max_tokens"] == 16
    assert sent(COMPLETIONS, max_tokens=3)["max_tokens"] == 3
    assert "n" not in sent(COMPLETIONS, n=1)
    assert sent(COMPLETIONS, stream=True)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in sent(COMPLETIONS)


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_prompts_pass_as_they_are(prompt: Any) -> None:
    assert sent(COMPLETIONS, prompt=prompt)["prompt"] == prompt
    assert sent(EMBEDDINGS, input=prompt)["input"] == prompt


@pytest.mark.parametrize("name", ["llama-server", "ollama"])
def test_engines_with_one_choice_take_one_prompt(name: str) -> None:
    assert sent(COMPLETIONS, name, prompt=["a"])["prompt"] == "a"
    assert refused(COMPLETIONS, name, prompt=["a", "b"]).param == "prompt"


def test_engines_that_take_no_tokens() -> None:
    assert refused(COMPLETIONS, "ollama", prompt=[1, 2]).param == "prompt"
    assert refused(EMBEDDINGS, "ollama", input=[1, 2]).param == "input"


def test_llama_cpp_has_its_ways() -> None:
    body = sent(COMPLETIONS, "llama-server", seed=-1, frequency_penalty=0.5, repetition_penalty=1.1)
    assert (body["repeat_last_n"], body["repeat_penalty"]) == (2**16, 1.1)
    assert 0 <= body["seed"] < 2**32 - 1
    assert "repetition_penalty" not in body


def test_a_response_is_never_stored() -> None:
    for members in ({}, {"store": False}, {"store": None}):
        assert sent(RESPONSES, **members)["store"] is False


def test_inputs_are_written_anew_from_what_is_known_of_them() -> None:
    items: list[Any] = [
        {"role": "user", "content": "hi", "evil": 1},
        {"type": "message", "role": "assistant", "id": "msg_1", "content": [{"type": "output_text", "text": "yes"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "zzz"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "evil": 1},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "3", "evil": 1}]},
    ]
    written = sent(RESPONSES, input=items)["input"]
    assert "evil" not in json.dumps(written)
    assert "zzz" not in json.dumps(written)
    assert [item.get("type") for item in written] == [item.get("type") for item in items]
    assert written[4]["output"] == [{"type": "input_text", "text": "3"}]


def test_what_the_model_said_before_is_given_back_whole() -> None:
    part = {"type": "output_text", "text": "hello"}
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [part]}]
    user, assistant = sent(RESPONSES, input=said)["input"]
    assert user == {"role": "user", "content": "hi"}
    assert assistant == {
        "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
        "content": [part | {"annotations": []}],
    }  # fmt: skip
    said[1] |= {"id": "msg_own", "status": "incomplete"}
    assert sent(RESPONSES, input=said)["input"][1]["id"] == "msg_own"


def test_cached_tokens_are_part_of_the_prompt() -> None:
    told = {"input_tokens": 4, "output_tokens": 2, "cache_read_input_tokens": 128, "cache_creation_input_tokens": 1}
    whole = theirs.message_whole(sent(MESSAGES), TEXT) | {"usage": told}
    _, usage = SERVICES[MessagesRequest].whole(call(MESSAGES), DIALECTS["vllm"], json.dumps(whole).encode())
    assert usage == Usage(133, 2, 128)


def test_functions_are_strict_and_tools_of_others_refused() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "evil": 1}
    (written,) = sent(RESPONSES, tools=[tool])["tools"]
    assert written == {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    (named,) = sent(MESSAGES, tools=[{"name": "f", "input_schema": {}, "cache_control": {"type": "ephemeral"}}])[
        "tools"
    ]
    assert named == {"name": "f", "input_schema": {}, "strict": True}
    for kind in ("web_search", "mcp", "code_interpreter", "file_search", "computer_use_preview", "custom", ""):
        error = refused(RESPONSES, tools=[tool, {"type": kind, "server_url": "https://example.org"}])
        assert (error.param, error.code) == ("tools[1].type", "unsupported_value")
    for kind in ("web_search_20250305", "bash_20250124", "computer_20250124"):
        error = refused(MESSAGES, tools=[{"type": kind, "name": "x"}])
        assert (error.param, error.code) == ("tools[0].type", "unsupported_value")


def test_a_tool_that_must_not_be_called_isnt_shown() -> None:
    tool = {"name": "f", "input_schema": {}}
    body = sent(MESSAGES, tools=[tool], tool_choice={"type": "none"})
    assert not {"tools", "tool_choice"} & body.keys()
    assert not {"tools", "tool_choice"} & sent(RESPONSES, tools=[], tool_choice="none").keys()
    body = sent(MESSAGES, tools=[tool], tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert body["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    for choice in ({"type": "any"}, {"type": "tool", "name": "f"}):
        assert refused(MESSAGES, "llama-server", tools=[tool], tool_choice=choice).param == "tool_choice.type"
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    error = refused(MESSAGES, "llama-server", tools=[tool], tool_choice=choice)
    assert error.param == "tool_choice.disable_parallel_tool_use"


def test_only_the_effort_of_reasoning_is_sent() -> None:
    body = sent(RESPONSES, reasoning={"effort": "low", "summary": "auto"}, include=["reasoning.encrypted_content"])
    assert (body["reasoning"], body["include"]) == ({"effort": "low"}, [])


# Answers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "path"), OFFERED)
def test_answers_of_all_engines_read_alike(name: str, path: str) -> None:
    with standing_in(name) as one:

        async def ask(engine: RemoteEngine) -> tuple[bytes, bytes]:
            return await answer(engine, call(path, max_tokens=100) if path != RESPONSES else call(path)), await answer(
                engine, call(path, stream=True, **({} if path == RESPONSES else {"max_tokens": 100}))
            )

        whole, streamed = using(one, ask)
    assert texts_of(path, [whole]) == texts_of(path, streamed.split(b"\n\n")) == TEXT
    assert b"tiny-1.gguf" not in whole + streamed
    assert json.loads(whole)["id"] == IDS[path]


def texts_of(path: str, found: list[bytes]) -> str:
    """All text of an answer: of the one body, or of the events."""
    out = ""
    for piece in found:
        data = piece.partition(b"data: ")[2] if b"data: " in piece else piece
        if not data or data == b"[DONE]":
            continue
        value = json.loads(data)
        if path == COMPLETIONS:
            out += "".join(choice["text"] for choice in value["choices"])
        elif path == RESPONSES:
            out += value.get("delta", "")
            if value.get("object") == "response":
                out += value["output"][0]["content"][0]["text"]
        else:
            out += (value.get("delta") or {}).get("text", "")
            if value["type"] == "message":
                out += value["content"][0]["text"]
    return out


@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize("size", [0, 1, 7])
def test_events_that_are_right_pass_byte_for_byte(path: str, size: int) -> None:
    raw = stream_of(path)
    got = mended(path, raw, size=size)
    wire = list(map(written, raw))
    changed = {1} if path == MESSAGES else set()  # vLLM has its own id there, which it says once
    if path == COMPLETIONS:
        wire = wire[:-2] + wire[-1:]  # usage, which nobody asked for
    assert len(got) == len(wire)
    assert sum(one != other for one, other in zip(got, wire, strict=True)) == len(changed)
    assert mended(path, raw) == got


@pytest.mark.parametrize("path", STREAMED)
def test_the_last_event_is_kept_back(path: str) -> None:
    one = call(path, stream=True)
    mender = SERVICES[TYPES[path]].stream(one, DIALECTS["vllm"])
    raw = stream_of(path)
    out = mender.feed(
        b"".join(p if isinstance(p, bytes) else b"data: " + json.dumps(p).encode() + b"\n\n" for p in raw)
    )
    ends = {COMPLETIONS: DONE, RESPONSES: b"event: response.completed\n", MESSAGES: b"event: message_stop\n"}[path]
    assert mender.done
    assert mender.last.startswith(ends)
    assert not any(event.startswith(ends) for event in out)


@pytest.mark.parametrize("path", [*STREAMED, EMBEDDINGS])
def test_what_engines_add_is_removed(path: str) -> None:
    names = ("kv_transfer_params", "metrics", "input_messages", "__verbose")
    secret: dict[str, Any] = {name: {"host": "10.0.0.1"} for name in names}
    whole = theirs.whole("vllm", path, sent(path) | {"model": "other"})
    within = {COMPLETIONS: "choices", RESPONSES: "output", MESSAGES: "content", EMBEDDINGS: "data"}[path]
    whole[within][0] |= secret
    body, _ = SERVICES[TYPES[path]].whole(call(path), DIALECTS["vllm"], json.dumps(whole | secret).encode())
    assert b"10.0.0.1" not in body
    assert json.loads(body)["model"] == MODEL
    if path == EMBEDDINGS:
        return
    events = [one for one in stream_of(path) if one != DONE]
    values = events if path == COMPLETIONS else theirs.read_named(events)
    dirty = [{**value, **secret} for value in values]
    named = dirty if path == COMPLETIONS else [theirs.named(value) for value in dirty]
    got = b"".join(mended(path, [*named, *([DONE] if path == COMPLETIONS else [])]))
    assert b"10.0.0.1" not in got
    assert texts_of(path, got.split(b"\n\n")) == TEXT


def test_whole_answers_that_are_right_pass_byte_for_byte() -> None:
    for path in (COMPLETIONS, RESPONSES):
        body = json.dumps(theirs.whole("vllm", path, sent(path, max_tokens=90) | {"model": MODEL}), indent=1).encode()
        assert SERVICES[TYPES[path]].whole(call(path), DIALECTS["vllm"], body)[0] == body


@pytest.mark.parametrize("format", ["float", "base64", None])
@pytest.mark.parametrize("name", ["vllm", "sglang", "ollama", "llama-server"])
def test_vectors_come_in_the_format_that_was_asked_for(name: str, format: str | None) -> None:
    one = call(EMBEDDINGS, input=["a", "b"], encoding_format=format, dimensions=2)
    theirs_body = json.dumps(theirs.embeddings(name, json.loads(one.body)))
    body, usage = SERVICES[EmbeddingRequest].whole(one, DIALECTS[name], theirs_body.encode())
    found = json.loads(body)
    vectors = [entry["embedding"] for entry in found["data"]]
    if format == "base64":
        vectors = [list(struct.unpack(f"<{len(base64.b64decode(v)) // 4}f", base64.b64decode(v))) for v in vectors]
    assert vectors == [[0.5, -0.25], [0.5, -0.25, 0.0]]
    assert [entry["index"] for entry in found["data"]] == [0, 1]
    assert found["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
    assert (found["object"], found["model"], found["id"], usage) == ("list", MODEL, IDS[EMBEDDINGS], Usage(8))


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 1, "embedding": [1.0]}],
        [{"index": 0, "embedding": []}],
        [{"index": 0, "embedding": "AAA"}],
        [{"index": 0, "embedding": "AAAA"}],
        [{"index": 0, "embedding": [None]}],
        [{"index": 0, "embedding": [1e300]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0]}],
        [{"index": 0}],
    ],
)
def test_vectors_that_are_none(data: Any) -> None:
    one = call(EMBEDDINGS, encoding_format="base64")
    with pytest.raises(EngineFailed):
        SERVICES[EmbeddingRequest].whole(one, DIALECTS["vllm"], json.dumps({"data": data}).encode())


@pytest.mark.parametrize("name", ["vllm", "sglang", "llama-server"])
@pytest.mark.parametrize("logprobs", [None, 0, 1])
def test_log_probabilities_have_the_form_of_this_endpoint(name: str, logprobs: int | None) -> None:
    events = mended(
        COMPLETIONS, stream_of(COMPLETIONS, name, logprobs=logprobs, max_tokens=90), name, logprobs=logprobs
    )
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
    found = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"] if choice["text"]]
    if logprobs is None:
        assert set(found) == {None}
        return
    assert [len(text) for one in found for text in one["tokens"]] == [len(piece) for piece in theirs.pieces({}, TEXT)]
    offsets = [offset for one in found for offset in one["text_offset"]]
    assert offsets == [len("".join(theirs.pieces({}, TEXT)[:place])) for place in range(len(offsets))]


def test_usage_comes_last_and_only_where_it_was_asked_for() -> None:
    for name in ("vllm", "sglang", "llama-server", "ollama"):
        raw = stream_of(COMPLETIONS, name, max_tokens=90)
        asked = mended(COMPLETIONS, raw, name, stream_options={"include_usage": True})
        told = json.loads(asked[-2].removeprefix(b"data: "))
        assert (told["choices"], told["usage"]["prompt_tokens"]) == ([], PROMPT_TOKENS)
        assert all(
            b'"usage":{' not in event.replace(b" ", b"") for event in [*asked[:-2], *mended(COMPLETIONS, raw, name)]
        )


@pytest.mark.parametrize("path", STREAMED)
def test_tokens_are_counted(path: str) -> None:
    with standing_in("vllm") as one:

        async def ask(engine: RemoteEngine) -> list[Usage]:
            found = []
            for stream in (True, False):
                async with aclosing(await engine.infer(call(path, stream=stream))) as reply:
                    [piece async for piece in reply]
                    found.append(reply.usage)
            return found

        streamed, whole = using(one, ask)
    assert streamed == whole
    assert (streamed.prompt, streamed.completion) == (PROMPT_TOKENS, len(theirs.pieces({}, TEXT)))


# What goes wrong -----------------------------------------------------------------------------------------------------

Change = Callable[[list[Any]], list[Any]]
BREAKS: dict[str, Change] = {
    "cut": lambda events: events[: len(events) // 2],
    "without its end": lambda events: events[:-3] if DONE in events else events[:-1],
    "nothing": lambda events: [],
    "no JSON": lambda events: [events[0], b'event: x\ndata: {"a": \n\n'],
    "no object": lambda events: [events[0], b"event: x\ndata: [1]\n\n"],
    "no event": lambda events: [events[0], b"<html>\n\n"],
    "a wrong type": lambda events: [*events[:2], b'data: {"type":5,"choices":[{"index":0,"text":7}]}\n\n'],
}


@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize("what", BREAKS)
def test_a_stream_that_breaks(path: str, what: str) -> None:
    with pytest.raises(EngineFailed):
        mended(path, BREAKS[what](stream_of(path)))


ERROR = {"message": f"bad: {SECRET} at /srv/models", "type": "BadRequestError", "code": 400}


@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize("after", [0, 2])
def test_an_error_in_a_stream_is_told_in_our_words(path: str, after: int) -> None:
    told = {"type": "error", "error": ERROR}
    with pytest.raises(ApiError) as caught:
        mended(path, [*stream_of(path)[:after], theirs.named(told)])
    assert SECRET not in caught.value.message
    assert isinstance(caught.value, EngineFailed if after else InvalidRequest)


def test_a_response_that_failed_is_no_answer() -> None:
    events = theirs.read_named(stream_of(RESPONSES))
    events[-1] = {**events[-1], "type": "response.failed"}
    with pytest.raises(EngineFailed):
        mended(RESPONSES, [theirs.named(event) for event in events])
    events[-1] = {
        **events[-1],
        "type": "response.completed",
        "response": {**events[-1]["response"], "status": "failed"},
    }
    with pytest.raises(EngineFailed):
        mended(RESPONSES, [theirs.named(event) for event in events])
    whole = {**theirs.response_whole(sent(RESPONSES), TEXT), "status": "failed", "error": {"message": SECRET}}
    with pytest.raises(EngineFailed) as caught:
        SERVICES[ResponsesRequest].whole(call(RESPONSES), DIALECTS["vllm"], json.dumps(whole).encode())
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_the_end_of_a_response_that_was_cut_short_is_called_so(size: int) -> None:
    """vLLM writes ``response.completed`` whatever the status; SDKs wait for ``response.incomplete``."""
    raw = stream_of(RESPONSES, max_output_tokens=1)
    *events, last = theirs.read_named(raw)
    assert (last["type"], last["response"]["status"]) == ("response.completed", "incomplete")
    ended = {**last, "type": "response.incomplete"}
    got = mended(RESPONSES, raw, size=size, max_output_tokens=1)
    assert theirs.read_named(got) == [*events, ended]
    assert got[-1].startswith(b"event: response.incomplete\n")
    assert mended(RESPONSES, [*raw[:-1], theirs.named(ended)], max_output_tokens=1) == got


def test_the_end_of_a_response_without_the_response_is_no_answer() -> None:
    *raw, _ = stream_of(RESPONSES)
    for kind in ("response.completed", "response.incomplete"):
        with pytest.raises(EngineFailed):
            mended(RESPONSES, [*raw, theirs.named({"type": kind, "sequence_number": 9})])


def test_a_message_without_a_reason_to_end_is_no_answer() -> None:
    whole = {**theirs.message_whole(sent(MESSAGES), TEXT), "stop_reason": None}
    with pytest.raises(EngineFailed):
        SERVICES[MessagesRequest].whole(call(MESSAGES), DIALECTS["vllm"], json.dumps(whole).encode())
    events = theirs.read_named(stream_of(MESSAGES))
    events[-2]["delta"]["stop_reason"] = None
    with pytest.raises(EngineFailed):
        mended(MESSAGES, [theirs.named(event) for event in events])


def test_events_of_unknown_types_are_left_out() -> None:
    raw = stream_of(RESPONSES)
    more = theirs.named({"type": "response.mcp_call.completed", "output": SECRET})
    assert mended(RESPONSES, [raw[0], more, *raw[1:]]) == mended(RESPONSES, raw)


@pytest.mark.parametrize("finish", ["abort", "error", 5])
def test_a_text_that_the_engine_gave_up(finish: Any) -> None:
    chunks = stream_of(COMPLETIONS)[:-1]
    chunks[-2]["choices"][0]["finish_reason"] = finish
    with pytest.raises(EngineFailed):
        mended(COMPLETIONS, [*chunks, DONE])


@pytest.mark.parametrize("choices", [[], [{"index": 1, "text": "a", "finish_reason": "stop"}], [{"index": 0}]])
def test_a_whole_text_that_is_none(choices: Any) -> None:
    with pytest.raises(EngineFailed):
        SERVICES[CompletionRequest].whole(
            call(COMPLETIONS), DIALECTS["vllm"], json.dumps({"choices": choices}).encode()
        )


def test_choices_come_in_order() -> None:
    choices = [{"index": index, "text": str(index), "logprobs": None, "finish_reason": "stop"} for index in (1, 0)]
    one = call(COMPLETIONS, n=2)
    body, _ = SERVICES[CompletionRequest].whole(one, DIALECTS["vllm"], json.dumps({"choices": choices}).encode())
    assert [choice["text"] for choice in json.loads(body)["choices"]] == ["0", "1"]


# Over the wire -------------------------------------------------------------------------------------------------------


def infer_refused(stand_in: StandIn, path: str, **more: Any) -> ApiError:
    async def ask(engine: RemoteEngine) -> ApiError:
        with pytest.raises(ApiError) as caught:
            await answer(engine, call(path, stream=True))
        return caught.value

    error: ApiError = using(stand_in, ask, **more)
    assert SECRET not in error.message
    return error


@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize(
    ("faults", "status"),
    [
        ({"status": 400, "refusal": f"nope: {SECRET}"}, 400),
        ({"status": 429}, 429),
        ({"status": 503}, 503),
        ({"status": 500, "refusal": SECRET}, 502),
        ({"garbage": "http"}, 502),
        ({"garbage": "event"}, 502),
        ({"die_after": 0, "deaths": 9}, 502),
        ({"die_after": 2}, 502),
        ({"compressed": True}, 502),
    ],
)
def test_faults(path: str, faults: dict[str, Any], status: int) -> None:
    with standing_in("vllm") as one:

        async def ask(engine: RemoteEngine) -> ApiError:
            one.now(**faults)
            with pytest.raises(ApiError) as caught:
                await answer(engine, call(path, stream=True))
            return caught.value

        error: ApiError = using(one, ask)
    assert error.status == status
    assert SECRET not in error.message


@pytest.mark.parametrize(
    ("path", "member"), [(COMPLETIONS, "prompt"), (EMBEDDINGS, "input"), (RESPONSES, "input"), (MESSAGES, "messages")]
)
def test_too_much_is_told_of_by_the_endpoints_own_member(path: str, member: str) -> None:
    routes = frozenset({path, COMPLETIONS})
    told = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"
    with standing_in("vllm", routes=routes, status=400, refusal=told) as one:

        async def ask(engine: RemoteEngine) -> ApiError:
            with pytest.raises(InvalidRequest) as caught:
                await answer(engine, call(path))
            return caught.value

        error: ApiError = using(one, ask)
    assert (error.param, error.code) == (member, "context_length_exceeded")
    assert f"your {member} resulted in 5000 tokens" in error.message


@pytest.mark.parametrize("path", STREAMED)
def test_what_is_sent_is_what_is_told_to_be_forwarded(path: str) -> None:
    with standing_in("vllm") as one:

        async def ask(engine: RemoteEngine) -> str:
            async with aclosing(await engine.infer(call(path))) as reply:
                return reply.forwarded

        digest = using(one, ask, salt_secret=SALT)
        (got,) = one.asked
    assert digest == "sha256:" + hashlib.sha256(got.body).hexdigest()
    assert got.path == path
    assert got.json["model"] == MODEL


def test_tenants_have_salts_of_their_own() -> None:
    with standing_in("vllm") as one:

        async def ask(engine: RemoteEngine) -> None:
            for path in STREAMED:
                for tenant in ("key_1", "key_2"):
                    await answer(engine, call(path, tenant=tenant))

        using(one, ask, salt_secret=SALT)
        salts = [request.json["cache_salt"] for request in one.asked]
    assert len(set(salts)) == 2
    assert salts == salts[:2] * 3


def test_a_client_that_leaves_ends_the_work() -> None:
    with standing_in("vllm", stall_after=3) as one:

        async def ask(engine: RemoteEngine) -> None:
            async with aclosing(await engine.infer(call(RESPONSES, stream=True))) as reply:
                await anext(aiter(reply))
            while not one.left.is_set():  # noqa: ASYNC110 - the stand-in runs in another thread
                await asyncio.sleep(0.01)

        using(one, ask)


# Pruning -------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)
SHAPES = {**responses.EVENTS, **anthropic.EVENTS}


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(sorted(SHAPES)),
    more=st.dictionaries(st.sampled_from(["response", "item", "a", "delta"]), JSON),
)
@example(kind="response.in_progress", more={"response": {"": False}})
def test_what_was_pruned_once_has_nothing_more_to_prune(kind: str, more: dict[str, Any]) -> None:
    value = deepcopy({"type": kind} | more)
    try:
        changed = prune(value, SHAPES[kind])
    except EngineFailed:
        return
    assert value.keys() - {name for name, one in value.items() if one is None} <= SHAPES[kind].keys()
    before = json.dumps(value)
    assert not prune(value, SHAPES[kind])
    assert json.dumps(value) == before
    assert changed == (value != {"type": kind} | more)


@pytest.mark.parametrize("data", [b"", b"[]", b"5", b"\xff", b'{"a":', b"[" * 100_000])
def test_only_objects_are_read(data: bytes) -> None:
    with pytest.raises(EngineFailed):
        read(data)
