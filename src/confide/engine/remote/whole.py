"""An engine's answer that isn't streamed, as the client shall see it: the same rules as for streams, in one piece."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from confide.engine.base import ChatCall
from confide.engine.remote import failures
from confide.engine.remote.dialect import Dialect
from confide.engine.remote.rules import (
    MOST_CALLS,
    arguments_text,
    broken,
    call_id,
    choices_of,
    finish_reason,
    is_legacy,
    logprobs_json,
    trim_logprobs,
)
from confide.engine.remote.shapes import LONGEST_BODY, AnswerChoice, AnswerMessage, Body, Call, RightBody
from confide.wire.answers import Usage

_right: Final = msgspec.json.Decoder(RightBody)
_lenient: Final = msgspec.json.Decoder(Body)
_UNREADABLE: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)

_NOTHING: Final = (None, None, None, None)

Json = dict[str, Any]


def mend_whole(call: ChatCall, dialect: Dialect, body: bytes) -> tuple[bytes, Usage]:
    """The answer for the client, and its tokens.

    A body that is right already is returned as it is. Where the engine tells no usage, none is told to the client.

    Raises:
        ApiError: the engine tells of an error under the status 200.
        EngineFailed: the body is no answer, or not a complete one.
    """
    if len(body) > LONGEST_BODY:
        raise broken("an answer that is too long")
    answer, right = _read(body)
    if right and _is_plain(call, answer):
        assert answer.usage is not None
        return body, answer.usage.value
    if answer.error is not None or answer.object == "error":
        raise failures.from_event(body, dialect)
    choices = sorted(answer.choices or (), key=lambda choice: choice.index)
    if [choice.index for choice in choices] != list(range(choices_of(call))):
        raise broken("other choices than were asked for")
    written = [_choice(call, choice) for choice in choices]
    usage = Usage() if answer.usage is None else answer.usage.value
    if right and _may_pass(call, answer, choices, written):
        return body, usage
    return msgspec.json.encode(_body(call, answer, written)), usage


def _read(body: bytes) -> tuple[Body, bool]:
    try:
        return _right.decode(body), True
    except _UNREADABLE:
        pass
    try:
        return _lenient.decode(body), False
    except _UNREADABLE:
        raise broken() from None


def _is_plain(call: ChatCall, answer: Body) -> bool:
    """The same as :func:`_may_pass`, sooner, for what most answers are: one choice of nothing but text."""
    (choice, *others) = answer.choices or (AnswerChoice(index=1),)
    message, spent = choice.message, answer.usage
    return (
        not others
        and message is not None
        and bool(message.content)
        and choice.index == 0
        and choice.finish_reason in ("stop", "length")
        and (choice.logprobs, message.tool_calls, message.reasoning, message.reasoning_content) == _NOTHING
        and spent is not None
        and spent.adds_up
        and choices_of(call) == 1
        and (answer.id, answer.model) == (call.id, call.model)
    )


def _may_pass(call: ChatCall, answer: Body, choices: list[AnswerChoice], written: list[Json]) -> bool:
    """Whether nothing of a body of the right shape had to be changed."""
    spent = answer.usage
    return (
        (answer.id, answer.model) == (call.id, call.model)
        and spent is not None
        and spent.adds_up
        and list(answer.choices or ()) == choices
        and all(_is_same(choice, json) for choice, json in zip(choices, written, strict=True))
    )


def _is_same(choice: AnswerChoice, written: Json) -> bool:
    message, new = choice.message or AnswerMessage(), written["message"]
    return (
        choice.finish_reason == written["finish_reason"]
        and message.content == new["content"]
        and message.reasoning == new.get("reasoning")
        and message.reasoning_content == new.get("reasoning_content")
        and "function_call" not in new
        and [call.id for call in message.tool_calls or ()] == [call["id"] for call in new.get("tool_calls", ())]
        and logprobs_json(choice.logprobs) == written["logprobs"]
    )


def _body(call: ChatCall, answer: Body, choices: list[Json]) -> Json:
    created = int(answer.created) if answer.created and answer.created > 0 else call.created
    body: Json = {
        "id": call.id,
        "object": "chat.completion",
        "created": created,
        "model": call.model,
        "choices": choices,
    }
    if answer.usage is not None:
        body["usage"] = answer.usage.value.as_json()
    for name in ("service_tier", "system_fingerprint"):
        if getattr(answer, name) is not None:
            body[name] = getattr(answer, name)
    return body


def _choice(call: ChatCall, choice: AnswerChoice) -> Json:
    message = choice.message
    if message is None:
        raise broken("a choice without a message")
    calls = _calls(call, choice.index, message)
    reason = finish_reason(choice.finish_reason, calls=bool(calls), legacy=is_legacy(call))
    logprobs = choice.logprobs if call.request.logprobs else None
    if logprobs is not None and trim_logprobs(logprobs, call.request.top_logprobs or 0):
        choice.logprobs = None  # it isn't as it came
    if reason != "length":
        for one in calls:
            one["function"]["arguments"] = one["function"]["arguments"] or "{}"
    written: Json = {
        "index": choice.index,
        "message": _message(message, calls, legacy=is_legacy(call)),
        "logprobs": logprobs_json(logprobs),
        "finish_reason": reason,
    }
    for name in ("stop_reason", "matched_stop"):
        if getattr(choice, name) is not None:
            written[name] = getattr(choice, name)
    return written


def _message(message: AnswerMessage, calls: list[Json], *, legacy: bool) -> Json:
    silent = (calls or message.refusal) and not message.content
    written: Json = {
        "role": "assistant",
        "content": None if silent else message.content or "",
        "refusal": message.refusal,
        "annotations": [],
    }
    text = message.reasoning or message.reasoning_content
    if text:
        written["reasoning"] = written["reasoning_content"] = text
    if calls and legacy:
        written["function_call"] = calls[0]["function"]
    elif calls:
        written["tool_calls"] = calls
    return written


def _calls(call: ChatCall, index: int, message: AnswerMessage) -> list[Json]:
    given = message.tool_calls or ()
    if len(given) > MOST_CALLS:
        raise broken("more calls than can be meant")
    calls: list[Json] = []
    for position, one in enumerate(given):
        taken = {other["id"] for other in calls}
        new = one.id if one.id and one.id not in taken else call_id(call, index, position)
        calls.append({"id": new, "type": "function", "function": _function(one)})
    return calls


def _function(call: Call) -> Json:
    function = call.function
    if function is None or not function.name:
        raise broken("a call without a name")
    return {"name": function.name, "arguments": arguments_text(function.arguments)}
