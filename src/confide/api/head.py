"""The head of a request: httptools reads it, and what it leaves open about the body is decided here."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Final

import httptools

from confide.errors import ConfideError

MAX_HEADER_BYTES: Final = 64 * 1024

_LENGTH: Final = re.compile(rb"[0-9]{1,19}")


class BadHead(ConfideError):
    """No head of a request, or one that could be read in two ways."""


class Head:
    """One head that was read. Header names in lower case.

    Attributes:
        length: bytes of the body; None where it comes in chunks.
        expects: the client waits to be asked for the body.
        keep_alive: the connection can take another request.
    """

    __slots__ = ("complete", "expects", "headers", "keep_alive", "length", "method", "target", "version")

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.version = ""
        self.headers: list[tuple[bytes, bytes]] = []
        self.length: int | None = 0
        self.expects = False
        self.keep_alive = True
        self.complete = False

    # What httptools calls --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins; there is one in the bytes that the parser is given."""
        if self.complete:
            raise BadHead("more than one request")

    def on_url(self, url: bytes) -> None:
        """Part of the target."""
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The blank line."""
        self.complete = True

    def on_body(self, body: bytes) -> None:
        """Never: the parser isn't given any of it."""
        raise BadHead("a head that ends early")


def read_head(data: bytes) -> Head:
    """Read everything up to the blank line, that included.

    Raises:
        BadHead, httptools.HttpParserError: it is no head.
    """
    head = Head()
    parser = httptools.HttpRequestParser(head)
    with suppress(httptools.HttpParserUpgrade):  # nobody here changes protocols; that is answered as if not asked
        parser.feed_data(data)
    if not head.complete:
        raise BadHead("the head isn't whole")
    head.method = parser.get_method().decode("ascii")
    head.version = parser.get_http_version()
    if head.version not in ("1.0", "1.1"):
        raise BadHead("another version of HTTP")
    _frame(head)
    return head


def _frame(head: Head) -> None:
    """How long the body is, and what else the headers say about the connection."""
    lengths: list[bytes] = []
    codings: list[bytes] = []
    connection = b""
    for name, value in head.headers:
        if name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
        elif name == b"connection":
            connection += value.lower() + b","
        elif name == b"expect":
            head.expects = value.lower() == b"100-continue" and head.version == "1.1"
    head.keep_alive = head.version == "1.1" and b"close" not in connection
    if codings:
        if lengths or head.version != "1.1" or [coding.lower() for coding in codings] != [b"chunked"]:
            raise BadHead("a body whose end is unclear")
        head.length = None
    elif lengths:
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise BadHead("a length that is no number")
        head.length = int(lengths[0])
