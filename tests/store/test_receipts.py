from __future__ import annotations

import asyncio
import os
import random
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.store.plans import plans

from confide.errors import StoreError
from confide.store.base import Database, Rows, Session
from confide.store.ids import ordered_id
from confide.store.keys import KeyStore
from confide.store.receipts import PRUNE_BATCH, ReceiptRow, ReceiptStore, ReceiptWriter
from confide.store.schema import SCHEMA_VERSION
from confide.store.sqlite import MOST_TOGETHER, SqliteFile
from confide.store.writer import Insert as InsertRows
from confide.store.writer import Writer

T = TypeVar("T")
ROUNDS = int(os.environ.get("CONFIDE_SOAK") or 0) // 20 or 8
"""How often a writing process is killed; 50 in the long run."""


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@contextmanager
def writing(database: Database, **options: Any) -> Iterator[ReceiptWriter]:
    writer = ReceiptWriter(database, **options)
    try:
        yield writer
    finally:
        writer.close()


def row(number: int, **members: Any) -> ReceiptRow:
    whole: dict[str, Any] = {
        "receipt_id": f"rcpt-{number:024x}",
        "chat_id": f"chatcmpl-{number}",
        "owner": "key_1",
        "created": 1000 + number,
        "document": b"document %d" % number,
    }
    return ReceiptRow(**(whole | members))


# Looking up ----------------------------------------------------------------------------------------------------------


def test_receipts_are_found_by_either_id_with_their_owner(database: Database) -> None:
    with writing(database) as writer, ReceiptStore(database) as store:
        run(writer.commit(row(1, legacy=b"proof"), row(2, owner=None, chat_id=None)))
        for name in ("rcpt-" + "0" * 23 + "1", "chatcmpl-1"):
            found = store.find(name, owner="key_1")
            assert found is not None
            assert (found.owner, found.document, found.legacy) == ("key_1", b"document 1", b"proof")
        anonymous = store.find(row(2).receipt_id, owner="key_1")
        assert anonymous is not None
        assert (anonymous.owner, anonymous.legacy) == (None, None)
        assert store.find("chatcmpl-2", owner=None) is None


def test_one_response_id_of_several_requests_finds_the_callers_newest(database: Database) -> None:
    with writing(database) as writer, ReceiptStore(database) as store:
        rows = [row(number, chat_id="same", owner=owner) for number, owner in enumerate(["a", "b", "a", "c"])]
        run(writer.commit(*rows))
        for owner, document in (("a", b"document 2"), ("b", b"document 1"), ("nobody", b"document 3")):
            found = store.find("same", owner=owner)
            assert found is not None
            assert found.document == document


def test_a_response_id_cannot_hide_a_receipt_id(database: Database) -> None:
    with writing(database) as writer, ReceiptStore(database) as store:
        run(writer.commit(row(1), row(2, chat_id=row(1).receipt_id)))
        found = store.find(row(1).receipt_id, owner="key_1")
        assert found is not None
        assert found.document == b"document 1"


def test_keysets_stay(database: Database) -> None:
    async def keep(writer: ReceiptWriter) -> None:
        await writer.keep_keyset("sha256:1", b"keyset", 5)
        await writer.keep_keyset("sha256:1", b"another", 6)

    with writing(database) as writer, ReceiptStore(database) as store:
        run(keep(writer))
        assert store.keyset("sha256:1") == b"keyset"
        assert store.keyset("sha256:2") is None


def test_a_file_of_the_first_schema_is_brought_up_and_keeps_its_keys(path: Path) -> None:
    with KeyStore(SqliteFile(path)) as keys:
        keys.create("app")
    db = sqlite3.connect(path)
    for trigger in ("made", "changed", "gone"):
        db.execute(f"DROP TRIGGER api_key_{trigger}")
    for table in ("receipt", "keyset", "replay_mark", "api_key_version"):
        db.execute(f"DROP TABLE {table}")
    db.execute("ALTER TABLE api_key DROP COLUMN require_e2ee")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    with writing(SqliteFile(path)) as writer:
        run(writer.commit(row(1)))
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()
    with KeyStore(SqliteFile(path)) as keys:
        assert [key.name for key in keys.list()] == ["app"]


def test_another_process_that_closes_the_file_does_not_take_the_log_away(path: Path) -> None:
    """Several connections in this process, one in another that ends: what is written before and after is seen."""
    file = SqliteFile(path)
    with KeyStore(file) as keys, ReceiptStore(file) as receipts, writing(file) as writer:
        need = "from pathlib import Path\nfrom confide.store.keys import KeyStore\n"
        need += "from confide.store.sqlite import SqliteFile"
        code = f"{need}\nwith KeyStore(SqliteFile(Path({str(path)!r}))) as keys:\n    keys.create('x')"
        run(writer.commit(row(2)))
        before = keys.data_version()
        subprocess.run([sys.executable, "-c", code], check=True)
        assert path.with_name(path.name + "-wal").exists()
        assert keys.data_version() != before
        assert [key.name for key in keys.list()] == ["x"]
        run(writer.commit(row(1)))
        assert receipts.find(row(1).receipt_id, owner=None) is not None
        subprocess.run([sys.executable, "-c", code.replace("'x'", "'y'")], check=True)
        assert [key.name for key in keys.list()] == ["x", "y"]
        assert receipts.find(row(1).receipt_id, owner=None) is not None
    with ReceiptStore(file) as receipts:
        assert receipts.find(row(1).receipt_id, owner=None) is not None


# Replay marks --------------------------------------------------------------------------------------------------------


def test_a_mark_is_claimed_once_until_it_expires(database: Database) -> None:
    async def main(writer: ReceiptWriter) -> list[bool]:
        return [
            await writer.claim("nonce", now=100, expires=400),
            await writer.claim("nonce", now=101, expires=401),
            await writer.claim("other", now=101, expires=401),
            await writer.claim("nonce", now=399, expires=700),
            await writer.claim("nonce", now=400, expires=700),
            await writer.claim("nonce", now=401, expires=701),
        ]

    with writing(database) as writer:
        assert run(main(writer)) == [True, False, True, False, True, False]


def test_of_many_claims_in_several_writers_one_is_the_first(database: Database) -> None:
    async def main(*writers: ReceiptWriter) -> list[bool]:
        return await asyncio.gather(*[writer.claim("n", now=1, expires=9) for writer in writers * 30])

    with writing(database) as one, writing(database) as other:
        assert sum(run(main(one, other))) == 1


def test_a_store_that_is_down_is_an_error_and_not_a_replay(path: Path) -> None:
    with writing(SqliteFile(path)) as writer:
        path.unlink()
        with pytest.raises(StoreError, match="No such file"):
            run(writer.claim("n", now=1, expires=9))
        path.write_bytes(b"")
        with pytest.raises(StoreError, match="replaced"):
            run(writer.claim("n", now=1, expires=9))


# Retention -----------------------------------------------------------------------------------------------------------


def test_old_receipts_go_in_small_batches_and_others_stay(database: Database) -> None:
    old = PRUNE_BATCH * 2 + 7

    async def main(writer: ReceiptWriter) -> int:
        await writer.commit(*[row(number, created=10) for number in range(old)], row(old, created=100))
        await writer.claim("expired", now=0, expires=110)
        await writer.claim("valid", now=0, expires=111)
        return await writer.prune(now=110, keep_seconds=10)

    with writing(database) as writer, ReceiptStore(database) as store:
        assert run(main(writer)) == old
        assert store.find("chatcmpl-0", owner="key_1") is None
        assert store.find(f"chatcmpl-{old}", owner="key_1") is not None
        assert run(writer.prune(now=110, keep_seconds=10)) == 0
    assert selected(database, "SELECT mark FROM replay_mark") == [("valid",)]


def test_answers_are_committed_between_the_batches(database: Database) -> None:
    async def main(writer: ReceiptWriter) -> bool:
        await writer.commit(*[row(number, created=10) for number in range(PRUNE_BATCH * 20)])
        pruning = asyncio.create_task(writer.prune(now=110, keep_seconds=10))
        for number in range(5):
            await writer.commit(row(PRUNE_BATCH * 20 + number))
        early = not pruning.done()
        assert await pruning == PRUNE_BATCH * 20
        return early

    with writing(database) as writer:
        assert run(main(writer))


# Growth --------------------------------------------------------------------------------------------------------------

READS: dict[str, Callable[[ReceiptStore], object]] = {
    "by receipt id": lambda store: store.find(row(1).receipt_id, owner="key_1"),
    "by response id": lambda store: store.find("chatcmpl-1", owner=None),
    "of nobody": lambda store: store.find("absent", owner="key_1"),
    "keyset": lambda store: store.keyset("sha256:1"),
}


@pytest.mark.parametrize("name", READS)
def test_what_is_read_is_found_by_an_index(path: Path, name: str) -> None:
    with writing(SqliteFile(path)) as writer, ReceiptStore(SqliteFile(path)) as store:
        run(writer.commit(row(1), row(2)))
        found = plans(store._db, lambda: READS[name](store))
    assert [plan for plan in found if plan.startswith("SCAN")] == []
    assert any("USING INDEX" in plan or "USING PRIMARY KEY" in plan for plan in found)


WRITES: dict[str, Callable[[ReceiptWriter], Coroutine[Any, Any, object]]] = {
    "receipts": lambda writer: writer.commit(row(1), row(2)),
    "a mark": lambda writer: writer.claim("nonce", now=1, expires=2),
    "a keyset": lambda writer: writer.keep_keyset("sha256:1", b"keyset", 5),
    "old rows": lambda writer: writer.prune(now=5000, keep_seconds=10),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_is_written_is_placed_by_an_index(path: Path, name: str) -> None:
    with writing(SqliteFile(path)) as writer:
        found = plans(writer._writer._db, lambda: run(WRITES[name](writer)))
    given = re.compile("SCAN [0-9]+ CONSTANT ROWS")  # those that the statement brings along
    assert [plan for plan in found if plan.startswith("SCAN") and not given.fullmatch(plan)] == []
    assert any("INDEX receipt_created" in plan for plan in found) == (name == "old rows")


def test_ids_are_in_the_order_of_time_and_never_the_same() -> None:
    ids = [ordered_id(now, 24) for now in (0, 15.9, 16, 1_800_000_000.5, 2**32 - 1)]
    assert ids == sorted(ids)
    assert [one[:10] for one in ids] == ["0000000000", "0000000fe6", "0000001000", "6b49d20080", "ffffffff00"]
    assert re.fullmatch("6b49d20000[0-9a-f]{22}", ordered_id(1_800_000_000, 32))
    assert len({ordered_id(1, 24) for _ in range(1000)}) == 1000


# Group commit --------------------------------------------------------------------------------------------------------


class Gate:
    """A job that holds the thread until it is told to go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def run(self, db: Session) -> None:
        self.entered.set()
        assert self.open.wait(10)


class Insert:
    """A job that makes one keyset row."""

    def __init__(self, digest: str) -> None:
        self._digest = digest

    def run(self, db: Session) -> str:
        db.execute("INSERT INTO keyset VALUES (?, ?, 0)", (self._digest, b""))
        return self._digest


class Fail:
    """A job that raises."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def run(self, db: Session) -> None:
        raise self._error


def digests(database: Database) -> set[str]:
    return {digest for (digest,) in selected(database, "SELECT digest FROM keyset")}


def selected(database: Database, sql: str) -> list[Any]:
    """What is in a table."""
    session = database.session()
    try:
        return session.execute(sql).fetchall()
    finally:
        session.close()


class Noting:
    """A session that notes when transactions begin and end."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.noted: list[str] = []

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Rows:
        return self._session.execute(sql, parameters)

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], /) -> None:
        self.noted.append(f"insert {len(rows)}")
        self._session.insert(table, columns, rows)

    def check(self) -> None:
        self._session.check()

    def begin(self) -> None:
        self.noted.append("begin")
        self._session.begin()

    def commit(self) -> None:
        self._session.commit()
        self.noted.append("commit")

    def rollback(self) -> None:
        self._session.rollback()
        self.noted.append("rollback")

    def close(self) -> None:
        self._session.close()


async def behind_a_gate(writer: Writer, *jobs: Any) -> tuple[list[Any], list[str]]:
    """The outcomes of jobs that were all waiting when the thread could go on, and the transactions it made of them."""
    noting = Noting(writer._db)
    writer._db = noting
    gate = Gate()
    first = asyncio.create_task(writer.commit(gate))
    assert await asyncio.to_thread(gate.entered.wait, 10)
    rest = [asyncio.create_task(writer.commit(job)) for job in jobs]
    await asyncio.sleep(0.05)
    gate.open.set()
    await first
    return await asyncio.gather(*rest, return_exceptions=True), noting.noted


def test_what_waits_shares_one_transaction(database: Database) -> None:
    writer = Writer(database)
    names = [f"d{number}" for number in range(50)]
    outcomes, noted = run(behind_a_gate(writer, *[Insert(name) for name in names]))
    writer.close()
    assert outcomes == names
    assert noted == ["begin", "commit"] * 2
    assert digests(database) == set(names)


def keysets(*names: str) -> InsertRows:
    return InsertRows("keyset", ("digest", "document", "not_after"), [(name, b"", 0) for name in names])


@pytest.mark.parametrize("count", [1, 2, MOST_TOGETHER, MOST_TOGETHER + 1, 250])
def test_rows_for_one_table_that_wait_become_one_insert(database: Database, count: int) -> None:
    writer = Writer(database)
    names = [f"d{number}" for number in range(count)]
    outcomes, noted = run(behind_a_gate(writer, *map(keysets, names)))
    writer.close()
    assert outcomes == [None] * count
    assert noted == ["begin", "commit", f"insert {count}"]
    assert digests(database) == set(names)


@pytest.mark.parametrize("count", [2, MOST_TOGETHER, MOST_TOGETHER + 1])
def test_all_rows_of_one_insert_are_there_or_none(database: Database, count: int) -> None:
    names = [f"d{number}" for number in range(count - 1)]
    with closing(Writer(database)) as writer, pytest.raises(StoreError):
        run(writer.commit(keysets(*names, "d0")))
    assert digests(database) == set()


def test_rows_beside_other_jobs_share_their_transaction(database: Database) -> None:
    writer = Writer(database)
    outcomes, noted = run(behind_a_gate(writer, keysets("a"), Insert("b"), keysets("c")))
    writer.close()
    assert outcomes == [None, "b", None]
    assert noted == ["begin", "commit", "begin", "insert 1", "insert 1", "commit"]
    assert digests(database) == {"a", "b", "c"}


def test_rows_for_several_tables_share_a_transaction(database: Database) -> None:
    writer = Writer(database)
    mark = InsertRows("replay_mark", ("mark", "expires"), [("m", 1)])
    outcomes, noted = run(behind_a_gate(writer, keysets("a"), mark))
    writer.close()
    assert outcomes == [None, None]
    assert noted == ["begin", "commit", "begin", "insert 1", "insert 1", "commit"]
    assert selected(database, "SELECT mark FROM replay_mark") == [("m",)]


def test_a_batch_has_a_limit(database: Database) -> None:
    writer = Writer(database, most_batch=10)
    _, noted = run(behind_a_gate(writer, *[Insert(f"d{number}") for number in range(25)]))
    writer.close()
    assert noted == ["begin", "commit"] * (1 + 3)


@pytest.mark.parametrize("error", [None, ValueError("surrogate"), TypeError("type"), OverflowError("2^64")])
def test_a_job_at_fault_fails_alone(database: Database, error: Exception | None) -> None:
    writer = Writer(database)
    outcomes, _ = run(behind_a_gate(writer, Insert("a"), Fail(error or database.taken("twice")), Insert("b")))
    writer.close()
    assert [type(outcome) for outcome in outcomes] == [str, StoreError, str]
    assert digests(database) == {"a", "b"}


def test_a_receipt_id_that_is_taken_fails_alone(database: Database) -> None:
    async def main(writer: ReceiptWriter) -> list[Any]:
        await writer.commit(row(1))
        again = [row(1, document=b"another"), row(2), row(3)]
        return await asyncio.gather(*[writer.commit(one) for one in again], return_exceptions=True)

    with writing(database) as writer, ReceiptStore(database) as store:
        first, *others = run(main(writer))
        assert isinstance(first, StoreError)
        assert others == [None, None]
        found = store.find("chatcmpl-1", owner="key_1")
        assert found is not None
        assert found.document == b"document 1"


def test_a_store_that_fails_fails_every_waiter_and_nothing_is_half_done(database: Database) -> None:
    writer = Writer(database)
    full = database.errors[0]("database or disk is full")
    outcomes, _ = run(behind_a_gate(writer, Insert("a"), Fail(full), Insert("b")))
    assert [str(outcome).endswith("can't be used: database or disk is full") for outcome in outcomes] == [True] * 3
    assert digests(database) == set()
    assert run(writer.commit(Insert("c"))) == "c"
    writer.close()


@pytest.mark.parametrize(("most_batch", "committed"), [(10, set()), (1, {"a"})])
def test_a_thread_that_breaks_leaves_nobody_waiting(
    database: Database, monkeypatch: pytest.MonkeyPatch, most_batch: int, committed: set[str]
) -> None:
    broke: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: broke.append(arguments.exc_value))
    writer = Writer(database, most_batch=most_batch)
    outcomes, _ = run(behind_a_gate(writer, Insert("a"), Fail(RuntimeError("a bug")), Insert("b")))
    assert {outcome for outcome in outcomes if isinstance(outcome, str)} == committed
    assert [type(outcome) for outcome in outcomes[1:]] == [StoreError] * 2
    with pytest.raises(StoreError, match="is closed"):
        run(writer.commit(Insert("c")))
    writer.close()
    assert [str(error) for error in broke] == ["a bug"]
    assert digests(database) == committed


def test_the_queue_is_bounded_and_everybody_gets_through(database: Database) -> None:
    async def main() -> int:
        gate = Gate()
        first = asyncio.create_task(writer.commit(gate))
        assert await asyncio.to_thread(gate.entered.wait, 10)
        rest = [asyncio.create_task(writer.commit(Insert(f"d{number}"))) for number in range(20)]
        await asyncio.sleep(0.05)
        waiting = writer._waiting - 1  # the first one runs
        gate.open.set()
        await asyncio.gather(first, *rest)
        return waiting

    writer = Writer(database, most_waiting=4)
    assert run(main()) == 3
    writer.close()
    assert len(digests(database)) == 20


def test_a_caller_that_leaves_does_not_undo_its_row(database: Database) -> None:
    async def main() -> None:
        gate = Gate()
        first = asyncio.create_task(writer.commit(gate))
        assert await asyncio.to_thread(gate.entered.wait, 10)
        leaver = asyncio.create_task(writer.commit(Insert("left")))
        failing = asyncio.create_task(writer.commit(Fail(database.taken("x"))))
        await asyncio.sleep(0.01)
        leaver.cancel()
        failing.cancel()
        await asyncio.gather(leaver, failing, return_exceptions=True)
        gate.open.set()
        await first
        await writer.commit(Insert("after"))

    writer = Writer(database)
    run(main())
    writer.close()
    assert digests(database) == {"left", "after"}


def test_close_commits_what_waits(database: Database) -> None:
    async def main() -> list[str]:
        gate = Gate()
        first = asyncio.create_task(writer.commit(gate))
        assert await asyncio.to_thread(gate.entered.wait, 10)
        rest = [asyncio.create_task(writer.commit(Insert(f"d{number}"))) for number in range(600)]
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(asyncio.to_thread(writer.close))
        await asyncio.sleep(0.05)
        gate.open.set()
        await asyncio.gather(first, closing)
        return await asyncio.gather(*rest)

    writer = Writer(database)
    assert len(run(main())) == 600
    assert len(digests(database)) == 600
    with pytest.raises(StoreError, match="is closed"):
        run(writer.commit(Insert("late")))
    writer.close()


def test_a_loop_that_has_ended_is_no_trouble(database: Database) -> None:
    writer = Writer(database)
    gate = Gate()

    async def start() -> None:
        waiting = asyncio.ensure_future(writer.commit(gate))
        assert await asyncio.to_thread(gate.entered.wait, 10)
        waiting.cancel()

    run(start())
    gate.open.set()
    assert run(writer.commit(Insert("a"))) == "a"
    writer.close()


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    for kind in (Writer, ReceiptStore):
        with pytest.raises(StoreError, match="can't be used"):
            kind(SqliteFile(tmp_path / "data" / "confide.db"))


# kill -9 -------------------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from confide.store.open import database
from confide.store.receipts import ReceiptRow, ReceiptWriter

async def client(writer, number):
    for turn in range(1_000_000):
        name = f"{sys.argv[2]}-{number}-{turn}"
        await writer.commit(ReceiptRow(name, "chat-" + name, "key_1", 1, name.encode() * 50))
        os.write(1, name.encode() + b"\\n")

async def main():
    writer = ReceiptWriter(database(sys.argv[3] or None, Path(sys.argv[1])))
    await asyncio.gather(*[client(writer, number) for number in range(32)])

asyncio.run(main())
"""


def written_until_killed(where: tuple[str | None, Path], name: str, seconds: float) -> list[str]:
    """The rows that a process said were committed, before it was killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(where[1]), name, where[0] or ""],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert child.stdout is not None
    killer = threading.Timer(30, child.kill)
    killer.start()
    with child.stdout as output:
        head = output.readline()
        threading.Timer(seconds, child.kill).start()
        told = head + output.read()
    killer.cancel()
    assert child.wait() == -9
    return told.decode().split("\n")[:-1]


def test_what_was_acknowledged_survives_kill_9(database: Database, where: tuple[str | None, Path]) -> None:
    dice = random.Random(int(time.time()))
    told = []
    for number in range(ROUNDS):
        told += written_until_killed(where, f"round{number}", dice.uniform(0.0, 0.4))
        with ReceiptStore(database) as store:
            lost = [name for name in told if store.find(name, owner="key_1") is None]
        assert lost == []
    assert len(told) > 100 * ROUNDS
