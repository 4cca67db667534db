"""What only a database that is shared, and far away, can do wrong."""

from __future__ import annotations

import asyncio
import builtins
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.postgres import Postgres

from confide.errors import ConfigError, OperatorError, StoreError
from confide.store.keys import KeyRing, KeyStore
from confide.store.open import database as open_database
from confide.store.open import opened
from confide.store.postgres import PostgresDatabase, PostgresSession
from confide.store.receipts import ReceiptRow, ReceiptStore, ReceiptWriter
from confide.store.schema import SCHEMA_VERSION


@pytest.fixture
def url(postgres: Postgres) -> str:
    """The URL of an empty schema."""
    return postgres.fresh()


@contextmanager
def sql(url: str) -> Iterator[psycopg.Connection[Any]]:
    """An administrator's connection."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@contextmanager
def writers(*urls: str) -> Iterator[list[ReceiptWriter]]:
    made = [ReceiptWriter(PostgresDatabase(url)) for url in urls]
    try:
        yield made
    finally:
        for one in made:
            one.close()


def works_again(work: Callable[[], object]) -> None:
    """Do it until the store is there again."""
    until = time.monotonic() + 30
    while True:
        try:
            work()
        except StoreError:
            assert time.monotonic() < until
            time.sleep(0.1)
        else:
            return


def receipt(name: str) -> ReceiptRow:
    return ReceiptRow(name, f"chat-{name}", "key_1", 1, name.encode())


# Settings of a connection --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("set_by_others", "ours"), [("off", "on"), ("local", "on"), ("on", "on"), ("remote_apply", "remote_apply")]
)
def test_commits_are_on_the_disk_whatever_the_database_defaults_to(url: str, set_by_others: str, ours: str) -> None:
    session = PostgresDatabase(f"{url}%20-csynchronous_commit%3D{set_by_others}").session()
    assert session.execute("SHOW synchronous_commit").fetchone() == (ours,)
    session.close()


@pytest.mark.parametrize("wrong", ["postgresql://u:pa%zzword@h/d", "postgresql://u:password@h:port/d?x=1"])
def test_a_url_that_cannot_be_read_is_not_quoted(wrong: str) -> None:
    with pytest.raises(ConfigError, match="can't be read: expected postgresql://") as caught:
        PostgresDatabase(wrong)
    assert "word" not in str(caught.value).replace("PASSWORD", "")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_errors_name_the_database_and_not_its_password(postgres: Postgres, url: str) -> None:
    database = PostgresDatabase(url)
    assert database.name == f"postgresql://{postgres.folder}/postgres"
    for shown in (repr(database), str(database)):
        assert "p%4w" not in shown
        assert "p%254w" not in shown
    wrong = PostgresDatabase(url.replace("confide:", "confide:x", 1))
    with pytest.raises(StoreError, match="password authentication failed") as caught:
        KeyStore(wrong)
    assert postgres.password not in str(caught.value)


def test_values_are_not_quoted(url: str) -> None:
    async def twice(writer: ReceiptWriter) -> None:
        await writer.commit(receipt("told-to-nobody"))
        await writer.commit(receipt("told-to-nobody"))

    with writers(url) as (writer,), pytest.raises(StoreError, match="duplicate key value violates") as caught:
        asyncio.run(twice(writer))
    assert "told" not in str(caught.value)


def test_a_client_half_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("psycopg"):
            raise ImportError(name=name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "confide.store.postgres")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'confide\[postgres\]'"):
        open_database("postgresql://h/d", Path("/nowhere"))


@pytest.mark.parametrize("name", ["\0", "a\0b", "\ud800", "é", "x" * 100_000])
def test_any_text_can_be_asked_for(url: str, name: str) -> None:
    database = PostgresDatabase(url)
    with ReceiptStore(database) as store:
        assert store.find(name, owner="key_1") is None
        assert store.keyset(name) is None
    with KeyStore(database) as keys, pytest.raises(OperatorError, match="no active key"):
        keys.revoke(name)


# The schema ----------------------------------------------------------------------------------------------------------


def test_servers_that_start_at_once_make_one_schema(url: str) -> None:
    code = "import sys; from confide.store.postgres import PostgresDatabase; PostgresDatabase(sys.argv[1]).session()"
    started = [subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE) for _ in range(4)]
    assert [(one.wait(60), one.communicate()[1]) for one in started] == [(0, b"")] * 4
    with sql(url) as db:
        assert db.execute("SELECT version FROM confide_schema").fetchall() == [(SCHEMA_VERSION,)]


def test_an_older_schema_is_brought_up_and_keeps_its_keys(url: str) -> None:
    with KeyStore(PostgresDatabase(url)) as keys:
        key = keys.create("app")
    with sql(url) as db:
        db.execute("DROP TABLE api_key_version; DROP FUNCTION count_key_change CASCADE")
        db.execute("UPDATE confide_schema SET version = 3")
        before = db.execute("SELECT id FROM confide_schema").fetchall()
    with KeyStore(PostgresDatabase(url)) as keys:
        ring = KeyRing(keys, max_age=0)
        assert ring.find(key) is not None
        keys.revoke("app")
        assert ring.find(key) is None
    with sql(url) as db:
        assert db.execute("SELECT version, id FROM confide_schema").fetchall() == [(SCHEMA_VERSION, *before[0])]


def test_a_newer_schema_is_refused_and_left_alone(url: str) -> None:
    KeyStore(PostgresDatabase(url)).close()
    with sql(url) as db:
        db.execute("UPDATE confide_schema SET version = 77")
        with pytest.raises(StoreError, match=f"schema version 77, and this confide knows {SCHEMA_VERSION}: upgrade"):
            KeyStore(PostgresDatabase(url))
        assert db.execute("SELECT version FROM confide_schema").fetchall() == [(77,)]


def test_a_user_that_may_not_make_tables_can_use_them(postgres: Postgres, url: str) -> None:
    schema = url.rpartition("%3D")[2]
    KeyStore(PostgresDatabase(url)).close()
    with sql(url) as db:
        db.execute(f"CREATE ROLE user_of_{schema} LOGIN PASSWORD 'x'".encode())
        db.execute(f"GRANT USAGE ON SCHEMA {schema} TO user_of_{schema}".encode())
        db.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO user_of_{schema}".encode())
    host = url.partition("@")[2]
    with opened(PostgresDatabase(f"postgresql://user_of_{schema}:x@{host}")) as stores:
        asyncio.run(stores.writer.commit(receipt("r")))
        assert stores.receipts.find("r", owner=None) is not None


def test_another_database_at_the_same_address_is_noticed(url: str) -> None:
    """As after a restore of something else: its keys and receipts aren't those that were here."""
    with writers(url) as (writer,):
        asyncio.run(writer.commit(receipt("before")))
        with sql(url) as db:
            schema = url.rpartition("%3D")[2].encode()
            db.execute(b"DROP SCHEMA " + schema + b" CASCADE; CREATE SCHEMA " + schema)
            KeyStore(PostgresDatabase(url)).close()
            others = b"FROM pg_stat_activity WHERE application_name = 'confide'"
            db.execute(b"SELECT pg_terminate_backend(pid) " + others)
            while db.execute(b"SELECT count(*) " + others).fetchone() != (0,):
                time.sleep(0.01)
        with pytest.raises(StoreError, match="isn't the database any more that was opened"):
            asyncio.run(writer.commit(receipt("after")))


class Explaining:
    """A session that also notes how PostgreSQL would do each statement if it had many rows."""

    def __init__(self, session: Any, planner: Any) -> None:
        self._session = session
        self._planner = planner
        self.plans: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        self.plans += [line for (line,) in self._planner.execute(f"EXPLAIN {sql}", parameters).fetchall()]
        return self._session.execute(sql, parameters)


def test_what_is_asked_is_found_by_an_index(url: str) -> None:
    database = PostgresDatabase(url)
    with opened(database) as stores, KeyStore(database) as keys:
        planner: Any = database.session()
        planner.execute("SET enable_seqscan = off")
        owners: list[Any] = [stores.receipts, keys, stores.writer._writer]
        for owner in owners:
            owner._db = Explaining(owner._db, planner)
        stores.receipts.find("r", owner="key_1")
        stores.receipts.keyset("d")
        with pytest.raises(OperatorError):
            keys.revoke("nobody")
        asyncio.run(stores.writer.claim("m", now=1, expires=9))
        asyncio.run(stores.writer.prune(now=5000, keep_seconds=10))
        planner.close()
    for owner in owners:
        assert [plan for plan in owner._db.plans if "Seq Scan" in plan] == []
        assert any("Index" in plan for plan in owner._db.plans)


# Several servers -----------------------------------------------------------------------------------------------------


def test_of_many_claims_at_several_servers_one_is_the_first(url: str) -> None:
    async def main(*all_of: ReceiptWriter) -> list[list[bool]]:
        marks = [f"m{number}" for number in range(30)]
        claims = [
            asyncio.gather(*[writer.claim(mark, now=1, expires=9) for writer in all_of for _ in range(3)])
            for mark in marks
        ]
        return await asyncio.gather(*claims)

    with writers(url, url, url) as all_of:
        assert [sum(one) for one in asyncio.run(main(*all_of))] == [1] * 30


def test_marks_that_are_claimed_in_opposite_order_block_nobody(url: str) -> None:
    """Two servers, each holding the mark that the other wants: PostgreSQL ends one, whose jobs are then done alone."""
    held, release = threading.Event(), threading.Event()

    class Hold:
        def run(self, db: Any) -> list[bool]:
            second = self.claim(db, "b")
            held.set()
            assert release.wait(10)
            return [self.claim(db, "a"), second]

        def claim(self, db: Any, mark: str) -> bool:
            return bool(db.execute("INSERT INTO replay_mark VALUES (?, 9) ON CONFLICT DO NOTHING", (mark,)).rowcount)

    async def main(one: ReceiptWriter, other: ReceiptWriter) -> tuple[list[bool], list[bool]]:
        first = asyncio.create_task(other._writer.commit(Hold()))
        assert await asyncio.to_thread(held.wait, 10)
        claims = asyncio.gather(*[one.claim(mark, now=1, expires=9) for mark in ("a", "b")])
        await asyncio.sleep(0.3)
        release.set()
        return await claims, await first

    with writers(url, url) as (one, other):
        for claims in zip(*asyncio.run(main(one, other)), strict=True):
            assert sum(claims) == 1


def test_a_server_that_hangs_in_a_transaction_does_not_stop_the_others(url: str) -> None:
    session = PostgresDatabase(url).session()
    with writers(url) as (writer,):
        session.begin()
        assert session.execute("INSERT INTO replay_mark VALUES (?, ?)", ("mine", 9)).rowcount == 1
        with pytest.raises(StoreError, match="lock timeout"):
            asyncio.run(writer.claim("mine", now=1, expires=9))
        assert asyncio.run(writer.claim("other", now=1, expires=9))
        session.rollback()
        assert asyncio.run(writer.claim("mine", now=1, expires=9))
    session.close()


# A server that goes away ---------------------------------------------------------------------------------------------


def test_a_server_that_is_away_is_tried_again_and_again_and_not_at_once() -> None:
    class Gone:
        closed = True

    tried: list[float] = []
    now = 0.0

    def connect() -> Any:
        tried.append(now)
        if len(tried) == 1:
            return Gone()
        raise psycopg.OperationalError("refused")

    session = PostgresSession(connect, clock=lambda: now)
    while now < 3600:
        with pytest.raises(psycopg.OperationalError, match=r"refused|a moment ago"):
            session.execute("SELECT 1")
        now += 0.05
    pauses = [after - before for before, after in pairwise(tried[1:])]
    wanted = [0.1, 0.2, 0.4, 0.8, 1.6, *[2.0] * (len(pauses) - 5)]
    assert all(want <= pause + 1e-6 < want + 0.06 for pause, want in zip(pauses, wanted, strict=True))
    assert len(pauses) > 1500


def test_a_restart_while_nothing_happens_is_noticed_by_nobody(postgres: Postgres, url: str) -> None:
    with opened(PostgresDatabase(url)) as stores, KeyStore(PostgresDatabase(url)) as keys:
        asyncio.run(stores.writer.commit(receipt("before")))
        postgres.restart()
        asyncio.run(stores.writer.commit(receipt("after")))
        assert stores.receipts.find("before", owner=None) is not None
        assert stores.receipts.find("after", owner=None) is not None
        assert keys.create("app").startswith("sk-")


def test_a_transaction_that_was_rolled_back_is_no_commit(url: str) -> None:
    session = PostgresDatabase(url).session()
    session.begin()
    session.execute("INSERT INTO keyset VALUES (?, ?, ?)", ("d", b"", 0))
    with pytest.raises(psycopg.errors.UndefinedColumn):
        session.execute("SELECT nothing").fetchone()
    with pytest.raises(psycopg.OperationalError, match="rolled back"):
        session.commit()
    assert session.execute("SELECT count(*) FROM keyset").fetchone() == (0,)
    session.close()


def test_a_server_that_hangs_is_down_and_comes_back(postgres: Postgres, url: str) -> None:
    with opened(PostgresDatabase(url)) as stores, KeyStore(PostgresDatabase(url)) as keys:
        key = keys.create("app")
        while stores.keys.find(key) is None:
            time.sleep(0.05)
        with postgres.frozen(), ThreadPoolExecutor(3) as threads:
            asked = [
                threads.submit(lambda: asyncio.run(stores.writer.commit(receipt("r")))),
                threads.submit(lambda: asyncio.run(stores.writer.claim("m", now=1, expires=9))),
                threads.submit(lambda: stores.receipts.find("r", owner=None)),
            ]
            for one in asked:
                with pytest.raises(StoreError, match="can't be used"):
                    one.result(60)
            with pytest.raises(StoreError, match=r"not read for too long|can't be used"):
                stores.keys.find(key)
        works_again(lambda: asyncio.run(stores.writer.commit(receipt("later"))))
        works_again(lambda: stores.keys.find(key))
        assert stores.receipts.find("later", owner=None) is not None


def test_nothing_that_was_acknowledged_is_lost_when_the_server_crashes(postgres: Postgres, url: str) -> None:
    told: list[str] = []
    failed: list[str] = []

    async def client(writer: ReceiptWriter, number: int, ending: threading.Event) -> None:
        turn = 0
        while not ending.is_set():
            name = f"{number}-{turn}"
            try:
                await writer.commit(receipt(name))
                told.append(name)
            except StoreError:
                failed.append(name)
                await asyncio.sleep(0.01)
            turn += 1

    async def main(writer: ReceiptWriter, ending: threading.Event) -> None:
        await asyncio.gather(*[client(writer, number, ending) for number in range(16)])

    def more() -> None:
        before = len(told)
        while len(told) < before + 200:
            time.sleep(0.01)

    ending = threading.Event()
    with writers(url) as (writer,), ThreadPoolExecutor(1) as threads:
        clients = threads.submit(lambda: asyncio.run(main(writer, ending)))
        for _ in range(3):
            more()
            postgres.restart("immediate")
        more()
        ending.set()
        clients.result(60)
    with sql(url) as db:
        kept = {name for (name,) in db.execute("SELECT receipt_id FROM receipt")}
    assert [name for name in told if name not in kept] == []
    assert failed, "the crashes met nobody"
