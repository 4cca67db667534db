from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.remote.asking import CLOCK, CREATED, ID, WEATHER, assembled, chat_call, chunks
from tests.simulator import engine_dialects as simulated
from tests.simulator.engine_dialects import MODEL, TEXT

from confide.engine.base import ChatCall
from confide.engine.remote.dialect import DIALECTS
from confide.engine.remote.gather import Gatherer
from confide.engine.remote.mender import StreamMender, mend_whole
from confide.engine.remote.request import prepare
from confide.errors import ApiError, EngineFailed, InvalidRequest, TooManyRequests
from confide.wire.answers import Usage

DONE = b"data: [DONE]\n\n"
ARGUMENTS = '{"city": "Köln"}'
STREAMED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
NAMES = pytest.mark.parametrize("name", DIALECTS)


def said_by(name: str, call: ChatCall, **said: Any) -> list[dict[str, Any]]:
    """What the engine of that name would stream as an answer to what it would be sent."""
    body = json.loads(prepare(call, DIALECTS[name], model=MODEL, salt=None, stream=True))
    one = simulated.say(body, text=said.get("text", TEXT), calls=said.get("calls"), reasoning=said.get("reasoning", ""))
    return list(simulated.STREAMS[name](simulated.Asked(body, [one] * (body.get("n") or 1))))


def event(payload: Any) -> bytes:
    """As engines write an event."""
    if isinstance(payload, bytes):
        return payload
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def mended(call: ChatCall, payloads: Sequence[Any], name: str = "vllm", *, done: bool = True) -> list[bytes]:
    """What the client gets of a stream that comes in one piece each event."""
    mender = StreamMender(call, DIALECTS[name])
    out: list[bytes] = []
    for one in payloads:
        out += mender.feed(event(one))
    if done:
        out += mender.feed(DONE)
    mender.end()
    return out


def chunk(delta: dict[str, Any], *, index: int = 0, finish: Any = None, **more: Any) -> dict[str, Any]:
    """A chunk that is right, unless what it is given isn't."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": ID, "object": "chat.completion.chunk", "created": CREATED, "model": MODEL}
    return head | {"choices": [choice]} | more


ROLE = chunk({"role": "assistant", "content": ""})
STOP = chunk({}, finish="stop")


# Bytes that pass -----------------------------------------------------------------------------------------------------


def logprobs_members() -> dict[str, Any]:
    return {"logprobs": True, "top_logprobs": 2}


@pytest.mark.parametrize(
    "members",
    [{}, {"n": 2}, {"max_tokens": 3}, logprobs_members(), {"stop": ["quiet"]}],
    ids=["plain", "n", "cut", "logprobs", "stop"],
)
@pytest.mark.parametrize("usage", [True, False])
def test_a_conforming_stream_passes_byte_for_byte_however_it_is_split(members: dict[str, Any], usage: bool) -> None:
    call = chat_call(**members, stream=True, **({"stream_options": {"include_usage": True}} if usage else {}))
    sent = [event(one) for one in said_by("vllm", call)]
    expected = b"".join(sent if usage else sent[:-1])
    assert b"usage" not in b"".join(sent[:-1])
    stream = b"".join(sent) + DONE
    for split in range(len(stream) + 1):
        mender = StreamMender(call, DIALECTS["vllm"])
        assert b"".join(mender.feed(stream[:split]) + mender.feed(stream[split:])) == expected
        mender.end()
        assert mender.done
    one_by_one = StreamMender(call, DIALECTS["vllm"])
    assert b"".join(b"".join(one_by_one.feed(bytes([byte]))) for byte in stream) == expected
    assert one_by_one.usage.completion > 0
    assert one_by_one.usage.prompt == simulated.PROMPT_TOKENS


def test_sglangs_nulls_pass_too() -> None:
    call = chat_call(stream=True)
    sent = said_by("sglang", call)
    assert mended(call, sent, "sglang") == [event(one) for one in sent[:-1]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_every_event_comes_out_whole(sizes: list[int]) -> None:
    """However a stream of a dialect is cut, what comes out is the same events."""
    call = chat_call(**STREAMED, n=2)
    stream = b"".join(event(one) for one in said_by("llama-server", call)) + DONE
    mender, at, out = StreamMender(call, DIALECTS["llama-server"]), 0, []
    for size in sizes:
        out += mender.feed(stream[at : at + size])
        at += size
    out += mender.feed(stream[at:])
    mender.end()
    assert out == mended(call, [stream], "llama-server", done=False)
    chunks(out)


@pytest.mark.parametrize(
    "written",
    [
        b"data:%s\n\n",
        b"data: %s\r\n\r\n",
        b": a comment\ndata: %s\n\n",
        b"event: message\nid: 7\ndata: %s\n\n",
    ],
)
def test_framing_that_others_may_read_differently_is_written_anew(written: bytes) -> None:
    payloads = [written % event(one)[6:-2] for one in (ROLE, STOP)]
    assert chunks(mended(chat_call(stream=True), payloads)) == [ROLE, STOP]


def test_a_carriage_return_between_values_does_not_pass() -> None:
    spaced = event(STOP).replace(b'"finish_reason"', b'\r"finish_reason"')
    assert b"\r" not in b"".join(mended(chat_call(stream=True), [ROLE, spaced]))


def test_comments_of_the_engine_are_not_passed_on() -> None:
    assert mended(chat_call(stream=True), [b": ping\n\n", ROLE, b"event: ping\n\n", STOP]) == [event(ROLE), event(STOP)]


# What is mended, for each engine -------------------------------------------------------------------------------------


@NAMES
def test_text(name: str) -> None:
    call = chat_call(**STREAMED, model="public/name")
    found = chunks(mended(call, said_by(name, call, reasoning="Let me think."), name))
    *answer, last = found
    (one,) = assembled(answer)
    assert (one["content"], one["reasoning"], one["finish"]) == (TEXT, "Let me think.", "stop")
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
    assert {found["model"] for found in found} == {"public/name"}
    assert not any(found.get("usage") for found in answer)


@NAMES
def test_usage_only_where_it_was_asked_for(name: str) -> None:
    call = chat_call(stream=True)
    found = chunks(mended(call, said_by(name, call), name))
    assert not any(one.get("usage") for one in found)
    assert all(one["choices"] for one in found)


@NAMES
def test_calls(name: str) -> None:
    call = chat_call(stream=True, tools=[WEATHER, CLOCK])
    sent = said_by(name, call, calls=(("get_weather", ARGUMENTS), ("get_time", "{}")))
    (one,) = assembled(chunks(mended(call, sent, name)))
    assert [(call["name"], call["arguments"]) for call in one["calls"]] == [
        ("get_weather", ARGUMENTS),
        ("get_time", "{}"),
    ]
    assert len({call["id"] for call in one["calls"]}) == 2
    assert (one["content"], one["finish"]) == ("", "tool_calls")


@pytest.mark.parametrize("name", ["vllm", "sglang", "openai"])
def test_a_named_call_ends_like_any_other(name: str) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    call = chat_call(stream=True, tools=[WEATHER], tool_choice=choice)
    (one,) = assembled(chunks(mended(call, said_by(name, call), name)))
    assert (one["calls"][0]["name"], one["finish"]) == ("get_weather", "tool_calls")


@NAMES
def test_deprecated_functions(name: str) -> None:
    call = chat_call(stream=True, functions=[WEATHER["function"], CLOCK["function"]])
    sent = said_by(name, call, calls=(("get_weather", ARGUMENTS), ("get_time", "{}")))
    (one,) = assembled(chunks(mended(call, sent, name)))
    assert one["function"] == {"name": "get_weather", "arguments": ARGUMENTS}
    assert (one["calls"], one["finish"]) == ([], "function_call")


@pytest.mark.parametrize("name", ["vllm", "sglang", "llama-server", "openai"])
def test_several_choices(name: str) -> None:
    call = chat_call(**STREAMED, n=3)
    found = chunks(mended(call, said_by(name, call), name))
    assert [one["content"] for one in assembled(found[:-1], 3)] == [TEXT] * 3
    assert found[-1]["usage"]["completion_tokens"] == 3 * len(TEXT.split())
    assert found[-1]["usage"]["prompt_tokens"] == simulated.PROMPT_TOKENS


@pytest.mark.parametrize("name", ["vllm", "sglang", "llama-server", "ollama", "openai"])
@pytest.mark.parametrize(("members", "most"), [({"logprobs": True, "top_logprobs": 2}, 2), ({"logprobs": True}, 0)])
def test_logprobs(name: str, members: dict[str, Any], most: int) -> None:
    call = chat_call(stream=True, **members)
    tokens = [
        token
        for one in chunks(mended(call, said_by(name, call), name))
        for token in (one["choices"][0]["logprobs"] or {"content": ()})["content"]
    ]
    assert "".join(token["token"] for token in tokens) == TEXT
    assert {len(token["top_logprobs"]) for token in tokens} == {most}
    assert all(token.keys() == {"token", "logprob", "bytes", "top_logprobs"} for token in tokens)


def test_logprobs_that_nobody_asked_for_are_dropped() -> None:
    said = chunk({"content": "a"})
    said["choices"][0]["logprobs"] = {"content": [simulated.token("a", {})]}
    out = chunks(mended(chat_call(stream=True), [ROLE, said, STOP]))
    assert all(one["choices"][0]["logprobs"] is None for one in out)


@pytest.mark.parametrize(("given", "written"), [(None, -9999.0), (-3.4e38, -9999.0), (-1.5, -1.5)])
def test_a_logprob_is_a_number_that_json_can_hold(given: Any, written: float) -> None:
    said = chunk({"content": "é"})
    said["choices"][0]["logprobs"] = {"content": [{"id": 3, "token": "é", "logprob": given}]}
    out = chunks(mended(chat_call(stream=True, logprobs=True), [ROLE, said, STOP]))
    (token,) = out[1]["choices"][0]["logprobs"]["content"]
    assert token == {"token": "é", "logprob": written, "bytes": [195, 169], "top_logprobs": []}


# Faults that are mended ----------------------------------------------------------------------------------------------


def test_a_role_in_every_chunk() -> None:
    said = [chunk({"role": "assistant", "content": text}) for text in ("", "a", "b")]
    (one,) = assembled(chunks(mended(chat_call(stream=True), [*said, STOP])))
    assert one["content"] == "ab"


def test_no_role_at_all() -> None:
    (one,) = assembled(chunks(mended(chat_call(stream=True), [chunk({"content": "a"}), STOP])))
    assert one["content"] == "a"


def test_doubled_chunks() -> None:
    """The role, the end, usage and ``[DONE]`` are said once. Doubled text can't be told from text that repeats."""
    usage = chunk({}) | {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
    last = chunk({"content": "."}, finish="stop")
    said = [ROLE, ROLE, last, last, usage, usage, DONE, DONE]
    out = mended(chat_call(**STREAMED), said)
    assert out == [event(ROLE), event(last), event(usage)]


def test_empty_chunks_after_the_end() -> None:
    after = chunk({"content": "", "role": None})
    assert mended(chat_call(stream=True), [ROLE, STOP, after]) == [event(ROLE), event(STOP)]


def test_choice_1_before_choice_0() -> None:
    said = [
        chunk({"role": "assistant", "content": "b"}, index=1),
        chunk({"role": "assistant", "content": "a"}),
        chunk({}, index=1, finish="stop"),
        STOP,
    ]
    answer = assembled(chunks(mended(chat_call(stream=True, n=2), said)), 2)
    assert [one["content"] for one in answer] == ["a", "b"]


def test_calls_without_ids_or_places() -> None:
    pieces = [
        {"type": "function", "function": {"name": "get_weather", "arguments": '{"city"'}},
        {"function": {"arguments": ':"x"}'}},
        {"function": {"name": "get_time", "arguments": {}}},
    ]
    said = [ROLE, *(chunk({"tool_calls": [piece]}) for piece in pieces), chunk({}, finish="stop")]
    call = chat_call(stream=True, tools=[WEATHER, CLOCK])
    (one,) = assembled(chunks(mended(call, said)))
    assert [(made["name"], made["arguments"]) for made in one["calls"]] == [
        ("get_weather", '{"city":"x"}'),
        ("get_time", "{}"),
    ]
    ids = [made["id"] for made in one["calls"]]
    assert len(set(ids)) == 2
    assert all(made.startswith("call_") and len(made) <= 40 for made in ids)
    assert one["finish"] == "tool_calls"
    (again,) = assembled(chunks(mended(call, said)))
    assert again == one


def test_calls_that_share_place_and_id() -> None:
    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    said = [ROLE, chunk({"tool_calls": [first, first | {"id": "b"}]}), chunk({}, finish="tool_calls")]
    (one,) = assembled(chunks(mended(chat_call(stream=True, tools=[CLOCK]), said)))
    assert [made["id"] for made in one["calls"]] == ["a", "b"]


def test_a_call_whose_name_and_id_are_repeated() -> None:
    pieces = [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "get_time", "arguments": part}}
        for part in ("{", "}")
    ]
    said = [ROLE, *(chunk({"tool_calls": [piece]}) for piece in pieces), chunk({}, finish="tool_calls")]
    (one,) = assembled(chunks(mended(chat_call(stream=True, tools=[CLOCK]), said)))
    assert one["calls"] == [{"id": "a", "name": "get_time", "arguments": "{}"}]


def test_a_call_whose_name_comes_late() -> None:
    pieces: list[dict[str, Any]] = [
        {"index": 0, "id": "a", "type": "function", "function": {"arguments": "{"}},
        {"index": 0, "function": {"name": "get_time", "arguments": "}"}},
    ]
    said = [ROLE, *(chunk({"tool_calls": [piece]}) for piece in pieces), chunk({}, finish="tool_calls")]
    (one,) = assembled(chunks(mended(chat_call(stream=True, tools=[CLOCK]), said)))
    assert one["calls"] == [{"id": "a", "name": "get_time", "arguments": "{}"}]


@pytest.mark.parametrize("empty", ["", None])
def test_a_call_without_arguments_has_an_empty_object(empty: Any) -> None:
    piece = {"index": 0, "id": "a", "type": "function", "function": {"name": "get_time", "arguments": empty}}
    said = [ROLE, chunk({"tool_calls": [piece]}), chunk({}, finish="tool_calls")]
    (one,) = assembled(chunks(mended(chat_call(stream=True, tools=[CLOCK]), said)))
    assert one["calls"][0]["arguments"] == "{}"
    (cut,) = assembled(chunks(mended(chat_call(stream=True, tools=[CLOCK]), [*said[:2], chunk({}, finish="length")])))
    assert (cut["calls"][0]["arguments"], cut["finish"]) == ("", "length")


def test_an_empty_list_of_calls() -> None:
    (one,) = assembled(chunks(mended(chat_call(stream=True), [ROLE, chunk({"content": "a", "tool_calls": []}), STOP])))
    assert (one["content"], one["calls"]) == ("a", [])


@pytest.mark.parametrize(
    ("given", "written"),
    [("eos_token", "stop"), ("max_tokens", "length"), ("tool_calls", "stop"), ("content_filter", "content_filter")],
)
def test_reasons_to_finish_agree_with_the_answer(given: str, written: str) -> None:
    (one,) = assembled(chunks(mended(chat_call(stream=True), [ROLE, chunk({"content": "a"}), chunk({}, finish=given)])))
    assert one["finish"] == written


def test_extra_members_are_not_passed_on() -> None:
    said = [
        ROLE | {"kv_transfer_params": {"host": "10.0.0.1"}, "metrics": {"x": 1}},
        chunk({"content": "a", "hidden_states": [1.0]}, sglext={"input_ids": [1, 2]}),
        STOP | {"timings": {"prompt_ms": 1.0}},
        chunk({}) | {"choices": [], "sglext": {"input_ids": [1, 2]}},
    ]
    out = chunks(mended(chat_call(stream=True), said))
    members = {"id", "object", "created", "model", "choices"}
    assert all(one.keys() == members for one in out)
    assert len(out) == 3
    assert out[1]["choices"][0]["delta"] == {"content": "a"}


def test_what_ended_the_text_is_passed_on() -> None:
    last = chunk({}, finish="stop")
    last["choices"][0] |= {"stop_reason": "quiet", "routed_experts": "AAAA"}
    out = chunks(mended(chat_call(stream=True), [ROLE, last]))
    assert out[1]["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": "quiet",
    }


def test_created_is_the_same_in_every_chunk() -> None:
    out = chunks(
        mended(chat_call(stream=True), [ROLE | {"created": 5}, chunk({"content": "a"}) | {"created": 6}, STOP])
    )
    assert {one["created"] for one in out} == {5}
    out = chunks(mended(chat_call(stream=True), [ROLE | {"created": None}, STOP | {"created": 1.5}]))
    assert {one["created"] for one in out} == {CREATED}


def test_another_object_name_would_be_skipped_in_silence() -> None:
    out = chunks(mended(chat_call(stream=True), [ROLE | {"object": "text_completion"}, STOP]))
    assert out == [ROLE, STOP]


def test_usage_that_does_not_add_up() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 9, "reasoning_tokens": 2}
    out = chunks(mended(chat_call(**STREAMED), [ROLE, STOP, chunk({}) | {"choices": [], "usage": usage}]))
    assert out[-1]["usage"] == Usage(3, 4, 0, 2).as_json()


def test_usage_in_every_chunk() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    said = [ROLE | {"usage": usage}, STOP | {"usage": usage}, chunk({}) | {"choices": [], "usage": usage}]
    out = mended(chat_call(**STREAMED), said)
    assert [one.get("usage") for one in chunks(out)] == [None, None, usage]
    assert [one.get("usage") for one in chunks(mended(chat_call(stream=True), said))] == [None, None]


def test_usage_missing() -> None:
    """None is made up for the client; the server counts pieces."""
    mender = StreamMender(chat_call(**STREAMED), DIALECTS["vllm"])
    out = [mender.feed(event(one)) for one in (ROLE, chunk({"content": "a"}), chunk({"content": "b"}), STOP)]
    mender.end()
    assert mender.usage == Usage(0, 2)
    assert not any("usage" in one for piece in out for one in chunks(piece))


def test_done_missing_after_a_complete_answer() -> None:
    assert mended(chat_call(stream=True), [ROLE, STOP], done=False) == [event(ROLE), event(STOP)]


def test_whatever_follows_done_is_not_read() -> None:
    assert mended(chat_call(stream=True), [ROLE, STOP, DONE + b"<html>\n\ndata: {}"], done=False) == [
        event(ROLE),
        event(STOP),
    ]


# Faults that can't be mended -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        [],
        [ROLE],
        [ROLE, chunk({"content": "a"})],
        [ROLE, STOP, b"data: {"],
        [ROLE, chunk({"content": "a"}), b"data: "],
    ],
)
def test_an_answer_that_stops_is_not_complete(said: list[Any]) -> None:
    with pytest.raises(EngineFailed, match="before the answer was complete"):
        mended(chat_call(stream=True), said, done=False)


def test_done_does_not_make_an_answer_complete() -> None:
    with pytest.raises(EngineFailed, match="before the answer was complete"):
        mended(chat_call(stream=True), [ROLE, chunk({"content": "a"})])
    with pytest.raises(EngineFailed, match="before the answer was complete"):
        mended(chat_call(stream=True, n=2), [ROLE, STOP])


@pytest.mark.parametrize("reason", ["abort", "error", "load", "", "secret"])
def test_reasons_that_say_that_the_answer_is_not_complete(reason: str) -> None:
    with pytest.raises(EngineFailed) as caught:
        mended(chat_call(stream=True), [ROLE, chunk({"content": "a"}), chunk({}, finish=reason)])
    assert caught.value.message == "The engine stopped before the answer was complete."


@pytest.mark.parametrize(
    "said",
    [
        b"<html>secret</html>\n\n",
        b"secret\n\n",
        b"data: secret\n\n",
        b"data: {\n\n",
        b"data: []\n\n",
        b"data: null\n\n",
        b'data: {"choices":[{"delta":{"content":NaN}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":7}}]}\n\n',
        b'data: {"choices":{"secret":1}}\n\n',
        b'data: {"choices":[{"index":-1}]}\n\n',
        b'data: {"choices":[{"index":1}]}\n\n',
        b'data: {"choices":[{"index":100000}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n',
        b'data: {"usage":{"prompt_tokens":-1}}\n\n',
        b'data: {"created":1e999}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
        b'data: {"x":' + b"[" * 100_000 + b"\n\n",
    ],
)
def test_garbage(said: bytes) -> None:
    mender = StreamMender(chat_call(stream=True), DIALECTS["vllm"])
    assert mender.feed(event(ROLE)) == [event(ROLE)]
    with pytest.raises(EngineFailed) as caught:
        mender.feed(said)
    assert "secret" not in str(caught.value)
    for again in (lambda: mender.feed(event(STOP)), mender.end):  # an error sticks
        with pytest.raises(EngineFailed):
            again()


def test_what_was_complete_before_garbage_comes_first() -> None:
    mender = StreamMender(chat_call(stream=True), DIALECTS["vllm"])
    assert mender.feed(event(ROLE) + b"data: secret\n\n") == [event(ROLE)]
    with pytest.raises(EngineFailed):
        mender.end()


def feed_without_end(mender: StreamMender) -> int:
    return sum(len(mender.feed(b"x" * 65536)) + 1 for _ in range(200))


def test_an_event_without_an_end() -> None:
    mender = StreamMender(chat_call(stream=True), DIALECTS["vllm"])
    with pytest.raises(EngineFailed):
        feed_without_end(mender)


def test_text_after_the_end() -> None:
    with pytest.raises(EngineFailed, match="that it had ended"):
        mended(chat_call(stream=True), [ROLE, STOP, chunk({"content": "a"})])


@pytest.mark.parametrize("piece", [{"index": 0, "id": "a", "type": "function", "function": {"arguments": "{}"}}])
def test_a_call_that_never_gets_a_name(piece: dict[str, Any]) -> None:
    with pytest.raises(EngineFailed, match="without a name"):
        mended(chat_call(stream=True), [ROLE, chunk({"tool_calls": [piece]}), STOP])


def test_calls_without_end() -> None:
    piece = {"id": None, "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    with pytest.raises(EngineFailed, match="more calls"):
        mended(chat_call(stream=True), [ROLE, *[chunk({"tool_calls": [piece] * 50})] * 3, STOP])


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def spoil(value: Any, data: st.DataObject) -> Any:
    """The same with something else in one place, or with something missing."""
    if isinstance(value, (dict, list)) and value and data.draw(st.integers(0, 7)):
        key = data.draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        copy = value.copy()
        if data.draw(st.integers(0, 9)):
            copy[key] = spoil(value[key], data)
        else:
            del copy[key]
        return copy
    return data.draw(JUNK)


@given(st.sampled_from(list(DIALECTS)), st.data())
def test_whatever_an_engine_sends_ends_in_events_or_in_an_error_of_ours(name: str, data: st.DataObject) -> None:
    call = chat_call(**STREAMED, logprobs=True, tools=[WEATHER])
    calls = data.draw(st.sampled_from([None, (("get_weather", ARGUMENTS),)]))
    said: list[Any] = said_by(name, call, calls=calls, reasoning="Hm.", text="Well, well.")
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(said) - 1))
        said[place] = spoil(said[place], data)
    mender, out = StreamMender(call, DIALECTS[name]), []
    assert mender.id == ID
    with suppress(ApiError):
        for one in said:
            out += mender.feed(event(one))
        mender.end()
    assembled([one for one in chunks(out) if one["choices"]], 1 if out else 0)


@given(st.sampled_from(list(DIALECTS)), st.data())
def test_whatever_an_engine_sends_whole_ends_in_an_answer_or_in_an_error_of_ours(
    name: str, data: st.DataObject
) -> None:
    call = chat_call(logprobs=True, tools=[WEATHER])
    body = spoil(whole(name, call, calls=data.draw(st.sampled_from([None, (("get_weather", ARGUMENTS),)]))), data)
    with suppress(ApiError):
        found, _ = answer(call, body, name)
        (choice,) = found["choices"]
        assert choice["finish_reason"] in {"stop", "length", "tool_calls", "content_filter"}
        assert isinstance(choice["message"]["content"], str | None)


# Errors in the stream ------------------------------------------------------------------------------------------------

TOO_LONG = "This model's maximum context length is 4096 tokens. However, your prompt contains 5000 input tokens, secret"


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [
        (
            {"error": {"message": TOO_LONG, "type": "BadRequestError", "code": 400}},
            InvalidRequest,
            "context_length_exceeded",
        ),
        ({"error": {"object": "error", "message": "secret", "code": 429}}, TooManyRequests, "rate_limit_exceeded"),
        ({"object": "error", "message": "secret", "type": "x", "code": 400}, InvalidRequest, None),
        ({"error": "secret"}, EngineFailed, None),
        ({"error": {"message": "secret", "code": None}}, EngineFailed, None),
        ({"error": {"message": "secret", "code": 200}}, EngineFailed, None),
        ({"error": {"message": "secret", "code": "secret"}}, EngineFailed, None),
    ],
)
def test_an_error_as_the_first_event_is_the_answer(said: Any, kind: type[ApiError], code: str | None) -> None:
    with pytest.raises(kind) as caught:
        mended(chat_call(stream=True), [said])
    assert caught.value.code == code
    assert "secret" not in caught.value.message


def test_an_error_later_on_is_the_engines_failure() -> None:
    said = {"error": {"message": "secret", "type": "BadRequestError", "code": 400}}
    with pytest.raises(EngineFailed) as caught:
        mended(chat_call(stream=True), [ROLE, said])
    assert caught.value.message == "The engine failed while it answered."


# Whole answers -------------------------------------------------------------------------------------------------------


def whole(name: str, call: ChatCall, **said: Any) -> dict[str, Any]:
    body = json.loads(prepare(call, DIALECTS[name], model=MODEL, salt=None))
    one = simulated.say(body, text=said.get("text", TEXT), calls=said.get("calls"), reasoning=said.get("reasoning", ""))
    return simulated.whole(name, simulated.Asked(body, [one] * (body.get("n") or 1)))


def answer(call: ChatCall, body: Any, name: str = "vllm") -> tuple[dict[str, Any], Usage]:
    written, usage = mend_whole(call, DIALECTS[name], body if isinstance(body, bytes) else json.dumps(body).encode())
    found: dict[str, Any] = json.loads(written)
    return found, usage


@pytest.mark.parametrize("members", [{}, {"n": 2}, {"max_tokens": 3}, logprobs_members()])
def test_a_conforming_answer_passes_byte_for_byte(members: dict[str, Any]) -> None:
    call = chat_call(**members)
    body = whole("vllm", call)
    body["usage"] = {name: value for name, value in body["usage"].items() if value is not None}
    for dumped in (json.dumps(body), json.dumps(body, ensure_ascii=False, indent=1)):
        assert mend_whole(call, DIALECTS["vllm"], dumped.encode())[0] == dumped.encode()


@NAMES
def test_whole_text(name: str) -> None:
    call = chat_call(model="public/name")
    found, usage = answer(call, whole(name, call, reasoning="Let me think."), name)
    assert (found["id"], found["object"], found["model"]) == (ID, "chat.completion", "public/name")
    message = found["choices"][0]["message"]
    assert message["content"] == TEXT
    assert message["reasoning"] == message["reasoning_content"] == "Let me think."
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["usage"] == usage.as_json()
    known = {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
    assert found.keys() <= known


@NAMES
def test_whole_calls(name: str) -> None:
    call = chat_call(tools=[WEATHER, CLOCK])
    found, _ = answer(call, whole(name, call, calls=(("get_weather", ARGUMENTS), ("get_time", ""))), name)
    message = found["choices"][0]["message"]
    assert message["content"] is None
    assert [made["function"] for made in message["tool_calls"]] == [
        {"name": "get_weather", "arguments": ARGUMENTS},
        {"name": "get_time", "arguments": "{}"},
    ]
    assert found["choices"][0]["finish_reason"] == "tool_calls"


@NAMES
def test_whole_deprecated_functions(name: str) -> None:
    call = chat_call(functions=[WEATHER["function"]])
    found, _ = answer(call, whole(name, call, calls=(("get_weather", ARGUMENTS),)), name)
    message = found["choices"][0]["message"]
    assert message["function_call"] == {"name": "get_weather", "arguments": ARGUMENTS}
    assert "tool_calls" not in message
    assert found["choices"][0]["finish_reason"] == "function_call"


@pytest.mark.parametrize("name", ["vllm", "sglang", "llama-server", "ollama"])
@pytest.mark.parametrize(("members", "most"), [({"logprobs": True, "top_logprobs": 2}, 2), ({"logprobs": True}, 0)])
def test_whole_logprobs(name: str, members: dict[str, Any], most: int) -> None:
    call = chat_call(**members)
    found, _ = answer(call, whole(name, call), name)
    tokens = found["choices"][0]["logprobs"]["content"]
    assert {len(token["top_logprobs"]) for token in tokens} == {most}
    unasked, _ = answer(chat_call(), whole(name, call), name)
    assert unasked["choices"][0]["logprobs"] is None


def right_body(**changed: Any) -> dict[str, Any]:
    call = chat_call()
    body = whole("vllm", call)
    body["choices"][0] |= changed
    return body


def test_whole_mending_of_ids() -> None:
    calls = [{"function": {"name": "get_time", "arguments": {}}}, {"id": "", "function": {"name": "get_time"}}]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    found, _ = answer(chat_call(tools=[CLOCK]), right_body(message=message, finish_reason="stop"))
    made = found["choices"][0]["message"]["tool_calls"]
    assert len({one["id"] for one in made}) == 2
    assert [one["function"]["arguments"] for one in made] == ["{}", "{}"]


def test_whole_choices_in_any_order() -> None:
    body = right_body()
    body["choices"] = [body["choices"][0] | {"index": 1}, body["choices"][0]]
    found, _ = answer(chat_call(n=2), body)
    assert [choice["index"] for choice in found["choices"]] == [0, 1]


def test_whole_without_usage() -> None:
    body = right_body()
    del body["usage"]
    found, usage = answer(chat_call(), body)
    assert "usage" not in found
    assert usage == Usage()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"secret",
        b"[]",
        b"null",
        b"\xff",
        b"{}",
        b"[" * 100_000,
        {"choices": []},
        {"choices": "secret"},
        right_body(finish_reason=None),
        right_body(finish_reason="abort"),
        right_body(message=None),
        right_body(message={"content": 7}),
        right_body(index=1),
        right_body(message={"tool_calls": [{"id": "a"}]}),
        right_body(message={"tool_calls": [{"function": {"name": "a"}}] * 200}),
        right_body() | {"choices": right_body()["choices"] * 2},
    ],
)
def test_whole_garbage(body: Any) -> None:
    with pytest.raises(EngineFailed) as caught:
        answer(chat_call(), body)
    assert "secret" not in str(caught.value)


def test_a_whole_answer_that_is_too_long() -> None:
    with pytest.raises(EngineFailed, match="too long"):
        answer(chat_call(), b" " * (64 << 20) + b"{}")


def test_whole_errors_under_status_200() -> None:
    with pytest.raises(InvalidRequest) as caught:
        answer(chat_call(), {"object": "error", "message": TOO_LONG, "code": 400})
    assert caught.value.code == "context_length_exceeded"


# Gathering -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("calls", [None, (("get_weather", ARGUMENTS), ("get_time", "{}"))])
def test_a_stream_gathered_is_the_whole_answer(calls: Any, legacy: bool) -> None:
    tools = {"functions": [WEATHER["function"], CLOCK["function"]]} if legacy else {"tools": [WEATHER, CLOCK]}
    call = chat_call(n=2, logprobs=True, top_logprobs=1, **tools)
    sent = said_by("llama-server", call, calls=calls, reasoning="Let me think.")
    mender, gatherer = StreamMender(call, DIALECTS["llama-server"]), Gatherer(2)
    for one in sent:
        for found in mender.feed(event(one)):
            gatherer.add(found)
    mender.end()
    gathered = json.loads(gatherer.body(mender.usage))
    expected, _ = answer(call, whole("llama-server", call, calls=calls, reasoning="Let me think."), "llama-server")
    assert gathered["usage"] == Usage(9, mender.usage.completion).as_json()
    assert mender.usage.completion == 2 * expected["usage"]["completion_tokens"]
    strip = {"usage": 0, "created": 0}
    for one in (gathered, expected):  # the ids of calls are the stand-in's, and differ
        for choice in one["choices"]:
            for made in choice["message"].get("tool_calls", ()):
                del made["id"]
            choice["logprobs"] = None if calls else choice["logprobs"]
    assert gathered | strip == expected | strip
