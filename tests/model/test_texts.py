"""Completions of texts by the embedded engine, with the real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.rawhttp import Connection, request
from tests.serving import RunningServer, serving

from confide.engine.pull import LocalModel

START = "Once upon a time, in a small village by the sea, there lived"
SURE: dict[str, Any] = {"temperature": 0, "seed": 1, "max_tokens": 8}


@pytest.fixture(scope="module")
def server(smollm2: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("texts")
    config = folder / "confide.toml"
    table = {"id": "smol", "source": str(smollm2.path), "slots": 3, "context_length": 512}
    config.write_text("[[model]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))
    with serving(folder, [], "--config", str(config), model="smol") as running:
        yield running


def post(server: RunningServer, key: str | None = None, **members: Any) -> httpx.Response:
    body = {"model": "smol", "prompt": START, **SURE, **members}
    headers = {"Authorization": f"Bearer {key}"} if key else server.headers
    return httpx.post(f"{server.url}/completions", json=body, headers=headers, timeout=120)


def ask(server: RunningServer, **members: Any) -> dict[str, Any]:
    answer = post(server, **members)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def chunks(server: RunningServer, **members: Any) -> list[dict[str, Any]]:
    answer = post(server, stream=True, **members)
    assert answer.status_code == 200, answer.text
    *events, done, end = answer.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def texts(answer: dict[str, Any]) -> list[str]:
    return [choice["text"] for choice in answer["choices"]]


def test_a_stream_says_what_a_body_says(server: RunningServer) -> None:
    whole = ask(server, logprobs=2)
    streamed = chunks(server, logprobs=2, stream_options={"include_usage": True})
    assert "".join(text for chunk in streamed for text in texts(chunk)) == texts(whole)[0]
    assert whole["usage"] | {"prompt_tokens_details": 0} == streamed[-1]["usage"] | {"prompt_tokens_details": 0}
    assert whole["usage"]["completion_tokens"] == 8
    shown = [choice["logprobs"] for chunk in streamed for choice in chunk["choices"] if choice["logprobs"]]
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == "length"
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [one for piece in shown for one in piece[name]] == choice["logprobs"][name]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert all(len(alternatives) == 2 for alternatives in choice["logprobs"]["top_logprobs"])


def test_the_prompt_is_continued_and_not_chatted_with(server: RunningServer) -> None:
    longer = ask(server, max_tokens=20)
    first = ask(server, max_tokens=5)
    assert texts(longer)[0].startswith(texts(first)[0])
    rest = ask(server, prompt=START + texts(first)[0], max_tokens=5)
    assert texts(longer)[0].startswith(texts(first)[0] + texts(rest)[0])


def test_several_prompts_and_choices(server: RunningServer) -> None:
    alone = [texts(ask(server, prompt=prompt))[0] for prompt in ("The sun", "The moon")]
    both = ask(server, prompt=["The sun", "The moon"])
    assert texts(both) == alone
    assert [choice["index"] for choice in both["choices"]] == [0, 1]
    echoed = ask(server, prompt=["The sun", "The moon"], echo=True)
    assert texts(echoed) == ["The sun" + alone[0], "The moon" + alone[1]]
    several = ask(server, n=3, temperature=1)
    assert len({*texts(several)}) > 1
    assert several["usage"]["prompt_tokens"] == ask(server)["usage"]["prompt_tokens"]
    assert both["usage"]["prompt_tokens"] == 4
    merged = chunks(server, prompt=["The sun", "The moon"])
    for index, text in enumerate(alone):
        assert "".join(c["text"] for chunk in merged for c in chunk["choices"] if c["index"] == index) == text


def test_tokens_are_taken_in_place_of_text(server: RunningServer) -> None:
    assert texts(ask(server, prompt=[504, 2321]))[0]
    assert len(texts(ask(server, prompt=[[504], [504, 2321]]))) == 2


def test_a_stop_sequence_ends_the_text_before_it(server: RunningServer) -> None:
    whole = texts(ask(server, max_tokens=20))[0]
    stop = whole[4:7]
    answer = ask(server, max_tokens=20, stop=[stop])
    assert texts(answer)[0] == whole.partition(stop)[0]
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"prompt": "word " * 600}, "prompt", "context_length_exceeded"),
        ({"prompt": "w" * 200_000}, "prompt", "context_length_exceeded"),
        ({"prompt": ["a"] * 4}, "prompt", "array_above_max_length"),
        ({"n": 4}, "n", "integer_above_max_value"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"echo": True, "logprobs": 1}, "logprobs", "unsupported_value"),
        ({"echo": True, "prompt": [1]}, "echo", "unsupported_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias", "invalid_value"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"prompt": [2**31 - 1]}, None, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_it_cant_do_is_refused(
    server: RunningServer, members: dict[str, Any], param: str | None, code: str | None, stream: bool
) -> None:
    answer = post(server, stream=stream, **members)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code), error
    assert answer.headers["x-receipt-id"]


def test_caches_are_not_shared_between_keys(server: RunningServer) -> None:
    """The same key's second request finds the first one's prompt; another key's doesn't, whichever slot it gets."""
    env = os.environ | {"CONFIDE_DATA_DIR": str(server.log.parent / "data")}
    made = subprocess.run(
        [sys.executable, "-m", "confide", "keys", "create", "other"],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    other = next(word for word in made.stdout.split() if word.startswith("sk-"))
    prompt = "A long prompt that only these two requests have in common, and nobody else. " * 6

    def cached(key: str | None) -> int:
        answer = post(server, key, prompt=prompt)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    cached(None)
    assert cached(None) > 40
    time.sleep(1.5)  # keys are read anew after a while
    assert cached(other) == 0
    assert cached(None) > 40


def test_more_requests_than_slots_all_end(server: RunningServer) -> None:
    with ThreadPoolExecutor(9) as threads:
        found = list(threads.map(lambda number: ask(server, prompt=f"Number {number} is", n=2), range(9)))
    assert all(len(texts(answer)) == 2 for answer in found)


def test_a_client_that_leaves_frees_its_slots(server: RunningServer) -> None:
    body = json.dumps({"model": "smol", "prompt": [START] * 3, "max_tokens": 400, "stream": True}).encode()
    fields = {"Content-Type": "application/json", **server.headers}
    for _ in range(3):
        with Connection(server.port) as leaving:
            leaving.send(request("POST", "/v1/completions", fields, body))
            leaving.head()
    assert texts(ask(server, n=3, max_tokens=2))
