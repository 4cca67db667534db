"""Rules on a chat request that its shape alone can't say: which members need which, and which message may follow which.

Source: OpenAI's answers to such requests, as quoted in public issue threads; their wording is what clients match on.
"""

from __future__ import annotations

from confide.errors import InvalidRequest
from confide.wire.members import check_bias, check_provider, check_stops, check_stream_options, check_template
from confide.wire.openai import (
    AllowedChoice,
    AssistantMessage,
    ChatRequest,
    CustomChoice,
    CustomTool,
    FunctionName,
    FunctionTool,
    NamedChoice,
    PlainChat,
    RefusalPart,
    ToolMessage,
)


def check(request: ChatRequest) -> None:
    """Refuse what is well-formed but contradicts itself.

    Raises:
        InvalidRequest: naming the member.
    """
    _check_options(request)
    if _mentions_tools(request):
        _check_tools(request)
        _check_tool_choice(request)
        _check_functions(request)
    if not isinstance(request, PlainChat):
        _check_messages(request)
    check_provider(request.provider)


def _check_options(request: ChatRequest) -> None:
    check_stream_options(request)
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest(
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.", param="top_logprobs"
        )
    if request.stop is not None:
        check_stops(request.stops)
    check_bias(request.logit_bias)
    check_template(request.chat_template_kwargs)
    if request.modalities is not None and request.modalities != ["text"]:
        raise InvalidRequest(
            "Invalid 'modalities': this server answers with text only.",
            param="modalities",
            code="unsupported_value",
        )


def _mentions_tools(request: ChatRequest) -> bool:
    members = (request.tools, request.tool_choice, request.parallel_tool_calls, request.functions)
    return members != (None, None, None, None) or request.function_call is not None


def _check_tools(request: ChatRequest) -> None:
    seen: set[str] = set()
    for index, tool in enumerate(request.tools or ()):
        if isinstance(tool, CustomTool):
            raise InvalidRequest(
                "Custom tools are not supported; use a tool of type 'function'.",
                param=f"tools[{index}].type",
                code="unsupported_value",
            )
        _once(tool.function.name, seen, f"tools[{index}].function.name")
    seen.clear()
    for index, function in enumerate(request.functions or ()):
        _once(function.name, seen, f"functions[{index}].name")


def _once(name: str, seen: set[str], param: str) -> None:
    if name in seen:
        raise InvalidRequest(f"Invalid '{param}': the name '{name}' is used twice.", param=param, code="invalid_value")
    seen.add(name)


def tool_names(request: ChatRequest) -> set[str]:
    """The names of the function tools."""
    return {tool.function.name for tool in request.tools or () if isinstance(tool, FunctionTool)}


def _check_tool_choice(request: ChatRequest) -> None:
    choice = request.tool_choice
    if request.tools is None:
        for param in ("tool_choice", "parallel_tool_calls"):
            if getattr(request, param) not in (None, "none"):
                raise InvalidRequest(
                    f"Invalid value for '{param}': '{param}' is only allowed when 'tools' are specified.",
                    param=param,
                )
        return
    if isinstance(choice, CustomChoice):
        raise InvalidRequest(
            "Custom tools are not supported; name a tool of type 'function'.",
            param="tool_choice",
            code="unsupported_value",
        )
    wanted: list[str] = []
    if isinstance(choice, NamedChoice):
        wanted = [choice.function.name]
    elif isinstance(choice, AllowedChoice):
        wanted = [tool.function.name for tool in choice.allowed_tools.tools]
    known = tool_names(request) if wanted else set()
    for name in wanted:
        if name not in known:
            raise InvalidRequest(
                f"Tool choice '{name[:64]}' not found in 'tools' parameter.",
                param="tool_choice",
                code="invalid_value",
            )


def _check_functions(request: ChatRequest) -> None:
    call = request.function_call
    if request.functions is None:
        if call not in (None, "none"):
            raise InvalidRequest(
                "Invalid value for 'function_call': 'function_call' is only allowed when 'functions' are specified.",
                param="function_call",
            )
        return
    if request.tools is not None:
        raise InvalidRequest("Give either 'tools' or the deprecated 'functions', not both.", param="functions")
    if isinstance(call, FunctionName) and call.name not in {function.name for function in request.functions}:
        raise InvalidRequest(
            f"Function choice '{call.name[:64]}' not found in 'functions' parameter.",
            param="function_call",
            code="invalid_value",
        )


def _check_messages(request: ChatRequest) -> None:
    """Tool messages answer calls, and every call is answered before the conversation goes on."""
    waiting: dict[str, None] = {}
    asked_at = 0
    for index, message in enumerate(request.messages):
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in waiting:
                raise InvalidRequest(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
                    "'tool_calls'.",
                    param=f"messages.[{index}].role",
                )
            waiting.pop(message.tool_call_id)
            continue
        _check_answered(waiting, asked_at)
        if isinstance(message, AssistantMessage):
            _check_assistant(message, index)
            waiting = {call.id: None for call in message.tool_calls or ()}
            asked_at = index
    _check_answered(waiting, asked_at)


def _check_answered(waiting: dict[str, None], asked_at: int) -> None:
    if waiting:
        ids = ", ".join(call_id[:64] for call_id in list(waiting)[:8])
        raise InvalidRequest(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {ids}",
            param=f"messages.[{asked_at}].role",
        )


def _check_assistant(message: AssistantMessage, index: int) -> None:
    param = f"messages[{index}].content"
    if message.content is None and not message.tool_calls and message.function_call is None and message.refusal is None:
        raise InvalidRequest(
            f"Invalid value for '{param}': expected a string, got null.", param=param, code="invalid_type"
        )
    parts = message.content if isinstance(message.content, list) else []
    if any(isinstance(part, RefusalPart) for part in parts) and len(parts) > 1:
        raise InvalidRequest(f"Invalid '{param}': a refusal must be the only part.", param=param, code="invalid_value")
    ids = [call.id for call in message.tool_calls or ()]
    if len(ids) != len(set(ids)):
        raise InvalidRequest(
            f"Invalid 'messages[{index}].tool_calls': the same id stands twice.",
            param=f"messages[{index}].tool_calls",
            code="invalid_value",
        )
    for position, call in enumerate(message.tool_calls or ()):
        if call.function is None:
            where = f"messages[{index}].tool_calls[{position}].function"
            raise InvalidRequest(
                f"Missing required parameter: '{where}'.", param=where, code="missing_required_parameter"
            )
