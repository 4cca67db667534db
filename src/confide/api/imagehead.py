"""What an image says about itself in its first bytes: the real format and the size, with no pixel decoded.

Nothing here allocates by what a header claims, so the limits can be applied before a decoder sees the
bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Format = Literal["PNG", "JPEG", "GIF", "WEBP"]

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
GIF_MAGICS = (b"GIF87a", b"GIF89a")

# JPEG markers: a frame starts with C0 to CF, but for C4 (Huffman tables), C8 (reserved), CC (conditioning).
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
ARITHMETIC_MARKERS = frozenset(range(0xC9, 0xD0)) - {0xCC}
BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
START_OF_SCAN = 0xDA

# An encoder writes about ten scans; thousands of nearly empty ones are an attack on the decoder's time.
MAX_SCANS = 100


class HeaderError(ValueError):
    """The bytes end before the size, or contradict the format."""


@dataclass(frozen=True)
class Header:
    """Format and size as the file states them."""

    format: Format
    width: int
    height: int


def read_header(data: bytes) -> Header | None:
    """Format and size, or None when the bytes are none of the four formats.

    Raises:
        HeaderError: the format is known and its header is broken, or of a kind that is not decoded.
    """
    if data.startswith(PNG_MAGIC):
        return _sized("PNG", _png_size(data))
    if data.startswith(b"\xff\xd8\xff"):
        return _sized("JPEG", _jpeg_size(data))
    if data.startswith(GIF_MAGICS):
        return _sized("GIF", (_little(data, 6, 2), _little(data, 8, 2)))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _sized("WEBP", _webp_size(data))
    return None


def check_work(data: bytes, header: Header) -> None:
    """Refuse what makes a decoder work or allocate far beyond the size in the header.

    A PNG may hold a compressed stream of gigabytes behind a size of one pixel, and the engine's decoder
    unpacks all of it; a progressive JPEG may go over all its pixels any number of times.
    """
    if header.format == "PNG":
        _check_png_stream(data, header)
    elif header.format == "JPEG" and data.count(b"\xff\xda") > MAX_SCANS:
        raise HeaderError("too many scans")


def _sized(format_: Format, size: tuple[int, int]) -> Header:
    width, height = size
    if width < 1 or height < 1:
        raise HeaderError("no pixels")
    return Header(format_, width, height)


def _little(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(_exactly(data, at, length), "little")


def _big(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(_exactly(data, at, length), "big")


def _exactly(data: bytes, at: int, length: int) -> bytes:
    found = data[at : at + length]
    if len(found) < length:
        raise HeaderError("the header is cut")
    return found


def _png_size(data: bytes) -> tuple[int, int]:
    if _exactly(data, 12, 4) != b"IHDR":
        raise HeaderError("no IHDR")
    return _big(data, 16, 4), _big(data, 20, 4)


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = _exactly(data, 12, 4)
    if kind == b"VP8X":
        return 1 + _little(data, 24, 3), 1 + _little(data, 27, 3)
    if kind == b"VP8L":
        bits = _little(data, 21, 4)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF
    raise HeaderError("unknown WebP chunk")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while True:
        if _big(data, at, 1) != 0xFF:
            raise HeaderError("no marker")
        marker = _big(data, at + 1, 1)
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in BARE_MARKERS:
            at += 2
        elif marker in ARITHMETIC_MARKERS:
            raise HeaderError("arithmetic coding")  # no engine reads it
        elif marker in FRAME_MARKERS:
            return _big(data, at + 7, 2), _big(data, at + 5, 2)
        elif marker == START_OF_SCAN:
            raise HeaderError("no frame before the first scan")
        else:
            at += 2 + max(2, _big(data, at + 2, 2))


def _check_png_stream(data: bytes, header: Header) -> None:
    # At most 8 bytes a pixel, and a filter byte and a rounding for each row of each of the seven passes.
    left = 8 * header.width * header.height + 16 * (header.height + 8)
    inflate = zlib.decompressobj()
    for chunk in _png_data(data):
        pending = chunk
        while pending and not inflate.eof:
            try:
                left -= len(inflate.decompress(pending, 1 << 18))
            except zlib.error as broken:
                raise HeaderError("broken stream") from broken
            if left < 0:
                raise HeaderError("the stream is longer than the image")
            pending = inflate.unconsumed_tail


def _png_data(data: bytes) -> Iterator[bytes]:
    at = len(PNG_MAGIC)
    while at + 12 <= len(data):
        length, kind = _big(data, at, 4), data[at + 4 : at + 8]
        if kind == b"IEND":
            return
        if kind == b"IDAT":
            for piece in range(at + 8, at + 8 + length, 1 << 16):
                yield data[piece : min(piece + (1 << 16), at + 8 + length)]
        at += 12 + length
