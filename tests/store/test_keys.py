from __future__ import annotations

import hashlib
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.store.plans import plans

from confide.errors import OperatorError, StoreError
from confide.store.base import Database
from confide.store.keys import KeyRecord, KeyRing, KeyStore, digest_of, new_key, of_settings, setting_of
from confide.store.schema import SCHEMA_VERSION
from confide.store.sqlite import SqliteFile


def rows(database: Database, sql: str) -> list[Any]:
    """What is in a table."""
    session = database.session()
    try:
        return session.execute(sql).fetchall()
    finally:
        session.close()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_returned_once_and_only_its_digest_is_stored(database: Database, path: Path) -> None:
    with KeyStore(database, now=lambda: 1234.5) as store:
        key = store.create("app")
        assert re.fullmatch(r"sk-confide-[A-Za-z0-9_-]{43}", key)
        (record,) = store.list()
        assert (record.name, record.created, record.revoked) == ("app", 1234, None)
        assert re.fullmatch(r"key_[0-9a-f]{12}", record.id)
        assert store.digests() == {hashlib.sha256(key.encode()).digest(): record}
        for stored in rows(database, "SELECT * FROM api_key"):
            assert key not in str(stored)
    for file in path.parent.glob("*"):
        assert key.encode() not in file.read_bytes()


def test_only_the_owner_can_read(path: Path) -> None:
    with KeyStore(SqliteFile(path)) as store:
        store.create("app")
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert modes == {"confide.db": 0o600, "confide.db-wal": 0o600, "confide.db-shm": 0o600}


def test_keys_last_and_revoked_names_are_free_again(database: Database) -> None:
    with KeyStore(database) as store:
        old = store.create("app")
        with pytest.raises(OperatorError, match="there is an active key named app"):
            store.create("app")
        assert store.revoke("app").revoked is not None
        new = store.create("app")
    with KeyStore(database) as store:
        ring = KeyRing(store)
        assert ring.find(old) is None
        assert ring.find(new) == store.list()[1]
        assert [record.revoked is None for record in store.list()] == [False, True]
        store.revoke(store.list()[1].id)
        assert store.digests() == {}


@pytest.mark.parametrize("name", ["", "a" * 65, "two words", "ümlaut", "a\n", "key_1", "a/b"])
def test_names_that_are_refused(database: Database, name: str) -> None:
    with KeyStore(database) as store, pytest.raises(OperatorError, match="can't name a key"):
        store.create(name)


def test_revoking_what_is_not_there(database: Database) -> None:
    with (
        KeyStore(database) as store,
        pytest.raises(OperatorError, match="no active key with the name or id nobody"),
    ):
        store.revoke("nobody")


def test_the_version_changes_with_the_keys_whoever_changes_them_and_with_nothing_else(database: Database) -> None:
    with KeyStore(database) as store:
        store.create("app")
        other = database.session()
        for statement in (
            "UPDATE api_key SET revoked = 5 WHERE name = 'app'",
            "UPDATE api_key SET revoked = NULL",
            "INSERT INTO api_key (id, name, digest, created) VALUES ('key_x', 'by hand', 'a digest', 1)",
            "DELETE FROM api_key WHERE name = 'app'",
        ):
            before = store.data_version()
            other.execute(statement)
            assert store.data_version() > before, statement
        before = store.data_version()
        other.execute("INSERT INTO receipt (receipt_id, created, document) VALUES ('rcpt-1', 1, 'document')")
        other.close()
        assert store.data_version() == before


@pytest.mark.parametrize("work", [lambda store: store.revoke("app"), lambda store: store.data_version()])
def test_what_is_asked_of_one_key_does_not_read_all_of_them(path: Path, work: Callable[[KeyStore], object]) -> None:
    with KeyStore(SqliteFile(path)) as store:
        store.create("app")
        assert [plan for plan in plans(store._db, lambda: work(store)) if plan.startswith("SCAN api_key ")] == []


def test_a_newer_schema_is_refused(path: Path) -> None:
    KeyStore(SqliteFile(path)).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(StoreError, match=f"schema version 7, and this confide knows {SCHEMA_VERSION}"):
        KeyStore(SqliteFile(path))


def test_a_file_that_is_no_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(StoreError, match="can't be used: file is not a database"):
        KeyStore(SqliteFile(path))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StoreError, match="can't be used"):
        KeyStore(SqliteFile(tmp_path / "data" / "confide.db"))


def test_the_ring_sees_another_process_within_its_age(database: Database) -> None:
    clock = Clock()
    with KeyStore(database) as server, KeyStore(database) as operator:
        ring = KeyRing(server, max_age=1.0, clock=clock)
        assert ring.find("sk-confide-wrong") is None
        key = operator.create("app")
        assert ring.find(key) is None
        clock.now += 1.0
        found = ring.find(key)
        assert found is not None
        assert found.name == "app"
        operator.revoke("app")
        clock.now += 0.9
        assert ring.find(key) == found
        clock.now += 0.1
        assert ring.find(key) is None


def test_the_ring_sees_a_real_other_process(database: Database, where: tuple[str | None, Path]) -> None:
    clock = Clock()
    with KeyStore(database) as server:
        ring = KeyRing(server, clock=clock)
        assert ring.find("nothing") is None
        program = "import sys; from pathlib import Path; from confide.store.keys import KeyStore\n"
        program += "from confide.store.open import database\n"
        program += "with KeyStore(database(sys.argv[2] or None, Path(sys.argv[1]))) as s: print(s.create('other'))"
        made = subprocess.run(
            [sys.executable, "-c", program, str(where[1]), where[0] or ""],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path)},
        )
        clock.now += 1
        found = ring.find(made.stdout.strip())
        assert found is not None
        assert found.name == "other"


def test_the_ring_sees_its_own_store(database: Database) -> None:
    clock = Clock()
    with KeyStore(database) as store:
        ring = KeyRing(store, clock=clock)
        assert ring.find("x") is None
        key = store.create("app")
        clock.now += 1
        assert ring.find(key) is not None


class CountingKeys:
    """Keys whose store can break, and which counts how often it is asked."""

    def __init__(self) -> None:
        self.version = 1
        self.asked = 0
        self.read = 0
        self.down = False

    def data_version(self) -> int:
        self.asked += 1
        if self.down:
            raise StoreError("down")
        return self.version

    def digests(self) -> dict[bytes, KeyRecord]:
        self.read += 1
        return {hashlib.sha256(b"k").digest(): KeyRecord("key_1", "n", 0)}


def test_the_store_is_asked_at_most_once_per_age_and_read_when_it_changed() -> None:
    clock, keys = Clock(), CountingKeys()
    ring = KeyRing(keys, max_age=1.0, clock=clock)
    for _ in range(5):
        assert ring.find("k") == KeyRecord("key_1", "n", 0)
    assert (keys.asked, keys.read) == (1, 1)
    clock.now += 1
    ring.find("k")
    assert (keys.asked, keys.read) == (2, 1)
    keys.version += 1
    clock.now += 1
    ring.find("k")
    assert (keys.asked, keys.read) == (3, 2)


def test_a_store_that_is_down_lets_nobody_in() -> None:
    clock, keys = Clock(), CountingKeys()
    ring = KeyRing(keys, clock=clock)
    assert ring.find("k") is not None
    keys.down = True
    clock.now += 1
    for _ in range(3):
        with pytest.raises(StoreError):
            ring.find("k")
    keys.down = False
    assert ring.find("k") is not None


def test_a_replaced_or_removed_file_is_noticed(path: Path) -> None:
    with KeyStore(SqliteFile(path)) as store:
        other = path.with_name("other.db")
        KeyStore(SqliteFile(other)).close()
        other.replace(path)
        with pytest.raises(StoreError, match="was replaced"):
            store.data_version()
        path.unlink()
        with pytest.raises(StoreError, match="No such file"):
            store.data_version()


def test_a_closed_store_is_down(database: Database) -> None:
    store = KeyStore(database)
    store.close()
    with pytest.raises(StoreError):
        store.list()


@pytest.mark.parametrize("presented", ["", "sk-confide-", "ключ", "\ud800", "k" * 100_000])
def test_any_text_can_be_presented(database: Database, presented: str) -> None:
    with KeyStore(database) as store:
        store.create("app")
        assert KeyRing(store).find(presented) is None


# Keys of the settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("require_e2ee", [False, True])
def test_a_setting_names_a_key_by_its_digest(require_e2ee: bool) -> None:
    key = new_key("alice")
    setting = setting_of("alice", key, require_e2ee=require_e2ee)
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert setting == f"alice=sha256:{digest}" + ":e2ee" * require_e2ee
    record = KeyRecord(f"key_{digest[:32]}", "alice", 0, None, require_e2ee)
    assert of_settings([setting]) == {bytes.fromhex(digest): record}


def test_keys_of_the_settings_stand_beside_those_of_the_store(database: Database) -> None:
    fixed, stranger = new_key("fixed"), new_key("stranger")
    with KeyStore(database) as store:
        stored = store.create("stored")
        clock = Clock()
        ring = KeyRing(store, of_settings([setting_of("fixed", fixed, require_e2ee=True)]), clock=clock)
        assert [ring.find(key) and ring.find(key).name for key in (fixed, stored, stranger)] == [  # type: ignore[union-attr]
            "fixed",
            "stored",
            None,
        ]
        store.revoke("stored")
        later = store.create("later")
        clock.now += 2
        assert ring.find(stored) is None
        assert ring.find(later) == store.list()[-1]
        assert ring.find(fixed) == KeyRecord(f"key_{digest_of(fixed).hex()[:32]}", "fixed", 0, None, True)


@pytest.mark.parametrize("name", ["", "two words", "key_1"])
def test_a_key_of_the_settings_has_a_name_as_others(name: str) -> None:
    with pytest.raises(OperatorError, match="can't name a key"):
        new_key(name)
