"""``confide serve``: settings, then models, then the server."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from confide import config
from confide.announcing import Announcement
from confide.cli import console
from confide.cli.keys import key_store
from confide.cli.options import CacheDir, Config, DataDir, Tee
from confide.config import ModelSettings, Settings
from confide.engine import catalogue
from confide.engine.pull import LocalModel, pull
from confide.errors import ConfigError
from confide.serving import Orders, become

MAKE_RUN = "make-run"
"""The name of the key that ``--print-curl`` makes anew at each start."""

NEEDED = ("starlette", "uvicorn", "httptools", "jsonschema", "llguidance", "PIL", "xllamacpp")
"""Modules of the extras ``server`` and ``local``."""

NEEDED_WITHOUT_FILES = tuple(name for name in NEEDED if name != "xllamacpp")
"""Modules of the extra ``server``: enough where every model has an engine of its own."""


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes any free one. Default: 8000.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[ID=]SOURCE",
            help="A catalogue name, a GGUF file, a folder, or hf:owner/name/file.gguf. Repeatable.",
        ),
    ] = None,
    config_file: Config = None,
    tee: Tee = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="End TLS here, with a key that is made in this process and attested.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Server processes. Default: 1.")] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Ask for no key; on a loopback address only.")] = False,
    print_curl: Annotated[
        bool,
        typer.Option("--print-curl", help=f"Make a fresh key named {MAKE_RUN} and print commands that use it."),
    ] = False,
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
) -> None:
    """Serve chat completions on an OpenAI-compatible API."""
    flags: dict[str, object] = {
        "host": host,
        "port": port,
        "model": model,
        "workers": workers,
        "tee": tee,
        "tls": True if tls else None,
        "auth": False if no_auth else None,
        "data_dir": data_dir,
        "cache_dir": cache_dir,
    }
    settings = config.load(flags, config_file=config_file)
    chosen = chosen_models(settings)
    need_extras(NEEDED if any(entry.source for entry in chosen) else NEEDED_WITHOUT_FILES)
    from confide.attest.choose import Places, choose

    choose(settings.tee, Places(settings.data_dir))  # say what this machine lacks before models are fetched
    models = [(entry, local_model(entry, settings.cache_dir)) for entry in chosen]
    for entry in chosen:
        if entry.engine is not None:
            console.note(f"Starting {entry.engine} for {entry.id}; that can take minutes")
    told = announcement(settings, chosen[0].id or "", print_curl=print_curl)
    become(Orders(settings, models, told))


def need_extras(names: Sequence[str] = NEEDED) -> None:
    """Raise ConfigError (exit code 2) when this install is the client half only."""
    if missing := missing_modules(names):
        raise ConfigError(f"confide serve needs {', '.join(missing)}: pip install 'confide[local]'")


def missing_modules(names: Sequence[str] = NEEDED) -> list[str]:
    """Which of the modules that serving needs are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def chosen_models(settings: Settings) -> tuple[ModelSettings, ...]:
    """The models of the settings, else the default of the catalogue."""
    return settings.models or (ModelSettings(source=catalogue.DEFAULT, id=catalogue.DEFAULT),)


def local_model(entry: ModelSettings, cache_dir: Path) -> LocalModel | None:
    """Fetch and check a model, and the projector that its settings name; nothing where it has an engine of its own."""
    if entry.source is None:
        return None
    found = pull(entry.source, cache_dir, console.Downloads())
    if entry.projector is None:
        return found
    projector = pull(entry.projector, cache_dir, console.Downloads())
    return dataclasses.replace(found, projector=projector.path)


def announcement(settings: Settings, model: str, *, print_curl: bool) -> Announcement:
    """What to print when the server answers."""
    terminal = console.stderr()
    return Announcement(
        model=model,
        key=_fresh_key(settings) if print_curl and settings.auth else None,
        development=settings.tee == "dev",
        page=settings.page,
        examples=print_curl,
        auth=settings.auth,
        styled=terminal.is_terminal and not terminal.no_color,
    )


def _fresh_key(settings: Settings) -> str:
    with key_store(settings) as store:
        for record in store.digests().values():
            if record.name == MAKE_RUN:
                store.revoke(record.id)
        return store.create(MAKE_RUN)
