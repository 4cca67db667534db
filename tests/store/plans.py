"""How SQLite does what is asked of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

_PLANNED: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")


def plans(db: sqlite3.Connection, work: Callable[[], object]) -> list[str]:
    """The lines of the query plans of every statement that the work executes on this connection, at least one."""
    statements: list[str] = []
    db.set_trace_callback(statements.append)
    work()
    db.set_trace_callback(None)
    asked = [statement for statement in statements if statement.startswith(_PLANNED)]
    assert asked
    return [detail for one in asked for *_, detail in db.execute(f"EXPLAIN QUERY PLAN {one}")]
