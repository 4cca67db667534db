"""instructor."""

from __future__ import annotations

from typing import Any, Literal

import instructor
import openai
from pydantic import BaseModel, Field
from scenarios import MODEL, SURE, main, scenario

MESSAGES = [{"role": "user", "content": "Ann, 31, lives in Rome."}]


class Address(BaseModel):
    """Where somebody lives."""

    city: Literal["Paris", "Rome"]
    street: str | None = Field(default=None, max_length=8)


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=120)
    address: Address
    tags: list[Literal["friend", "colleague"]] = Field(max_length=2)


def extract(mode: instructor.Mode, **members: Any) -> Any:
    """One person; no second try, so that the first answer must do."""
    client = instructor.from_openai(openai.OpenAI(max_retries=0), mode=mode)
    given = {"model": MODEL, "messages": MESSAGES, "max_tokens": 300, "max_retries": 0} | SURE | members
    return client.chat.completions.create(response_model=Person, **given)


@scenario
def tools() -> None:
    assert isinstance(extract(instructor.Mode.TOOLS), Person)


@scenario
def tools_hot() -> None:
    for seed in (1, 2, 3):
        assert isinstance(extract(instructor.Mode.TOOLS, temperature=1, seed=seed), Person)


@scenario
def json_schema() -> None:
    assert isinstance(extract(instructor.Mode.JSON_SCHEMA), Person)


@scenario
def json_schema_hot() -> None:
    for seed in (1, 2, 3):
        assert isinstance(extract(instructor.Mode.JSON_SCHEMA, temperature=1, seed=seed), Person)


@scenario
def with_completion() -> None:
    client = instructor.from_openai(openai.OpenAI(max_retries=0), mode=instructor.Mode.TOOLS)
    person, completion = client.chat.completions.create_with_completion(
        model=MODEL, messages=MESSAGES, response_model=Person, max_tokens=300, max_retries=0, **SURE
    )
    assert isinstance(person, Person)
    assert completion.choices[0].message.tool_calls
    assert completion.usage.completion_tokens > 0


main()
