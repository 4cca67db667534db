"""litellm, as a library."""

from __future__ import annotations

import functools
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else importing it looks for prices on the network

import litellm
from scenarios import (
    API_KEY,
    ASK,
    BASE_URL,
    CLOCK,
    HELLO,
    MODEL,
    SURE,
    TOO_LONG,
    WEATHER,
    check_calls,
    error_of,
    main,
    scenario,
)

WHERE = {"api_base": BASE_URL, "api_key": API_KEY, "num_retries": 0, "timeout": 120}
NAME = f"openai/{MODEL}"


@scenario
def completion() -> None:
    answer = litellm.completion(model=NAME, messages=HELLO, max_tokens=12, **SURE, **WHERE)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@scenario
async def acompletion_streamed() -> None:
    stream = await litellm.acompletion(
        model=NAME, messages=HELLO, max_tokens=12, stream=True, stream_options={"include_usage": True}, **SURE, **WHERE
    )
    chunks = [chunk async for chunk in stream]
    whole = litellm.stream_chunk_builder(chunks, messages=HELLO)
    plain = await litellm.acompletion(model=NAME, messages=HELLO, max_tokens=12, **SURE, **WHERE)
    assert whole.choices[0].message.content == plain.choices[0].message.content
    assert whole.choices[0].finish_reason == plain.choices[0].finish_reason
    assert whole.usage.completion_tokens == plain.usage.completion_tokens
    assert whole.usage.prompt_tokens == plain.usage.prompt_tokens


@scenario
def tools() -> None:
    members = {"tools": [WEATHER, CLOCK], "tool_choice": "required", "max_tokens": 300, **SURE, **WHERE}
    answer = litellm.completion(model=NAME, messages=ASK, **members)
    assert answer.choices[0].finish_reason == "tool_calls"
    check_calls(answer.choices[0].message.tool_calls, "get_weather", "get_time")
    whole = litellm.stream_chunk_builder(list(litellm.completion(model=NAME, messages=ASK, stream=True, **members)))
    assert whole.choices[0].finish_reason == "tool_calls"
    check_calls(whole.choices[0].message.tool_calls, "get_weather", "get_time")
    results = [
        {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": "21 degrees"}
        for call in answer.choices[0].message.tool_calls
    ]
    messages = [*ASK, answer.choices[0].message, *results]
    final = litellm.completion(model=NAME, messages=messages, max_tokens=20, **SURE, **WHERE)
    assert final.choices[0].message.content


@scenario
def context_window_exceeded() -> None:
    for stream in (False, True):
        call = functools.partial(litellm.completion, model=NAME, messages=TOO_LONG, stream=stream, **WHERE)
        error_of(litellm.ContextWindowExceededError, call)


@scenario
def unknown_model() -> None:
    call = functools.partial(litellm.completion, model="openai/acme/none", messages=HELLO, **WHERE)
    assert "acme/none" in str(error_of(litellm.NotFoundError, call))


@scenario
def wrong_key() -> None:
    where = WHERE | {"api_key": "sk-wrong-key-of-nobody"}
    error_of(litellm.AuthenticationError, functools.partial(litellm.completion, model=NAME, messages=HELLO, **where))


main()
