"""``/v1/responses`` with an engine: the request, and which members of answers clients see.

Source: OpenAI API specification 2.3.0, schemas ``Response`` and ``ResponseStreamEvent``; vLLM 0.32.0
``entrypoints/openai/responses/{protocol,serving,streaming_events}.py``. Nothing is stored in the engine, whose store is
shared by all who use it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from confide.engine.base import RESPONSES, Call
from confide.engine.remote.dialect import Dialect
from confide.engine.remote.offers import offer
from confide.engine.remote.passing import Api, ApiMender, mend_whole
from confide.engine.remote.pruning import ANYTHING, NUMBER, By, Each, Json, Shape
from confide.engine.remote.request import add_ids
from confide.engine.remote.rules import broken
from confide.engine.remote.service import Service
from confide.errors import EngineFailed
from confide.wire.responses import INCLUDED, Message, ResponsesRequest

_decoder: Final = msgspec.json.Decoder(dict[str, Raw])

# The request ---------------------------------------------------------------------------------------------------------


def prepare(call: Call[ResponsesRequest], dialect: Dialect, *, model: str, salt: str | None) -> bytes:
    """The body for the engine. See :class:`~confide.engine.remote.service.Prepare`."""
    request = call.request
    written = _decoder.decode(call.body)
    taken = offer(dialect, RESPONSES).members
    members: dict[str, Any] = {
        name: value for name, value in written.items() if name in taken and bytes(value) != b"null"
    }
    members |= {"model": model, "input": _input(request), "store": False}
    if request.stream:
        members["stream"] = True
    if request.reasoning is not None:
        members["reasoning"] = {"effort": request.reasoning.effort}
    if "include" in members:
        members["include"] = [name for name in request.include or () if name == INCLUDED]
    if request.tools:
        members["tools"] = [{"strict": True, **msgspec.to_builtins(tool)} for tool in request.tools]
    else:
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            members.pop(name, None)
    add_ids(members, call.id, dialect, salt)
    return msgspec.json.encode(members)


def _input(request: ResponsesRequest) -> Any:
    """As it was read. vLLM takes what the model said before only with all members that an answer has."""
    written = msgspec.to_builtins(request.input)
    for index, item in enumerate(request.items):
        if isinstance(item, Message) and item.role == "assistant" and isinstance(item.content, list):
            written[index] = {"type": "message", "id": f"msg_{index}", "status": "completed"} | written[index]
    return written


# Answers -------------------------------------------------------------------------------------------------------------

_LOGPROB: Final[Shape] = {"token": str, "logprob": NUMBER, "bytes": list}
_LOGPROBS: Final = Each({**_LOGPROB, "top_logprobs": Each(_LOGPROB)})
_TEXT_PARTS: Final[dict[str, Shape]] = {
    "output_text": {"type": str, "text": str, "annotations": ANYTHING, "logprobs": _LOGPROBS},
    "refusal": {"type": str, "refusal": str},
    "reasoning_text": {"type": str, "text": str},
    "summary_text": {"type": str, "text": str},
}
_PART: Final = By("type", _TEXT_PARTS)
_CONTENTS: Final = Each(_PART)
_ITEM: Final = By(
    "type",
    {
        "message": {"type": str, "id": str, "role": str, "status": str, "content": _CONTENTS},
        "reasoning": {"type": str, "id": str, "status": str, "summary": _CONTENTS, "content": _CONTENTS},
        "function_call": {"type": str, "id": str, "call_id": str, "name": str, "arguments": str, "status": str},
    },
)
_USAGE: Final[Shape] = {
    "input_tokens": int,
    "output_tokens": int,
    "total_tokens": int,
    "input_tokens_details": {"cached_tokens": int, "cache_write_tokens": int},
    "output_tokens_details": {"reasoning_tokens": int},
}
_ECHOED: Final = ("instructions", "metadata", "tool_choice", "tools", "text")
"""What the client itself had said, in the form that it had."""
_RESPONSE: Final[Shape] = {
    "id": str,
    "object": str,
    "created_at": NUMBER,
    "completed_at": NUMBER,
    "status": str,
    "model": str,
    "output": Each(_ITEM),
    "usage": _USAGE,
    "incomplete_details": {"reason": str},
    "parallel_tool_calls": bool,
    "temperature": NUMBER,
    "top_p": NUMBER,
    "max_output_tokens": int,
    "background": bool,
    "store": bool,
    "reasoning": {"effort": str, "summary": str},
    "service_tier": str,
    "top_logprobs": int,
    "truncation": str,
    "user": str,
    "max_tool_calls": int,
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
    **dict.fromkeys(_ECHOED, ANYTHING),
}
_PLACE: Final[Shape] = {"type": str, "sequence_number": int, "output_index": int}
_IN_ITEM: Final[Shape] = {**_PLACE, "item_id": str}
_IN_PART: Final[Shape] = {**_IN_ITEM, "content_index": int}
_IN_SUMMARY: Final[Shape] = {**_IN_ITEM, "summary_index": int}
_HEADS: Final = ("created", "in_progress", "completed", "incomplete")

EVENTS: Final[dict[str, Shape]] = {
    **{f"response.{name}": {"type": str, "sequence_number": int, "response": _RESPONSE} for name in _HEADS},
    **{f"response.output_item.{name}": {**_PLACE, "item": _ITEM} for name in ("added", "done")},
    **{f"response.content_part.{name}": {**_IN_PART, "part": _PART} for name in ("added", "done")},
    "response.output_text.delta": {**_IN_PART, "delta": str, "logprobs": _LOGPROBS},
    "response.output_text.done": {**_IN_PART, "text": str, "logprobs": _LOGPROBS},
    "response.refusal.delta": {**_IN_PART, "delta": str},
    "response.refusal.done": {**_IN_PART, "refusal": str},
    "response.reasoning_text.delta": {**_IN_PART, "delta": str},
    "response.reasoning_text.done": {**_IN_PART, "text": str},
    **{f"response.reasoning_summary_part.{name}": {**_IN_SUMMARY, "part": _PART} for name in ("added", "done")},
    "response.reasoning_summary_text.delta": {**_IN_SUMMARY, "delta": str},
    "response.reasoning_summary_text.done": {**_IN_SUMMARY, "text": str},
    "response.function_call_arguments.delta": {**_IN_ITEM, "delta": str},
    "response.function_call_arguments.done": {**_IN_ITEM, "name": str, "arguments": str},
}


_WITH_RESPONSE: Final = frozenset(f"response.{name}" for name in _HEADS)


def _check(event: Json) -> None:
    """Only what is complete, or ended as it may end, is an answer."""
    kind, response = event.get("type"), event.get("response")
    if response is None:
        if kind in _WITH_RESPONSE:
            raise broken()
        return
    expected = ("queued", "in_progress") if kind in {"response.created", "response.in_progress"} else _ENDED
    if response.get("status") not in expected:
        raise EngineFailed("The engine failed while it answered.")
    if expected is _ENDED and not isinstance(response.get("output"), list):
        raise broken()


def _retype(event: Json) -> bool:
    """The end of an answer that was cut short: vLLM says of it that it was completed, and the truth in its status."""
    if event["type"] != "response.completed" or event["response"]["status"] != "incomplete":
        return False
    event["type"] = "response.incomplete"
    return True


_ENDED: Final = ("completed", "incomplete")
_API: Final = Api(
    events=EVENTS,
    head="response",
    begins="response.created",
    ends=frozenset({"response.completed", "response.incomplete"}),
    fails=frozenset({"error", "response.failed"}),
    whole=_RESPONSE,
    check=_check,
    retype=_retype,
)

SERVICE: Final = Service(
    "/responses",
    prepare,
    lambda call, dialect: ApiMender(call, dialect, _API),
    lambda call, dialect, body: mend_whole(call, dialect, body, _API),
    "input",
)
"""How responses are asked for."""
