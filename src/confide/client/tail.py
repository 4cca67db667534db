"""Holds back the end of a stream of events, so that whoever sees the end sees a checked answer."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from confide.seal.events import Event, EventReader

_LONGEST: Final = 16 * 1024 * 1024
"""Bytes of one event, and of everything after the end."""


ENDS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "/v1/chat/completions": frozenset(),
        "/v1/completions": frozenset(),
        "/v1/responses": frozenset({"response.completed", "response.incomplete", "response.failed", "error"}),
        "/v1/messages": frozenset({"message_stop", "error"}),
    }
)
"""The types of events that end a stream, beside ``[DONE]``, by endpoint. A stream of these is complete with one only.

Sources: OpenAI API specification 2.3.0, ``ResponseStreamEvent``; the API reference of Anthropic, "Streaming Messages".
"""


class Tail:
    """Gives events as soon as they are whole, but nothing from the end of the stream on.

    Args:
        path: the endpoint, which says how its streams end.

    ``first_id`` is the id in the first event that has one.
    """

    def __init__(self, path: str = "/v1/chat/completions") -> None:
        self._ends = ENDS.get(path, frozenset())
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
            self.is_done = self.is_done or event.is_done or self._is_end(event)
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

    def _is_end(self, event: Event) -> bool:
        """By its name or its data: some clients look at the one, and some at the other."""
        if not self._ends or event.data is None:
            return False
        named = {line.removeprefix(b"event:").strip().decode("utf-8", "replace") for line in event.others}
        if not self._ends.isdisjoint(named):
            return True
        # Only where a name occurs it is worth to decode: within a JSON text its quotes would be escaped.
        return any(f'"{end}"'.encode() in event.data for end in self._ends) and type_of(event.data) in self._ends

    def _look(self, event: Event) -> None:
        if self.first_id is None and event.data is not None:
            self.first_id = answer_id(event.data)


def answer_id(text: bytes) -> str | None:
    """The id of an answer, or of a chunk of one."""
    return _member(text, "id")


def type_of(text: bytes) -> str | None:
    """The type that an event says it has."""
    return _member(text, "type")


def _member(text: bytes, name: str) -> str | None:
    try:
        value: Any = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str) else None
