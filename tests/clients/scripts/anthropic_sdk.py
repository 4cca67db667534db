"""The anthropic package, with a model that always says the same."""

from __future__ import annotations

import base64
import os
from typing import Any

import anthropic
from scenarios import API_KEY, BASE_URL, MODEL, error_of, main, scenario

client = anthropic.Anthropic(base_url=BASE_URL.removesuffix("/v1"), api_key=API_KEY, max_retries=0, timeout=60)
TEXT = "Grüße! It is a quiet day, and nothing of note has happened."
ASK: Any = [{"role": "user", "content": "Say it."}]
TOOL: Any = {"name": "look_up", "description": "Looks it up.", "input_schema": {"type": "object", "properties": {}}}
PIXEL = os.environ["PIXEL"]


def create(**members: Any) -> Any:
    """One message."""
    return client.messages.create(**{"model": MODEL, "max_tokens": 99, "messages": ASK} | members)


@scenario
def message() -> None:
    answer = create(
        system="Be brief.", metadata={"user_id": "u"}, extra_body={"temperature": 0.5, "cache_salt": "theirs"}
    )
    assert (answer.type, answer.role, answer.model, answer.id[:4]) == ("message", "assistant", MODEL, "msg_")
    assert [(block.type, block.text) for block in answer.content] == [("text", TEXT)]
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert answer.usage.output_tokens > 0


@scenario
def message_that_is_too_long() -> None:
    assert create(max_tokens=2).stop_reason == "max_tokens"


@scenario
def message_streamed() -> None:
    events = list(create(stream=True))
    assert "".join(event.delta.text for event in events if event.type == "content_block_delta") == TEXT
    assert (events[0].type, events[0].message.model, events[-1].type) == ("message_start", MODEL, "message_stop")


@scenario
def message_with_the_helper() -> None:
    with client.messages.stream(model=MODEL, max_tokens=99, messages=ASK) as stream:
        assert "".join(stream.text_stream) == TEXT
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert final.id.startswith("msg_")


@scenario
def message_with_a_tool() -> None:
    answer = create(tools=[TOOL], tool_choice={"type": "any"})
    (used,) = answer.content
    assert (used.type, used.name, used.input, answer.stop_reason) == ("tool_use", "look_up", {}, "tool_use")
    result = {"type": "tool_result", "tool_use_id": used.id, "content": "done"}
    turns = [*ASK, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    assert create(messages=turns, tools=[TOOL], tool_choice={"type": "none"}).content[0].text == TEXT


@scenario
def message_with_an_image() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    said: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
    assert create(messages=[{"role": "user", "content": said}]).content[0].text == TEXT
    source["data"] = base64.b64encode(b"no image").decode()
    error = error_of(anthropic.BadRequestError, lambda: create(messages=[{"role": "user", "content": said}]))
    assert error.body["error"]["type"] == "invalid_request_error"
    source |= {"type": "url", "url": "https://example.org/a.png"}
    error_of(anthropic.BadRequestError, lambda: create(messages=[{"role": "user", "content": said}]))


@scenario
def message_refused() -> None:
    error = error_of(anthropic.NotFoundError, lambda: create(model="no/such"))
    assert error.body["error"]["type"] == "not_found_error"
    search = {"type": "web_search_20250305", "name": "web_search"}
    error = error_of(anthropic.BadRequestError, lambda: create(tools=[search]))
    assert error.body["type"] == "error"
    assert "web_search_20250305" in error.body["error"]["message"]
    error_of(anthropic.BadRequestError, lambda: create(messages=[]))


@scenario
def message_with_a_wrong_key() -> None:
    other = anthropic.Anthropic(base_url=BASE_URL.removesuffix("/v1"), api_key="x", max_retries=0, timeout=60)
    error = error_of(
        anthropic.AuthenticationError, lambda: other.messages.create(model=MODEL, max_tokens=9, messages=ASK)
    )
    assert error.body["error"]["type"] == "authentication_error"


@scenario
async def message_of_the_asynchronous_client() -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=BASE_URL.removesuffix("/v1"), api_key=API_KEY, max_retries=0) as one,
        one.messages.stream(model=MODEL, max_tokens=99, messages=ASK) as stream,
    ):
        assert "".join([text async for text in stream.text_stream]) == TEXT


if __name__ == "__main__":
    main()
