"""The body that an engine gets for a client's request.

Members that the engine understands as they are keep their bytes and their order. The others are changed here, each for
a reason that :class:`~confide.engine.remote.dialect.Dialect` names, or refused by name: never weakened.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Raw

from confide.engine.base import ChatCall
from confide.engine.llamacpp import PENALISED, SEEDS
from confide.engine.remote.dialect import Dialect
from confide.engine.remote.messages import conversation
from confide.errors import InvalidRequest
from confide.wire.openai import (
    AllowedChoice,
    ChatRequest,
    FunctionName,
    JsonSchemaFormat,
    NamedChoice,
)
from confide.wire.texts import CompletionRequest

_NULL: Final = b"null"
Json = dict[str, Any]
Members = dict[str, Any]

_decoder = msgspec.json.Decoder(dict[str, Raw])
_json = msgspec.json.Decoder()
_TOOL_MEMBERS: Final = ("tools", "tool_choice", "parallel_tool_calls")
_NO_PARAMETERS: Final = {"type": "object", "properties": {}, "additionalProperties": False}
"""What a function without ``parameters`` takes, says OpenAI's specification; to vLLM it would be anything."""

_FUNCTION_MEMBERS: Final = ("name", "description", "parameters", "strict")


def prepare(call: ChatCall, dialect: Dialect, *, model: str, salt: str | None, stream: bool | None = None) -> bytes:
    """The body for the engine.

    Args:
        call: the request, its images loaded.
        dialect: whom it is for.
        model: what the engine calls its model.
        salt: separates the prefix caches of tenants; the client's own is never sent. None shares them.
        stream: stands in place of the client's ``stream`` where it isn't None.

    Raises:
        InvalidRequest: the engine can't honour it; ``param`` names the member.
    """
    request = call.request
    written = _decoder.decode(call.body)
    members: Members = {name: value for name, value in written.items() if name in dialect.sent and not _is_null(value)}
    members["model"] = model
    members["messages"] = conversation(written["messages"], request, dialect)
    if stream is not None:
        members["stream"] = stream
    _mend_stream_options(members, request.stream if stream is None else stream, dialect)
    _mend_limit(members, request, dialect)
    _mend_tools(members, written, request, dialect)
    _mend_format(members, request, dialect)
    _mend_sampling(members, request, dialect)
    mend_names(members, dialect)
    add_ids(members, call.id, dialect, salt, prefix=dialect.id_prefix, choices=request.n or 1)
    return msgspec.json.encode(members)


def _is_null(value: Raw) -> bool:
    return memoryview(value).nbytes == len(_NULL) and bytes(value) == _NULL


def _mend_stream_options(members: Members, stream: bool | None, dialect: Dialect) -> None:
    """Usage is always asked for: the server meters by it, whatever the client wants to see."""
    members.pop("stream_options", None)
    if stream and dialect.stream_options:
        members["stream_options"] = {"include_usage": True}


def _mend_limit(members: Members, request: ChatRequest, dialect: Dialect) -> None:
    if dialect.token_limit is None or request.token_limit is None:
        return
    for name in ("max_tokens", "max_completion_tokens"):
        members.pop(name, None)
    members[dialect.token_limit] = request.token_limit


def _mend_format(members: Members, request: ChatRequest, dialect: Dialect) -> None:
    wanted = request.response_format
    if not isinstance(wanted, JsonSchemaFormat) or not dialect.strict_schema or wanted.json_schema.strict:
        return
    written = _json.decode(members["response_format"])
    members["response_format"] = written | {"json_schema": written["json_schema"] | {"strict": True}}


def _mend_sampling(members: Members, request: ChatRequest, dialect: Dialect) -> None:
    if (request.n or 1) == 1:
        members.pop("n", None)
    if request.reasoning_effort not in dialect.efforts:
        members.pop("reasoning_effort", None)
    if request.logprobs and dialect.least_top_logprobs > (request.top_logprobs or 0):
        members["top_logprobs"] = dialect.least_top_logprobs
    if dialect.name == "transformers" and request.logit_bias:  # it takes no integers
        members["logit_bias"] = {token: float(bias) for token, bias in request.logit_bias.items()}
    mend_llama_sampling(members, request, dialect)


def mend_llama_sampling(members: Members, request: ChatRequest | CompletionRequest, dialect: Dialect) -> None:
    """llama.cpp's ways with seeds and penalties."""
    if dialect.name != "llama-server":
        return
    if request.seed is not None:
        members["seed"] = request.seed % SEEDS
    if request.presence_penalty or request.frequency_penalty:
        members["repeat_last_n"] = PENALISED


def mend_names(members: Members, dialect: Dialect) -> None:
    """The engine's names for members."""
    for name, theirs in dialect.renamed.items():
        if name in members:
            members[theirs] = members.pop(name)


def add_ids(
    members: Members, id: str, dialect: Dialect, salt: str | None, *, prefix: str = "", choices: int = 1
) -> None:
    """The answer's id, where the engine takes one, and what keeps the caches of tenants apart.

    Args:
        members: of the body.
        id: of the answer; an engine that puts something before it puts ``prefix``.
        dialect: whom it is for.
        salt: separates prefix caches; None shares them.
        prefix: what is taken off the id.
        choices: how many the answer has.
    """
    if dialect.request_id is not None and not (dialect.id_per_choice and choices > 1):
        members[dialect.request_id] = id.removeprefix(prefix if dialect.id_prefix else "")
    add_salt(members, dialect, salt)


def add_salt(members: Members, dialect: Dialect, salt: str | None) -> None:
    """What keeps the caches of tenants apart; None shares them."""
    if salt is None:
        return
    if dialect.cache_salt is not None:
        members[dialect.cache_salt] = salt
    members.update(dialect.unsalted)


# Tools ---------------------------------------------------------------------------------------------------------------


def _mend_tools(members: Members, written: dict[str, Raw], request: ChatRequest, dialect: Dialect) -> None:
    legacy = request.functions is not None
    if not legacy and request.tools is None:
        for name in _TOOL_MEMBERS:
            members.pop(name, None)
        return
    choice: Any = request.function_call if legacy else request.tool_choice
    mode = _mode(choice)
    _check_modes(mode, request, dialect, param="function_call" if legacy else "tool_choice")
    if mode == "none" and "none" not in dialect.tool_modes:
        for name in _TOOL_MEMBERS:
            members.pop(name, None)
        return
    members["tools"] = _tools(written, choice, dialect, legacy=legacy)
    _set_choice(members, choice, mode, dialect, legacy=legacy)
    if legacy and dialect.one_call:
        members["parallel_tool_calls"] = False  # the deprecated form has room for one call
    elif not dialect.one_call:
        members.pop("parallel_tool_calls", None)


def _mode(choice: Any) -> str:
    if isinstance(choice, NamedChoice | FunctionName):
        return "named"
    if isinstance(choice, AllowedChoice):
        return choice.allowed_tools.mode
    return choice or "auto"


def _check_modes(mode: str, request: ChatRequest, dialect: Dialect, *, param: str) -> None:
    if mode in {"required", "named"} and mode not in dialect.tool_modes:
        raise InvalidRequest(
            f"Invalid '{param}': the engine of the model '{request.model}' can't be made to call a function; use "
            "'auto' or 'none'.",
            param=param,
            code="unsupported_value",
        )
    if request.parallel_tool_calls is False and not dialect.one_call and mode != "none":
        raise InvalidRequest(
            f"Invalid 'parallel_tool_calls': the engine of the model '{request.model}' can't be held to one call.",
            param="parallel_tool_calls",
            code="unsupported_value",
        )


def _set_choice(members: Members, choice: Any, mode: str, dialect: Dialect, *, legacy: bool) -> None:
    if dialect.tool_modes == {"auto"}:
        members.pop("tool_choice", None)
    elif isinstance(choice, AllowedChoice):
        members["tool_choice"] = mode  # the tools were narrowed to those that are allowed
    elif isinstance(choice, FunctionName):
        members["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif legacy and choice is not None:
        members["tool_choice"] = choice


def _tools(written: dict[str, Raw], choice: Any, dialect: Dialect, *, legacy: bool) -> Raw | list[Json]:
    raw = written["functions" if legacy else "tools"]
    before: list[Json] = _json.decode(raw)
    tools: list[Json] = [{"type": "function", "function": function} for function in before] if legacy else before
    if isinstance(choice, AllowedChoice):
        allowed = {tool.function.name for tool in choice.allowed_tools.tools}
        tools = [tool for tool in tools if tool["function"]["name"] in allowed]
    mended = [_tool(tool["function"], dialect) for tool in tools]
    return raw if mended == before else mended


def _tool(function: Json, dialect: Dialect) -> Json:
    """Arguments that nobody asked to be strict may be anything at all with some engines, so that all are."""
    known = {name: function[name] for name in _present(function, _FUNCTION_MEMBERS)}
    if dialect.strict_tools:
        known.setdefault("parameters", _NO_PARAMETERS)
        known.setdefault("strict", True)
    return {"type": "function", "function": known}


def _present(value: Json, names: Iterable[str]) -> Iterable[str]:
    return (name for name in names if value.get(name) is not None)
