"""What five real engines write, made up from nothing but a request: shapes, extra members, order and quirks as theirs.

Sources, read 2026-11: vLLM 0.32.0 ``entrypoints/openai/chat_completion/serving.py``; SGLang 0.5.23
``srt/entrypoints/openai/{serving_chat,sse_utils}.py``; llama.cpp ``tools/server/server-task.cpp``; Ollama
``openai/openai.go`` and ``middleware/openai.go``; transformers 5.23 ``cli/serving/chat_completion.py``. They answer
as a model would that always says :data:`TEXT`, or, where a schema stands in the request, the least that fits it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

TEXT: Final = "Grüße! It is a quiet day, and nothing of note has happened."
MODEL: Final = "acme/tiny-1"
CONTEXT: Final = 4096
CREATED: Final = 1_760_000_000
PROMPT_TOKENS: Final = 9
IMAGE: Final = {"has_image_understanding": True, "is_generation": True}

Json = dict[str, Any]


def instance(schema: Any) -> Any:
    """The least that fits a schema of the kinds that the tests use."""
    if not isinstance(schema, dict):
        return {}
    if "$ref" in schema or "allOf" in schema:
        return {}
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return instance(schema["anyOf"][0])
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: instance(properties[name]) for name in schema.get("required", list(properties))}
    if kind == "array":
        return [instance(schema.get("items", {})) for _ in range(schema.get("minItems", 0))]
    return {"string": "x" * schema.get("minLength", 1), "integer": schema.get("minimum", 1)}.get(
        kind, {"number": schema.get("minimum", 1.5), "boolean": True}.get(kind)
    )


@dataclass(frozen=True)
class Said:
    """What one choice says."""

    pieces: tuple[str, ...]
    calls: tuple[tuple[str, str], ...] = ()
    reasoning: tuple[str, ...] = ()
    cut: bool = False

    @property
    def tokens(self) -> int:
        """As many as there are pieces."""
        return len(self.pieces) + len(self.reasoning) + 3 * len(self.calls)

    @property
    def reason(self) -> str:
        """Why it ended."""
        return "length" if self.cut else "tool_calls" if self.calls else "stop"


def say(body: Json, *, text: str, calls: tuple[tuple[str, str], ...] | None, reasoning: str) -> Said:
    """What a choice says to a request. ``calls`` are made where they are given, and where the request forces one."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 10_000
    tools = {tool["function"]["name"]: tool["function"].get("parameters") for tool in body.get("tools") or ()}
    choice = body.get("tool_choice")
    if calls is None and (choice == "required" or isinstance(choice, dict)):
        name = choice["function"]["name"] if isinstance(choice, dict) else next(iter(tools))
        calls = ((name, json.dumps(instance(tools[name] or {}))),)
    thoughts = tuple(_pieces(reasoning))
    if calls and tools and choice != "none":
        return Said((), calls, thoughts)
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        text = json.dumps(instance(wanted["json_schema"].get("schema")))
    elif wanted.get("type") == "json_object":
        text = "{}"
    stop = body.get("stop") or []
    for mark in [stop] if isinstance(stop, str) else stop:
        text = text.partition(mark)[0]
    pieces = tuple(_pieces(text))
    return Said(pieces[:limit], (), thoughts, cut=len(pieces) > limit)


def _pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+", text)


def token(piece: str, body: Json) -> Json:
    """A token's logprobs, as OpenAI writes them."""
    top = body.get("top_logprobs") or 0
    one = {"token": piece, "logprob": -0.25, "bytes": list(piece.encode())}
    others = [one, *({"token": f"o{i}", "logprob": -1.0 - i, "bytes": [111, 48 + i % 10]} for i in range(20))]
    return {**one, "top_logprobs": others[:top]}


# Streams -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A request, and what its choices say."""

    body: Json
    said: list[Said]

    @property
    def usage(self) -> Json:
        """The three numbers."""
        spent = sum(one.tokens for one in self.said)
        return {
            "prompt_tokens": PROMPT_TOKENS,
            "total_tokens": PROMPT_TOKENS + spent,
            "completion_tokens": spent,
        }

    @property
    def wants_usage(self) -> bool:
        """Whether the stream shall end with it."""
        return bool((self.body.get("stream_options") or {}).get("include_usage"))

    @property
    def named(self) -> bool:
        """Whether one function is forced by name."""
        return isinstance(self.body.get("tool_choice"), dict)


def vllm_stream(asked: Asked) -> Iterator[Json]:
    """Roles of all choices first; tool calls without arguments first; the finish reason ``stop`` for a named call."""
    head = {
        "id": f"chatcmpl-{asked.body.get('request_id', 'f00d')}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": asked.body["model"],
    }

    def chunk(index: int, delta: Json, finish: str | None = None, **more: Any) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish, **more}
        return {**head, "choices": [choice]}

    for index in range(len(asked.said)):
        yield chunk(index, {"role": "assistant", "content": ""}) | {"prompt_token_ids": None, "prompt_text": None}
    for index, said in enumerate(asked.said):
        for thought in said.reasoning:
            yield chunk(index, {"reasoning": thought}, token_ids=None)
        for place, (name, arguments) in enumerate(said.calls):
            started = {"id": f"chatcmpl-tool-{index}{place}", "type": "function", "index": place}
            yield chunk(index, {"tool_calls": [started | {"function": {"name": name}}]}, token_ids=None)
            for part in (arguments[:4], arguments[4:]):
                yield chunk(index, {"tool_calls": [{"index": place, "function": {"arguments": part}}]}, token_ids=None)
        *rest, last = said.pieces or ("",)
        for piece in rest:
            one = chunk(index, {"content": piece}, token_ids=None)
            if asked.body.get("logprobs"):
                one["choices"][0]["logprobs"] = {"content": [token(piece, asked.body)]}
            yield one
        reason = "stop" if asked.named and said.calls else said.reason
        final = chunk(index, {"content": last} if last else {}, reason, stop_reason=None, token_ids=None)
        if asked.body.get("logprobs") and last:
            final["choices"][0]["logprobs"] = {"content": [token(last, asked.body)]}
        yield final
    if asked.wants_usage:
        yield {**head, "choices": [], "usage": asked.usage}


def sglang_stream(asked: Asked) -> Iterator[Json]:
    """Nulls everywhere, reasoning as ``reasoning_content``, ``matched_stop``; finish reasons last, together."""
    rid = asked.body.get("rid", "0123")
    many = len(asked.said) > 1

    def chunk(index: int, delta: Json, finish: str | None = None, **more: Any) -> Json:
        full = {"role": None, "content": None, "reasoning_content": None} | delta
        return {
            "id": f"{rid}_{index}" if many else rid,
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": asked.body["model"],
            "choices": [
                {"index": index, "delta": full, "logprobs": None, "finish_reason": finish, "matched_stop": None, **more}
            ],
            "usage": None,
        }

    for index, said in enumerate(asked.said):
        yield chunk(index, {"role": "assistant", "content": ""})
        for thought in said.reasoning:
            yield chunk(index, {"reasoning_content": thought})
        for place, (name, arguments) in enumerate(said.calls):
            call = {"id": f"call_{index}{place}", "index": place, "type": "function"}
            yield chunk(index, {"tool_calls": [call | {"function": {"name": name, "arguments": ""}}]})
            call = {"id": None, "index": place, "type": "function"}
            yield chunk(index, {"tool_calls": [call | {"function": {"name": None, "arguments": arguments}}]})
        for piece in said.pieces:
            one = chunk(index, {"content": piece})
            if asked.body.get("logprobs"):
                one["choices"][0]["logprobs"] = {"content": [token(piece, asked.body)]}
            yield one
    for index, said in enumerate(asked.said):
        yield chunk(index, {}, said.reason, matched_stop=2)
    if asked.wants_usage:
        details = {"reasoning_tokens": sum(len(said.reasoning) for said in asked.said), "prompt_tokens_details": None}
        yield chunk(0, {}) | {"choices": [], "usage": asked.usage | details}


def llama_stream(asked: Asked) -> Iterator[Json]:
    """Ids of its own, content null with the role, ``created`` that moves, timings, one usage chunk per choice."""
    clock = itertools.count(CREATED)

    def chunk(index: int, delta: Json, finish: str | None = None, **more: Any) -> Json:
        return {
            "choices": [{"finish_reason": finish, "index": index, "delta": delta, **more}],
            "created": next(clock),
            "id": "chatcmpl-oKUZyBOKSwyDlg3yGLqC7E2JTXVCJJBw",
            "model": "tiny-1.gguf",
            "system_fingerprint": "b11434-abcdef",
            "object": "chat.completion.chunk",
        }

    for index, said in reversed(list(enumerate(asked.said))):  # the other one came first, when it was tried
        yield chunk(index, {"role": "assistant", "content": None})
        for thought in said.reasoning:
            yield chunk(index, {"reasoning_content": thought})
        for place, (name, arguments) in enumerate(said.calls):
            call = {"index": place, "id": f"Kxz{index}{place}", "type": "function"}
            yield chunk(index, {"tool_calls": [call | {"function": {"name": name, "arguments": arguments[:3]}}]})
            yield chunk(index, {"tool_calls": [{"index": place, "function": {"arguments": arguments[3:]}}]})
        for piece in said.pieces:
            more: Json = {}
            if asked.body.get("logprobs") and asked.body.get("top_logprobs", 20):
                full = token(piece, {"top_logprobs": asked.body.get("top_logprobs", 20)})
                more = {"logprobs": {"content": [{"id": 7} | full]}}
            yield chunk(index, {"content": piece}, **more)
        yield chunk(index, {}, said.reason)
        if asked.wants_usage:
            alone = Asked(asked.body, [said]).usage
            yield chunk(index, {}) | {"choices": [], "usage": alone, "timings": {"prompt_ms": 1.5}}


def ollama_stream(asked: Asked) -> Iterator[Json]:
    """An id out of 999; calls whole, in one piece; a finish chunk without anything else."""
    said = asked.said[0]

    def chunk(delta: Json, finish: str | None = None) -> Json:
        return {
            "id": "chatcmpl-118",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": asked.body["model"],
            "system_fingerprint": "fp_ollama",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }

    roles = itertools.chain([{"role": "assistant"}], itertools.repeat({}))
    for thought in said.reasoning:
        yield chunk(next(roles) | {"reasoning": thought})
    if said.calls:
        made = [
            {"id": f"call_o{place}", "index": place, "type": "function", "function": {"name": name, "arguments": text}}
            for place, (name, text) in enumerate(said.calls)
        ]
        yield chunk(next(roles) | {"content": "", "tool_calls": made})
    for piece in said.pieces:
        one = chunk(next(roles) | {"content": piece})
        if asked.body.get("logprobs"):
            one["choices"][0]["logprobs"] = {"content": [token(piece, asked.body)]}
        yield one
    yield chunk({}, said.reason)
    if asked.wants_usage:
        yield chunk({}) | {"choices": [], "usage": asked.usage}


def transformers_stream(asked: Asked) -> Iterator[Json]:
    """No member that is null, an empty fingerprint, usage in the finish chunk whoever asked, and no ``[DONE]``."""
    said = asked.said[0]

    def chunk(delta: Json, finish: str | None = None) -> Json:
        choice = {"delta": delta, "index": 0} | ({"finish_reason": finish} if finish else {})
        return {
            "id": "6c5c1e9b",
            "choices": [choice],
            "created": CREATED,
            "model": asked.body["model"],
            "object": "chat.completion.chunk",
            "system_fingerprint": "",
        }

    yield chunk({"role": "assistant"})
    for thought in said.reasoning:
        yield chunk({"reasoning_content": thought})
    for place, (name, arguments) in enumerate(said.calls):
        call = {"index": place, "id": f"6c5c1e9b_tool_call_{place}", "type": "function"}
        yield chunk({"tool_calls": [call | {"function": {"name": name, "arguments": arguments}}]})
    for piece in said.pieces:
        yield chunk({"content": piece})
    yield chunk({}, said.reason) | {"usage": asked.usage}


# Whole answers -------------------------------------------------------------------------------------------------------


def whole(dialect: str, asked: Asked) -> Json:
    """The body of an answer that isn't streamed."""
    choices = [_choice(dialect, asked, index, said) for index, said in enumerate(asked.said)]
    body: Json = {
        "id": "chatcmpl-118",
        "object": "chat.completion",
        "created": CREATED,
        "model": asked.body["model"],
        "choices": choices,
        "usage": asked.usage,
    }
    if dialect == "vllm":
        body["id"] = f"chatcmpl-{asked.body.get('request_id', 'f00d')}"
        body |= {"service_tier": None, "system_fingerprint": None, "prompt_logprobs": None, "prompt_token_ids": None}
        body |= {"prompt_text": None, "kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
        body["usage"] = asked.usage | {"prompt_tokens_details": None, "completion_tokens_details": None}
    elif dialect == "sglang":
        body["id"] = asked.body.get("rid", "0123")
        body["metadata"] = {"weight_version": "default"}
        body["usage"] = asked.usage | {"prompt_tokens_details": None, "reasoning_tokens": 0}
    elif dialect == "llama-server":
        alone = Asked(asked.body, asked.said[:1]).usage
        body |= {"model": "tiny-1.gguf", "system_fingerprint": "b11434-abcdef", "usage": alone}
        body["timings"] = {"prompt_ms": 1.5}
    elif dialect == "ollama":
        body["system_fingerprint"] = "fp_ollama"
    return body


def _choice(dialect: str, asked: Asked, index: int, said: Said) -> Json:
    message: Json = {"role": "assistant", "content": "".join(said.pieces)}
    if said.reasoning:
        message["reasoning" if dialect in {"vllm", "ollama"} else "reasoning_content"] = "".join(said.reasoning)
    if said.calls:
        message["tool_calls"] = [
            {"id": f"chatcmpl-tool-{index}{place}", "type": "function", "function": {"name": name, "arguments": text}}
            for place, (name, text) in enumerate(said.calls)
        ]
    reason = "stop" if dialect == "vllm" and asked.named and said.calls else said.reason
    choice: Json = {"index": index, "message": message, "finish_reason": reason}
    if dialect == "vllm":
        message |= {"refusal": None, "annotations": None, "audio": None, "function_call": None}
        message.setdefault("reasoning", None)
        choice |= {"logprobs": None, "stop_reason": None, "token_ids": None, "routed_experts": None}
    elif dialect == "sglang":
        message.setdefault("reasoning_content", None)
        message.setdefault("tool_calls", None)
        choice |= {"logprobs": None, "matched_stop": 2}
    if asked.body.get("logprobs") and (dialect != "llama-server" or asked.body.get("top_logprobs", 20)):
        wanted = asked.body if dialect != "llama-server" else {"top_logprobs": asked.body.get("top_logprobs", 20)}
        choice["logprobs"] = {"content": [token(piece, wanted) for piece in said.pieces]}
    return choice


STREAMS: Final = {
    "vllm": vllm_stream,
    "sglang": sglang_stream,
    "llama-server": llama_stream,
    "ollama": ollama_stream,
    "transformers": transformers_stream,
    "openai": vllm_stream,
}


# What they say of themselves, and of mistakes ------------------------------------------------------------------------

_OWNERS: Final = {"sglang": "sglang", "llama-server": "llamacpp", "ollama": "library", "transformers": "acme"}


def pages(dialect: str) -> dict[str, Any]:
    """The answers to GET, and to Ollama's POST of a model's name."""
    model: Json = {"id": MODEL, "object": "model", "created": CREATED, "owned_by": _OWNERS.get(dialect, "vllm")}
    if dialect in {"vllm", "sglang"}:
        model |= {"root": "/models/secret-folder/tiny-1", "parent": None, "max_model_len": CONTEXT}
    if dialect == "openai":
        model |= {"owned_by": "somebody", "context_length": CONTEXT}
    found: dict[str, Any] = {"/v1/models": {"object": "list", "data": [model]}}
    if dialect == "vllm":
        found |= {"/health": b"", "/version": {"version": "0.32.0"}}
    elif dialect == "sglang":
        found |= {"/health": b"", "/server_info": {"version": "0.5.23", "api_key": None}, "/model_info": IMAGE}
    elif dialect == "llama-server":
        model["meta"] = {"vocab_type": 2, "n_ctx_train": 131072}
        found["/health"] = {"status": "ok"}
        found["/props"] = {
            "default_generation_settings": {"n_ctx": CONTEXT},
            "total_slots": 2,
            "model_path": "/models/secret-folder/tiny-1.gguf",
            "modalities": {"vision": True, "audio": False},
            "chat_template_caps": {"supports_tools": True, "supports_parallel_tool_calls": True},
            "build_info": "b11434-abcdef",
        }
    elif dialect == "ollama":
        found["/api/version"] = {"version": "0.21.0"}
        found["/api/show"] = {
            "capabilities": ["completion", "vision", "tools"],
            "model_info": {"llama.context_length": CONTEXT},
        }
    elif dialect == "transformers":
        found["/health"] = {"status": "ok"}
    return found


def refusal(dialect: str, status: int, message: str) -> Any:
    """The body of an error, in the shape that the engine gives it."""
    if dialect == "sglang":
        if status == 401:
            return {"error": "Unauthorized"}
        return {"object": "error", "message": message, "type": "BadRequest", "param": None, "code": status}
    if dialect == "vllm":
        if status == 401:
            return {"error": "Unauthorized"}
        return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}
    if dialect == "llama-server":
        kind = {400: "invalid_request_error", 401: "authentication_error"}.get(status, "server_error")
        return {"error": {"code": status, "message": message, "type": kind}}
    if dialect == "transformers":
        return {"detail": message}
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


TRANSFORMERS_KNOWS: Final = frozenset(
    {"chat_template_kwargs", "frequency_penalty", "generation_config", "logit_bias", "max_tokens", "messages", "model"}
    | {"prompt_cache_key", "safety_identifier", "seed", "stop", "stream", "temperature", "tools", "top_p", "verbosity"}
)
