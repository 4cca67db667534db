"""``POST /v1/responses``: the body of the request, and what may be asked of a server that keeps no conversation.

Source: OpenAI API specification 2.3.0, schema ``CreateResponse``, with the members that vLLM adds. A response isn't
stored, here or in the engine: what would need that (``store``, ``previous_response_id``, ``background``,
``conversation``, stored prompts), and tools that run beside the model, are refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from confide.errors import InvalidRequest
from confide.wire.items import convert, kind_of
from confide.wire.members import check_bias, check_provider, check_stops, check_template, decode
from confide.wire.openai import Int64, Json, Name, Penalty, Positive

MOST_TOOLS: Final = 128


# What goes in --------------------------------------------------------------------------------------------------------


class InputText(Struct, tag_field="type", tag="input_text"):
    """Text of the user, the system or a tool."""

    text: str


class OutputText(Struct, tag_field="type", tag="output_text"):
    """Text of the model, from before."""

    text: str
    annotations: list[Any] = []


class Refusal(Struct, tag_field="type", tag="refusal"):
    """What the model refused before."""

    refusal: str


class InputImage(Struct, tag_field="type", tag="input_image"):
    """An image: a ``data:`` URL, or https where the operator allows it."""

    image_url: str
    detail: Literal["auto", "low", "high", "original"] = "auto"


class InputFile(Struct, tag_field="type", tag="input_file"):
    """Known so that it can be refused by name."""


Part = InputText | OutputText | Refusal | InputImage | InputFile


class Message(Struct, omit_defaults=True):
    """What somebody said."""

    role: Literal["user", "system", "developer", "assistant"]
    content: str | list[Part]
    type: Literal["message"] | None = None
    id: str | None = None
    status: str | None = None


class FunctionCall(Struct, omit_defaults=True):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: Annotated[str, Meta(min_length=1, max_length=256)]
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionOutput(Struct, omit_defaults=True):
    """What a function answered."""

    type: Literal["function_call_output"]
    call_id: Annotated[str, Meta(min_length=1, max_length=256)]
    output: str | list[InputText | InputImage | InputFile]
    id: str | None = None
    status: str | None = None


class ReasoningText(Struct):
    """A part of what the model thought."""

    text: str
    type: Literal["reasoning_text", "summary_text"]


class Reasoning(Struct, omit_defaults=True):
    """What the model thought before. Encrypted reasoning isn't made here, so that what of it is sent is left out."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[ReasoningText] = msgspec.field(default_factory=list)
    content: list[ReasoningText] | None = None
    status: str | None = None


Item = Message | FunctionCall | FunctionOutput | Reasoning
_ITEMS: Final[dict[str, Any]] = {
    "message": Message,
    "function_call": FunctionCall,
    "function_call_output": FunctionOutput,
    "reasoning": Reasoning,
}


# Settings ------------------------------------------------------------------------------------------------------------


class FunctionTool(Struct, omit_defaults=True):
    """A function that the model may call, and the client runs."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class NamedFunction(Struct):
    """``tool_choice`` that forces one function."""

    type: Literal["function"]
    name: str


class TextFormat(Struct, tag_field="type", tag="text"):
    """Free text."""


class JsonFormat(Struct, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaFormat(Struct, tag_field="type", tag="json_schema"):
    """JSON that validates against a schema."""

    name: Name
    schema: Json
    description: str | None = None
    strict: bool | None = None


class TextConfig(Struct):
    """``text``."""

    format: TextFormat | JsonFormat | SchemaFormat | None = None
    verbosity: str | None = None


class ReasoningConfig(Struct):
    """``reasoning``."""

    effort: str | None = None
    summary: str | None = None


class ResponsesRequest(Struct):
    """One request for a response, decoded. :func:`parse_response` puts an :data:`Item` in place of each input."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: str | Annotated[list[Any], Meta(min_length=1, max_length=2048)]

    instructions: str | None = None
    max_output_tokens: Positive | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    tools: Annotated[list[Any], Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: Json | None = None

    # Hints.
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    max_tool_calls: Positive | None = None

    provider: Json | None = None

    # What would need a server that keeps something.
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    context_management: Any = None

    # What open engines add.
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1024)] | None = None
    seed: Int64 | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    ignore_eos: bool | None = None
    chat_template_kwargs: Json | None = None
    structured_outputs: Any = None
    previous_input_messages: Any = None
    enable_response_messages: bool | None = None

    @property
    def stops(self) -> list[str]:
        """``stop`` as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def items(self) -> list[Item]:
        """The inputs, but for one that is a text alone."""
        return [] if isinstance(self.input, str) else self.input

    @property
    def opening(self) -> list[str]:
        """The start of the conversation, which all its turns share."""
        first = self.input if isinstance(self.input, str) else msgspec.json.encode(self.input[0]).decode()
        return [self.instructions or "", first]

    @property
    def parts(self) -> list[tuple[Part, str]]:
        """All parts of the inputs' contents, each with its path."""
        found: list[tuple[Part, str]] = []
        for index, item in enumerate(self.items):
            name = "output" if isinstance(item, FunctionOutput) else "content"
            content = getattr(item, name, None) if isinstance(item, Message | FunctionOutput) else None
            for place, part in enumerate(content if isinstance(content, list) else ()):
                found.append((part, f"input[{index}].{name}[{place}]"))
        return found


CORE: Final = frozenset({"model", "input", "stream", "stream_options", "provider"})
HINTS: Final = frozenset(
    {"user", "safety_identifier", "metadata", "service_tier", "prompt_cache_key", "prompt_cache_retention"}
    | {"max_tool_calls"}  # of tools that run beside the model, of which there are none
)
HARMLESS: Final[dict[str, object]] = {
    "store": False,
    "background": False,
    "truncation": "disabled",
    "top_logprobs": 0,
    "include": [],
    "tools": [],
    "ignore_eos": False,
    "enable_response_messages": False,
}
"""Values that ask for what happens anyway."""

INCLUDED: Final = "message.output_text.logprobs"
_INCLUDES: Final = frozenset({INCLUDED, "reasoning.encrypted_content"})
"""The latter is for servers that show no reasoning; here it is in the answer, so that nothing is missing."""

_decoder = msgspec.json.Decoder(ResponsesRequest)


def parse_response(body: bytes) -> ResponsesRequest:
    """Decode a request body.

    Raises:
        InvalidRequest: as :func:`confide.wire.members.decode`.
    """
    request = decode(_decoder, body, needs="'model' and 'input'")
    if isinstance(request.input, list):
        request.input = [_item(entry, f"input[{index}]") for index, entry in enumerate(request.input)]
    request.tools = None if request.tools is None else [_tool(*one) for one in enumerate(request.tools)]
    return request


def _item(entry: Any, where: str) -> Item:
    default = "message" if isinstance(entry, dict) and "role" in entry else None
    found: Item = convert(entry, kind_of(convert(entry, Json, where), _ITEMS, where, default=default), where)
    return found


def _tool(index: int, entry: Any) -> FunctionTool:
    where = f"tools[{index}]"
    kind_of(convert(entry, Json, where), {"function": FunctionTool}, where)
    found: FunctionTool = convert(entry, FunctionTool, where)
    return found


def check_response(request: ResponsesRequest) -> None:
    """Refuse what is well-formed but contradicts itself.

    Raises:
        InvalidRequest: naming the member.
    """
    check_stops(request.stops)
    check_bias(request.logit_bias)
    check_provider(request.provider)
    check_template(request.chat_template_kwargs)
    for index, name in enumerate(request.include or ()):
        if name not in _INCLUDES:
            supported = " and ".join(f"'{one}'" for one in sorted(_INCLUDES))
            raise InvalidRequest(
                f"Invalid value. Supported values are: {supported}.",
                param=f"include[{index}]",
                code="unsupported_value",
            )
    _check_choice(request)


def _check_choice(request: ResponsesRequest) -> None:
    choice = request.tool_choice
    names = {tool.name for tool in request.tools or ()}
    if isinstance(choice, dict):
        kind_of(choice, {"function": NamedFunction}, "tool_choice")
        named: NamedFunction = convert(choice, NamedFunction, "tool_choice")
        if named.name not in names:
            raise InvalidRequest(
                "Invalid 'tool_choice': the function is not one of the 'tools'.", param="tool_choice.name"
            )
    elif choice not in (None, "none", "auto", "required"):
        raise InvalidRequest(
            "Invalid value. Supported values are: 'none', 'auto', and 'required'.",
            param="tool_choice",
            code="invalid_value",
        )
    elif choice == "required" and not names:
        raise InvalidRequest("Invalid 'tool_choice': 'required' needs 'tools'.", param="tool_choice")
