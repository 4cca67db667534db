"""An engine that we start: kept alive while we live, ended with us, and its output kept to itself.

It listens where nobody else looks: on a unix socket in a folder of ours, or, where it can't, on the loopback interface.
It is started without a shell, with few variables of ours, behind :mod:`confide.engine.remote.guard`.

Its output is read and thrown away, since an engine may print prompts; a log line tells how many lines there were. The
exception is what it prints before it is ready for the first time: nobody has asked it anything until then, so there can
be no content in it, and without it an operator can't know why an engine doesn't start.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from confide.engine.remote.launch import INHERITED, LAUNCHES, ChildProgram, Place, words
from confide.errors import OperatorError

log = logging.getLogger("confide.child")

_GUARD: Final = str(Path(__file__).with_name("guard.py"))
_TAIL: Final = 4096


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient we are, in seconds.

    Attributes:
        poll: between questions whether a starting engine is ready.
        tell: between log lines that say that it isn't yet.
        health: between questions whether a running engine still is.
        answer: until a question counts as not answered.
        sick: after how long without a good answer a running engine is ended, to be started anew.
        first_pause: before a dead engine is started anew; doubled each time.
        longest_pause: the most.
        steady: a run that lasted so long makes the next pause the first one again.
        grace: between SIGTERM and SIGKILL.
    """

    poll: float = 0.25
    tell: float = 30.0
    health: float = 10.0
    answer: float = 10.0
    sick: float = 120.0
    first_pause: float = 1.0
    longest_pause: float = 60.0
    steady: float = 60.0
    grace: float = 10.0


class Child:
    """One engine and its restarts. Start and close it on one event loop, in the loop's thread.

    ``sleep`` waits before a restart; ``restarts`` counts how often it was started after the first time.
    """

    def __init__(
        self,
        program: ChildProgram,
        pace: Pace | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._program = program
        self._pace = pace or Pace()
        self._sleep = sleep
        self._folder = tempfile.TemporaryDirectory(prefix="confide-engine-", ignore_cleanup_errors=True)
        self._place = self._chosen_place()
        self._http = _client(self._place, self._pace.answer)
        self._run: _Run | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.restarts = 0

    def _chosen_place(self) -> Place:
        if LAUNCHES[self._program.engine].socket is not None:
            return Place(socket=Path(self._folder.name) / "engine.sock")
        return Place(port=_free_port())

    @property
    def url(self) -> str:
        """Where it listens, as settings name engines."""
        return self._place.url

    async def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            OperatorError: it ended, or it wasn't ready in time. The text ends with its output's end.
        """
        run = await self._spawn(keep_output=True)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(lambda: asyncio.shield(run.end(self._pace.grace)))
            await self._until_ready(run)
            undo.pop_all()
        run.output.forget()
        self._keeper = asyncio.create_task(self._keep(run))

    async def close(self) -> None:
        """End it, and its restarts. Safe to call twice."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._run is not None:
            await self._run.end(self._pace.grace)
        await self._http.aclose()
        self._folder.cleanup()

    # Starting --------------------------------------------------------------------------------------------------------

    async def _spawn(self, *, keep_output: bool) -> _Run:
        """Start a process. Whoever stops waiting, it is in :attr:`_run`, so that :meth:`close` ends it."""
        spawning = asyncio.create_task(self._process(keep_output=keep_output))
        try:
            return await asyncio.shield(spawning)
        except asyncio.CancelledError:
            await asyncio.wait({spawning})
            raise

    async def _process(self, *, keep_output: bool) -> _Run:
        program = self._program
        if self._place.socket is not None:
            self._place.socket.unlink(missing_ok=True)
        command = words(
            program.engine,
            self._place,
            program.weights,
            name=program.name,
            command=program.command,
            projector=program.projector,
            arguments=program.arguments,
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", _GUARD, str(self._pace.grace), *command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment(program),
            start_new_session=True,
        )
        self._run = _Run(process, _Output(_TAIL if keep_output else 0))
        return self._run

    async def _until_ready(self, run: _Run) -> None:
        program, began, told = self._program, time.monotonic(), 0
        while not await self.healthy():
            if await run.ended_within(self._pace.poll):
                ended = f"{program.engine} for {program.name} ended with code {run.code} before it was ready"
                raise OperatorError(ended + run.output.shown)
            waited = time.monotonic() - began
            if waited > program.start_seconds:
                raise OperatorError(
                    f"{program.engine} for {program.name} was not ready after {program.start_seconds:g} seconds; "
                    f"start_timeout gives it more{run.output.shown}"
                )
            if waited > (told + 1) * self._pace.tell:
                told += 1
                log.warning(
                    "an engine is still starting", extra={"what": program.name, "milliseconds": int(waited * 1000)}
                )

    async def healthy(self) -> bool:
        """Whether it says that it can serve."""
        status = await self._status("/health")
        return (await self._status("/v1/models") if status == 404 else status) == 200

    async def _status(self, path: str) -> int:
        try:
            async with self._http.stream("GET", path) as answer:
                return answer.status_code
        except httpx.HTTPError:
            return 0

    # Keeping it ------------------------------------------------------------------------------------------------------

    async def _keep(self, run: _Run) -> None:
        pause = self._pace.first_pause
        while True:
            began = time.monotonic()
            await self._until_ended(run)
            self._tell_end(run)
            if time.monotonic() - began >= self._pace.steady:
                pause = self._pace.first_pause
            await self._sleep(pause)
            pause = min(2 * pause, self._pace.longest_pause)
            self.restarts += 1
            run = await self._again()

    async def _again(self) -> _Run:
        """Start it anew; where that fails, the run that is returned has ended."""
        run = await self._spawn(keep_output=False)
        try:
            await self._until_ready(run)
        except OperatorError:
            await run.end(self._pace.grace)
        else:
            log.warning("an engine was started anew", extra={"what": self._program.name})
        return run

    async def _until_ended(self, run: _Run) -> None:
        """Return when it has ended; end it when it has been sick for too long."""
        well = time.monotonic()
        while not await run.ended_within(self._pace.health):
            if await self.healthy():
                well = time.monotonic()
            elif time.monotonic() - well >= self._pace.sick:
                log.error("an engine that does not answer is ended", extra={"what": self._program.name})
                await run.end(self._pace.grace)

    def _tell_end(self, run: _Run) -> None:
        told = {
            "what": self._program.name,
            "status": run.code,
            "reason": f"{run.output.lines} lines of output discarded",
        }
        log.error("an engine ended", extra=told)


def environment(program: ChildProgram) -> dict[str, str]:
    """The variables of a child: few of ours, what its kind gets, and the operator's for it."""
    inherited = {name: value for name, value in program.inherited.items() if name in INHERITED}
    return inherited | dict(LAUNCHES[program.engine].environment) | dict(program.environment)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _client(place: Place, seconds: float) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=None if place.socket is None else str(place.socket))
    base = f"http://127.0.0.1:{place.port}" if place.socket is None else "http://localhost"
    return httpx.AsyncClient(base_url=base, transport=transport, timeout=seconds, trust_env=False)


class _Output:
    """What a process printed: counted, and its last ``keep`` bytes until they are to be forgotten."""

    def __init__(self, keep: int) -> None:
        self.lines = 0
        self._keep = keep
        self._tail = b""

    def add(self, data: bytes) -> None:
        """Take a piece."""
        self.lines += data.count(b"\n")
        self._tail = (self._tail + data)[-self._keep :] if self._keep else b""

    def forget(self) -> None:
        """From now on there may be content in it."""
        self._keep, self._tail = 0, b""

    @property
    def shown(self) -> str:
        """What was kept, for a terminal."""
        text = self._tail.decode("utf-8", "replace")
        printable = "".join(char if char.isprintable() or char == "\n" else " " for char in text).strip()
        return f". The end of its output:\n{printable}" if printable else ""


class _Run:
    """One process of the engine, its guard included."""

    def __init__(self, process: asyncio.subprocess.Process, output: _Output) -> None:
        self._process = process
        self.output = output
        self._exit = asyncio.create_task(self._wait())

    async def _wait(self) -> int:
        reading = asyncio.create_task(self._read())
        code = await self._process.wait()
        await asyncio.wait({reading}, timeout=1)  # a process that left the group may hold the pipe open
        reading.cancel()
        return code

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(65536):
            self.output.add(data)

    @property
    def code(self) -> int | None:
        """The exit code; 128 and more: the number of a signal above that."""
        return self._process.returncode

    async def ended_within(self, seconds: float) -> bool:
        """Wait so long for its end."""
        done, _ = await asyncio.wait({self._exit}, timeout=seconds)
        return bool(done)

    async def end(self, grace: float) -> None:
        """SIGTERM to the whole group, SIGKILL after the grace; done by the guard, which sees the pipe close."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if not await self.ended_within(grace + 5) and self._process.returncode is None:
            self._process.kill()
            await self.ended_within(5)
