"""Between OpenAI's words and llama.cpp's."""

from __future__ import annotations

from typing import Any

from confide.engine.llama import Event, Logprobs, TokenLogprob, TopLogprob
from confide.engine.llamacpp import PENALISED, SEEDS
from confide.engine.prompt import Plan
from confide.engine.slots import Lease
from confide.errors import ApiError, EngineFailed, InvalidRequest
from confide.wire.answers import LEAST_LOGPROB, FinishReason
from confide.wire.openai import ChatRequest
from confide.wire.texts import CompletionRequest


def reason(reason: str | None) -> FinishReason | None:
    if reason is None:
        return None
    return "length" if reason == "length" else "stop"


def refusal(event: Event, *, param: str = "messages") -> ApiError:
    error = event.error
    assert error is not None
    if error.type == "exceed_context_size_error":
        return too_long(error.n_ctx, str(error.n_prompt_tokens), param=param)
    if 400 <= error.code < 500:
        return InvalidRequest("The engine refused the request.")
    return EngineFailed("The engine failed while it answered.")


def too_long(context: int, tokens: str, *, param: str = "messages") -> InvalidRequest:
    """The error for a prompt that doesn't fit, in the words that agents look for."""
    return InvalidRequest(
        f"This model's maximum context length is {context} tokens. However, your {param} resulted in {tokens} tokens. "
        f"Please reduce the length of the {param}.",
        param=param,
        code="context_length_exceeded",
    )


def logprobs(logprobs: Logprobs | None, request: ChatRequest) -> tuple[dict[str, Any], ...] | None:
    return tokens_of(logprobs, request.top_logprobs or 0) if request.logprobs else None


def tokens_of(logprobs: Logprobs | None, top: int) -> tuple[dict[str, Any], ...]:
    """The tokens of one event, each with so many alternatives."""
    tokens = (logprobs.content if logprobs else None) or ()
    return tuple(
        _token(token) | {"top_logprobs": [_token(alternative) for alternative in token.top_logprobs[:top]]}
        for token in tokens
    )


def _token(token: TokenLogprob | TopLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": max(token.logprob, LEAST_LOGPROB), "bytes": token.bytes}


def payload(request: ChatRequest, planned: Plan, lease: Lease, index: int) -> dict[str, Any]:
    """The body for llama.cpp's route. Members left out have its defaults."""
    payload = _sampling(request, lease, index) | {"messages": planned.messages}
    given = {
        "max_tokens": request.token_limit,
        "chat_template_kwargs": request.chat_template_kwargs,
        "grammar": planned.grammar,
    }
    payload |= {name: value for name, value in given.items() if value is not None}
    if request.logprobs:
        payload |= {"logprobs": True, "top_logprobs": max(request.top_logprobs or 0, 1)}
    if planned.form == "text" and request.stops:
        payload["stop"] = request.stops
    return payload


def text_payload(request: CompletionRequest, prompt: str | list[int], lease: Lease, index: int) -> dict[str, Any]:
    """The same for its route for completions of texts."""
    payload = _sampling(request, lease, index) | {"prompt": prompt, "max_tokens": request.limit}
    if request.logprobs is not None:
        payload["logprobs"] = max(request.logprobs, 1)
    if request.stops:
        payload["stop"] = request.stops
    return payload


def _sampling(request: ChatRequest | CompletionRequest, lease: Lease, index: int) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
        "id_slot": lease.slot,
        "cache_prompt": lease.warm,
    }
    given = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": None if request.top_k is None else max(request.top_k, 0),
        "min_p": request.min_p,
        "typical_p": request.typical_p,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repeat_penalty": request.repetition_penalty or request.repeat_penalty,
        "ignore_eos": request.ignore_eos,
        "seed": None if request.seed is None else (request.seed + index) % SEEDS,
        "logit_bias": [[int(key), bias] for key, bias in (request.logit_bias or {}).items()] or None,
    }
    payload |= {name: value for name, value in given.items() if value is not None}
    if request.presence_penalty or request.frequency_penalty:
        payload["repeat_last_n"] = PENALISED
    return payload
