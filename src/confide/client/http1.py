"""One HTTP/1.1 connection of a local client: ``h11`` decides what the bytes mean, this moves them, within limits.

Source: RFC 9112. Framing that can be read in two ways is refused by ``h11``, and the connection is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import h11

from confide.errors import ApiError, BodyTooLarge, ConfideError
from confide.wire.failing import OPENAI, ErrorForm

PIECE: Final = 64 * 1024
MOST_HEADERS: Final = 64 * 1024
LINGER: Final = 2.0
"""Seconds."""
_JSON: Final = ("Content-Type", "application/json")
T = TypeVar("T")


class Gone(Exception):
    """The client closed the connection."""


class Refused(ConfideError):
    """Bytes that are no HTTP/1.1 request, or a request that takes too long. The connection can't go on."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its body; header names in lower case."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def one(self, name: str) -> str | None:
        """The value of a header; None where it is missing, and no legal value where it comes more than once."""
        values = [value for key, value in self.headers if key == name]
        return None if not values else values[0] if len(values) == 1 else "\0"


class Peer:
    """The client at the other end. Times are in seconds."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        idle: float,
        request: float,
        write: float,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._idle = idle
        self._request = request
        self._write = write
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEADERS)
        self._is_head = False

    # Requests --------------------------------------------------------------------------------------------------------

    async def head(self) -> Head | None:
        """The next request, or None where none comes.

        Raises:
            Refused: it is none.
        """
        try:
            async with asyncio.timeout(self._idle):
                event = await self._event()
        except TimeoutError:
            return None
        if not isinstance(event, h11.Request):
            return None
        if event.http_version != b"1.1":  # 1.0 has no way to say that an answer was cut
            raise Refused("This proxy speaks HTTP/1.1.", 505)
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
        self._is_head = event.method == b"HEAD"
        return Head(event.method.decode("ascii"), event.target.decode("ascii"), headers)

    async def body(self, most: int) -> bytes:
        """The request's body.

        Raises:
            BodyTooLarge: more than ``most`` bytes.
            Refused: it is cut, or slow.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(self._request):
                if self._http.they_are_waiting_for_100_continue:
                    await self._send(h11.InformationalResponse(status_code=100, headers=[]))
                while True:
                    event = await self._event()
                    if not isinstance(event, h11.Data):
                        break
                    body += event.data
                    if len(body) > most:
                        raise BodyTooLarge(f"The request body is too large: the limit is {most} bytes.")
        except TimeoutError:
            raise Refused("The request took too long to arrive.", 408) from None
        if isinstance(event, h11.ConnectionClosed):
            raise Gone
        return bytes(body)

    async def _event(self) -> Any:
        """The next event; PAUSED can't come, since one request is read at a time."""
        while True:
            try:
                event = self._http.next_event()
                if event is not h11.NEED_DATA:
                    return event
                self._http.receive_data(await self._reader.read(PIECE))
            except h11.RemoteProtocolError as wrong:
                raise Refused("The HTTP request is malformed.", wrong.error_status_hint) from None

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work, and give it up as soon as the client closes the connection.

        Raises:
            Gone: it did.
        """
        task = asyncio.create_task(work)
        left = asyncio.create_task(self._until_gone())
        try:
            await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Gone
            return task.result()
        finally:
            for either in (task, left):
                either.cancel()
            await asyncio.gather(task, left, return_exceptions=True)

    async def _until_gone(self) -> None:
        """Bytes that come early belong to the next request; more of them than a piece can wait in the socket."""
        early = await self._reader.read(PIECE)
        self._http.receive_data(early)
        if early:
            await asyncio.Event().wait()

    def next(self) -> bool:
        """Whether the connection can take another request; it is made ready for it."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    # Answers ---------------------------------------------------------------------------------------------------------

    @property
    def has_begun(self) -> bool:
        """Whether a status was sent that can't be taken back."""
        return self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE)

    async def begin(self, status: int, headers: Iterable[tuple[str, str]], *, is_head: bool = False) -> None:
        """Send the head of an answer, whose length isn't known."""
        self._is_head = is_head
        await self._send(h11.Response(status_code=status, headers=list(headers)))

    async def piece(self, data: bytes) -> None:
        """Send a piece of the body; returns when the client keeps up."""
        if data and not self._is_head:
            await self._send(h11.Data(data=data))

    async def end(self) -> None:
        """Send the end."""
        await self._send(h11.EndOfMessage())

    async def error(self, error: ApiError, *, last: bool = False, form: ErrorForm = OPENAI) -> None:
        """Send an error object in place of an answer; after the ``last`` one the connection is to be closed."""
        body = form.body(error)
        own = ("X-Request-Id", f"req_{uuid.uuid4().hex}")  # SDKs show it; the service's answers bring theirs
        headers = [_JSON, own, ("Content-Length", str(len(body))), *error.headers.items()]
        if last:
            headers.append(("Connection", "close"))
        if self._http.our_state is h11.ERROR:
            raise Gone
        await self._send(h11.Response(status_code=error.status, headers=headers))
        await self.piece(body)
        await self._send(h11.EndOfMessage())
        if last:
            await self.linger()

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
            async with asyncio.timeout(self._write):
                await self._writer.drain()

    async def linger(self) -> None:
        """Read what the client still sends, for a while: closing before would reset the connection, and the client
        would see that in place of the answer."""
        with contextlib.suppress(TimeoutError, OSError):
            self._writer.write_eof()
            async with asyncio.timeout(LINGER):
                while await self._reader.read(PIECE):
                    pass

    def abort(self) -> None:
        """Cut the connection, so that no client can take what it has for a whole answer."""
        self._writer.transport.abort()

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(RuntimeError):
            self._writer.close()
