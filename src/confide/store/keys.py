"""API keys: who may ask. The store holds SHA-256 digests; a key itself is shown once and kept nowhere."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Protocol

from msgspec import Struct

from confide.errors import OperatorError
from confide.store.base import Closing, Database, storable, writing

PREFIX = "sk-confide-"
_SHA256 = "sha256:"
_SEALED_ONLY = ":e2ee"
_NAME = re.compile(r"(?!key_)[A-Za-z0-9._-]{1,64}")
_ACTIVE = (
    "SELECT id, name, created FROM api_key WHERE id = ? AND revoked IS NULL "
    "UNION ALL SELECT id, name, created FROM api_key WHERE name = ? AND revoked IS NULL"
)
"""By id or name, each by its index; no name looks like an id."""


class KeyRecord(Struct, frozen=True):
    """What is known about a key; times are unix seconds. ``require_e2ee``: it takes sealed requests only.

    ``created`` is 0 for a key of the settings, which don't say it.
    """

    id: str
    name: str
    created: int
    revoked: int | None = None
    require_e2ee: bool = False


def digest_of(key: str) -> bytes:
    """What is stored instead of the key, which is random enough to need no salt."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def new_key(name: str) -> str:
    """A key for somebody of that name, which is kept nowhere.

    Raises:
        OperatorError: it can't be a name.
    """
    if not _NAME.fullmatch(name):
        raise OperatorError(f"{name!r} can't name a key: use 1 to 64 of A-Z a-z 0-9 . _ - (and no leading key_)")
    return PREFIX + secrets.token_urlsafe(32)


def setting_of(name: str, key: str, *, require_e2ee: bool) -> str:
    """How settings name a key (``api_keys``): ``NAME=sha256:DIGEST``; ``:e2ee`` means sealed requests only."""
    return f"{name}={_SHA256}{digest_of(key).hex()}{_SEALED_ONLY * require_e2ee}"


def of_settings(entries: Iterable[str]) -> dict[bytes, KeyRecord]:
    """The keys that settings name, by digest. Receipts and caches are bound to their ids, which come from the digests:
    so they last, and are long enough that nobody finds a key with the id of another's."""
    found = {}
    for entry in entries:
        name, _, rest = entry.partition("=")
        digest = bytes.fromhex(rest.removesuffix(_SEALED_ONLY).removeprefix(_SHA256))
        require_e2ee = rest.endswith(_SEALED_ONLY)
        found[digest] = KeyRecord(f"key_{digest.hex()[:32]}", name, 0, require_e2ee=require_e2ee)
    return found


class KeyStore(Closing):
    """The table of keys in one database, open until :meth:`close`."""

    def __init__(self, database: Database, *, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now
        with database.mapped():
            self._db = database.session()

    def close(self) -> None:
        """Close it; closing twice is fine."""
        self._db.close()

    def create(self, name: str, *, require_e2ee: bool = False) -> str:
        """Make a key and return it, for the only time."""
        key = new_key(name)
        row = (f"key_{secrets.token_hex(6)}", name, digest_of(key), int(self._now()), int(require_e2ee))
        with self._database.mapped():
            try:
                with writing(self._db):
                    self._db.execute(
                        "INSERT INTO api_key (id, name, digest, created, require_e2ee) VALUES (?, ?, ?, ?, ?)", row
                    )
            except self._database.taken:
                raise OperatorError(f"there is an active key named {name}; revoke it first") from None
        return key

    def list(self) -> list[KeyRecord]:
        """Every key that was ever made, oldest first."""
        with self._database.mapped():
            rows = self._db.execute(
                "SELECT id, name, created, revoked, require_e2ee FROM api_key ORDER BY created, rowid"
            ).fetchall()
        return [_record(*row) for row in rows]

    def revoke(self, id_or_name: str) -> KeyRecord:
        """End an active key."""
        now = int(self._now())
        row = None
        if storable(id_or_name):
            with self._database.mapped(), writing(self._db):
                row = self._db.execute(_ACTIVE, (id_or_name, id_or_name)).fetchone()
                if row is not None:
                    self._db.execute("UPDATE api_key SET revoked = ? WHERE id = ?", (now, row[0]))
        if row is None:
            raise OperatorError(f"there is no active key with the name or id {id_or_name}")
        return KeyRecord(row[0], row[1], row[2], now)

    def digests(self) -> dict[bytes, KeyRecord]:
        """The active keys, by digest."""
        with self._database.mapped():
            rows = self._db.execute(
                "SELECT digest, id, name, created, revoked, require_e2ee FROM api_key WHERE revoked IS NULL"
            ).fetchall()
        return {digest: _record(*rest) for digest, *rest in rows}

    def data_version(self) -> int:
        """A number that grows when the keys change, by this connection or any other process."""
        with self._database.mapped():
            self._db.check()
            (version,) = self._db.execute("SELECT version FROM api_key_version").fetchone()
        return int(version)


def _record(id: str, name: str, created: int, revoked: int | None, require_e2ee: int) -> KeyRecord:
    return KeyRecord(id, name, created, revoked, bool(require_e2ee))


class Keys(Protocol):
    """What a :class:`KeyRing` needs of a store."""

    def digests(self) -> dict[bytes, KeyRecord]: ...
    def data_version(self) -> int: ...


class KeyRing:
    """The active keys in memory, at most ``max_age`` seconds behind the store; read again only when a key changed.

    A store that can't be asked when it is time to ask raises StoreError: nobody gets in on old knowledge.

    Args:
        store: where keys are made and revoked.
        fixed: more keys, by digest, which only new settings change.
        max_age: in seconds.
        clock: in seconds.
    """

    def __init__(
        self,
        store: Keys,
        fixed: Mapping[bytes, KeyRecord] = MappingProxyType({}),
        *,
        max_age: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._fixed = fixed
        self._max_age = max_age
        self._clock = clock
        self._keys: dict[bytes, KeyRecord] = {}
        self._version: int | None = None
        self._checked: float | None = None

    def find(self, presented: str) -> KeyRecord | None:
        """The record of this key, or None.

        The time that a look-up takes may tell of the digest that was asked for, which whoever presents a key can
        compute. It tells nothing of the keys themselves: nobody can choose a key by the first bytes of its digest.
        """
        self._refresh()
        return self._keys.get(digest_of(presented))

    def _refresh(self) -> None:
        now = self._clock()
        if self._checked is not None and now - self._checked < self._max_age:
            return
        version = self._store.data_version()
        if version != self._version:
            self._keys = {**self._store.digests(), **self._fixed}
            self._version = version
        self._checked = now
