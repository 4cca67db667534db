"""Rules that streams and whole answers share.

Source: OpenAI API specification 2.3.0, ``CreateChatCompletionResponse`` and ``CreateChatCompletionStreamResponse``; the
words that engines use beside it: vLLM and SGLang ``abort``, TGI ``eos_token`` and ``stop_sequence``, Ollama ``load``.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from confide.engine.base import ChatCall
from confide.engine.remote.shapes import Alternative, Logprobs
from confide.errors import EngineFailed
from confide.wire.answers import LEAST_LOGPROB, FinishReason

MOST_CALLS: Final = 128
"""Of one choice."""

_REASONS: Final[dict[str, FinishReason]] = {
    **dict.fromkeys(("stop", "eos", "eos_token", "stop_sequence", "end_turn"), "stop"),
    **dict.fromkeys(("length", "max_tokens"), "length"),
    **dict.fromkeys(("tool_calls", "function_call", "tool_use"), "tool_calls"),
    "content_filter": "content_filter",
}


def finish_reason(given: str | None, *, calls: bool, legacy: bool) -> FinishReason:
    """Why a choice ended, so that it agrees with what the choice holds.

    Args:
        given: the engine's word.
        calls: whether the choice has calls.
        legacy: whether they are written in the deprecated form.

    Raises:
        EngineFailed: none, or one that says the answer isn't complete (``abort``).
    """
    reason = _REASONS.get(given or "")
    if reason is None:
        raise EngineFailed("The engine stopped before the answer was complete.")
    if reason in {"stop", "tool_calls"}:
        reason = "tool_calls" if calls else "stop"
    return "function_call" if legacy and reason == "tool_calls" else reason


def arguments_text(value: str | dict[str, Any] | None) -> str:
    """Arguments as JSON text."""
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else value or ""


def trim_logprobs(logprobs: Logprobs, most: int) -> bool:
    """Leave as many alternatives as were asked for; says whether something changed."""
    changed = False
    for token in logprobs.content or ():
        if len(token.top_logprobs) > most:
            token.top_logprobs = token.top_logprobs[:most]
            changed = True
    return changed


def logprobs_json(logprobs: Logprobs | None) -> dict[str, Any] | None:
    """OpenAI's ``logprobs`` object."""
    if logprobs is None:
        return None
    tokens = [
        _token(token) | {"top_logprobs": [_token(other) for other in token.top_logprobs]}
        for token in logprobs.content or ()
    ]
    return {"content": tokens, "refusal": None}


def _token(token: Alternative) -> dict[str, Any]:
    logprob = LEAST_LOGPROB if token.logprob is None else max(token.logprob, LEAST_LOGPROB)
    given = token.bytes if token.bytes is not None else list(token.token.encode("utf-8", "surrogatepass"))
    return {"token": token.token, "logprob": logprob, "bytes": given}


def broken(what: str = "an answer that is none") -> EngineFailed:
    """The error for an answer that can't be mended. ``what`` is a phrase of ours."""
    return EngineFailed(f"The engine gave {what}.")


def call_id(call: ChatCall, index: int, position: int) -> str:
    """An id for a call to which the engine gave none: the same each time, and in no other answer."""
    digest = hashlib.sha256(f"{call.id} {index} {position}".encode()).hexdigest()
    return f"call_{digest[:24]}"


def choices_of(call: ChatCall) -> int:
    """How many choices were asked for."""
    return call.request.n or 1


def is_legacy(call: ChatCall) -> bool:
    """Whether the client speaks the deprecated form, with ``functions``."""
    return call.request.functions is not None
