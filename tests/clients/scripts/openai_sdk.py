"""The openai package."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import openai
from pydantic import BaseModel, ConfigDict, Field
from scenarios import (
    ASK,
    CLOCK,
    HELLO,
    MODEL,
    SURE,
    TOO_LONG,
    WEATHER,
    check_arguments,
    check_calls,
    error_of,
    main,
    scenario,
)

client = openai.OpenAI(max_retries=0, timeout=120)


class Animal(BaseModel):
    """A schema with an end: every complete answer under it is short."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=12)
    legs: Literal[0, 2, 4, 6, 8]
    wild: bool
    nickname: str | None = Field(max_length=8)


ANIMAL = [{"role": "user", "content": "Describe a cat as JSON."}]


def create(**members: Any) -> Any:
    """One answer, as sure as a model can be."""
    return client.chat.completions.create(**{"model": MODEL, "messages": ASK, "max_tokens": 200} | SURE | members)


# Text ----------------------------------------------------------------------------------------------------------------


@scenario
def create_sync() -> None:
    answer = create(messages=HELLO, max_tokens=12)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == MODEL
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.message.tool_calls is None
    assert choice.finish_reason in {"stop", "length"}
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 0 < answer.usage.completion_tokens <= 12


@scenario
async def create_async() -> None:
    async with openai.AsyncOpenAI(max_retries=0) as other:
        answer = await other.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8, **SURE)
        assert answer.choices[0].message.content
        stream = await other.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8, stream=True, **SURE)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == answer.choices[0].message.content


@scenario
def create_streamed() -> None:
    chunks = list(create(messages=HELLO, max_tokens=12, stream=True))
    assert len({chunk.id for chunk in chunks}) == 1
    assert len({chunk.created for chunk in chunks}) == 1
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices[0].delta.role] == ["assistant"]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    assert reasons[-1] in {"stop", "length"}
    assert all(chunk.usage is None for chunk in chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == create(messages=HELLO, max_tokens=12).choices[0].message.content


@scenario
def stream_helper() -> None:
    messages = [{"role": "user", "content": "Answer with one word: yes or no?"}]
    kinds, text = set(), ""
    with client.chat.completions.stream(
        model=MODEL, messages=messages, stop=["\n"], max_tokens=300, stream_options={"include_usage": True}, **SURE
    ) as stream:
        for event in stream:
            kinds.add(event.type)
            if event.type == "content.delta":
                text += event.delta
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds, kinds
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].message.content == text
    assert final.choices[0].finish_reason == "stop"
    assert final.usage.completion_tokens > 0


@scenario
def several_choices() -> None:
    # An engine's extra, so that every choice is exactly ten tokens long.
    members = {"messages": HELLO, "n": 2, "max_tokens": 10, "temperature": 1, "extra_body": {"ignore_eos": True}}
    answer = create(**members)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.message.content for choice in answer.choices)
    assert answer.usage.completion_tokens == 20
    texts, reasons = {0: "", 1: ""}, {}
    for chunk in create(**members, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                assert choice.index not in reasons
                reasons[choice.index] = choice.finish_reason
    assert all(texts.values())
    assert reasons == {0: "length", 1: "length"}
    assert chunk.usage.completion_tokens == 20
    assert chunk.usage.prompt_tokens == answer.usage.prompt_tokens


@scenario
def several_choices_stream_helper() -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=ANIMAL, n=2, response_format=Animal, max_tokens=200, seed=3
    ) as stream:
        final = stream.get_final_completion()
    assert [choice.index for choice in final.choices] == [0, 1]
    assert all(isinstance(choice.message.parsed, Animal) for choice in final.choices)
    assert all(choice.message.role == "assistant" for choice in final.choices)


@scenario
def logprobs() -> None:
    # An engine's extra, so that there are six tokens of text and none that ends it.
    members = {"messages": HELLO, "max_tokens": 6, "extra_body": {"ignore_eos": True}}
    answer = create(**members, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens == 6
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == answer.choices[0].message.content
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == max(other.logprob for other in token.top_logprobs)
    streamed = []
    for chunk in create(**members, logprobs=True, top_logprobs=3, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content or []
    assert [token.token for token in streamed] == [token.token for token in tokens]
    assert create(**members, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    assert create(**members).choices[0].logprobs is None


@scenario
def stop() -> None:
    whole = create(messages=HELLO, max_tokens=30).choices[0].message.content
    word = whole[len(whole) // 2 :][:4]
    answer = create(messages=HELLO, max_tokens=30, stop=word)
    assert answer.choices[0].message.content == whole[: whole.index(word)]
    assert answer.choices[0].finish_reason == "stop"
    chunks = list(create(messages=HELLO, max_tokens=30, stop=[word], stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole[: whole.index(word)]
    assert chunks[-1].choices[0].finish_reason == "stop"


@scenario
def penalties() -> None:
    members = {"messages": [{"role": "user", "content": "Repeat: go go go go go go"}], "max_tokens": 40}
    held = create(**members, presence_penalty=2, frequency_penalty=2).choices[0].message.content
    assert held != create(**members).choices[0].message.content


@scenario
def usage_is_the_same_in_both_modes() -> None:
    for members in ({"messages": HELLO, "max_tokens": 20}, {"tools": [WEATHER], "tool_choice": "required"}):
        plain = create(**members)
        *rest, last = create(**members, stream=True, stream_options={"include_usage": True})
        assert all(chunk.usage is None for chunk in rest)
        assert last.choices == []
        counts = ("prompt_tokens", "completion_tokens", "total_tokens")
        assert [getattr(last.usage, name) for name in counts] == [getattr(plain.usage, name) for name in counts]


# Structured output ---------------------------------------------------------------------------------------------------


@scenario
def parse() -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=ANIMAL, response_format=Animal, max_tokens=200, temperature=1, seed=5
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Animal)


@scenario
def parse_stream_helper() -> None:
    partial = []
    with client.chat.completions.stream(
        model=MODEL, messages=ANIMAL, response_format=Animal, max_tokens=200, **SURE
    ) as stream:
        for event in stream:
            if event.type == "content.delta" and event.parsed is not None:
                partial.append(event.parsed)
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Animal)
    assert partial


@scenario
def parse_cut_short() -> None:
    members = {"model": MODEL, "messages": ANIMAL, "response_format": Animal, "max_tokens": 2} | SURE
    error = error_of(openai.LengthFinishReasonError, lambda: client.chat.completions.parse(**members))
    assert error.completion.choices[0].finish_reason == "length"


@scenario
def parse_tools() -> None:
    tool = openai.pydantic_function_tool(Animal, name="note_animal")
    answer = client.chat.completions.parse(
        model=MODEL, messages=ANIMAL, tools=[tool], tool_choice="required", max_tokens=400, **SURE
    )
    assert answer.choices[0].message.tool_calls
    assert all(isinstance(call.function.parsed_arguments, Animal) for call in answer.choices[0].message.tool_calls)


@scenario
def json_object() -> None:
    answer = create(
        messages=[{"role": "user", "content": "Give me a small JSON object."}],
        response_format={"type": "json_object"},
        max_tokens=400,
    )
    text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert text.lstrip().startswith("{")
    assert reason == "length" or isinstance(json.loads(text), dict)


# Tools ---------------------------------------------------------------------------------------------------------------


@scenario
def tools_required() -> None:
    answer = create(tools=[WEATHER, CLOCK], tool_choice="required", max_tokens=400)
    assert answer.choices[0].message.content is None
    assert answer.choices[0].finish_reason == "tool_calls"
    check_calls(answer.choices[0].message.tool_calls, "get_weather", "get_time")


@scenario
def tools_named() -> None:
    choice = {"type": "function", "function": {"name": "get_time"}}
    answer = create(tools=[WEATHER, CLOCK], tool_choice=choice)
    assert answer.choices[0].finish_reason in {"tool_calls", "stop"}
    check_calls(answer.choices[0].message.tool_calls, "get_time")


@scenario
def tools_auto() -> None:
    for messages in (ASK, HELLO):
        answer = create(messages=messages, tools=[WEATHER, CLOCK], max_tokens=400)
        choice = answer.choices[0]
        if choice.message.tool_calls:
            assert choice.finish_reason == "tool_calls"
            assert choice.message.content is None
            check_calls(choice.message.tool_calls, "get_weather", "get_time")
        else:
            assert choice.finish_reason in {"stop", "length"}
            assert choice.message.content is not None


@scenario
def tools_none() -> None:
    answer = create(tools=[WEATHER], tool_choice="none", max_tokens=20)
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content


@scenario
def tools_allowed() -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_time"}}]}
    answer = create(tools=[WEATHER, CLOCK], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert answer.choices[0].finish_reason == "tool_calls"
    check_calls(answer.choices[0].message.tool_calls, "get_time")


@scenario
def tools_one_at_a_time() -> None:
    members = {"tools": [WEATHER, CLOCK], "tool_choice": "required", "parallel_tool_calls": False}
    for seed in (1, 2, 3):
        answer = create(**members, temperature=1, seed=seed)
        assert len(answer.choices[0].message.tool_calls) == 1
        check_calls(answer.choices[0].message.tool_calls, "get_weather", "get_time")


@scenario
def tools_without_parameters() -> None:
    answer = create(tools=[{"type": "function", "function": {"name": "ping"}}], tool_choice="required")
    assert {call.function.name for call in answer.choices[0].message.tool_calls} == {"ping"}
    assert {call.function.arguments for call in answer.choices[0].message.tool_calls} == {"{}"}


@scenario
def tools_streamed() -> None:
    members = {"tools": [WEATHER, CLOCK], "tool_choice": "required", "max_tokens": 400}
    with client.chat.completions.stream(model=MODEL, messages=ASK, **members, **SURE) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds, kinds
    assert "tool_calls.function.arguments.done" in kinds, kinds
    assert final.choices[0].finish_reason == "tool_calls"
    calls = final.choices[0].message.tool_calls
    check_calls(calls, "get_weather", "get_time")
    plain = create(**members).choices[0].message.tool_calls
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        (call.function.name, call.function.arguments) for call in plain
    ]


@scenario
def tools_streamed_deltas() -> None:
    calls: list[dict[str, str]] = []
    for chunk in create(tools=[WEATHER, CLOCK], tool_choice="required", max_tokens=400, stream=True):
        for delta in chunk.choices[0].delta.tool_calls or ():
            if delta.index == len(calls):
                assert delta.type == "function"
                calls.append({"id": delta.id, "name": delta.function.name, "arguments": ""})
            else:
                assert delta.index == len(calls) - 1
                assert (delta.id, delta.type, delta.function.name) == (None, None, None)
            calls[-1]["arguments"] += delta.function.arguments or ""
        assert not chunk.choices[0].delta.content
    assert calls
    for call in calls:
        check_arguments(call["name"], call["arguments"])


@scenario
def tool_loop() -> None:
    messages: list[Any] = list(ASK)
    answer = create(messages=messages, tools=[WEATHER], tool_choice="required", max_tokens=400)
    message = answer.choices[0].message
    messages.append(message.model_dump())
    for call in message.tool_calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 21, "sky": "clear"}'})
    answer = create(messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=30)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in {"stop", "length"}
    messages += [answer.choices[0].message, {"role": "user", "content": "Thank you. And in Rome?"}]
    assert create(messages=messages, tools=[WEATHER], max_tokens=30).choices[0].finish_reason


@scenario
def deprecated_functions() -> None:
    functions = [WEATHER["function"], CLOCK["function"]]
    members = {"functions": functions, "function_call": {"name": "get_weather"}}
    message = create(**members).choices[0].message
    assert message.tool_calls is None
    assert message.content is None
    assert message.function_call.name == "get_weather"
    check_arguments("get_weather", message.function_call.arguments)
    name = arguments = ""
    for chunk in create(**members, stream=True):
        if call := chunk.choices[0].delta.function_call:
            name += call.name or ""
            arguments += call.arguments or ""
    assert chunk.choices[0].finish_reason in {"function_call", "stop"}
    assert (name, arguments) == ("get_weather", message.function_call.arguments)
    messages = [*ASK, message.model_dump(), {"role": "function", "name": "get_weather", "content": "21 degrees"}]
    answer = create(messages=messages, functions=functions, function_call="none", max_tokens=20)
    assert answer.choices[0].message.content


# Errors and headers --------------------------------------------------------------------------------------------------


def status_error(kind: type[openai.APIStatusError], call: Callable[[], Any]) -> Any:
    """The error that a call must end with; every answer of the server names the request."""
    error = error_of(kind, call)
    assert error.request_id
    assert error.message
    return error


@scenario
def error_wrong_key() -> None:
    for key in ("sk-wrong-key-of-nobody", "neither a key nor a token"):
        stranger = client.with_options(api_key=key)
        error = status_error(openai.AuthenticationError, lambda it=stranger: it.models.list())
        assert error.code == "invalid_api_key"
        assert error.type == "invalid_request_error"
        assert key not in str(error.body)


@scenario
def error_unknown_model() -> None:
    for stream in (False, True):
        error = status_error(openai.NotFoundError, lambda it=stream: create(model="acme/none", stream=it))
        assert error.code == "model_not_found"
    assert status_error(openai.NotFoundError, lambda: client.models.retrieve("acme/none")).code == "model_not_found"


@scenario
def error_context_length() -> None:
    for stream in (False, True):
        error = status_error(openai.BadRequestError, lambda it=stream: create(messages=TOO_LONG, stream=it))
        assert error.code == "context_length_exceeded"
        assert error.param == "messages"
        assert "maximum context length" in error.message


@scenario
def error_bad_request() -> None:
    error = status_error(openai.BadRequestError, lambda: create(temperature=9))
    assert error.param == "temperature"
    assert error.type == "invalid_request_error"
    error = status_error(openai.BadRequestError, lambda: create(messages=[]))
    assert error.code == "empty_array"


@scenario
def models() -> None:
    listed = client.models.list().data
    assert [model.id for model in listed] == [MODEL]
    assert "/" in MODEL
    one = client.models.retrieve(MODEL)
    assert one.id == MODEL
    assert one.object == "model"
    assert one.created > 0
    assert one.owned_by


@scenario
def raw_response() -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=1)
    assert raw.headers["x-request-id"]
    assert raw.headers["content-type"].startswith("application/json")
    assert int(raw.headers["openai-processing-ms"]) >= 0
    answer = raw.parse()
    assert answer._request_id == raw.headers["x-request-id"]
    assert answer.choices[0].message


main()
