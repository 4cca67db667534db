"""Reading fixed layouts of bytes so that every input gives a value or one exception.

A :class:`Reader` never reads past its end; a :data:`Layout` names consecutive fields and is read and written by the
same table, so that what was parsed is built again byte for byte. Numbers are little-endian.
"""

from __future__ import annotations

from typing import Any

from confide.errors import ConfideError

Layout = tuple[tuple[str, int, type[bytes] | type[int]], ...]
"""Name, size in bytes and kind of consecutive fields."""


class MalformedEvidence(ConfideError):
    """Bytes or text that is not what it claims to be; the text names the field and the place."""


class Reader:
    """A cursor over bytes. ``what`` names them in errors."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self.what = what

    def take(self, size: int, field: str) -> bytes:
        """The next ``size`` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise self.wrong(f"{field} needs {size} bytes and {len(self._data) - self._at} are left")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int, field: str) -> int:
        """The next ``size`` bytes as an unsigned number."""
        return int.from_bytes(self.take(size, field), "little")

    def part(self, size: int, field: str) -> Reader:
        """A reader of only the next ``size`` bytes."""
        return Reader(self.take(size, field), f"{self.what}, {field}")

    def fields(self, layout: Layout) -> dict[str, Any]:
        """The fields of a layout by name."""
        return {name: self.number(size, name) if kind is int else self.take(size, name) for name, size, kind in layout}

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(len(self._data) - self._at, "the rest")

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._at

    def end(self) -> None:
        """Nothing may be left."""
        if self.left:
            raise self.wrong(f"{self.left} bytes too many")

    def wrong(self, reason: str) -> MalformedEvidence:
        """The exception for what was just read."""
        return MalformedEvidence(f"{self.what}, offset {self._at}: {reason}")


def build(value: object, layout: Layout) -> bytes:
    """The bytes of a value whose attributes are the fields of a layout."""
    return b"".join(_field(name, getattr(value, name), size) for name, size, _ in layout)


def _field(name: str, value: bytes | int, size: int) -> bytes:
    data = value.to_bytes(size, "little") if isinstance(value, int) else value
    if len(data) != size:
        raise ValueError(f"{name} is {size} bytes long, not {len(data)}")
    return data


def from_hex(text: str, what: str) -> bytes:
    """Hexadecimal digits, with or without ``0x``; no spaces."""
    digits = text.removeprefix("0x")
    try:
        data = bytes.fromhex(digits)
    except ValueError:
        raise MalformedEvidence(f"{what} is not hexadecimal") from None
    if len(data) * 2 != len(digits):
        raise MalformedEvidence(f"{what} is not hexadecimal")
    return data
