"""Pieces that go straight from the engine's connection to the client's: the same bytes in the same order, the same
count, the same failures and the same patience as by way of the iteration."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.remote.asking import chat_call
from tests.engine.remote.test_remote_alike import FIRST, LAST, SEEN, TEXTS, chunk

from confide.engine.base import ChatCall, EngineInfo, go_straight
from confide.engine.remote import connection as module
from confide.engine.remote.address import parse_address
from confide.engine.remote.channel import Channel
from confide.engine.remote.connection import Connection
from confide.engine.remote.dialect import VLLM
from confide.engine.remote.engine import RemoteEngine, RemoteModel, RemoteReply, Timeouts
from confide.engine.remote.probe import Found
from confide.errors import ApiError

CALL: ChatCall = chat_call(stream=True)
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
PATIENT = Timeouts(connect=5, first=30, between=30, total=60)


def http(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


class Wire(asyncio.Transport):
    """The engine's end: takes the request, and is asked nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.closed = False

    def write(self, data: Any) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.closed = True


@dataclass
class Taker:
    """The client's end: takes what it may at once, by turns, and the rest as it is given."""

    takes: Sequence[bool] = (True,)
    out: list[bytes] = field(default_factory=list)
    straight: int = 0
    offered: int = 0

    def write(self, data: bytes) -> bool:
        self.offered += 1
        if not self.takes[self.offered % len(self.takes)]:
            return False
        self.straight += 1
        self.out.append(data)
        return True

    async def read(self, reply: RemoteReply) -> str | None:
        """Reads to the end, and says what it ended with."""
        try:
            async for frame in reply:
                self.out.append(frame)
        except ApiError as error:
            return str(error)
        return None


class Engine:
    """One engine with one connection, whose bytes the test feeds."""

    def __init__(self, patience: Timeouts = PATIENT) -> None:
        address = parse_address("http://127.0.0.1:1/v1")
        model = RemoteModel(address, timeouts=patience)
        channel = Channel(address, patience, None)
        self.connection, self.wire = Connection(), Wire()
        self.connection.connection_made(self.wire)

        async def new() -> Connection:
            return self.connection

        channel._pool.new = new  # type: ignore[method-assign]
        info = EngineInfo("vllm", "1", 100, 100, VLLM.parameters)
        self._engine = RemoteEngine(model, Found(VLLM, "m", "1"), channel, info)

    async def begun(self, taker: Taker | None) -> RemoteReply:
        """A reply whose first two events have come: the way to the second is what the others look like."""
        asking = asyncio.ensure_future(self._engine.chat(CALL))
        await asyncio.sleep(0)
        self.connection.data_received(HEAD + http(FIRST + SEEN))
        reply = await asking
        if taker is not None:
            go_straight(reply, taker.write)
        return reply


def run(pieces: Sequence[bytes], taker: Taker, *, straight: bool = True, settled: bool = True) -> tuple[Any, ...]:
    """What a client gets of an answer whose bytes come in these pieces, with or without turns of the loop between."""

    async def main() -> tuple[Any, ...]:
        engine = Engine()
        reply = await engine.begun(taker if straight else None)
        reading = asyncio.ensure_future(taker.read(reply))
        for piece in pieces:
            if settled:
                for _ in range(4):
                    await asyncio.sleep(0)
            if not engine.wire.closed:
                engine.connection.data_received(piece)
        engine.connection.connection_lost(None)
        failed = await reading
        await reply.aclose()
        return b"".join(taker.out), reply.usage.completion, failed

    return asyncio.run(main())


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        pieces.append(data[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


EVENTS = (
    TEXTS.map(lambda text: chunk({"content": text}))
    | st.just(b": still there\n\n")
    | st.sampled_from([chunk({"reasoning": "hm"}), chunk({"content": "x", "role": "assistant"}), SEEN + SEEN])
)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(EVENTS, max_size=12),
    st.lists(st.integers(1, 700), min_size=1, max_size=3),
    st.lists(st.booleans(), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from([http(LAST) + END, http(b"data: {oops\n\n") + END, END, b"", b"no chunk\r\n"]),
)
def test_the_way_makes_no_difference(
    events: list[bytes], sizes: list[int], takes: list[bool], settled: bool, end: bytes
) -> None:
    pieces = cut(b"".join(map(http, events)) + end, sizes)
    whole = [*map(http, events), end]  # as engines mostly write it, so that much goes straight
    for given_pieces in (pieces, whole):
        plain = run(given_pieces, Taker(), straight=False, settled=settled)
        assert run(given_pieces, Taker(takes), settled=settled) == plain


def test_what_looks_like_the_last_chunk_goes_straight() -> None:
    taker = Taker()
    pieces = [http(chunk({"content": text})) for text in ("a", "b", "c")]
    out, count, failed = run([*pieces, http(SEEN) + http(SEEN), http(LAST) + END], taker)
    assert (taker.straight, count, failed) == (4, 6, None)
    texts = b"".join(chunk({"content": text}) for text in ("seen", "a", "b", "c", "seen", "seen"))
    assert out == FIRST + texts + LAST.removesuffix(b"data: [DONE]\n\n")


def test_nothing_goes_straight_past_what_waits() -> None:
    """A client that takes nothing at once gets all by the iteration; while it is busy there, nothing is offered."""

    async def main() -> None:
        engine, taker = Engine(), Taker()
        reply = await engine.begun(taker)
        frames = aiter(reply)
        assert [await anext(frames), await anext(frames)] == [FIRST, SEEN]
        engine.connection.data_received(http(chunk({"content": "while nobody waits"})))
        assert taker.offered == 0
        assert await anext(frames) == chunk({"content": "while nobody waits"})
        waiting = asyncio.ensure_future(anext(frames))
        await asyncio.sleep(0)
        engine.connection.data_received(http(chunk({"content": "straight"})))
        engine.connection.data_received(http(chunk({"role": "assistant", "content": "a look is needed"})))
        engine.connection.data_received(http(chunk({"content": "behind it"})))
        assert taker.out == [chunk({"content": "straight"})]
        assert b"a look is needed" in await waiting
        assert await anext(frames) == chunk({"content": "behind it"})
        await reply.aclose()

    asyncio.run(main())


def test_a_client_that_reads_slowly_still_holds_the_engine_up() -> None:
    async def main() -> None:
        engine, taker = Engine(), Taker([False])
        reply = await engine.begun(taker)
        frames = aiter(reply)
        for _ in range(2):
            await anext(frames)
        piece = chunk({"content": "x" * 30_000})
        for _ in range(10):
            engine.connection.data_received(http(piece))
        assert not engine.wire.reading
        assert await anext(frames) == piece
        assert engine.wire.reading
        await reply.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(("between", "total", "patience"), [(30, 60, 30), (60, 30, 30), (40, 1000, 40)])
def test_each_piece_is_waited_for_anew_but_never_beyond_the_total(
    between: float, total: float, patience: float
) -> None:
    async def main() -> None:
        engine, taker = Engine(Timeouts(connect=5, first=5, between=between, total=total)), Taker()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        reply = await engine.begun(taker)
        reading = asyncio.ensure_future(taker.read(reply))
        for _ in range(4):
            await asyncio.sleep(0)
        connection = engine.connection
        for number in range(3):
            connection._until = 0.0
            before = loop.time()
            connection.data_received(http(SEEN))
            assert taker.straight == number + 1
            latest = loop.time() + between if between < total else begun + total + 1
            assert min(before + between, begun + total) <= connection._until <= latest
            assert connection._until - before <= patience + 1
        connection._until = 0.0
        connection._look()
        assert "stopped in the middle" in str(await reading)
        await reply.aclose()

    asyncio.run(main())


def test_a_stream_without_end_goes_straight_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_STREAM", 10 * len(SEEN))
    taker = Taker()
    *_, failed = run([http(SEEN)] * 50 + [http(LAST) + END], taker)
    assert taker.straight == 11
    assert failed is None, "the bound of the channel, which is as large, was not made smaller here"


def test_what_a_reply_without_that_way_is_offered_it_ignores() -> None:
    go_straight(object(), lambda data: True)  # type: ignore[arg-type]


def test_a_reply_that_was_closed_takes_nothing() -> None:
    async def main() -> None:
        engine, taker = Engine(), Taker()
        reply = await engine.begun(taker)
        reading = asyncio.ensure_future(taker.read(reply))
        for _ in range(4):
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await reply.aclose()
        assert engine.wire.closed
        engine.connection.data_received(http(SEEN))
        assert taker.offered == 0

    asyncio.run(main())
