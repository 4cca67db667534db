"""The byte test: receipts and signatures are of the bytes that a raw socket client sent and received.

1,000 requests, or as many as ``CONFIDE_SOAK`` says. A failure names its number; the same number is the same request.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from confide.seal import aci_v2, legacy
from confide.seal.client import SealedCall
from confide.wire.aci import SECP256K1_SUITE, X25519_SUITE, Keyset
from tests.proof.talking import (
    CHAT,
    Client,
    EchoServer,
    aborted,
    answer_id,
    check_receipt,
    check_signature,
    data_lines,
    echoing,
    text_of,
)
from tests.rawhttp import Answer, Connection, request
from tests.simulator.echo_server import MODEL

COUNT: Final = int(os.environ.get("CONFIDE_SOAK") or 1000)
CLIENTS: Final = 4
ALPHABET: Final = 'abc dé\n\r\t"\\/{}[]:,|\u2028\u2029\u0085ß漢字🦊👩‍👩‍👧\x7f\u200b'
TOOL: Final = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
PICTURE: Final = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SEALS: Final = (
    *(("aci", X25519_SUITE), ("aci", SECP256K1_SUITE)),
    *(("1", "ecdsa"), ("2", "ecdsa"), ("1", "ed25519"), ("2", "ed25519")),
)


@dataclass(frozen=True)
class Known:
    """What clients know of the server before they ask: its attested keys."""

    keyset: Keyset
    flat: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, client: Client) -> Known:
        """Ask it."""
        flat = {
            algorithm: client.json(f"/v1/attestation/report?signing_algo={algorithm}")
            for algorithm in ("ecdsa", "ed25519")
        }
        return cls(client.report().keyset(), flat)

    def seal(self, how: tuple[str, str], body: bytes) -> SealedCall:
        """A sealed request."""
        version, algo = how
        if version == "aci":
            (key,) = (key for key in self.keyset.e2ee_public_keys if key.algo == algo)
            return aci_v2.seal_request(body, CHAT, algo, key.public_key, time.time())
        public, kind = self.flat[algo]["signing_public_key"], "ecdsa" if algo == "ecdsa" else "ed25519"
        return legacy.seal_request(body, kind, public, time.time(), version="1" if version == "1" else "2")  # type: ignore[arg-type]


@dataclass
class Case:
    """One request, drawn by its number."""

    number: int
    random: random.Random = field(init=False)
    members: dict[str, Any] = field(init=False)
    text: str = field(init=False)
    seal: tuple[str, str] | None = None
    garbage: bytes | None = None
    spoiled: bool = False

    def __post_init__(self) -> None:
        self.random = draw = random.Random(f"confide {self.number}")
        self.text = "".join(draw.choices(ALPHABET, k=draw.choice((1, 7, 40, 40, 300))))
        self.members = {"model": MODEL, "seed": self.number, "messages": self._messages()}
        if draw.random() < 0.5:
            self.members["stream"] = draw.random() < 0.9
            if draw.random() < 0.3:
                self.members["stream_options"] = {"include_usage": True}
        if draw.random() < 0.2:
            self.members["n"] = draw.randint(1, 3)
        if draw.random() < 0.2:
            self.members["tools"] = [TOOL]
        if draw.random() < 0.4:
            self.seal = draw.choice(SEALS)
            self.spoiled = draw.random() < 0.05
        if not self.spoiled and draw.random() < 0.25:
            self._go_wrong()

    @property
    def streams(self) -> bool:
        return bool(self.members.get("stream"))

    def _messages(self) -> list[dict[str, Any]]:
        said: Any = self.text
        if self.random.random() < 0.3:
            cut = self.random.randint(0, len(self.text))
            said = [{"type": "text", "text": self.text[:cut]}, {"type": "text", "text": self.text[cut:]}]
        before = [{"role": "system", "content": "Echo."}] if self.random.random() < 0.5 else []
        return [*before, {"role": "user", "content": said}]

    def _go_wrong(self) -> None:
        draw, pieces = self.random, self.random.choice((0, 0, 1, 3, 9))
        wrong: list[Callable[[], object]] = [
            *(lambda what=what: self.members.update(user=f"echo:{what}:{pieces}") for what in ("fail", "crash") * 2),
            *(lambda what=what: self.members.update(user=f"echo:{what}") for what in ("refuse", "busy", "down", "bug")),
            lambda: self.members.update(user="echo:badend"),
            lambda: self.members.update(model="no/such"),
            lambda: self.members.update(n=77),
            lambda: self.members.update(tool_choice="required", tools=None),
            lambda: self.members.update(guided_regex="a+"),
            lambda: self.members["messages"].append(
                {"role": "user", "content": [{"type": "text", "text": ""}, PICTURE]}
            ),
            lambda: self.members.update(provider={"aci_session_ids": ["00" * 32]}),
        ]
        draw.choice(wrong)()
        if self.seal is None and draw.random() < 0.2:
            body = self.plain()
            self.garbage = draw.choice([body[:-2], b"", b"\xff" + body, b"[]", body + b"x", b'{"model":"x"}'])

    def plain(self) -> bytes:
        """The body as some client writes it."""
        draw = self.random
        text = json.dumps(
            self.members,
            ensure_ascii=draw.random() < 0.5,
            indent=draw.choice((None, None, None, 1)),
            separators=draw.choice((None, (",", ":"))),
        )
        return draw.choice((b"", b"", b" \n")) + text.encode() + draw.choice((b"", b"", b"\n"))

    def written(self, headers: Mapping[str, str], body: bytes) -> Iterator[bytes]:
        """The request on the wire, in pieces of odd sizes; the first has the whole head."""
        draw = self.random
        fields: dict[str, str | None] = {"Content-Type": "application/json", **headers}
        how = draw.choice(("whole", "pieces", "chunked", "1.0"))
        if how == "chunked":
            yield request("POST", CHAT, {**fields, "Transfer-Encoding": "chunked"})
            for piece in self.pieces(body):
                yield b"%x\r\n%b\r\n" % (len(piece), piece)
            yield b"0\r\n\r\n"
            return
        yield request(
            "POST", CHAT, {**fields, "Content-Length": str(len(body))}, version="1.0" if how == "1.0" else "1.1"
        )
        yield from [body] if how == "whole" else self.pieces(body)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Pieces of odd sizes."""
        at = 0
        while at < len(data):
            size = self.random.choice((1, 3, 17, 113, 1009))
            yield data[at : at + size]
            at += size

    def said(self) -> str:
        """What the echo says in each choice."""
        return json.dumps({"said": self.text}, ensure_ascii=False) if self.members.get("tools") else self.text


class Talk:
    """One client's part of the test."""

    def __init__(self, server: EchoServer) -> None:
        self.own, self.other, self.nobody = server.client(0), server.client(1), server.client(None)
        self.known = Known.of(self.own)
        self.seen: Counter[str] = Counter()

    def close(self) -> None:
        for client in (self.own, self.other, self.nobody):
            client.close()

    def run(self, case: Case) -> None:
        """Send one request, and check everything about its answer."""
        sealed = None
        body = hashed = case.plain() if case.garbage is None else case.garbage
        headers = dict(self.own.headers)
        if case.seal is not None:
            sealed = self.known.seal(case.seal, body)
            body, headers = sealed.body, headers | sealed.headers
            if case.spoiled:
                body = body.replace(b'"model":"acme', b'"model":"acne', 1) if case.seal[0] != "1" else b"{}"
            hashed = sealed.restored if case.seal[0] == "aci" else body
        answer = self.own.exchange(*case.written(headers, body))
        kind = "sealed" if sealed else "plain"
        receipt = answer.headers.get("x-receipt-id")
        if case.garbage is not None or case.spoiled:
            assert (answer.status, receipt) == (400, None), answer
            self.seen[f"{kind} not parsed"] += 1
            return
        assert receipt is not None, answer
        end = self.checked(case, answer, sealed)
        self.seen[f"{kind} {'stream' if case.streams else 'body'} {end}"] += 1
        self.prove(case, receipt, answer, hashed, end)
        if sealed is not None and case.seal != ("1", "ecdsa") and case.seal != ("1", "ed25519"):
            again = self.own.exchange(*case.written(headers, body))
            assert (again.status, again.error()["type"]) == (400, "e2ee_replay_detected")
            assert "x-receipt-id" not in again.headers

    def checked(self, case: Case, answer: Answer, sealed: SealedCall | None) -> str:
        """How the answer ended; it says what it must say."""
        if answer.status != 200:
            assert answer.headers["x-e2ee-applied"] == "false"
            answer.error()
            return "refused"
        assert answer.headers["x-e2ee-applied"] == str(sealed is not None).lower()
        body = answer.body
        if sealed is not None:
            assert case.text.encode() not in body or len(case.text) < 8
            if case.streams:
                body = b"".join(sealed.opener.feed(piece) for piece in case.pieces(body))
                sealed.opener.end()
            else:
                body = sealed.opener.whole(body)
        if case.streams:
            assert body.endswith(b"data: [DONE]\n\n")
            *_, last, _ = data_lines(body)
            if "error" in json.loads(last):
                return "failed"
        assert text_of(body) == [case.said()] * case.members.get("n", 1)
        return "complete"

    def prove(self, case: Case, id: str, answer: Answer, hashed: bytes, end: str) -> None:
        """The receipt and the older signatures."""
        found = self.own.receipt(id)
        assert found.status == 200, found
        receipt = check_receipt(found.body, self.known.keyset, asked=hashed, answered=answer.body)
        assert receipt.facts.receipt_id == id
        model = case.members["model"]  # a name that is not one of ours is not kept
        assert receipt.facts.model == (None if model == "no/such" else model)
        assert aborted(receipt) == ("engine_failed" if end == "failed" else None)
        named = answer_id(answer.body)
        assert named in (None, receipt.facts.chat_id)
        assert (named is None) <= (end != "complete")
        named = named or id
        assert self.own.receipt(named).body == found.body
        for algorithm in ("ecdsa", "ed25519"):
            proof = self.own.signature(named, algorithm).json()
            check_signature(proof, self.known.flat[algorithm], asked=hashed, answered=answer.body)
        if case.number % 5 == 0:
            self.belongs(id, named)

    def belongs(self, id: str, named: str) -> None:
        """Nobody else learns that it exists."""
        for one in {id, named}:
            assert self.nobody.receipt(one).status == self.nobody.signature(one).status == 401
            theirs, unknown = self.other.receipt(one), self.own.receipt("rcpt-" + "0" * 24)
            assert (theirs.status, theirs.body) == (unknown.status, unknown.body)
            assert theirs.status == self.other.signature(one).status == 404


def test_proofs_are_of_the_bytes(echo: EchoServer) -> None:
    numbers, lock = iter(range(COUNT)), threading.Lock()
    failures: list[tuple[int, str]] = []
    seen: Counter[str] = Counter()

    def work() -> None:
        talk = Talk(echo)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None or len(failures) > 5:
                break
            try:
                talk.run(Case(number))
            except Exception as error:  # noqa: BLE001 - told below, with its number
                failures.append((number, repr(error)[:600]))
                talk.close()
        talk.close()
        with lock:
            seen.update(talk.seen)

    with ThreadPoolExecutor(CLIENTS) as threads:
        for done in [threads.submit(work) for _ in range(CLIENTS)]:
            done.result()
    assert failures == [], "\n".join(map(str, failures))
    assert sum(seen.values()) == COUNT
    kinds = {
        f"{kind} {form} {end}"
        for kind in ("plain", "sealed")
        for form in ("body", "stream")
        for end in ("complete", "refused")
    }
    assert kinds | {"plain stream failed", "sealed stream failed", "plain not parsed", "sealed not parsed"} == set(seen)


# What random requests don't reach ------------------------------------------------------------------------------------


def slow_stream(port: int, headers: Mapping[str, str], body: bytes, pauses: int, pause: float) -> Answer:
    """The answer as a client gets it that hardly reads for a while, and has little room for what it hasn't read."""
    connection = Connection(port, 30)
    connection.close()
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    plain.connect(("127.0.0.1", port))
    plain.settimeout(30)
    connection.socket, connection._file = plain, plain.makefile("rb")
    with connection:
        connection.send(request("POST", CHAT, {"Content-Type": "application/json", **headers}, body))
        status, fields = connection.head()
        received = b""
        for _ in range(pauses):
            time.sleep(pause)
            received += connection.chunk()
        while piece := connection.chunk():
            received += piece
    return Answer(status, fields, received)


def test_comments_to_a_client_that_reads_slowly_are_hashed_in_their_order(tmp_path: Path) -> None:
    """Comments are written beside the events, and both wait while the client doesn't read."""
    with echoing(tmp_path, "--keep-alive", "0.02") as server, server.client() as client:
        keyset = client.report().keyset()
        said = [{"role": "user", "content": "0123456789" * 800_000}]
        body = json.dumps({"model": MODEL, "stream": True, "user": "echo:by:4000", "messages": said}).encode()
        answer = slow_stream(server.port, client.headers, body, pauses=20, pause=0.05)
        found = client.receipt(answer.headers["x-receipt-id"]).body
        check_receipt(found, keyset, asked=body, answered=answer.body)


def test_silence_is_filled_with_comments_that_are_hashed(tmp_path: Path) -> None:
    with echoing(tmp_path, "--keep-alive", "0.02") as server, server.client() as client:
        body, answer = client.ask(messages=[{"role": "user", "content": "0123"}], stream=True, user="echo:slow:100")
        assert b": keep-alive\n\n" in answer.body
        found = client.receipt(answer.headers["x-receipt-id"]).body
        check_receipt(found, client.report().keyset(), asked=body, answered=answer.body)


@pytest.mark.parametrize("after", [0, 1, 5])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_has_a_receipt(echo: EchoServer, after: int, stream: bool) -> None:
    """It knows the receipt's id where it has got the head."""
    with echo.client() as client:
        keyset = client.report().keyset()
        said = [{"role": "user", "content": "0123456789" * 9}]
        body = json.dumps({"model": MODEL, "messages": said, "stream": stream, "user": f"echo:hang:{after}"}).encode()
        with Connection(echo.port) as leaving:
            leaving.send(request("POST", CHAT, {"Content-Type": "application/json", **client.headers}, body))
            received, named = b"", ""
            if stream:
                named = leaving.head()[1]["x-receipt-id"]
            leaving.socket.settimeout(0.3)
            with suppress(TimeoutError):
                while stream:
                    received += leaving.chunk()
                leaving.line()
        time.sleep(0.1)
        found = client.receipt(named or newest(echo)).body
        receipt = check_receipt(found, keyset, asked=body, answered=received)
        assert aborted(receipt) == "client_closed"


def newest(server: EchoServer) -> str:
    """The id of the newest receipt, some moments from now: a client that left at once knows no id of its own."""
    time.sleep(0.3)
    with closing(sqlite3.connect(server.data / "confide.db")) as db:
        return str(db.execute("SELECT receipt_id FROM receipt ORDER BY id DESC LIMIT 1").fetchone()[0])


def test_a_pipelined_client_gets_both_proofs(echo: EchoServer) -> None:
    with echo.client() as client:
        keyset = client.report().keyset()
        bodies = [
            json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": text}]}).encode()
            for text in ("one", "two")
        ]
        fields = {"Content-Type": "application/json", **client.headers}
        with Connection(echo.port) as both:
            both.send(b"".join(request("POST", CHAT, fields, body) for body in bodies))
            for body in bodies:
                answer = both.answer()
                found = client.receipt(answer.headers["x-receipt-id"]).body
                check_receipt(found, keyset, asked=body, answered=answer.body)


def test_the_older_text_may_begin_with_the_model(tmp_path: Path) -> None:
    with echoing(tmp_path, "--signature-model") as server, server.client() as client:
        _, answer = client.ask(messages=[{"role": "user", "content": "a"}])
        text = client.signature(answer.headers["x-receipt-id"]).json()["text"]
        model, asked, answered = text.rsplit(":", 2)
        assert (model, len(asked), len(answered)) == (MODEL, 64, 64)
