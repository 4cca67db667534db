"""langchain-openai."""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field
from scenarios import API_KEY, BASE_URL, MODEL, main, scenario


def chat(**members: Any) -> ChatOpenAI:
    """The client, as sure as a model can be."""
    given = {"temperature": 0, "seed": 1, "max_tokens": 200, "max_retries": 0, "timeout": 120} | members
    return ChatOpenAI(model=MODEL, base_url=BASE_URL, api_key=API_KEY, **given)


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=12)
    mood: Literal["glad", "sad"]


@tool
def get_weather(city: Literal["Paris", "Rome"], days: Literal[1, 2, 3]) -> str:
    """The weather in a city."""
    return f"{days} sunny days in {city}"


@scenario
def invoke() -> None:
    answer = chat(max_tokens=12).invoke([("system", "You are brief."), ("user", "Say hello.")])
    assert answer.content
    assert answer.response_metadata["finish_reason"] in {"stop", "length"}
    assert answer.response_metadata["model_name"] == MODEL
    assert answer.id
    used = answer.usage_metadata
    assert used["total_tokens"] == used["input_tokens"] + used["output_tokens"] > 0


@scenario
def stream() -> None:
    whole = None
    for chunk in chat(max_tokens=12, stream_usage=True).stream("Say hello."):
        whole = chunk if whole is None else whole + chunk
    assert whole.content == chat(max_tokens=12).invoke("Say hello.").content
    assert whole.response_metadata["finish_reason"] in {"stop", "length"}
    assert whole.usage_metadata["output_tokens"] > 0


@scenario
async def astream() -> None:
    pieces = [chunk.text async for chunk in chat(max_tokens=12).astream("Say hello.")]
    assert "".join(pieces)


@scenario
async def abatch() -> None:
    answers = await chat(max_tokens=6).abatch(["One?", "Two?", "Three?"])
    assert len(answers) == 3
    assert all(answer.content for answer in answers)


@scenario
def bind_tools() -> None:
    question = HumanMessage("What is the weather in Paris?")
    model = chat().bind_tools([get_weather], tool_choice="any")
    answer = model.invoke([question])
    assert answer.tool_calls
    assert not answer.invalid_tool_calls
    results = [get_weather.invoke(call) for call in answer.tool_calls]
    assert all(isinstance(result, ToolMessage) for result in results)
    final = chat(max_tokens=20).bind_tools([get_weather], tool_choice="none").invoke([question, answer, *results])
    assert final.content
    assert not final.tool_calls


@scenario
def bind_tools_streamed() -> None:
    whole = None
    for chunk in chat().bind_tools([get_weather], tool_choice="get_weather").stream("What is the weather in Rome?"):
        whole = chunk if whole is None else whole + chunk
    (call,) = whole.tool_calls
    assert call["name"] == "get_weather"
    assert call["id"]
    get_weather.invoke(call)


@scenario
def structured_output() -> None:
    for method in ("json_schema", "function_calling"):
        person = chat().with_structured_output(Person, method=method).invoke("Ann is glad today.")
        assert isinstance(person, Person), method


@scenario
def structured_output_streamed() -> None:
    *_, last = chat().with_structured_output(Person, method="json_schema").stream("Ann is glad today.")
    assert isinstance(last, Person)


main()
