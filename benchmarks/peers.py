"""What other gateways cost, beside ours and with the same load: ``make bench-peers``.

A peer checks a key and forwards; it signs, hashes and keeps nothing. It is asked less often than ours is in
:mod:`benchmarks.gateway`, since it takes long, and it may write an answer anew: those that are not the engine's, byte
for byte, are counted and are no error of its.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import uvloop

from benchmarks import report, targets, upstream
from benchmarks.gateway import Results, alone, paced, requests
from benchmarks.load import Case, Tally
from benchmarks.targets import Gateway

ROUNDS: Final = 5
KEY: Final = "sk-bench-0123456789abcdef"
FIGURES: Final = {
    "small": ("CPU per small request (300 B), ms", 1e3, 2),
    "large": ("CPU per 1 MB request, ms", 1e3, 1),
    "chunk": ("CPU per chunk, 8 streams at 100/s, µs", 1, 0),
    "latency": ("added latency p50, one at a time, ms", 1, 2),
    "first": ("added time to first byte p50, ms", 1, 2),
    "memory": ("memory in the end, MB", 1, 0),
}
"""What each is called, what it is divided by, and its digits."""


@dataclass
class Account(Results):
    """Figures of one gateway, and what it answered itself: not what it is compared with."""

    name: str = ""

    def count(self, gateway: Gateway, tally: Tally) -> None:
        """Take what came back."""
        if gateway.name == self.name:
            super().count(gateway, tally)

    def of(self, name: str) -> list[float]:
        """A figure, one for each round."""
        return [value / FIGURES[name][1] for value in self.figures[name][self.name]]


@contextmanager
def litellm(folder: Path, upstream_port: int, program: Path) -> Iterator[Gateway]:
    """LiteLLM's proxy, with one key and nothing else switched on."""
    port, log, settings = targets.free_port(), folder / "litellm.log", folder / "litellm.yaml"
    where = {"model": f"openai/{upstream.MODEL}", "api_base": f"http://127.0.0.1:{upstream_port}/v1", "api_key": "none"}
    models = [{"model_name": upstream.MODEL, "litellm_params": where}]
    settings.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": KEY}}))
    command = [str(program), "--config", str(settings), "--host", "127.0.0.1", "--port", str(port)]
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with targets.program([*command, "--telemetry", "False"], log, targets.GATEWAY_CORE, **offline) as pid:
        targets.wait_for(lambda: targets.listening(port), log)
        yield Gateway("LiteLLM", port, KEY, pid=pid)


async def _round(account: Account, gateway: Gateway, direct: Gateway) -> None:
    await requests(account, "small", gateway, Case(300), 150, 16)
    await requests(account, "large", gateway, Case(1 << 20), 12, 4)
    await paced(account, "chunk", gateway, Case(300, chunks=128, every=10), 8)
    await alone(account, gateway, direct, 40)
    account.put("memory", gateway, targets.resident(gateway.pid))


def measure(folder: Path, program: Path, rounds: int) -> list[Account]:
    """Ours and the peer, taking turns."""
    targets.files_allowed()
    targets.pin(targets.LOAD_CORE)
    with ExitStack() as stack:
        direct = stack.enter_context(targets.engine(folder))
        started = [targets.confide(folder, direct.port), litellm(folder, direct.port, program)]
        gateways = [stack.enter_context(one) for one in started]
        accounts = [Account(name=gateway.name) for gateway in gateways]
        both = list(zip(accounts, gateways, strict=True))
        for number in range(rounds):
            for account, gateway in both if number % 2 else both[::-1]:
                print(f"round {number + 1} of {rounds}: {gateway.name}", file=sys.stderr, flush=True)
                uvloop.run(_round(account, gateway, direct))
    return accounts


def table(accounts: Sequence[Account], versions: Mapping[str, str]) -> str:
    """Markdown: medians, and the peer's over ours, with the lowest and highest round."""
    ours, theirs = accounts
    names = [f"{one.name} {versions.get(one.name, '')}".strip() for one in accounts]
    lines = [f"| | {names[0]} | {names[1]} | theirs : ours |", "|---|---:|---:|---:|"]
    for name, (text, _, digits) in FIGURES.items():
        mine, other = ours.of(name), theirs.of(name)
        ratios = [one / two for one, two in zip(other, mine, strict=True)]
        cells = [f"{median(values):,.{digits}f}" for values in (mine, other)]
        ratio = f"{median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})"
        lines.append(f"| {text} | {cells[0]} | {cells[1]} | {ratio} |")
    equal = [f"{one.answers - one.errors - one.wrong:,} of {one.answers:,}" for one in accounts]
    lines.append(f"| answers that are the engine's, byte for byte | {equal[0]} | {equal[1]} | |")
    lines.append(f"| errors | {ours.errors} | {theirs.errors} | |")
    return "\n".join(lines)


def page(table: str, rounds: int) -> str:
    """The page of the documentation."""
    return f"""# Benchmark: beside other gateways

`make bench-peers` installs LiteLLM's proxy and measures it beside `confide`, with the load generator and the engine of
[what the proof costs](benchmarks.md): an engine that answers at once. LiteLLM has one key and nothing else switched on,
and neither hashes nor signs; `confide` checks, hashes, signs, and commits a receipt for every answer. Both are one
process on one core, and take turns.

{table}

Medians of {rounds} rounds; a ratio is taken in each round, and stands with its lowest and highest.
Measured {datetime.datetime.now(datetime.UTC).date()}, {report.machine()}.

Portkey's gateway (1.15.2, from the npm registry, its install script not run) was tried and is not here: in Node 20 it
answered every request with 500, "immutable", thrown while it copied headers.

Source: `benchmarks/peers.py`.
"""


def _version(program: Path) -> str:
    code = "import importlib.metadata; print(importlib.metadata.version('litellm'))"
    python = program.with_name("python")
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def main(given: Sequence[str] | None = None) -> int:
    """Measure and report; 1 where an answer of ours was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("litellm", type=Path, metavar="PROGRAM", help="LiteLLM's command, in an environment of its own")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="(default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page of the documentation")
    options = parser.parse_args(given)
    with tempfile.TemporaryDirectory(prefix="confide-bench-") as folder:
        accounts = measure(Path(folder), options.litellm, options.rounds)
    text = table(accounts, {"LiteLLM": _version(options.litellm)})
    print(text)
    if options.write:
        options.write.write_text(page(text, options.rounds), encoding="utf-8")
    return int(accounts[0].errors + accounts[0].wrong + accounts[0].false_receipts > 0)


if __name__ == "__main__":
    sys.exit(main())
