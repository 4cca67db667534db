"""Events sealed the short way say what those sealed the long way say, and no text leaves unsealed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.seal import aci_v2, legacy
from confide.seal.alike import SealedAlike
from confide.seal.client import SealedCall
from confide.seal.errors import SealingFailed
from confide.seal.headers import Offer, negotiate
from confide.seal.service import ResponseSealer
from confide.wire.aci import X25519_SUITE

PATH = "/v1/chat/completions"
NOW = 1_800_000_000.0
SECRET = bytes(range(32))
ACI, OLDER = aci_v2.service_key(X25519_SUITE, SECRET), legacy.service_key("ed25519", SECRET)
BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
KINDS = ["aci", "older"]


def agreed(kind: str) -> tuple[SealedCall, ResponseSealer]:
    if kind == "aci":
        call = aci_v2.seal_request(BODY, PATH, X25519_SUITE, ACI.identity.hex(), NOW)
    else:
        call = legacy.seal_request(BODY, "ed25519", OLDER.identity.hex(), NOW)
    session = negotiate(call.headers.items(), Offer((ACI,), (OLDER,)), PATH, NOW)
    assert session is not None
    return call, session.open(call.body).claimed(new=True).sealer()


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    value = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


END = chunk({}, "stop") + b"data: [DONE]\n\n"
TEXTS = st.text(min_size=1, max_size=12) | st.sampled_from(['"', "\\", '","', "\x00", "}]}", "🦀"])


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(texts=st.lists(TEXTS, max_size=8), size=st.integers(1, 500))
def test_a_client_reads_what_the_engine_wrote(kind: str, texts: list[str], size: int) -> None:
    whole = chunk({"role": "assistant"}) + b"".join(chunk({"content": text}) for text in texts) + END
    call, sealer = agreed(kind)
    out = b"".join(sealer.feed(whole[start : start + size]) for start in range(0, len(whole), size))
    sealer.end()
    assert call.opener.feed(out) == whole
    call.opener.end()


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_leaves_unsealed(kind: str) -> None:
    call, sealer = agreed(kind)
    pieces = [chunk({"content": f"secret {number}"}) for number in range(5)]
    out = [sealer.feed(piece) for piece in [*pieces, b"".join(pieces)]]
    assert b"secret" not in b"".join(out)
    assert call.opener.feed(b"".join(out)) == b"".join(pieces * 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "odd",
    [
        chunk({"content": "a", "refusal": "b"}),
        chunk({"content": "a", "reasoning": "b"}),
        chunk({"content": ""}),
        chunk({"refusal": "b"}),
        chunk({"content": "a"}).replace(b"chatcmpl-1", b"chatcmpl-2"),
        chunk({"content": "a"}).replace(b'"index":0', b'"index":1'),
        chunk({"content": "a"}).replace(b"}]}", b"},{}]}"),
        chunk({"content": "a"}).replace(b"\n\n", b"\r\n\r\n"),
        b": comment\n\n",
    ],
)
def test_what_does_not_look_alike_is_sealed_the_long_way(
    kind: str, odd: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = chunk({"content": "seen"})
    call, sealer = agreed(kind)
    out = b"".join([sealer.feed(piece) for piece in (seen, odd, seen)])
    short = call.opener.feed(out)
    monkeypatch.setattr(SealedAlike, "sealed", lambda *_: b"")
    call, sealer = agreed(kind)
    assert call.opener.feed(b"".join([sealer.feed(piece) for piece in (seen, odd, seen)])) == short


@pytest.mark.parametrize(
    "bad", [b"data: {\n\n", chunk({"content": 7}), chunk({"content": "x"}).replace(b'"x"', b'"\xff"')]
)
def test_what_was_not_understood_ends_the_stream(bad: bytes) -> None:
    _, sealer = agreed("aci")
    sealer.feed(chunk({"content": "seen"}))
    for piece in (bad, chunk({"content": "seen"})):
        with pytest.raises(SealingFailed):
            sealer.feed(piece)


def test_nothing_follows_the_end() -> None:
    _, sealer = agreed("aci")
    sealer.feed(chunk({"content": "seen"}) + END)
    with pytest.raises(SealingFailed):
        sealer.feed(chunk({"content": "seen"}))
