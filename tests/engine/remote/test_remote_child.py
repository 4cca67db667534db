"""Engines that we start: kept alive, ended with us, their output kept to themselves."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from confide.engine.remote.child import Child, ChildProgram, Pace
from confide.engine.remote.launch import LAUNCHES, Place, reserved_word, words
from confide.errors import OperatorError

FAKE = Path(__file__).with_name("fake_engine.py")
SECRET = "what-a-user-asked"
QUICK = Pace(poll=0.02, tell=0.05, health=0.05, sick=0.3, first_pause=0.02, longest_pause=0.1, steady=60, grace=0.5)
PATIENCE = 20.0


class World:
    """A folder, and a program that notes there what happens to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.notes.touch()

    def program(self, *arguments: str, engine: str = "vllm", **members: Any) -> ChildProgram:
        serve = ("serve",) if engine == "vllm" else ()
        made = ChildProgram(
            engine=engine,
            weights=self.folder,
            name="org/model",
            command=(sys.executable, str(FAKE), *serve),
            arguments=("--notes", str(self.notes), *arguments),
            start_seconds=PATIENCE,
            inherited=os.environ,
        )
        return replace(made, **members)

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.notes.read_text().splitlines()]

    @property
    def starts(self) -> list[dict[str, Any]]:
        return [each for each in self.told if "pid" in each]

    @property
    def helper(self) -> int:
        return int(next(each["helper"] for each in self.told if "helper" in each))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - what happens happens in another process
            await asyncio.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def run(program: ChildProgram, test: Callable[[Child], Any] | None = None, pace: Pace = QUICK) -> None:
    async def whole() -> None:
        child = Child(program, pace)
        try:
            await child.start()
            if test is not None:
                await test(child)
        finally:
            await child.close()

    asyncio.run(whole())


# Starting ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("engine", "way"), [("vllm", "unix:/"), ("llama-server", "unix:/"), ("sglang", "http://127.")])
def test_it_listens_where_nobody_else_looks(world: World, engine: str, way: str) -> None:
    async def test(child: Child) -> None:
        assert child.url.startswith(way)
        assert await child.healthy()
        if way == "unix:/":
            folder = Path(child.url.removeprefix("unix:")).parent
            assert folder.stat().st_mode & 0o077 == 0

    run(world.program(engine=engine), test)
    (start,) = world.starts
    assert "org/model" in start["words"]
    assert str(world.folder) in start["words"]


def test_an_engine_without_a_health_route(world: World) -> None:
    run(world.program("--no-health"))


def test_it_gets_few_variables(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIDE_KEYS", "OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "SOMETHING"):
        monkeypatch.setenv(name, "a secret")
    run(world.program(environment={"VLLM_LOGGING_LEVEL": "ERROR"}))
    (start,) = world.starts
    assert "a secret" not in start["values"].values()
    assert start["values"]["VLLM_LOGGING_LEVEL"] == "ERROR"
    assert start["values"]["HF_HUB_OFFLINE"] == "1"
    assert "PATH" in start["names"]
    assert not [name for name in start["names"] if name.startswith("CONFIDE_")]


def test_no_shell_reads_the_words(world: World) -> None:
    odd = ["$(touch x)", "; echo", "`id`", "two words", "*", ""]
    run(world.program(*odd))
    (start,) = world.starts
    assert [word for word in start["words"] if word in odd] == odd


def test_one_that_ends_before_it_is_ready(world: World) -> None:
    with pytest.raises(OperatorError) as caught:
        run(world.program("--say", "the model", "--exit", "3"))
    text = str(caught.value)
    assert text.startswith("vllm for org/model ended with code 3 before it was ready. The end of its output:\n")
    assert text.endswith("loading the model [31m")


def test_one_that_is_not_there(world: World) -> None:
    with pytest.raises(OperatorError, match=r"ended with code 127 .*\n.*can't be started: No such file"):
        run(world.program(command=("/no/such/program",)))


def test_one_that_never_gets_ready(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperatorError, match=r"was not ready after 0\.3 seconds; start_timeout gives it more"):
        run(world.program("--never", start_seconds=0.3))
    assert not any(lives(start["pid"]) for start in world.starts)
    assert "an engine is still starting" in caplog.text


def test_a_start_that_is_given_up(world: World) -> None:
    async def whole() -> None:
        child = Child(world.program("--never"), QUICK)
        starting = asyncio.create_task(child.start())
        await until(lambda: bool(world.starts))
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await child.close()

    asyncio.run(whole())
    assert not lives(world.starts[0]["pid"])


# Its output ----------------------------------------------------------------------------------------------------------


def test_what_it_prints_is_counted_and_told_to_nobody(
    world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)

    async def test(child: Child) -> None:
        transport = httpx.AsyncHTTPTransport(uds=child.url.removeprefix("unix:"))
        async with httpx.AsyncClient(transport=transport) as client:
            for _ in range(5):
                await client.get("http://localhost/health")
        os.kill(world.starts[0]["pid"], signal.SIGKILL)
        await until(lambda: child.restarts > 0)

    run(world.program("--say", "the model"), test)
    ended = next(record for record in caplog.records if record.message == "an engine ended")
    assert (ended.what, ended.status) == ("org/model", 128 + signal.SIGKILL)  # type: ignore[attr-defined]
    lines = int(ended.reason.split()[0])  # type: ignore[attr-defined]
    assert lines >= 6
    written = caplog.text + "".join(capfd.readouterr()) + repr([record.__dict__ for record in caplog.records])
    assert SECRET not in written
    assert "the model\\x1b" not in written


# Ends --------------------------------------------------------------------------------------------------------------


def test_it_is_started_anew(world: World) -> None:
    async def test(child: Child) -> None:
        await until(lambda: child.restarts >= 3)
        url = child.url
        await until(lambda: len(world.starts) > 3)
        assert child.url == url

    run(world.program("--die-when-asked"), test)
    assert len({start["pid"] for start in world.starts}) == len(world.starts)


def test_pauses_double_until_a_run_was_steady(world: World) -> None:
    pauses: list[float] = []

    async def noted(seconds: float) -> None:
        pauses.append(seconds)

    def after(number: int, pace: Pace) -> list[float]:
        async def whole() -> None:
            child = Child(world.program("--die-when-asked"), pace, sleep=noted)
            try:
                await child.start()
                await until(lambda: len(pauses) >= number)
            finally:
                await child.close()

        pauses.clear()
        asyncio.run(whole())
        return pauses[:number]

    assert after(5, replace(QUICK, first_pause=1, longest_pause=5)) == [1, 2, 4, 5, 5]
    assert after(3, replace(QUICK, first_pause=1, longest_pause=5, steady=0)) == [1, 1, 1]


def test_one_that_is_sick_for_long_is_ended_and_started_anew(world: World) -> None:
    illness = world.folder / "illness"

    async def test(child: Child) -> None:
        illness.touch()
        assert not await child.healthy()
        await until(lambda: not lives(world.starts[0]["pid"]))
        illness.unlink()
        await until(lambda: child.restarts == 1 and len(world.starts) == 2)

    run(world.program("--sick-while", str(illness)), test)


def test_it_ends_with_us_and_so_do_its_helpers(world: World) -> None:
    run(world.program("--helper"))
    assert {"signal": "TERM"} in world.told
    assert not lives(world.starts[0]["pid"])
    assert not lives(world.helper)


def test_one_that_does_not_end_is_killed(world: World) -> None:
    run(world.program("--stubborn", "--helper"))
    assert {"signal": "TERM"} in world.told
    assert not lives(world.starts[0]["pid"])
    assert not lives(world.helper)


def test_closing_twice(world: World) -> None:
    async def test(child: Child) -> None:
        await child.close()
        assert not lives(world.starts[0]["pid"])

    run(world.program(), test)


OWNER = """
import asyncio, sys
from pathlib import Path
from confide.engine.remote.child import Child, ChildProgram, Pace

async def main():
    child = Child(ChildProgram(engine="vllm", weights=Path("."), name="m", command=tuple(sys.argv[1:4]),
                               arguments=tuple(sys.argv[4:])), Pace(poll=0.02, grace=0.5))
    await child.start()
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("stubborn", [False, True])
def test_it_ends_when_we_are_killed(world: World, stubborn: bool) -> None:
    program = world.program("--helper", *(["--stubborn"] if stubborn else []))
    command = [sys.executable, "-c", OWNER, *program.command, *program.arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        pids = [world.starts[0]["pid"], world.helper]
        assert all(map(lives, pids))
        owner.kill()
    deadline = time.monotonic() + PATIENCE
    while any(map(lives, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_ends_when_its_guard_is_killed(world: World) -> None:
    async def test(child: Child) -> None:
        first = world.starts[0]["pid"]
        guard = parent(first)
        os.kill(guard, signal.SIGKILL)
        await until(lambda: not lives(first))
        await until(lambda: child.restarts == 1 and len(world.starts) == 2)

    run(world.program(), test)


# Words ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "command", "expected"),
    [
        ("vllm", (), "vllm serve /w --x --served-model-name n --uds /s"),
        ("vllm", ("python", "-m", "a"), "python -m a --model /w --x --served-model-name n --uds /s"),
        (
            "sglang",
            (),
            "python3 -m sglang.launch_server --model-path /w --x --served-model-name n --host 127.0.0.1 --port 5",
        ),
        ("llama-server", (), "llama-server --model /w --x --mmproj /p --alias n --host /s"),
        ("transformers", (), "transformers serve /w --x --host 127.0.0.1 --port 5"),
    ],
)
def test_words(engine: str, command: tuple[str, ...], expected: str) -> None:
    launch = LAUNCHES[engine]
    place = Place(socket=Path("/s")) if launch.socket else Place(port=5)
    projector = Path("/p") if launch.projector else None
    made = words(engine, place, Path("/w"), name="n", command=command, projector=projector, arguments=["--x"])
    assert " ".join(made) == expected


@pytest.mark.parametrize("word", ["--host", "--port=1", "--api_key=x", "--api-key", "--served_model_name"])
def test_words_that_are_ours(word: str) -> None:
    assert reserved_word("vllm", ["--x", word]) == word.partition("=")[0]
    assert reserved_word("vllm", ["--x", "host"]) is None
