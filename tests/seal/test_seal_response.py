"""Sealing the answers that our engines give: nothing readable leaves, whatever they contain."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.seal.helpers import PROTOCOLS, exchange, pieces
from tests.seal.opinion import K, X

from confide.errors import ApiError, EngineFailed
from confide.seal.client import ResponseOpener
from confide.seal.ecies import Opener
from confide.seal.errors import BadBlob, Forged, SealingFailed, Truncated
from confide.seal.service import OpenedRequest, ResponseSealer
from confide.wire.answers import (
    AnswerHead,
    CallArguments,
    CallStarted,
    ChunkWriter,
    Collector,
    Delta,
    Finished,
    ReasoningDelta,
    TextDelta,
    Usage,
    error_event,
)
from confide.wire.sse import DONE, KEEP_ALIVE, event

HEAD = AnswerHead(id="chatcmpl-1", created=1, model="demo", fingerprint="fp")
LOGPROBS = ({"token": "SECRET", "logprob": -0.1, "bytes": [83], "top_logprobs": []},)
DELTAS: list[Delta] = [
    ReasoningDelta(0, "SECRET thought"),
    TextDelta(0, "SECRET one", LOGPROBS),
    TextDelta(0, " and\u2028 two é"),
    CallStarted(0, 0, "call_1", "look"),
    CallArguments(0, 0, '{"a":1}'),
    Finished(0, "tool_calls"),
]
both = pytest.mark.parametrize(("algo", "version"), PROTOCOLS)


def stream() -> list[bytes]:
    """What the embedded engine writes."""
    writer = ChunkWriter(HEAD)
    return [writer.role(0), *map(writer.delta, DELTAS), writer.usage(Usage(3, 4))]


def body() -> bytes:
    collector = Collector(HEAD, 1)
    for delta in DELTAS:
        collector.add(delta)
    return collector.body(Usage(3, 4))


def objects(text: bytes) -> list[dict[str, Any]]:
    lines = [line[6:] for line in text.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def sealer(algo: str, version: str = "2", path: str = "/v1/chat/completions", body: object = None) -> ResponseSealer:
    return exchange(algo, version, path, body)[0].sealer()


# There and back ------------------------------------------------------------------------------------------------------


@both
def test_a_body(algo: str, version: str) -> None:
    request, opener = exchange(algo, version)
    sealed = request.sealer().whole(body())
    assert b"SECRET" not in sealed
    assert json.loads(opener.whole(sealed)) == json.loads(body())
    message = json.loads(sealed)["choices"][0]["message"]
    assert {name for name, value in message.items() if value and name not in ("role", "tool_calls")} == {
        *("content", "reasoning", "reasoning_content"),
    }


@both
@pytest.mark.parametrize("size", [0, 1, 7, 1000])
def test_a_stream(algo: str, version: str, size: int) -> None:
    request, opener = exchange(algo, version)
    sealer = request.sealer()
    sealed = [sealer.feed(frame) for frame in [*stream(), KEEP_ALIVE, DONE]]
    sealer.end()
    wire = b"".join(sealed)
    assert b"SECRET" not in wire
    opened = b"".join([opener.feed(piece) for piece in pieces(wire, size)])
    opener.end()
    expected = objects(b"".join(stream()))
    del expected[0]["choices"][0]["delta"]["content"]  # it was empty
    assert objects(opened) == expected
    assert opened.endswith(KEEP_ALIVE + DONE)


@both
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_engine_that_writes_in_pieces(algo: str, version: str, size: int) -> None:
    request, opener = exchange(algo, version)
    sealer = request.sealer()
    wire = b"".join([sealer.feed(piece) for piece in pieces(b"".join(stream()), size)])
    sealer.end()
    assert len(objects(opener.feed(wire + DONE))) == len(stream())
    opener.end()


@both
def test_frames_without_content_are_unchanged(algo: str, version: str) -> None:
    frames = stream()
    plain = [frames[4], frames[5], frames[6], frames[7], KEEP_ALIVE, error_event(EngineFailed("it broke")), DONE]
    seal = sealer(algo, version)
    assert [seal.feed(frame) for frame in plain] == plain


def test_one_pair_per_answer_where_the_protocol_allows_it() -> None:
    for algo, version in PROTOCOLS:
        head = 64 if algo in (X, "ed25519") else 130
        seal = sealer(algo, version)
        fields = [objects(seal.feed(frame))[0]["choices"][0]["delta"]["content"] for frame in stream()[2:4]]
        assert (fields[0][:head] == fields[1][:head]) == (algo not in (X, K))
        assert fields[0][head : head + 24] != fields[1][head : head + 24]


def test_choices_are_named_by_their_index() -> None:
    for algo, version in PROTOCOLS:
        request, opener = exchange(algo, version)
        chunk = {"id": "a", "model": "m", "choices": [{"index": 3, "delta": {"content": "x"}, "finish_reason": "stop"}]}
        opened = opener.feed(request.sealer().feed(event(json.dumps(chunk).encode())))
        assert objects(opened) == [chunk]


@pytest.mark.parametrize("algo", [X, K])
def test_completions_and_embeddings(algo: str) -> None:
    request, opener = exchange(algo, "2", "/v1/completions", {"model": "demo", "prompt": ["a", "b"]})
    answer = {"id": "cmpl-1", "choices": [{"index": 0, "text": "SECRET", "logprobs": None, "finish_reason": "stop"}]}
    frame = request.sealer().feed(event(json.dumps(answer).encode()))
    assert b"SECRET" not in frame
    assert objects(opener.feed(frame)) == [answer]
    request, opener = exchange(algo, "2", "/v1/embeddings", {"model": "demo", "input": "a"})
    vectors = {"object": "list", "data": [{"index": 1, "embedding": [0.5, -1.0]}, {"embedding": "AAAA"}], "model": "m"}
    sealed = request.sealer().whole(json.dumps(vectors).encode())
    assert b"0.5" not in sealed
    assert b"AAAA" not in sealed
    assert json.loads(opener.whole(sealed)) == vectors
    with pytest.raises(SealingFailed):
        request.sealer().feed(event(b"{}"))


# What nobody has named -----------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "members",
    [
        {"prompt_logprobs": [{"SECRET": 1}]},
        {"kv_transfer_params": "SECRET"},
        {"choices": "SECRET"},
        {"choices": ["SECRET", 7]},
        {"choices": {"0": {"message": {"content": "SECRET"}}}},
        {"choices": [{"message": "SECRET"}]},
        {"choices": [{"text": "SECRET"}]},
        {"choices": [{"token_ids": [1], "logprobs": {"content": [{"token": "SECRET"}]}}]},
        {"choices": [{"message": {"refusal": "SECRET"}}]},
        {"choices": [{"message": {"annotations": ["SECRET"]}}]},
        {"choices": [{"message": {"audio": {"data": "U0VD", "transcript": "SECRET"}}}]},
        {"choices": [{"message": {"audio": "SECRET"}}]},
        {"choices": [{"delta": {"a.b": {"SECRET": 1}}}]},
        {"choices": [{"index": -1, "delta": {"content": "SECRET"}}]},
        {"choices": [{"index": True, "delta": {"content": "SECRET"}}]},
        {"s": "SECRET"},
    ],
)
def test_everything_else_is_sealed(algo: str, version: str, members: dict[str, Any]) -> None:
    request, opener = exchange(algo, version)
    answer = {"id": "a", "model": "demo", **members}
    sealed = request.sealer().whole(json.dumps(answer).encode())
    assert b"SECRET" not in sealed
    try:
        assert json.loads(opener.whole(sealed)) == answer
    except Forged:  # our own client refuses a choice that isn't an object
        assert answer["choices"] == ["SECRET", 7]


def test_members_that_hold_nothing_stay() -> None:
    text = b'{"x":null,"y":[],"z":{},"w":"","choices":[{"index":0,"message":{"content":null,"annotations":[]}}]}'
    for algo, version in PROTOCOLS:
        assert sealer(algo, version).whole(text) == text


def test_what_was_not_looked_at_does_not_leave() -> None:
    """A parser keeps the last of two members; so the first must not get past it."""
    twice = b'data: {"choices":[{"delta":{"content":"SECRET"}}],"choices":[]}\n\n'
    assert sealer(X).feed(twice) == b'data: {"choices":[]}\n\n'
    spread = b'data: {"choices":[],\ndata: "usage":null}\n\n'
    assert sealer(X).feed(spread) == b'data: {"choices":[],"usage":null}\n\n'


# Failures ------------------------------------------------------------------------------------------------------------

BROKEN = [
    b"data: {\n\n",
    b"data: SECRET\n\n",
    b"data: [1]\n\n",
    b"data:\n\n",
    b"SECRET\n\n",
    b'data: {"choices":[{"delta":{"content":["SECRET"]}}]}\n\n',
    b'data: {"choices":[{"delta":{"reasoning":7}}]}\n\n',
    b"data: \xff\n\n",
    b"data: " + b"[" * 5000 + b"\n\n",
]


@both
@pytest.mark.parametrize("frame", BROKEN)
def test_a_failure_emits_nothing_and_stays(algo: str, version: str, frame: bytes) -> None:
    seal = sealer(algo, version)
    seal.feed(stream()[1])
    for data in (frame, stream()[2], DONE):
        with pytest.raises(SealingFailed) as caught:
            seal.feed(data)
        assert "SECRET" not in str(caught.value)
    with pytest.raises(SealingFailed):
        seal.end()
    with pytest.raises(SealingFailed):
        seal.whole(body())


def test_the_error_says_nothing_and_is_a_server_error() -> None:
    error = SealingFailed()
    assert isinstance(error, ApiError)
    assert error.status == 500
    assert error.body()["error"]["code"] == "e2ee_encryption_failed"


@pytest.mark.parametrize("text", [b"", b"SECRET", b"[]", b'{"choices":[{"message":{"content":["SECRET"]}}]}'])
def test_a_body_that_cannot_be_sealed(text: bytes) -> None:
    seal = sealer(X)
    with pytest.raises(SealingFailed):
        seal.whole(text)
    with pytest.raises(SealingFailed):
        seal.whole(body())


def test_no_randomness_no_answer() -> None:
    def broken(size: int) -> bytes:
        raise OSError("no randomness")

    seal = exchange(X, "2")[0].sealer(broken)
    with pytest.raises(OSError, match="randomness"):
        seal.whole(body())
    with pytest.raises(SealingFailed):
        seal.feed(stream()[0])


def test_a_client_key_that_fails_late_emits_nothing() -> None:
    request, _ = exchange(X, "2")
    bad = OpenedRequest(request.terms, bytes(32), request.model, request.body, request.hashed)
    with pytest.raises(SealingFailed):
        bad.sealer().whole(body())


def test_one_answer_only() -> None:
    seal = sealer(X)
    seal.whole(body())
    with pytest.raises(SealingFailed):
        seal.whole(body())
    seal = sealer(X)
    assert seal.feed(DONE) == DONE
    seal.end()
    seal.end()
    with pytest.raises(SealingFailed):
        seal.feed(stream()[1])


def test_an_end_within_an_event() -> None:
    seal = sealer(X)
    assert seal.feed(stream()[1][:-1]) == b""
    with pytest.raises(SealingFailed):
        seal.end()


# The client ----------------------------------------------------------------------------------------------------------


@both
def test_every_prefix_of_a_stream_is_truncated(algo: str, version: str) -> None:
    request, opener = exchange(algo, version)
    seal = request.sealer()
    wire = b"".join([seal.feed(frame) for frame in [*stream(), DONE]])
    for length in {*range(0, len(wire), 97), len(wire) - 1, len(wire) - 2, len(wire) - len(DONE)}:
        again = ResponseOpener(opener._terms, opener._opener._key, "demo")
        again.feed(wire[:length])
        with pytest.raises(Truncated):
            again.end()
        with pytest.raises(Forged):
            again.feed(wire[length:])


@both
def test_a_dropped_finish_is_truncated_and_a_failure_stays(algo: str, version: str) -> None:
    request, opener = exchange(algo, version)
    seal = request.sealer()
    frames = [seal.feed(frame) for frame in [*stream(), DONE]]
    opener.feed(b"".join(frames[:6]))
    with pytest.raises(Truncated):
        opener.feed(DONE)
    for again in (lambda: opener.feed(frames[6]), opener.end, lambda: opener.whole(b"{}")):
        with pytest.raises(Forged):
            again()


@both
def test_frames_from_another_answer_to_the_same_client_fail(algo: str, version: str) -> None:
    first, opener = exchange(algo, version)
    second, _ = exchange(algo, version)
    opener.feed(first.sealer().feed(stream()[2]))
    with pytest.raises(Forged):
        opener.feed(second.sealer().feed(stream()[2]))


def test_a_field_that_comes_again_with_its_point_written_otherwise() -> None:
    """X25519 ignores one bit of a point; so the same field has two forms that both open."""
    request, opener = exchange(X, "2")
    frame = request.sealer().feed(stream()[3])
    field = objects(frame)[0]["choices"][0]["delta"]["content"]
    other = field[:62] + format(int(field[62], 16) ^ 8, "x") + field[63:]
    opener.feed(frame)
    for again in (
        frame,
        frame.replace(field.encode(), other.encode()),
        frame.replace(field.encode(), field.upper().encode()),
    ):
        copy = ResponseOpener(opener._terms, opener._opener._key, "demo")
        copy.feed(frame)
        with pytest.raises(Forged, match="repeats"):
            copy.feed(again)


def test_opening_never_says_why() -> None:
    request, opener = exchange(X, "2")
    field = json.loads(request.sealer().whole(body()))["choices"][0]["message"]["content"]
    raw: Opener = opener._opener
    texts = set()
    for bad in (field[:-1], field[:-2] + "00", "00" * 32 + field[64:], "zz", ""):
        with pytest.raises(BadBlob) as caught:
            raw.open(bad, None)
        texts.add(str(caught.value))
    assert texts == {"can't be opened", "too short"}
