"""How a request is put to the model: roles that every template knows, what it is told, and under which constraint."""

from __future__ import annotations

import json
from typing import Any

import pytest

from confide.engine.grammar import CALL, REPLY, check
from confide.engine.prompt import MAX_CALLS, Plan, plan
from confide.errors import InvalidRequest
from confide.wire.conversation import check as check_request
from confide.wire.openai import parse_chat

HI: dict[str, Any] = {"role": "user", "content": "hi"}
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
TIME: dict[str, Any] = {"name": "time"}


def tool(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": function}


TOOLS = [tool(WEATHER), tool(TIME)]


def planned(**members: Any) -> Plan:
    request = parse_chat(json.dumps({"model": "m", "messages": [HI]} | members).encode())
    check_request(request)
    return plan(request)


def rendered(*messages: Any, **members: Any) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in planned(messages=messages, **members).messages]


def text(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": each} for each in texts]


def called(*calls: tuple[str, str, str], content: Any = None) -> dict[str, Any]:
    made = [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in calls]
    return {"role": "assistant", "content": content, "tool_calls": made}


def answered(call_id: str, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


# Messages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "wanted"),
    [
        ([HI], [("user", "hi")]),
        ([{"role": "system", "content": "s"}, HI], [("system", "s"), ("user", "hi")]),
        ([{"role": "developer", "content": "d"}, HI], [("system", "d"), ("user", "hi")]),
        ([{"role": "developer", "content": text("a", "b")}], [("system", "ab")]),
        ([{"role": "user", "content": text("a", "b")}], [("user", "a\nb")]),
        ([{"role": "user", "content": "é", "name": "Bob"}], [("user", "é")]),
        ([HI, HI], [("user", "hi"), ("user", "hi")]),
        ([HI, {"role": "assistant", "content": "x"}], [("user", "hi"), ("assistant", "x")]),
        ([{"role": "assistant", "content": text("a", "b")}], [("assistant", "ab")]),
        ([{"role": "assistant", "content": None, "refusal": "no"}], [("assistant", "no")]),
        ([{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}], [("assistant", "no")]),
        ([{"role": "assistant", "content": "", "tool_calls": []}], [("assistant", "")]),
    ],
)
def test_roles_that_every_template_knows(messages: list[Any], wanted: list[tuple[str, str]]) -> None:
    assert rendered(*messages) == wanted


def test_calls_are_written_as_they_are_decoded() -> None:
    call = called(("a", "weather", '{"city": "Rome"}'), ("b", "time", "{}"))
    got = rendered(HI, call, answered("a", "sunny"), answered("b", "noon"))
    wanted = '[{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "time", "arguments": {}}]'
    assert got[1] == ("assistant", CALL + wanted)


def test_text_before_calls_stays() -> None:
    got = rendered(HI, called(("a", "time", ""), content="Let me see."), answered("a", "noon"))
    assert got[1] == ("assistant", f'Let me see.\n{CALL}[{{"name": "time", "arguments": {{}}}}]')


@pytest.mark.parametrize("arguments", ["{not json", "", '"x"', "null", "}]"])
def test_a_models_own_broken_arguments_come_back_without_harm(arguments: str) -> None:
    got = rendered(HI, called(("a", "time", arguments)), answered("a", "noon"))
    assert (arguments or "{}") in got[1][1]


def test_results_are_one_turn_with_what_the_user_says_next() -> None:
    got = rendered(
        HI,
        called(("a", "weather", "{}"), ("b", "time", "{}")),
        answered("b", "noon"),
        answered("a", text("sun", "ny")),
        {"role": "user", "content": "And now?"},
        HI,
    )
    assert got[2:] == [("user", "Result of time: noon\nResult of weather: sunny\nAnd now?"), ("user", "hi")]


def test_results_of_another_round_stand_apart() -> None:
    one = [called(("a", "time", "{}")), answered("a", "noon")]
    got = rendered(HI, *one, *one)
    assert [role for role, _ in got] == ["user", "assistant", "user", "assistant", "user"]


def test_the_deprecated_forms() -> None:
    got = rendered(
        HI,
        {"role": "assistant", "content": None, "function_call": {"name": "time", "arguments": "{}"}},
        {"role": "function", "name": "time", "content": "noon"},
        {"role": "assistant", "function_call": {"name": "time"}},
        {"role": "function", "name": "time", "content": None},
    )
    assert got[1] == ("assistant", f'{CALL}[{{"name": "time", "arguments": {{}}}}]')
    assert got[2] == ("user", "Result of time: noon")
    assert got[4] == ("user", "Result of time: ")


def test_images_stay_parts() -> None:
    parts = [*text("look"), {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}}]
    assert rendered({"role": "user", "content": parts}) == [
        ("user", [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:x"}}])
    ]
    got = rendered(HI, called(("a", "time", "{}")), answered("a", "noon"), {"role": "user", "content": parts})
    assert got[2] == ("user", "Result of time: noon")
    assert got[3][1][1]["type"] == "image_url"


# Constraints ---------------------------------------------------------------------------------------------------------


def answer_in(schema: Any, **more: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "out", "schema": schema} | more}}


def notes(of: Plan) -> str:
    """What stands in the system message."""
    first = of.messages[0]
    assert first["role"] == "system"
    return str(first["content"])


@pytest.mark.parametrize("members", [{}, {"response_format": {"type": "text"}}, {"tool_choice": "none"}])
def test_free_text(members: dict[str, Any]) -> None:
    got = planned(**members)
    assert (got.form, got.grammar, got.schema, got.tools) == ("text", None, None, ())
    assert [message["role"] for message in got.messages] == ["user"]


@pytest.mark.parametrize(
    "members",
    [{"response_format": {"type": "json_object"}}, answer_in(None), answer_in(None, strict=False)],
)
def test_any_object(members: dict[str, Any]) -> None:
    got = planned(**members)
    assert (got.form, got.schema) == ("json", {"type": "object"})
    assert "one JSON object" in notes(got)
    assert got.grammar is not None
    check(got.grammar)


@pytest.mark.parametrize("strict", [None, True, False])
def test_a_schema_is_enforced_strict_or_not(strict: bool | None) -> None:
    schema = WEATHER["parameters"]
    got = planned(**answer_in(schema, strict=strict, description="where"))
    assert (got.form, got.schema, got.may_reply) == ("json", schema, True)
    assert got.grammar is not None
    check(got.grammar)
    assert "(where)" in notes(got)
    assert json.dumps(schema, separators=(",", ":")) in notes(got)


def test_notes_join_the_first_system_message() -> None:
    messages = [HI, {"role": "developer", "content": "d"}, {"role": "system", "content": "s"}, HI]
    got = planned(messages=messages, response_format={"type": "json_object"}).messages
    assert [message["role"] for message in got] == ["user", "system", "system", "user"]
    assert got[1]["content"].startswith("d\n\nAnswer with one JSON object")
    assert got[2]["content"] == "s"


def names(got: Plan) -> list[str]:
    return [each.function.name for each in got.tools]


def allowed(mode: str, *functions: dict[str, Any]) -> dict[str, Any]:
    entries = [tool({"name": function["name"]}) for function in functions]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": entries}}


FUNCTIONS = {"functions": [WEATHER, TIME]}
NAMED = {"type": "function", "function": {"name": "time"}}

CHOICES: list[tuple[dict[str, Any], list[str], bool, int]] = [
    ({"tools": TOOLS}, ["weather", "time"], True, MAX_CALLS),
    ({"tools": TOOLS, "tool_choice": None}, ["weather", "time"], True, MAX_CALLS),
    ({"tools": TOOLS, "tool_choice": "auto"}, ["weather", "time"], True, MAX_CALLS),
    ({"tools": TOOLS, "tool_choice": "required"}, ["weather", "time"], False, MAX_CALLS),
    ({"tools": TOOLS, "tool_choice": NAMED}, ["time"], False, 1),
    ({"tools": TOOLS, "parallel_tool_calls": False}, ["weather", "time"], True, 1),
    ({"tools": TOOLS, "parallel_tool_calls": True}, ["weather", "time"], True, MAX_CALLS),
    ({"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}, ["weather", "time"], False, 1),
    ({"tools": TOOLS, "tool_choice": allowed("auto", TIME)}, ["time"], True, MAX_CALLS),
    ({"tools": TOOLS, "tool_choice": allowed("required", TIME)}, ["time"], False, MAX_CALLS),
    ({"tools": TOOLS, "tool_choice": allowed("auto", TIME, WEATHER)}, ["weather", "time"], True, MAX_CALLS),
    (FUNCTIONS, ["weather", "time"], True, 1),
    (FUNCTIONS | {"function_call": "auto"}, ["weather", "time"], True, 1),
    (FUNCTIONS | {"function_call": {"name": "time"}}, ["time"], False, 1),
]


@pytest.mark.parametrize(("members", "wanted", "may_reply", "most"), CHOICES)
def test_which_calls_may_be_made(members: dict[str, Any], wanted: list[str], may_reply: bool, most: int) -> None:
    got = planned(**members)
    assert (got.form, names(got), got.may_reply) == ("calls", wanted, may_reply)
    assert got.grammar is not None
    check(got.grammar)
    assert ("reply:" in got.grammar) is may_reply
    assert (f"{{0,{most - 1}}}" in got.grammar) is (most > 1)
    told = notes(got)
    for function in (WEATHER, TIME):
        assert (f'{{"name":"{function["name"]}"' in told.replace('[{"name"', "")) is (function["name"] in wanted)
    assert (REPLY in told) is may_reply


@pytest.mark.parametrize("members", [{"tools": TOOLS, "tool_choice": "none"}, FUNCTIONS | {"function_call": "none"}])
def test_tools_that_must_not_be_called_are_not_mentioned(members: dict[str, Any]) -> None:
    got = planned(**members)
    assert (got.form, got.tools, got.grammar) == ("text", (), None)
    assert [message["role"] for message in got.messages] == ["user"]


def test_what_the_model_is_told_of_a_tool() -> None:
    told = notes(planned(tools=TOOLS))
    assert '"description":"Tells the weather."' in told
    assert json.dumps(WEATHER["parameters"], separators=(",", ":")) in told
    assert CALL in told


def test_earlier_replies_look_like_replies_when_there_are_tools() -> None:
    messages = [HI, {"role": "assistant", "content": "x"}, HI]
    assert rendered(*messages, tools=TOOLS)[2] == ("assistant", f"{REPLY}x")
    assert rendered(*messages)[1] == ("assistant", "x")


def test_a_reply_beside_tools_can_be_under_a_schema() -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    got = planned(tools=TOOLS, **answer_in(schema))
    assert (got.form, got.schema, got.may_reply) == ("calls", schema, True)
    assert "must be JSON" in notes(got)
    forced = planned(tools=TOOLS, tool_choice="required", **answer_in(schema))
    assert forced.grammar is not None
    assert "reply" not in forced.grammar


@pytest.mark.parametrize(
    ("members", "param", "code", "says"),
    [
        (answer_in({"$ref": "https://x.example/"}), "response_format", "invalid_json_schema", "response_format 'out'"),
        (
            {"tools": [tool(TIME), tool({"name": "f", "parameters": {"$ref": "#/nothing"}})]},
            "tools",
            "invalid_function_parameters",
            "function 'f'",
        ),
        (
            {"functions": [{"name": "f", "parameters": {"type": "string"}}]},
            "functions",
            "invalid_function_parameters",
            "function 'f'",
        ),
    ],
)
def test_a_schema_that_can_not_be_promised(members: dict[str, Any], param: str, code: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        planned(**members)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert says in caught.value.message


def test_tools_that_may_not_be_called_are_not_compiled() -> None:
    bad = tool({"name": "bad", "parameters": {"$ref": "#/nothing"}})
    assert names(planned(tools=[tool(TIME), bad], tool_choice=NAMED)) == ["time"]
