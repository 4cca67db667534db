"""Text under the grammar of calls, read back into calls, in any pieces; anything else is an error and never shown."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.engine.grammar import CALL, ITEM_SEPARATOR, KEY_SEPARATOR, REPLY
from confide.engine.toolcalls import ToolCallReader
from confide.errors import EngineFailed
from confide.wire.answers import CallArguments, CallStarted, Delta, TextDelta

Call = tuple[str, str]


def written(calls: Iterable[Call]) -> str:
    """Calls as the grammar spells them."""
    made = (
        f'{{"name"{KEY_SEPARATOR}"{name}"{ITEM_SEPARATOR}"arguments"{KEY_SEPARATOR}{arguments}}}'
        for name, arguments in calls
    )
    return f"{CALL}[{ITEM_SEPARATOR.join(made)}]"


def reader() -> ToolCallReader:
    numbers = itertools.count()
    return ToolCallReader(3, lambda: f"call_{next(numbers)}")


def read(pieces: Iterable[str]) -> tuple[list[list[str]], str]:
    """The calls as ``[id, name, arguments]``, and the text."""
    calls: list[list[str]] = []
    text = ""
    one = reader()
    for piece in pieces:
        for delta in one.feed(piece):
            assert delta.index == 3
            match delta:
                case TextDelta():
                    text += delta.text
                case CallStarted():
                    assert delta.position == len(calls)
                    calls.append([delta.id, delta.name, ""])
                case CallArguments():
                    assert delta.position == len(calls) - 1
                    assert delta.text
                    calls[-1][2] += delta.text
                case _:
                    raise AssertionError(delta)
    one.close()
    assert one.calls == len(calls)
    return calls, text


def split(text: str, cuts: Iterable[int]) -> list[str]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(places)]


NASTY = json.dumps({"a": '}]{["\\" \\\\', "b": [[{}], []], "é": "\u2028 Call: ", "": None})
SETS: list[list[Call]] = [
    [("f", "{}")],
    [("f", '{"x": 1}'), ("g", "{}")],
    [("f", NASTY)],
    [("a-b_9", '{"s": "\\\\"}'), ("f", '{"s": "\\"}"}'), ("f", "{}")],
    [("x" * 64, '{"deep": ' + "[" * 200 + "]" * 200 + "}")],
    [("f", "{}")] * 8,
]


@pytest.mark.parametrize("calls", SETS)
def test_calls_whole_and_one_by_one(calls: list[Call]) -> None:
    text = written(calls)
    wanted = [[f"call_{i}", *call] for i, call in enumerate(calls)]
    assert read([text]) == (wanted, "")
    assert read(text) == (wanted, "")
    assert read(["", *text, ""]) == (wanted, "")


@pytest.mark.parametrize("text", ["hello", "x", "Call: [", "Reply: ", '{"a": 1}', "\n", "𝄞"])
def test_replies_whole_and_one_by_one(text: str) -> None:
    assert read([REPLY + text]) == ([], text)
    assert read(REPLY + text) == ([], text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('"\\{}[],: aé\n', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('"\\}] a', max_size=3), inner, max_size=3),
    max_leaves=8,
)
call_lists = st.lists(
    st.tuples(
        st.sampled_from(["f", "get_weather", "a-B_9"]),
        st.dictionaries(st.text('"\\}a', max_size=3), json_values, max_size=3).map(json.dumps),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(call_lists, st.lists(st.integers(0, 10_000), max_size=12))
def test_any_calls_in_any_pieces(calls: list[Call], cuts: list[int]) -> None:
    got, text = read(split(written(calls), cuts))
    assert [tuple(call[1:]) for call in got] == calls
    assert text == ""


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40), st.lists(st.integers(0, 100), max_size=6))
def test_any_reply_in_any_pieces(said: str, cuts: list[int]) -> None:
    assert read(split(REPLY + said, cuts))[1] == said


def test_calls_are_told_as_soon_as_they_are_known() -> None:
    one = reader()
    opening = f'{CALL}[{{"name": "f", "arguments": '
    assert list(one.feed(opening)) == []
    assert list(one.feed("{")) == [CallStarted(3, 0, "call_0", "f"), CallArguments(3, 0, "{")]
    assert list(one.feed('"a": "b')) == [CallArguments(3, 0, '"a": "b')]
    assert list(one.feed('"}}, {"name"')) == [CallArguments(3, 0, '"}')]


def test_logprobs_stay_with_the_reply() -> None:
    one = reader()
    token: dict[str, Any] = {"token": "x"}
    assert list(one.feed("Repl", (token,))) == []
    assert not one.replying
    assert list(one.feed("y: ", (token,))) == []
    assert one.replying
    assert list(one.feed("x", (token,))) == [TextDelta(3, "x", (token,))]


# Broken text ---------------------------------------------------------------------------------------------------------

GOOD = written([("f", '{"x": "y"}'), ("g", "{}")])


def outcome(pieces: Iterable[str]) -> tuple[list[Delta], bool]:
    """What was passed on, and whether the reader found the text broken."""
    one, out = reader(), list[Delta]()
    try:
        for piece in pieces:
            out += one.feed(piece)
        one.close()
    except EngineFailed:
        return out, True
    return out, False


@pytest.mark.parametrize("end", range(len(GOOD)))
def test_a_cut_anywhere_is_found_at_the_end(end: int) -> None:
    assert outcome([GOOD[:end]])[1]
    assert outcome(GOOD[:end])[1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "call: []",
        "Call:[]",
        "Hello",
        "Rcall",
        "Call: []",
        "Call: {}",
        "Call: [[",
        "Call: [,",
        "Call: [ {",
        "Call: ]",
        'Call: [{"arguments": {}}]',
        'Call: [{"name": "f"}]',
        'Call: [{"name": f, "arguments": {}}]',
        'Call: [{"name": "", "arguments": {}}]',
        'Call: [{"name": "a b", "arguments": {}}]',
        'Call: [{"name": "a\\"b", "arguments": {}}]',
        'Call: [{"name": "' + "x" * 65 + '", "arguments": {}}]',
        'Call: [{"name": "' + "x" * 100_000,
        'Call: [{"name":"f","arguments":{}}]',
        'Call: [{"name": "f", "arguments": []}]',
        'Call: [{"name": "f", "arguments": "{}"}]',
        'Call: [{"name": "f", "name": "g", "arguments": {}}]',
        'Call: [{"name": "f", "arguments": {}, "x": 1}]',
        'Call: [{"name": "f", "arguments": {} }]',
        'Call: [{"name": "f", "arguments": {}}{"name": "g", "arguments": {}}]',
        'Call: [{"name": "f", "arguments": {}}, ]',
        'Call: [{"name": "f", "arguments": {}},{"name": "g", "arguments": {}}]',
        GOOD + "]",
        GOOD + " ",
        GOOD + "x",
        GOOD + GOOD,
    ],
)
def test_broken_text_is_found_in_any_pieces(text: str) -> None:
    whole, was_broken = outcome([text])
    assert was_broken
    singly, was_broken = outcome(text)
    assert was_broken
    for deltas in (whole, singly):
        assert all(delta.name in ("f", "g") for delta in deltas if isinstance(delta, CallStarted))
        assert not any(isinstance(delta, TextDelta) for delta in deltas)
        assert {delta.text for delta in whole if isinstance(delta, CallArguments)} <= {"{}", '{"x": "y"}'}


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, len(GOOD) - 1),
    st.integers(0, 2),
    st.text('{}[]",: \\fxCallReply', max_size=3),
    st.lists(st.integers(0, 1000), max_size=5),
)
def test_damage_outside_of_arguments_is_found_or_is_no_damage(at: int, gone: int, put: str, cuts: list[int]) -> None:
    """Inside of arguments it is JSON's and the schema's business; the reader need only keep its place."""
    text = GOOD[:at] + put + GOOD[at + gone :]
    _, was_broken = outcome(split(text, cuts))
    if was_broken or text.startswith(REPLY):
        return
    calls, _ = read([text])
    assert written([(name, arguments) for _, name, arguments in calls]) == text
