"""SQLite: one file, for one machine."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

from confide.store.base import Database
from confide.store.schema import SCHEMA_VERSION, migrations

BUSY_SECONDS: Final = 5.0
MOST_TOGETHER: Final = 32
"""The most rows that one statement inserts: for each number of them it is prepared once, and kept."""

_WORDS: Final[Mapping[str, str]] = {
    "bytes": "BLOB",
    "counted": "INTEGER PRIMARY KEY",
    "rowid": "",
    "by_key": " WITHOUT ROWID",
    "count_key_changes": """
CREATE TRIGGER api_key_made AFTER INSERT ON api_key BEGIN UPDATE api_key_version SET version = version + 1; END;
CREATE TRIGGER api_key_changed AFTER UPDATE ON api_key BEGIN UPDATE api_key_version SET version = version + 1; END;
CREATE TRIGGER api_key_gone AFTER DELETE ON api_key BEGIN UPDATE api_key_version SET version = version + 1; END
""",
}


class SqliteSession(sqlite3.Connection):
    """A connection in autocommit mode, and the file it was opened on."""

    path: Path
    inode: int

    def check(self) -> None:
        """Raise OSError if the file was replaced or removed."""
        if self.path.stat().st_ino != self.inode:
            raise OSError("the file was replaced while it was open; restart the server")

    def begin(self) -> None:
        """Begin, and have the right to write from now on."""
        self.check()
        self.execute("BEGIN IMMEDIATE")

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], /) -> None:
        """Put rows into a table.

        A transaction of its own is a single statement where that is possible. After each statement, and after each row
        of ``executemany``, a thread has to have the interpreter back from whoever took it meanwhile.
        """
        names = tuple(columns)
        if self.in_transaction:
            self.executemany(_inserting(table, names, 1), rows)
        elif len(rows) <= MOST_TOGETHER:
            self.check()
            self.execute(_inserting(table, names, len(rows)), tuple(chain.from_iterable(rows)))
        else:
            self.begin()
            self.executemany(_inserting(table, names, 1), rows)
            self.commit()

    def rollback(self) -> None:
        """Undo what is open."""
        with contextlib.suppress(sqlite3.Error):
            super().rollback()


@lru_cache
def _inserting(table: str, columns: tuple[str, ...], rows: int) -> str:
    places = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([places] * rows)}"  # noqa: S608 - our own names


@dataclass(frozen=True)
class SqliteFile(Database):
    """A file that only its owner can read; it and its folder are made where they don't exist."""

    path: Path

    errors = (sqlite3.Error, OSError)
    faults = (
        sqlite3.IntegrityError,
        sqlite3.DataError,
        sqlite3.InterfaceError,
        sqlite3.ProgrammingError,
        ValueError,
        TypeError,
        OverflowError,
    )
    taken = sqlite3.IntegrityError
    remote = False

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def reason(self, failed: Exception) -> str:
        """SQLite's own words name tables and columns, never what they hold."""
        return str(getattr(failed, "strerror", None) or failed)

    def session(self) -> SqliteSession:
        """A connection whose commits are on the disk before they return."""
        path = self.path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(path)
        db = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, factory=SqliteSession
        )
        with ExitStack() as undo:
            undo.callback(db.close)
            db.path, db.inode = path, path.stat().st_ino
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            _migrate(db)
            undo.pop_all()
        return db


def _make(path: Path) -> None:
    """An empty file for its owner alone, where there is none.

    A file that is there is not touched: to close any descriptor of it drops the locks that SQLite holds for the other
    connections of this process, and then another process that closes the file would remove the log under them.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _migrate(db: SqliteSession) -> None:
    if _version(db) == SCHEMA_VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    for statement in migrations(_version(db), _WORDS, where=str(db.path)):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")


def _version(db: SqliteSession) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)
