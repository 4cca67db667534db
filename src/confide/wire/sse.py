"""Server-sent events as OpenAI's streams use them: one ``data:`` line and a blank line.

Source: WHATWG HTML, section 9.2 "Server-sent events"; OpenAI sends neither ``event:`` nor ``id:`` lines.
"""

from __future__ import annotations

from typing import Final

DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"
MEDIA_TYPE: Final = "text/event-stream"


def event(data: bytes) -> bytes:
    """One event. ``data`` is a JSON text without line breaks, so one line carries it."""
    return b"data: " + data + b"\n\n"
