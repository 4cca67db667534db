"""``confide probe``: properties of a running service that are measured, because no evidence can state them."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Annotated, Final

import typer

from confide.cli import console, files, isolation
from confide.cli.isolation import KINDS, Judgement, Kind, Outcome, Samples, Target
from confide.cli.options import Json, Model, Timeout, Url
from confide.client.address import parse_address
from confide.verify.verdict import ExitCode, bounded

app = typer.Typer(
    help="Measure what no evidence can state: whether tenants share a prompt cache.",
    no_args_is_help=True,
    add_completion=False,
)

_CODES: Final[dict[Outcome, ExitCode]] = {
    "isolated": ExitCode.VERIFIED,
    "not isolated": ExitCode.FAILED,
    "inconclusive": ExitCode.NOT_ENOUGH,
}
_STYLES: Final[dict[Outcome, str]] = {"isolated": "green", "not isolated": "bold red", "inconclusive": "yellow"}
_NAMES: Final[dict[Kind, str]] = {"new": "a new text", "same": "the same tenant again", "other": "the other tenant"}


@app.callback()
def _group() -> None:
    """Keeps the command's name where there is one only."""


@app.command("cache-isolation")
def cache_isolation(
    url: Url,
    key_a_file: Annotated[Path, typer.Option("--key-a-file", metavar="FILE", help="Holds the API key of one tenant.")],
    key_b_file: Annotated[
        Path, typer.Option("--key-b-file", metavar="FILE", help="Holds the API key of another tenant.")
    ],
    model: Model = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help="Each makes four requests.")] = 8,
    words: Annotated[
        int,
        typer.Option(
            "--words", min=20, max=100_000, help="Length of the texts; the longer, the clearer. About 4 tokens each."
        ),
    ] = 400,
    timeout: Timeout = 120.0,
    as_json: Json = False,
) -> None:
    """Measure whether a tenant can find out by the prompt cache what another tenant has asked.

    Both keys ask with texts of random words. Where the service tells how much of a prompt was cached, those counts
    decide; else the times to the first token do. Exit code 0: isolated; 1: not isolated; 5: nothing was shown, because
    no cache can be seen or the figures are not clear.
    """
    target = _target(url, key_a_file, key_b_file, words, timeout)
    chosen = model or isolation.first_model(target)
    samples = isolation.measure(
        target, chosen, rounds, tell=lambda number: console.note(f"Round {number} of {rounds} with {bounded(chosen)}")
    )
    found = isolation.judge(samples)
    if as_json:
        console.say_json(_as_json(found, samples, chosen, rounds))
    else:
        _show(found, samples)
    raise typer.Exit(_CODES[found.outcome])


def _target(url: str, key_a_file: Path, key_b_file: Path, words: int, timeout: float) -> Target:
    address = parse_address(url)
    first, second = (files.api_key(path, None) or "" for path in (key_a_file, key_b_file))
    if first == second:
        raise files.UsageError("both files hold the same key: two tenants are needed")
    return Target(address, (first, second), words, timeout)


def _show(found: Judgement, samples: Samples) -> None:
    usual = median(sample.seconds for sample in samples["new"])
    table = console.table("asked by or with", "requests", "first token", "ratio", "cached")
    for kind in KINDS:
        seconds = median(sample.seconds for sample in samples[kind])
        share = _share(samples, kind)
        table.add_row(
            _NAMES[kind],
            str(len(samples[kind])),
            f"{seconds * 1000:.0f} ms",
            f"{seconds / usual:.2f}",
            "not told" if share is None else f"{share:.0%}",
        )
    console.stdout().print(table)
    console.say(f"{found.outcome.capitalize()}: {found.reason}.", style=_STYLES[found.outcome])


def _share(samples: Samples, kind: Kind) -> float | None:
    """The median of what was cached; None where a request tells no count."""
    told = [share for sample in samples[kind] if (share := sample.share) is not None]
    return median(told) if len(told) == len(samples[kind]) else None


def _as_json(found: Judgement, samples: Samples, model: str, rounds: int) -> dict[str, object]:
    return {
        "outcome": found.outcome,
        "by": found.by,
        "reason": found.reason,
        "model": model,
        "rounds": rounds,
        "requests": {kind: list(samples[kind]) for kind in KINDS},
    }
