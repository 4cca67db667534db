"""Requests that are recognised as plain while they are decoded mean what they would mean without that."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.remote.asking import chat_call

from confide.engine.prompt import plan
from confide.engine.remote.dialect import DIALECTS
from confide.engine.remote.request import prepare
from confide.errors import InvalidRequest
from confide.wire import openai
from confide.wire.conversation import check
from confide.wire.members import decode
from confide.wire.openai import ChatRequest, PlainChat, parse_chat

TEXTS = st.text(max_size=6) | st.sampled_from(["", "\ud800", "\x00", '"', "\\u0041", "🦀"])
PART = {"type": "text", "text": "part"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}

PLAIN = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXTS})
ODD_MEMBERS = st.sampled_from(
    [
        *({"name": value} for value in ("ann", "", None, 5)),
        *({"content": value} for value in (None, [PART], [IMAGE], [], 5, {"text": "x"})),
        *({"role": value} for value in ("developer", "tool", "function", "nobody", None, "User")),
        *({"tool_calls": value} for value in ([CALL], [], None)),
        *({"refusal": value} for value in ("no", "", None)),
        {"function_call": {"name": "f", "arguments": "{}"}},
        {"tool_call_id": "c"},
        {"cache_control": {"type": "ephemeral"}},
        {"reasoning_content": "hm"},
    ]
)
MESSAGES = st.lists(PLAIN | st.builds(lambda plain, odd: plain | odd, PLAIN, ODD_MEMBERS), max_size=4)
MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "stream": st.booleans() | st.none(),
        "temperature": st.sampled_from([0, 1.5, 3, "hot"]),
        "max_tokens": st.sampled_from([1, 0, None]),
        "n": st.sampled_from([1, 2, None]),
        "stop": st.sampled_from(["x", ["a", "b"], []]),
        "tools": st.just([{"type": "function", "function": {"name": "f"}}]),
        "tool_choice": st.sampled_from(["auto", "none", "required"]),
        "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
        "top_logprobs": st.just(2),
        "seed": st.integers(-5, 5),
    },
)


def outcome(work: Any) -> Any:
    """A value, or what the client is told."""
    try:
        return work()
    except InvalidRequest as error:
        return error.body()


def in_full(body: bytes) -> ChatRequest:
    """The request as it is decoded without looking for a plain one."""
    return decode(openai._decoder, body, needs="'model' and 'messages'")


def bodies(messages: list[Any], members: dict[str, Any]) -> bytes:
    written = json.dumps({"model": "m", "messages": messages} | members)
    return written.encode("utf-8", "surrogatepass")


@settings(max_examples=300)
@given(MESSAGES, MEMBERS)
def test_the_same_value_the_same_refusals(messages: list[Any], members: dict[str, Any]) -> None:
    body = bodies(messages, members)
    short, full = outcome(lambda: parse_chat(body)), outcome(lambda: in_full(body))
    if isinstance(full, dict):
        assert short == full
        return
    assert isinstance(short, ChatRequest)
    assert msgspec.to_builtins(short) == msgspec.to_builtins(full)
    assert outcome(lambda: check(short)) == outcome(lambda: check(full))


@settings(max_examples=300)
@given(MESSAGES, MEMBERS, st.sampled_from(sorted(DIALECTS)), st.sampled_from([None, "salt"]))
def test_engines_get_the_same_bytes(
    messages: list[Any], members: dict[str, Any], dialect: str, salt: str | None
) -> None:
    body = bodies(messages, members)
    full = outcome(lambda: in_full(body))
    if isinstance(full, dict):
        return
    call = chat_call(body=body)
    sent = [
        outcome(lambda call=each: prepare(call, DIALECTS[dialect], model="theirs", salt=salt))
        for each in (call, dataclasses.replace(call, request=full))
    ]
    assert sent[0] == sent[1]


@given(MESSAGES)
def test_plain_is_what_has_nothing_but_text(messages: list[Any]) -> None:
    """Nothing with another member, part or role is taken for plain; what is plain, is."""
    made = outcome(lambda: parse_chat(bodies(messages, {})))
    plain = bool(messages) and all(
        message.keys() == {"role", "content"}
        and message["role"] in ("system", "user", "assistant")
        and isinstance(message["content"], str)
        for message in messages
    )
    if isinstance(made, ChatRequest):
        assert isinstance(made, PlainChat) == plain


@settings(max_examples=300)
@given(MESSAGES, MEMBERS)
def test_the_embedded_engine_is_given_the_same(messages: list[Any], members: dict[str, Any]) -> None:
    body = bodies(messages, members)
    full = outcome(lambda: in_full(body))
    if isinstance(full, dict) or isinstance(outcome(lambda: check(full)), dict):
        return
    assert outcome(lambda: plan(parse_chat(body))) == outcome(lambda: plan(full))
