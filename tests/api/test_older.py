"""The older surface's signatures where keys outlive the process: made on request, for receipts of our own only."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.doubles import MemorySink

from confide.api.older import OlderSurface
from confide.api.proof import Prover
from confide.attest.base import EvidenceFailed
from confide.errors import NotFound, Unavailable
from confide.identity.custodian import DAY, Custodian
from confide.identity.identity import Terms
from confide.identity.roles import EphemeralKeys, KeyAlgorithm, Secret
from confide.store.receipts import ReceiptRow, StoredReceipt
from confide.wire.digest import BodyDigest
from confide.wire.legacy import Deferred, Proof, decode_proof

ROOT = bytes(range(32))


class Lasting(EphemeralKeys):
    lasting = True


class Away(Lasting):
    """Gives keys once, and then is away."""

    async def key(self, path: str, purpose: str, algorithm: KeyAlgorithm = "secp256k1") -> Secret:
        if "/99/" in path:
            raise EvidenceFailed("the agent is away")
        return await super().key(path, purpose, algorithm)


class Server:
    """One run of a server; another of the same root is its restart."""

    def __init__(self, source: EphemeralKeys, *, now: float = 100 * DAY, model_in_text: bool = False) -> None:
        self.now = now
        self.sink = MemorySink()
        self.custodian = Custodian(source, Terms(subject="test"), self.sink, clock=lambda: self.now, period=DAY)
        asyncio.run(self.custodian.refresh())
        self.prover = Prover(
            self.custodian,
            self.sink,
            manifest="sha256:" + "11" * 32,
            clock=lambda: self.now,
            model_in_text=model_in_text,
        )
        self.older: OlderSurface = self.prover.older()

    def answered(self) -> ReceiptRow:
        record = self.prover.begin(BodyDigest(b"asked"), owner="key_1", endpoint="/v1/x", model="acme/one")
        record.forwarded("sha256:" + "22" * 32)
        record.add(b"answered")
        asyncio.run(record.commit(chat_id="chatcmpl-1"))
        return self.sink.rows[-1]

    def proof(self, row: ReceiptRow, **changed: bytes | None) -> Proof:
        document, older = changed.get("document", row.document), changed.get("legacy", row.legacy)
        assert document is not None
        return asyncio.run(self.older.proof(StoredReceipt(row.receipt_id, row.owner, document, older)))


@pytest.mark.parametrize("model_in_text", [False, True])
def test_they_are_those_that_would_have_been_stored(model_in_text: bool) -> None:
    storing = Server(EphemeralKeys(ROOT), model_in_text=model_in_text)
    lasting = Server(Lasting(ROOT), model_in_text=model_in_text)
    stored, deferred = storing.answered(), lasting.answered()
    assert isinstance(decode_proof(stored.legacy or b""), Proof)
    assert decode_proof(deferred.legacy or b"") == Deferred(epoch=100)
    assert lasting.proof(deferred) == storing.proof(stored)
    assert lasting.proof(deferred).text.startswith("acme/one:") == model_in_text


@pytest.mark.parametrize("days", [0, 1, 5, 400])
def test_a_restart_loses_none(days: int) -> None:
    before = Server(Lasting(ROOT))
    row = before.answered()
    after = Server(Lasting(ROOT), now=(100 + days) * DAY)
    assert after.proof(row) == before.proof(row)


def changed(row: ReceiptRow, **members: object) -> bytes:
    return json.dumps(json.loads(row.document) | members).encode()


def test_nothing_is_signed_that_we_did_not_sign_before() -> None:
    server = Server(Lasting(ROOT))
    row = server.answered()
    receipt = json.loads(row.document)
    events = [event | {"body_hash": "sha256:" + "33" * 32} for event in receipt["event_log"] if "body_hash" in event]
    stranger = Server(Lasting(bytes(32 * [7]))).answered()
    for document in (
        changed(row, event_log=events),
        changed(row, model="acme/two"),
        changed(row, served_at=receipt["served_at"] + 1),
        changed(row, key_id=json.loads(stranger.document)["key_id"]),
        changed(row, signature="00" * 64),
        stranger.document,
        row.document[:-1],
        b"{}",
        b"",
    ):
        with pytest.raises(NotFound):
            server.proof(row, document=document)
    for older in (None, Deferred(epoch=99).encode(), Deferred(epoch=101).encode()):
        with pytest.raises(NotFound):
            server.proof(row, legacy=older)
    assert server.proof(row).text.endswith(":" + "".join(BodyDigest(b"answered").hex))


def test_keys_that_can_not_be_had_now() -> None:
    server = Server(Away(ROOT))
    with pytest.raises(Unavailable):
        server.proof(server.answered(), legacy=Deferred(epoch=99).encode())


def test_keys_that_end_with_the_process_sign_at_once() -> None:
    server = Server(EphemeralKeys())
    row = server.answered()
    assert Server(EphemeralKeys()).proof(row) == server.proof(row)
