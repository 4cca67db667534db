"""Which replica a conversation prefers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.route.affinity import MOST_BYTES, affinity_key, ranking
from tests.route.fakes import SECRET, chat

NAMES = [f"http://10.0.0.{number}:8000" for number in range(5)]

TURN = ({"role": "assistant", "content": "hi"}, {"role": "user", "content": "and then?"})
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def key(text: str = "hello", **members: Any) -> bytes:
    return affinity_key(SECRET, chat(text, **members))


# The start ------------------------------------------------------------------------------------------------------------


def test_all_turns_of_a_conversation_have_one_key() -> None:
    assert key() == key(more=TURN) == key(more=TURN * 3)


def test_how_the_answer_is_made_makes_no_difference() -> None:
    assert key() == key(temperature=0.5, max_tokens=7, stream=True, user="somebody", response_format={"type": "text"})


@pytest.mark.parametrize(
    "other",
    [
        {"text": "hello!"},
        {"tenant": "key_2"},
        {"tools": [TOOL]},
        {"functions": [TOOL["function"]]},
        {"messages": [{"role": "system", "content": "hello"}]},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:hello"}}]}]},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_start_another_key(other: dict[str, Any]) -> None:
    assert key(**other) != key()


def test_the_secret_makes_the_key() -> None:
    assert affinity_key(SECRET[::-1], chat()) != affinity_key(SECRET, chat())


def test_texts_and_parts_count_alike_and_do_not_run_into_each_other() -> None:
    def parts(*texts: str) -> bytes:
        return key(messages=[{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}])

    assert parts("hello") == key()
    assert len({parts("ab", "c"), parts("a", "bc"), parts("abc"), parts("abc", "")}) == 4


def test_an_assistants_refusal_before_the_first_user() -> None:
    said = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    assert key(messages=[said, {"role": "user", "content": "hello"}]) != key()


# Its bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("letter", ["a", "é", "𝄞"])
def test_what_comes_after_the_bound_makes_no_difference(letter: str) -> None:
    long = letter * MOST_BYTES
    assert key(long) == key(long + "x") != key("x" + long)


def test_so_many_empty_parts_are_bounded_too() -> None:
    parts = [{"type": "text", "text": ""}] * (MOST_BYTES // 4 + 1)
    assert key(messages=[{"role": "user", "content": parts}]) == key(messages=[{"role": "user", "content": parts * 2}])


def test_long_tools_leave_the_conversation_its_part() -> None:
    tools = [{"type": "function", "function": {"name": "look", "description": "x" * 2 * MOST_BYTES}}]
    assert key("one", tools=tools) != key("other", tools=tools)


# Rendezvous -----------------------------------------------------------------------------------------------------------


def test_conversations_spread_over_the_replicas() -> None:
    first = Counter(ranking(key(f"conversation {number}"), NAMES)[0] for number in range(1000))
    assert all(150 < first[index] < 250 for index in range(5))  # deterministic: the secret is fixed


def test_tenants_with_one_prompt_spread_too() -> None:
    first = Counter(ranking(key(tenant=f"key_{number}"), NAMES)[0] for number in range(1000))
    assert all(150 < first[index] < 250 for index in range(5))


@given(st.binary(min_size=32, max_size=32), st.permutations(NAMES))
def test_the_order_of_the_replicas_makes_no_difference(some: bytes, names: list[str]) -> None:
    assert [names[index] for index in ranking(some, names)] == [NAMES[index] for index in ranking(some, NAMES)]


@given(st.binary(min_size=32, max_size=32), st.integers(0, 4))
def test_a_replica_that_goes_moves_only_its_own(some: bytes, gone: int) -> None:
    left = [name for name in NAMES if name != NAMES[gone]]
    before = [NAMES[index] for index in ranking(some, NAMES)]
    assert [left[index] for index in ranking(some, left)] == [name for name in before if name != NAMES[gone]]


def test_no_prompt_breaks_it() -> None:
    """What was parsed can be hashed."""
    odd = "\x00\u2028\U0010ffff"
    huge = {"type": "function", "function": {"name": "f", "parameters": {"n": 10**40, "x": 1e300, "s": odd}}}
    assert len(key(odd, tenant="\ud800", tools=[huge])) == 32
    assert len(key(messages=[{"role": "user", "content": [{"type": "file", "file": {}}]}])) == 32
