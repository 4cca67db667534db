"""``/v1/messages`` with an engine: the request, and which members of answers clients see.

Source: the API reference of Anthropic, "Messages" and "Streaming Messages", version ``2023-06-01``; vLLM 0.32.0
``entrypoints/anthropic/{protocol,serving}.py``; llama.cpp ``tools/server/server-{chat,task}.cpp``.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from confide.engine.base import MESSAGES, Call
from confide.engine.remote.dialect import Dialect, ToolMode
from confide.engine.remote.offers import offer
from confide.engine.remote.passing import Api, ApiMender, mend_whole
from confide.engine.remote.pruning import ANYTHING, By, Each, Json, Shape
from confide.engine.remote.request import add_salt
from confide.engine.remote.rules import broken
from confide.engine.remote.service import Service
from confide.errors import EngineFailed, InvalidRequest
from confide.wire.messages import MessagesRequest

_decoder: Final = msgspec.json.Decoder(dict[str, Raw])
_MODES: Final[dict[str, ToolMode]] = {"auto": "auto", "none": "none", "any": "required", "tool": "named"}

# The request ---------------------------------------------------------------------------------------------------------


def prepare(call: Call[MessagesRequest], dialect: Dialect, *, model: str, salt: str | None) -> bytes:
    """The body for the engine. See :class:`~confide.engine.remote.service.Prepare`."""
    request, taken = call.request, offer(dialect, MESSAGES)
    written = _decoder.decode(call.body)
    members: dict[str, Any] = {
        name: value for name, value in written.items() if name in taken.members and bytes(value) != b"null"
    }
    members |= {"model": model, "messages": msgspec.to_builtins(request.messages)}
    if request.stream:
        members["stream"] = True
    if request.system is not None:
        members["system"] = msgspec.to_builtins(request.system)
    if request.thinking is not None:
        members["thinking"] = msgspec.to_builtins(request.thinking)
    _set_tools(members, request, dialect, one_call=taken.one_call)
    add_salt(members, dialect, salt)
    return msgspec.json.encode(members)


def _set_tools(members: dict[str, Any], request: MessagesRequest, dialect: Dialect, *, one_call: bool) -> None:
    members.pop("tools", None)
    members.pop("tool_choice", None)
    choice = request.tool_choice
    if not request.tools or (choice is not None and choice.type == "none"):
        return
    members["tools"] = [_tool(msgspec.to_builtins(tool), dialect) for tool in request.tools]
    if choice is None:
        return
    if _MODES[choice.type] not in dialect.tool_modes:
        raise InvalidRequest(
            f"Invalid 'tool_choice': the engine of the model '{request.model}' can't be made to call a tool; use "
            "'auto' or 'none'.",
            param="tool_choice.type",
            code="unsupported_value",
        )
    if choice.disable_parallel_tool_use and not one_call:
        raise InvalidRequest(
            "Invalid 'tool_choice.disable_parallel_tool_use': the engine of the model "
            f"'{request.model}' can't be held to one call.",
            param="tool_choice.disable_parallel_tool_use",
            code="unsupported_value",
        )
    written = {"type": choice.type, "name": choice.name, "disable_parallel_tool_use": choice.disable_parallel_tool_use}
    members["tool_choice"] = {name: value for name, value in written.items() if value is not None}


def _tool(tool: Json, dialect: Dialect) -> Json:
    """Arguments that nobody asked to be strict may be anything at all with some engines, so that all are."""
    return {"strict": True, **tool} if dialect.strict_tools else {**tool}


# Answers -------------------------------------------------------------------------------------------------------------

_BLOCK: Final = By(
    "type",
    {
        "text": {"type": str, "text": str},
        "thinking": {"type": str, "thinking": str, "signature": str},
        "redacted_thinking": {"type": str, "data": str},
        "tool_use": {"type": str, "id": str, "name": str, "input": ANYTHING},
    },
)
_DELTA: Final = By(
    "type",
    {
        "text_delta": {"type": str, "text": str},
        "thinking_delta": {"type": str, "thinking": str},
        "signature_delta": {"type": str, "signature": str},
        "input_json_delta": {"type": str, "partial_json": str},
    },
)
_USAGE: Final[Shape] = dict.fromkeys(
    ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"), int
)
_END: Final[Shape] = {"stop_reason": str, "stop_sequence": str}
_MESSAGE: Final[Shape] = {
    "id": str,
    "type": str,
    "role": str,
    "model": str,
    "content": Each(_BLOCK),
    "usage": _USAGE,
    **_END,
}
_AT: Final[Shape] = {"type": str, "index": int}

EVENTS: Final[dict[str, Shape]] = {
    "message_start": {"type": str, "message": _MESSAGE},
    "content_block_start": {**_AT, "content_block": _BLOCK},
    "content_block_delta": {**_AT, "delta": _DELTA},
    "content_block_stop": _AT,
    "message_delta": {"type": str, "delta": _END, "usage": _USAGE},
    "message_stop": {"type": str},
    "ping": {"type": str},
}


def _check(event: Json) -> None:
    """An answer has ended for a reason, or isn't complete."""
    kind, message, delta = event.get("type"), event.get("message"), event.get("delta")
    if kind == "message_delta" and not (delta or {}).get("stop_reason"):
        raise EngineFailed("The engine failed while it answered.")
    if kind is None and message is not None and not message.get("stop_reason"):
        raise EngineFailed("The engine failed while it answered.")
    if message is not None and not isinstance(message.get("content"), list):
        raise broken()


_API: Final = Api(
    events=EVENTS,
    head="message",
    begins="message_start",
    ends=frozenset({"message_stop"}),
    fails=frozenset({"error"}),
    whole=_MESSAGE,
    check=_check,
)

SERVICE: Final = Service(
    "/messages",
    prepare,
    lambda call, dialect: ApiMender(call, dialect, _API),
    lambda call, dialect, body: mend_whole(call, dialect, body, _API),
)
"""How messages are asked for."""
