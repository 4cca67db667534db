"""The answer of chat completions: what it is made of, and how that reads as chunks or as one body.

An engine that generates token by token gives a sequence of the small values below. :class:`ChunkWriter` writes them as
a stream, :class:`Collector` as one body, so that both modes say the same. Source: OpenAI API specification, schemas
``CreateChatCompletionResponse`` and ``CreateChatCompletionStreamResponse``; the order of chunks is the one that both
official SDKs accept (role first, once per choice, index 0 first; id, type and name of a call once; usage last).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from confide.errors import ApiError
from confide.wire.sse import event

FinishReason = Literal["stop", "length", "tool_calls", "function_call", "content_filter"]
LEAST_LOGPROB: Final = -9999.0
"""What stands for minus infinity, which JSON lacks."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens. ``prompt`` counts once per request, ``completion`` sums over all choices."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0

    def as_json(self) -> dict[str, Any]:
        """OpenAI's ``usage`` object."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of one choice: whole code points, never part of a stop sequence."""

    index: int
    text: str
    logprobs: tuple[dict[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what a model thinks before it answers."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A tool call begins: its place among the calls of the choice, its id and name, each said once."""

    index: int
    position: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments, as JSON text."""

    index: int
    position: int
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A choice is complete."""

    index: int
    reason: FinishReason


Delta = TextDelta | ReasoningDelta | CallStarted | CallArguments | Finished


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What every chunk and every body repeats."""

    id: str
    created: int
    model: str
    fingerprint: str
    legacy_functions: bool = False
    """Calls are written in the deprecated form, ``function_call``."""


class ChunkWriter:
    """Writes deltas as SSE events, ready to be sent."""

    def __init__(self, head: AnswerHead) -> None:
        self._head = head
        encode = msgspec.json.encode
        self._prefix = (
            b'{"id":%s,"object":"chat.completion.chunk","created":%d,"model":%s,"system_fingerprint":%s,'
            b'"service_tier":"default","choices":['
            % (encode(head.id), head.created, encode(head.model), encode(head.fingerprint))
        )

    def role(self, index: int) -> bytes:
        """The first chunk of a choice."""
        return self._chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def delta(self, delta: Delta) -> bytes:
        """The chunk for one delta."""
        if isinstance(delta, TextDelta):
            logprobs = None if delta.logprobs is None else {"content": delta.logprobs, "refusal": None}
            return self._chunk(delta.index, {"content": delta.text}, logprobs=logprobs)
        if isinstance(delta, ReasoningDelta):
            return self._chunk(delta.index, {"reasoning": delta.text, "reasoning_content": delta.text})
        if isinstance(delta, Finished):
            return self._chunk(delta.index, {}, finish=delta.reason)
        return self._chunk(delta.index, self._call(delta))

    def _call(self, delta: CallStarted | CallArguments) -> dict[str, Any]:
        function = (
            {"name": delta.name, "arguments": ""} if isinstance(delta, CallStarted) else {"arguments": delta.text}
        )
        if self._head.legacy_functions:
            return {"function_call": function}
        call: dict[str, Any] = {"index": delta.position}
        if isinstance(delta, CallStarted):
            call |= {"id": delta.id, "type": "function"}
        return {"tool_calls": [call | {"function": function}]}

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish: FinishReason | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event(self._prefix + msgspec.json.encode(choice) + b'],"usage":null}')

    def usage(self, usage: Usage) -> bytes:
        """The last chunk of a stream with ``include_usage``: no choices. Nothing but ``[DONE]`` may follow it."""
        return event(self._prefix + b'],"usage":' + msgspec.json.encode(usage.as_json()) + b"}")


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[tuple[CallStarted, list[str]]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] | None = None
    finish: FinishReason | None = None


class Collector:
    """Collects deltas into the body of an answer that is not streamed."""

    def __init__(self, head: AnswerHead, choices: int) -> None:
        self._head = head
        self._choices = [_Choice() for _ in range(choices)]

    def add(self, delta: Delta) -> None:
        """Take one delta."""
        choice = self._choices[delta.index]
        if isinstance(delta, TextDelta):
            choice.text.append(delta.text)
            if delta.logprobs is not None:
                choice.logprobs = [*(choice.logprobs or ()), *delta.logprobs]
        elif isinstance(delta, ReasoningDelta):
            choice.reasoning.append(delta.text)
        elif isinstance(delta, CallStarted):
            choice.calls.append((delta, []))
        elif isinstance(delta, CallArguments):
            choice.calls[delta.position][1].append(delta.text)
        else:
            choice.finish = delta.reason

    def body(self, usage: Usage) -> bytes:
        """The JSON text of the whole answer."""
        head = self._head
        answer = {
            "id": head.id,
            "object": "chat.completion",
            "created": head.created,
            "model": head.model,
            "choices": [self._choice(index, choice) for index, choice in enumerate(self._choices)],
            "usage": usage.as_json(),
            "service_tier": "default",
            "system_fingerprint": head.fingerprint,
        }
        return msgspec.json.encode(answer)

    def _choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        text = "".join(choice.text)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if choice.calls and not text else text,
            "refusal": None,
            "annotations": [],
        }
        if choice.reasoning:
            message["reasoning"] = message["reasoning_content"] = "".join(choice.reasoning)
        calls = [(start, {"name": start.name, "arguments": "".join(arguments)}) for start, arguments in choice.calls]
        if calls and self._head.legacy_functions:
            message["function_call"] = calls[0][1]
        elif calls:
            message["tool_calls"] = [
                {"id": start.id, "type": "function", "function": function} for start, function in calls
            ]
        logprobs = None if choice.logprobs is None else {"content": choice.logprobs, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}


def error_body(error: ApiError) -> bytes:
    """The JSON text of OpenAI's error object."""
    return msgspec.json.encode(error.body())


def error_event(error: ApiError) -> bytes:
    """An error in a stream that has begun. Both SDKs raise on it; a stream that is merely cut reads as success."""
    return event(error_body(error))
