"""Holds back the end of a stream of events, so that whoever sees the end sees a checked answer."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from confide.seal.events import Event, EventReader

_LONGEST: Final = 16 * 1024 * 1024
"""Bytes of one event, and of everything after the end."""


class Tail:
    """Gives events as soon as they are whole, but nothing from OpenAI's end mark on.

    ``first_id`` is the id in the first event that has one.
    """

    def __init__(self) -> None:
        self._events = EventReader(_LONGEST)
        self._held = bytearray()
        self.is_done = False
        self.first_id: str | None = None

    @property
    def is_torn(self) -> bool:
        """Whether the stream stopped inside an event."""
        return self._events.pending

    def push(self, data: bytes) -> bytes:
        """Take bytes; give those that may go on.

        Raises:
            ValueError: no event, or one without an end.
        """
        out = bytearray()
        for event in self._events.feed(data):
            self.is_done = self.is_done or event.is_done
            if self.is_done:
                self._held += event.raw
            else:
                self._look(event)
                out += event.raw
        if len(self._held) > _LONGEST:
            raise ValueError("too much after the end")
        return bytes(out)

    def release(self) -> bytes:
        """What was held back."""
        return bytes(self._held)

    def _look(self, event: Event) -> None:
        if self.first_id is None and event.data is not None:
            self.first_id = answer_id(event.data)


def answer_id(text: bytes) -> str | None:
    """The id of an answer, or of a chunk of one."""
    try:
        value: Any = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None
