from __future__ import annotations

import json
from typing import Any

import pytest
from tests.engine.remote.asking import CLOCK, ID, SECRET, WEATHER, chat_call
from tests.simulator.engine_dialects import TRANSFORMERS_KNOWS

from confide.engine.llamacpp import PENALISED
from confide.engine.remote.dialect import DIALECTS
from confide.engine.remote.request import prepare
from confide.errors import InvalidRequest

THEIRS = "their-model"
IMAGE = "data:image/png;base64,AAAA"


def prepared(dialect: str, salt: str | None = None, **members: Any) -> dict[str, Any]:
    call = chat_call(**members)
    found: dict[str, Any] = json.loads(prepare(call, DIALECTS[dialect], model=THEIRS, salt=salt))
    return found


def messages(dialect: str, *given: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = prepared(dialect, messages=list(given))["messages"]
    return found


# What stays as it was written ----------------------------------------------------------------------------------------


def test_members_keep_their_bytes_and_their_order() -> None:
    written = (
        b'{ "temperature" : 1.50e0,"stop":["\\u0041"] , "messages" : [ {"content":"\\u00e9 \xc3\xa9","role":"user"} ],'
        b'\n"model":"acme/tiny-1", "seed": 7}'
    )
    body = prepare(chat_call(body=written), DIALECTS["vllm"], model=THEIRS, salt=None)
    assert body == (
        b'{"temperature":1.50e0,"stop":["\\u0041"],"messages":[ {"content":"\\u00e9 \xc3\xa9","role":"user"} ],'
        b'"model":"their-model","seed":7,"request_id":"' + ID.removeprefix("chatcmpl-").encode() + b'"}'
    )


def test_what_this_server_does_not_know_is_not_sent() -> None:
    sent = prepared(
        "vllm", kv_transfer_params={"a": 1}, priority=3, request_id="mine", user="me", mm_processor_kwargs={}
    )
    assert sent.keys() == {"model", "messages", "request_id"}
    assert sent["request_id"] == ID.removeprefix("chatcmpl-")


def test_null_is_absent() -> None:
    assert prepared("sglang", parallel_tool_calls=None, n=None, frequency_penalty=None).keys() == {
        "model",
        "messages",
        "rid",
    }


def test_the_last_of_two_members_counts() -> None:
    written = b'{"model":"acme/tiny-1","seed":1,"messages":[{"role":"user","content":"x"}],"seed":2}'
    sent = prepare(chat_call(body=written), DIALECTS["openai"], model=THEIRS, salt=None)
    assert sent.count(b"seed") == 1
    assert json.loads(sent)["seed"] == 2


def test_members_that_only_ask_for_what_happens_anyway() -> None:
    assert prepared("transformers", modalities=["text"], best_of=1, n=1).keys() == {"model", "messages"}


# Ids and salts -------------------------------------------------------------------------------------------------------


def test_the_client_does_not_choose_the_salt() -> None:
    assert "cache_salt" not in prepared("vllm", cache_salt="mine")
    assert prepared("vllm", salt="ours", cache_salt="mine")["cache_salt"] == "ours"
    assert prepared("sglang", salt="ours", cache_salt="mine")["cache_salt"] == "ours"


def test_without_salts_llama_server_reuses_nothing() -> None:
    assert prepared("llama-server", salt="ours", cache_prompt=True, id_slot=0)["cache_prompt"] is False
    assert prepared("llama-server", id_slot=0).keys() == {"model", "messages"}


def test_ids() -> None:
    assert prepared("sglang")["rid"] == ID
    assert "rid" not in prepared("sglang", n=2)
    assert "request_id" in prepared("vllm", n=2)
    assert prepared("sglang", n=2)["n"] == 2
    for dialect in ("llama-server", "ollama", "transformers", "openai"):
        assert prepared(dialect).keys() == {"model", "messages"}


# Small differences ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "transformers"])
@pytest.mark.parametrize("options", [{}, {"include_usage": False}, {"continuous_usage_stats": True}, None])
def test_usage_is_always_asked_for(dialect: str, options: Any) -> None:
    assert prepared(dialect, stream=True, stream_options=options)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in prepared(dialect, stream=False)


def test_transformers_has_no_stream_options() -> None:
    assert "stream_options" not in prepared("transformers", stream=True, stream_options={"include_usage": True})


@pytest.mark.parametrize("dialect", ["llama-server", "ollama", "transformers"])
def test_one_name_for_the_limit(dialect: str) -> None:
    assert prepared(dialect, max_completion_tokens=5)["max_tokens"] == 5
    both = prepared(dialect, max_completion_tokens=5, max_tokens=9)
    assert both["max_tokens"] == 5
    assert "max_completion_tokens" not in both


def test_transformers_is_sent_nothing_that_it_does_not_know() -> None:
    """It refuses a request for any member that it doesn't, whatever its value."""
    sent = prepared(
        "transformers",
        n=1,
        max_completion_tokens=5,
        seed=1,
        temperature=0,
        top_p=1,
        logit_bias={"1": 1},
        tools=[WEATHER],
        tool_choice="auto",
        parallel_tool_calls=True,
        user="u",
        stream=True,
        stream_options={"include_usage": True},
    )
    assert sent.keys() <= TRANSFORMERS_KNOWS
    assert sent.keys() >= {"max_tokens", "tools", "seed", "stream"}


def test_transformers_takes_no_integers_for_a_bias() -> None:
    bias = prepared("transformers", logit_bias={"7": -100})["logit_bias"]
    assert bias == {"7": -100}
    assert isinstance(bias["7"], float)


def test_two_names_for_the_limit() -> None:
    assert prepared("vllm", max_completion_tokens=5)["max_completion_tokens"] == 5
    assert prepared("vllm", max_tokens=5)["max_tokens"] == 5


def test_llama_servers_own_words() -> None:
    sent = prepared("llama-server", repetition_penalty=1.1, seed=-1, presence_penalty=0.5, logprobs=True)
    assert sent["repeat_penalty"] == 1.1
    assert "repetition_penalty" not in sent
    assert sent["seed"] == 2**32 - 2
    assert sent["repeat_last_n"] == PENALISED
    assert sent["top_logprobs"] == 1
    assert prepared("llama-server", logprobs=True, top_logprobs=3)["top_logprobs"] == 3


@pytest.mark.parametrize(
    ("dialect", "effort", "sent"),
    [
        ("vllm", "high", True),
        ("vllm", "ultra", False),
        ("vllm", 0.5, False),
        ("sglang", "ultra", True),
        ("ollama", "high", False),
        ("llama-server", "high", False),
        ("openai", "minimal", True),
    ],
)
def test_a_hint_is_sent_where_it_is_understood(dialect: str, effort: Any, sent: bool) -> None:
    assert ("reasoning_effort" in prepared(dialect, reasoning_effort=effort)) is sent


@pytest.mark.parametrize("strict", [True, False, None])
def test_a_schema_constrains_whatever_strict_says(strict: bool | None) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": strict}}
    assert prepared("sglang", response_format=wanted)["response_format"]["json_schema"]["strict"] is True
    assert prepared("vllm", response_format=wanted)["response_format"] == wanted


# Tools ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
def test_a_function_without_parameters_takes_none(dialect: str) -> None:
    (tool,) = prepared(dialect, tools=[{"type": "function", "function": {"name": "ping"}}])["tools"]
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    assert tool["function"] == {"name": "ping", "parameters": nothing, "strict": True}


def test_every_tool_is_strict_where_that_matters() -> None:
    loose = WEATHER | {"function": WEATHER["function"] | {"strict": False}}
    sent = prepared("vllm", tools=[WEATHER, CLOCK, loose | {"defer_loading": True}])["tools"]
    assert [tool["function"]["strict"] for tool in sent] == [True, True, False]
    assert all(tool.keys() == {"type", "function"} for tool in sent)
    assert prepared("llama-server", tools=[WEATHER])["tools"] == [WEATHER]


def test_tools_that_need_no_change_keep_their_bytes() -> None:
    tools = b'[{ "type":"function","function":{"name":"f","parameters":{"type":"object","minProperties":1e0}}}]'
    written = b'{"model":"acme/tiny-1","messages":[{"role":"user","content":"x"}],"tools":' + tools + b"}"
    assert tools in prepare(chat_call(body=written), DIALECTS["openai"], model=THEIRS, salt=None)


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "openai"])
@pytest.mark.parametrize("choice", ["auto", "none", "required", {"type": "function", "function": {"name": "get_time"}}])
def test_choices_that_are_honoured(dialect: str, choice: Any) -> None:
    sent = prepared(dialect, tools=[WEATHER, CLOCK], tool_choice=choice, parallel_tool_calls=False)
    assert sent["tool_choice"] == choice
    assert sent["parallel_tool_calls"] is False
    assert len(sent["tools"]) == 2


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_a_subset_of_the_tools(mode: str) -> None:
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "get_time"}}]}
    sent = prepared("vllm", tools=[WEATHER, CLOCK], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert sent["tool_choice"] == mode
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["get_time"]


@pytest.mark.parametrize("dialect", ["ollama", "transformers"])
def test_who_knows_no_choice_gets_none(dialect: str) -> None:
    assert prepared(dialect, tools=[WEATHER], tool_choice="auto", parallel_tool_calls=True).keys() == {
        "model",
        "messages",
        "tools",
    }
    silent = prepared(dialect, tools=[WEATHER], tool_choice="none", parallel_tool_calls=False)
    assert silent.keys() == {"model", "messages"}


@pytest.mark.parametrize("dialect", ["llama-server", "ollama", "transformers"])
@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}}, "tool_choice"),
        ({"functions": [WEATHER["function"]], "function_call": {"name": "get_weather"}}, "function_call"),
    ],
)
def test_what_cannot_be_forced_is_refused_by_name(dialect: str, members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepared(dialect, **members)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_value")
    assert SECRET not in caught.value.message


def test_one_call_at_most_is_refused_where_it_cannot_be_promised() -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepared("ollama", tools=[WEATHER], parallel_tool_calls=False)
    assert caught.value.param == "parallel_tool_calls"


def test_a_choice_without_tools_is_left_out() -> None:
    assert prepared("vllm", tool_choice="none").keys() == {"model", "messages", "request_id"}


def test_deprecated_functions_become_tools() -> None:
    functions = [WEATHER["function"], {"name": "get_time", "description": None}]
    sent = prepared("vllm", functions=functions, function_call={"name": "get_time"})
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["get_weather", "get_time"]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "get_time"}}
    assert sent["parallel_tool_calls"] is False
    assert not {"functions", "function_call"} & sent.keys()
    assert prepared("vllm", functions=functions, function_call="none")["tool_choice"] == "none"
    assert "tool_choice" not in prepared("vllm", functions=functions)


# Messages ------------------------------------------------------------------------------------------------------------


def test_developers_are_the_system_for_most() -> None:
    given = {"role": "developer", "content": "Be brief."}
    assert messages("vllm", given)[0]["role"] == "system"
    assert messages("openai", given)[0]["role"] == "developer"


def test_members_that_are_null_are_left_out_of_messages() -> None:
    given = {"role": "assistant", "content": "Yes.", "refusal": None, "tool_calls": None, "audio": None}
    assert messages("transformers", given) == [{"role": "assistant", "content": "Yes."}]
    assert messages("vllm", given | {"tool_calls": []}) == [{"role": "assistant", "content": "Yes."}]


def test_earlier_calls() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": ""}}
    answer = {"role": "tool", "tool_call_id": "call_1", "content": "noon"}
    sent = messages("llama-server", {"role": "assistant", "tool_calls": [call]}, answer)
    assert sent[0]["content"] is None
    assert sent[0]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert sent[1] == answer


def test_earlier_calls_in_the_deprecated_form() -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "get_time", "arguments": "{}"}}
    result = {"role": "function", "name": "get_time", "content": "noon"}
    first, second, third, fourth = messages("vllm", called, result, called, result)
    assert (first["tool_calls"][0]["id"], second["tool_call_id"]) == ("call_1", "call_1")
    assert (third["tool_calls"][0]["id"], fourth["tool_call_id"]) == ("call_2", "call_2")
    assert second == {"role": "tool", "tool_call_id": "call_1", "content": "noon"}
    assert "function_call" not in first


def test_earlier_refusals_become_text() -> None:
    refused = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert messages("llama-server", refused)[0]["content"] == [{"type": "text", "text": "No."}]
    assert messages("vllm", refused)[0] == refused
    assert messages("ollama", refused)[0]["content"] == "No."
    assert messages("vllm", {"role": "assistant", "content": None, "refusal": "No."})[0]["content"] == "No."


@pytest.mark.parametrize(
    ("dialect", "name"),
    [("sglang", "reasoning_content"), ("llama-server", "reasoning_content"), ("ollama", "reasoning")],
)
@pytest.mark.parametrize(
    "given", [{"reasoning": "Hm."}, {"reasoning_content": "Hm."}, {"reasoning": "Hm.", "reasoning_content": "Hm."}]
)
def test_earlier_reasoning_has_the_engines_name(dialect: str, name: str, given: dict[str, str]) -> None:
    (sent,) = messages(dialect, {"role": "assistant", "content": "Yes."} | given)
    assert sent == {"role": "assistant", "content": "Yes.", name: "Hm."}


def test_earlier_reasoning_once_where_both_names_are_read() -> None:
    (sent,) = messages("vllm", {"role": "assistant", "content": "a", "reasoning": "Hm.", "reasoning_content": "Hm."})
    assert sent == {"role": "assistant", "content": "a", "reasoning": "Hm."}


def test_ollama_gets_text_in_one_piece() -> None:
    parts = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
    sent = messages("ollama", {"role": "system", "content": parts}, {"role": "user", "content": parts})
    assert [message["content"] for message in sent] == ["One.Two.", "One.\nTwo."]
    assert messages("vllm", {"role": "user", "content": parts})[0]["content"] == parts


def test_images_are_those_that_were_loaded() -> None:
    """A part is built anew: nothing else that the client wrote in it reaches the engine."""
    url = {"url": "https://example.org/cat.png", "detail": "low", "cache": 1}
    part = {"type": "image_url", "image_url": url, "uuid": "of somebody else"}
    call = chat_call(messages=[{"role": "user", "content": [{"type": "text", "text": "What?"}, part]}])
    loaded: Any = call.request.messages[0].content
    loaded[1].image_url.url = IMAGE
    sent = json.loads(prepare(call, DIALECTS["vllm"], model=THEIRS, salt=None))["messages"][0]["content"]
    assert sent == [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
    ]
