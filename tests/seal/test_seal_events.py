"""Events out of bytes in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.seal.helpers import pieces

from confide.seal.events import EventReader, read_event

lines = st.sampled_from(
    [b"data: a", b"data:b", b"data", b"data:  c", b": comment", b":", b"event: e", b"id: 1", b"retry: 2", b"data: \r"]
)
events = st.lists(st.lists(lines, min_size=1, max_size=4), max_size=5)


@given(events, st.sampled_from([b"\n", b"\r\n"]), st.integers(0, 9))
def test_pieces_make_no_difference(parts: list[list[bytes]], end: bytes, size: int) -> None:
    wire = b"".join(b"".join(line + end for line in event) + end for event in parts)
    whole = list(EventReader().feed(wire))
    reader = EventReader()
    assert [event for piece in pieces(wire, size) for event in reader.feed(piece)] == whole
    assert b"".join(event.raw for event in whole) == wire
    assert len(whole) == len(parts)
    assert not reader.pending


def test_what_an_event_says() -> None:
    event = read_event(b"event: e\r\ndata: a\r\ndata:b\r\n\r\n")
    assert (event.data, event.others) == (b"a\nb", (b"event: e",))
    assert event.with_data(b"{}") == b"event: e\ndata: {}\n\n"
    assert read_event(b": note\n\n").data is None
    assert read_event(b"data: [DONE] \n\n").is_done
    assert not read_event(b"data: [DONE]x\n\n").is_done
    assert not read_event(b": [DONE]\n\n").is_done


@pytest.mark.parametrize("line", [b"date: x", b"datas: x", b" data: x", b"\xef\xbb\xbfdata: x", b"{}", b"data : x"])
def test_lines_that_events_do_not_have(line: bytes) -> None:
    with pytest.raises(ValueError, match="don't have"):
        read_event(line + b"\n\n")


def test_blank_lines_between_events() -> None:
    reader = EventReader()
    assert [event.data for event in reader.feed(b"\n\ndata: a\n\n\ndata: b\n\n\r\n")] == [
        None,
        None,
        b"a",
        None,
        b"b",
        None,
    ]
    assert not reader.pending


def test_an_event_that_never_ends() -> None:
    reader = EventReader(longest=100)
    list(reader.feed(b"data: " + b"x" * 94))
    assert reader.pending
    with pytest.raises(ValueError, match="without an end"):
        list(reader.feed(b"x"))
