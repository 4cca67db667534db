"""Server-sent events out of bytes that arrive in pieces of any size.

Source: WHATWG HTML, section 9.2. Lines end with LF or CRLF; a bare CR, which no engine sends, is part of its line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

LONGEST: Final = 64 * 1024 * 1024
"""The most bytes of one event; nobody may fill the memory with an event that never ends."""

_KNOWN: Final = (b"event", b"id", b"retry")


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it was read, its data if it has some, and its other lines."""

    raw: bytes
    data: bytes | None
    others: tuple[bytes, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether this is OpenAI's end of a stream."""
        return self.data is not None and self.data.strip() == b"[DONE]"

    def with_data(self, data: bytes) -> bytes:
        """The event with other data, which has no line breaks."""
        return b"".join([*(line + b"\n" for line in self.others), b"data: ", data, b"\n\n"])


def read_event(raw: bytes) -> Event:
    """The lines of one event.

    Raises:
        ValueError: a line that events don't have.
    """
    data: list[bytes] = []
    others: list[bytes] = []
    for line in raw.replace(b"\r\n", b"\n").split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif line.startswith(b":") or name in _KNOWN:
            others.append(line)
        elif line:
            raise ValueError("a line that events don't have")
    return Event(raw, b"\n".join(data) if data else None, tuple(others))


class EventReader:
    """Bytes in, whole events out."""

    def __init__(self, longest: int = LONGEST) -> None:
        self._buffer = bytearray()
        self._line = 0  # where the line that isn't complete begins
        self._seen = 0  # up to here no line end is left to be found
        self._longest = longest

    @property
    def pending(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take some bytes, and give the events that they complete.

        Raises:
            ValueError: an event that is too long, or no event.
        """
        self._buffer += data
        for raw in self._whole():
            yield read_event(raw)
        if len(self._buffer) > self._longest:
            raise ValueError("an event without an end")

    def _whole(self) -> list[bytes]:
        buffer, begin, found = self._buffer, 0, []
        while (end := buffer.find(b"\n", self._seen)) >= 0:
            blank = end - self._line == 0 or (end - self._line == 1 and buffer[self._line] == 13)
            self._line = self._seen = end + 1
            if blank:
                found.append(bytes(buffer[begin : end + 1]))
                begin = end + 1
        del buffer[:begin]
        self._line -= begin
        self._seen = len(buffer)
        return found
