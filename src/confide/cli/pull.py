"""``confide pull``: fetch and check models beforehand."""

from __future__ import annotations

from typing import Annotated

import typer

from confide import config
from confide.cli import console
from confide.cli.options import CacheDir, Config
from confide.cli.serve import chosen_models
from confide.engine.pull import pull as fetch


def pull(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...",
            help="A catalogue name, a GGUF file, a folder, or hf:owner/name/file.gguf.",
        ),
    ] = None,
    config_file: Config = None,
    cache_dir: CacheDir = None,
) -> None:
    """Fetch models into the cache and check them. With no SOURCE: those of the settings, else the default."""
    settings = config.load({"cache_dir": cache_dir}, config_file=config_file)
    chosen = sources or [model.source for model in chosen_models(settings) if model.source]
    for source in chosen:
        model = fetch(source, settings.cache_dir, console.Downloads())
        checked = f"SHA-256 {model.sha256}" if model.sha256 else "no pinned SHA-256"
        console.say(f"{model.path}  ({checked})")
