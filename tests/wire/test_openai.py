"""The request's decoder: what is taken, what is refused and in whose words, and that nothing else can happen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from confide.errors import InvalidRequest
from confide.wire.members import given as members_given
from confide.wire.openai import (
    CORE,
    HARMLESS,
    HINTS,
    AssistantMessage,
    ChatRequest,
    FunctionMessage,
    NamedChoice,
    UserMessage,
    parse_chat,
    refuse_unsupported,
)

HI = [{"role": "user", "content": "hi"}]
NOT_JSON = "We could not parse the JSON body of your request."
NO_OBJECT = "Invalid body: expected a JSON object with the members 'model' and 'messages'."
TOO_DEEP = "The JSON body of your request is nested too deeply."


def body(**members: Any) -> bytes:
    return json.dumps({"model": "m", "messages": HI} | members).encode()


def refusal(raw: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(raw)
    error = caught.value
    assert (error.status, error.type, error.headers) == (400, "invalid_request_error", {})
    assert len(error.message) < 1000
    return error


# Bytes that are no such request --------------------------------------------------------------------------------------

GOOD = b'{"model":"m","messages":[{"role":"user","content":"a"}]'
DEEP = 1_000_000

BROKEN = {
    "nothing": b"",
    "only space": b" \r\n\t",
    "cut": GOOD,
    "two values": GOOD + b"} {}",
    "trailing NUL": GOOD + b"}\0",
    "trailing comma": GOOD + b",}",
    "single quotes": GOOD.replace(b'"', b"'") + b"}",
    "bare names": b'{model:"m"}',
    "a comment": GOOD + b"} // yes",
    "NaN": GOOD + b',"temperature":NaN}',
    "Infinity": GOOD + b',"temperature":Infinity}',
    "NaN in an unknown member": GOOD + b',"x":NaN}',
    "byte order mark": b"\xef\xbb\xbf" + GOOD + b"}",
    "UTF-16": (GOOD + b"}").decode().encode("utf-16"),
    "Latin-1": '{"model":"m","messages":[{"role":"user","content":"é"}]}'.encode("latin-1"),
    "a byte that no UTF-8 has": GOOD.replace(b'"a"', b'"\xff"') + b"}",
    "the same in an unknown member": GOOD + b',"x":"\xff"}',
    "the same in an unknown name": GOOD + b',"\xff":1}',
    "overlong UTF-8": GOOD.replace(b'"a"', b'"\xc0\xaf"') + b"}",
    "a surrogate as bytes": GOOD.replace(b'"a"', b'"\xed\xa0\x80"') + b"}",
    "a lone surrogate": GOOD.replace(b'"a"', rb'"\ud800"') + b"}",
    "a lone low surrogate": GOOD.replace(b'"a"', rb'"\udc00"') + b"}",
    "a lone surrogate in an unknown member": GOOD + rb',"x":"\ud800"}',
    "a line break in a string": GOOD.replace(b'"a"', b'"\n"') + b"}",
    "an unknown escape": GOOD.replace(b'"a"', rb'"\x41"') + b"}",
    "leading zero": GOOD + b',"n":01}',
    "hexadecimal": GOOD + b',"seed":0x1}',
    "garbage": bytes(range(256)),
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
def test_what_is_not_json_in_utf8(raw: bytes) -> None:
    error = refusal(raw)
    assert error.message.startswith(NOT_JSON)
    assert (error.param, error.code) == (None, None)


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"x"', b"1", b"true", b"[{}]", b"[" * DEEP])
def test_what_is_json_but_no_object(raw: bytes) -> None:
    error = refusal(raw)
    assert (error.message, error.param, error.code) == (NO_OBJECT, None, None)


BELOW_THE_COUNT = 400_000


@pytest.mark.parametrize(
    "raw",
    [
        GOOD + b',"x":' + b"[" * BELOW_THE_COUNT,
        GOOD + b',"x":' + b'{"a":' * BELOW_THE_COUNT,
        GOOD + b',"tools":[{"type":"function","function":{"name":"f","parameters":' + b'{"a":' * BELOW_THE_COUNT,
        GOOD + b',"response_format":{"type":"json_schema","json_schema":{"name":"f","schema":' + b'{"a":' * 99_999,
        GOOD + b',"chat_template_kwargs":{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}}",
        GOOD + b',"guided_json":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    ],
    ids=["arrays", "objects", "parameters", "schema", "closed", "any value"],
)
def test_what_is_nested_too_deeply(raw: bytes) -> None:
    error = refusal(raw)
    assert (error.message, error.param, error.code) == (TOO_DEEP, None, None)


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"1,", b'"ab",'])
def test_a_body_can_not_become_a_gigabyte_of_objects(piece: bytes) -> None:
    raw = GOOD + b',"chat_template_kwargs":{"a":[' + piece * 1_000_001 + b"0]}}"
    error = refusal(raw)
    assert error.message == "The JSON body of your request has more than 1000000 values."


def test_a_long_text_full_of_code_is_not_mistaken_for_one() -> None:
    text = "for (i = 0; i < n; i++) { a[i] = f(x, y); }\n" * 100_000  # 4.4 MB
    request = parse_chat(json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode())
    assert isinstance(request.messages[0], UserMessage)
    assert request.messages[0].content == text


# Members of the wrong shape ------------------------------------------------------------------------------------------


def wrong(expected: str, got: str | None = None) -> str:
    return f"expected {expected}, but got {got} instead." if got else f"expected {expected}."


INT, NUM, STR, BOOL, ARR, OBJ = "an integer", "a decimal", "a string", "a boolean", "an array", "an object"

# member, value, end of the message, code (invalid_type unless given)
TYPES: list[tuple[str, Any, str]] = [
    ("model", 1, wrong(STR, INT)),
    ("model", None, wrong(STR, "null")),
    ("messages", None, wrong(ARR, "null")),
    ("messages", "hi", wrong(ARR, STR)),
    ("messages", {}, wrong(ARR, OBJ)),
    ("max_tokens", "5", wrong(INT, STR)),
    ("max_tokens", 1.5, wrong(INT, NUM)),
    ("max_tokens", True, wrong(INT, BOOL)),
    ("max_completion_tokens", [], wrong(INT, ARR)),
    ("temperature", "hot", wrong(NUM, STR)),
    ("temperature", {}, wrong(NUM, OBJ)),
    ("top_p", "1", wrong(NUM, STR)),
    ("n", 1.5, wrong(INT, NUM)),
    ("n", "2", wrong(INT, STR)),
    ("stop", 1, wrong("one of a string or an array", INT)),
    ("stop", {}, wrong("one of a string or an array", OBJ)),
    ("seed", "7", wrong(INT, STR)),
    ("seed", 1e300, wrong(INT, NUM)),
    ("presence_penalty", "x", wrong(NUM, STR)),
    ("frequency_penalty", [], wrong(NUM, ARR)),
    ("logit_bias", [], wrong(OBJ, ARR)),
    ("logit_bias", {"1": "x"}, wrong(NUM, STR)),
    ("logit_bias", {"1": None}, wrong(NUM, "null")),
    ("logprobs", 1, wrong(BOOL, INT)),
    ("logprobs", "true", wrong(BOOL, STR)),
    ("top_logprobs", True, wrong(INT, BOOL)),
    ("stream", 1, wrong(BOOL, INT)),
    ("stream", "true", wrong(BOOL, STR)),
    ("stream_options", [], wrong(OBJ, ARR)),
    ("tools", {}, wrong(ARR, OBJ)),
    ("tool_choice", 1, wrong("one of a string or an object", INT)),
    ("tool_choice", [], wrong("one of a string or an object", ARR)),
    ("parallel_tool_calls", "x", wrong(BOOL, STR)),
    ("functions", {}, wrong(ARR, OBJ)),
    ("function_call", 1, wrong("one of a string or an object", INT)),
    ("response_format", "json_object", wrong(OBJ, STR)),
    ("user", 1, wrong(STR, INT)),
    ("metadata", {"a": 1}, wrong(STR, INT)),
    ("metadata", [], wrong(OBJ, ARR)),
    ("store", "x", wrong(BOOL, STR)),
    ("service_tier", 1, wrong(STR, INT)),
    ("reasoning_effort", [], wrong("one of a decimal or a string", ARR)),
    ("prediction", 1, wrong(OBJ, INT)),
    ("modalities", "text", wrong(ARR, STR)),
    ("audio", [], wrong(OBJ, ARR)),
    ("web_search_options", True, wrong(OBJ, BOOL)),
    ("top_k", 1.5, wrong(INT, NUM)),
    ("min_p", "x", wrong(NUM, STR)),
    ("ignore_eos", 0, wrong(BOOL, INT)),
    ("stop_token_ids", "x", wrong(ARR, STR)),
    ("chat_template_kwargs", [], wrong(OBJ, ARR)),
    ("chat_template", 1, wrong(STR, INT)),
]


@pytest.mark.parametrize(("member", "value", "ending"), TYPES)
def test_a_member_of_the_wrong_type(member: str, value: Any, ending: str) -> None:
    error = refusal(body(**{member: value}))
    assert error.message == f"Invalid type for '{member}': {ending}"
    assert (error.param, error.code) == (member, "invalid_type")


BELOW, ABOVE = "below minimum value. Expected a value >= ", "above maximum value. Expected a value <= "

RANGES: list[tuple[str, Any, str, str]] = [
    ("max_tokens", 0, f"integer {BELOW}1, but got 0 instead.", "integer_below_min_value"),
    ("max_tokens", -678, f"integer {BELOW}1, but got -678 instead.", "integer_below_min_value"),
    ("max_tokens", 2**31, f"integer {ABOVE}2147483647, but got 2147483648 instead.", "integer_above_max_value"),
    ("max_completion_tokens", 0, f"integer {BELOW}1, but got 0 instead.", "integer_below_min_value"),
    ("temperature", 2.1, f"decimal {ABOVE}2, but got 2.1 instead.", "decimal_above_max_value"),
    ("temperature", -0.5, f"decimal {BELOW}0, but got -0.5 instead.", "decimal_below_min_value"),
    ("top_p", 1.01, f"decimal {ABOVE}1, but got 1.01 instead.", "decimal_above_max_value"),
    ("top_p", -1, f"decimal {BELOW}0, but got -1 instead.", "decimal_below_min_value"),
    ("n", 0, f"integer {BELOW}1, but got 0 instead.", "integer_below_min_value"),
    ("n", 129, f"integer {ABOVE}128, but got 129 instead.", "integer_above_max_value"),
    ("seed", 2**63, f"integer {ABOVE}{2**63 - 1}, but got {2**63} instead.", "integer_above_max_value"),
    ("seed", -(2**63) - 1, f"integer {BELOW}{-(2**63)}, but got {-(2**63) - 1} instead.", "integer_below_min_value"),
    ("presence_penalty", 2.5, f"decimal {ABOVE}2, but got 2.5 instead.", "decimal_above_max_value"),
    ("frequency_penalty", -3, f"decimal {BELOW}-2, but got -3 instead.", "decimal_below_min_value"),
    ("logit_bias", {"1": 101}, f"decimal {ABOVE}100.", "decimal_above_max_value"),
    ("logit_bias", {"1": -101}, f"decimal {BELOW}-100.", "decimal_below_min_value"),
    ("top_logprobs", 21, f"integer {ABOVE}20, but got 21 instead.", "integer_above_max_value"),
    ("top_logprobs", -1, f"integer {BELOW}0, but got -1 instead.", "integer_below_min_value"),
    ("top_k", -2, f"integer {BELOW}-1, but got -2 instead.", "integer_below_min_value"),
    ("min_p", 2, f"decimal {ABOVE}1, but got 2 instead.", "decimal_above_max_value"),
    ("typical_p", -1, f"decimal {BELOW}0, but got -1 instead.", "decimal_below_min_value"),
    ("min_tokens", -1, f"integer {BELOW}0, but got -1 instead.", "integer_below_min_value"),
    (
        "repetition_penalty",
        0,
        "decimal below minimum value. Expected a value > 0, but got 0 instead.",
        "decimal_below_min_value",
    ),
]


@pytest.mark.parametrize(("member", "value", "ending", "code"), RANGES)
def test_a_number_out_of_range(member: str, value: Any, ending: str, code: str) -> None:
    error = refusal(body(**{member: value}))
    assert (error.message, error.param, error.code) == (f"Invalid '{member}': {ending}", member, code)


@pytest.mark.parametrize("digits", [30, 400, 4299, 4301, 50_000])
def test_numbers_of_any_length(digits: int) -> None:
    for member in ("n", "seed", "temperature"):
        error = refusal(GOOD + f',"{member}":{"9" * digits}}}'.encode())
        assert error.param == member


FEW, MANY = "Expected {} with minimum length 1, but got an empty {} instead.", "too long. Expected {} with maximum"

LENGTHS: list[tuple[str, Any, str, str]] = [
    ("messages", [], "empty array. " + FEW.format("an array", "array"), "empty_array"),
    ("tools", [], "empty array. " + FEW.format("an array", "array"), "empty_array"),
    ("functions", [], "empty array. " + FEW.format("an array", "array"), "empty_array"),
    ("model", "", "empty string. " + FEW.format("a string", "string"), "empty_string"),
    (
        "model",
        "x" * 257,
        f"string {MANY.format('a string')} length 256, but got a string with length 257 instead.",
        "string_above_max_length",
    ),
    (
        "messages",
        HI * 2049,
        f"array {MANY.format('an array')} length 2048, but got an array with length 2049 instead.",
        "array_above_max_length",
    ),
    (
        "stop",
        ["a"] * 5,
        f"array {MANY.format('an array')} length 4, but got an array with length 5 instead.",
        "array_above_max_length",
    ),
    (
        "tools",
        [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)],
        f"array {MANY.format('an array')} length 128, but got an array with length 129 instead.",
        "array_above_max_length",
    ),
    (
        "metadata",
        {str(i): "x" for i in range(17)},
        f"object {MANY.format('an object')} length 16, but got an object with length 17 instead.",
        "object_above_max_length",
    ),
    (
        "logit_bias",
        {str(i): 1 for i in range(1025)},
        f"object {MANY.format('an object')} length 1024, but got an object with length 1025 instead.",
        "object_above_max_length",
    ),
    (
        "safety_identifier",
        "x" * 257,
        f"string {MANY.format('a string')} length 256, but got a string with length 257 instead.",
        "string_above_max_length",
    ),
]


@pytest.mark.parametrize(("member", "value", "ending", "code"), LENGTHS)
def test_too_little_and_too_much(member: str, value: Any, ending: str, code: str) -> None:
    error = refusal(body(**{member: value}))
    assert (error.message, error.param, error.code) == (f"Invalid '{member}': {ending}", member, code)


# Inside of members ---------------------------------------------------------------------------------------------------

MISSING, UNKNOWN, TYPE = "missing_required_parameter", "invalid_value", "invalid_type"
ROLES = "'system', 'developer', 'user', 'assistant', 'tool', and 'function'"
PATTERN = "string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]{1,64}$'."


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def assistant(*calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls)}


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": function}


# members, path, code, and what the message says besides the path
INSIDE: list[tuple[dict[str, Any], str, str, str]] = [
    ({"messages": [1]}, "messages[0]", TYPE, wrong(OBJ, INT)),
    ({"messages": [[]]}, "messages[0]", TYPE, wrong(OBJ, ARR)),
    ({"messages": [{}]}, "messages[0].role", MISSING, "Missing required parameter: "),
    ({"messages": [{"content": "x"}]}, "messages[0].role", MISSING, "Missing required parameter: "),
    ({"messages": [{"role": 1}]}, "messages[0].role", TYPE, wrong(STR)),
    ({"messages": [{"role": None}]}, "messages[0].role", TYPE, wrong(STR)),
    ({"messages": [*HI, {"role": "wizard"}]}, "messages[1].role", UNKNOWN, f"'wizard'. Supported values are: {ROLES}."),
    ({"messages": [{"role": "w" * 41}]}, "messages[0].role", UNKNOWN, f". Supported values are: {ROLES}."),
    ({"messages": [{"role": "user"}]}, "messages[0].content", MISSING, "Missing required parameter: "),
    (
        {"messages": [{"role": "user", "content": {}}]},
        "messages[0].content",
        TYPE,
        wrong("one of a string or an array of objects", OBJ),
    ),
    ({"messages": [{"role": "system", "content": None}]}, "messages[0].content", TYPE, "but got null instead."),
    ({"messages": [{"role": "user", "content": "x", "name": 1}]}, "messages[0].name", TYPE, wrong(STR, INT)),
    ({"messages": [user(1)]}, "messages[0].content[0]", TYPE, wrong(OBJ, INT)),
    ({"messages": [user("x")]}, "messages[0].content[0]", TYPE, wrong(OBJ, STR)),
    ({"messages": [user({})]}, "messages[0].content[0].type", MISSING, "Missing required parameter: "),
    ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text", MISSING, "Missing required parameter: "),
    ({"messages": [user({"type": "text", "text": 1})]}, "messages[0].content[0].text", TYPE, wrong(STR, INT)),
    ({"messages": [user({"type": "video_url"})]}, "messages[0].content[0].type", UNKNOWN, "'video_url'. Supported"),
    ({"messages": [user({"type": "refusal", "refusal": "x"})]}, "messages[0].content[0].type", UNKNOWN, "'refusal'."),
    (
        {"messages": [user({"type": "image_url", "image_url": "x"})]},
        "messages[0].content[0].image_url",
        TYPE,
        wrong(OBJ, STR),
    ),
    (
        {"messages": [user({"type": "image_url", "image_url": {}})]},
        "messages[0].content[0].image_url.url",
        MISSING,
        "Missing required parameter: ",
    ),
    (
        {"messages": [user({"type": "image_url", "image_url": {"url": "x", "detail": "ultra"}})]},
        "messages[0].content[0].image_url.detail",
        UNKNOWN,
        "'ultra'. Supported values are: 'auto', 'low', and 'high'.",
    ),
    ({"messages": [user({"type": "input_audio"})]}, "messages[0].content[0].input_audio", MISSING, "Missing"),
    ({"messages": [user({"type": "file", "file": "x"})]}, "messages[0].content[0].file", TYPE, wrong(OBJ, STR)),
    (
        {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0].type",
        UNKNOWN,
        "'image_url'.",
    ),
    ({"messages": [assistant({})]}, "messages[0].tool_calls[0].id", MISSING, "Missing required parameter: "),
    ({"messages": [assistant({"id": ""})]}, "messages[0].tool_calls[0].id", "empty_string", "empty string."),
    (
        {"messages": [assistant({"id": "a", "function": {"name": "f", "arguments": {}}})]},
        "messages[0].tool_calls[0].function.arguments",
        TYPE,
        wrong(STR, OBJ),
    ),
    (
        {"messages": [assistant({"id": "a", "function": {"arguments": "{}"}})]},
        "messages[0].tool_calls[0].function.name",
        MISSING,
        "Missing required parameter: ",
    ),
    (
        {"messages": [assistant({"id": "a", "type": "x"})]},
        "messages[0].tool_calls[0].type",
        UNKNOWN,
        "'x'. Supported values are: 'function'.",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", MISSING, "Missing required"),
    ({"messages": [{"role": "tool", "tool_call_id": "x"}]}, "messages[0].content", MISSING, "Missing required"),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].name", MISSING, "Missing required"),
    ({"messages": [{"role": "function", "name": "x"}]}, "messages[0].content", MISSING, "Missing required"),
    ({"stop": ["a", 1]}, "stop[1]", TYPE, wrong(STR, INT)),
    ({"stream_options": {"include_usage": "x"}}, "stream_options.include_usage", TYPE, wrong(BOOL, STR)),
    ({"tools": [1]}, "tools[0]", TYPE, wrong(OBJ, INT)),
    ({"tools": [{}]}, "tools[0].type", MISSING, "Missing required parameter: "),
    ({"tools": [{"type": "retrieval"}]}, "tools[0].type", UNKNOWN, "Supported values are: 'function' and 'custom'."),
    ({"tools": [{"type": "function"}]}, "tools[0].function", MISSING, "Missing required parameter: "),
    ({"tools": [tool()]}, "tools[0].function.name", MISSING, "Missing required parameter: "),
    ({"tools": [tool(name="a b")]}, "tools[0].function.name", UNKNOWN, PATTERN),
    ({"tools": [tool(name="a\n")]}, "tools[0].function.name", UNKNOWN, PATTERN),
    ({"tools": [tool(name="")]}, "tools[0].function.name", UNKNOWN, PATTERN),
    ({"tools": [tool(name="a" * 65)]}, "tools[0].function.name", UNKNOWN, PATTERN),
    ({"tools": [tool(name="é")]}, "tools[0].function.name", UNKNOWN, PATTERN),
    ({"tools": [tool(name="a", parameters=[])]}, "tools[0].function.parameters", TYPE, wrong(OBJ, ARR)),
    ({"tools": [tool(name="a", strict="x")]}, "tools[0].function.strict", TYPE, wrong(BOOL, STR)),
    ({"tools": [tool(name="a", description=1)]}, "tools[0].function.description", TYPE, wrong(STR, INT)),
    ({"tool_choice": "any"}, "tool_choice", UNKNOWN, "'any'. Supported values are: 'none', 'auto', and 'required'."),
    ({"tool_choice": {}}, "tool_choice.type", MISSING, "Missing required parameter: "),
    ({"tool_choice": {"type": "x"}}, "tool_choice.type", UNKNOWN, "'function', 'custom', and 'allowed_tools'."),
    ({"tool_choice": {"type": "function"}}, "tool_choice.function", MISSING, "Missing required parameter: "),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
        "tool_choice.allowed_tools.tools",
        "empty_array",
        "empty array.",
    ),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "no", "tools": []}}},
        "tool_choice.allowed_tools.mode",
        UNKNOWN,
        "'no'. Supported values are: 'auto' and 'required'.",
    ),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "mcp"}]}}},
        "tool_choice.allowed_tools.tools[0].type",
        UNKNOWN,
        "'mcp'. Supported values are: 'function'.",
    ),
    ({"functions": [{}]}, "functions[0].name", MISSING, "Missing required parameter: "),
    ({"function_call": "required"}, "function_call", UNKNOWN, "Supported values are: 'none' and 'auto'."),
    ({"function_call": {}}, "function_call.name", MISSING, "Missing required parameter: "),
    ({"response_format": {}}, "response_format.type", MISSING, "Missing required parameter: "),
    ({"response_format": {"type": "xml"}}, "response_format.type", UNKNOWN, "'text', 'json_object', and 'json_schema'"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", MISSING, "Missing required"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        "response_format.json_schema.name",
        MISSING,
        "Missing required",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
        "response_format.json_schema.name",
        UNKNOWN,
        PATTERN,
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}},
        "response_format.json_schema.schema",
        TYPE,
        wrong("one of a boolean or an object", ARR),
    ),
    ({"documents": [1]}, "documents[0]", TYPE, wrong(OBJ, INT)),
]


@pytest.mark.parametrize(("members", "path", "code", "says"), INSIDE, ids=[f"{row[1]} {row[2]}" for row in INSIDE])
def test_something_wrong_inside_a_member(members: dict[str, Any], path: str, code: str, says: str) -> None:
    error = refusal(body(**members))
    assert (error.param, error.code) == (path, code)
    assert says in error.message
    assert code == UNKNOWN or f"'{path}'" in error.message


def test_what_is_missing_at_the_top() -> None:
    error = refusal(b"{}")
    assert (error.message, error.param, error.code) == ("you must provide a model parameter", "model", MISSING)
    error = refusal(b'{"model":"m"}')
    assert (error.message, error.param, error.code) == (
        "Missing required parameter: 'messages'.",
        "messages",
        MISSING,
    )


def test_long_values_are_not_repeated() -> None:
    secret = "secret" * 10_000
    for members in (
        {"tool_choice": secret},
        {"messages": [{"role": secret}]},
        {"metadata": {secret: 1}},
        {"logit_bias": {secret: 101}},
        {"response_format": {"type": secret}},
        {"n": secret},
        {"model": secret},
        {"tools": [tool(name=secret)]},
        {"messages": [user({"type": secret})]},
    ):
        error = refusal(body(**members))
        assert "secret" not in error.message + str(error.param)


# What is taken -------------------------------------------------------------------------------------------------------

OPTIONAL = [name for name in ChatRequest.__struct_fields__ if name not in ("model", "messages")]


@pytest.mark.parametrize("member", OPTIONAL)
def test_null_is_absent(member: str) -> None:
    request = parse_chat(body(**{member: None}))
    assert getattr(request, member) is None
    assert members_given(request) == ["model", "messages"]


def test_members_and_order() -> None:
    request = parse_chat(body(stop="x", n=2, unknown={"a": [1]}, x_stainless=1))
    assert members_given(request) == ["model", "messages", "n", "stop"]


def test_what_sdks_send_back() -> None:
    message = {
        "role": "assistant",
        "content": "x",
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": None,
        "reasoning": "hm",
        "reasoning_content": "hm",
    }
    parsed = parse_chat(body(messages=[*HI, message, {"role": "function", "name": "f", "content": None}])).messages
    assert isinstance(parsed[1], AssistantMessage)
    assert (parsed[1].content, parsed[1].tool_calls) == ("x", None)
    assert isinstance(parsed[2], FunctionMessage)


def test_hints_inside_parts_are_ignored() -> None:
    part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}, "prompt_cache_breakpoint": {}}
    (message,) = parse_chat(body(messages=[user(part)])).messages
    assert isinstance(message, UserMessage)


def test_text_survives_to_the_code_point() -> None:
    text = "\0\u2028\x7f é 𝄞 \ufeff \\ \" '"
    (message,) = parse_chat(body(messages=[{"role": "user", "content": text}])).messages
    assert isinstance(message, UserMessage)
    assert message.content == text


@pytest.mark.parametrize(
    ("members", "limit"),
    [
        ({}, None),
        ({"max_tokens": 3}, 3),
        ({"max_completion_tokens": 4}, 4),
        ({"max_tokens": 3, "max_completion_tokens": 4}, 4),
        ({"max_tokens": 3, "max_completion_tokens": None}, 3),
    ],
)
def test_two_names_for_the_limit(members: dict[str, Any], limit: int | None) -> None:
    assert parse_chat(body(**members)).token_limit == limit


@pytest.mark.parametrize(("stop", "stops"), [(None, []), ("a", ["a"]), (["a", "b"], ["a", "b"]), ([], [])])
def test_stop_is_a_list(stop: Any, stops: list[str]) -> None:
    assert parse_chat(body(stop=stop)).stops == stops


def test_a_named_choice() -> None:
    choice = parse_chat(body(tool_choice={"type": "function", "function": {"name": "f"}})).tool_choice
    assert isinstance(choice, NamedChoice)
    assert choice.function.name == "f"


# What an engine lacks ------------------------------------------------------------------------------------------------

ENGINE_MEMBERS: dict[str, Any] = {
    "temperature": 0.5,
    "guided_json": {},
    "guided_regex": "a",
    "guided_choice": ["a"],
    "guided_grammar": "a",
    "structured_outputs": {"json": {}},
    "structural_tag": "x",
    "grammar": "root ::= x",
    "json_schema": {},
    "regex": "x",
    "ebnf": "x",
    "audio": {"voice": "x"},
    "web_search_options": {},
    "moderation": {},
    "chat_template": "x",
    "continue_final_message": True,
    "add_generation_prompt": False,
    "echo": True,
    "best_of": 2,
    "use_beam_search": True,
    "min_tokens": 1,
    "stop_token_ids": [1],
    "bad_words": ["x"],
    "documents": [{}],
    "prompt_logprobs": 1,
    "logits_processors": [],
    "thinking_token_budget": 1,
    "allowed_token_ids": [1],
    "return_token_ids": True,
    "ignore_eos": True,
}


@pytest.mark.parametrize("member", ENGINE_MEMBERS)
def test_what_an_engine_lacks_is_refused_by_name(member: str) -> None:
    request = parse_chat(body(**{member: ENGINE_MEMBERS[member]}))
    with pytest.raises(InvalidRequest) as caught:
        refuse_unsupported(request, frozenset())
    assert caught.value.message == f"Unsupported parameter: '{member}' is not supported with the model 'm'."
    assert (caught.value.param, caught.value.code) == (member, "unsupported_parameter")
    refuse_unsupported(request, frozenset({member}))


@pytest.mark.parametrize("member", HARMLESS)
def test_a_value_that_changes_nothing_needs_no_engine(member: str) -> None:
    refuse_unsupported(parse_chat(body(**{member: HARMLESS[member]})), frozenset())


HINT_VALUES: dict[str, Any] = {"metadata": {"a": "b"}, "store": True, "prompt_cache_options": {}, "prediction": {}}


@pytest.mark.parametrize("member", sorted(HINTS))
def test_hints_need_no_engine(member: str) -> None:
    refuse_unsupported(parse_chat(body(**{member: HINT_VALUES.get(member, "low")})), frozenset())


def test_every_member_is_known_to_somebody() -> None:
    assert set(ChatRequest.__struct_fields__) >= CORE | HINTS | set(HARMLESS)


# Whatever comes ------------------------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text("a[`.\\\0é𝄞", max_size=8),
    st.sampled_from(["user", "tool", "assistant", "text", "function", "auto", "json_schema", "a" * 3000]),
)
KEYS = st.sampled_from(
    [*ChatRequest.__struct_fields__, "role", "content", "type", "function", "name", "tool_calls", "id", "x" * 3000]
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)
RELAXED = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def takes_or_refuses(raw: bytes) -> None:
    try:
        parse_chat(raw)
    except InvalidRequest as error:
        bounded(error)


def bounded(error: InvalidRequest) -> None:
    assert len(error.message) < 1000
    assert len(error.param or "") < 200
    json.dumps(error.body(), allow_nan=False).encode()


@RELAXED
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    takes_or_refuses(raw)


@RELAXED
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_no_json_raises_anything_else(value: dict[str, Any]) -> None:
    takes_or_refuses(json.dumps(value).encode())
    takes_or_refuses(json.dumps({"model": "m", "messages": HI} | value).encode())


@RELAXED
@given(st.data())
def test_no_damage_raises_anything_else(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3) | st.sampled_from(list(MARKS)))
        if not raw:
            break
    takes_or_refuses(bytes(raw))


MARKS = (b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"1e999", b"-", rb"\ud800", b"0" * 5000)
SAMPLES = [body(**row[0]) for row in INSIDE] + [body(**{row[0]: row[1]}) for row in RANGES + LENGTHS[:4]]
