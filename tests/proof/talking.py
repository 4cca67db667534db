"""An echoing server in a process of its own, and a client that keeps every byte and checks every proof."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coincurve import PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from confide.store.base import Database
from confide.store.keys import KeyStore
from confide.store.sqlite import SqliteFile
from confide.wire import legacy
from confide.wire.aci import Keyset, Report, parse_keyset, parse_report
from confide.wire.receipt import ModelManifest, Receipt, ResponseAborted, parse_receipt
from tests.conftest import ROOT
from tests.rawhttp import Answer, Connection, request
from tests.serving import stop
from tests.simulator.echo_server import MANIFEST_DIGEST

CHAT = "/v1/chat/completions"
PATIENCE = 30.0


def sha256(data: bytes) -> str:
    """As receipts write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


# The server ----------------------------------------------------------------------------------------------------------


@dataclass
class EchoServer:
    """A process, what it writes and where. ``keys`` are two API keys of different owners."""

    folder: Path
    arguments: Sequence[str]
    keys: tuple[str, str]
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    starts: int = field(default=0)

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self.folder / "data"

    @property
    def logs(self) -> list[Path]:
        """What each start wrote, standard output and error."""
        return sorted(self.folder.glob("server-*.log"))

    def start(self) -> None:
        """Start it on the data folder as it is, and wait until it answers."""
        self.starts += 1
        log = self.folder / f"server-{self.starts}.log"
        temporary = self.folder / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
        command = [sys.executable, "-m", "tests.simulator.echo_server", "--data-dir", str(self.data)]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, *self.arguments], env=env, cwd=temporary, stdout=out, stderr=subprocess.STDOUT
            )
        until = time.monotonic() + 60
        while b"Serving " not in (text := log.read_bytes()):
            assert self.process.poll() is None, text.decode()
            assert time.monotonic() < until, text.decode()
            time.sleep(0.01)
        self.port = self._port("Serving ")

    @property
    def metrics_port(self) -> int:
        """Where the metrics of the last start are, if it was asked for them."""
        return self._port("Metrics ")

    def _port(self, said: str) -> int:
        line = next(line for line in self.logs[-1].read_text().splitlines() if line.startswith(said))
        return int(line.rsplit(":", 1)[1].partition("/")[0])

    def kill(self) -> None:
        """``kill -9``."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End it as an operator would."""
        if self.process is not None:
            stop(self.process)  # type: ignore[arg-type]

    def client(self, key: int | None = 0) -> Client:
        """A client with the first key, the second, or none."""
        return Client(self.port, None if key is None else self.keys[key])


@contextmanager
def echoing(folder: Path, *arguments: str, keys: tuple[str, str] | None = None) -> Iterator[EchoServer]:
    """An echo server with a data folder of its own. ``keys`` are there already, where it shares a database."""
    if keys is None:
        keys = two_keys(SqliteFile(folder / "data" / "confide.db"))
    server = EchoServer(folder, arguments, keys)
    server.start()
    try:
        yield server
    finally:
        server.end()


def two_keys(database: Database) -> tuple[str, str]:
    """API keys of different owners."""
    with KeyStore(database) as store:
        return store.create("first"), store.create("second")


# The client ----------------------------------------------------------------------------------------------------------


class Client:
    """Requests over one connection that is kept, and opened anew where the server closes it."""

    def __init__(self, port: int, key: str | None) -> None:
        self.port = port
        self.headers: dict[str, str] = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._connection: Connection | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def connection(self) -> Connection:
        """The connection."""
        if self._connection is None:
            self._connection = Connection(self.port, PATIENCE)
        return self._connection

    def exchange(self, *pieces: bytes, to: str = "POST") -> Answer:
        """Write the pieces of a whole request, read the answer."""
        for attempt in (1, 2):
            try:
                connection = self.connection()
                connection.send_as_long_as_anybody_reads(pieces)
                answer = connection.answer(to=to)
                break
            except ConnectionError:  # the server closed a connection that was idle
                self.close()
                if attempt == 2:
                    raise
        if answer.headers.get("connection") == "close" or b"HTTP/1.0" in pieces[0][:200]:
            self.close()
        return answer

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """``GET``."""
        return self.exchange(request("GET", path, {**self.headers, **(headers or {})}), to="GET")

    def post(self, body: bytes, headers: Mapping[str, str] | None = None, path: str = CHAT) -> Answer:
        """``POST`` of JSON in one piece."""
        fields: dict[str, str | None] = {"Content-Type": "application/json", **self.headers, **(headers or {})}
        return self.exchange(request("POST", path, fields, body))

    def ask(self, **members: Any) -> tuple[bytes, Answer]:
        """A chat request of these members; the body, and the answer."""
        body = json.dumps({"model": "acme/echo-1", **members}).encode()
        return body, self.post(body)

    def json(self, path: str) -> Any:
        """What ``GET`` gives, which must be 200."""
        answer = self.get(path)
        assert answer.status == 200, answer
        return answer.json()

    # Proofs ----------------------------------------------------------------------------------------------------------

    def report(self, nonce: str | None = None) -> Report:
        """The attestation report."""
        return parse_report(self.get("/v1/aci/attestation" + (f"?nonce={nonce}" if nonce else "")).body)

    def keyset(self, digest: str) -> Keyset:
        """A keyset that was used here, and is the one of this digest."""
        answer = self.get(f"/v1/aci/keysets/{digest}")
        assert answer.status == 200, answer
        assert sha256(answer.body) == digest
        return parse_keyset(answer.body)

    def receipt(self, id: str) -> Answer:
        """A receipt, if it is found."""
        return self.get(f"/v1/aci/receipts/{id}")

    def signature(self, id: str, algorithm: str | None = None) -> Answer:
        """The older proof, if it is found."""
        query = f"?model=acme/echo-1&signing_algo={algorithm}" if algorithm else ""
        return self.get(f"/v1/signature/{id}{query}")


def check_receipt(
    document: bytes,
    keyset: Keyset,
    *,
    asked: bytes,
    answered: bytes,
    endpoint: str = CHAT,
    manifest: str = MANIFEST_DIGEST,
) -> Receipt:
    """A receipt of these bytes, signed under this keyset, of a server with this manifest."""
    receipt = parse_receipt(document)
    key = Ed25519PublicKey.from_public_bytes(keyset.receipt_key(receipt.key_id))
    key.verify(receipt.signature, receipt.signed_bytes)
    assert receipt.workload_keyset_digest == keyset.digest()
    assert receipt.request_hash() == sha256(asked)
    assert receipt.response_hash() == sha256(answered)
    assert receipt.facts.events[1] == ModelManifest(digest=manifest)
    assert keyset.subject == "confide-manifest:" + manifest
    assert (receipt.facts.endpoint, receipt.facts.method) == (endpoint, "POST")
    return receipt


def aborted(receipt: Receipt) -> str | None:
    """Why the answer broke off, if it did."""
    return next((event.reason for event in receipt.facts.events if isinstance(event, ResponseAborted)), None)


def check_signature(body: Mapping[str, str], report: Mapping[str, str], *, asked: bytes, answered: bytes) -> None:
    """An older proof of these bytes, by who the flat report says signs."""
    text = f"{hashlib.sha256(asked).hexdigest()}:{hashlib.sha256(answered).hexdigest()}"
    assert list(body) == ["text", "signature", "signing_address", "signing_algo"]
    assert body["text"] == text
    assert body["signing_address"] == report["signing_address"]
    assert body["signing_algo"] == report["signing_algo"]
    if body["signing_algo"] == "ed25519":
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(report["signing_public_key"]))
        key.verify(bytes.fromhex(body["signature"]), text.encode())
        return
    signature = bytes.fromhex(body["signature"].removeprefix("0x"))
    assert signature[64] in (27, 28)
    flat = signature[:64] + bytes([signature[64] - 27])
    found = PublicKey.from_signature_and_message(flat, legacy.message_hash(text), hasher=None).format(compressed=False)
    assert found[1:].hex() == report["signing_public_key"]
    assert legacy.checksummed(legacy.ethereum_address(found[1:])) == report["signing_address"]


def data_lines(stream: bytes) -> Iterator[bytes]:
    """What the events of a stream hold."""
    for event in stream.split(b"\n\n"):
        if event.startswith(b"data: "):
            yield event.removeprefix(b"data: ")


def answer_id(body: bytes) -> str | None:
    """The response id in a body or a stream."""
    for line in [body] if body.startswith(b"{") else data_lines(body):
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and isinstance(value.get("id"), str):
                return str(value["id"])
    return None


def text_of(body: bytes) -> list[str]:
    """What each choice says in the end: its text, or the arguments of its call."""
    said: dict[int, str] = {}
    for line in [body] if body.startswith(b"{") else data_lines(body):
        if line == b"[DONE]":
            continue
        for choice in json.loads(line).get("choices", ()):
            spoken = choice.get("message") or choice.get("delta") or {}
            calls = [call["function"] for call in spoken.get("tool_calls") or ()]
            calls += [spoken["function_call"]] if spoken.get("function_call") else []
            more = (spoken.get("content") or "") + "".join(call.get("arguments") or "" for call in calls)
            said[choice["index"]] = said.get(choice["index"], "") + more
    return [text for _, text in sorted(said.items())]
