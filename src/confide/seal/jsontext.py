"""JSON text to values and back, in the compact form that receipts hash: order kept, no spaces, UTF-8."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from confide.seal.errors import BadJson

MOST_VALUES: Final = 1_000_000
"""The most brackets, braces and commas in one text: each costs far more memory than its one byte."""


class TooWide(BadJson):
    """More values than may be read."""


_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()


def decode(text: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        BadJson: it is none, or one that is too deep or too wide.
    """
    data = text.encode() if isinstance(text, str) else text
    if sum(data.count(mark) for mark in (b"[", b"{", b",")) > MOST_VALUES:
        raise TooWide("too many values")
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise BadJson("not JSON") from None


def decode_object(text: bytes | str) -> dict[str, Any]:
    """The value of a JSON text that must be an object.

    Raises:
        BadJson: see :func:`decode`, or another type.
    """
    value = decode(text)
    if not isinstance(value, dict):
        raise BadJson("not an object")
    return value


def encode(value: object) -> bytes:
    """Compact JSON.

    Raises:
        BadJson: too deep.
    """
    try:
        return _encoder.encode(value)
    except RecursionError:
        raise BadJson("too deep") from None


def array_in(text: str) -> list[Any] | None:
    """The array that a text is the JSON of, or None for any other text.

    Raises:
        TooWide: an array, perhaps, but not one to be read.
    """
    if not text.lstrip(" \t\r\n").startswith("["):
        return None
    try:
        value = decode(text)
    except TooWide:
        raise
    except BadJson:
        return None
    return value if isinstance(value, list) else None
