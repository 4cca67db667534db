"""The tables that all stores share. Where the dialects differ, a word in braces stands for what each of them says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from confide.errors import StoreError

_MIGRATIONS: Final = (
    # 1: who may ask
    """
CREATE TABLE api_key (
    {rowid}
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    digest {bytes} NOT NULL UNIQUE,
    created BIGINT NOT NULL,
    revoked BIGINT
);
CREATE UNIQUE INDEX api_key_active_name ON api_key (name) WHERE revoked IS NULL
""",
    # 2: what was answered
    """
CREATE TABLE receipt (
    id {counted},
    receipt_id TEXT NOT NULL UNIQUE,
    chat_id TEXT,
    owner TEXT,
    created BIGINT NOT NULL,
    document {bytes} NOT NULL,
    legacy {bytes}
);
CREATE INDEX receipt_chat_id ON receipt (chat_id) WHERE chat_id IS NOT NULL;
CREATE INDEX receipt_created ON receipt (created);
CREATE TABLE keyset (
    digest TEXT PRIMARY KEY,
    document {bytes} NOT NULL,
    not_after BIGINT NOT NULL
){by_key};
CREATE TABLE replay_mark (
    mark TEXT PRIMARY KEY,
    expires BIGINT NOT NULL
){by_key};
CREATE INDEX replay_mark_expires ON replay_mark (expires)
""",
    # 3: keys that take sealed requests only
    """
ALTER TABLE api_key ADD COLUMN require_e2ee INTEGER NOT NULL DEFAULT 0
""",
    # 4: a number that changes with the keys, and not with every receipt; whoever changes them
    """
CREATE TABLE api_key_version (version BIGINT NOT NULL);
INSERT INTO api_key_version VALUES (1);
{count_key_changes}
""",
)
SCHEMA_VERSION: Final = len(_MIGRATIONS)


def migrations(version: int, words: Mapping[str, str], *, where: str) -> Iterator[str]:
    """The statements that bring a schema from this version to :data:`SCHEMA_VERSION`.

    Args:
        version: what the database has; 0 where it is empty.
        words: how its dialect says the words in braces.
        where: what to call it in an error.

    Raises:
        StoreError: the schema is newer than this program.
    """
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{where} has schema version {version}, and this confide knows {SCHEMA_VERSION}: upgrade confide"
        )
    for migration in _MIGRATIONS[version:]:
        yield from migration.format_map(words).strip().split(";\n")
