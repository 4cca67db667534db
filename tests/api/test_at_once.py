"""Events that an answer takes without waiting: hashed as they are written, and only while nothing else is written."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from starlette.types import Message
from tests.doubles import MemorySink, custodian

from confide.api.answer import Answer
from confide.api.proof import Prover, Record
from confide.api.seen import Seen
from confide.errors import ApiError
from confide.seal.errors import SealingFailed
from confide.wire import jcs
from confide.wire.digest import BodyDigest
from confide.wire.sse import DONE, KEEP_ALIVE

EVENT = b'data: {"choices":[]}\n\n'


class Client:
    """Takes what is sent and what is written at once, in their order."""

    def __init__(self) -> None:
        self.writable = True
        self.got: list[bytes] = []
        self.commented = asyncio.Event()
        self.blocked: asyncio.Event | None = None

    async def send(self, message: Message) -> None:
        self.got.append(message.get("body", b""))
        if self.blocked is not None and message.get("body") == KEEP_ALIVE:
            self.commented.set()
            await self.blocked.wait()

    def write(self, data: bytes) -> None:
        assert self.writable
        self.got.append(data)


class Sealer:
    """Puts its mark on what it seals, keeps the last event back, and breaks for good when it is told to."""

    headers: dict[str, str] = {}  # noqa: RUF012 - the name and the type of the real one

    def __init__(self) -> None:
        self.broken = False

    def feed(self, data: bytes) -> bytes:
        if self.broken or data == b"break":
            self.broken = True
            raise SealingFailed
        return b"" if data == b"not yet" else b"sealed:" + data

    def end(self) -> None: ...


def begun(sink: MemorySink) -> Record:
    prover = Prover(custodian(), sink, manifest=jcs.sha256(b"{}"), clock=lambda: 1_800_000_000.0)
    return prover.begin(BodyDigest(b"{}"), owner=None, endpoint="/v1/chat/completions", model=None)


def answering(client: Client, sink: MemorySink, *, sealer: Any = None, keep_alive: float = 0.0) -> Answer:
    seen = Seen("/v1/chat/completions")
    return Answer(client.send, begun(sink), sealer, seen, keep_alive=keep_alive, straight=client)


def returned(sink: MemorySink) -> str:
    (receipt,) = sink.receipts
    return receipt.response_hash()


@pytest.mark.parametrize("sealer", [None, Sealer()])
def test_what_is_written_at_once_is_what_the_receipt_hashes(sealer: Any) -> None:
    async def main() -> None:
        client, sink = Client(), MemorySink()
        answer = answering(client, sink, sealer=sealer)
        async with answer.stream():
            await answer.frame(b"one")
            assert answer.at_once(b"two")
            assert answer.at_once(b"not yet")
            client.writable = False
            assert not answer.at_once(b"three")
            await answer.frame(b"three")
            client.writable = True
            assert answer.at_once(b"four")
        await answer.finish(DONE)
        mark = b"" if sealer is None else b"sealed:"
        got = [one for one in client.got if one]
        said = [b"one", b"two", *([b"not yet"] if sealer is None else []), b"three", b"four", DONE]
        assert got == [mark + one for one in said]
        assert returned(sink) == f"sha256:{hashlib.sha256(b''.join(got)).hexdigest()}"

    asyncio.run(main())


def test_a_failure_to_seal_is_told_by_the_way_that_can_tell() -> None:
    async def main() -> None:
        client = Client()
        answer = answering(client, MemorySink(), sealer=Sealer())
        async with answer.stream():
            await answer.frame(b"one")
            assert not answer.at_once(b"break")
            assert not answer.at_once(b"two")
            with pytest.raises(ApiError):
                await answer.frame(b"break")
        assert b"".join(client.got) == b"sealed:one"

    asyncio.run(main())


def test_nothing_is_written_at_once_while_a_comment_is() -> None:
    async def main() -> None:
        client, sink = Client(), MemorySink()
        client.blocked = asyncio.Event()
        answer = answering(client, sink, keep_alive=0.01)
        async with answer.stream():
            await answer.frame(b"one")
            await client.commented.wait()
            assert not answer.at_once(EVENT)
            client.blocked.set()
            await answer.frame(EVENT)
        await answer.finish(DONE)
        assert returned(sink) == f"sha256:{hashlib.sha256(b''.join(client.got)).hexdigest()}"

    asyncio.run(main())


def test_on_another_server_everything_waits_its_turn() -> None:
    async def main() -> None:
        client = Client()
        answer = Answer(client.send, begun(MemorySink()), None, Seen("/v1/chat/completions"), keep_alive=0.0)
        async with answer.stream():
            assert not answer.at_once(EVENT)

    asyncio.run(main())
