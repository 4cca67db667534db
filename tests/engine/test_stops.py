"""Stop sequences: never shown, whatever pieces the text comes in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.engine.stops import StopFilter


def shown(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    stop_filter = StopFilter(stops)
    out = "".join(stop_filter.feed(piece) for piece in pieces)
    return out + stop_filter.rest(), stop_filter.hit


def naive(stops: list[str], text: str) -> tuple[str, bool]:
    """As a decoder would that looks after each character: the first sequence to be complete ends the text."""
    for end in range(len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))], True
    return text, False


@pytest.mark.parametrize(
    ("stops", "text", "left", "hit"),
    [
        ([], "abc", "abc", False),
        (["x"], "abc", "abc", False),
        (["b"], "abc", "a", True),
        (["c"], "abc", "ab", True),
        (["a"], "abc", "", True),
        (["abc"], "ababc", "ab", True),
        (["aab"], "aaab", "a", True),
        (["abcd"], "abc", "abc", False),
        (["abcd", "c"], "abc", "ab", True),
        (["abc", "b"], "abc", "a", True),
        (["\n\n"], "a\n\nb", "a", True),
        (["é"], "caféé", "caf", True),
        (["END", "STOP"], "xSTOPEND", "x", True),
    ],
)
def test_each_way_of_cutting(stops: list[str], text: str, left: str, hit: bool) -> None:
    assert naive(stops, text) == (left, hit)
    assert shown(stops, [text]) == (left, hit)
    assert shown(stops, list(text)) == (left, hit)


def test_what_can_not_be_a_stop_is_shown_at_once() -> None:
    stop_filter = StopFilter(["stop"])
    assert [stop_filter.feed(piece) for piece in ("a", "s", "t", "x", "st", "o", "op")] == [
        "a",
        "",
        "",
        "stx",
        "",
        "",
        "stoop"[:5],
    ]
    assert stop_filter.rest() == ""


def test_nothing_comes_after_a_hit() -> None:
    stop_filter = StopFilter(["x"])
    assert stop_filter.feed("axb") == "a"
    assert stop_filter.hit
    assert (stop_filter.feed("more"), stop_filter.rest()) == ("", "")


def test_rest_is_given_once() -> None:
    stop_filter = StopFilter(["xyz"])
    assert stop_filter.feed("axy") == "a"
    assert (stop_filter.rest(), stop_filter.rest()) == ("xy", "")


texts = st.text("ab\n", max_size=20)
stop_lists = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4)


@settings(max_examples=500, deadline=None)
@given(stop_lists, st.lists(texts, max_size=8))
def test_any_split_is_as_good_as_one_character_at_a_time(stops: list[str], pieces: list[str]) -> None:
    assert shown(stops, pieces) == naive(stops, "".join(pieces))


@settings(max_examples=500, deadline=None)
@given(stop_lists, st.lists(texts, max_size=8))
def test_at_no_moment_is_a_stop_shown_or_more_held_back_than_needed(stops: list[str], pieces: list[str]) -> None:
    stop_filter = StopFilter(stops)
    given_, out = "", ""
    for piece in pieces:
        given_, out = given_ + piece, out + stop_filter.feed(piece)
        assert not any(stop in out for stop in stops)
        if not stop_filter.hit:
            held = given_[len(out) :]
            assert given_ == out + held
            assert not held or any(stop.startswith(held) and len(held) < len(stop) for stop in stops)
