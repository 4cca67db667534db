"""Rules between members and between messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.errors import InvalidRequest
from confide.wire.conversation import check, tool_names
from confide.wire.openai import ChatRequest, parse_chat

HI: dict[str, Any] = {"role": "user", "content": "hi"}


def request(**members: Any) -> ChatRequest:
    return parse_chat(json.dumps({"model": "m", "messages": [HI]} | members).encode())


def refusal(**members: Any) -> tuple[str, str | None, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        check(request(**members))
    assert caught.value.status == 400
    assert len(caught.value.message) < 1000
    return caught.value.message, caught.value.param, caught.value.code


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def calls(*ids: str) -> dict[str, Any]:
    made = [{"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in ids]
    return {"role": "assistant", "content": None, "tool_calls": made}


def answer(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "42"}


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [tool(name) for name in names]}}


CUSTOM = {"type": "custom", "custom": {"name": "f"}}
UNASKED = "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
UNANSWERED = (
    "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
    "The following tool_call_ids did not have response messages: "
)

OPTIONS: list[tuple[dict[str, Any], str, str, str | None]] = [
    (
        {"stream_options": {}},
        "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
        "stream_options",
        None,
    ),
    ({"stream_options": {"include_usage": True}, "stream": False}, "The 'stream_options'", "stream_options", None),
    ({"top_logprobs": 1}, "The 'top_logprobs' parameter is only allowed when", "top_logprobs", None),
    ({"top_logprobs": 0, "logprobs": False}, "The 'top_logprobs' parameter is only", "top_logprobs", None),
    ({"stop": ""}, "Invalid 'stop': an empty string can't be a stop sequence.", "stop", "invalid_value"),
    ({"stop": ["a", ""]}, "Invalid 'stop': an empty string can't be", "stop", "invalid_value"),
    ({"stop": "x" * 1025}, "Invalid 'stop': string too long.", "stop", "string_above_max_length"),
    ({"stop": ["a", "x" * 1025]}, "Invalid 'stop': string too long.", "stop", "string_above_max_length"),
    ({"modalities": ["text", "audio"]}, "Invalid 'modalities': ", "modalities", "unsupported_value"),
    ({"modalities": []}, "Invalid 'modalities': ", "modalities", "unsupported_value"),
    *(
        ({"logit_bias": {key: 1}}, "Invalid key in 'logit_bias': ", "logit_bias", "invalid_value")
        for key in ("a", "", "-1", "1.0", "+1", " 1", "1e3", "٣", "²", "0x1", "9" * 10, "9" * 5000)
    ),
]


@pytest.mark.parametrize(("members", "message", "param", "code"), OPTIONS)
def test_options_that_contradict(members: dict[str, Any], message: str, param: str, code: str | None) -> None:
    got = refusal(**members)
    assert got[0].startswith(message)
    assert got[1:] == (param, code)


TOOLS: list[tuple[dict[str, Any], str, str, str | None]] = [
    (
        {"tools": [tool("f"), CUSTOM]},
        "Custom tools are not supported; use a tool of type 'function'.",
        "tools[1].type",
        "unsupported_value",
    ),
    (
        {"tools": [tool("f"), tool("g"), tool("f")]},
        "Invalid 'tools[2].function.name': the name 'f' is used twice.",
        "tools[2].function.name",
        "invalid_value",
    ),
    (
        {"functions": [{"name": "f"}, {"name": "f"}]},
        "Invalid 'functions[1].name': the name 'f' is used twice.",
        "functions[1].name",
        "invalid_value",
    ),
    *(
        (
            {"tool_choice": choice},
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
            "tool_choice",
            None,
        )
        for choice in ("auto", "required", tool("f"), CUSTOM, allowed("f"))
    ),
    *(
        ({"parallel_tool_calls": value}, "Invalid value for 'parallel_tool_calls'", "parallel_tool_calls", None)
        for value in (True, False)
    ),
    (
        {"tools": [tool("f")], "tool_choice": tool("g")},
        "Tool choice 'g' not found in 'tools' parameter.",
        "tool_choice",
        "invalid_value",
    ),
    (
        {"tools": [tool("f")], "tool_choice": tool("g" * 999)},
        f"Tool choice '{'g' * 64}' not found in 'tools' parameter.",
        "tool_choice",
        "invalid_value",
    ),
    (
        {"tools": [tool("f")], "tool_choice": allowed("f", "g")},
        "Tool choice 'g' not found in 'tools' parameter.",
        "tool_choice",
        "invalid_value",
    ),
    (
        {"tools": [tool("f")], "tool_choice": CUSTOM},
        "Custom tools are not supported; name a tool of type 'function'.",
        "tool_choice",
        "unsupported_value",
    ),
    (
        {"function_call": "auto"},
        "Invalid value for 'function_call': 'function_call' is only allowed when 'functions' are specified.",
        "function_call",
        None,
    ),
    ({"function_call": {"name": "f"}}, "Invalid value for 'function_call'", "function_call", None),
    (
        {"functions": [{"name": "f"}], "function_call": {"name": "g"}},
        "Function choice 'g' not found in 'functions' parameter.",
        "function_call",
        "invalid_value",
    ),
    (
        {"functions": [{"name": "f"}], "tools": [tool("f")]},
        "Give either 'tools' or the deprecated 'functions', not both.",
        "functions",
        None,
    ),
]


@pytest.mark.parametrize(("members", "message", "param", "code"), TOOLS)
def test_tools_that_contradict(members: dict[str, Any], message: str, param: str, code: str | None) -> None:
    got = refusal(**members)
    assert got[0].startswith(message)
    assert got[1:] == (param, code)


ORDERS: list[tuple[list[dict[str, Any]], str, str, str | None]] = [
    ([answer("a")], UNASKED, "messages.[0].role", None),
    ([HI, answer("a")], UNASKED, "messages.[1].role", None),
    ([HI, calls("a"), answer("b")], UNASKED, "messages.[2].role", None),
    ([HI, calls("a"), answer("a"), answer("a")], UNASKED, "messages.[3].role", None),
    ([HI, calls("a"), answer("a"), HI, answer("a")], UNASKED, "messages.[4].role", None),
    ([HI, calls("a", "b"), answer("b"), HI], UNANSWERED + "a", "messages.[1].role", None),
    ([HI, calls("a", "b"), HI], UNANSWERED + "a, b", "messages.[1].role", None),
    ([HI, calls("a")], UNANSWERED + "a", "messages.[1].role", None),
    ([HI, calls("a"), calls("b"), answer("b")], UNANSWERED + "a", "messages.[1].role", None),
    (
        [HI, calls("a", "b", "a")],
        "Invalid 'messages[1].tool_calls': the same id stands twice.",
        "messages[1].tool_calls",
        "invalid_value",
    ),
    (
        [HI, {"role": "assistant", "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "f"}}]}],
        "Missing required parameter: 'messages[1].tool_calls[0].function'.",
        "messages[1].tool_calls[0].function",
        "missing_required_parameter",
    ),
    *(
        (
            [HI, {"role": "assistant"} | members],
            "Invalid value for 'messages[1].content': expected a string, got null.",
            "messages[1].content",
            "invalid_type",
        )
        for members in ({}, {"content": None}, {"tool_calls": []}, {"tool_calls": None}, {"refusal": None})
    ),
    (
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": "x"}, {"type": "text", "text": "x"}]}],
        "Invalid 'messages[0].content': a refusal must be the only part.",
        "messages[0].content",
        "invalid_value",
    ),
]


@pytest.mark.parametrize(("messages", "message", "param", "code"), ORDERS)
def test_messages_out_of_order(messages: list[dict[str, Any]], message: str, param: str, code: str | None) -> None:
    assert refusal(messages=messages) == (message, param, code)


def test_many_long_ids_make_no_long_message() -> None:
    message, _, _ = refusal(messages=[HI, calls(*(f"{i:03}" + "x" * 253 for i in range(100)))])
    assert len(message) < 1000


GOOD: list[dict[str, Any]] = [
    {},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"logprobs": True, "top_logprobs": 20},
    {"stop": ["a", "b", "c", "d"]},
    {"stop": []},
    {"stop": "x" * 1024},
    {"logit_bias": {"0": -100, "50256": 100}},
    {"modalities": ["text"]},
    {"tool_choice": "none"},
    {"tool_choice": None, "parallel_tool_calls": None},
    {"tools": [tool("f"), tool("g")], "tool_choice": "required", "parallel_tool_calls": False},
    {"tools": [tool("f")], "tool_choice": tool("f")},
    {"tools": [tool("f"), tool("g")], "tool_choice": allowed("g", mode="required")},
    {"functions": [{"name": "f"}], "function_call": {"name": "f"}},
    {"functions": [{"name": "f"}], "function_call": "none"},
    {"function_call": "none"},
    {"messages": [HI, calls("a", "b"), answer("b"), answer("a"), HI]},
    {"messages": [calls("a"), answer("a"), calls("a"), answer("a")]},
    {"messages": [HI, {"role": "assistant", "content": "x", "tool_calls": []}, HI]},
    {"messages": [{"role": "assistant", "content": ""}]},
    {"messages": [{"role": "assistant", "refusal": "no"}]},
    {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}]},
    {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]},
]


@pytest.mark.parametrize("members", GOOD)
def test_what_is_in_order(members: dict[str, Any]) -> None:
    check(request(**members))


def test_tool_names() -> None:
    assert tool_names(request(tools=[tool("f"), tool("g"), CUSTOM])) == {"f", "g"}
    assert tool_names(request()) == set()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.just(HI),
            st.lists(st.sampled_from("abc"), max_size=3, unique=True).map(lambda ids: calls(*ids) | {"content": "x"}),
            st.sampled_from("abc").map(answer),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_exactly_the_ordered_conversations_pass(messages: list[dict[str, Any]]) -> None:
    """Against a second way to say the rule: after calls come their answers, each once, and nothing else."""
    rest = list(messages)
    fine = True
    while rest and fine:
        message = rest.pop(0)
        wanted = {call["id"] for call in message.get("tool_calls", ())}
        block, rest = rest[: len(wanted)], rest[len(wanted) :]
        fine = message["role"] != "tool" and {each.get("tool_call_id") for each in block} == wanted
    try:
        check(request(messages=messages))
    except InvalidRequest:
        assert not fine
    else:
        assert fine
