"""The command line. An OperatorError becomes one red sentence and its exit code, never a traceback."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import confide
from confide.cli import console, doctor, keys, models, pull, serve
from confide.errors import OperatorError

app = typer.Typer(
    name="confide",
    help="Chat completions from models that run here, through the OpenAI API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("pull")(pull.pull)
app.command("models")(models.models)
app.add_typer(keys.app, name="keys")
app.command("doctor")(doctor.doctor)


@app.command("version")
def version() -> None:
    """Say which version this is, and on what it runs."""
    console.say(f"confide {confide.__version__} (Python {platform.python_version()})")


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Same as `confide version`."),
    ] = False,
) -> None: ...


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit code."""
    try:
        app(args=list(arguments), prog_name="confide")
    except OperatorError as wrong:
        console.fail(str(wrong))
        return wrong.exit_code
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def main() -> None:
    """The ``confide`` program."""
    sys.exit(run(sys.argv[1:]))
