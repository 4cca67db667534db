"""Requests for tests of the HTTP engine, and what their answers say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tests.simulator.engine_dialects import MODEL

from confide.engine.base import Call, ChatCall
from confide.wire.openai import parse_chat

ID = "chatcmpl-" + "5eed" * 8
CREATED = 1_760_000_001
SECRET = "the-secret-of-the-prompt"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "get_time"}}


def chat_call(*, model: str = MODEL, body: bytes | None = None, tenant: str = "key_1", **members: Any) -> ChatCall:
    """A call whose body tells a secret; ``members`` stand after the model and the messages, and in their place."""
    asked = {"model": model, "messages": [{"role": "user", "content": SECRET}]} | members
    written = json.dumps(asked, ensure_ascii=False).encode() if body is None else body
    return Call(ID, CREATED, model, tenant, parse_chat(written), written)


def chunks(events: Iterable[bytes]) -> list[dict[str, Any]]:
    """The payloads of events, each one written as OpenAI writes it."""
    found = []
    for one in events:
        assert one.startswith(b"data: {")
        assert one.endswith(b"}\n\n")
        assert one.count(b"\n") == 2
        found.append(json.loads(one.removeprefix(b"data: ")))
    return found


def assembled(payloads: Sequence[dict[str, Any]], choices: int = 1) -> list[dict[str, Any]]:
    """What the choices of a stream say, put together as the official Python SDK does, and its rules held to."""
    out: list[dict[str, Any]] = []
    for chunk in payloads:
        assert chunk["object"] == "chat.completion.chunk"
        assert (chunk["id"], chunk["created"]) == (ID, payloads[0]["created"])
        for choice in chunk["choices"]:
            index, delta = choice["index"], choice["delta"]
            assert index <= len(out), "choices appear in order"
            if index == len(out):
                assert delta["role"] == "assistant"
                out.append({"content": "", "reasoning": "", "calls": [], "finish": None, "function": None})
            else:
                assert delta.get("role") is None
            one = out[index]
            assert one["finish"] is None, "nothing follows the finish"
            one["content"] += delta.get("content") or ""
            assert delta.get("reasoning") == delta.get("reasoning_content")
            one["reasoning"] += delta.get("reasoning") or ""
            _add_calls(one, delta)
            one["finish"] = choice["finish_reason"]
    assert len(out) == choices
    return out


def _add_calls(one: dict[str, Any], delta: dict[str, Any]) -> None:
    for piece in delta.get("tool_calls") or ():
        function = piece["function"]
        if piece["index"] == len(one["calls"]):
            assert piece["type"] == "function"
            one["calls"].append({"id": piece["id"], "name": function["name"], "arguments": ""})
        else:
            assert piece.get("id") is None
            assert function.get("name") is None
        one["calls"][piece["index"]]["arguments"] += function["arguments"]
    if (function := delta.get("function_call")) is not None:
        one["function"] = one["function"] or {"name": function["name"], "arguments": ""}
        one["function"]["arguments"] += function["arguments"]
