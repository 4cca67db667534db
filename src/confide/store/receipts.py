"""What is kept of answers: receipts, the keysets they were signed under, and marks against replay. Never content."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from confide.store.base import Closing, Database, Session, storable
from confide.store.writer import Insert, Writer

PRUNE_BATCH: Final = 100
"""The most rows that one transaction deletes, so that answers which end meanwhile don't wait for long."""
PRUNE_REST: Final = 4
"""How many times as long as such a transaction took the next one is put off: most answers wait for none."""


# What is written -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """One receipt. ``owner`` is the id of the key that made the request; None where anybody may ask."""

    receipt_id: str
    chat_id: str | None
    owner: str | None
    created: int
    document: bytes
    legacy: bytes | None = None


_COLUMNS: Final = ("receipt_id", "chat_id", "owner", "created", "document", "legacy")


@dataclass(frozen=True, slots=True)
class _InsertKeyset:
    digest: str
    document: bytes
    not_after: int

    def run(self, db: Session) -> None:
        db.execute(
            "INSERT INTO keyset (digest, document, not_after) VALUES (?, ?, ?) ON CONFLICT (digest) DO NOTHING",
            (self.digest, self.document, self.not_after),
        )


@dataclass(frozen=True, slots=True)
class _Claim:
    mark: str
    now: int
    expires: int

    def run(self, db: Session) -> bool:
        cursor = db.execute(
            "INSERT INTO replay_mark (mark, expires) VALUES (?, ?) "
            "ON CONFLICT (mark) DO UPDATE SET expires = excluded.expires WHERE replay_mark.expires <= ?",
            (self.mark, self.expires, self.now),
        )
        return cursor.rowcount == 1


@dataclass(frozen=True, slots=True)
class _Prune:
    statement: str
    before: int

    def run(self, db: Session) -> int:
        return db.execute(self.statement, (self.before, PRUNE_BATCH)).rowcount


_OLD_RECEIPTS: Final = (
    "DELETE FROM receipt WHERE id IN (SELECT id FROM receipt WHERE created < ? ORDER BY created LIMIT ?)"
)
_OLD_MARKS: Final = (
    "DELETE FROM replay_mark WHERE mark IN (SELECT mark FROM replay_mark WHERE expires <= ? ORDER BY expires LIMIT ?)"
)


class ReceiptWriter:
    """Everything that is written while requests are served, in one thread and in shared transactions.

    Takes the arguments of :class:`confide.store.writer.Writer`.
    """

    def __init__(self, database: Database, **options: Any) -> None:
        self._writer = Writer(database, **options)

    async def commit(self, *rows: ReceiptRow) -> None:
        """Return when the rows are on the disk. A caller that is cancelled doesn't undo that.

        Raises:
            StoreError: they aren't.
        """
        values = [(row.receipt_id, row.chat_id, row.owner, row.created, row.document, row.legacy) for row in rows]
        await self._writer.commit(Insert("receipt", _COLUMNS, values))

    async def claim(self, mark: str, *, now: int, expires: int) -> bool:
        """Whether this is the first claim of a mark, for all processes that share the store, until it expires.

        Raises:
            StoreError: nobody knows. That isn't the same as "seen before".
        """
        return await self._writer.commit(_Claim(mark, now, expires))

    async def keep_keyset(self, digest: str, document: bytes, not_after: int) -> None:
        """Keep a keyset, for those who check old receipts; keeping it twice is fine.

        Raises:
            StoreError: it isn't kept.
        """
        await self._writer.commit(_InsertKeyset(digest, document, not_after))

    async def prune(self, *, now: int, keep_seconds: int) -> int:
        """Delete expired marks, and receipts older than ``keep_seconds``; returns how many receipts went.

        Raises:
            StoreError: some are left.
        """
        await self._delete(_Prune(_OLD_MARKS, now))
        return await self._delete(_Prune(_OLD_RECEIPTS, now - keep_seconds))

    async def _delete(self, prune: _Prune) -> int:
        total = 0
        while True:
            began = time.perf_counter()
            deleted = await self._writer.commit(prune)
            total += deleted
            if deleted < PRUNE_BATCH:
                return total
            await asyncio.sleep(PRUNE_REST * (time.perf_counter() - began))

    def close(self) -> None:
        """Commit what is waiting; closing twice is fine."""
        self._writer.close()


# What is read --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """A receipt as it was committed. Whoever isn't its ``owner`` must not learn that it exists."""

    receipt_id: str
    owner: str | None
    document: bytes
    legacy: bytes | None


class ReceiptStore(Closing):
    """Looks receipts and keysets up, on a connection of its own, one look after the other: while one statement runs,
    others on its connection see the store as that one does, and a receipt committed since would be missed.

    Raises:
        StoreError: the database can't be used.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.mapped():
            self._db = database.session()
        self._turn = threading.Lock()

    def close(self) -> None:
        """Close it; closing twice is fine."""
        self._db.close()

    def find(self, id: str, *, owner: str | None) -> StoredReceipt | None:
        """The receipt of this receipt id or response id.

        Engines choose response ids, so two requests may share one. The newest of ``owner`` is preferred; the caller
        still compares the owner that comes back.

        Raises:
            StoreError: nobody knows.
        """
        if not storable(id):
            return None
        with self._turn, self._database.mapped():
            row = self._db.execute(
                "SELECT receipt_id, owner, document, legacy FROM receipt WHERE receipt_id = ? OR chat_id = ? "
                "ORDER BY receipt_id = ? DESC, COALESCE(owner, '') = ? DESC, id DESC LIMIT 1",
                (id, id, id, owner or ""),
            ).fetchone()
        return None if row is None else StoredReceipt(*row)

    def keyset(self, digest: str) -> bytes | None:
        """The document of a keyset that was in use once.

        Raises:
            StoreError: nobody knows.
        """
        if not storable(digest):
            return None
        with self._turn, self._database.mapped():
            row = self._db.execute("SELECT document FROM keyset WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else bytes(row[0])
