"""``POST /v1/messages``: the body of a request to the Messages API of Anthropic, and its form of errors.

Source: the API reference of Anthropic, "Messages" and "Errors", version ``2023-06-01``, and what their SDK for Python
sends. Tools that run beside the model, containers and connectors are refused by name; hints about caches are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from confide.errors import ApiError, InvalidRequest
from confide.wire.failing import ErrorForm
from confide.wire.items import convert, kind_of
from confide.wire.members import check_provider, check_stops, check_template, decode
from confide.wire.openai import Json, Name, Positive


class Base64Source(Struct, tag_field="type", tag="base64"):
    """An image's data."""

    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class UrlSource(Struct, tag_field="type", tag="url"):
    """Where an image is: https, where the operator allows it."""

    url: str


class Text(Struct, tag_field="type", tag="text"):
    """Text."""

    text: str


class Picture(Struct, tag_field="type", tag="image"):
    """An image."""

    source: Base64Source | UrlSource


class ToolUse(Struct, tag_field="type", tag="tool_use"):
    """A call that the model made."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    name: str
    input: Json


class ToolResult(Struct, tag_field="type", tag="tool_result", omit_defaults=True):
    """What a tool answered."""

    tool_use_id: Annotated[str, Meta(min_length=1, max_length=256)]
    content: str | list[Text | Picture] | None = None
    is_error: bool | None = None


class Thinking(Struct, tag_field="type", tag="thinking"):
    """What the model thought before."""

    thinking: str
    signature: str = ""


class RedactedThinking(Struct, tag_field="type", tag="redacted_thinking"):
    """The same, not to be read."""

    data: str


Block = Text | Picture | ToolUse | ToolResult | Thinking | RedactedThinking


class Message(Struct):
    """What somebody said."""

    role: Literal["user", "assistant"]
    content: str | Annotated[list[Block], Meta(min_length=1)]


class Tool(Struct, omit_defaults=True):
    """A function that the model may call, and the client runs."""

    name: Name
    input_schema: Json
    description: str | None = None
    strict: bool | None = None


class ToolChoice(Struct):
    """``tool_choice``; ``name`` where its type is ``tool``."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(Struct, omit_defaults=True):
    """``thinking``."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Positive | None = None


class MessagesRequest(Struct):
    """One request for a message, decoded."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    max_tokens: Positive
    messages: Annotated[list[Message], Meta(min_length=1, max_length=2048)]

    system: str | list[Text] | None = None
    stop_sequences: Annotated[list[str], Meta(max_length=16)] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    tools: Annotated[list[Any], Meta(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: Json | None = None

    # Hints.
    metadata: Json | None = None
    service_tier: str | None = None
    cache_control: Json | None = None

    provider: Json | None = None

    # What would run or be kept beside the model.
    container: Any = None
    mcp_servers: Any = None
    context_management: Any = None

    # What open engines add.
    chat_template_kwargs: Json | None = None

    @property
    def opening(self) -> list[str]:
        """The start of the conversation, which all its turns share."""
        return [msgspec.json.encode(one).decode() for one in (self.system, self.messages[0])]

    @property
    def blocks(self) -> list[tuple[Block, str]]:
        """All blocks of the messages, those in results of tools included, each with its path."""
        found: list[tuple[Block, str]] = []
        for index, message in enumerate(self.messages):
            for place, block in enumerate(message.content if isinstance(message.content, list) else ()):
                where = f"messages[{index}].content[{place}]"
                found.append((block, where))
                within = block.content if isinstance(block, ToolResult) else None
                for inner, part in enumerate(within if isinstance(within, list) else ()):
                    found.append((part, f"{where}.content[{inner}]"))
        return found


CORE: Final = frozenset({"model", "messages", "stream", "provider"})
HINTS: Final = frozenset({"metadata", "service_tier", "cache_control"})
HARMLESS: Final[dict[str, object]] = {"mcp_servers": [], "tools": []}

_decoder = msgspec.json.Decoder(MessagesRequest)


def parse_message(body: bytes) -> MessagesRequest:
    """Decode a request body.

    Raises:
        InvalidRequest: as :func:`confide.wire.members.decode`.
    """
    request = decode(_decoder, body, needs="'model', 'max_tokens' and 'messages'")
    request.tools = None if request.tools is None else [_tool(*one) for one in enumerate(request.tools)]
    return request


def _tool(index: int, entry: Any) -> Tool:
    where = f"tools[{index}]"
    kind_of(convert(entry, Json, where), {"custom": Tool}, where, default="custom")
    found: Tool = convert(entry, Tool, where)
    return found


def check_message(request: MessagesRequest) -> None:
    """Refuse what is well-formed but contradicts itself.

    Raises:
        InvalidRequest: naming the member.
    """
    check_stops(request.stop_sequences or (), param="stop_sequences")
    check_provider(request.provider)
    check_template(request.chat_template_kwargs)
    choice, names = request.tool_choice, {tool.name for tool in request.tools or ()}
    if choice is not None and choice.type == "tool" and choice.name not in names:
        raise InvalidRequest("Invalid 'tool_choice': the tool is not one of the 'tools'.", param="tool_choice.name")
    if choice is not None and choice.type == "any" and not names:
        raise InvalidRequest("Invalid 'tool_choice': 'any' needs 'tools'.", param="tool_choice")


# Errors --------------------------------------------------------------------------------------------------------------

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(error: ApiError) -> bytes:
    """The JSON text of Anthropic's error object, which has no place for the member's name but its message.

    Types of the attestation protocol stay: its clients match on them.
    """
    own = error.type.startswith("e2ee_") or error.type == "session_not_accepted"
    other = "invalid_request_error" if error.status < 500 else "api_error"
    kind = error.type if own else _TYPES.get(error.status, other)
    named = error.param is None or error.param in error.message
    message = error.message if named else f"{error.param}: {error.message}"
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})


def error_event(error: ApiError) -> bytes:
    """An error in a stream that has begun; it is also its end."""
    return b"event: error\ndata: " + error_body(error) + b"\n\n"


ANTHROPIC: Final = ErrorForm(error_body, error_event)
"""``{"type": "error", "error": {"type", "message"}}``."""
