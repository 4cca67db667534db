"""``confide keys``: make, list and revoke API keys. Running servers notice within two seconds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from confide import config
from confide.cli import console
from confide.cli.options import Config, DataDir, Json
from confide.errors import OperatorError
from confide.store.keys import KeyRecord, KeyStore, new_key, of_settings, setting_of
from confide.store.open import database

app = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True, add_completion=False)

_MINUTES = "%Y-%m-%d %H:%M UTC"


def key_store(settings: config.Settings) -> KeyStore:
    """The keys, where these settings have them."""
    return KeyStore(database(settings.database_url(), settings.store_file))


def _settings(config_file: Path | None, data_dir: Path | None) -> config.Settings:
    return config.load({"data_dir": data_dir}, config_file=config_file)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="A name to know the key by.")],
    require_e2ee: Annotated[
        bool, typer.Option("--require-e2ee", help="Take end-to-end encrypted requests only with this key.")
    ] = False,
    print_setting: Annotated[
        bool, typer.Option("--print-setting", help="Store nothing: print what a server's settings (api_keys) take.")
    ] = False,
    config_file: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it, this once: only its digest is stored."""
    if print_setting:
        key = new_key(name)
    else:
        with key_store(_settings(config_file, data_dir)) as store:
            key = store.create(name, require_e2ee=require_e2ee)
    console.note("This is the only time that the key is shown:")
    console.say(key)
    if print_setting:
        console.note("For api_keys, a list in the settings of the server:")
        console.say(setting_of(name, key, require_e2ee=require_e2ee))


@app.command("list")
def list_keys(config_file: Config = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show names and ids, never keys."""
    settings = _settings(config_file, data_dir)
    with key_store(settings) as store:
        records = [*of_settings(settings.api_keys).values(), *store.list()]
    if as_json:
        console.say(msgspec.json.encode(records).decode())
        return
    table = console.table("name", "id", "created", "revoked")
    for record in records:
        table.add_row(record.name, record.id, _created(record), _moment(record.revoked))
    console.stdout().print(table if records else "No keys yet: confide keys create NAME")


@app.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(metavar="NAME_OR_ID", help="Which key.")],
    config_file: Config = None,
    data_dir: DataDir = None,
) -> None:
    """End a key."""
    settings = _settings(config_file, data_dir)
    with key_store(settings) as store:
        if any(key in (one.name, one.id) for one in of_settings(settings.api_keys).values()):
            raise OperatorError(f"{key} is a key of the settings: take it out of api_keys there, and start anew")
        record = store.revoke(key)
    console.say(f"Revoked {record.name} ({record.id}).")


def _created(record: KeyRecord) -> str:
    return _moment(record.created) if record.created else "in the settings"


def _moment(seconds: int | None) -> str:
    return "" if seconds is None else time.strftime(_MINUTES, time.gmtime(seconds))
