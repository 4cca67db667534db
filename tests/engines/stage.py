"""A real ``confide serve`` with a real engine that it started, and a client that checks every proof."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

import confide
from confide.client.service import VerifiedService
from confide.verify.policy import ModelsPolicy, Policy, ReceiptsPolicy
from confide.wire.aci import Keyset, parse_keyset
from confide.wire.manifest import Manifest, RemoteEntry, parse_manifest
from confide.wire.receipt import Receipt, RequestForwarded
from tests.engines.kinds import ID, Kind, toml
from tests.engines.ledger import Ledger, Refusal
from tests.proof.talking import check_receipt, data_lines
from tests.serving import RunningServer, serving

Json = dict[str, Any]
HELLO: Final = [{"role": "user", "content": "Say hello."}]
PATIENCE: Final = 300.0


@dataclass(frozen=True)
class Reply:
    """An answer whose receipt was checked."""

    body: bytes
    receipt: Receipt

    @property
    def value(self) -> Any:
        """Of an answer that isn't streamed."""
        return json.loads(self.body)

    @property
    def choice(self) -> Json:
        """Its only choice."""
        choice: Json
        (choice,) = self.value["choices"]
        return choice

    @property
    def text(self) -> str:
        """What that says."""
        text: str = self.choice["message"]["content"]
        return text

    @property
    def chunks(self) -> list[Json]:
        """Of a stream that ended well."""
        *lines, last = data_lines(self.body)
        assert last == b"[DONE]"
        return [json.loads(line) for line in lines]


@dataclass
class Stage:
    """A server, its engine, where results go, and its ``[[model]]`` table."""

    kind: Kind
    server: RunningServer
    ledger: Ledger
    table: Mapping[str, Any]
    _keysets: dict[str, Keyset] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.server.url, headers=self.server.headers, timeout=PATIENCE)
        self.manifest: Manifest = parse_manifest(self.http.get("aci/manifest").content)

    @property
    def model(self) -> RemoteEntry:
        """What the manifest says of the engine."""
        (entry,) = self.manifest.models
        assert isinstance(entry, RemoteEntry)
        return entry

    # Asking ----------------------------------------------------------------------------------------------------------

    def ask(self, path: str = "chat/completions", **members: Any) -> Reply:
        """A request, with defaults that make it short and sure. The answer's receipt is checked.

        Raises:
            Refusal: the server answered with an error; its receipt was checked as well.
        """
        short: Json = {"messages": HELLO, "max_tokens": 12, "temperature": 0} if path == "chat/completions" else {}
        body = json.dumps({"model": ID} | short | members).encode()
        answer = self.http.post(path, content=body, headers={"Content-Type": "application/json"})
        receipt = self._receipt(path, answer, body)
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert set(error) == ({"message", "type"} if path == "messages" else {"message", "type", "param", "code"})
            raise Refusal(answer.status_code, error)
        assert [event for event in receipt.facts.events if isinstance(event, RequestForwarded)]
        return Reply(answer.content, receipt)

    def _receipt(self, path: str, answer: httpx.Response, asked: bytes) -> Receipt:
        digest = answer.headers["X-ACI-Keyset-Digest"]
        if digest not in self._keysets:
            self._keysets[digest] = parse_keyset(self.http.get(f"aci/keysets/{digest}").content)
        found = self.http.get(f"aci/receipts/{answer.headers['X-Receipt-Id']}")
        assert found.status_code == 200
        return check_receipt(
            found.content,
            self._keysets[digest],
            asked=asked,
            answered=answer.content,
            endpoint=f"/v1/{path}",
            manifest=self.manifest.digest(),
        )

    def refused(self, **members: Any) -> Refusal:
        """The error that a request must end with."""
        try:
            self.ask(**members)
        except Refusal as refusal:
            return refusal
        raise AssertionError("it was answered")

    @contextmanager
    def sealing(self) -> Iterator[httpx.Client]:
        """A client that verified the server, seals what it asks, and checks what comes."""
        with self.verified().http_client(timeout=PATIENCE) as client:
            yield client

    def verified(self) -> VerifiedService:
        """The server, as a client sees it that accepts this manifest only."""
        roots = self.server.log.parent / "data" / "dev-pki" / "development-roots.pem"
        policy = Policy(
            roots=("intel", "nvidia"),
            models=ModelsPolicy(manifests=(self.manifest.digest(),)),
            receipts=ReceiptsPolicy(rewritten=True),
        )
        return confide.verified(
            self.server.url, policy, api_key=self.server.key, development=confide.read_development(roots), webpki=False
        )

    # The engine's own processes --------------------------------------------------------------------------------------

    @property
    def weights(self) -> str:
        """What the engine was given."""
        return str(self.table["weights"])

    @property
    def engine(self) -> int:
        """The process that was started; its helpers are below it."""
        for pid in descendants(self.server.process.pid):
            words = command_line(pid)
            if self.weights.encode() in words and not any(word.endswith(b"guard.py") for word in words):
                return pid
        raise AssertionError("the engine doesn't run")

    @property
    def address(self) -> str:
        """Where it listens, as settings name engines."""
        words = [word.decode() for word in command_line(self.engine)]
        for word in ("--uds", "--host"):
            if word in words and (place := words[words.index(word) + 1]).endswith(".sock"):
                return f"unix:{place}"
        return f"http://127.0.0.1:{words[words.index('--port') + 1]}/v1"

    def asked_directly(self) -> httpx.Client:
        """A client for the engine itself."""
        if self.address.startswith("unix:"):
            transport = httpx.HTTPTransport(uds=self.address.removeprefix("unix:"))
            return httpx.Client(transport=transport, base_url="http://engine", timeout=PATIENCE)
        return httpx.Client(base_url=self.address.removesuffix("/v1"), timeout=PATIENCE)

    def working(self) -> bool:
        """Whether the engine computes an answer: by its metrics, or else by the kernel's account of its time."""
        if self.kind.running is not None:
            return self._metric(self.kind.running) > 0
        measure, enough = (
            (self._ticks, 0.1 * os.sysconf("SC_CLK_TCK")) if self.kind.tokens is None else (self.tokens, 1)
        )
        before = measure()
        time.sleep(2)
        return measure() - before >= enough

    def tokens(self) -> float:
        """How many tokens it has made, where it counts them."""
        return 0 if self.kind.tokens is None else self._metric(self.kind.tokens)

    def _metric(self, name: str) -> float:
        with self.asked_directly() as client:
            lines = client.get("/metrics").text.splitlines()
        counts = [float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        assert counts
        return sum(counts)

    def _ticks(self) -> float:
        pids = [self.engine, *descendants(self.engine)]
        return sum(int(ticks) for pid in pids for ticks in stat(pid)[11:13])


PATIENT: Final = {"first_token_timeout": 900.0, "between_tokens_timeout": 900.0}
"""A busy machine must fail no test. `transformers serve` holds text back until a word ends, and words of random weights
may never end, so that all of an answer is one event."""


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@contextmanager
def staged(folder: Path, kind: Kind, table: Mapping[str, Any], ledger: Ledger) -> Iterator[Stage]:
    """``confide serve`` with this table."""
    config = folder / "confide.toml"
    config.write_text(toml({**PATIENT, **table}))
    with serving(folder, (), "--config", str(config), model=ID, patience=kind.patience) as running:
        stage = Stage(kind, running, ledger, table)
        yield stage
        stage.http.close()


# Processes -----------------------------------------------------------------------------------------------------------


def stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the name, or none where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def command_line(pid: int) -> list[bytes]:
    """Its words, or none where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """All processes below this one, parents first."""
    parents = {
        int(entry.name): int(fields[1])
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (fields := stat(int(entry.name)))
    }
    found, look = [], [pid]
    while look:
        below = [child for child, parent in parents.items() if parent in look]
        found += below
        look = below
    return found
