"""The SQLite file that all stores share: how it is opened, its schema, and its failures in our words."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from confide.errors import StoreError

BUSY_SECONDS: Final = 5.0

_MIGRATIONS: Final = (
    # 1: who may ask
    """
CREATE TABLE api_key (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    digest BLOB NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    revoked INTEGER
);
CREATE UNIQUE INDEX api_key_active_name ON api_key (name) WHERE revoked IS NULL
""",
    # 2: what was answered
    """
CREATE TABLE receipt (
    id INTEGER PRIMARY KEY,
    receipt_id TEXT NOT NULL UNIQUE,
    chat_id TEXT,
    owner TEXT,
    created INTEGER NOT NULL,
    document BLOB NOT NULL,
    legacy BLOB
);
CREATE INDEX receipt_chat_id ON receipt (chat_id) WHERE chat_id IS NOT NULL;
CREATE INDEX receipt_created ON receipt (created);
CREATE TABLE keyset (
    digest TEXT PRIMARY KEY,
    document BLOB NOT NULL,
    not_after INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE replay_mark (
    mark TEXT PRIMARY KEY,
    expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX replay_mark_expires ON replay_mark (expires)
""",
    # 3: keys that take sealed requests only
    """
ALTER TABLE api_key ADD COLUMN require_e2ee INTEGER NOT NULL DEFAULT 0
""",
    # 4: a number that changes with the keys, and not with every receipt; whoever changes them
    """
CREATE TABLE api_key_version (version INTEGER NOT NULL);
INSERT INTO api_key_version VALUES (1);
CREATE TRIGGER api_key_made AFTER INSERT ON api_key BEGIN UPDATE api_key_version SET version = version + 1; END;
CREATE TRIGGER api_key_changed AFTER UPDATE ON api_key BEGIN UPDATE api_key_version SET version = version + 1; END;
CREATE TRIGGER api_key_gone AFTER DELETE ON api_key BEGIN UPDATE api_key_version SET version = version + 1; END
""",
)
SCHEMA_VERSION: Final = len(_MIGRATIONS)


@contextmanager
def mapped(path: Path) -> Iterator[None]:
    """Failures of SQLite and of the file as StoreError."""
    try:
        yield
    except (sqlite3.Error, OSError) as failed:
        raise failure(path, failed) from failed


def failure(path: Path, failed: Exception) -> StoreError:
    """A failure of SQLite or of the file in our words. SQLite's own name tables and columns, never what they hold."""
    return StoreError(f"the store {path} can't be used: {getattr(failed, 'strerror', None) or failed}")


def open_database(path: Path, *, synchronous: str = "FULL") -> sqlite3.Connection:
    """A connection in autocommit mode to a file that only its owner can read. Wrap in :func:`mapped`.

    Args:
        path: the file; it and its folder are made where they don't exist.
        synchronous: FULL has a commit on the disk before it returns; NORMAL leaves that to the operating system.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make(path)
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    with ExitStack() as undo:
        undo.callback(db.close)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {synchronous}")
        _migrate(db, path)
        undo.pop_all()
    return db


def _make(path: Path) -> None:
    """An empty file for its owner alone, where there is none.

    A file that is there is not touched: to close any descriptor of it drops the locks that SQLite holds for the other
    connections of this process, and then another process that closes the file would remove the log under them.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    if _version(db) == SCHEMA_VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    version = _version(db)
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}, and this confide knows {SCHEMA_VERSION}: upgrade confide"
        )
    for migration in _MIGRATIONS[version:]:
        for statement in migration.strip().split(";\n"):
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")


def _version(db: sqlite3.Connection) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)
