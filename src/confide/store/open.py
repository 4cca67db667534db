"""Opens what the settings name: a file of SQLite, or a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from confide.errors import ConfigError
from confide.store.base import Database
from confide.store.keys import KeyRing, KeyStore, of_settings
from confide.store.receipts import ReceiptStore, ReceiptWriter
from confide.store.sqlite import SqliteFile
from confide.store.watch import WatchedKeys


@dataclass(frozen=True)
class Stores:
    """What a server needs of one database."""

    keys: KeyRing
    receipts: ReceiptStore
    writer: ReceiptWriter


def database(url: str | None, file: Path) -> Database:
    """The database at a URL, or else in a file.

    Raises:
        ConfigError: the URL isn't one, or the package for PostgreSQL isn't installed.
    """
    if url is None:
        return SqliteFile(file)
    try:
        from confide.store.postgres import PostgresDatabase
    except ImportError as missing:
        raise ConfigError(f"PostgreSQL needs {missing.name}: pip install 'confide[postgres]'") from None
    return PostgresDatabase(url)


@contextmanager
def opened(database: Database, api_keys: Iterable[str] = ()) -> Iterator[Stores]:
    """The stores, until the end of the block; with the API keys that settings name beside those of the database.

    Raises:
        StoreError: the database can't be used.
    """
    with ExitStack() as closing:
        keys = closing.enter_context(KeyStore(database))
        receipts = closing.enter_context(ReceiptStore(database))
        writer = ReceiptWriter(database)
        closing.callback(writer.close)
        fixed = of_settings(api_keys)
        if database.remote:
            ring = KeyRing(closing.enter_context(WatchedKeys(keys)), fixed, max_age=0)
        else:
            ring = KeyRing(keys, fixed)
        yield Stores(ring, receipts, writer)
