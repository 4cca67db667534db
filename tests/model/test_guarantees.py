"""What is promised of structure, held against the real model at temperature 1."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from tests.engine.schemas import schema
from tests.serving import RunningServer, serving

from confide.engine.pull import LocalModel

SCHEMAS = 200
CLIENTS = 8
MAX_TOKENS = 110
CALLS = 60


@pytest.fixture(scope="module")
def server(smollm2: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """As many slots as there are clients: batches decode more per second."""
    folder = tmp_path_factory.mktemp("guarantees")
    config = folder / "confide.toml"
    table = {"id": "smol", "source": str(smollm2.path), "slots": CLIENTS, "context_length": 2048}
    config.write_text("[[model]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))
    with serving(folder, [], "--config", str(config), auth=False, model="smol") as running:
        yield running


def ask(server: RunningServer, **members: Any) -> httpx.Response:
    """One request."""
    body = {"model": "smol", "temperature": 1, "max_tokens": MAX_TOKENS, **members}
    return httpx.post(f"{server.url}/chat/completions", json=body, timeout=240)


def user(text: str) -> list[dict[str, str]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


@pytest.mark.timeout(2400)  # on a slow machine it was not done after nine minutes
def test_every_complete_answer_validates(server: RunningServer) -> None:
    """Generated schemas; a cut answer says so with ``length``, and nothing else is allowed to fall short."""

    def one(seed: int) -> str:
        wanted = schema(random.Random(seed))
        response = ask(
            server,
            messages=user("Make up an example."),
            seed=seed,
            response_format={"type": "json_schema", "json_schema": {"name": "example", "schema": wanted}},
        )
        if response.status_code == 400:
            assert response.json()["error"]["code"] == "invalid_json_schema", response.text
            return "refused"
        assert response.status_code == 200, (seed, response.text)
        choice = response.json()["choices"][0]
        if choice["finish_reason"] == "length":
            return "cut"
        assert choice["finish_reason"] == "stop"
        Draft202012Validator(wanted).validate(json.loads(choice["message"]["content"]))
        return "complete"

    with ThreadPoolExecutor(CLIENTS) as pool:
        outcomes = list(pool.map(one, range(SCHEMAS)))
    counted = {outcome: outcomes.count(outcome) for outcome in set(outcomes)}
    assert counted.get("complete", 0) >= SCHEMAS // 2, counted
    assert counted.get("refused", 0) <= SCHEMAS // 20, counted


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 12},
                    "unit": {"enum": ["celsius", "fahrenheit"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 9},
                },
                "required": ["city", "unit", "days"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("get_forecast", "get_history")
]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_forecast", "get_history"}),
        ({"type": "function", "function": {"name": "get_history"}}, {"get_history"}),
    ],
    ids=["required", "named"],
)
def test_forced_calls_are_made(server: RunningServer, choice: Any, names: set[str], stream: bool) -> None:
    """``required`` and a named tool: always a call, of an allowed tool, with arguments that validate."""
    validators = {tool["function"]["name"]: Draft202012Validator(tool["function"]["parameters"]) for tool in TOOLS}

    def one(seed: int) -> None:
        response = ask(
            server,
            messages=user("Tell me a joke about cats."),
            seed=seed,
            tools=TOOLS,
            tool_choice=choice,
            max_tokens=600,
            stream=stream,
        )
        assert response.status_code == 200, response.text
        reason, calls = reassemble(response.text) if stream else plain(response.json())
        assert reason == "tool_calls"
        assert calls
        for name, arguments in calls:
            assert name in names
            validators[name].validate(json.loads(arguments))

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(one, range(CALLS // 4)))


def plain(body: Any) -> tuple[str, list[tuple[str, str]]]:
    """The finish reason, and the calls' names and arguments."""
    choice = body["choices"][0]
    calls = [call["function"] for call in choice["message"].get("tool_calls", [])]
    return choice["finish_reason"], [(call["name"], call["arguments"]) for call in calls]


def reassemble(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The same from a stream."""
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    calls: list[list[str]] = []
    reason = ""
    for event in events:
        choice = json.loads(event)["choices"][0]
        reason = choice["finish_reason"] or reason
        for call in choice["delta"].get("tool_calls", []):
            if call["index"] == len(calls):
                calls.append([call["function"]["name"], ""])
            calls[call["index"]][1] += call["function"]["arguments"]
    return reason, [(name, arguments) for name, arguments in calls]


def test_a_log_of_the_server_holds_no_content(server: RunningServer) -> None:
    """A marked prompt is in nothing that the server wrote."""
    mark = "zebra-unlikely-marker"
    assert ask(server, messages=user(mark), max_tokens=4).status_code == 200
    assert ask(server, messages=user(mark), max_tokens=4, n=99).status_code == 400
    assert mark not in server.log.read_text()
    for file in server.log.parent.rglob("*"):
        assert not file.is_file() or mark.encode() not in file.read_bytes(), file
