"""How much of the engine's speed our server passes on: tokens per second next to llama.cpp's own HTTP server.

Both servers are processes of their own with the same library, model, threads, slots, context and batch. They take turns
under load, round by round, with the same prompts, so that a busy machine hits both alike; a ratio is taken within each
round. The CPU time is the kernel's account of each server's process tree, which other work on the machine shifts less
than it shifts the clock. ``--help`` shows what can be changed.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from confide import config
from confide.cli.console import Downloads
from confide.engine.catalogue import DEFAULT
from confide.engine.llama import BATCH
from confide.engine.pull import pull

OURS: Final = "confide"
THEIRS: Final = "llama.cpp"
START_SECONDS: Final = 120
ANSWER_SECONDS: Final = 300

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_SAID: Final = re.compile(rb'"content":"(?!")')
_SPENT: Final = re.compile(rb'"completion_tokens":(\d+)')
_THINGS: Final = (
    "river stone lantern market bridge winter garden letter engine harbour violin copper meadow window signal "
    "paper mountain silver kitchen captain forest island thunder basket mirror station candle orchard ribbon "
    "compass"
)


@dataclass(frozen=True)
class Setup:
    """What both servers are given, and what they are asked."""

    model: Path
    slots: int
    context: int
    threads: int
    tokens: int
    parallel: tuple[int, ...]
    rounds: int


# The servers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A server that answers on this port of 127.0.0.1."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def serving(name: str, command: Sequence[str], port: int, folder: Path) -> Iterator[Target]:
    """Run a server for as long as the context lasts."""
    env = os.environ | {"OMP_WAIT_POLICY": "passive", "CONFIDE_DATA_DIR": str(folder / "data")}
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield Target(name, port, process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def our_command(serve: str, setup: Setup, port: int, folder: Path) -> list[str]:
    """``confide serve`` with this setup, which goes through a settings file."""
    settings = folder / "confide.toml"
    settings.write_text(
        f'[[model]]\nid = "bench"\nsource = {msgspec.json.encode(str(setup.model)).decode()}\n'
        f"slots = {setup.slots}\ncontext_length = {setup.context}\nthreads = {setup.threads}\n"
    )
    return [*shlex.split(serve), "--tee", "dev", "--config", str(settings), "--port", str(port), "--no-auth"]


def their_command(setup: Setup, port: int) -> list[str]:
    """llama.cpp's listener, in a process of its own: this file again, see :func:`listen`."""
    numbers = [str(number) for number in (setup.slots, setup.context, setup.threads, port)]
    return [sys.executable, __file__, "--listen", str(setup.model), *numbers]


def listen(model: str, slots: int, context: int, threads: int, port: int) -> None:
    """Be llama.cpp's own server, set as :mod:`confide.engine.llama` sets it, until a signal."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.kv_unified = False
    params.n_batch = params.n_ubatch = BATCH
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.slot_prompt_similarity = 0.0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = -1
    server = xllamacpp.Server(params)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print(server.listening_address, flush=True)
    threading.Event().wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# The load ------------------------------------------------------------------------------------------------------------


def prompt(chance: random.Random) -> bytes:
    """A request's messages, different from its first word on, so that no cached prompt helps."""
    words = _THINGS.split()
    system = f"{chance.choice(words).title()} {chance.getrandbits(32)}. You write plain stories without headings."
    user = "Tell a long story that has in it: " + ", ".join(chance.choices(words, k=16)) + "."
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return msgspec.json.encode(messages)


def request(messages: bytes, tokens: int) -> bytes:
    """The same bytes for every server."""
    body = (
        b'{"model":"bench","stream":true,"stream_options":{"include_usage":true},"temperature":0,"ignore_eos":true,'
        b'"max_tokens":%d,"messages":%s}' % (tokens, messages)
    )
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(frozen=True)
class Sample:
    """One answer: seconds to its first text, seconds from there to its end, and its tokens."""

    first: float
    rest: float
    tokens: int


class Exchange(asyncio.Protocol):
    """Sends one request, and keeps what comes with the two times that matter; reads nothing before the end."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._begun = self._first = self._last = 0.0
        self._data: list[bytes] = []
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._begun = time.perf_counter()
        transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        """Note the time."""
        self._last = time.perf_counter()
        if not self._first and _SAID.search(data):
            self._first = self._last
        self._data.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The answer is complete, or broken, which :meth:`sample` tells apart."""
        self._closed.set_result(None)

    async def sample(self) -> Sample:
        """Wait for the end.

        Raises:
            RuntimeError: it isn't a complete answer.
        """
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._closed
        answer = b"".join(self._data)
        spent = _SPENT.findall(answer)
        if not answer.startswith(b"HTTP/1.1 200 ") or b"data: [DONE]" not in answer or not spent or not self._first:
            raise RuntimeError(f"not a complete stream: {answer[:300]!r} … {answer[-300:]!r}")
        return Sample(self._first - self._begun, self._last - self._first, int(spent[-1]))


async def ask(target: Target, message: bytes) -> Sample:
    """One request on a connection of its own."""
    loop = asyncio.get_running_loop()
    _, exchange = await loop.create_connection(lambda: Exchange(message), "127.0.0.1", target.port)
    return await exchange.sample()


async def until_ready(target: Target, message: bytes) -> None:
    """Ask until it answers: the first answer also warms it up."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            await ask(target, message)
        except (OSError, RuntimeError) as error:
            if target.process.poll() is not None or time.monotonic() > deadline:
                said = target.log.read_text(errors="replace")[-2000:]
                raise SystemExit(f"{target.name} does not serve: {error}\n{said}") from error
            await asyncio.sleep(0.2)
        else:
            return


# Measuring -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """One server under one load in one round."""

    throughput: float  # tokens of all answers per second of the whole burst, prompts included
    decode: float  # tokens per second of one stream after its first, median
    first: float  # milliseconds to the first text, median
    cpu: float  # CPU seconds per 1,000 tokens


async def burst(target: Target, messages: Sequence[bytes], parallel: int) -> Figures:
    """Send all of it, so many at a time."""
    waiting = iter(messages)
    samples: list[Sample] = []

    async def worker() -> None:
        for message in waiting:
            samples.append(await ask(target, message))

    cpu, begun = cpu_seconds(target.process.pid), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(parallel)))
    wall = time.perf_counter() - begun
    cpu = cpu_seconds(target.process.pid) - cpu
    tokens = sum(sample.tokens for sample in samples)
    return Figures(
        throughput=tokens / wall,
        decode=median((sample.tokens - 1) / sample.rest for sample in samples),
        first=median(sample.first for sample in samples) * 1000,
        cpu=cpu / tokens * 1000,
    )


Results = dict[int, dict[str, list[Figures]]]
"""By the number of parallel requests, then by server: one entry per round."""


async def measure(targets: Sequence[Target], setup: Setup) -> Results:
    """All rounds. In each, every load is put on every server; who comes first alternates."""
    chance = random.Random(2)
    for target in targets:
        await until_ready(target, request(prompt(chance), 4))
    results: Results = {parallel: {target.name: [] for target in targets} for parallel in setup.parallel}
    for number in range(-1, setup.rounds):
        order = targets if number % 2 else targets[::-1]
        for parallel in setup.parallel:
            messages = [request(prompt(chance), setup.tokens) for _ in range(max(4, 2 * parallel))]
            for target in order:
                figures = await burst(target, messages, parallel)
                if number >= 0:  # the round before the first only warms up
                    results[parallel][target.name].append(figures)
        print(f"round {number + 1} of {setup.rounds} done", file=sys.stderr)
    return results


def cpu_seconds(pid: int) -> float:
    """What a process and its descendants have used, in user and system mode."""
    total, pending = 0.0, [pid]
    while pending:
        folder = Path("/proc") / str(pending.pop())
        fields = (folder / "stat").read_text().rpartition(") ")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _TICKS
        for children in folder.glob("task/*/children"):
            pending += [int(child) for child in children.read_text().split()]
    return total


def machine_seconds() -> float:
    """What all processes of the machine have used; what the host took away counts as used."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICKS


class Others:
    """Which share of the machine everybody else has used while we measured."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._pids = [os.getpid(), *(target.process.pid for target in targets)]
        self._clock, self._used = time.monotonic(), self._theirs()

    def _theirs(self) -> float:
        return machine_seconds() - cpu_seconds(os.getpid())  # the servers are our children

    def share(self) -> float:
        """From 0 to 1."""
        passed = (time.monotonic() - self._clock) * (os.cpu_count() or 1)
        return max(0.0, self._theirs() - self._used) / passed


# Reporting -----------------------------------------------------------------------------------------------------------

_COLUMNS: Final[tuple[tuple[str, Callable[[Figures], float], str], ...]] = (
    ("tokens/s", lambda figures: figures.throughput, ".1f"),
    ("tokens/s of one stream", lambda figures: figures.decode, ".1f"),
    ("first token, ms", lambda figures: figures.first, ".0f"),
    ("CPU-s per 1,000 tokens", lambda figures: figures.cpu, ".2f"),
)


def table(results: Results) -> str:
    """Markdown: medians, and the ratios to llama.cpp with their lowest and highest round."""
    lines = ["| parallel | server | " + " | ".join(name for name, _, _ in _COLUMNS) + " |"]
    lines.append("|---:|---|" + "---:|" * len(_COLUMNS))
    for parallel, by_name in results.items():
        for name, rounds in by_name.items():
            cells = [format(median(map(read, rounds)), form) for _, read, form in _COLUMNS]
            lines.append(f"| {parallel} | {name} | " + " | ".join(cells) + " |")
        for name, rounds in by_name.items():
            if name != THEIRS:
                cells = [_ratio(list(map(read, rounds)), list(map(read, by_name[THEIRS]))) for _, read, _ in _COLUMNS]
                lines.append(f"| {parallel} | **{name} : {THEIRS}** | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return f"**{median(ratios):.2f}** ({min(ratios):.2f}–{max(ratios):.2f})"


def page(setup: Setup, figures: str, others: float) -> str:
    """The page of the documentation."""
    return f"""# Benchmark: the embedded engine

Repeat everything here with `make bench-engine`, which writes this page anew. Compare ratios of one run; absolute
figures belong to the machine of that run.

## The embedded engine next to llama.cpp's own server

How much of the engine's speed is left after our server's part: HTTP, checks, slots, and every token's way from the
engine's thread to the socket. The other side is the HTTP listener of llama.cpp, in C++, from the same library.

{figures}

Medians of {setup.rounds} rounds; a ratio is taken in each round, and stands with its lowest and highest. Above 1 is
better for tokens per second, below 1 for the time to the first token and for CPU time. The goal is 0.95 of the tokens
per second.

* **Measured:** {datetime.datetime.now(datetime.UTC).date()}, {_machine()}, xllamacpp {version("xllamacpp")};
  others' work took {others:.0%} of the machine.
* **Both servers:** {setup.model.name}, {setup.threads} threads, {setup.slots} slots of {setup.context} tokens, batch
  {BATCH}, `OMP_WAIT_POLICY=passive`, no prompt cache beyond the slots, one process each.
* **Load:** streams of exactly {setup.tokens} tokens (`ignore_eos`, temperature 0) after about 75 tokens of prompt, all
  prompts different and the same for both; as many clients as "parallel" says, each of which asks again once it is
  answered. Tokens are counted by the server's `usage`. "tokens/s" is over the whole time, prompts included; "of one
  stream" counts from the first token on.
* **Mind:** load generator and servers share the cores. Only one server is under load at a time, and who begins
  alternates, so noise hits both, but single rounds still scatter by the range shown. CPU time is counted in steps of
  {1000 / _TICKS:.0f} ms for the server's whole process tree. A small model makes our part look as large as it gets: the
  more a token costs the engine, the less its way out matters.
* **Slots:** with a separate cache per slot, llama.cpp decodes only neighbouring slots in one step. With fewer requests
  than slots, which slots they happen to get decides the speed, of both servers; most of the scatter there is that.

Source: `benchmarks/engine.py`.
"""


def _machine() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processor = found[1] if found else platform.machine()
    kernel = platform.release().partition("-")[0]
    return f"{processor}, {os.cpu_count()} cores, Linux {kernel}, Python {platform.python_version()}"


# The command ---------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """What can be changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    number = parser.add_argument
    number("--model", default=DEFAULT, help="a GGUF file or a name of the catalogue (default: %(default)s)")
    number("--slots", type=int, default=8, help="of both servers (default: %(default)s)")
    number("--context", type=int, default=2048, help="tokens per slot (default: %(default)s)")
    number("--threads", type=int, default=os.cpu_count() or 1, help="of the engine (default: all cores)")
    number("--tokens", type=int, default=48, help="of each answer (default: %(default)s)")
    number("--parallel", default="1,4,8", help="numbers of parallel requests (default: %(default)s)")
    number("--rounds", type=int, default=9, help="(default: %(default)s)")
    number("--serve", default=f"{shlex.quote(sys.executable)} -m confide serve", help="the command that serves")
    number("--also", default=[], action="append", metavar="NAME=COMMAND", help="one more build of ours to compare")
    number("--write", type=Path, metavar="FILE", help="write the page of the documentation")
    number("--listen", nargs=5, help=argparse.SUPPRESS)
    return parser.parse_args()


def run(setup: Setup, builds: dict[str, str]) -> tuple[Results, float]:
    """Start the servers, measure, stop them."""
    with tempfile.TemporaryDirectory(prefix="confide-bench-") as temporary, ExitStack() as stack:
        targets = []
        for name, serve in builds.items():
            folder = Path(temporary) / name
            folder.mkdir()
            port = free_port()
            command = our_command(serve, setup, port, folder)
            targets.append(stack.enter_context(serving(name, command, port, folder)))
        port = free_port()
        targets.append(stack.enter_context(serving(THEIRS, their_command(setup, port), port, Path(temporary))))
        others = Others(targets)
        return asyncio.run(measure(targets, setup)), others.share()


def main() -> None:
    """Measure and report."""
    given = arguments()
    if given.listen:
        listen(given.listen[0], *map(int, given.listen[1:]))
        return
    setup = Setup(
        model=pull(given.model, config.load({}).cache_dir, Downloads()).path,
        slots=given.slots,
        context=given.context,
        threads=given.threads,
        tokens=given.tokens,
        parallel=tuple(int(number) for number in given.parallel.split(",")),
        rounds=given.rounds,
    )
    builds = {OURS: given.serve} | dict(build.split("=", 1) for build in given.also)
    results, others = run(setup, builds)
    figures = table(results)
    print(f"{figures}\n\nothers' work took {others:.0%} of the machine")
    if given.write:
        given.write.write_text(page(setup, figures, others), encoding="utf-8")


if __name__ == "__main__":
    main()
