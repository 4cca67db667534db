"""``confide models``: what the catalogue has, and what is on this machine."""

from __future__ import annotations

from pathlib import Path

import msgspec

from confide import config
from confide.cli import console
from confide.cli.options import CacheDir, Config, Json
from confide.engine.catalogue import CATALOGUE, DEFAULT
from confide.engine.pull import cached


class _Row(msgspec.Struct, frozen=True):
    source: str
    name: str
    licence: str | None
    size: int
    context_length: int | None
    default: bool
    path: str | None


def models(config_file: Config = None, cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """List the models that have a name here, and those that were fetched."""
    rows = _rows(config.load({"cache_dir": cache_dir}, config_file=config_file).cache_dir)
    if as_json:
        console.say(msgspec.json.encode(rows).decode())
        return
    table = console.table("source", "model", "licence", "size", "context", "")
    for row in rows:
        context = "" if row.context_length is None else str(row.context_length)
        state = "fetched" if row.path else "not fetched"
        state += ", default" if row.default else ""
        table.add_row(row.source, row.name, row.licence or "", f"{row.size / 1e6:.0f} MB", context, state)
    console.stdout().print(table)
    console.note("Also: a GGUF file, a folder that holds one, or hf:owner/name/file.gguf.")


def _rows(cache_dir: Path) -> list[_Row]:
    here = cached(cache_dir)
    rows = []
    for model in CATALOGUE.values():
        path = here.pop(model.id, None)
        rows.append(
            _Row(
                source=model.id,
                name=model.name,
                licence=model.licence,
                size=model.size,
                context_length=model.context_length,
                default=model.id == DEFAULT,
                path=str(path) if path else None,
            )
        )
    return rows + [
        _Row(source, path.stem, None, path.stat().st_size, None, False, str(path)) for source, path in here.items()
    ]
