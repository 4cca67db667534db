"""The short way for chunks that differ in their text only gives what the long way gives, however the bytes arrive."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.remote.asking import chat_call

from confide.engine.remote.dialect import VLLM
from confide.engine.remote.mender import StreamMender
from confide.errors import ApiError
from confide.wire.lookalike import Lookalike

CALL = chat_call(stream=True)
HEAD = {"id": CALL.id, "object": "chat.completion.chunk", "created": 1_760_000_000, "model": CALL.model}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    value = {**HEAD, "choices": [choice], **more}
    return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


FIRST, LAST = chunk({"role": "assistant", "content": ""}), chunk({}, "stop") + b"data: [DONE]\n\n"


class Long(Lookalike):
    """Never the short way."""

    __slots__ = ()

    def texts(self, data: bytes) -> list[str]:
        return []


def both(pieces: list[bytes]) -> tuple[bytes, int, str | None]:
    results = []
    for kind in (Lookalike, Long):
        mender, out = StreamMender(CALL, VLLM), b""
        mender._lookalike = kind()
        failed: str | None = None
        try:
            for piece in pieces:
                out += b"".join(mender.feed(piece))
            mender.end()
        except ApiError as error:
            failed = str(error)
        results.append((out, mender.usage.completion, failed))
    assert results[0] == results[1]
    return results[0]


TEXTS = st.text(min_size=1, max_size=12) | st.sampled_from(['"', "\\", '","', '\\","', "\x00", "}]}", "🦀", "\u2028"])


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=12), st.integers(1, 400))
def test_both_ways_give_the_same(texts: list[str], size: int) -> None:
    whole = FIRST + b"".join(chunk({"content": text}) for text in texts) + LAST
    out, count, failed = both([whole[start : start + size] for start in range(0, len(whole), size)])
    assert (out, count, failed) == (whole.removesuffix(b"data: [DONE]\n\n"), len(texts), None)


@settings(deadline=None)
@given(st.lists(st.lists(TEXTS, min_size=1, max_size=4), max_size=6))
def test_several_events_in_one_piece(groups: list[list[str]]) -> None:
    pieces = [b"".join(chunk({"content": text}) for text in texts) for texts in groups]
    out, count, failed = both([FIRST, *pieces, LAST])
    assert (count, failed) == (sum(map(len, groups)), None)
    assert out == FIRST + b"".join(pieces) + LAST.removesuffix(b"data: [DONE]\n\n")


SEEN = chunk({"content": "seen"})


@pytest.mark.parametrize(
    "odd",
    [
        SEEN.replace(b"seen", b""),
        SEEN.replace(b"seen", b'se"en'),
        SEEN.replace(b"seen", b"se\\en"),
        SEEN.replace(b"seen", b"se\nen"),
        SEEN.replace(b"seen", b"se\x01en"),
        SEEN.replace(b"seen", b"\xff"),
        SEEN.replace(b"seen", b"\\ud800"),
        SEEN.replace(b'"seen"', b'"a","refusal":"b"'),
        SEEN.replace(b'"seen"', b'"a","content":"b"'),
        SEEN.replace(b'"seen"', b"null"),
        SEEN.replace(b"\n\n", b"\r\n\r\n"),
        SEEN[:-1],
        SEEN + b"\n",
        b": comment\n\n" + SEEN,
        SEEN.replace(b'"index":0', b'"index":7'),
        SEEN.replace(CALL.id.encode(), b"another"),
        SEEN[:-2] + SEEN,
        chunk({"content": "x"}, usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}),
        chunk({"content": "x", "role": "assistant"}),
        chunk({"content": "x"}, "length"),
        b'data: {"error":{"message":"out of memory"}}\n\n',
    ],
)
def test_what_only_looks_alike_takes_the_long_way(odd: bytes) -> None:
    both([FIRST, SEEN, odd, SEEN, LAST])


def test_the_short_way_is_taken() -> None:
    look = Lookalike()
    assert look.texts(SEEN) == []
    look.learn(SEEN, "seen")
    assert [look.texts(SEEN * times) for times in (1, 2, 9)] == [["seen"] * times for times in (1, 2, 9)]
    assert look.texts(SEEN[:-1]) == look.texts(b"") == look.texts(FIRST) == []


@pytest.mark.parametrize(
    "raw", [b"data: {}\n\n", SEEN.replace(b"seen", b"\\u0073een"), SEEN.replace(b'"logprobs"', b'"content":"x"')]
)
def test_what_can_not_be_learnt(raw: bytes) -> None:
    look = Lookalike()
    look.learn(raw, "seen")
    assert look.texts(raw) == []
