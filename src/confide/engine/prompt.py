"""From the request's messages to messages that any chat template can render, and to the constraint on the answer.

Chat templates differ in what they know: many have no ``developer`` or ``tool`` role, and one without support for tools
drops their definitions in silence. So roles are mapped here, and definitions, calls and results are written into
the text ourselves, in the form that the grammar (:mod:`confide.engine.grammar`) makes the model answer in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from confide.engine import grammar
from confide.engine.grammar import ToolSpec
from confide.engine.schema import prepare
from confide.wire.openai import (
    AllowedChoice,
    AssistantMessage,
    ChatRequest,
    DeveloperMessage,
    Function,
    FunctionMessage,
    FunctionName,
    FunctionTool,
    ImagePart,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedChoice,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
)

MAX_CALLS = 8
"""The most calls in one answer. Small models repeat themselves, so there must be an end."""

JSON_OBJECT: dict[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function as the client described it, and the schema that its arguments are decoded under."""

    function: Function
    spec: ToolSpec


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request is put to the model.

    ``form`` says what the decoded text is: ``text``; ``json`` under ``schema``; or ``calls``: calls of ``tools`` or,
    where ``may_reply``, a text (itself under ``schema`` if that is given).
    """

    messages: list[dict[str, Any]]
    form: Literal["text", "json", "calls"]
    grammar: str | None = None
    schema: dict[str, Any] | bool | None = None
    tools: tuple[Tool, ...] = ()
    may_reply: bool = True


def plan(request: ChatRequest) -> Plan:
    """Decide how to put a request to the model. Pure and bounded; compiling the grammar is the caller's.

    Raises:
        InvalidRequest: a schema is outside what can be guaranteed.
    """
    schema, prepared = _answer_schema(request)
    tools, forced, most = _callable_tools(request)
    notes: list[str] = []
    if not tools:
        if prepared is None:
            return Plan(_render(request, notes, with_calls=False), "text")
        notes.append(_json_note(request, schema))
        text = grammar.json_object() if schema is JSON_OBJECT else grammar.json_schema(prepared)
        return Plan(_render(request, notes, with_calls=False), "json", text, schema)
    notes.append(_tools_note(tools, may_reply=not forced))
    if prepared is not None and not forced:
        notes.append("The text after `Reply: ` must be JSON. " + _json_note(request, schema))
    text = grammar.tool_calls(
        [tool.spec for tool in tools],
        text=None if forced else ("free" if prepared is None else prepared),
        max_calls=most,
    )
    return Plan(_render(request, notes, with_calls=True), "calls", text, schema, tools, may_reply=not forced)


def _answer_schema(request: ChatRequest) -> tuple[dict[str, Any] | bool | None, Any]:
    """The client's schema for the answer's text, as given (for validating) and prepared (for decoding)."""
    wanted = request.response_format
    if isinstance(wanted, JsonObjectFormat):
        return JSON_OBJECT, JSON_OBJECT
    if not isinstance(wanted, JsonSchemaFormat) or wanted.json_schema.schema is None:
        return (JSON_OBJECT, JSON_OBJECT) if isinstance(wanted, JsonSchemaFormat) else (None, None)
    name, schema = wanted.json_schema.name, wanted.json_schema.schema
    what = f"response_format '{name}'"
    return schema, prepare(schema, param="response_format", what=what, code="invalid_json_schema")


def _callable_tools(request: ChatRequest) -> tuple[tuple[Tool, ...], bool, int]:
    """The tools that may be called in this answer, whether one must be, and how many calls there may be."""
    functions: list[Function] = [tool.function for tool in request.tools or () if isinstance(tool, FunctionTool)]
    choice: Any = request.tool_choice
    most = 1 if request.parallel_tool_calls is False else MAX_CALLS
    if request.functions is not None:
        functions, choice, most = list(request.functions), request.function_call, 1
    forced = choice == "required"
    if isinstance(choice, NamedChoice | FunctionName):
        name = choice.function.name if isinstance(choice, NamedChoice) else choice.name
        functions, forced, most = [function for function in functions if function.name == name], True, 1
    elif isinstance(choice, AllowedChoice):
        names = {tool.function.name for tool in choice.allowed_tools.tools}
        functions = [function for function in functions if function.name in names]
        forced = choice.allowed_tools.mode == "required"
    if choice == "none":
        functions = []
    param = "functions" if request.functions is not None else "tools"
    return tuple(_tool(function, param) for function in functions), forced, most


def _tool(function: Function, param: str) -> Tool:
    what = f"function '{function.name}'"
    parameters = function.parameters
    if parameters:
        parameters = prepare(parameters, param=param, what=what, code="invalid_function_parameters", arguments=True)
    return Tool(function, ToolSpec(function.name, parameters or None))


# What the model is told ----------------------------------------------------------------------------------------------


def _json_note(request: ChatRequest, schema: dict[str, Any] | bool | None) -> str:
    if schema is JSON_OBJECT or not isinstance(schema, dict):
        return "Answer with one JSON object and nothing else."
    wanted = request.response_format
    about = wanted.json_schema.description if isinstance(wanted, JsonSchemaFormat) else None
    text = msgspec.json.encode(schema).decode()
    return f"Answer with JSON that fits this JSON schema and nothing else{f' ({about})' if about else ''}: {text}"


def _tools_note(tools: tuple[Tool, ...], *, may_reply: bool) -> str:
    lines = ["You can call these functions:"]
    for tool in tools:
        function = tool.function
        definition: dict[str, Any] = {"name": function.name}
        if function.description:
            definition["description"] = function.description
        definition["parameters"] = function.parameters or {"type": "object", "properties": {}}
        lines.append(msgspec.json.encode(definition).decode())
    example = msgspec.json.encode([{"name": tools[0].function.name, "arguments": {}}]).decode()
    lines.append(f"To call functions, answer with `{grammar.CALL}` and a JSON list of calls, such as {example}.")
    if may_reply:
        lines.append(f"If no function is needed, answer with `{grammar.REPLY}` and your text.")
    else:
        lines.append("Answer with a call now.")
    return "\n".join(lines)


# Messages ------------------------------------------------------------------------------------------------------------


def _render(request: ChatRequest, notes: list[str], *, with_calls: bool) -> list[dict[str, Any]]:
    """Messages with the roles system, user and assistant alone; notes stand at the end of the first system message."""
    names: dict[str, str] = {}
    out: list[dict[str, Any]] = []
    for message in request.messages:
        if isinstance(message, SystemMessage | DeveloperMessage):
            out.append({"role": "system", "content": _text(message.content)})
        elif isinstance(message, UserMessage):
            _append_user(out, _user_content(message))
        elif isinstance(message, AssistantMessage):
            names |= {call.id: call.function.name for call in message.tool_calls or () if call.function}
            out.append({"role": "assistant", "content": _assistant_text(message, with_calls=with_calls)})
        else:
            _append_user(out, _result_text(message, names), result=True)
    if notes:
        _note(out, "\n\n".join(notes))
    return [{"role": message["role"], "content": message["content"]} for message in out]


def _append_user(out: list[dict[str, Any]], content: Any, *, result: bool = False) -> None:
    """Results, and what the user says right after them, are one turn: templates often insist on alternation."""
    last = out[-1] if out else {}
    if last.get("result") and isinstance(content, str):
        last["content"] += f"\n{content}"
        last["result"] = result
        return
    out.append({"role": "user", "content": content, "result": result})


def _text(content: str | list[TextPart] | None) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content or ())


def _user_content(message: UserMessage) -> Any:
    if isinstance(message.content, str):
        return message.content
    if not any(isinstance(part, ImagePart) for part in message.content):
        return "\n".join(part.text for part in message.content if isinstance(part, TextPart))
    return [
        {"type": "image_url", "image_url": {"url": part.image_url.url}}
        if isinstance(part, ImagePart)
        else {"type": "text", "text": part.text}
        for part in message.content
        if isinstance(part, ImagePart | TextPart)
    ]


def _assistant_text(message: AssistantMessage, *, with_calls: bool) -> str:
    parts = message.content if isinstance(message.content, list) else []
    said = message.content if isinstance(message.content, str) else ""
    text = said or "".join(part.text if isinstance(part, TextPart) else part.refusal for part in parts)
    text = text or message.refusal or ""
    made = [call.function for call in message.tool_calls or () if call.function is not None]
    calls = [*made, *([message.function_call] if message.function_call else ())]
    if not calls:
        return f"{grammar.REPLY}{text}" if with_calls else text
    written = ", ".join(
        f'{{"name": {msgspec.json.encode(call.name).decode()}, "arguments": {call.arguments or "{}"}}}'
        for call in calls
    )
    return (f"{text}\n" if text else "") + f"{grammar.CALL}[{written}]"


def _result_text(message: ToolMessage | FunctionMessage, names: dict[str, str]) -> str:
    if isinstance(message, FunctionMessage):
        return f"Result of {message.name}: {message.content or ''}"
    return f"Result of {names.get(message.tool_call_id, 'the call')}: {_text(message.content)}"


def _note(out: list[dict[str, Any]], note: str) -> None:
    for message in out:
        if message["role"] == "system":
            message["content"] += f"\n\n{note}"
            return
    out.insert(0, {"role": "system", "content": note})
