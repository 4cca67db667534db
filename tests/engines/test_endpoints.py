"""The endpoints beside chat completions, on every engine: rows of the table, and receipts that are checked."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any, Final

import pytest

from tests.engines.kinds import ID, NOT_HERE
from tests.engines.ledger import Ledger, NotOffered, capability
from tests.engines.stage import HELLO, Reply, Stage, staged

pytestmark = pytest.mark.timeout(1800)

Json = dict[str, Any]
CHAT: Final = "chat/completions"
PROMPT: Final = "Once upon a time"
SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def endpoints(stage: Stage) -> list[str]:
    """Those that the server says the model has."""
    (model,) = stage.http.get("models").json()["data"]
    named: list[str] = model["endpoints"]
    return named


def unoffered(stage: Stage, path: str, **members: Any) -> str | None:
    """The cell of an endpoint that isn't offered, once it is seen that a request is refused; else None.

    Raises:
        NotOffered: the engine itself has no such route either.
    """
    if f"/v1/{path}" in endpoints(stage):
        return None
    refusal = stage.refused(path=path, **members)
    assert refusal.status == 404
    assert path in refusal.error["message"]
    with stage.asked_directly() as client:
        status = client.post(f"/v1/{path}", json={}).status_code
    if status in {404, 405, 501}:
        raise NotOffered
    return NOT_HERE


def events_of(reply: Reply) -> list[Json]:
    """Those of a stream whose events have names, each the type that its data tells."""
    events = []
    for block in reply.body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


# Completions ---------------------------------------------------------------------------------------------------------


def complete(stage: Stage, **members: Any) -> Reply:
    """A short completion of the prompt."""
    return stage.ask("completions", **{"prompt": PROMPT, "max_tokens": 12, "temperature": 0} | members)


@capability("`/v1/completions`: whole and streamed, the same text and usage")
def test_completions(stage: Stage) -> str | None:
    if cell := unoffered(stage, "completions", prompt=PROMPT):
        return cell
    whole = complete(stage).value
    assert (whole["object"], whole["model"], whole["id"][:5]) == ("text_completion", ID, "cmpl-")
    (choice,) = whole["choices"]
    assert (bool(choice["text"]), choice["finish_reason"], whole["usage"]["completion_tokens"]) == (True, "length", 12)
    *chunks, last = complete(stage, stream=True, stream_options={"include_usage": True}).chunks
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["text"] for choice in choices) == choice["text"]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [last["usage"][name] for name in names] == [whole["usage"][name] for name in names]
    assert not [chunk for chunk in complete(stage, stream=True).chunks if chunk.get("usage")]
    return None


@capability("`/v1/completions`: `logprobs`, `stop`")
def test_completions_logprobs(stage: Stage) -> str | None:
    if cell := unoffered(stage, "completions", prompt=PROMPT):
        return cell
    (choice,) = complete(stage, logprobs=2).value["choices"]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert all(-100 < value <= 0 for value in choice["logprobs"]["token_logprobs"])
    assert all(len(top) >= 2 for top in choice["logprobs"]["top_logprobs"])
    word = choice["text"][len(choice["text"]) // 2 :][:4]
    (stopped,) = complete(stage, stop=word).value["choices"]
    assert (stopped["text"], stopped["finish_reason"]) == (choice["text"][: choice["text"].index(word)], "stop")
    return None


@capability("`/v1/completions`: several prompts")
def test_completions_of_several(stage: Stage) -> str | None:
    if cell := unoffered(stage, "completions", prompt=PROMPT):
        return cell
    choices = complete(stage, prompt=[PROMPT, "The capital of France is"]).value["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    assert choices[0]["text"] == complete(stage).value["choices"][0]["text"]
    assert choices[0]["text"] != choices[1]["text"]
    return None


# Responses -----------------------------------------------------------------------------------------------------------


def said(response: Json) -> str:
    """The text of a response."""
    (message,) = response["output"]
    assert (message["type"], message["role"]) == ("message", "assistant")
    return "".join(part["text"] for part in message["content"])


@capability("`/v1/responses`: whole and streamed, the same text and usage")
def test_responses(stage: Stage) -> str | None:
    if cell := unoffered(stage, "responses", input="Say hello."):
        return cell
    asked: Json = {"input": "Say hello.", "max_output_tokens": 12, "temperature": 0}
    whole = stage.ask("responses", **asked).value
    assert (whole["object"], whole["model"], whole["id"][:5]) == ("response", ID, "resp_")
    assert said(whole)
    assert 0 < whole["usage"]["output_tokens"] <= 12
    events = events_of(stage.ask("responses", stream=True, **asked))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    last = events[-1]["response"]
    assert (events[-1]["type"], last["status"]) == (f"response.{whole['status']}", whole["status"])
    assert "".join(deltas) == said(last) == said(whole)
    assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    return None


@capability("`/v1/responses`: a function that must be called")
def test_responses_calls(stage: Stage) -> str | None:
    if cell := unoffered(stage, "responses", input="Say hello."):
        return cell
    tool = {"type": "function", "name": "visit", "parameters": SCHEMA, "strict": True}
    asked: Json = {"input": "Where to?", "tools": [tool], "tool_choice": "required", "max_output_tokens": 80}
    calls = [item for item in stage.ask("responses", **asked).value["output"] if item["type"] == "function_call"]
    assert calls
    assert {call["name"] for call in calls} == {"visit"}
    assert all(json.loads(call["arguments"])["city"] in {"Paris", "Rome"} for call in calls)
    result = {"type": "function_call_output", "call_id": calls[0]["call_id"], "output": "closed"}
    turns = [{"role": "user", "content": "Where to?"}, calls[0], result]
    assert said(stage.ask("responses", input=turns, max_output_tokens=12).value)
    return None


# Messages ------------------------------------------------------------------------------------------------------------


@capability("`/v1/messages`: whole and streamed, the same text and usage")
def test_messages(stage: Stage) -> str | None:
    asked: Json = {"messages": HELLO, "max_tokens": 12, "temperature": 0, "system": "Be brief."}
    if cell := unoffered(stage, "messages", **asked):
        return cell
    whole = stage.ask("messages", **asked).value
    assert (whole["type"], whole["role"], whole["model"], whole["id"][:4]) == ("message", "assistant", ID, "msg_")
    (block,) = whole["content"]
    assert (block["type"], bool(block["text"]), whole["stop_reason"]) == ("text", True, "max_tokens")
    assert whole["usage"]["output_tokens"] == 12
    events = events_of(stage.ask("messages", stream=True, **asked))
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta["text"] for delta in deltas) == block["text"]
    (ending,) = [event for event in events if event["type"] == "message_delta"]
    assert (ending["delta"]["stop_reason"], ending["usage"]["output_tokens"]) == ("max_tokens", 12)
    return None


@capability("`/v1/messages`: a tool that must be used")
def test_messages_tools(stage: Stage) -> str | None:
    asked: Json = {"messages": HELLO, "max_tokens": 80}
    if cell := unoffered(stage, "messages", **asked):
        return cell
    tool = {"name": "visit", "input_schema": SCHEMA}
    whole = stage.ask("messages", tools=[tool], tool_choice={"type": "tool", "name": "visit"}, **asked).value
    (used,) = [block for block in whole["content"] if block["type"] == "tool_use"]
    assert (used["name"], whole["stop_reason"]) == ("visit", "tool_use")
    assert used["input"]["city"] in {"Paris", "Rome"}
    result = {"type": "tool_result", "tool_use_id": used["id"], "content": "closed"}
    turns = [*HELLO, {"role": "assistant", "content": [used]}, {"role": "user", "content": [result]}]
    again = stage.ask("messages", messages=turns, max_tokens=12, tools=[tool], tool_choice={"type": "none"}).value
    assert again["content"][0]["text"]
    return None


# Embeddings ----------------------------------------------------------------------------------------------------------


@capability("`/v1/embeddings`: numbers and base64, with a model for embeddings")
def test_embeddings(stage: Stage) -> str | None:
    cell = unoffered(stage, "embeddings", input="a") if stage.kind.vectors is None else None
    if stage.kind.vectors is None:
        assert cell is not None
        return cell
    folder = stage.server.log.parent / "vectors"
    folder.mkdir()
    with staged(folder, stage.kind, stage.kind.vectors(stage.table), Ledger()) as other:
        texts = ["The cat sleeps.", "Prime numbers", "The cat sleeps."]
        value = other.ask("embeddings", input=texts, encoding_format="float").value
        first, second, third = (entry["embedding"] for entry in value["data"])
        assert (value["object"], value["model"]) == ("list", ID)
        assert 0 < value["usage"]["prompt_tokens"] == value["usage"]["total_tokens"]
        assert len(first) == len(second) > 100
        assert first == pytest.approx(third, abs=1e-3)
        assert first != pytest.approx(second, abs=1e-2)
        (entry,) = other.ask("embeddings", input=texts[0], encoding_format="base64").value["data"]
        packed = base64.b64decode(entry["embedding"])
        assert struct.unpack(f"<{len(first)}f", packed) == pytest.approx(first, abs=1e-3)
        if f"/v1/{CHAT}" in endpoints(other):
            assert other.ask().text == stage.ask().text
        else:
            assert other.refused().error["code"] == "endpoint_not_offered"
    return None
