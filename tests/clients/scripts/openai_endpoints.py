"""The openai package on the endpoints beside chat completions, with a model that always says the same."""

from __future__ import annotations

import json
from typing import Any

import openai
from scenarios import MODEL, error_of, main, scenario

client = openai.OpenAI(max_retries=0, timeout=60)
TEXT = "Grüße! It is a quiet day, and nothing of note has happened."
TOOL: Any = {
    "type": "function",
    "name": "look_up",
    "strict": True,
    "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
}


# Completions ---------------------------------------------------------------------------------------------------------


@scenario
def completion() -> None:
    answer = client.completions.create(model=MODEL, prompt="Say it.", max_tokens=99, logprobs=1)
    assert (answer.object, answer.model, answer.id[:5]) == ("text_completion", MODEL, "cmpl-")
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == (TEXT, "stop")
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or ()) == TEXT
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@scenario
def completion_of_several_prompts() -> None:
    answer = client.completions.create(model=MODEL, prompt=["One.", "Two."], n=2, max_tokens=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}


@scenario
def completion_streamed() -> None:
    chunks = list(
        client.completions.create(
            model=MODEL, prompt="Say it.", max_tokens=99, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == TEXT
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []


@scenario
def completion_refused() -> None:
    error = error_of(openai.BadRequestError, lambda: client.completions.create(model=MODEL, prompt="", suffix="x"))
    assert error.param == "prompt"
    error = error_of(openai.BadRequestError, lambda: client.completions.create(model=MODEL, prompt="x", suffix="x"))
    assert (error.param, error.code) == ("suffix", "unsupported_parameter")


# Embeddings ----------------------------------------------------------------------------------------------------------


@scenario
def embeddings_not_offered() -> None:
    error = error_of(openai.NotFoundError, lambda: client.embeddings.create(model=MODEL, input="a"))
    assert (error.param, error.code) == ("model", "endpoint_not_offered")


@scenario
def embeddings() -> None:
    """The package asks for base64, and gives numbers."""
    answer = client.embeddings.create(model="org/vectors", input=["a", "b"], dimensions=3)
    assert [entry.embedding for entry in answer.data] == [[0.5, -0.25, 1.0], [0.5, -0.25, 1.0, 0.0]]
    assert (answer.object, answer.model, answer.usage.total_tokens) == ("list", "org/vectors", 8)
    plain = client.embeddings.create(model="org/vectors", input="a", encoding_format="float")
    assert plain.data[0].embedding == [0.5, -0.25, 1.0]


# Responses -----------------------------------------------------------------------------------------------------------


@scenario
def response() -> None:
    answer = client.responses.create(model=MODEL, input="Say it.", instructions="Be brief.", store=False)
    assert (answer.output_text, answer.status, answer.model, answer.id[:5]) == (TEXT, "completed", MODEL, "resp_")
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.cached_tokens == 2


@scenario
def response_streamed() -> None:
    events = list(client.responses.create(model=MODEL, input="Say it.", stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == TEXT


@scenario
def response_with_the_helper() -> None:
    with client.responses.stream(model=MODEL, input="Say it.") as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == TEXT
    assert kinds[0] == "response.created"


@scenario
def response_with_a_function() -> None:
    """A call, and its result given back with the whole conversation: nothing is kept here."""
    asked: Any = [{"role": "user", "content": [{"type": "input_text", "text": "Look it up."}]}]
    answer = client.responses.create(model=MODEL, input=asked, tools=[TOOL])
    (call,) = answer.output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {}
    asked += [call.model_dump(exclude_none=True)]
    asked += [{"type": "function_call_output", "call_id": call.call_id, "output": "done"}]
    assert client.responses.create(model=MODEL, input=asked).output_text == TEXT


@scenario
def response_with_what_would_be_kept() -> None:
    refused: list[dict[str, Any]] = [
        {"store": True},
        {"previous_response_id": "resp_1"},
        {"background": True},
        {"conversation": "conv_1"},
        {"prompt": {"id": "pmpt_1"}},
    ]
    for members in refused:
        error = error_of(
            openai.BadRequestError, lambda members=members: client.responses.create(model=MODEL, input="a", **members)
        )
        assert (error.param, error.code) == (next(iter(members)), "unsupported_parameter"), error
    tools: Any = [{"type": "web_search"}]
    error = error_of(openai.BadRequestError, lambda: client.responses.create(model=MODEL, input="a", tools=tools))
    assert (error.param, error.code) == ("tools[0].type", "unsupported_value")


@scenario
def models_say_what_they_offer() -> None:
    found = {model.id: model.endpoints for model in client.models.list()}
    assert found["org/vectors"] == ["/v1/embeddings"]
    assert found[MODEL] == ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"]


if __name__ == "__main__":
    main()
