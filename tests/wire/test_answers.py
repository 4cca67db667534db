"""Deltas as chunks and as a body: both say the same, in the order that both official SDKs accept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.errors import EngineFailed, InvalidRequest, TooManyRequests
from confide.wire.answers import (
    AnswerHead,
    CallArguments,
    CallStarted,
    ChunkWriter,
    Collector,
    Delta,
    Finished,
    ReasoningDelta,
    TextDelta,
    Usage,
    error_body,
    error_event,
)
from confide.wire.sse import DONE, KEEP_ALIVE, event

HEAD = AnswerHead(id="chatcmpl-1", created=1_760_000_000, model='a/"b"\n', fingerprint="fp_1")
LEGACY = AnswerHead(id="chatcmpl-1", created=1_760_000_000, model="m", fingerprint="fp_1", legacy_functions=True)
TOKEN = {"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": []}


def payload(raw: bytes) -> Any:
    """The value of one event, which must be one line."""
    assert raw.startswith(b"data: ")
    assert raw.endswith(b"\n\n")
    assert b"\n" not in raw[:-2]
    assert b"\r" not in raw
    return json.loads(raw[6:-2])


def delta_of(delta: Delta, head: AnswerHead = HEAD) -> Any:
    (choice,) = payload(ChunkWriter(head).delta(delta))["choices"]
    assert list(choice) == ["index", "delta", "logprobs", "finish_reason"]
    return choice["delta"]


def test_every_chunk_repeats_the_head() -> None:
    writer = ChunkWriter(HEAD)
    for raw in (
        writer.role(0),
        writer.delta(TextDelta(0, "x")),
        writer.delta(Finished(0, "stop")),
        writer.usage(Usage()),
    ):
        chunk = payload(raw)
        assert {key: chunk[key] for key in chunk if key not in ("choices", "usage")} == {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1_760_000_000,
            "model": 'a/"b"\n',
            "system_fingerprint": "fp_1",
            "service_tier": "default",
        }


def test_the_first_chunk_of_a_choice_has_the_role() -> None:
    chunk = payload(ChunkWriter(HEAD).role(3))
    assert chunk["choices"] == [
        {
            "index": 3,
            "delta": {"role": "assistant", "content": "", "refusal": None},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    assert chunk["usage"] is None


@pytest.mark.parametrize(
    ("delta", "said"),
    [
        (TextDelta(0, "é\n\u2028"), {"content": "é\n\u2028"}),
        (ReasoningDelta(0, "hm"), {"reasoning": "hm", "reasoning_content": "hm"}),
        (
            CallStarted(0, 1, "call_1", "f"),
            {
                "tool_calls": [
                    {"index": 1, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
                ]
            },
        ),
        (CallArguments(0, 1, '{"a'), {"tool_calls": [{"index": 1, "function": {"arguments": '{"a'}}]}),
        (Finished(0, "length"), {}),
    ],
)
def test_what_a_chunk_says(delta: Delta, said: dict[str, Any]) -> None:
    assert delta_of(delta) == said


@pytest.mark.parametrize(
    ("delta", "said"),
    [
        (CallStarted(0, 0, "call_1", "f"), {"function_call": {"name": "f", "arguments": ""}}),
        (CallArguments(0, 0, "{}"), {"function_call": {"arguments": "{}"}}),
    ],
)
def test_the_deprecated_form(delta: Delta, said: dict[str, Any]) -> None:
    assert delta_of(delta, LEGACY) == said


def test_only_the_last_chunk_of_a_choice_has_a_finish_reason() -> None:
    writer = ChunkWriter(HEAD)
    assert payload(writer.delta(TextDelta(1, "x")))["choices"][0]["finish_reason"] is None
    (choice,) = payload(writer.delta(Finished(1, "tool_calls")))["choices"]
    assert choice == {"index": 1, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"}


def test_logprobs() -> None:
    chunk = payload(ChunkWriter(HEAD).delta(TextDelta(0, "é", (TOKEN, TOKEN))))
    assert chunk["choices"][0]["logprobs"] == {"content": [TOKEN, TOKEN], "refusal": None}
    chunk = payload(ChunkWriter(HEAD).delta(TextDelta(0, "é", ())))
    assert chunk["choices"][0]["logprobs"] == {"content": [], "refusal": None}


USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 2,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}


def test_usage_has_a_chunk_of_its_own() -> None:
    chunk = payload(ChunkWriter(HEAD).usage(Usage(9, 3, 4, 2)))
    assert (chunk["choices"], chunk["usage"]) == ([], USAGE)


def collected(*deltas: Delta, head: AnswerHead = HEAD, choices: int = 1) -> Any:
    collector = Collector(head, choices)
    for delta in deltas:
        collector.add(delta)
    return json.loads(collector.body(Usage(9, 3, 4, 2)))


def test_a_whole_body() -> None:
    assert collected(TextDelta(0, "a"), TextDelta(0, "b"), Finished(0, "stop")) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": 'a/"b"\n',
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "ab", "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }


def message_of(*deltas: Delta, head: AnswerHead = HEAD) -> Any:
    return collected(*deltas, head=head)["choices"][0]["message"]


def test_content_is_null_only_beside_calls() -> None:
    assert message_of(Finished(0, "length"))["content"] == ""
    call = (CallStarted(0, 0, "c", "f"), CallArguments(0, 0, "{"), CallArguments(0, 0, "}"))
    assert message_of(*call, Finished(0, "tool_calls"))["content"] is None
    assert message_of(TextDelta(0, "x"), *call, Finished(0, "tool_calls"))["content"] == "x"


def test_calls_in_a_body() -> None:
    deltas = (
        CallStarted(0, 0, "c0", "f"),
        CallArguments(0, 0, '{"a":'),
        CallArguments(0, 0, "1}"),
        CallStarted(0, 1, "c1", "g"),
        CallArguments(0, 1, "{}"),
        Finished(0, "tool_calls"),
    )
    assert message_of(*deltas)["tool_calls"] == [
        {"id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "c1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    legacy = message_of(*deltas[:3], Finished(0, "function_call"), head=LEGACY)
    assert legacy["function_call"] == {"name": "f", "arguments": '{"a":1}'}
    assert "tool_calls" not in legacy


def test_without_calls_there_is_no_list_of_them() -> None:
    message = message_of(TextDelta(0, "x"), Finished(0, "stop"))
    assert message.keys() & {"tool_calls", "function_call", "reasoning", "reasoning_content"} == set()


def test_reasoning_has_both_names() -> None:
    message = message_of(ReasoningDelta(0, "h"), ReasoningDelta(0, "m"), TextDelta(0, "x"), Finished(0, "stop"))
    assert (message["reasoning"], message["reasoning_content"], message["content"]) == ("hm", "hm", "x")


def test_logprobs_add_up() -> None:
    answer = collected(TextDelta(0, "é", (TOKEN,)), TextDelta(0, "éé", (TOKEN, TOKEN)), Finished(0, "stop"))
    assert answer["choices"][0]["logprobs"] == {"content": [TOKEN] * 3, "refusal": None}


def test_choices_are_in_order_however_they_come() -> None:
    answer = collected(TextDelta(1, "one"), Finished(1, "length"), TextDelta(0, "zero"), Finished(0, "stop"), choices=2)
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in answer["choices"]] == [
        (0, "zero", "stop"),
        (1, "one", "length"),
    ]


# Both modes say the same ---------------------------------------------------------------------------------------------


def reassembled(chunks: list[Any], choices: int) -> list[dict[str, Any]]:
    """What a plain client makes of chunks."""
    out: list[dict[str, Any]] = [{"content": "", "calls": [], "finish": None} for _ in range(choices)]
    for chunk in chunks:
        for choice in chunk["choices"]:
            mine, delta = out[choice["index"]], choice["delta"]
            mine["content"] += delta.get("content") or ""
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    assert call["index"] == len(mine["calls"])
                    mine["calls"].append([call["id"], call["function"]["name"], ""])
                mine["calls"][call["index"]][2] += call["function"]["arguments"]
            mine["finish"] = choice["finish_reason"] or mine["finish"]
    return out


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from("tca"), st.text(max_size=5)), max_size=12))
def test_stream_and_body_say_the_same(steps: list[tuple[int, str, str]]) -> None:
    deltas: list[Delta] = []
    made = [0, 0]
    for index, kind, text in steps:
        if kind == "c":
            deltas.append(CallStarted(index, made[index], f"call_{index}{made[index]}", text))
            made[index] += 1
        elif kind == "a" and made[index]:
            deltas.append(CallArguments(index, made[index] - 1, text))
        else:
            deltas.append(TextDelta(index, text))
    deltas += [Finished(0, "stop"), Finished(1, "length")]
    writer = ChunkWriter(HEAD)
    chunks = [payload(raw) for raw in (writer.role(0), writer.role(1), *map(writer.delta, deltas))]
    whole = collected(*deltas, choices=2)
    for streamed, choice in zip(reassembled(chunks, 2), whole["choices"], strict=True):
        message = choice["message"]
        calls = [[c["id"], c["function"]["name"], c["function"]["arguments"]] for c in message.get("tool_calls", ())]
        assert streamed == {"content": message["content"] or "", "calls": calls, "finish": choice["finish_reason"]}


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [InvalidRequest("no\nline", param="a[0].b", code="c"), EngineFailed("broke"), TooManyRequests("full", code="x")],
)
def test_an_error_has_all_four_keys(error: Any) -> None:
    said = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    assert json.loads(error_body(error)) == {"error": said}
    assert payload(error_event(error)) == {"error": said}


def test_events() -> None:
    assert event(b"{}") == b"data: {}\n\n"
    assert DONE == b"data: [DONE]\n\n"
    assert KEEP_ALIVE.startswith(b":")
    assert KEEP_ALIVE.endswith(b"\n\n")
