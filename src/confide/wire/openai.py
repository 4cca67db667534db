"""The body of ``POST /v1/chat/completions``: its shape, and what OpenAI's error says when the shape is wrong.

Source: OpenAI API specification 2.3.0, schema ``CreateChatCompletionRequest``, with the members that vLLM, SGLang and
llama.cpp add. ``null`` means absent for every optional member, as that schema has it. Unknown members are ignored, as
open engines do; members that promise a constraint are all known here, so that none is ignored by accident.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from confide.wire.members import EngineMembers, decode, refuse_all_but, together

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}\Z")]
Json = dict[str, Any]


# Content parts -------------------------------------------------------------------------------------------------------


class TextPart(Struct, tag_field="type", tag="text"):
    """``{"type": "text"}``."""

    text: str


class ImageUrl(Struct):
    """Where an image is: a ``data:`` URL, or https where the operator allows it."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Struct, tag_field="type", tag="image_url"):
    """``{"type": "image_url"}``."""

    image_url: ImageUrl


class AudioPart(Struct, tag_field="type", tag="input_audio"):
    """``{"type": "input_audio"}``; known so that it can be refused by name."""

    input_audio: Json


class FilePart(Struct, tag_field="type", tag="file"):
    """``{"type": "file"}``; known so that it can be refused by name."""

    file: Json


class RefusalPart(Struct, tag_field="type", tag="refusal"):
    """``{"type": "refusal"}``; only in assistant messages."""

    refusal: str


Text = str | list[TextPart]


# Messages ------------------------------------------------------------------------------------------------------------


class FunctionCall(Struct):
    """A call's name, and its arguments as JSON text (a string, not an object)."""

    name: str
    arguments: str = "{}"


class ToolCall(Struct):
    """A call that an assistant message made."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    function: FunctionCall | None = None
    type: Literal["function", "custom"] | None = None
    custom: Json | None = None


class SystemMessage(Struct, tag_field="role", tag="system"):
    """Instructions."""

    content: Text
    name: str | None = None


class DeveloperMessage(Struct, tag_field="role", tag="developer"):
    """Instructions; what newer OpenAI models call ``system``."""

    content: Text
    name: str | None = None


class UserMessage(Struct, tag_field="role", tag="user"):
    """What the person said or showed."""

    content: str | list[TextPart | ImagePart | AudioPart | FilePart]
    name: str | None = None


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    """What the model said or called before."""

    content: str | list[TextPart | RefusalPart] | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    refusal: str | None = None
    name: str | None = None


class ToolMessage(Struct, tag_field="role", tag="tool"):
    """What a tool answered."""

    content: Text
    tool_call_id: str


class FunctionMessage(Struct, tag_field="role", tag="function"):
    """What a function answered (deprecated form)."""

    name: str
    content: str | None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage


# Tools ---------------------------------------------------------------------------------------------------------------


class Function(Struct):
    """A function that the model may call; ``parameters`` is a JSON schema, absent for no arguments."""

    name: Name
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class FunctionTool(Struct, tag_field="type", tag="function"):
    """``{"type": "function"}``."""

    function: Function


class CustomTool(Struct, tag_field="type", tag="custom"):
    """``{"type": "custom"}``; known so that it can be refused by name."""

    custom: Json


class FunctionName(Struct):
    """``{"name": …}``."""

    name: str


class NamedChoice(Struct, tag_field="type", tag="function"):
    """``tool_choice`` that forces one function."""

    function: FunctionName


class CustomChoice(Struct, tag_field="type", tag="custom"):
    """``tool_choice`` that forces one custom tool."""

    custom: FunctionName


class AllowedTool(Struct):
    """One entry of ``allowed_tools``."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(Struct):
    """A subset of the tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedTool], Meta(min_length=1, max_length=128)]


class AllowedChoice(Struct, tag_field="type", tag="allowed_tools"):
    """``tool_choice`` that allows a subset of the tools."""

    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | NamedChoice | CustomChoice | AllowedChoice


# Answer format -------------------------------------------------------------------------------------------------------


class TextFormat(Struct, tag_field="type", tag="text"):
    """Free text."""


class JsonObjectFormat(Struct, tag_field="type", tag="json_object"):
    """Any JSON object."""


class JsonSchema(Struct):
    """A named JSON schema."""

    name: Name
    schema: Json | bool | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, tag_field="type", tag="json_schema"):
    """JSON that validates against a schema."""

    json_schema: JsonSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class StreamOptions(Struct):
    """``stream_options``."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


# The request ---------------------------------------------------------------------------------------------------------


class ChatRequest(EngineMembers):
    """One chat-completions request, decoded. Members are grouped by what a server does with them (:data:`HINTS`…)."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[Message], Meta(min_length=1, max_length=2048)]

    max_completion_tokens: Positive | None = None
    max_tokens: Positive | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    seed: Int64 | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1024)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[FunctionTool | CustomTool], Meta(min_length=1, max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Function], Meta(min_length=1, max_length=128)] | None = None
    function_call: Literal["none", "auto"] | FunctionName | None = None
    response_format: ResponseFormat | None = None

    # Hints: accepted, checked for their type, free to be ignored.
    user: str | None = None
    safety_identifier: Annotated[str, Meta(max_length=256)] | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Json | None = None
    reasoning_effort: str | float | None = None
    verbosity: str | None = None
    prediction: Json | None = None

    # What the caller demands of the way to the model (ACI, section 5.3).
    provider: Json | None = None

    # Features that need an engine which has them.
    modalities: list[str] | None = None
    audio: Json | None = None
    web_search_options: Json | None = None
    moderation: Json | None = None

    # What open engines add to chat.
    chat_template_kwargs: Json | None = None
    chat_template: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    echo: bool | None = None
    documents: list[Json] | None = None
    best_of: int | None = None
    thinking_token_budget: int | None = None

    @property
    def token_limit(self) -> int | None:
        """The most tokens to generate; ``max_completion_tokens`` wins where both are given, as in vLLM."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def stops(self) -> list[str]:
        """``stop`` as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


CORE = frozenset({"model", "messages", "stream", "stream_options", "provider"})
"""Members that every server honours by itself."""

HINTS = frozenset(
    {
        *("user", "safety_identifier", "metadata", "store", "service_tier", "prompt_cache_key"),
        *("prompt_cache_retention", "prompt_cache_options", "reasoning_effort", "verbosity", "prediction"),
    }
)
"""Members that an engine may ignore without weakening the answer."""
_OURS = CORE | HINTS

HARMLESS: dict[str, object] = {
    "modalities": ["text"],
    "add_generation_prompt": True,
    "continue_final_message": False,
    "echo": False,
    "best_of": 1,
    "use_beam_search": False,
    "include_stop_str_in_output": False,
    "min_tokens": 0,
    "return_token_ids": False,
    "documents": [],
    "stop_token_ids": [],
    "bad_words": [],
    "ignore_eos": False,
}
"""Values that ask for what happens anyway, so that no engine needs to have the member."""

# Plain requests ------------------------------------------------------------------------------------------------------

_Nothing = Annotated[str, Meta(min_length=1, max_length=0)]
"""No JSON value is one of these: the member must not be there."""
_ABSENT: Any = None


class PlainSystem(SystemMessage, forbid_unknown_fields=True, tag_field="role", tag="system"):
    """A system message that is nothing but text."""

    content: str
    name: _Nothing = _ABSENT


class PlainUser(UserMessage, forbid_unknown_fields=True, tag_field="role", tag="user"):
    """A user's message that is nothing but text."""

    content: str
    name: _Nothing = _ABSENT


class PlainAssistant(AssistantMessage, forbid_unknown_fields=True, tag_field="role", tag="assistant"):
    """An earlier answer that is nothing but text."""

    content: str
    tool_calls: _Nothing = _ABSENT  # type: ignore[assignment]
    function_call: _Nothing = _ABSENT  # type: ignore[assignment]
    refusal: _Nothing = _ABSENT
    name: _Nothing = _ABSENT


class PlainChat(ChatRequest):
    """A request whose messages are text and nothing else, as most are. Nobody need look into them again: no rule on
    calls or parts can break on them, and every engine takes their bytes as they are."""

    messages: Annotated[list[PlainSystem | PlainUser | PlainAssistant], Meta(min_length=1, max_length=2048)]  # type: ignore[assignment]


_plain: msgspec.json.Decoder[ChatRequest] = msgspec.json.Decoder(PlainChat)
_decoder = msgspec.json.Decoder(ChatRequest)


def parse_chat(body: bytes) -> ChatRequest:
    """Decode a request body, once.

    Args:
        body: the JSON text in UTF-8, as it was read.

    Raises:
        InvalidRequest: with OpenAI's words, ``param`` as a dotted path and its ``code``.
    """
    return decode(_decoder, body, needs="'model' and 'messages'", plain=_plain)


def refuse_unsupported(request: ChatRequest, supported: frozenset[str]) -> None:
    """Refuse, by name, each member that the engine can't honour.

    Raises:
        InvalidRequest: ``unsupported_parameter``, with the member as ``param``.
    """
    refuse_all_but(request, together(_OURS, supported), HARMLESS)
