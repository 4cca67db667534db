"""``confide probe cache-isolation`` against servers that keep prompts for each tenant, for all, or not at all."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from confide.cli import console
from confide.cli.files import UsageError
from confide.cli.isolation import KINDS, Judgement, Sample, Samples, Target, judge, measure
from confide.cli.probe import app
from confide.client.address import parse_address
from confide.errors import ConfideError
from confide.verify.fetch.base import Refused, Unreachable

Captured = pytest.CaptureFixture[str]
KEYS = ("sk-one", "sk-other")
COLD = 1.0
"""What a new prompt takes a stand-in, in seconds of its clock."""


class StandIn:
    """A server that remembers prompts.

    Args:
        keeps: "apart", "together" or "nothing".
        counts: whether it tells cached tokens: truly, never, always "none", or truly to the same tenant only.
        spend: takes the time that reading a prompt needs.
        says: what it streams in place of an answer, if anything.
    """

    def __init__(
        self, keeps: str, counts: str = "truly", *, spend: Callable[[float], None], says: bytes | None = None
    ) -> None:
        self.keeps, self.counts, self.spend, self.says = keeps, counts, spend, says
        self.seen: set[tuple[str, str]] = set()
        self.bodies: list[dict[str, Any]] = []
        self.status, self.refusal = 200, b"no"
        self.models: Any = {"object": "list", "data": [{"id": "m"}, {"id": "other"}]}
        self.url = ""

    def answer(self, key: str, body: dict[str, Any]) -> bytes:
        if self.says is not None:
            return self.says
        self.bodies.append(body)
        text = body["messages"][0]["content"]
        mine = (key if self.keeps == "apart" else "", text)
        hit = mine in self.seen and self.keeps != "nothing"
        first = all(known[1] != text for known in self.seen)
        self.spend(0.1 * COLD if hit else COLD)
        self.seen.add(mine)
        if first:
            self.owner = key
        hidden = self.counts == "none" or (self.counts == "own" and key != self.owner)
        cached = 950 if hit and not hidden else 20
        usage: dict[str, Any] = {"prompt_tokens": 1000, "completion_tokens": 1, "total_tokens": 1001}
        usage["prompt_tokens_details"] = None if self.counts == "never" else {"cached_tokens": cached}
        chunks: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {"content": "Yes"}, "finish_reason": None}], "usage": None},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
            {"choices": [], "usage": usage},
        ]
        return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


@contextmanager
def running(stand_in: StandIn) -> Iterator[StandIn]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200, json.dumps(stand_in.models).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            key = self.headers.get("authorization", "").removeprefix("Bearer ")
            if key not in KEYS:
                self.reply(401, b'{"error":{"message":"Who\\u001b[2J are you?"}}')
            elif stand_in.status != 200:
                self.reply(stand_in.status, stand_in.refusal)
            else:
                self.reply(200, stand_in.answer(key, body))

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        stand_in.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield stand_in
        finally:
            server.shutdown()
            thread.join()


def seconds(wanted: float) -> None:
    """Real time, a thirtieth of what was asked for."""
    time.sleep(wanted / 30)


def nothing(_: float) -> None: ...


class Clock:
    """Moves by what the server spends only, so that times are exact."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, wanted: float) -> None:
        self.now += wanted


@pytest.fixture
def keys(tmp_path: Path) -> list[str]:
    """The options that name the files of the keys."""
    options = []
    for name, key in zip("ab", KEYS, strict=True):
        (tmp_path / name).write_text(key + "\n")
        options += [f"--key-{name}-file", str(tmp_path / name)]
    return options


def probe(*arguments: str) -> int:
    """The command, ended as ``confide`` ends its commands."""
    try:
        app(args=["cache-isolation", *arguments], prog_name="confide probe")
    except ConfideError as wrong:
        console.fail(str(wrong))
        return int(getattr(wrong, "exit_code", 1))
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("a command ends by itself")


def measured(keeps: str, counts: str, rounds: int = 4) -> tuple[Judgement, Samples, StandIn]:
    clock = Clock()
    with running(StandIn(keeps, counts, spend=clock.spend)) as stand_in:
        target = Target(parse_address(stand_in.url), KEYS, words=50)
        samples = measure(target, "m", rounds, clock=clock)
    return judge(samples), samples, stand_in


# Real servers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keeps", "counts", "outcome", "by"),
    [
        ("apart", "truly", "isolated", "counts"),
        ("together", "truly", "not isolated", "counts"),
        ("nothing", "truly", "inconclusive", "nothing"),
        ("apart", "never", "isolated", "times"),
        ("together", "never", "not isolated", "times"),
        ("nothing", "never", "inconclusive", "nothing"),
        ("apart", "none", "isolated", "times"),
        ("together", "none", "not isolated", "times"),
        ("together", "own", "inconclusive", "nothing"),  # counts that hide what the times show
    ],
)
def test_what_is_found(keeps: str, counts: str, outcome: str, by: str) -> None:
    found, samples, _ = measured(keeps, counts)
    assert (found.outcome, found.by) == (outcome, by), found.reason
    assert [len(samples[kind]) for kind in KINDS] == [8, 4, 4]
    told = {sample.share for kind in KINDS for sample in samples[kind]}
    assert (told == {None}) is (counts == "never")


def test_how_it_asks() -> None:
    _, samples, stand_in = measured("apart", "truly", rounds=2)
    bodies = stand_in.bodies
    assert len(bodies) == 2 + 2 * 4
    for body in bodies:
        assert (body["model"], body["max_tokens"], body["stream"]) == ("m", 2, True)
        assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    texts = [body["messages"][0]["content"] for body in bodies[2:]]
    for unseen, new, same, other in (texts[:4], texts[4:]):
        assert new == same == other != unseen
        assert len(new.split()) == 50 + 3
    assert len(set(texts)) == 4
    assert len({json.dumps(body) for body in bodies}) == len(bodies)  # no answer can come from a cache of answers
    assert [sample.seconds for sample in samples["same"]] == [pytest.approx(0.1 * COLD)] * 2


@pytest.mark.parametrize(("keeps", "code", "word"), [("apart", 0, "Isolated: "), ("together", 1, "Not isolated: ")])
def test_the_command(keys: list[str], capsys: Captured, keeps: str, code: int, word: str) -> None:
    with running(StandIn(keeps, spend=seconds)) as stand_in:
        assert probe(stand_in.url, *keys, "--rounds", "3", "--words", "20") == code
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[-1].startswith(word)
    assert [line.split("  ")[0] for line in lines[1:4]] == ["a new text", "the same tenant again", "the other tenant"]
    assert [line.split()[-1] for line in lines[1:4]] == ["2%", "95%", "95%" if code else "2%"]
    assert captured.err.splitlines()[0] == "Round 1 of 3 with m"
    assert "sk-" not in captured.out + captured.err


def test_nothing_shown(keys: list[str], capsys: Captured) -> None:
    with running(StandIn("nothing", "never", spend=nothing)) as stand_in:
        assert probe(stand_in.url, *keys, "--rounds", "1", "--words", "20", "--model", "mine") == 5
    assert {body["model"] for body in stand_in.bodies} == {"mine"}
    out = capsys.readouterr().out
    assert "Inconclusive: by times it takes at least 4 rounds." in out
    assert out.count("not told") == 3


def test_json(keys: list[str], capsys: Captured) -> None:
    with running(StandIn("together", spend=nothing)) as stand_in:
        assert probe(stand_in.url, *keys, "--rounds", "2", "--words", "20", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["outcome"], found["by"], found["model"], found["rounds"]) == ("not isolated", "counts", "m", 2)
    assert [len(found["requests"][kind]) for kind in KINDS] == [4, 2, 2]
    assert {(one["prompt"], one["cached"]) for one in found["requests"]["other"]} == {(1000, 950)}


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_nobody_is_there(keys: list[str], capsys: Captured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert probe(f"http://127.0.0.1:{port}", *keys) == 4
    assert probe(f"http://127.0.0.1:{port}", *keys, "--model", "m") == 4
    assert capsys.readouterr().err.count("127.0.0.1 can't be reached") == 2


@pytest.mark.parametrize("models", [{"data": []}, {"data": [7]}, {"data": [{"id": 7}]}, [], {"data": {}}])
def test_a_service_without_models(keys: list[str], capsys: Captured, models: Any) -> None:
    with running(StandIn("apart", spend=nothing)) as stand_in:
        stand_in.models = models
        assert probe(stand_in.url, *keys) == 4
    assert "lists no model" in capsys.readouterr().err


def test_a_key_that_is_none(keys: list[str], tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "b").write_text("sk-wrong")
    with running(StandIn("apart", spend=nothing)) as stand_in:
        assert probe(stand_in.url, *keys) == 4
    assert capsys.readouterr().err == "Error: 127.0.0.1 answered 401: Who [2J are you?\n"


def test_a_refusal_without_words(keys: list[str], capsys: Captured) -> None:
    with running(StandIn("apart", spend=nothing)) as stand_in:
        stand_in.status = 500
        assert probe(stand_in.url, *keys) == 4
    assert capsys.readouterr().err == "Error: 127.0.0.1 answered 500\n"


def test_a_refusal_that_has_no_end(capsys: Captured, keys: list[str]) -> None:
    with running(StandIn("apart", spend=nothing)) as stand_in:
        stand_in.status, stand_in.refusal = 500, b'{"error":{"message":"%s"}}' % (b"x" * 2**20)
        assert probe(stand_in.url, *keys) == 4
    assert capsys.readouterr().err == "Error: 127.0.0.1 answered 500\n"


EVENT = b'data: {"choices":[%s]}\n\n'


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (b"", "it says nothing"),
        (b"data: [DONE]\n\n", "it says nothing"),
        (EVENT % b'7,{"delta":7},{"delta":null},{"delta":{"role":"assistant","content":""}}', "it says nothing"),
        (b'data: {"choices":7}\n\ndata: 7\n\ndata: {\n\n: keep-alive\n\n', "it says nothing"),
        (b"<html>\n\n", "no stream of events"),
        (b"data: " + b"x" * (2**20 + 1), "an event without an end"),
        (b": x\n\n" * 10**6, "it doesn't end"),
        (b'data: {"error":{"message":"Broken."}}\n\n', "failed in the midst of an answer: Broken."),
        (b'data: {"error":"Broken."}\n\n', "failed in the midst of an answer"),
    ],
)
def test_an_answer_that_is_none(says: bytes, words: str) -> None:
    with running(StandIn("apart", spend=nothing, says=says)) as stand_in, pytest.raises(Refused, match=words):
        measure(Target(parse_address(stand_in.url), KEYS, words=20), "m", 1)


@pytest.mark.parametrize(
    "usage",
    [
        b"null",
        b"7",
        b"{}",
        b'{"prompt_tokens":10,"prompt_tokens_details":7}',
        b'{"prompt_tokens":0,"prompt_tokens_details":{"cached_tokens":0}}',
        b'{"prompt_tokens":10,"prompt_tokens_details":{"cached_tokens":true}}',
        b'{"prompt_tokens":10,"prompt_tokens_details":{"cached_tokens":-1}}',
        b'{"prompt_tokens":"10","prompt_tokens_details":{"cached_tokens":5}}',
    ],
)
def test_counts_that_are_none(usage: bytes) -> None:
    says = b'data: {"choices":[{"delta":{"reasoning_content":"x"}}],"usage":%s}\n\n' % usage
    with running(StandIn("apart", spend=nothing, says=says)) as stand_in:
        samples = measure(Target(parse_address(stand_in.url), KEYS, words=20), "m", 1)
    assert samples["same"][0].share is None


def test_a_service_that_hangs_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.recv(100_000)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        target = Target(parse_address(f"http://127.0.0.1:{server.getsockname()[1]}"), KEYS, words=20)
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1 can't be reached"):
            measure(target, "m", 1)
        thread.join()


def test_wrong_usage(keys: list[str], tmp_path: Path, capsys: Captured) -> None:
    assert probe("http://127.0.0.1:1") == 2
    assert probe("ftp://127.0.0.1", *keys) == 2
    assert probe("http://service.example", *keys) == 2
    assert "http://service.example has no TLS: the keys would be sent in clear" in capsys.readouterr().err
    (tmp_path / "b").write_text(KEYS[0])
    assert probe("http://127.0.0.1:1", *keys) == 2
    assert "both files hold the same key" in capsys.readouterr().err
    (tmp_path / "b").write_text("")
    assert probe("http://127.0.0.1:1", *keys) == 2
    (tmp_path / "b").unlink()
    assert probe("http://127.0.0.1:1", *keys) == 2
    assert probe("http://127.0.0.1:1", *keys, "--rounds", "0") == 2


def test_keys_travel_encrypted_or_not_at_all() -> None:
    with pytest.raises(UsageError):
        Target(parse_address("http://192.0.2.1"), KEYS).client(0)
    for url in ("https://192.0.2.1", "https://localhost", "http://[::1]:8000"):
        with Target(parse_address(url), KEYS).client(0) as client:
            assert client.headers["authorization"] == "Bearer sk-one"
    assert "sk-" not in repr(Target(parse_address("https://192.0.2.1"), KEYS))


# The rules, in numbers ------------------------------------------------------------------------------------------------


def samples(new: list[Any], same: list[Any], other: list[Any]) -> Samples:
    """Seconds, or (seconds, cached tokens of 100)."""

    def made(one: Any) -> Sample:
        return Sample(one[0], 100, one[1]) if isinstance(one, tuple) else Sample(one)

    return {"new": [*map(made, new)], "same": [*map(made, same)], "other": [*map(made, other)]}


@pytest.mark.parametrize(
    ("new", "same", "other", "outcome"),
    [
        ([1, 1, 1, 1], [0.1] * 4, [1, 1, 1, 1], "isolated"),
        ([1, 1, 1, 1], [0.1] * 4, [0.1] * 4, "not isolated"),
        ([1, 1, 1, 1], [0.1] * 4, [0.1, 0.1, 1, 1], "not isolated"),
        ([1, 1, 1, 1], [0.1] * 4, [0.1, 1, 1, 1], "inconclusive"),
        ([1, 1, 1, 0.2], [0.1] * 4, [0.1, 1, 1, 1], "isolated"),  # as often as with a new text: it is chance
        ([1, 1, 1, 1], [0.7] * 4, [1] * 4, "isolated"),
        ([1, 1, 1, 1], [0.71] * 4, [1] * 4, "inconclusive"),  # not clearly faster
        ([1, 1, 1, 1], [0.1, 0.1, 1, 1], [1] * 4, "inconclusive"),  # not often enough
        ([0.1, 0.1, 1, 1], [0.1] * 4, [1] * 4, "inconclusive"),  # a new text is as fast
        ([1] * 3, [0.1] * 3, [0.1] * 3, "inconclusive"),  # no sample
    ],
)
def test_by_times(new: list[float], same: list[float], other: list[float], outcome: str) -> None:
    assert judge(samples(new, same, other)).outcome == outcome


@pytest.mark.parametrize(
    ("new", "same", "other", "outcome"),
    [
        ([0, 0], [90], [0], "isolated"),
        ([0, 5], [90], [14], "isolated"),
        ([0, 5], [90], [16], "not isolated"),
        ([0, 0], [90, 90, 0], [0, 0, 0], "isolated"),
        ([0, 0], [0], [90], "not isolated"),  # whoever is served from it, there is a cache
        ([0, 0], [49], [0], "inconclusive"),
        ([0, 0], [90, 0, 0], [0, 0, 0], "inconclusive"),
        ([0, 90], [90], [90], "inconclusive"),  # a new text can't be cached: these counts are none
    ],
)
def test_by_counts(new: list[int], same: list[int], other: list[int], outcome: str) -> None:
    given = samples(*([(1.0, cached) for cached in kind] for kind in (new, same, other)))
    assert judge(given).outcome == outcome


def test_counts_decide_unless_the_times_contradict() -> None:
    assert judge(samples([(1, 0)] * 4, [(0.1, 90)] * 4, [(0.1, 0)] * 4)).outcome == "inconclusive"
    assert judge(samples([(1, 0)] * 4, [(0.1, 90)] * 4, [(1, 90)] * 4)).outcome == "not isolated"
    assert judge(samples([(1, 0)] * 4, [(1, 90)] * 4, [(0.1, 0)] * 4)).outcome == "isolated"


def test_one_request_without_counts_leaves_it_to_the_times() -> None:
    given = samples([(1, 0)] * 4, [(0.1, 90)] * 4, [(1, 0)] * 3 + [1])
    assert judge(given).by == "times"


def test_more_cached_than_there_was() -> None:
    assert Sample(1, 100, 200).share == 1
