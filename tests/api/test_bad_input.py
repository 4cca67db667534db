"""Malformed requests against a running server: each gets its 4xx with the error object, and the server lives on."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.rawhttp import Answer, Connection, request
from tests.serving import RunningServer

PATH = "/v1/chat/completions"
HI: list[Any] = [{"role": "user", "content": "hi"}]
MIB = 1 << 20
DEEP = 1_000_000


@dataclass(frozen=True)
class Row:
    """One bad request and what must come back.

    What is sent is the default request with ``members`` replaced, or ``body``, or, for what isn't one well-formed
    HTTP request, what ``pieces`` gives for the headers that authorize. ``headers`` replace default ones.
    """

    name: str
    members: dict[str, Any] | None = None
    body: bytes | None = None
    pieces: Callable[[str], Iterable[bytes]] | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    status: int = 400
    param: str | None = None
    code: str | None = None
    says: str = ""


def section(*rows: Row) -> list[Row]:
    return list(rows)


# JSON ----------------------------------------------------------------------------------------------------------------

START = b'{"model":"acme/small-1","messages":[{"role":"user","content":"hi"}]'
PARSE = "We could not parse the JSON body of your request."
NO_OBJECT = "expected a JSON object with the members 'model' and 'messages'"
TOO_DEEP = "nested too deeply"

JSON_ROWS = section(
    Row("no body", body=b"", says=PARSE),
    Row("white space", body=b" \n", says=PARSE),
    Row("a cut body", body=START, says=PARSE),
    Row("two values", body=START + b"}{}", says=PARSE),
    Row("trailing comma", body=START + b",}", says=PARSE),
    Row("single quotes", body=START.replace(b'"', b"'") + b"}", says=PARSE),
    Row("a form", body=b"model=x&messages=y", says=PARSE),
    Row("NaN", body=START + b',"temperature":NaN}', says=PARSE),
    Row("Infinity", body=START + b',"top_p":-Infinity}', says=PARSE),
    Row("a number beyond all bounds", body=START + b',"temperature":1e999}', param="temperature", code="invalid_value"),
    Row("a million digits", body=START + b',"seed":' + b"9" * DEEP + b"}", param="seed", code="invalid_value"),
    Row("invalid UTF-8", body=START.replace(b"hi", b"h\xff") + b"}", says=PARSE),
    Row("invalid UTF-8 where nobody looks", body=START + b',"x":"\xff"}', says=PARSE),
    Row("UTF-16", body=(START + b"}").decode().encode("utf-16"), says=PARSE),
    Row("byte order mark", body=b"\xef\xbb\xbf" + START + b"}", says=PARSE),
    Row("a lone surrogate", body=START.replace(b"hi", rb"\ud800") + b"}", says=PARSE),
    Row("a NUL after the end", body=START + b"}\0", says=PARSE),
    Row("random bytes", body=bytes(range(256)) * 40, says=PARSE),
    Row("an array", body=b"[]", says=NO_OBJECT),
    Row("a string", body=b'"hi"', says=NO_OBJECT),
    Row("null", body=b"null", says=NO_OBJECT),
    Row("a million brackets", body=b"[" * DEEP, says=NO_OBJECT),
    Row("a million brackets, closed", body=b"[" * DEEP + b"]" * DEEP, says=NO_OBJECT),
    Row("a million brackets as messages", body=b'{"model":"m","messages":' + b"[" * DEEP, says="values"),
    Row("half a million in an unknown member", body=START + b',"x":' + b"[" * (DEEP // 2), says=TOO_DEEP),
    Row("a million in an unknown member", body=START + b',"x":' + b'{"a":' * DEEP, says="more than 1000000 values"),
    Row(
        "half a million in parameters",
        body=START + b',"tools":[{"type":"function","function":{"name":"f","parameters":' + b'{"a":' * (DEEP // 2),
        says=TOO_DEEP,
    ),
    Row(
        "half a million in a schema",
        body=START
        + b',"response_format":{"type":"json_schema","json_schema":{"name":"f","schema":'
        + b'{"not":' * (DEEP // 2)
        + b"true"
        + b"}" * (DEEP // 2)
        + b"}}}",
        says=TOO_DEEP,
    ),
    Row("ten million empty lists", body=START + b',"documents":[' + b"[]," * (10 * DEEP), says="1000000 values"),
)

# Members -------------------------------------------------------------------------------------------------------------

TYPE, VALUE, MISSING = "invalid_type", "invalid_value", "missing_required_parameter"
LOW, HIGH = "integer_below_min_value", "integer_above_max_value"
LOW_D, HIGH_D = "decimal_below_min_value", "decimal_above_max_value"

MEMBER_ROWS = section(
    Row("no model", body=b'{"messages":[]}', param="messages", code="empty_array"),
    Row("nothing at all", body=b"{}", param="model", code=MISSING, says="you must provide a model parameter"),
    Row("no messages", body=b'{"model":"acme/small-1"}', param="messages", code=MISSING, says="'messages'"),
    Row("model a number", {"model": 7}, param="model", code=TYPE),
    Row("model null", {"model": None}, param="model", code=TYPE),
    Row("model empty", {"model": ""}, param="model", code="empty_string"),
    Row("model endless", {"model": "m" * MIB}, param="model", code="string_above_max_length"),
    Row(
        "messages empty", {"messages": []}, param="messages", code="empty_array", says="empty array. Expected an array"
    ),
    Row("messages null", {"messages": None}, param="messages", code=TYPE),
    Row("messages a string", {"messages": "hi"}, param="messages", code=TYPE),
    Row("messages an object", {"messages": {}}, param="messages", code=TYPE),
    Row("too many messages", {"messages": HI * 2049}, param="messages", code="array_above_max_length", says="2048"),
    Row("stream a string", {"stream": "true"}, param="stream", code=TYPE),
    Row("stream a number", {"stream": 1}, param="stream", code=TYPE),
    Row("stream_options alone", {"stream_options": {}}, param="stream_options", says="when 'stream' is enabled"),
    Row("stream_options a list", {"stream": True, "stream_options": []}, param="stream_options", code=TYPE),
    Row(
        "include_usage a string",
        {"stream": True, "stream_options": {"include_usage": "yes"}},
        param="stream_options.include_usage",
        code=TYPE,
    ),
    Row("max_tokens zero", {"max_tokens": 0}, param="max_tokens", code=LOW, says=">= 1, but got 0 instead"),
    Row("max_tokens negative", {"max_tokens": -1}, param="max_tokens", code=LOW, says="got -1"),
    Row("max_tokens huge", {"max_tokens": 2**40}, param="max_tokens", code=HIGH),
    Row("max_tokens a fraction", {"max_tokens": 1.5}, param="max_tokens", code=TYPE),
    Row("max_tokens a string", {"max_tokens": "10"}, param="max_tokens", code=TYPE),
    Row("max_completion_tokens zero", {"max_completion_tokens": 0}, param="max_completion_tokens", code=LOW),
    Row("temperature too high", {"temperature": 2.01}, param="temperature", code=HIGH_D, says="but got 2.01 instead"),
    Row("temperature negative", {"temperature": -0.1}, param="temperature", code=LOW_D),
    Row("temperature a string", {"temperature": "hot"}, param="temperature", code=TYPE),
    Row("top_p too high", {"top_p": 1.1}, param="top_p", code=HIGH_D),
    Row("top_p negative", {"top_p": -1}, param="top_p", code=LOW_D),
    Row("n zero", {"n": 0}, param="n", code=LOW),
    Row("n above OpenAI's limit", {"n": 129}, param="n", code=HIGH),
    Row("n above the slots", {"n": 3}, param="n", code=HIGH, says="Expected a value <= 2"),
    Row("n a fraction", {"n": 1.5}, param="n", code=TYPE),
    Row("stop empty", {"stop": ""}, param="stop", code=VALUE, says="empty string"),
    Row("stop with an empty one", {"stop": ["a", ""]}, param="stop", code=VALUE),
    Row("too many stops", {"stop": list("abcde")}, param="stop", code="array_above_max_length", says="length 4"),
    Row("stop a number", {"stop": 5}, param="stop", code=TYPE),
    Row("a number among stops", {"stop": ["a", 5]}, param="stop[1]", code=TYPE),
    Row("a stop of a megabyte", {"stop": "x" * MIB}, param="stop", code="string_above_max_length"),
    Row("seed too large", {"seed": 2**63}, param="seed", code=HIGH),
    Row("seed a string", {"seed": "x"}, param="seed", code=TYPE),
    Row("presence_penalty too high", {"presence_penalty": 2.5}, param="presence_penalty", code=HIGH_D),
    Row("frequency_penalty too low", {"frequency_penalty": -2.5}, param="frequency_penalty", code=LOW_D),
    Row("logit_bias a list", {"logit_bias": [1]}, param="logit_bias", code=TYPE),
    Row("logit_bias of a word", {"logit_bias": {"hi": 1}}, param="logit_bias", code=VALUE, says="strings of digits"),
    Row("logit_bias negative", {"logit_bias": {"-1": 1}}, param="logit_bias", code=VALUE),
    Row("logit_bias of no token", {"logit_bias": {"49152": 1}}, param="logit_bias", code=VALUE, says="end at 49151"),
    Row("logit_bias too strong", {"logit_bias": {"1": 101}}, param="logit_bias", code=HIGH_D),
    Row("logit_bias a string", {"logit_bias": {"1": "x"}}, param="logit_bias", code=TYPE),
    Row(
        "logit_bias for everything",
        {"logit_bias": {str(i): 1 for i in range(49152)}},
        param="logit_bias",
        code="object_above_max_length",
    ),
    Row("logprobs a number", {"logprobs": 5}, param="logprobs", code=TYPE),
    Row("top_logprobs alone", {"top_logprobs": 2}, param="top_logprobs", says="when 'logprobs' is enabled"),
    Row("top_logprobs too many", {"logprobs": True, "top_logprobs": 21}, param="top_logprobs", code=HIGH),
    Row("top_logprobs negative", {"logprobs": True, "top_logprobs": -1}, param="top_logprobs", code=LOW),
    Row("user a number", {"user": 1}, param="user", code=TYPE),
    Row("metadata of numbers", {"metadata": {"a": 1}}, param="metadata", code=TYPE),
    Row(
        "too much metadata",
        {"metadata": {str(i): "x" for i in range(17)}},
        param="metadata",
        code="object_above_max_length",
    ),
    Row("top_k below -1", {"top_k": -2}, param="top_k", code=LOW),
    Row("min_p too high", {"min_p": 1.5}, param="min_p", code=HIGH_D),
    Row("repetition_penalty zero", {"repetition_penalty": 0}, param="repetition_penalty", code=LOW_D),
    Row("chat_template_kwargs a list", {"chat_template_kwargs": []}, param="chat_template_kwargs", code=TYPE),
)

NOT_FOUND = "model_not_found"

MODEL_ROWS = section(
    Row(
        "an unknown model", {"model": "gpt-5"}, status=404, param="model", code=NOT_FOUND, says="`gpt-5` does not exist"
    ),
    Row("a model's name in other case", {"model": "ACME/small-1"}, status=404, param="model", code=NOT_FOUND),
    Row("part of a model's name", {"model": "acme"}, status=404, param="model", code=NOT_FOUND),
    Row("a path as the model", {"model": "../../etc/passwd"}, status=404, param="model", code=NOT_FOUND),
    Row("a long unknown model", {"model": "x" * 256}, status=404, param="model", code=NOT_FOUND),
)

# Messages ------------------------------------------------------------------------------------------------------------


def user(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


def calls(*ids: str, **function: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": "{}"} | function
    return {"role": "assistant", "tool_calls": [{"id": i, "type": "function", "function": function} for i in ids]}


def result(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "42"}


ORDER = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'"
UNANSWERED = "must be followed by tool messages responding to each 'tool_call_id'"

MESSAGE_ROWS = section(
    Row("a message that is a number", {"messages": [1]}, param="messages[0]", code=TYPE),
    Row("a message without a role", {"messages": [{"content": "x"}]}, param="messages[0].role", code=MISSING),
    Row(
        "an unknown role",
        {"messages": [*HI, {"role": "wizard", "content": "x"}]},
        param="messages[1].role",
        code=VALUE,
        says="Invalid value: 'wizard'. Supported values are: 'system', 'developer', 'user'",
    ),
    Row("a role that is null", {"messages": [{"role": None}]}, param="messages[0].role", code=TYPE),
    Row("no content", {"messages": [{"role": "user"}]}, param="messages[0].content", code=MISSING),
    Row("content null", {"messages": [{"role": "user", "content": None}]}, param="messages[0].content", code=TYPE),
    Row(
        "content an object",
        {"messages": [{"role": "user", "content": {}}]},
        param="messages[0].content",
        code=TYPE,
        says="expected one of a string or an array of objects, but got an object instead",
    ),
    Row("a part that is a string", {"messages": user("hi")}, param="messages[0].content[0]", code=TYPE),
    Row("a part without a type", {"messages": user({})}, param="messages[0].content[0].type", code=MISSING),
    Row("an unknown part", {"messages": user({"type": "video_url"})}, param="messages[0].content[0].type", code=VALUE),
    Row(
        "a text part without text",
        {"messages": user({"type": "text"})},
        param="messages[0].content[0].text",
        code=MISSING,
    ),
    Row(
        "an assistant that says nothing", {"messages": [{"role": "assistant"}]}, param="messages[0].content", code=TYPE
    ),
    Row(
        "a tool message without an id",
        {"messages": [{"role": "tool", "content": "x"}]},
        param="messages[0].tool_call_id",
        code=MISSING,
    ),
    Row("a result that answers nothing", {"messages": [*HI, result("a")]}, param="messages.[1].role", says=ORDER),
    Row(
        "a result of another call",
        {"messages": [*HI, calls("a"), result("b")]},
        param="messages.[2].role",
        says=ORDER,
    ),
    Row(
        "a result twice",
        {"messages": [*HI, calls("a"), result("a"), result("a")]},
        param="messages.[3].role",
        says=ORDER,
    ),
    Row("a call without a result", {"messages": [*HI, calls("a")]}, param="messages.[1].role", says=UNANSWERED),
    Row(
        "half of the results",
        {"messages": [*HI, calls("a", "b"), result("a"), *HI]},
        param="messages.[1].role",
        says="did not have response messages: b",
    ),
    Row(
        "the same id twice",
        {"messages": [*HI, calls("a", "a"), result("a")]},
        param="messages[1].tool_calls",
        code=VALUE,
    ),
    Row(
        "arguments that are an object",
        {"messages": [*HI, calls("a", arguments={}), result("a")]},
        param="messages[1].tool_calls[0].function.arguments",
        code=TYPE,
    ),
    Row(
        "a call without a name",
        {"messages": [*HI, {"role": "assistant", "tool_calls": [{"id": "a", "function": {"arguments": "{}"}}]}]},
        param="messages[1].tool_calls[0].function.name",
        code=MISSING,
    ),
    Row(
        "a function message without a name",
        {"messages": [{"role": "function", "content": "x"}]},
        param="messages[0].name",
        code=MISSING,
    ),
)

# Content that a text model can't take --------------------------------------------------------------------------------


def png_bomb(side: int = 20_000) -> str:
    """A square of one colour: some kilobytes that are 1.2 GB of pixels when they are unpacked."""
    packer = zlib.compressobj(9)
    row = bytes(3 * side + 1)
    data = b"".join(packer.compress(row) for _ in range(200)) + packer.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    raw = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(raw).decode()


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


PIXEL = "data:image/png;base64,iVBORw0KGgo="
NO_IMAGES = "'image_url' is not supported by the model 'acme/small-1'"
PART = "messages[0].content[0].type"

CONTENT_ROWS = section(
    Row(
        "an image to a text model",
        {"messages": user(image(PIXEL))},
        param=PART,
        code="unsupported_value",
        says=NO_IMAGES,
    ),
    Row(
        "an image after a text",
        {"messages": [*HI, *user({"type": "text", "text": "x"}, image(PIXEL))]},
        param="messages[1].content[1].type",
        code="unsupported_value",
    ),
    Row(
        "a decompression bomb",
        {"messages": user(image(png_bomb()))},
        param=PART,
        code="unsupported_value",
        says=NO_IMAGES,
    ),
    Row(
        "an image from inside",
        {"messages": user(image("http://169.254.169.254/"))},
        param=PART,
        code="unsupported_value",
    ),
    Row("an image from a file", {"messages": user(image("file:///etc/passwd"))}, param=PART, code="unsupported_value"),
    Row(
        "image_url a string",
        {"messages": user({"type": "image_url", "image_url": "x"})},
        param="messages[0].content[0].image_url",
        code=TYPE,
    ),
    Row(
        "an unknown detail",
        {"messages": user({"type": "image_url", "image_url": {"url": "x", "detail": "max"}})},
        param="messages[0].content[0].image_url.detail",
        code=VALUE,
    ),
    Row(
        "sound",
        {"messages": user({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}})},
        param=PART,
        code="unsupported_value",
        says="'input_audio' is not supported",
    ),
    Row("a file", {"messages": user({"type": "file", "file": {"file_id": "x"}})}, param=PART, code="unsupported_value"),
    Row("sound as the answer", {"modalities": ["text", "audio"]}, param="modalities", code="unsupported_value"),
    Row("audio settings", {"audio": {"voice": "x", "format": "wav"}}, param="audio", code="unsupported_parameter"),
    Row("web search", {"web_search_options": {}}, param="web_search_options", code="unsupported_parameter"),
    Row(
        "too long for the context",
        {"messages": [{"role": "user", "content": "hello " * 5000}]},
        param="messages",
        code="context_length_exceeded",
        says="This model's maximum context length is 1024 tokens. However, your messages resulted in ",
    ),
    Row(
        "too long for the context, streamed",
        {"messages": [{"role": "user", "content": "hello " * 5000}], "stream": True},
        param="messages",
        code="context_length_exceeded",
        says="Please reduce the length of the messages.",
    ),
    Row(
        "thirty megabytes of text",
        {"messages": [{"role": "user", "content": "hello " * (5 * MIB)}], "stream": True},
        param="messages",
        code="context_length_exceeded",
    ),
)

# Promises that can't be kept -----------------------------------------------------------------------------------------

CONSTRAINTS: dict[str, Any] = {
    "guided_json": {"type": "object"},
    "guided_regex": "a+",
    "guided_choice": ["a", "b"],
    "guided_grammar": "root ::= 'a'",
    "structured_outputs": {"choice": ["a"]},
    "structural_tag": "{}",
    "grammar": 'root ::= "a"',
    "json_schema": {"type": "object"},
    "regex": "a+",
    "ebnf": 'root ::= "a"',
    "chat_template": "{{ messages }}",
    "continue_final_message": True,
    "add_generation_prompt": False,
    "echo": True,
    "best_of": 2,
    "use_beam_search": True,
    "min_tokens": 5,
    "stop_token_ids": [2],
    "bad_words": ["x"],
    "allowed_token_ids": [2],
    "documents": [{"text": "x"}],
    "logits_processors": ["x"],
}

CONSTRAINT_ROWS = [
    Row(member, {member: value}, param=member, code="unsupported_parameter", says=f"Unsupported parameter: '{member}'")
    for member, value in CONSTRAINTS.items()
]

# Tools ---------------------------------------------------------------------------------------------------------------


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name} | function}


def tools(**function: Any) -> dict[str, Any]:
    return {"tools": [tool(**function)]}


CUSTOM = {"type": "custom", "custom": {"name": "f"}}

TOOL_ROWS = section(
    Row("tools empty", {"tools": []}, param="tools", code="empty_array"),
    Row("tools an object", {"tools": {}}, param="tools", code=TYPE),
    Row("too many tools", {"tools": [tool(f"f{i}") for i in range(129)]}, param="tools", code="array_above_max_length"),
    Row("a tool without a type", {"tools": [{}]}, param="tools[0].type", code=MISSING),
    Row("an unknown kind of tool", {"tools": [{"type": "mcp"}]}, param="tools[0].type", code=VALUE),
    Row("a custom tool", {"tools": [CUSTOM]}, param="tools[0].type", code="unsupported_value", says="Custom tools"),
    Row("a tool without a function", {"tools": [{"type": "function"}]}, param="tools[0].function", code=MISSING),
    Row("a tool with a name of two words", tools(name="a b"), param="tools[0].function.name", code=VALUE),
    Row("a tool with a long name", tools(name="a" * 65), param="tools[0].function.name", code=VALUE),
    Row("a tool without a name", tools(name=""), param="tools[0].function.name", code=VALUE),
    Row("two tools of one name", {"tools": [tool(), tool()]}, param="tools[1].function.name", code=VALUE),
    Row("parameters a list", tools(parameters=[]), param="tools[0].function.parameters", code=TYPE),
    Row("strict a string", tools(strict="yes"), param="tools[0].function.strict", code=TYPE),
    Row("tool_choice without tools", {"tool_choice": "auto"}, param="tool_choice", says="when 'tools' are specified"),
    Row("an unknown tool_choice", tools() | {"tool_choice": "any"}, param="tool_choice", code=VALUE),
    Row("tool_choice a number", tools() | {"tool_choice": 1}, param="tool_choice", code=TYPE),
    Row(
        "tool_choice of no tool",
        tools() | {"tool_choice": tool("g")},
        param="tool_choice",
        code=VALUE,
        says="'g' not found",
    ),
    Row(
        "tool_choice of a custom tool", tools() | {"tool_choice": CUSTOM}, param="tool_choice", code="unsupported_value"
    ),
    Row(
        "no tools allowed",
        tools() | {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
        param="tool_choice.allowed_tools.tools",
        code="empty_array",
    ),
    Row(
        "an allowed tool that isn't there",
        tools() | {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("g")]}}},
        param="tool_choice",
        code=VALUE,
    ),
    Row("parallel_tool_calls without tools", {"parallel_tool_calls": True}, param="parallel_tool_calls"),
    Row("functions and tools", tools() | {"functions": [{"name": "f"}]}, param="functions"),
    Row("two functions of one name", {"functions": [{"name": "f"}] * 2}, param="functions[1].name", code=VALUE),
    Row("function_call without functions", {"function_call": "auto"}, param="function_call"),
    Row(
        "function_call of no function",
        {"functions": [{"name": "f"}], "function_call": {"name": "g"}},
        param="function_call",
        code=VALUE,
    ),
)

# Schemas -------------------------------------------------------------------------------------------------------------


def answer_in(schema: Any, name: str = "out") -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}}


def nested(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def doubling(depth: int) -> dict[str, Any]:
    """Definitions that each name the next one twice: 2^depth when written out."""
    definitions: dict[str, Any] = {
        f"d{i}": {
            "type": "object",
            "properties": {k: {"$ref": f"#/$defs/d{i + 1}"} for k in "ab"},
            "required": ["a", "b"],
        }
        for i in range(depth)
    }
    definitions[f"d{depth}"] = {"type": "string"}
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


HOSTILE_SCHEMAS: dict[str, Any] = {
    "a remote reference": {"$ref": "https://example.com/schema.json"},
    "a reference to a file": {"$ref": "file:///etc/passwd"},
    "a reference to nothing": {"$ref": "#/$defs/nothing"},
    "a reference to itself": {"$ref": "#"},
    "references in a circle": {
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        "$ref": "#/$defs/a",
    },
    "an endless object": {
        "type": "object",
        "properties": {"a": {"$ref": "#"}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "an unknown type": {"type": "decimal"},
    "a type that is a number": {"type": 5},
    "properties that are a list": {"type": "object", "properties": []},
    "a required that is a string": {"type": "object", "required": "a"},
    "an empty enum": {"enum": []},
    "an enum of a hundred thousand": {"enum": [f"value {i}" for i in range(100_000)]},
    "a hundred thousand items": {"type": "array", "items": {"type": "string"}, "minItems": 100_000},
    "a negative length": {"type": "string", "maxLength": -1},
    "bounds that exclude each other": {"type": "integer", "minimum": 5, "maximum": 4},
    "a pattern that is none": {"type": "string", "pattern": "(["},
    "a pattern of counted counts": {"type": "string", "pattern": "((a{1,999}){1,999}){1,999}"},
    "a pattern that explodes": {"type": "string", "pattern": ".*a.{200}"},
    "a pattern of a hundred thousand": {"type": "string", "pattern": "(" + "a|" * 100_000 + "b)"},
    "a pattern that looks back": {"type": "string", "pattern": "(a+)\\1"},
    "two hundred levels": nested(200),
    "ten thousand properties": {
        "type": "object",
        "properties": {f"p{i}": {"type": "object", "properties": {"q": {"type": "number"}}} for i in range(10_000)},
    },
    "a string of a megabyte": {"const": "x" * MIB},
    "nothing fits": False,
    "negation": {"not": {"type": "string"}},
}

SCHEMA_ROWS = [
    *(
        Row(f"schema: {name}", answer_in(schema), param="response_format", code="invalid_json_schema")
        for name, schema in HOSTILE_SCHEMAS.items()
    ),
    *(
        Row(
            f"parameters: {name}",
            tools(parameters={"type": "object", "properties": {"x": HOSTILE_SCHEMAS[name]}, "required": ["x"]}),
            param="tools",
            code="invalid_function_parameters",
        )
        for name in ("a remote reference", "a pattern of counted counts", "two hundred levels", "negation")
    ),
    Row(
        "parameters: a string",
        tools(parameters={"type": "string"}),
        param="tools",
        code="invalid_function_parameters",
    ),
    Row(
        "functions: a remote reference",
        {"functions": [{"name": "f", "parameters": {"$ref": "http://127.0.0.1/"}}]},
        param="functions",
        code="invalid_function_parameters",
    ),
    Row("response_format a string", {"response_format": "json_object"}, param="response_format", code=TYPE),
    Row("an unknown response_format", {"response_format": {"type": "xml"}}, param="response_format.type", code=VALUE),
    Row(
        "no json_schema",
        {"response_format": {"type": "json_schema"}},
        param="response_format.json_schema",
        code=MISSING,
    ),
    Row("a schema with a bad name", answer_in({}, name="a b"), param="response_format.json_schema.name", code=VALUE),
    Row("a schema that is a list", answer_in([]), param="response_format.json_schema.schema", code=TYPE),
]

# Who asks ------------------------------------------------------------------------------------------------------------

NO_KEY = "You didn't provide an API key."
BAD_KEY = "Incorrect API key provided"

KEY_ROWS = [
    Row("no key", headers={"Authorization": None}, status=401, says=NO_KEY),
    Row("an empty header", headers={"Authorization": ""}, status=401, says=NO_KEY),
    Row("a scheme without a key", headers={"Authorization": "Bearer"}, status=401, says=NO_KEY),
    Row("a scheme without a key but a space", headers={"Authorization": "Bearer "}, status=401, says=NO_KEY),
    Row("another scheme", headers={"Authorization": "Basic dTpw"}, status=401, says=NO_KEY),
    Row("a key without a scheme", headers={"Authorization": "sk-confide-x"}, status=401, says=NO_KEY),
    Row(
        "an unknown key",
        headers={"Authorization": "Bearer sk-secret"},
        status=401,
        code="invalid_api_key",
        says=BAD_KEY,
    ),
    Row("a key in Latin-1", headers={"Authorization": "Bearer é"}, status=401, code="invalid_api_key"),
    Row("a long key", headers={"Authorization": "Bearer " + "x" * 30_000}, status=401, code="invalid_api_key"),
    Row("Azure's header", headers={"Authorization": None, "api-key": "x"}, status=401, says=NO_KEY),
    Row("no key and a bad body", body=b"{", headers={"Authorization": None}, status=401, says=NO_KEY),
]

# Media types ---------------------------------------------------------------------------------------------------------

CONTENT_TYPE = "unsupported_content_type"

MEDIA_ROWS = [
    *(
        Row(f"media type {media}", headers={"Content-Type": media}, code=CONTENT_TYPE, says="application/json")
        for media in (
            None,
            "",
            "text/plain",
            "text/plain; charset=utf-8",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonp",
            "application/json, text/plain",
            "json",
        )
    ),
    *(
        Row(f"encoding {encoding}", headers={"Content-Encoding": encoding}, code="unsupported_content_encoding")
        for encoding in ("gzip", "br", "deflate", "identity, gzip")
    ),
]

# HTTP ----------------------------------------------------------------------------------------------------------------

LARGE = 100 * MIB
TOO_LARGE = "request_too_large"
MALFORMED = "The HTTP request is malformed"


def post(head: str, *fields: str) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", head, *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def zeros(size: int) -> Iterator[bytes]:
    block = bytes(MIB)
    for _ in range(size // MIB):
        yield block


def announced(head: str) -> Iterator[bytes]:
    yield post(head, f"Content-Length: {LARGE}")
    yield from zeros(LARGE)


def in_chunks(head: str) -> Iterator[bytes]:
    yield post(head, "Transfer-Encoding: chunked")
    for block in zeros(LARGE):
        yield b"%x\r\n%b\r\n" % (len(block), block)
    yield b"0\r\n\r\n"


def fixed(*fields: str, body: bytes = b"") -> Callable[[str], Iterable[bytes]]:
    return lambda head: [post(head, *fields), body]


def bytes_only(raw: bytes) -> Callable[[str], Iterable[bytes]]:
    return lambda _: [raw]


GOOD_BODY = START + b',"max_tokens":1}'
LENGTH = f"Content-Length: {len(GOOD_BODY)}"

HTTP_ROWS = section(
    Row("100 MB, announced", pieces=announced, status=413, code=TOO_LARGE, says="the limit is 33554432 bytes"),
    Row("100 MB, in chunks", pieces=in_chunks, status=413, code=TOO_LARGE),
    Row(
        "100 MB, if you please",
        pieces=fixed(f"Content-Length: {LARGE}", "Expect: 100-continue"),
        status=413,
        code=TOO_LARGE,
    ),
    Row("an exabyte announced", pieces=fixed(f"Content-Length: {10**18}"), status=413, code=TOO_LARGE),
    Row("a length beyond all bounds", pieces=fixed(f"Content-Length: {10**30}"), says=MALFORMED),
    Row("a second length", pieces=fixed(LENGTH, LENGTH, body=GOOD_BODY), says=MALFORMED),
    Row("another second length", pieces=fixed(LENGTH, "Content-Length: 5", body=GOOD_BODY), says=MALFORMED),
    Row("two lengths in one", pieces=fixed(f"{LENGTH}, 5", body=GOOD_BODY), says=MALFORMED),
    Row("a length and chunks", pieces=fixed(LENGTH, "Transfer-Encoding: chunked", body=GOOD_BODY), says=MALFORMED),
    Row("chunks and a length", pieces=fixed("Transfer-Encoding: chunked", LENGTH, body=GOOD_BODY), says=MALFORMED),
    Row("a negative length", pieces=fixed("Content-Length: -1"), says=MALFORMED),
    Row("a length in words", pieces=fixed("Content-Length: ten"), says=MALFORMED),
    Row("a length with a plus", pieces=fixed("Content-Length: +10"), says=MALFORMED),
    Row("a bad chunk size", pieces=fixed("Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n0\r\n\r\n"), says=MALFORMED),
    Row(
        "a chunk size beyond all bounds",
        pieces=fixed("Transfer-Encoding: chunked", body=b"f" * 20 + b"\r\n"),
        says=MALFORMED,
    ),
    Row("a negative chunk size", pieces=fixed("Transfer-Encoding: chunked", body=b"-5\r\nhello\r\n"), says=MALFORMED),
    Row(
        "a chunk longer than it says",
        pieces=fixed("Transfer-Encoding: chunked", body=b"2\r\n{} }\r\n0\r\n\r\n"),
        says=MALFORMED,
    ),
    Row("not HTTP at all", pieces=bytes_only(b"hello\r\n\r\n"), says=MALFORMED),
    Row("an unknown method", pieces=bytes_only(b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n"), says=MALFORMED),
    Row("TLS", pieces=bytes_only(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)), says=MALFORMED),
    Row("HTTP/2", pieces=bytes_only(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), says=MALFORMED),
    Row("HTTP/9", pieces=bytes_only(b"POST / HTTP/9.9\r\nHost: x\r\n\r\n"), says=MALFORMED),
    Row("a header without a colon", pieces=fixed("broken header line"), says=MALFORMED),
    Row("a header with a NUL", pieces=fixed("X-A: a\0b", LENGTH, body=GOOD_BODY), says=MALFORMED),
    Row("a space before the colon", pieces=fixed("Content-Length : 5", body=b"hello"), says=MALFORMED),
    Row("one endless header", pieces=fixed("X-A: " + "x" * 200_000), says=MALFORMED),
    Row("a flood of headers", pieces=fixed(*(f"X-{i}: y" for i in range(20_000))), says=MALFORMED),
    Row(
        "an endless path",
        pieces=bytes_only(b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
        says=MALFORMED,
    ),
    Row(
        "a path that isn't there",
        pieces=lambda head: [f"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode()],
        status=404,
        says="Invalid URL (GET /v1/nothing)",
    ),
    Row(
        "the wrong method",
        pieces=lambda head: [f"GET {PATH} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode()],
        status=405,
        code="method_not_allowed",
        says="POST",
    ),
)

TABLE = [
    *JSON_ROWS,
    *MEMBER_ROWS,
    *MODEL_ROWS,
    *MESSAGE_ROWS,
    *CONTENT_ROWS,
    *CONSTRAINT_ROWS,
    *TOOL_ROWS,
    *SCHEMA_ROWS,
    *KEY_ROWS,
    *MEDIA_ROWS,
    *HTTP_ROWS,
]


def sent(server: RunningServer, row: Row) -> Answer:
    """Send a row's request on a connection of its own."""
    with Connection(server.port) as connection:
        if row.pieces is not None:
            connection.send_as_long_as_anybody_reads(row.pieces(f"Authorization: Bearer {server.key}"))
        else:
            headers: dict[str, str | None] = {"Content-Type": "application/json", **server.headers, **row.headers}
            default = {"model": server.model, "messages": HI, "max_tokens": 1}
            body = json.dumps(default | (row.members or {})).encode() if row.body is None else row.body
            connection.send_as_long_as_anybody_reads([request("POST", PATH, headers, body)])
        return connection.answer()


def still_serves(server: RunningServer) -> None:
    """A plain question is answered."""
    with Connection(server.port, patience=60) as connection:
        headers = {"Content-Type": "application/json", **server.headers}
        connection.send(request("POST", PATH, headers, GOOD_BODY))
        answer = connection.answer()
    assert answer.status == 200, answer
    assert answer.json()["choices"][0]["finish_reason"] in ("length", "stop")


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) >= 110
    assert len({row.name for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_bad_input(server: RunningServer, row: Row) -> None:
    answer = sent(server, row)
    error = answer.error()
    got = (answer.status, error["type"], error["param"], error["code"])
    assert got == (row.status, "invalid_request_error", row.param, row.code), error
    assert row.says in error["message"]
    assert server.key not in error["message"]
    assert "sk-secret" not in error["message"]
    assert server.process.poll() is None


def test_the_server_lives_on(server: RunningServer) -> None:
    """After the whole table: it answers, and it wrote nothing of what it was sent into its log."""
    still_serves(server)
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "unexpected" not in log
    assert "hello hello" not in log
