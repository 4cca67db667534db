"""The connection under the application, without a socket: what a head may be, whose turn it is, who waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from confide.api import http1
from confide.api.exchange import LEAVING, STRAIGHT, StraightWriter
from confide.api.head import MAX_HEADER_BYTES
from confide.api.http1 import HttpProtocol

App = Callable[[Scope, Receive, Send], Awaitable[None]]
GET = b"GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


class Wire(asyncio.Transport):
    """Keeps what is written, and what the connection does with its transport."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1234), "sockname": ("127.0.0.1", 80)})
        self.written = b""
        self.reading = True
        self.end = ""
        self.ended = asyncio.Event()

    def write(self, data: Any) -> None:
        assert not self.end, "written after the end"
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.end = self.end or "closed"
        self.ended.set()

    def abort(self) -> None:
        self.end = self.end or "aborted"
        self.ended.set()

    def is_closing(self) -> bool:
        return bool(self.end)


class Told:
    """An application that keeps what it is asked, and answers as it is told."""

    def __init__(self, answer: App | None = None) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if self._answer is not None:
            await self._answer(scope, receive, send)
            return
        self.bodies.append(await read(receive))
        await answer(send, scope["raw_path"])


async def read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message["body"]
        if not message["more_body"]:
            return body


async def answer(send: Send, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    fields = [(b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def opened(app: App) -> tuple[HttpProtocol, Wire]:
    config = Config(app, lifespan="off", log_config=None, proxy_headers=False, interface="asgi3")
    config.load()
    connection, wire = HttpProtocol(config, ServerState(), {}), Wire()
    connection.connection_made(wire)
    return connection, wire


async def settled(turns: int = 20) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def talk(app: App, data: bytes, size: int = 1 << 30) -> Wire:
    """What a connection does with these bytes in pieces of that size."""

    async def main() -> Wire:
        connection, wire = opened(app)
        for start in range(0, len(data), size):
            if not wire.end:
                connection.data_received(data[start : start + size])
                await settled(3)
        await settled()
        return wire

    return asyncio.run(main())


# Heads and bodies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_one_request_in_pieces(size: int) -> None:
    app = Told()
    wire = talk(app, b"\r\nPOST /p HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello", size)
    (scope,) = app.scopes
    assert (scope["method"], scope["path"], scope["http_version"]) == ("POST", "/p", "1.1")
    assert scope["headers"] == [(b"host", b"x"), (b"x-a", b"1"), (b"content-length", b"5")]
    assert (scope["client"], scope["server"], scope["scheme"]) == (("192.0.2.1", 1234), ("127.0.0.1", 80), "http")
    assert (app.bodies, wire.end) == ([b"hello"], "")
    assert wire.written == OK + b"content-length: 2\r\n\r\n/p"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_body_in_chunks(size: int) -> None:
    app = Told()
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire = talk(app, head + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nA: b\r\n\r\n" + GET, size)
    assert (app.bodies, wire.end) == ([b"hello", b""], "")


def test_the_path_is_decoded_and_the_query_is_not() -> None:
    app = Told()
    talk(app, GET)
    (scope,) = app.scopes
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=d")


POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nName : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nN\x00ame: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nName: \x00x\r\n\r\n",
        b"GET / HTTP/1.1\r\nName: a\nOther: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nName: a\rOther: b\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: identity\r\n\r\n",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
        POST + b"Content-Length: 4, 4\r\n\r\nabcd",
        POST + b"Content-Length: +4\r\n\r\nabcd",
        POST + b"Content-Length: 0x4\r\n\r\nabcd",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 99999999999999999999\r\n\r\n",
        POST + b"A: " + b"x" * MAX_HEADER_BYTES,
        POST + b"A: b\r\n" * (MAX_HEADER_BYTES // 6 + 1) + b"\r\n",
    ],
)
@pytest.mark.parametrize("size", [1 << 30, 4096])
def test_what_is_no_request(head: bytes, size: int) -> None:
    app = Told()
    wire = talk(app, head + GET, size)
    assert app.scopes == []
    assert wire.written.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert wire.written.count(b"HTTP/1.1") == 1 + wire.written.count(b"valid HTTP/1.1")
    assert wire.written.endswith(b"}}")
    assert wire.end == "closed"


@pytest.mark.parametrize("begin", [b"\x16\x03\x01\x02", b" GET /", b"\x00", b"GET\x00", b"M-SEARCH * ", b"x" * 30])
def test_what_is_no_request_from_its_first_bytes(begin: bytes) -> None:
    wire = talk(Told(), begin)
    assert wire.written.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert wire.end == "closed"


@pytest.mark.parametrize("body", [b"x\r\n", b"5\nhello\n", b"3\r\nhello\r\n0\r\n\r\n", b"0\r\nbad\r\n\r\n"])
def test_a_body_that_is_no_chunks(body: bytes) -> None:
    app = Told()
    wire = talk(app, POST + b"Transfer-Encoding: chunked\r\n\r\n" + body + GET)
    assert (app.bodies, app.scopes) == ([], [])
    assert wire.written.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert wire.end


# Turns ---------------------------------------------------------------------------------------------------------------


def test_requests_are_answered_in_their_order() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/1":
                await gate.wait()
            await answer(send, scope["raw_path"])

        app = Told(slow)
        connection, wire = opened(app)
        connection.data_received(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % number for number in (1, 2, 3)))
        await settled()
        assert [scope["path"] for scope in app.scopes] == ["/1"]
        gate.set()
        await settled()
        assert wire.written == b"".join(OK + b"content-length: 2\r\n\r\n/%d" % number for number in (1, 2, 3))

    asyncio.run(main())


def test_what_is_sent_before_its_turn_is_bounded() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def slow(_: Scope, __: Receive, send: Send) -> None:
            await gate.wait()
            await answer(send, b"")

        connection, wire = opened(Told(slow))
        connection.data_received(GET)
        connection.data_received(GET * 5000)
        assert not wire.reading
        gate.set()
        while not wire.reading:  # until few enough are left
            await settled()

    asyncio.run(main())


@pytest.mark.parametrize("ending", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"])
def test_a_connection_that_ends(ending: bytes) -> None:
    app = Told()
    wire = talk(app, ending + GET)
    assert (len(app.scopes), wire.end) == (1, "closed")
    assert b"connection: close\r\n" in wire.written


def test_a_client_is_asked_for_a_body_that_is_wanted() -> None:
    head = POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"

    async def uninterested(_: Scope, __: Receive, send: Send) -> None:
        await answer(send, b"no")

    assert talk(Told(), head).written == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert talk(Told(uninterested), head).written.startswith(OK)


def test_a_refused_body_is_read_and_thrown_away() -> None:
    async def refusing(scope: Scope, _: Receive, send: Send) -> None:
        await answer(send, scope["raw_path"])

    wire = talk(Told(refusing), POST + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000 + GET, 10_000)
    assert (wire.written.count(OK), wire.end) == (2, "")


def test_an_ending_server_closes_what_waits_and_answers_what_is_under_way() -> None:
    async def main() -> None:
        idle, quiet = opened(Told())
        idle.shutdown()
        assert quiet.end == "closed"
        gate = asyncio.Event()

        async def slow(_: Scope, __: Receive, send: Send) -> None:
            await gate.wait()
            await answer(send, b"done")

        busy, wire = opened(Told(slow))
        busy.data_received(GET)
        await settled()
        busy.shutdown()
        assert not wire.end
        gate.set()
        await settled()
        assert wire.written.endswith(b"connection: close\r\n\r\ndone")
        assert wire.end == "closed"

    asyncio.run(main())


# Who waits for whom --------------------------------------------------------------------------------------------------


def test_a_client_that_reads_slowly_holds_the_answer_up() -> None:
    async def main() -> None:
        sent: list[int] = []

        async def streaming(_: Scope, __: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for number in range(10):
                await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
                sent.append(number)
                if number == 2:
                    connection.pause_writing()

        connection, _ = opened(Told(streaming))
        connection.data_received(GET)
        await settled()
        assert sent == [0, 1, 2]
        await settled()
        assert sent == [0, 1, 2]
        connection.resume_writing()
        await settled()
        assert sent == list(range(10))

    asyncio.run(main())


def test_an_application_that_reads_slowly_holds_the_body_up() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        app = Told()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await gate.wait()
            app.bodies.append(await read(receive))
            await answer(send, b"")

        connection, wire = opened(slow)
        connection.data_received(POST + b"Content-Length: 3000000\r\n\r\n")
        for _ in range(20):
            connection.data_received(b"x" * 100_000)
        assert not wire.reading
        gate.set()
        await settled()
        assert wire.reading
        connection.data_received(b"x" * 1_000_000)
        await settled()
        assert [len(body) for body in app.bodies] == [3_000_000]

    asyncio.run(main())


def test_a_client_that_leaves_is_told_of_at_once() -> None:
    async def main() -> None:
        left: list[str] = []

        async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
            scope["extensions"][LEAVING](lambda: left.append("called"))
            assert await read(receive) == b""
            left.append((await receive())["type"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"for nobody"})

        connection, wire = opened(Told(waiting))
        connection.data_received(GET)
        await settled()
        assert left == []
        connection.connection_lost(None)
        assert left == ["called"]
        await settled()
        assert left == ["called", "http.disconnect"]
        assert wire.written == b""

    asyncio.run(main())


@pytest.mark.parametrize("limit", ["HEAD_SECONDS", "STALL_SECONDS", "BODY_SECONDS", "IDLE_SECONDS", "WRITE_SECONDS"])
def test_no_client_can_hold_a_connection_for_ever(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, limit, 0.01)

    async def main() -> str:
        async def endless(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/endless":
                await asyncio.Event().wait()
            await read(receive)
            await answer(send, b"")

        connection, wire = opened(endless)
        if limit == "HEAD_SECONDS":
            connection.data_received(GET[:-1])
        elif limit == "IDLE_SECONDS":
            connection.data_received(GET)
        elif limit == "WRITE_SECONDS":
            connection.data_received(b"GET /endless HTTP/1.1\r\n\r\n")
            connection.pause_writing()
        else:
            connection.data_received(POST + b"Content-Length: 5\r\n\r\nhell")
        await wire.ended.wait()
        return wire.end

    assert asyncio.run(main()) in ("closed", "aborted")


# Answers that aren't one ---------------------------------------------------------------------------------------------


async def _nothing(_: Scope, __: Receive, ___: Send) -> None:
    return


async def _cut(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise RuntimeError("the secret prompt")


async def _short(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
    await send({"type": "http.response.body", "body": b"short"})


async def _split(_: Scope, __: Receive, send: Send) -> None:
    await answer(send, b"", (b"x", b"a\r\nset-cookie: b"))


async def _twice(_: Scope, __: Receive, send: Send) -> None:
    start: Message = {"type": "http.response.start", "status": 200, "headers": []}
    await send(start)
    await send(start)


@pytest.mark.parametrize("app", [_nothing, _cut, _short, _split, _twice])
def test_what_is_no_answer_is_cut(app: App, caplog: pytest.LogCaptureFixture) -> None:
    wire = talk(app, GET)
    assert wire.end == "aborted"
    assert b"set-cookie" not in wire.written
    assert not wire.written.endswith(b"0\r\n\r\n")
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("method", "status", "body"), [("HEAD", 200, b""), ("GET", 204, b""), ("GET", 200, b"2\r\nhi\r\n0\r\n\r\n")]
)
def test_bodies_of_answers(method: str, status: int, body: bytes) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"hi", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    wire = talk(app, GET.replace(b"GET", method.encode()))
    assert (wire.written.partition(b"\r\n\r\n")[2], wire.end) == (body, "")


# Writing without waiting ---------------------------------------------------------------------------------------------


def test_pieces_written_at_once_stand_between_those_that_are_sent() -> None:
    async def main() -> None:
        states: list[bool] = []

        async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
            straight: StraightWriter = scope["extensions"][STRAIGHT]
            states.append(straight.writable)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            states.append(straight.writable)
            straight.write(b"at once")
            await send({"type": "http.response.body", "body": b"last", "more_body": False})
            with pytest.raises(RuntimeError):
                straight.write(b"after the end")

        connection, wire = opened(Told(streaming))
        connection.data_received(GET)
        await settled()
        assert states == [False, True]
        assert wire.written.endswith(b"\r\n\r\n5\r\nfirst\r\n7\r\nat once\r\n4\r\nlast\r\n0\r\n\r\n")

    asyncio.run(main())


@pytest.mark.parametrize("why", ["slow", "gone", "not in chunks"])
def test_nothing_is_written_at_once_to_who_does_not_take_it(why: str) -> None:
    async def main() -> None:
        written = asyncio.Event()
        states: list[bool] = []

        async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            await written.wait()
            states.append(scope["extensions"][STRAIGHT].writable)

        connection, wire = opened(Told(streaming))
        connection.data_received(GET.replace(b"1.1", b"1.0") if why == "not in chunks" else GET)
        await settled()
        assert b"first" in wire.written
        if why == "slow":
            connection.pause_writing()
        if why == "gone":
            connection.connection_lost(None)
        written.set()
        await settled()
        assert states == [False]

    asyncio.run(main())


def test_a_client_that_has_caught_up_is_written_to_again() -> None:
    async def main() -> None:
        ways: list[StraightWriter] = []

        async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
            ways.append(scope["extensions"][STRAIGHT])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            await asyncio.Event().wait()

        connection, wire = opened(Told(streaming))
        connection.data_received(GET)
        await settled()
        (way,) = ways
        connection.pause_writing()
        with pytest.raises(RuntimeError):
            way.write(b"too much")
        connection.resume_writing()
        way.write(b"again")
        assert wire.written.endswith(b"\r\n5\r\nfirst\r\n5\r\nagain\r\n")

    asyncio.run(main())
