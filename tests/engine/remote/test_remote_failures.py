from __future__ import annotations

import json
from typing import Any

import pytest
from tests.engine.remote.asking import SECRET
from tests.simulator.engine_dialects import refusal

from confide.engine.remote.dialect import DIALECTS
from confide.engine.remote.failures import LONGEST_BODY, from_engine, from_event
from confide.errors import ApiError, EngineFailed, InvalidRequest, TooManyRequests, Unavailable

LEAK = f"{SECRET} at /models/secret-folder/weights.bin on 10.1.2.3:8000"

VLLM_TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens, "
    f"which exceeds this limit even without any output tokens. {LEAK}"
)
SGLANG_TOO_LONG = (
    "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of 4097 "
    f"tokens: 4000 tokens from the input messages and 97 tokens for the completion. {LEAK}"
)
OLLAMA_TOO_LONG = "the prompt is longer than the context length currently available to the model; shorten the prompt"
LLAMA_TOO_LONG = {
    "error": {
        "code": 400,
        "message": "request (4097 tokens) exceeds the available context size (4096 tokens), try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 4097,
        "n_ctx": 4096,
    }
}


def told(status: int, body: Any, name: str = "vllm", **more: Any) -> ApiError:
    """The error for the client, which never holds what the engine may have quoted."""
    written = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = from_engine(status, written, DIALECTS[name], **more)
    text = json.dumps(error.body())
    assert not any(leak in text for leak in (SECRET, "/models", "10.1.2.3", "Traceback"))
    assert len(text) < 600
    return error


# Shapes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("status", [400, 413, 422, 501])
def test_a_request_that_the_engine_refuses(name: str, status: int) -> None:
    error = told(status, refusal(name, status, LEAK), name)
    assert isinstance(error, InvalidRequest)
    assert (error.status, error.type) == (400, "invalid_request_error")


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("status", [401, 403, 404, 405, 408, 409, 415, 302, 100, 500, 502, 504])
def test_whatever_is_not_the_clients_mistake(name: str, status: int) -> None:
    assert isinstance(told(status, refusal(name, status, LEAK), name), EngineFailed)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"7",
        b"<html>" + LEAK.encode() + b"</html>",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        {"detail": [{"loc": ["body", "messages"], "msg": LEAK, "input": LEAK}]},
        {"detail": LEAK},
        {"error": LEAK},
        {"error": {"message": {"x": LEAK}, "code": True}},
        {"error": {"message": None}},
        {"error": []},
        {"error": {"message": LEAK * 100_000}},
    ],
)
@pytest.mark.parametrize("status", [400, 422, 500])
def test_bodies_of_any_shape(body: Any, status: int) -> None:
    error = told(status, body)
    assert isinstance(error, InvalidRequest if status < 500 else EngineFailed)


def test_a_huge_body_takes_no_time() -> None:
    told(400, (b"maximum context length is " * 100_000)[:LONGEST_BODY])
    told(500, (b"requires tool choice " * 100_000)[:LONGEST_BODY], "llama-server")


# Room ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "kind"), [(429, TooManyRequests), (503, Unavailable)])
@pytest.mark.parametrize(
    ("given", "written"),
    [(None, "5"), ("7", "7"), ("0", "1"), ("9999", "3600"), ("99999", "5"), ("soon", "5"), ("1\r\nX: y", "5")],
)
def test_when_to_come_back(status: int, kind: type[ApiError], given: str | None, written: str) -> None:
    error = told(status, {"error": {"message": LEAK}}, retry_after=given)
    assert isinstance(error, kind)
    assert error.headers == {"Retry-After": written}


# The context's length ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body", "context", "tokens"),
    [
        ("vllm", refusal("vllm", 400, VLLM_TOO_LONG), 4096, 4097),
        ("sglang", refusal("sglang", 400, SGLANG_TOO_LONG), 4096, 4097),
        ("llama-server", LLAMA_TOO_LONG, 4096, 4097),
        ("ollama", refusal("ollama", 400, OLLAMA_TOO_LONG), None, None),
        ("vllm", refusal("vllm", 400, "prompt (length 5) is longer than the maximum model length of 4."), 4, 5),
        (
            "sglang",
            refusal("sglang", 400, "The input (5 tokens) is longer than the model's context length (4 tokens)."),
            4,
            5,
        ),
    ],
)
def test_prompts_that_are_too_long(name: str, body: Any, context: int | None, tokens: int | None) -> None:
    error = told(400, body, name)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")
    assert "maximum context length" in error.message
    assert context is None or f"maximum context length is {context} tokens" in error.message
    assert tokens is None or f"resulted in {tokens} tokens" in error.message


# What is known -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status", "message", "param", "code"),
    [
        (
            "vllm",
            400,
            "max_completion_tokens=1100 cannot be greater than max_model_len=1024. Please request fewer output tokens.",
            "max_tokens",
            "integer_above_max_value",
        ),
        ("vllm", 400, "n must be 1 when using greedy sampling, got 2.", "n", "invalid_value"),
        ("vllm", 400, "top_p must be in (0, 1], got 0.0.", "top_p", "decimal_below_min_value"),
        (
            "vllm",
            400,
            "Requested sample logprobs of 20, which is greater than max allowed: 5",
            "top_logprobs",
            "integer_above_max_value",
        ),
        (
            "vllm",
            400,
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
            "tools",
            "unsupported_parameter",
        ),
        ("vllm", 400, "At most 1 image(s) may be provided in one prompt.", "messages", "unsupported_value"),
        ("vllm", 400, "acme/tiny is not a multimodal model", "messages", "unsupported_value"),
        ("sglang", 400, "Model only supports text input; received image_url", "messages", "unsupported_value"),
        ("llama-server", 500, "image input is not supported - hint: mmproj", "messages", "unsupported_value"),
        ("llama-server", 500, "[json.exception.parse_error.101] arguments: syntax error", "messages", "invalid_value"),
        ("llama-server", 500, "n_cmpl cannot be greater than the number of slots", "n", "integer_above_max_value"),
        ("llama-server", 400, "logprobs is not supported with tools + stream", "logprobs", "unsupported_value"),
        ("llama-server", 500, "Error: failed to parse grammar", "response_format", "invalid_json_schema"),
        (
            "llama-server",
            400,
            "Unable to generate parser for this template. JSON schema error at #: unrecognized type",
            "response_format",
            "invalid_json_schema",
        ),
        ("vllm", 400, "Conversation roles must alternate user/assistant", "messages", "invalid_value"),
        ("ollama", 400, f"{LEAK} does not support tools", "tools", "unsupported_parameter"),
        ("vllm", 400, f"cannot identify image file {LEAK}", "messages", "image_parse_error"),
    ],
)
def test_messages_that_are_known(name: str, status: int, message: str, param: str, code: str) -> None:
    error = told(status, refusal(name, status, message), name)
    assert isinstance(error, InvalidRequest)
    assert (error.param, error.code) == (param, code)


def test_numbers_are_told() -> None:
    error = told(400, refusal("vllm", 400, "logprobs of 20, which is greater than max allowed: 5"))
    assert error.message.endswith("Expected a value <= 5, but got 20 instead.")


def test_only_llama_server_calls_mistakes_its_own() -> None:
    body = {"error": {"message": "[json.exception.type_error.302] type must be string, but is number", "code": 500}}
    assert isinstance(told(500, body, "llama-server"), InvalidRequest)
    assert isinstance(told(500, body, "vllm"), EngineFailed)
    assert isinstance(told(500, {"error": {"message": "out of memory"}}, "llama-server"), EngineFailed)


# Events --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"error": {"message": LEAK, "code": 400}}, InvalidRequest),
        ({"error": {"message": LEAK, "code": 503}}, Unavailable),
        ({"error": {"message": LEAK}}, EngineFailed),
        ({"error": LEAK}, EngineFailed),
        ({"error": VLLM_TOO_LONG}, InvalidRequest),
    ],
)
def test_errors_in_a_stream(event: Any, kind: type[ApiError]) -> None:
    error = from_event(json.dumps(event).encode(), DIALECTS["vllm"])
    assert isinstance(error, kind)
    assert SECRET not in error.message
