"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file. Default: confide.toml, if there is one."),
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", metavar="FOLDER", help="Where the API keys are kept.")]
CacheDir = Annotated[Path | None, typer.Option("--cache-dir", metavar="FOLDER", help="Where fetched models are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
