"""What engines write on the endpoints beside chat completions: shapes, extra members, order and quirks as theirs.

Sources, read 2026-11: vLLM 0.32.0 ``entrypoints/openai/{completion,responses}/serving.py``,
``entrypoints/anthropic/serving.py``, ``entrypoints/pooling/embed/serving.py``; SGLang ``protocol.py``; what llama.cpp
build 11549 answered when asked; Ollama ``openai/openai.go``. As in :mod:`tests.simulator.engine_dialects` they say
:data:`~tests.simulator.engine_dialects.TEXT`.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Iterator
from typing import Any, Final

from tests.simulator.engine_dialects import CREATED, MODEL, PROMPT_TOKENS, TEXT, Json

COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"
RESPONSES: Final = "/v1/responses"
MESSAGES: Final = "/v1/messages"

ROUTES: Final[dict[str, frozenset[str]]] = {
    "vllm": frozenset({COMPLETIONS, RESPONSES, MESSAGES}),
    "sglang": frozenset({COMPLETIONS, RESPONSES, MESSAGES, EMBEDDINGS}),
    "llama-server": frozenset({COMPLETIONS, RESPONSES, MESSAGES}),
    "ollama": frozenset({COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES}),
    "transformers": frozenset(),
    "openai": frozenset({COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES}),
}
"""Which of them answer where, when they serve a model that chats."""

NAMED: Final = frozenset({RESPONSES, MESSAGES})
"""Where streams are named events, without ``[DONE]``."""


def pieces(body: Json, text: str) -> list[str]:
    """The tokens that are said, and whether the limit cut them."""
    limit = body.get("max_output_tokens") or body.get("max_tokens") or 10_000
    stop = body.get("stop") or []
    for mark in [stop] if isinstance(stop, str) else stop:
        text = text.partition(mark)[0]
    return re.findall(r"\s*\S+", text)[:limit]


def reason(body: Json, said: list[str], text: str) -> str:
    """Why it ended."""
    return "length" if "".join(said) != text and not body.get("stop") else "stop"


# Completions ---------------------------------------------------------------------------------------------------------


def _prompts(body: Json) -> int:
    prompt = body["prompt"]
    return len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1


def _head(dialect: str, body: Json) -> Json:
    names = {"vllm": f"cmpl-{body.get('request_id', 'f00d')}", "sglang": body.get("rid", "0123")}
    model = "tiny-1.gguf" if dialect == "llama-server" else body["model"]
    return {"id": names.get(dialect, "cmpl-118"), "object": "text_completion", "created": CREATED, "model": model}


def _logprobs(dialect: str, body: Json, said: list[str], offset: int) -> Json | None:
    if body.get("logprobs") is None:
        return None
    if dialect == "llama-server":
        one = [{"id": 7, "token": piece, "bytes": [1], "logprob": -0.25} for piece in said]
        return {"content": [{**token, "top_logprobs": [token]} for token in one]}
    offsets = [offset + len("".join(said[:place])) for place in range(len(said))]
    return {
        "text_offset": offsets,
        "token_logprobs": [-0.25] * len(said),
        "tokens": said,
        "top_logprobs": [{piece: -0.25} for piece in said],
    }


def _usage(body: Json, spent: int) -> Json:
    prompt = PROMPT_TOKENS * _prompts(body)
    return {"prompt_tokens": prompt, "total_tokens": prompt + spent, "completion_tokens": spent}


def _choice(dialect: str, index: int, text: str, logprobs: Json | None, finish: str | None) -> Json:
    choice: Json = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
    if dialect == "vllm":
        choice |= {"stop_reason": None, "prompt_token_ids": None, "token_ids": None}
    elif dialect == "sglang":
        choice |= {"matched_stop": 2 if finish else None}
    return choice


def text_stream(dialect: str, body: Json, text: str) -> Iterator[Json]:
    """The chunks of completions of texts."""
    head, said = _head(dialect, body), pieces(body, text)
    count = _prompts(body) * (body.get("n") or 1)
    spent = {"usage": _usage(body, count * len(said))}
    for index in range(count):
        for place, piece in enumerate(said):
            last = place == len(said) - 1 and dialect != "llama-server"
            logprobs = _logprobs(dialect, body, [piece], len("".join(said[:place])))
            finish = reason(body, said, text) if last else None
            yield {**head, "choices": [_choice(dialect, index, piece, logprobs, finish)]}
        if dialect == "llama-server":
            ended = {"choices": [_choice(dialect, index, "", None, reason(body, said, text))], **spent}
            yield {**head, **ended, "timings": {"prompt_ms": 1.5}}
    if (body.get("stream_options") or {}).get("include_usage") and dialect != "llama-server":
        yield {**head, "choices": [], **spent}


def text_whole(dialect: str, body: Json, text: str) -> Json:
    """The same in one piece."""
    said = pieces(body, text)
    count = _prompts(body) * (body.get("n") or 1)
    choices = [
        _choice(dialect, index, "".join(said), _logprobs(dialect, body, said, 0), reason(body, said, text))
        for index in range(count)
    ]
    answer = {**_head(dialect, body), "choices": choices, "usage": _usage(body, count * len(said))}
    if dialect == "vllm":
        for choice in choices:
            choice |= {"prompt_logprobs": None, "routed_experts": None}
        answer |= {"service_tier": None, "system_fingerprint": None, "kv_transfer_params": None, "metrics": None}
    elif dialect == "sglang":
        answer["metadata"] = {"weight_version": "default"}
    elif dialect == "llama-server":
        answer |= {"system_fingerprint": "b11434-abcdef", "timings": {"prompt_ms": 1.5}}
    return answer


# Embeddings ----------------------------------------------------------------------------------------------------------

VECTOR: Final = [0.5, -0.25, 1.0]


def embeddings(dialect: str, body: Json) -> Json:
    """A vector for each input, longer by one each time. SGLang gives numbers whatever the format."""
    given = body["input"]
    count = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    data = []
    for index in range(count):
        vector: Any = [*VECTOR[: body.get("dimensions") or 3], *([0.0] * index)]
        if body.get("encoding_format") == "base64" and dialect != "sglang":
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"index": index, "object": "embedding", "embedding": vector})
    usage: Json = {"prompt_tokens": count * 4, "total_tokens": count * 4}
    answer: Json = {"object": "list", "model": body["model"], "data": data, "usage": usage}
    if dialect == "vllm":
        answer |= {"id": f"embd-{body.get('request_id', 'f00d')}", "created": CREATED}
        usage |= {"completion_tokens": 0, "prompt_tokens_details": None}
    return answer


# Responses -----------------------------------------------------------------------------------------------------------


def _response(body: Json, status: str, output: list[Json], usage: Json | None) -> Json:
    """All of vLLM's members, most of them null."""
    return {
        "id": body.get("request_id", "resp_f00d"),
        "created_at": CREATED,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.get("instructions"),
        "metadata": None,
        "model": body["model"],
        "object": "response",
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": body.get("tool_choice", "none"),
        "tools": body.get("tools", []),
        "top_p": 1.0,
        "background": False,
        "max_output_tokens": body.get("max_output_tokens") or 4000,
        "max_tool_calls": None,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": None,
        "service_tier": "auto",
        "status": status,
        "text": body.get("text"),
        "top_logprobs": None,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "input_messages": None,
        "output_messages": None,
    }


def _output(body: Json, text: str) -> tuple[str, list[Json], Json]:
    """Status, items and usage: a call of the first function where there is one, and else text."""
    said = pieces(body, text)
    usage = {
        "input_tokens": PROMPT_TOKENS,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": len(said),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": PROMPT_TOKENS + len(said),
    }
    if body.get("tools") and body.get("tool_choice") != "none":
        call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": body["tools"][0]["name"]}
        return "completed", [{**call, "arguments": "{}", "status": "completed", "namespace": None}], usage
    part: dict[str, Any] = {"type": "output_text", "text": "".join(said), "annotations": [], "logprobs": None}
    item = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
        "phase": None,
    }
    return ("incomplete" if reason(body, said, text) == "length" else "completed"), [item], usage


def response_whole(body: Json, text: str) -> Json:
    """The response as vLLM writes it."""
    return _response(body, *_output(body, text))


def response_stream(body: Json, text: str) -> Iterator[Json]:
    """Its events."""
    status, output, usage = _output(body, text)
    started = _response(body, "in_progress", [], None)
    yield {"type": "response.created", "response": started}
    yield {"type": "response.in_progress", "response": started}
    (item,) = output
    if item["type"] == "function_call":
        at = {"output_index": 0, "item_id": item["id"]}
        yield {"type": "response.output_item.added", "output_index": 0, "item": {**item, "arguments": ""}}
        yield {"type": "response.function_call_arguments.delta", **at, "delta": "{}"}
        yield {"type": "response.function_call_arguments.done", **at, "arguments": "{}", "name": item["name"]}
    else:
        at = {"output_index": 0, "item_id": item["id"], "content_index": 0}
        yield {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "content": [], "status": "in_progress"},
        }
        yield {"type": "response.content_part.added", **at, "part": {**item["content"][0], "text": "", "logprobs": []}}
        for piece in pieces(body, text):
            yield {"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []}
        yield {"type": "response.output_text.done", **at, "text": item["content"][0]["text"], "logprobs": []}
        yield {"type": "response.content_part.done", **at, "part": item["content"][0]}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": "response.completed", "response": _response(body, status, output, usage)}


# Messages ------------------------------------------------------------------------------------------------------------


def _blocks(body: Json, text: str) -> tuple[list[Json], str]:
    said = pieces(body, text)
    if body.get("tools") and (body.get("tool_choice") or {}).get("type") != "none":
        return [{"type": "tool_use", "id": "call_1", "name": body["tools"][0]["name"], "input": {}}], "tool_use"
    limit = {"length": "max_tokens", "stop": "end_turn"}
    return [{"type": "text", "text": "".join(said)}], limit[reason(body, said, text)]


def message_whole(body: Json, text: str) -> Json:
    """The message as vLLM writes it: without what is null."""
    blocks, ended = _blocks(body, text)
    return {
        "id": "chatcmpl-a8f0",
        "type": "message",
        "role": "assistant",
        "content": blocks,
        "model": body["model"],
        "stop_reason": ended,
        "usage": {"input_tokens": PROMPT_TOKENS, "output_tokens": len(pieces(body, text))},
    }


def message_stream(body: Json, text: str) -> Iterator[Json]:
    """Its events."""
    blocks, ended = _blocks(body, text)
    begun = message_whole(body, text) | {"content": [], "stop_reason": None, "stop_sequence": None}
    yield {"type": "message_start", "message": begun | {"usage": {"input_tokens": PROMPT_TOKENS, "output_tokens": 0}}}
    (block,) = blocks
    empty = {**block, "text": ""} if block["type"] == "text" else block
    yield {"index": 0, "type": "content_block_start", "content_block": empty}
    if block["type"] == "text":
        for piece in pieces(body, text):
            yield {"index": 0, "type": "content_block_delta", "delta": {"type": "text_delta", "text": piece}}
    else:
        yield {"index": 0, "type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{}"}}
    yield {"index": 0, "type": "content_block_stop"}
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": len(pieces(body, text))}
    yield {"type": "message_delta", "delta": {"stop_reason": ended, "stop_sequence": None}, "usage": usage}
    yield {"type": "message_stop"}


# All -----------------------------------------------------------------------------------------------------------------


def whole(dialect: str, path: str, body: Json, text: str = TEXT) -> Json:
    """The body of an answer that isn't streamed."""
    if path == COMPLETIONS:
        return text_whole(dialect, body, text)
    if path == EMBEDDINGS:
        return embeddings(dialect, body)
    return response_whole(body, text) if path == RESPONSES else message_whole(body, text)


def stream(dialect: str, path: str, body: Json, text: str = TEXT) -> list[Any]:
    """The payloads of a stream: JSON values, and events as bytes where they have names."""
    if path == COMPLETIONS:
        return list(text_stream(dialect, body, text))
    events = list(response_stream(body, text) if path == RESPONSES else message_stream(body, text))
    if path == RESPONSES:
        events = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    return [named(event) for event in events]


def named(event: Json) -> bytes:
    """An event with its name."""
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), data)


def read_named(events: list[bytes]) -> list[Json]:
    """The other way."""
    return [json.loads(event.partition(b"\ndata: ")[2]) for event in events]


__all__ = ["COMPLETIONS", "EMBEDDINGS", "MESSAGES", "MODEL", "NAMED", "RESPONSES", "ROUTES", "stream", "whole"]
