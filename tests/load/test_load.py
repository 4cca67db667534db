"""Many at once, more than there is room for, clients that leave, and memory over hundreds of requests."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serving import RunningServer, serving

from confide.engine.pull import LocalModel

MODEL = "small"
SOAK = int(os.environ.get("CONFIDE_SOAK", "200"))
"""How many requests the look at the memory takes; `make soak` takes 1,000."""

PROMPTLY = 10.0
"""Seconds in which a request is answered when a slot is free, on a machine that is busy with other tests. Tasks that
are given up here would take minutes."""

SETTINGS = """
max_queue = {max_queue}

[[model]]
id = "{id}"
source = "{path}"
slots = {slots}
context_length = 8192
"""


def started(model: LocalModel, folder: Path, *, slots: int, max_queue: int) -> Any:
    settings = folder / "confide.toml"
    settings.write_text(SETTINGS.format(id=MODEL, path=model.path, slots=slots, max_queue=max_queue))
    return serving(folder, [], "--config", str(settings), auth=False, model=MODEL)


@pytest.fixture(scope="module")
def server(smollm2: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Four slots, and room for everybody in the queue."""
    with started(smollm2, tmp_path_factory.mktemp("load"), slots=4, max_queue=128) as running:
        yield running


@pytest.fixture(scope="module")
def tight(smollm2: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Two slots, and a queue of two."""
    with started(smollm2, tmp_path_factory.mktemp("tight"), slots=2, max_queue=2) as running:
        yield running


def client(server: RunningServer, timeout: float = 240) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=server.url, timeout=timeout, limits=limits)


def body(text: str, **members: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}]} | members


ENDLESS: dict[str, Any] = {"stream": True, "max_tokens": 7000, "ignore_eos": True}
"""Minutes of work."""


async def events(answer: httpx.Response) -> list[Any]:
    """The chunks of a stream, which must end as it should."""
    raw = await answer.aread()
    assert raw.endswith(b"data: [DONE]\n\n")
    blocks = [block for block in raw.decode().split("\n\n") if block and not block.startswith(":")]
    assert all(block.startswith("data: ") for block in blocks)
    return [json.loads(block[6:]) for block in blocks[:-1]]


def marked(number: int) -> dict[str, Any]:
    """A request whose answer can only be the one word that stands in it."""
    schema = {"const": f"marker-{number:03}"}
    wanted = {"type": "json_schema", "json_schema": {"name": "marker", "schema": schema}}
    return body(f"Say something about the number {number}.", stream=True, max_tokens=40, response_format=wanted)


async def one_stream(http: httpx.AsyncClient, number: int) -> str:
    """Ask for a marker, check the whole stream, and return its id."""
    async with http.stream("POST", "/chat/completions", json=marked(number)) as answer:
        assert answer.status_code == 200, await answer.aread()
        chunks = await events(answer)
    assert len({chunk["id"] for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert choices[-1]["finish_reason"] == "stop"
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert json.loads(text) == f"marker-{number:03}"
    return str(chunks[0]["id"])


def test_64_streams_at_once(server: RunningServer) -> None:
    """All complete, and none is mixed up with another."""

    async def work() -> None:
        async with client(server) as http:
            ids = await asyncio.gather(*(one_stream(http, number) for number in range(64)))
        assert len(set(ids)) == 64

    asyncio.run(work())


def test_32_plain_answers_at_once(server: RunningServer) -> None:
    async def one(http: httpx.AsyncClient, number: int) -> None:
        answer = await http.post("/chat/completions", json=marked(number) | {"stream": False})
        assert answer.status_code == 200, answer.text
        assert json.loads(answer.json()["choices"][0]["message"]["content"]) == f"marker-{number:03}"

    async def work() -> None:
        async with client(server) as http:
            await asyncio.gather(*(one(http, number) for number in range(32)))

    asyncio.run(work())


def test_choices_of_many_requests_at_once(server: RunningServer) -> None:
    """Requests for several choices take several slots each, and must not block each other."""

    async def one(http: httpx.AsyncClient, number: int) -> None:
        answer = await http.post("/chat/completions", json=marked(number) | {"stream": False, "n": 4})
        assert answer.status_code == 200, answer.text
        choices = answer.json()["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
        assert {choice["message"]["content"] for choice in choices} == {f'"marker-{number:03}"'}

    async def work() -> None:
        async with client(server) as http:
            await asyncio.gather(*(one(http, number) for number in range(8)))

    asyncio.run(work())


# More than there is room for -----------------------------------------------------------------------------------------


class Held:
    """Streams that are read to their first chunk and then kept open."""

    def __init__(self, server: RunningServer) -> None:
        self._http = client(server)
        self._open: list[Any] = []
        self._readers: list[Any] = []  # a reader that nobody holds closes its connection

    async def __aenter__(self) -> Held:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()
        await self._http.aclose()

    async def take(self, number: int) -> None:
        """Occupy so many slots."""
        for index in range(number):
            stream = self._http.stream("POST", "/chat/completions", json=body(f"Count from {index}.", **ENDLESS))
            answer = await stream.__aenter__()
            self._open.append(stream)
            assert answer.status_code == 200, await answer.aread()
            self._readers.append(answer.aiter_raw())
            await anext(self._readers[-1])

    async def leave(self) -> None:
        """Close all of them in the middle."""
        while self._open:
            await self._open.pop().__aexit__(None, None, None)
        self._readers.clear()


async def served(http: httpx.AsyncClient) -> float:
    """Ask something small; the seconds it took."""
    begun = time.monotonic()
    answer = await http.post("/chat/completions", json=body("hi", max_tokens=1))
    assert answer.status_code == 200, answer.text
    return time.monotonic() - begun


def test_a_full_queue_says_when_to_come_back(tight: RunningServer) -> None:
    async def work() -> None:
        async with Held(tight) as held, client(tight) as http:
            await held.take(2)
            waiting = [asyncio.create_task(served(http)) for _ in range(2)]
            await asyncio.sleep(0.5)
            for stream in (False, True):
                answer = await http.post("/chat/completions", json=body("hi", stream=stream))
                assert answer.status_code == 429
                assert int(answer.headers["retry-after"]) >= 1
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
                assert answer.json()["error"]["code"] == "rate_limit_exceeded"
            assert (await http.get("/models")).status_code == 200  # what needs no slot is served
            assert not any(task.done() for task in waiting)
            await held.leave()
            async with asyncio.timeout(PROMPTLY):
                await asyncio.gather(*waiting)

    asyncio.run(work())


def test_who_leaves_the_queue_makes_room_in_it(tight: RunningServer) -> None:
    async def work() -> None:
        async with Held(tight) as held, client(tight) as http:
            await held.take(2)
            for _ in range(3):
                impatient = [
                    asyncio.create_task(http.post("/chat/completions", json=body("hi", stream=stream)))
                    for stream in (True, False)
                ]
                await asyncio.sleep(0.3)
                assert not any(task.done() for task in impatient)
                for task in impatient:
                    task.cancel()
                await asyncio.gather(*impatient, return_exceptions=True)
                await asyncio.sleep(0.2)
            await held.leave()
            async with asyncio.timeout(PROMPTLY):
                await served(http)

    asyncio.run(work())


# Clients that leave --------------------------------------------------------------------------------------------------


def test_streams_given_up_in_the_middle_free_their_slots(tight: RunningServer) -> None:
    async def work() -> None:
        async with Held(tight) as held, client(tight) as http:
            for _ in range(5):
                await held.take(2)
                await held.leave()
                async with asyncio.timeout(PROMPTLY):
                    await asyncio.gather(served(http), served(http))

    asyncio.run(work())


@pytest.mark.parametrize("stream", [True, False])
def test_requests_given_up_before_their_answer_free_their_slots(tight: RunningServer, stream: bool) -> None:
    """The first round leaves while the prompt, thousands of tokens long, is being read; the second, without a long
    prompt, while the answer is being made."""

    async def work() -> None:
        async with client(tight) as http:
            for text in ("word " * 6000, "Count."):
                wanted = body(text, **ENDLESS) | {"stream": stream}
                given_up = [asyncio.create_task(http.post("/chat/completions", json=wanted)) for _ in range(2)]
                await asyncio.sleep(0.7)
                assert not any(task.done() for task in given_up)
                for task in given_up:
                    task.cancel()
                await asyncio.gather(*given_up, return_exceptions=True)
                async with asyncio.timeout(PROMPTLY):
                    await asyncio.gather(served(http), served(http))

    asyncio.run(work())


def test_several_choices_given_up_free_all_their_slots(tight: RunningServer) -> None:
    async def work() -> None:
        async with client(tight) as http:
            async with http.stream("POST", "/chat/completions", json=body("Count.", n=2, **ENDLESS)) as answer:
                seen = b""
                async for piece in answer.aiter_raw():
                    seen += piece
                    if len(seen) > 5000:
                        break
            async with asyncio.timeout(PROMPTLY):
                await asyncio.gather(served(http), served(http))

    asyncio.run(work())


# Memory --------------------------------------------------------------------------------------------------------------

MIB = 1024 * 1024
GROWTH = 16 * MIB


def memory(server: RunningServer) -> int:
    """What the process holds in memory, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


async def one_of_many(http: httpx.AsyncClient, number: int) -> None:
    """A request of one of the kinds that a server sees in a day."""
    kind = number % 8
    if kind == 0:
        await one_stream(http, number)
        return
    if kind == 1:
        async with http.stream("POST", "/chat/completions", json=body(f"Count to {number}.", **ENDLESS)) as answer:
            await anext(answer.aiter_raw())
        return
    wanted = {
        2: body("word " * 20_000),
        3: body("hi", model="nobody"),
        4: body("hi", n=2, max_tokens=3, temperature=1.5),
        5: body(f"{number} " * 20, max_tokens=2, logprobs=True, top_logprobs=20),
        6: body("hi", max_tokens=4, tools=[{"type": "function", "function": {"name": f"f{number}"}}]),
        7: body("hi", max_tokens=3, stop=[f"{number}"], metadata={"n": "x" * 5000}),
    }[kind]
    answer = await http.post("/chat/completions", json=wanted)
    assert answer.status_code == {2: 400, 3: 404}.get(kind, 200), answer.text


@pytest.mark.timeout(max(300, SOAK))
def test_memory_stays_flat(server: RunningServer) -> None:
    """After a third of the requests everything that is kept has been made; from there on nothing may pile up."""

    async def work() -> tuple[int, int]:
        warm = 0
        async with client(server) as http:
            for start in range(0, SOAK, 8):
                if warm == 0 and start >= SOAK // 3:
                    warm = memory(server)
                await asyncio.gather(*(one_of_many(http, number) for number in range(start, start + 8)))
            await served(http)
        return warm, memory(server)

    warm, end = asyncio.run(work())
    print(f"{warm / MIB:.1f} MiB after a third of {SOAK} requests, {end / MIB:.1f} MiB at the end")
    assert end - warm < GROWTH, f"{warm // MIB} MiB after a third, {end // MIB} MiB at the end"
