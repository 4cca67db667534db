"""Logs as JSON lines that can't hold content: constant texts, and fields from an allow-list.

A log call's arguments, the text of an exception and what other libraries write are left out: they may quote a prompt.
Of an exception its type and its place are told, which is enough to find a fault.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, TextIO

import msgspec

FIELDS: Final = frozenset(
    {
        *("request_id", "receipt_id", "key_id", "method", "route", "status", "milliseconds"),
        *("error", "place", "what", "reason"),
    }
)
"""What a log line may say besides its time, level, logger and text. Given as ``extra`` of a log call."""

OURS: Final = "confide"
LONGEST: Final = 200


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. Texts of other libraries' loggers are left out."""
        ours = record.name == OURS or record.name.startswith(f"{OURS}.")
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if ours and isinstance(record.msg, str) and not record.args:
            line["text"] = record.msg
        line |= allowed(record.__dict__)
        if record.exc_info and record.exc_info[1] is not None:
            line |= {"error": type(record.exc_info[1]).__name__, "place": place_of(record.exc_info[2])}
        return msgspec.json.encode(line).decode()


def allowed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the list, short, and of simple types."""
    kept = {name: given[name] for name in sorted(FIELDS & given.keys())}
    return {name: value if isinstance(value, int | float) else str(value)[:LONGEST] for name, value in kept.items()}


def place_of(traceback: TracebackType | None) -> str:
    """Where an exception was raised: a file's name and a line."""
    if traceback is None:
        return "?"
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    return f"{code.co_filename.rpartition('/')[2]}:{traceback.tb_lineno}"


def setup(level: str, stream: TextIO | None = None) -> None:
    """Send every logger of this process through :class:`JsonLines`, and nothing around it."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(max(logging.WARNING, root.level))
