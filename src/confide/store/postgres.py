"""PostgreSQL: one database for several servers.

What is committed is on the server's disk (``synchronous_commit``), a lost connection is opened anew, and nothing waits
for ever: a server that doesn't answer within :data:`ANSWER_SECONDS` is down.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from confide.errors import ConfigError
from confide.store.base import Database
from confide.store.schema import SCHEMA_VERSION, migrations

CONNECT_SECONDS: Final = 5
ANSWER_SECONDS: Final = 5.0
LOCK_SECONDS: Final = 2
MIGRATION_SECONDS: Final = 600.0
MOST_BACK_OFF: Final = 2.0
"""The longest time, in seconds, for which a server that was down isn't tried again."""

_WORDS: Final[Mapping[str, str]] = {
    "bytes": "BYTEA",
    "counted": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "rowid": "rowid BIGINT GENERATED ALWAYS AS IDENTITY,",
    "by_key": "",
    "count_key_changes": """
CREATE FUNCTION count_key_change() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN UPDATE api_key_version SET version = version + 1; RETURN NULL; END';
CREATE TRIGGER api_key_changed AFTER INSERT OR UPDATE OR DELETE ON api_key
    FOR EACH STATEMENT EXECUTE FUNCTION count_key_change()
""",
}
_MIGRATING: Final = 0x636F6E66696465
"""The advisory lock of whoever makes tables: "confide" in ASCII."""

_SETTINGS: Final = f"""
SET client_encoding = 'UTF8';
SET lock_timeout = '{LOCK_SECONDS}s';
SET idle_in_transaction_session_timeout = '{ANSWER_SECONDS:.0f}s';
SET default_transaction_isolation = 'read committed';
SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')
"""
"""A replica that hangs in a transaction keeps the others waiting no longer than they wait."""


class _Connection(psycopg.Connection[TupleRow]):
    """A connection that gives up waiting, and is closed then: nobody knows what its server will still do."""

    gave_up = False
    patience = ANSWER_SECONDS

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's, with a limit."""
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.gave_up = True
            self.close()
            raise psycopg.OperationalError(f"no answer within {self.patience:.0f} seconds") from None


class _Rows:
    """What a statement did, which in a pipeline is known only when somebody asks."""

    def __init__(self, cursor: psycopg.Cursor[TupleRow], arrive: Callable[[], object]) -> None:
        self._cursor = cursor
        self._arrive = arrive

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""
        if self._cursor.rowcount < 0:
            self._arrive()
        return self._cursor.rowcount

    def fetchone(self) -> Any:
        """The next row, or None."""
        return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        """All rows."""
        return self._cursor.fetchall()


class PostgresSession:
    """A connection in autocommit mode, opened anew where it is lost.

    Statements of a transaction are sent without waiting for each other's answers; the commit waits for all.

    Args:
        connect: opens a connection.
        clock: monotonic seconds.
    """

    def __init__(self, connect: Callable[[], _Connection], clock: Callable[[], float] = time.monotonic) -> None:
        self._connect = connect
        self._clock = clock
        self._connection = connect()
        self._pipeline: psycopg.Pipeline | None = None
        self._leaving = ExitStack()
        self._closed = False
        self._failures = 0
        self._not_before = 0.0

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> _Rows:
        """Run one statement; one that reads, and finds the connection lost, runs again on a new one."""
        if self._pipeline is not None:
            return self._run(sql, parameters)
        return self._tried_again(lambda: self._run(sql, parameters))

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], /) -> None:
        """Put rows into a table."""
        alone = self._pipeline is None
        if alone:
            self.begin()
        places = ", ".join("?" * len(columns))
        sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"  # noqa: S608 - names of our own
        self._connection.cursor().executemany(_written(sql), rows)
        if alone:
            self.commit()

    def check(self) -> None:
        """Nothing to look at: whether it is the same database is asked whenever a connection is opened."""

    def begin(self) -> None:
        """Begin, on a new connection where the one before was lost while nothing was going on."""
        self._tried_again(lambda: self._run("BEGIN", ()))
        self._pipeline = self._leaving.enter_context(self._connection.pipeline())

    def commit(self) -> None:
        """Wait for all statements, then for the commit."""
        self._leave()
        done = self._connection.execute("COMMIT")
        if done.statusmessage != "COMMIT":
            raise psycopg.OperationalError("the transaction was rolled back")

    def rollback(self) -> None:
        """Undo what is open."""
        with suppress(psycopg.Error):
            self._leave()
        with suppress(psycopg.Error):
            if not self._connection.closed and self._connection.info.transaction_status != TransactionStatus.IDLE:
                self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection, for good."""
        self._closed = True
        self._connection.close()

    def _run(self, sql: str, parameters: Sequence[Any]) -> _Rows:
        return _Rows(self._connection.execute(_written(sql), parameters), self._arrive)

    def _arrive(self) -> None:
        if self._pipeline is not None:
            self._pipeline.sync()

    def _leave(self) -> None:
        self._pipeline = None
        self._leaving.close()

    def _tried_again(self, work: Callable[[], _Rows]) -> _Rows:
        """Do it on a connection that is open; once more on a new one, if that was lost without our notice."""
        fresh = self._lost()
        if fresh:
            self._reopen()
        try:
            return work()
        except psycopg.OperationalError:
            if fresh or not self._lost() or self._connection.gave_up:
                raise
        self._reopen()
        return work()

    def _lost(self) -> bool:
        return self._connection.closed

    def _reopen(self) -> None:
        """A new connection, unless the last attempt has failed a moment ago."""
        if self._closed:
            raise psycopg.OperationalError("it is closed")
        if self._clock() < self._not_before:
            raise psycopg.OperationalError("there is no connection to it, and it was tried a moment ago")
        try:
            self._connection = self._connect()
            self._failures = 0
        except psycopg.Error:
            self._not_before = self._clock() + min(MOST_BACK_OFF, 0.1 * 2 ** min(self._failures, 8))
            self._failures += 1
            raise


class PostgresDatabase(Database):
    """A database that several servers share.

    Args:
        url: ``postgresql://user:password@host:port/name?...``, as libpq takes it.

    Raises:
        ConfigError: it isn't one.
    """

    errors = (psycopg.Error, OSError)
    faults = (
        psycopg.IntegrityError,
        psycopg.DataError,
        psycopg.ProgrammingError,
        psycopg.errors.DeadlockDetected,
        psycopg.errors.SerializationFailure,
        psycopg.errors.LockNotAvailable,
        ValueError,
        TypeError,
        OverflowError,
    )
    taken = psycopg.IntegrityError
    remote = True

    def __init__(self, url: str) -> None:
        try:
            self._parts = conninfo_to_dict(url)
        except psycopg.Error:  # its text quotes what it can't read, which may be the password
            raise ConfigError(
                "the URL of the database can't be read: expected postgresql://USER:PASSWORD@HOST:PORT/NAME, with "
                "special characters percent-encoded"
            ) from None
        self._identity: str | None = None

    def __repr__(self) -> str:
        return f"PostgresDatabase({self.name})"

    @property
    def name(self) -> str:
        """Where it is, without user and password."""
        parts = self._parts
        port = f":{parts['port']}" if parts.get("port") else ""
        return f"postgresql://{parts.get('host') or ''}{port}/{parts.get('dbname') or ''}"

    def reason(self, failed: Exception) -> str:
        """The first line. What PostgreSQL tells besides (DETAIL) may quote values."""
        told = failed.diag.message_primary if isinstance(failed, psycopg.Error) else None
        return told or next(iter(str(failed).splitlines()), "") or type(failed).__name__

    def session(self) -> PostgresSession:
        """A connection whose commits are on the server's disk before they return."""
        return PostgresSession(self._connected)

    def _connected(self) -> _Connection:
        defaults = {"connect_timeout": CONNECT_SECONDS, "application_name": "confide"}
        connection = _Connection.connect(**cast(Any, {**defaults, **self._parts}), autocommit=True)
        with ExitStack() as undo:
            undo.callback(connection.close)
            connection.execute(_SETTINGS)
            self._recognise(connection)
            undo.pop_all()
        return connection

    def _recognise(self, connection: _Connection) -> None:
        """Have the tables of now, and be sure that these are the ones that were opened before."""
        found = _marked(connection)
        if found is None or found[0] != SCHEMA_VERSION:
            if self._identity is None:
                _migrate(connection, self.name)
            found = _marked(connection)
        if found is None or self._identity not in (None, found[1]):
            raise psycopg.OperationalError("it isn't the database any more that was opened; restart the server")
        self._identity = found[1]


def _marked(connection: _Connection) -> tuple[int, str] | None:
    """The version of the tables, and an id that was drawn when they were made; None where there are none."""
    exists = connection.execute("SELECT to_regclass('confide_schema') IS NOT NULL").fetchone()
    if exists != (True,):
        return None
    found = connection.execute("SELECT version, id FROM confide_schema").fetchone()
    return None if found is None else (found[0], found[1])


def _migrate(connection: _Connection, where: str) -> None:
    """Make or change tables, while other servers that want to do the same wait."""
    connection.patience = MIGRATION_SECONDS
    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout = 0")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATING,))
        connection.execute("CREATE TABLE IF NOT EXISTS confide_schema (version INTEGER NOT NULL, id TEXT NOT NULL)")
        version, _ = _marked(connection) or (0, "")
        for statement in migrations(version, _WORDS, where=where):
            connection.execute(_written(statement))
        if version == 0:
            row = (SCHEMA_VERSION, secrets.token_hex(8))
            connection.execute("INSERT INTO confide_schema (version, id) VALUES (%s, %s)", row)
        else:
            connection.execute("UPDATE confide_schema SET version = %s", (SCHEMA_VERSION,))
    connection.patience = ANSWER_SECONDS


def _written(sql: str) -> bytes:
    """The statement with psycopg's parameters."""
    return sql.replace("?", "%s").encode()
