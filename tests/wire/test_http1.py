"""Bodies in chunks, and heads of answers: whole, in odd pieces and byte by byte; and what is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.wire.http1 import MOST_HEAD, BadHttp, ChunkReader, ResponseReader, parse_response_head

Pieces = Callable[[bytes], list[bytes]]


def cut(size: int) -> Pieces:
    return lambda data: [data[start : start + size] for start in range(0, len(data), size)]


SIZES = [cut(1), cut(2), cut(7), cut(1000)]


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]) + end


def unchunked(data: bytes, pieces: Pieces) -> tuple[bytes, ChunkReader]:
    reader = ChunkReader()
    body = b"".join(part for piece in pieces(data) for part in reader.feed(piece))
    return body, reader


# Chunks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", SIZES)
@pytest.mark.parametrize(
    "data",
    [
        chunked(b"hello", b" ", b"world"),
        b"5;name=value\r\nhello\r\n1 ;x\r\n \r\n5\r\nworld\r\n0;last\r\n\r\n",
        b"0005\r\nhello\r\n06\r\n world\r\n000\r\nX-Trailer: 1\r\nOther:\r\n\r\n",
        b"B\r\nhello world\r\n0\r\n\r\n",
    ],
)
def test_a_body_in_chunks(data: bytes, pieces: Pieces) -> None:
    body, reader = unchunked(data, pieces)
    assert (body, reader.done, reader.rest) == (b"hello world", True, b"")


@pytest.mark.parametrize("pieces", SIZES)
def test_what_looks_like_an_end_inside_a_chunk(pieces: Pieces) -> None:
    body, reader = unchunked(chunked(b"0\r\n\r\n", b"\r\n", b"5\r\nhello\r\n"), pieces)
    assert (body, reader.done) == (b"0\r\n\r\n\r\n5\r\nhello\r\n", True)


@pytest.mark.parametrize("end", range(len(chunked(b"hello", b"!"))))
def test_a_cut_body_is_never_done(end: int) -> None:
    _, reader = unchunked(chunked(b"hello", b"!")[:end], cut(3))
    assert not reader.done


def test_what_follows_is_given_back() -> None:
    _, reader = unchunked(chunked(b"x") + b"GET / HTTP/1.1\r\n", cut(1000))
    assert reader.rest == b"GET / HTTP/1.1\r\n"


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(1, 60))
def test_every_way_to_cut_gives_the_same(parts: list[bytes], size: int) -> None:
    body, reader = unchunked(chunked(*parts), cut(size))
    assert (body, reader.done) == (b"".join(parts), True)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 200, 254, 255, 256, 257, 4000, 4095, 4096, 70_000])
@pytest.mark.parametrize("write", ["{:x}", "{:X}", "0{:x}", "{:x};a=b"])
def test_a_chunk_that_is_whole_is_given_without_being_taken(size: int, write: str) -> None:
    body = b"x" * size
    data = write.format(size).encode() + b"\r\n" + body + b"\r\n"
    reader = ChunkReader()
    assert (reader.whole(data), reader.whole(data + data)) == (body, body + body)
    assert reader.feed(data) == [body], "nothing of it was taken before"


@pytest.mark.parametrize("size", [2, 14, 15, 16, 17, 20, 253, 254, 255, 256, 257, 258, 4094, 4095, 4096, 4097])
@pytest.mark.parametrize("more", [-2, -1, 1, 2])
def test_a_chunk_of_another_length_than_it_says_is_not_whole(size: int, more: int) -> None:
    data = b"%x\r\n%b\r\n" % (size, b"\r\n" * ((size + more) // 2) + b"\n" * ((size + more) % 2))
    assert ChunkReader().whole(data) == b""


@pytest.mark.parametrize("data", [b"", b"\r\n", b"-3\r", b"0\r\n", b"0\r\n\r\n"])
def test_too_little_for_a_chunk_is_not_whole(data: bytes) -> None:
    assert ChunkReader().whole(data) == b""


def test_what_is_under_way_is_not_whole() -> None:
    reader = ChunkReader()
    reader.feed(b"5\r\nab")
    assert reader.whole(b"3\r\nabc\r\n") == b""


@pytest.mark.parametrize("pieces", SIZES)
@pytest.mark.parametrize(
    "data",
    [
        b"\r\n0\r\n\r\n",
        b"x\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5_0\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5\nhello\n0\n\n",
        b"5 hello\r\n",
        b"1234567890abcdef0\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"4\r\nhello\r\n0\r\n\r\n",
        b"5;\x00\r\nhello\r\n",
        b"0\r\nno field\r\n\r\n",
        b"0\r\n: x\r\n\r\n",
        b"0\r\nA: 1\n\r\n",
        b"0\r\n folded: 1\r\n\r\n",
    ],
)
def test_what_are_no_chunks(data: bytes, pieces: Pieces) -> None:
    with pytest.raises(BadHttp):
        unchunked(data, pieces)


@pytest.mark.parametrize(
    "data", [b"5;" + b"x" * 5000, b"0\r\n" + b"A: 1\r\n" * (MOST_HEAD // 6 + 1), b"0\r\nA: " + b"x" * 5000]
)
def test_lines_without_an_end_are_bounded(data: bytes) -> None:
    with pytest.raises(BadHttp):
        unchunked(data, cut(100))


# Answers -------------------------------------------------------------------------------------------------------------


def answered(data: bytes, pieces: Pieces) -> tuple[bytes, ResponseReader]:
    reader = ResponseReader()
    body = b"".join(part for piece in pieces(data) for part in reader.feed(piece))
    return body, reader


@pytest.mark.parametrize("pieces", SIZES)
@pytest.mark.parametrize(
    ("data", "status", "body", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", True),
        (b"HTTP/1.1 200\r\ncontent-length:5 \r\nConnection: Keep-Alive\r\n\r\nhello", 200, b"hello", True),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, b"", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n" + chunked(b"hello"), 200, b"hello", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", 200, b"hello", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", False),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 \r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            200,
            b"ok",
            True,
        ),
    ],
)
def test_an_answer(data: bytes, status: int, body: bytes, reusable: bool, pieces: Pieces) -> None:
    found, reader = answered(data, pieces)
    assert reader.head is not None
    assert (reader.head.status, found, reader.done, reader.reusable) == (status, body, True, reusable)


@pytest.mark.parametrize("pieces", SIZES)
def test_an_answer_that_ends_with_its_connection(pieces: Pieces) -> None:
    body, reader = answered(b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\nhello", pieces)
    assert (body, reader.done, reader.reusable) == (b"hello", False, False)
    assert reader.eof()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
def test_a_cut_answer_is_not_whole(data: bytes) -> None:
    _, reader = answered(data, cut(4))
    assert not reader.eof()


@pytest.mark.parametrize("pieces", SIZES)
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName: a\nb: c\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"x"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!",
        b"HTTP/1.1 204 No Content\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"x") + b"x",
    ],
)
def test_what_is_no_answer(data: bytes, pieces: Pieces) -> None:
    with pytest.raises(BadHttp):
        answered(data, pieces)


def test_a_head_is_bounded() -> None:
    with pytest.raises(BadHttp):
        answered(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * MOST_HEAD, cut(1000))


def test_headers_that_are_repeated() -> None:
    head = parse_response_head(b"HTTP/1.1 200 OK\r\nVary: a\r\nVARY: b\r\nX: caf\xe9 \t\r\n")
    assert (head.status, head.headers) == (200, {"vary": "a, b", "x": "café"})
