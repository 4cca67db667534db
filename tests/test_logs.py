"""Log lines hold constant texts and listed fields, and no content by any other way."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from confide import logs

MARK = "mark-of-a-prompt"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is written; loggers are put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    out = io.StringIO()
    logs.setup("debug", out)
    yield out
    root.handlers = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_text_and_the_listed_fields(stream: io.StringIO) -> None:
    logging.getLogger("confide.x").info("answered", extra={"status": 200, "request_id": "req_1", "prompt": MARK})
    (line,) = lines(stream)
    assert (line["text"], line["status"], line["request_id"], line["logger"]) == ("answered", 200, "req_1", "confide.x")
    assert set(line) == {"time", "level", "logger", "text", "status", "request_id"}


@pytest.mark.parametrize("name", ["confide.x", "uvicorn.error", "asyncio", "httpx"])
def test_arguments_and_exceptions_are_not_told(stream: io.StringIO, name: str) -> None:
    logger = logging.getLogger(name)
    logger.error("failed on %s", MARK)
    try:
        raise ValueError(MARK)
    except ValueError:
        logger.exception("failed")
    try:
        raise RuntimeError(MARK) from ValueError(MARK)
    except RuntimeError as error:
        logger.error(f"failed: {error}" if name != "confide.x" else "failed", exc_info=error)
    logger.error({"a": MARK})
    logger.error("failed", extra={"what": MARK * 1000} if name == "never" else {"other": MARK})
    assert MARK not in stream.getvalue()
    assert [line.get("error") for line in lines(stream)] == [None, "ValueError", "RuntimeError", None, None]
    assert str(lines(stream)[1]["place"]).startswith("test_logs.py:")


def test_a_field_is_short_and_simple(stream: io.StringIO) -> None:
    logging.getLogger("confide").warning("x", extra={"reason": "r" * 9999, "what": ["a"], "status": 1.5})
    (line,) = lines(stream)
    assert (len(str(line["reason"])), line["what"], line["status"]) == (logs.LONGEST, "['a']", 1.5)
