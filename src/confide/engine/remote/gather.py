"""One body out of a mended stream, for engines whose whole answers lack usage, or are computed for nobody."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from confide.wire.answers import Usage

Json = dict[str, Any]


@dataclass(slots=True)
class _Choice:
    texts: dict[str, list[str]] = field(default_factory=dict)
    calls: list[Json] = field(default_factory=list)
    function: Json | None = None
    logprobs: list[Json] | None = None
    finish: str | None = None


class Gatherer:
    """Takes the events that :class:`~confide.engine.remote.mender.StreamMender` gives."""

    def __init__(self, choices: int) -> None:
        self._choices = [_Choice() for _ in range(choices)]
        self._head: Json = {}

    def add(self, event: bytes) -> None:
        """Take one event."""
        chunk: Json = msgspec.json.decode(event.removeprefix(b"data: ").rstrip(b"\n"))
        self._head = {name: value for name, value in chunk.items() if name not in {"choices", "usage"}}
        for choice in chunk["choices"]:
            self._add(self._choices[choice["index"]], choice)

    def _add(self, into: _Choice, choice: Json) -> None:
        delta: Json = choice["delta"]
        for name in ("content", "refusal", "reasoning", "reasoning_content"):
            if delta.get(name) is not None:
                into.texts.setdefault(name, []).append(delta[name])
        for piece in delta.get("tool_calls") or ():
            if piece["index"] == len(into.calls):
                into.calls.append({"id": piece["id"], "type": "function", "function": piece["function"]})
            else:
                into.calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
        if (function := delta.get("function_call")) is not None:
            into.function = into.function or {"name": function.get("name"), "arguments": ""}
            into.function["arguments"] += function["arguments"]
        if choice.get("logprobs"):
            into.logprobs = into.logprobs or []
            into.logprobs += choice["logprobs"].get("content") or ()
        into.finish = choice.get("finish_reason") or into.finish

    def body(self, usage: Usage) -> bytes:
        """The whole answer."""
        choices = [self._choice(index, choice) for index, choice in enumerate(self._choices)]
        head = self._head | {"object": "chat.completion"}
        return msgspec.json.encode(head | {"choices": choices, "usage": usage.as_json()})

    def _choice(self, index: int, choice: _Choice) -> Json:
        texts = {name: "".join(pieces) for name, pieces in choice.texts.items()}
        called = choice.calls or choice.function
        message: Json = {
            "role": "assistant",
            "content": texts.get("content") or (None if called else ""),
            "refusal": texts.get("refusal"),
            "annotations": [],
        }
        message |= {name: texts[name] for name in ("reasoning", "reasoning_content") if texts.get(name)}
        if choice.calls:
            message["tool_calls"] = choice.calls
        elif choice.function:
            message["function_call"] = choice.function
        logprobs = None if choice.logprobs is None else {"content": choice.logprobs, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}
