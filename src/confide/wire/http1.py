"""HTTP/1.1 messages without I/O: bodies in chunks, and answers. Bytes in, values out; whatever is unclear is refused.

Our own, since what is read here passes on every request and every event of a stream: a parser with callbacks costs
three times as much for each. Source: RFC 9112. Not taken, as no proper server writes it: a bare LF, a folded header,
blanks before a colon, two lengths, a length beside a transfer coding, any coding but ``chunked``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from confide.errors import ConfideError

MOST_HEAD: Final = 64 * 1024
"""The most bytes of a message before its body, and of what follows a body in chunks."""
_MOST_LINE: Final = 4096

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELD: Final = re.compile(_TOKEN + rb":[^\r\n\x00]*\r\n")
_HEAD: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n\x00]*)?\r\n((?:" + _TOKEN + rb":[^\r\n\x00]*+\r\n)*+)"
)
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\r\n\x00]*)?\r\n")
_TWO_DIGITS: Final = 0xFF + 6
"""The length of the longest chunk, all of it, whose size is written with two digits."""
_LENGTH: Final = re.compile(r"[0-9]{1,15}")


class BadHttp(ConfideError):
    """Bytes that are no HTTP/1.1, or that could be read in two ways."""


class ChunkReader:
    """A body in chunks. ``done`` once its end was read; ``rest`` is then what came after it."""

    __slots__ = ("_between", "_left", "_pending", "_trailer", "done", "rest")

    def __init__(self) -> None:
        self._left = 0
        self._between = False  # the line end after a chunk is still to come
        self._trailer = 0  # bytes read after the last chunk, once that was read
        self._pending = b""
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take some bytes, and give those of the body.

        Raises:
            BadHttp: no chunks.
        """
        out: list[bytes] = []
        if self._pending:
            data, self._pending = self._pending + data, b""
        at = 0 if self._left or self._between or self._trailer else _whole_chunks(data, out)
        while at < len(data) and not self.done:
            after = self._step(data, at, out)
            if after == at:
                if len(data) - at > _MOST_LINE:
                    raise BadHttp("a line between chunks that is too long")
                self._pending = data[at:]
                break
            at = after
        if self.done:
            self.rest += data[at:]
        return out

    def whole(self, data: bytes) -> bytes:
        """The body's part of some bytes, if they are whole chunks; else nothing. They still count as not taken."""
        if self._left or self._between or self._trailer or self._pending:
            return b""
        size = len(data) - 6 if len(data) <= _TWO_DIGITS else len(data) - 7
        line = b"%x\r\n" % size
        if len(line) + size + 2 == len(data) and data.startswith(line) and data.endswith(b"\r\n"):
            return data[len(line) : -2]  # a single one, written as most write it
        out: list[bytes] = []
        if _whole_chunks(data, out) < len(data):
            return b""
        return out[0] if len(out) == 1 else b"".join(out)

    def _step(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Take one part of a chunk; gives where the next begins, or the same place where more must come first."""
        if self._left:
            piece = data[at : at + self._left]
            self._left -= len(piece)
            self._between = self._left == 0
            out.append(piece)
            return at + len(piece)
        if self._between:
            if not b"\r\n".startswith(data[at : at + 2]):
                raise BadHttp("a chunk that is longer than it says")
            self._between = len(data) - at < 2
            return at if self._between else at + 2
        if self._trailer:
            return self._trail(data, at)
        found = _SIZE.match(data, at)
        if found is None:
            if b"\n" in data[at : at + _MOST_LINE]:
                raise BadHttp("a chunk without a size")
            return at
        self._left = int(found[1], 16)
        self._trailer = 0 if self._left else 1
        return found.end()

    def _trail(self, data: bytes, at: int) -> int:
        """Fields after the last chunk mean nothing here; the blank line ends the body."""
        end = data.find(b"\n", at) + 1
        if not end:
            return at
        line = data[at:end]
        self.done = line == b"\r\n"
        self._trailer += len(line)
        if not self.done and not _FIELD.fullmatch(line):
            raise BadHttp("a line after a body that is no field")
        if self._trailer > MOST_HEAD:
            raise BadHttp("too much after a body")
        return end


def _whole_chunks(data: bytes, out: list[bytes]) -> int:
    """Take chunks that are whole: a stream has few others, and to take one apart costs three times as much. Gives the
    place of the first that isn't."""
    at = 0
    while (found := _SIZE.match(data, at)) is not None:
        begin = found.end()
        end = begin + int(found[1], 16)
        if end == begin or data[end : end + 2] != b"\r\n":
            break
        out.append(data[begin:end])
        at = end + 2
    return at


# Answers -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status, and headers by lower-case name; of one that is repeated, the values with commas between."""

    version: int
    status: int
    headers: Mapping[str, str]


def parse_response_head(data: bytes) -> ResponseHead:
    """Read everything before the blank line, the last line's end included.

    Raises:
        BadHttp: it is no head of an answer.
    """
    head = _HEAD.fullmatch(data)
    if head is None:
        raise BadHttp("no status line, or a line after it that is no header")
    headers: dict[str, str] = {}
    for line in head[3].decode("latin-1").split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return ResponseHead(int(head[1]), int(head[2]), headers)


class ResponseReader:
    """One answer to a request that isn't HEAD: ``head`` once it was read, ``done`` once the body was.

    ``reusable`` says whether the connection can take another request once it is done; ``chunks`` reads the body where
    it comes in chunks.
    """

    __slots__ = ("_begun", "_left", "chunks", "done", "head", "reusable")

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.done = False
        self.reusable = False
        self._begun = b""
        self.chunks: ChunkReader | None = None
        self._left: int | None = None

    @property
    def begun(self) -> bool:
        """Whether any byte has come."""
        return bool(self._begun) or self.head is not None

    def feed(self, data: bytes) -> list[bytes]:
        """Take some bytes, and give those of the body.

        Raises:
            BadHttp: no answer, or bytes after it.
        """
        if self.chunks is not None and not self.done:
            return self._chunked(self.chunks, data)
        while self.head is None:
            data = self._begun + data
            end = data.find(b"\r\n\r\n")
            if end < 0 or end > MOST_HEAD:
                if len(data) > MOST_HEAD:
                    raise BadHttp("too long a head")
                self._begun = data
                return []
            head, data, self._begun = parse_response_head(data[: end + 2]), data[end + 4 :], b""
            if head.status >= 200:
                self._begin(head)
            elif head.status == 101:
                raise BadHttp("a change of protocol that nobody asked for")
            elif not data:
                return []
        return self._body(data) if data else []

    def _begin(self, head: ResponseHead) -> None:
        self.head = head
        headers = head.headers
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        connection = headers.get("connection", "" if head.version else "close").lower()
        self.reusable = head.version == 1 and "close" not in connection
        if coding is not None:
            if coding.lower() != "chunked" or length is not None or not head.version:
                raise BadHttp("a body whose end is unclear")
            self.chunks = ChunkReader()
        elif head.status in (204, 304):
            self.done = True
        elif length is not None:
            if not _LENGTH.fullmatch(length):
                raise BadHttp("a length that is no number")
            self._left = int(length)
            self.done = self._left == 0
        else:
            self.reusable = False  # the end of the connection is the end of the body

    def _body(self, data: bytes) -> list[bytes]:
        if self.done:
            raise BadHttp("bytes after an answer")
        if self.chunks is not None:
            return self._chunked(self.chunks, data)
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise BadHttp("bytes after an answer")
            self.done = self._left == 0
        return [data]

    def _chunked(self, chunks: ChunkReader, data: bytes) -> list[bytes]:
        pieces = chunks.feed(data)
        self.done = chunks.done
        if chunks.rest:
            raise BadHttp("bytes after an answer")
        return pieces

    def eof(self) -> bool:
        """The connection has ended; says whether the answer is whole."""
        if self.head is not None and self.chunks is None and self._left is None:
            self.done = True
        return self.done
