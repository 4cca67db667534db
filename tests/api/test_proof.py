"""Every request that was parsed ends in one receipt, over the bytes that were received and written."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tests.api.test_chat import ONE, STREAM, TWO, asked
from tests.doubles import FOREVER, MANIFEST, Client, MemorySink, ScriptedEngine, app_with, chat_body, custodian

from confide.errors import EngineFailed, InvalidRequest, TooManyRequests
from confide.wire import jcs
from confide.wire.legacy import decode_proof, parse_text
from confide.wire.receipt import ModelManifest, Receipt, ResponseAborted


def digest(data: bytes) -> str:
    """As receipts write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def only(sink: MemorySink) -> Receipt:
    """The one receipt, its signature checked."""
    (receipt,) = sink.receipts
    (key,) = custodian().current.keyset.receipt_signing_keys
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public_key)).verify(receipt.signature, receipt.signed_bytes)
    assert receipt.key_id == key.key_id
    assert receipt.workload_keyset_digest == custodian().current.digest
    return receipt


@pytest.mark.parametrize(
    ("engine", "body"),
    [
        (ScriptedEngine(b'{"a":', b"1}"), chat_body()),
        (ScriptedEngine(ONE, TWO), STREAM),
        (ScriptedEngine(ONE, EngineFailed("broke")), STREAM),
        (ScriptedEngine(ONE, RuntimeError("x")), STREAM),
        (ScriptedEngine(EngineFailed("broke")), chat_body()),
        (ScriptedEngine(refusal=InvalidRequest("no")), chat_body()),
        (ScriptedEngine(refusal=TooManyRequests("later", headers={"Retry-After": "1"})), STREAM),
        (ScriptedEngine(refusal=RuntimeError("x")), STREAM),
        (ScriptedEngine(b"{}"), chat_body(model="unknown")),
        (ScriptedEngine(b"{}"), chat_body(n=77)),
        (ScriptedEngine(b"{}"), chat_body(tool_choice="required")),
        (ScriptedEngine(b"{}"), chat_body(provider={"aci_session_ids": ["00" * 32]})),
        (ScriptedEngine(b"{}"), chat_body(provider={"aci_unknown": 1})),
        (ScriptedEngine(b"{}"), chat_body(provider={"aci_verified": True, "order": ["x"]})),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_hashes_are_of_the_bytes(engine: ScriptedEngine, body: bytes, version: str) -> None:
    sink = MemorySink()
    client = asked(app_with(engine, sink=sink), Client(body, version=version))
    receipt = only(sink)
    assert client.headers["x-receipt-id"] == receipt.facts.receipt_id
    assert (receipt.request_hash(), receipt.response_hash()) == (digest(body), digest(client.body))
    assert ModelManifest(digest=jcs.sha256(MANIFEST)) in receipt.facts.events
    aborted = any(isinstance(event, ResponseAborted) for event in receipt.facts.events)
    assert aborted == (client.status == 200 and b'"error"' in client.body)
    asked_for = json.loads(body)["model"]
    assert receipt.facts.model == (asked_for if asked_for == "m" else None)
    assert client.headers["x-aci-version"] == "aci/1"
    assert client.headers["x-aci-keyset-digest"] == custodian().current.digest
    assert client.headers["x-e2ee-applied"] == "false"
    proof = decode_proof(sink.rows[0].legacy or b"")
    text = parse_text(proof.text)
    assert ("sha256:" + text.request_hash, "sha256:" + text.response_hash) == (digest(body), digest(client.body))


def test_the_receipt_is_stored_before_the_last_frame_leaves() -> None:
    """The sink looks at what the client has at that moment."""
    seen: list[bytes] = []

    class Watching(MemorySink):
        async def commit(self, *rows: object) -> None:
            seen.append(client.body)
            await super().commit(*rows)  # type: ignore[arg-type]

    client = Client(STREAM)
    asked(app_with(ScriptedEngine(ONE, TWO), sink=Watching()), client)
    assert seen == [ONE + TWO]
    client = Client(chat_body())
    asked(app_with(ScriptedEngine(b"{}"), sink=Watching()), client)
    assert seen[1:] == [b""]


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", chat_body(messages=3), b""])
def test_what_was_not_parsed_has_no_receipt(body: bytes) -> None:
    sink = MemorySink()
    client = asked(app_with(ScriptedEngine(b"{}"), sink=sink), Client(body))
    assert (client.status, sink.rows) == (400, [])
    assert "x-receipt-id" not in client.headers


def test_an_answer_is_not_completed_when_its_receipt_is_not_stored() -> None:
    sink = MemorySink(broken=True)
    whole = asked(app_with(ScriptedEngine(b'{"secret":1}'), sink=sink), Client(chat_body()))
    assert (whole.status, b"secret" in whole.body) == (503, False)
    stream = asked(app_with(ScriptedEngine(ONE, TWO), sink=sink), Client(STREAM))
    assert b"[DONE]" not in stream.body
    assert b'"error"' in stream.body
    refused = asked(app_with(ScriptedEngine(b"{}"), sink=sink), Client(chat_body(model="unknown")))
    assert refused.status == 503
    assert "x-receipt-id" not in refused.headers | whole.headers


def test_a_client_that_leaves_has_a_receipt_of_what_was_written() -> None:
    async def leave() -> tuple[Client, MemorySink]:
        sink, client = MemorySink(), Client(STREAM)
        task = asyncio.ensure_future(client.of(app_with(ScriptedEngine(ONE, FOREVER), sink=sink)))
        await client.got_something.wait()
        client.gone.set()
        await task
        return client, sink

    client, sink = asyncio.run(leave())
    receipt = only(sink)
    assert receipt.response_hash() == digest(client.body)
    assert receipt.facts.events[-1] == ResponseAborted(reason="client_closed")


def test_a_key_that_requires_sealing_refuses_plaintext() -> None:
    class Key:
        id = "key_1"
        require_e2ee = True

    client = Client(chat_body(), headers={"authorization": "Bearer sk-x"})
    engine = ScriptedEngine(b"{}")
    asked(app_with(engine, find={"sk-x": Key()}.get), client)
    assert (client.status, client.error()["type"]) == (400, "e2ee_header_missing")
    assert engine.calls == []
