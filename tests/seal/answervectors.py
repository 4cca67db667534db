"""The vectors of answers: what a client reads, and what it must not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.seal.opinion import (
    CHAT,
    CLIENT,
    NONCE,
    NOW,
    K,
    Numbers,
    X,
    old_response_aad,
    public,
    request_aad,
    response_aad,
    seal,
)


def sse(*objects: object, done: bool = True) -> str:
    """A stream of chunks."""
    lines = [json.dumps(each, separators=(",", ":"), ensure_ascii=False) for each in objects]
    return "".join(f"data: {line}\n\n" for line in [*lines, *(["[DONE]"] if done else [])])


def chunk(delta: object, finish: str | None = None, index: int = 0, **other: object) -> dict[str, Any]:
    """One chunk of a stream."""
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "model": "demo", "choices": [choice], **other}


def whole(message: object, **other: object) -> dict[str, Any]:
    """A body that isn't streamed."""
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "model": "demo", "choices": [choice], **other}


def answer(name: str, algo: str, text: object, expected: object, **other: object) -> dict[str, Any]:
    """One vector: the answer is the opened text, or ``forged``, or ``truncated``."""
    kind = "error" if expected in ("forged", "truncated") else "opened"
    wire = text if isinstance(text, str) else json.dumps(text, separators=(",", ":"), ensure_ascii=False)
    plain = expected if isinstance(expected, str) else json.dumps(expected, separators=(",", ":"), ensure_ascii=False)
    stream = isinstance(text, str)
    return {
        "name": name,
        "algo": algo,
        "version": "2",
        "path": CHAT,
        "stream": stream,
        "wire": wire,
        **other,
        kind: plain,
    }


@dataclass
class Answers:
    """Seals fields of answers for one algorithm."""

    algo: str
    numbers: Numbers

    def __call__(self, text: str, path: str, **other: object) -> str:
        _, choice, rest = path.split(".", 2)
        old = old_response_aad(self.algo, choice, rest.removeprefix("message.").removeprefix("delta."), **other)
        aad = response_aad(self.algo, path, **other) if self.algo in (X, K) else old
        return seal(self.algo, public(self.algo, CLIENT[self.algo]), text, aad, *self.numbers())


def answers(numbers: Numbers) -> Iterator[dict[str, Any]]:
    """What a client reads, and what it must not."""
    for algo in (X, K, "ecdsa", "ed25519"):
        s = Answers(algo, numbers)
        yield from good_answers(algo, s)
        yield from bad_answers(algo, s)
        yield from bad_streams(algo, s)
    yield from bad_answer_bindings(numbers)


def good_answers(algo: str, s: Answers) -> Iterator[dict[str, Any]]:
    """Whole and streamed, with every kind of field."""
    m, d = "choices.0.message", "choices.0.delta"
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    message = {"role": "assistant", "content": s("hi é", f"{m}.content"), "refusal": None, "tool_calls": calls}
    message |= {"reasoning": s("hm", f"{m}.reasoning"), "reasoning_content": s("hm", f"{m}.reasoning_content")}
    opened = message | {"content": "hi é", "reasoning": "hm", "reasoning_content": "hm"}
    usage = {"usage": {"total_tokens": 3}}
    yield answer(f"{algo}: a body", algo, whole(message, **usage), whole(opened, **usage))
    empty = {"content": s("", f"{m}.content")}
    yield answer(f"{algo}: an empty answer", algo, whole(empty), whole({"content": ""}))
    dropped = {"content": s("a", f"{m}.content"), "extra": "not sealed", "annotations": [], "made": {"a": 1}}
    kept = {"content": "a", "annotations": []}
    yield answer(f"{algo}: members that nobody sealed are left out", algo, whole(dropped), whole(kept))
    sealed = {"content": s("a", f"{m}.content"), "extra": s('[1,"é"]', f"{m}.extra")}
    yield answer(
        f"{algo}: a sealed member that has no name", algo, whole(sealed), whole({"content": "a", "extra": [1, "é"]})
    )
    chunks = [chunk({"role": "assistant"})]
    chunks += [chunk({"content": s(text, f"{d}.content")}) for text in ("one", " two")]
    chunks += [chunk({}, "stop"), {"id": "chatcmpl-1", "model": "demo", "choices": [], "usage": {"total_tokens": 3}}]
    plain = [chunk({"role": "assistant"}), chunk({"content": "one"}), chunk({"content": " two"}), *chunks[3:]]
    yield answer(f"{algo}: a stream", algo, sse(*chunks), sse(*plain))
    bare = chunk({"role": "assistant", "content": ""}), chunk({}, "stop")
    yield answer(f"{algo}: an empty piece that isn't sealed", algo, sse(*bare), sse(*bare))
    crlf = sse(*chunks).replace("\n", "\r\n")
    yield answer(f"{algo}: a stream with CRLF", algo, crlf, sse(*plain))
    spread = ": hello\n\n" + sse(*chunks).replace("data: ", "event: e\ndata:")
    yield answer(
        f"{algo}: comments and other lines", algo, spread, ": hello\n\n" + sse(*plain).replace("data", "event: e\ndata")
    )
    two = [
        chunk({"content": s("b", "choices.1.delta.content")}, "stop", 1),
        chunk({"content": s("a", f"{d}.content")}, "stop"),
    ]
    both = [chunk({"content": "b"}, "stop", 1), chunk({"content": "a"}, "stop")]
    yield answer(f"{algo}: two choices", algo, sse(*two), sse(*both))
    failed = [chunk({"content": s("a", f"{d}.content")}), {"error": {"message": "m", "type": "t"}}]
    opened_failed = [chunk({"content": "a"}), failed[1]]
    for done in (True, False):
        yield answer(f"{algo}: an error, {done=}", algo, sse(*failed, done=done), sse(*opened_failed, done=done))


def bad_answers(algo: str, s: Answers) -> Iterator[dict[str, Any]]:
    """Bodies with a field that isn't the service's."""
    path = "choices.0.message.content"
    text = s("secret", path)
    head = 64 if algo in (X, "ed25519") else 130
    for what, at in {"point": head // 2, "nonce": head, "ciphertext": head + 24, "tag": len(text) - 1}.items():
        flipped = text[:at] + format(int(text[at], 16) ^ 1, "x") + text[at + 1 :]
        yield answer(f"{algo}: a bit of the {what} flipped", algo, whole({"content": flipped}), "forged")
    for what, content in {
        "plain": "secret",
        "empty": "",
        "cut": text[:-2],
        "a list": [{"type": "text", "text": text}],
        "a number": 7,
        "of the reasoning": s("secret", "choices.0.message.reasoning"),
        "of a chunk": s("secret", "choices.0.delta.content") if algo in (X, K) else s("x", "choices.1.delta.content"),
        "of another choice": s("secret", "choices.1.message.content"),
        "of another answer": s("secret", path, id="chatcmpl-2"),
        "of another request": s("secret", path, **({"nonce": "ff" * 32} if algo in (X, K) else {"n": "f" * 16})),
        "of another time": s("secret", path, ts=NOW + 1),
        "of another model": s("secret", path, model="demo2"),
    }.items():
        yield answer(f"{algo}: content {what}", algo, whole({"content": content}), "forged")
    broken = {"content": text, "extra": text}
    yield answer(f"{algo}: a member with a field of another place", algo, whole(broken), "forged")
    body = whole({"content": text})
    body["choices"].append(dict(body["choices"][0]))
    yield answer(f"{algo}: a field twice", algo, body, "forged")
    for wire in ("", "null", "[]", "{", '{"choices":[7]}'):
        yield {**answer(f"{algo}: body {wire!r}", algo, {}, "forged"), "wire": wire}


def bad_streams(algo: str, s: Answers) -> Iterator[dict[str, Any]]:
    """Streams that were cut, put in another order, or added to."""
    path = "choices.0.delta.content"
    first, second = chunk({"content": s("one", path)}), chunk({"content": s("two", path)})
    end = chunk({}, "stop")
    complete = sse(first, second, end)
    for what, wire, error in (
        ("nothing", "", "truncated"),
        ("cut before [DONE]", sse(first, second, end, done=False), "truncated"),
        ("cut within [DONE]", complete[:-1], "truncated"),
        ("cut within a chunk", complete[:40], "truncated"),
        ("[DONE] before the choice has finished", sse(first, second), "truncated"),
        ("one of two choices unfinished", sse(first, end, chunk({}, None, 1)), "truncated"),
        ("a chunk twice", sse(first, first, end), "forged"),
        ("a chunk after the choice has finished", sse(first, end, second), "forged"),
        ("the end before the text", sse(end, first, second), "forged"),
        ("a chunk after [DONE]", complete + sse(second, done=False), "forged"),
        ("[DONE] twice", complete + "data: [DONE]\n\n", "forged"),
        ("a plain chunk", sse(first, chunk({"content": "plain"}), end), "forged"),
        ("a chunk of another choice", sse({**first, "choices": [{**first["choices"][0], "index": 1}]}, end), "forged"),
        ("a chunk of another answer", sse({**first, "id": "chatcmpl-2"}, end), "forged"),
        ("data that isn't JSON", "data: {\n\n", "forged"),
        ("a line that isn't an event's", "date: 1\n\n", "forged"),
    ):
        yield answer(f"{algo}: stream, {what}", algo, wire, error)


def bad_answer_bindings(numbers: Numbers) -> Iterator[dict[str, Any]]:
    """The associated data of answers, member by member, and the wrong way round."""
    path = "choices.0.message.content"
    for algo in (X, K):
        key = public(algo, CLIENT[algo])
        members: dict[str, object] = {"purpose": "aci.e2ee.request.v2", "algo": "x", "model": "d", "id": "", "ts": 0}
        for name, value in {**members, "nonce": NONCE.upper(), "field": "choices.1.message.content"}.items():
            text = seal(algo, key, "a", response_aad(algo, path, **{name: value}), *numbers())
            yield answer(f"{algo}: bound to another {name}", algo, whole({"content": text}), "forged")
        text = seal(algo, key, "a", request_aad(algo, path), *numbers())
        yield answer(f"{algo}: bound like a request", algo, whole({"content": text}), "forged")
    for algo in ("ecdsa", "ed25519"):
        key = public(algo, CLIENT[algo])
        text = seal(algo, key, "a", None, *numbers())
        yield answer(f"{algo}: version 1 as 2", algo, whole({"content": text}), "forged")
        yield answer(f"{algo}: version 1", algo, whole({"content": text}), whole({"content": "a"}), version="1")
