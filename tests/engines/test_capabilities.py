"""What clients can ask for, on every engine. Each test is a row of the table in the docs; each receipt is checked."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.engines.kinds import ID
from tests.engines.ledger import NotOffered, capability
from tests.engines.stage import HELLO, PATIENCE, Reply, Stage, until
from tests.vision.pictures import picture

pytestmark = pytest.mark.timeout(1800)  # the first test of each engine waits until that is there

Json = dict[str, Any]

CAT: Final = [{"role": "user", "content": "Describe a cat as JSON."}]
SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "legs": {"enum": [2, 4]},
        "wild": {"type": "boolean"},
    },
    "required": ["name", "legs", "wild"],
    "additionalProperties": False,
}
FORMAT: Final = {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA, "strict": True}}

ASK: Final = [{"role": "user", "content": "What is the weather in Paris?"}]
PARAMETERS: Final[Json] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER: Final = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
CLOCK: Final = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}, "required": ["zone"]},
    },
}
TOOLS: Final = [WEATHER, CLOCK]


def text_of(chunks: list[Json]) -> str:
    """What the only choice of a stream says."""
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def finish_of(chunks: list[Json]) -> str | None:
    """Why it ended, said once."""
    (reason,) = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    return str(reason)


def arguments_of(call: Json) -> Json:
    """The arguments of a call of the first function, which must be as its schema says."""
    assert call["id"]
    assert call["function"]["name"] in {"get_weather", "get_time"}
    value: Json = json.loads(call["function"]["arguments"])
    if call["function"]["name"] == "get_weather":
        Draft202012Validator(PARAMETERS).validate(value)
    return value


# Text ----------------------------------------------------------------------------------------------------------------


@capability("an answer in one piece, with usage")
def test_whole(stage: Stage) -> None:
    value = stage.ask().value
    assert (value["object"], value["model"]) == ("chat.completion", ID)
    assert value["id"].startswith("chatcmpl-")
    assert value["choices"][0]["message"]["content"]
    usage = value["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["completion_tokens"] <= 12


@capability("a stream that says the same, with the same usage")
def test_stream(stage: Stage) -> None:
    plain = stage.ask().value
    *chunks, last = stage.ask(stream=True, stream_options={"include_usage": True}).chunks
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert text_of(chunks) == plain["choices"][0]["message"]["content"]
    assert finish_of(chunks) == plain["choices"][0]["finish_reason"]
    assert (last["choices"], len(chunks) > 1) == ([], True)
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [last["usage"][name] for name in names] == [plain["usage"][name] for name in names]


@capability("a stream without usage, where nobody asked for it")
def test_stream_without_usage(stage: Stage) -> None:
    assert not [chunk for chunk in stage.ask(stream=True).chunks if chunk.get("usage")]


@capability("`max_tokens` and `max_completion_tokens`")
def test_limit(stage: Stage) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        value = stage.ask(**{"max_tokens": None, name: 5}).value
        assert (value["usage"]["completion_tokens"], value["choices"][0]["finish_reason"]) == (5, "length")


@capability("`stop`")
def test_stop(stage: Stage) -> None:
    whole = stage.ask(max_tokens=20).text
    word = whole[len(whole) // 2 :][:4]
    for reply in (stage.ask(max_tokens=20, stop=word), stage.ask(max_tokens=20, stop=[word, "never said"])):
        assert reply.text == whole[: whole.index(word)]
        assert reply.choice["finish_reason"] == "stop"
    chunks = stage.ask(max_tokens=20, stop=[word], stream=True).chunks
    assert (text_of(chunks), finish_of(chunks)) == (whole[: whole.index(word)], "stop")


@capability("`seed`: the same twice, another with another")
def test_seed(stage: Stage) -> None:
    first, second, other = (stage.ask(temperature=1, seed=seed, max_tokens=16).text for seed in (7, 7, 8))
    assert first == second
    assert first != other


@capability("`n`: several choices, streamed or not")
def test_choices(stage: Stage) -> None:
    members: Json = {"n": 2, "temperature": 1, "max_tokens": 6}
    value = stage.ask(**members).value
    assert [choice["index"] for choice in value["choices"]] == [0, 1]
    chunks = stage.ask(**members, stream=True, stream_options={"include_usage": True}).chunks
    assert {choice["index"] for chunk in chunks for choice in chunk["choices"]} == {0, 1}
    assert chunks[-1]["usage"]["prompt_tokens"] == value["usage"]["prompt_tokens"]
    assert 6 < chunks[-1]["usage"]["completion_tokens"] <= 12


@capability("`logprobs`, `top_logprobs`")
def test_logprobs(stage: Stage) -> None:
    choice = stage.ask(logprobs=True, top_logprobs=2, max_tokens=5).choice
    tokens = choice["logprobs"]["content"]
    assert len(tokens) == 5
    assert b"".join(bytes(token["bytes"]) for token in tokens).decode() == choice["message"]["content"]
    for token in tokens:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 2
    chunks = stage.ask(logprobs=True, top_logprobs=2, max_tokens=5, stream=True).chunks
    streamed = [
        token["token"]
        for chunk in chunks
        for choice in chunk["choices"]
        for token in ((choice.get("logprobs") or {}).get("content") or ())
    ]
    assert streamed == [token["token"] for token in tokens]
    assert stage.ask(logprobs=True, max_tokens=2).choice["logprobs"]["content"][0]["top_logprobs"] == []


@capability("`logit_bias`")
def test_bias(stage: Stage) -> None:
    """A token that is banned isn't the next one."""
    usual = stage.ask(max_tokens=8).text
    banned = {str(token): -100 for token in (19556, 28120, 30, 253, 339)}  # "Hello", and other words for a start
    assert stage.ask(max_tokens=8, logit_bias=banned).text != usual


@capability("`presence_penalty`, `frequency_penalty`")
def test_penalties(stage: Stage) -> None:
    members: Json = {"max_tokens": 40, "messages": [{"role": "user", "content": "Repeat: go go go go go go go go go"}]}
    assert stage.ask(**members, frequency_penalty=2, presence_penalty=2).text != stage.ask(**members).text


@capability("roles `developer`, `system`, `assistant`; content in parts")
def test_roles(stage: Stage) -> None:
    parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello."}]
    for role in ("developer", "system"):
        messages = [
            {"role": role, "content": "You are brief."},
            {"role": "user", "content": "Good day."},
            {"role": "assistant", "content": "Good day."},
            {"role": "user", "content": parts},
        ]
        assert stage.ask(messages=messages).text


# Structure -----------------------------------------------------------------------------------------------------------


@capability("`response_format`: `json_schema`")
def test_schema(stage: Stage) -> None:
    for seed in (1, 2):
        reply = stage.ask(messages=CAT, response_format=FORMAT, temperature=1, seed=seed, max_tokens=80)
        assert reply.choice["finish_reason"] == "stop"
        Draft202012Validator(SCHEMA).validate(json.loads(reply.text))
    chunks = stage.ask(messages=CAT, response_format=FORMAT, max_tokens=80, stream=True).chunks
    Draft202012Validator(SCHEMA).validate(json.loads(text_of(chunks)))


@capability("`response_format`: `json_object`")
def test_object(stage: Stage) -> None:
    reply = stage.ask(messages=CAT, response_format={"type": "json_object"}, max_tokens=120)
    assert reply.text.lstrip().startswith("{")
    assert reply.choice["finish_reason"] == "length" or isinstance(json.loads(reply.text), dict)


def calls_of(reply: Reply) -> list[Json]:
    """The calls of an answer that makes some."""
    assert reply.choice["finish_reason"] == "tool_calls", reply.choice
    assert reply.choice["message"]["content"] is None
    calls: list[Json] = reply.choice["message"]["tool_calls"]
    return calls


def streamed_calls(chunks: list[Json]) -> list[Json]:
    """The calls of a stream, put together as SDKs do."""
    assert finish_of(chunks) == "tool_calls"
    calls: dict[int, Json] = {}
    for piece in (
        piece for chunk in chunks for choice in chunk["choices"] for piece in choice["delta"].get("tool_calls") or ()
    ):
        call = calls.setdefault(piece["index"], {"id": None, "function": {"name": None, "arguments": ""}})
        call["id"] = call["id"] or piece.get("id")
        call["function"]["name"] = call["function"]["name"] or piece["function"].get("name")
        call["function"]["arguments"] += piece["function"].get("arguments") or ""
    return list(calls.values())


@capability("`tool_choice`: `auto`")
def test_auto(stage: Stage) -> None:
    """Whatever the model decides: text, or calls that are well-formed."""
    for messages in (ASK, HELLO):
        choice = stage.ask(messages=messages, tools=TOOLS, max_tokens=60).choice
        if choice["message"].get("tool_calls"):
            assert choice["finish_reason"] == "tool_calls"
            assert [arguments_of(call) for call in choice["message"]["tool_calls"]]
        else:
            assert choice["finish_reason"] in {"stop", "length"}
            assert choice["message"]["content"] is not None
    chunks = stage.ask(messages=ASK, tools=TOOLS, max_tokens=60, stream=True).chunks
    assert finish_of(chunks) in {"stop", "length", "tool_calls"}


@capability("`tool_choice`: `none`")
def test_none(stage: Stage) -> None:
    choice = stage.ask(messages=ASK, tools=TOOLS, tool_choice="none").choice
    assert choice["message"]["content"]
    assert not choice["message"].get("tool_calls")


@capability("`tool_choice`: `required`")
def test_required(stage: Stage) -> None:
    for seed in (1, 2):
        reply = stage.ask(messages=HELLO, tools=TOOLS, tool_choice="required", temperature=1, seed=seed, max_tokens=200)
        assert [arguments_of(call) for call in calls_of(reply)]
    chunks = stage.ask(messages=HELLO, tools=TOOLS, tool_choice="required", max_tokens=200, stream=True).chunks
    assert [arguments_of(call) for call in streamed_calls(chunks)]


@capability("`tool_choice`: a named function")
def test_named(stage: Stage) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    (call,) = calls_of(stage.ask(messages=HELLO, tools=TOOLS, tool_choice=choice, max_tokens=80))
    assert (call["function"]["name"], set(arguments_of(call))) == ("get_weather", {"city", "unit"})
    chunks = stage.ask(messages=HELLO, tools=TOOLS, tool_choice=choice, max_tokens=80, stream=True).chunks
    (call,) = streamed_calls(chunks)
    assert (call["function"]["name"], set(arguments_of(call))) == ("get_weather", {"city", "unit"})


@capability("`parallel_tool_calls: false`")
def test_one_call(stage: Stage) -> None:
    choice = stage.ask(messages=ASK, tools=TOOLS, parallel_tool_calls=False, max_tokens=60).choice
    assert len(choice["message"].get("tool_calls") or ()) <= 1


@capability("results of calls, as the next turn")
def test_results(stage: Stage) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris", "unit": "celsius"}'},
    }
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees"},
    ]
    assert stage.ask(messages=messages, tools=TOOLS, tool_choice="none").text


# Images --------------------------------------------------------------------------------------------------------------


def seen(*urls: str) -> list[Json]:
    """A question about images."""
    parts: list[Json] = [{"type": "text", "text": "What is this?"}]
    return [{"role": "user", "content": parts + [{"type": "image_url", "image_url": {"url": url}} for url in urls]}]


@capability("images, streamed or not")
def test_images(stage: Stage) -> None:
    """They reach the model: the prompt grows by each, and which image it is changes what is said, or how surely."""
    without = stage.ask(messages=seen()).value["usage"]["prompt_tokens"]
    red = stage.ask(messages=seen(picture("PNG"))).value
    assert red["usage"]["prompt_tokens"] > without + 8
    assert red["choices"][0]["message"]["content"] is not None
    chunks = stage.ask(messages=seen(picture("JPEG", "blue")), stream=True).chunks
    assert finish_of(chunks) in {"stop", "length"}


@capability("images that aren't any, refused before the engine sees them")
def test_bad_images(stage: Stage) -> None:
    if stage.http.get("models").json()["data"][0]["input_modalities"] == ["text"]:
        raise NotOffered("its model doesn't see")
    refusal = stage.refused(messages=seen("data:image/png;base64,AAAA"))
    assert (refusal.status, refusal.error["code"]) == (400, "invalid_image_format")


# Errors --------------------------------------------------------------------------------------------------------------


@capability("an unknown model: 404 in OpenAI's shape")
def test_unknown_model(stage: Stage) -> None:
    refusal = stage.refused(model="acme/none")
    assert (refusal.status, refusal.error["code"]) == (404, "model_not_found")


@capability("a prompt that is too long: `context_length_exceeded`")
def test_too_long(stage: Stage) -> None:
    if stage.kind.context is None:
        raise NotOffered("it sets no limit")
    for stream in (False, True):
        refusal = stage.refused(
            messages=[{"role": "user", "content": "word " * (stage.kind.context + 500)}], stream=stream
        )
        assert (refusal.status, refusal.error["code"]) == (400, "context_length_exceeded")
        assert f"maximum context length is {stage.kind.context} tokens" in refusal.error["message"]


@capability("a schema that no engine takes: 400, and the engine goes on")
def test_bad_schema(stage: Stage) -> None:
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    refusal = stage.refused(response_format=wrong)
    assert refusal.status == 400
    assert stage.ask().text
    if refusal.by_name:
        raise refusal


# Clients that leave --------------------------------------------------------------------------------------------------


LONG: Final = 1500
ENDLESS: Final = {"0": -100, "2": -100}
"""Without the tokens that end an answer."""


def stopped_early(stage: Stage, before: float) -> None:
    """It works no more, and has not made all the tokens that it was asked for."""
    until(lambda: not stage.working(), 90)
    assert stage.tokens() - before < LONG
    assert stage.ask().text


@capability("a client that leaves: the engine stops")
def test_leaving(stage: Stage) -> None:
    """In mid-stream, and while a whole answer is awaited; either only once the engine is seen to work on it."""
    story = [{"role": "user", "content": "Tell a very long story."}]
    body: Json = {"model": ID, "messages": story, "max_tokens": LONG, "logit_bias": ENDLESS}
    headers = stage.server.headers | {"Content-Type": "application/json"}
    address = urlsplit(stage.server.url)
    for stream in (True, False):
        until(lambda: not stage.working())
        before = stage.tokens()
        # Not httpx: it hangs up when an iterator over its lines is dropped, and has no request without an answer.
        leaver = http.client.HTTPConnection(str(address.hostname), address.port, timeout=PATIENCE)
        leaver.request("POST", f"{address.path}/chat/completions", json.dumps(body | {"stream": stream}), headers)
        answer = leaver.getresponse() if stream else None
        if answer is not None:
            assert (answer.status, answer.readline()[:5]) == (200, b"data:")
        until(stage.working)
        if answer is not None:
            answer.close()
        leaver.close()
        stopped_early(stage, before)


@capability("several clients at once")
def test_at_once(stage: Stage) -> None:
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda: texts.append(text_of(stage.ask(stream=True, max_tokens=8).chunks)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert len(texts) == 4
    assert all(texts)


# Sealed --------------------------------------------------------------------------------------------------------------


def sealed(client: httpx.Client, **members: Any) -> bytes:
    """The answer, decrypted, whose receipt the client has checked."""
    body: Json = {"model": ID, "messages": HELLO, "max_tokens": 12, "temperature": 0}
    answer = client.post("chat/completions", json=body | members)
    assert answer.status_code == 200, answer.text
    return answer.content


@capability("sealed: whole and streamed, the same text as in clear")
def test_sealed(stage: Stage) -> None:
    text = stage.ask().text
    with stage.sealing() as client:
        whole = json.loads(sealed(client))
        assert whole["choices"][0]["message"]["content"] == text
        events = sealed(client, stream=True).split(b"\n\n")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events if event.startswith(b"data: {")]
    assert text_of(chunks) == text


@capability("sealed: calls of functions")
def test_sealed_calls(stage: Stage) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    stage.ask(tools=TOOLS, tool_choice=choice, max_tokens=80)
    with stage.sealing() as client:
        value = json.loads(sealed(client, tools=TOOLS, tool_choice=choice, max_tokens=80))
    (call,) = value["choices"][0]["message"]["tool_calls"]
    assert set(arguments_of(call)) == {"city", "unit"}


@capability("sealed: images")
def test_sealed_images(stage: Stage) -> None:
    stage.ask(messages=seen(picture("PNG")))
    with stage.sealing() as client:
        value = json.loads(sealed(client, messages=seen(picture("PNG"))))
    assert value["usage"]["prompt_tokens"] > stage.ask(messages=seen()).value["usage"]["prompt_tokens"] + 8


def test_time_of_answers_is_told(stage: Stage) -> None:
    """``created`` is now, whatever the engine says."""
    assert abs(stage.ask(max_tokens=1).value["created"] - time.time()) < 600
