"""The command line. An error of ours becomes one red sentence and its exit code, never a traceback.

A command's module is imported when the command runs, or when its own ``--help`` is asked: the names and one-line helps
of :data:`COMMANDS` are all that ``confide --help`` needs. A test compares them with the commands' own words.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

import confide
from confide.errors import ConfideError


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its name, the module in this package, what it is called there, its panel and first line of help."""

    name: str
    module: str
    panel: str
    line: str

    def load(self) -> Any:
        """The command itself, as the library of the command line wants it."""
        found = getattr(import_module(f"{__name__}.{self.module}"), self.name, None)
        if found is None:  # a group of commands
            found = import_module(f"{__name__}.{self.module}").app
        if isinstance(found, typer.Typer):
            return get_command(found)
        alone = typer.Typer(add_completion=False)
        alone.command(self.name)(found)
        return get_command(alone)


_CLIENT: Final = "Check a service"
_SERVER: Final = "Serve"
COMMANDS: Final = (
    Command("verify", "verify", _CLIENT, "Ask a service for its evidence and check it, step by step."),
    Command("audit", "audit", _CLIENT, "Check saved evidence, receipts and answers again. Never uses a network."),
    Command("policy", "policy", _CLIENT, "Policies: write down what a service shows now, or explain a file."),
    Command("sessions", "sessions", _CLIENT, "Check an aggregator, and the sessions that it has with its upstreams."),
    Command("chat", "chat", _CLIENT, "Talk to a service that is checked first; each answer's receipt is checked too."),
    Command("proxy", "proxy", _CLIENT, "A local OpenAI endpoint in front of a service, which is checked first."),
    Command("probe", "probe", _CLIENT, "Measure what no evidence can state: whether tenants share a prompt cache."),
    Command("serve", "serve", _SERVER, "Serve chat completions on an OpenAI-compatible API."),
    Command(
        "pull",
        "pull",
        _SERVER,
        "Fetch models into the cache and check them. With no SOURCE: those of the settings, else the default.",
    ),
    Command("models", "models", _SERVER, "List the models that have a name here, and those that were fetched."),
    Command("keys", "keys", _SERVER, "API keys: create, list, revoke."),
    Command("csr", "csr", _SERVER, "Print a request, in PEM, for a certificate of the TLS key of the server."),
    Command(
        "doctor", "doctor", _SERVER, "Say what this machine has. Exit code 1 when `confide serve` can't start here."
    ),
)


class _Lazy(TyperGroup):
    """Knows its commands by name and loads the one that is asked for."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As the base class, with the real command in place of its stand-in."""
        name, found, rest = super().resolve_command(ctx, args)
        real = next((command for command in COMMANDS if command.name == name), None)
        return name, found if real is None else real.load(), rest


app = typer.Typer(
    name="confide",
    cls=_Lazy,
    help="Chat completions through the OpenAI API, from models in a TEE, with proof that anybody can check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _stand_in() -> Callable[[], None]:
    def never_called() -> None: ...

    return never_called


for _command in COMMANDS:
    app.command(_command.name, help=_command.line, rich_help_panel=_command.panel)(_stand_in())


@app.command("version", rich_help_panel="This program")
def version() -> None:
    """Say which version this is, and on what it runs."""
    from confide.cli import console

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
    """Run one command; the exit code. An error that names none of its own is a failure (1)."""
    try:
        app(args=list(arguments), prog_name="confide")
    except ConfideError as wrong:
        from confide.cli import console

        console.fail(str(wrong))
        return int(getattr(wrong, "exit_code", 1))
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def main() -> None:
    """The ``confide`` program."""
    sys.exit(run(sys.argv[1:]))
