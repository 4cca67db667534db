"""``confide serve``: settings, then models, then the server."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from confide import config
from confide.cli import console
from confide.cli.keys import key_store
from confide.cli.options import CacheDir, Config, DataDir
from confide.config import ModelSettings, Settings
from confide.engine import catalogue
from confide.engine.pull import LocalModel, pull
from confide.errors import ConfigError

MAKE_RUN = "make-run"
"""The name of the key that ``--print-curl`` makes anew at each start."""

DEVELOPMENT = (
    "Development evidence: attestation reports are signed by a root that was made on this machine.",
    "They show that the protocol works, not that hardware protects anything. Clients must name the root to accept it.",
)
"""What ``--tee dev`` means."""

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
    tee: Annotated[
        str | None,
        typer.Option(help="Where evidence comes from: auto, dstack, tdx, sev-snp, or dev. Default: auto."),
    ] = None,
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
    from confide.server import preflight, run

    preflight(settings)
    models = [(entry, local_model(entry, settings.cache_dir)) for entry in chosen]
    for entry in chosen:
        if entry.engine is not None:
            console.note(f"Starting {entry.engine} for {entry.id}; that can take minutes")
    ready = announcer(settings, chosen[0].id or "", print_curl=print_curl)

    raise typer.Exit(run(settings, models, on_ready=ready))


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


def announcer(settings: Settings, model: str, *, print_curl: bool) -> Callable[[str], None]:
    """What to print when the server answers."""
    key = _fresh_key(settings) if print_curl and settings.auth else None

    def ready(base_url: str) -> None:
        root = base_url.rstrip("/").removesuffix("/v1")
        if settings.tee == "dev":
            for line in DEVELOPMENT:
                console.note(line, style="yellow")
        console.note(f"Serving {model} on {root}/v1  (Ctrl-C ends it)", style="bold green")
        if settings.page:
            console.note(f"In a browser: {page_link(root, key)}", style="bold")
        if print_curl:
            for line in try_it(root, model, key):
                console.say(line)
        elif settings.auth:
            console.note("Make a key with: confide keys create NAME")

    return ready


def _fresh_key(settings: Settings) -> str:
    with key_store(settings) as store:
        for record in store.digests().values():
            if record.name == MAKE_RUN:
                store.revoke(record.id)
        return store.create(MAKE_RUN)


def page_link(root: str, key: str | None) -> str:
    """The page's address. The key stands in the fragment, which no browser sends; the page takes it out at once."""
    return f"{root}/" if key is None else f"{root}/#key={key}"


def try_it(root: str, model: str, key: str | None) -> list[str]:
    """Lines for a shell: one asks the server something, one sets up the SDKs."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Say hello in one sentence."}]})
    headers = ["-H 'Content-Type: application/json'"]
    if key:
        headers.insert(0, f"-H 'Authorization: Bearer {key}'")
    return [
        f"curl {root}/v1/chat/completions {' '.join(headers)} -d {shlex.quote(body)}",
        f"export OPENAI_API_KEY={key or 'none'} OPENAI_BASE_URL={root}/v1",
    ]
