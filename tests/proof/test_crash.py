"""The crash test: whoever has read a complete answer finds its receipt, whenever the server was killed.

8 kills, or as many as ``CONFIDE_SOAK`` says divided by 20 (1000 make 50).
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from confide.wire.aci import Keyset
from confide.wire.receipt import parse_receipt
from tests.proof.talking import CHAT, PATIENCE, EchoServer, check_receipt, check_signature, echoing
from tests.rawhttp import Connection, request
from tests.simulator.echo_server import MODEL

KILLS: Final = int(os.environ.get("CONFIDE_SOAK") or 160) // 20
CLIENTS: Final = 8
DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Finished:
    """An answer that a client has read to its end."""

    receipt: str
    asked: bytes
    answered: bytes
    streamed: bool


class Load(threading.Thread):
    """One client: asks and asks until the server is gone."""

    def __init__(self, server: EchoServer, seed: str) -> None:
        super().__init__()
        self.finished: list[Finished] = []
        self.cut = 0
        self.strange: list[str] = []
        self._server = server
        self._random = random.Random(seed)

    def run(self) -> None:
        try:
            while True:
                self._one_connection()
        except OSError:
            return
        except Exception as error:  # noqa: BLE001 - told by the test
            self.strange.append(repr(error))

    def _one_connection(self) -> None:
        with Connection(self._server.port, PATIENCE) as connection:
            for _ in range(self._random.randint(1, 30)):
                self._one(connection)

    def _one(self, connection: Connection) -> None:
        draw = self._random
        stream = draw.random() < 0.5
        members = {"model": MODEL, "stream": stream, "seed": draw.getrandbits(32)}
        said = [{"role": "user", "content": draw.randbytes(draw.randint(1, 60)).hex()}]
        pace = {"user": f"echo:slow:{draw.randint(1, 5)}"} if draw.random() < 0.3 else {}
        body = json.dumps({**members, **pace, "messages": said}).encode()
        fields = {"Content-Type": "application/json", "Authorization": f"Bearer {self._server.keys[0]}"}
        connection.send(request("POST", CHAT, fields, body))
        try:
            status, headers = connection.head()
            assert status == 200, status
            received = b""
            for piece in self._body(connection, headers):
                received += piece
                if received.endswith(DONE) if stream else len(received) == int(headers["content-length"]):
                    self.finished.append(Finished(headers["x-receipt-id"], body, received, stream))
        except (OSError, ValueError, AssertionError):
            self.cut += 1
            raise ConnectionError from None

    @staticmethod
    def _body(connection: Connection, headers: dict[str, str]) -> Iterator[bytes]:
        if "content-length" in headers:
            yield connection._file.read(int(headers["content-length"]))
            return
        while piece := connection.chunk():
            yield piece


@pytest.mark.timeout(60 + 10 * KILLS)
def test_no_complete_answer_loses_its_receipt(tmp_path: Path) -> None:
    draw = random.Random("when to kill")
    finished: list[Finished] = []
    digests: list[str] = []
    cut = 0
    with echoing(tmp_path) as server:
        for kill in range(KILLS):
            with server.client() as client:
                digests.append(client.report().workload_keyset_digest)
            load = [Load(server, f"{kill} {number}") for number in range(CLIENTS)]
            for one in load:
                one.start()
            time.sleep(draw.uniform(0.02, 1.2))
            server.kill()
            for one in load:
                one.join(PATIENCE)
                assert not one.is_alive()
                assert one.strange == []
                cut += one.cut
            new = [answer for one in load for answer in one.finished]
            server.start()
            check(server, new)
            finished += new
        check(server, draw.sample(finished, min(100, len(finished))))
        with server.client() as client:
            assert len({client.keyset(digest).digest() for digest in digests}) == KILLS  # new keys at each start
            assert client.report().workload_keyset_digest not in digests
    assert len({answer.receipt for answer in finished}) == len(finished)
    assert cut > KILLS, "the kills met nobody"
    assert {answer.streamed for answer in finished} == {True, False}
    assert len(finished) > 20 * KILLS
    with sqlite3.connect(server.data / "confide.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


def check(server: EchoServer, finished: list[Finished]) -> None:
    """Each of them has its receipt and its older proof, and both are right."""
    keysets: dict[str, Keyset] = {}
    lost = []
    with server.client() as client:
        for answer in finished:
            found = client.receipt(answer.receipt)
            if found.status != 200:
                lost.append((answer.receipt, found.status))
                continue
            digest = parse_receipt(found.body).workload_keyset_digest
            keysets[digest] = keysets.get(digest) or client.keyset(digest)
            check_receipt(found.body, keysets[digest], asked=answer.asked, answered=answer.answered)
    assert lost == []


def test_the_older_proof_of_before_is_found_and_verifies_under_the_report_of_before(tmp_path: Path) -> None:
    with echoing(tmp_path) as server:
        with server.client() as client:
            reports = [client.json(f"/v1/attestation/report?signing_algo={name}") for name in ("ecdsa", "ed25519")]
            asked, answer = client.ask(messages=[{"role": "user", "content": "before"}], stream=True)
        server.kill()
        server.start()
        with server.client() as client:
            for report in reports:
                proof = client.signature(answer.headers["x-receipt-id"], report["signing_algo"]).json()
                check_signature(proof, report, asked=asked, answered=answer.body)


def test_what_was_sealed_before_is_a_replay_after(tmp_path: Path) -> None:
    """The marks are in the store, and keys with a fixed root outlive the process."""
    from tests.proof.test_bytes import Known

    with echoing(tmp_path, "--root", "5a" * 31 + "01") as server:
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "once"}]}).encode()
        with server.client() as client:
            known = Known.of(client)
            sealed = [known.seal(how, body) for how in (("aci", key.algo) for key in known.keyset.e2ee_public_keys)]
            for one in sealed:
                assert client.post(one.body, one.headers).status == 200
        server.kill()
        server.start()
        with server.client() as client:
            assert client.report().workload_keyset_digest == known.keyset.digest()
            for one in sealed:
                again = client.post(one.body, one.headers)
                assert (again.status, again.error()["type"]) == (400, "e2ee_replay_detected")
