"""What the client scripts share: running scenarios, each reported as one JSON line, and the structures they check.

The scripts run in environments that have a client and its dependencies and nothing else, so this imports nothing
from outside the standard library.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

BASE_URL = os.environ["OPENAI_BASE_URL"]
API_KEY = os.environ["OPENAI_API_KEY"]
MODEL = os.environ["MODEL"]

ASK = [{"role": "user", "content": "What is the weather in Paris?"}]
HELLO = [{"role": "user", "content": "Say hello."}]
TOO_LONG = [{"role": "user", "content": "word " * 9000}]
SURE: dict[str, Any] = {"temperature": 0, "seed": 1}

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time in a time zone.",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"type": "string", "enum": ["UTC", "CET"]}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}

_scenarios: list[Callable[[], Any]] = []


def scenario(function: Callable[[], Any]) -> Callable[[], Any]:
    """Mark a function, async or not, as one scenario, named as itself."""
    _scenarios.append(function)
    return function


def main() -> None:
    """Run every scenario and print what became of it; what the client itself prints goes to stderr.

    All share one event loop, because some clients keep connections between calls.
    """
    reports = sys.stdout
    with asyncio.Runner() as runner, contextlib.redirect_stdout(sys.stderr):
        for function in _scenarios:
            error = None
            try:
                result = function()
                if inspect.iscoroutine(result):
                    runner.run(result)
            except Exception:  # noqa: BLE001 - whatever goes wrong is reported, and the next scenario runs
                error = traceback.format_exc()
            print(json.dumps({"scenario": function.__name__, "error": error}), file=reports, flush=True)


def error_of(kind: type[Exception], call: Callable[[], Any]) -> Any:
    """The error that a call must end with."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def check_arguments(name: str, arguments: str) -> None:
    """The arguments of a call of one of the two functions are what its schema says, to the letter."""
    value = json.loads(arguments)
    if name == "get_weather":
        assert set(value) == {"city", "unit"}, value
        assert isinstance(value["city"], str), value
        assert len(value["city"]) <= 20, value
        assert value["unit"] in {"celsius", "fahrenheit"}, value
    else:
        assert name == "get_time", name
        assert set(value) == {"zone"}, value
        assert value["zone"] in {"UTC", "CET"}, value


def check_calls(calls: Any, *names: str) -> None:
    """OpenAI's tool calls, parsed by a client: at least one, only of ``names``, each with an id of its own."""
    assert calls, calls
    assert len({call.id for call in calls}) == len(calls), calls
    for call in calls:
        assert call.id, call  # what it begins with is each engine's affair
        assert call.type == "function", call
        assert call.function.name in names, call
        check_arguments(call.function.name, call.function.arguments)
