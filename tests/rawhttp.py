"""HTTP/1.1 by hand, for what a proper client would never send or never show."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

PATIENCE = 5.0
"""Seconds that a read or a write may take. The goal is one second for a whole refusal, with the machine to itself;
tests share two cores with others, and an alarm that rings falsely is soon ignored."""


@dataclass(frozen=True)
class Answer:
    """One answer, read to its end; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    went_on: bool = False
    """It came after a ``100 Continue``."""

    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        """OpenAI's error object, which the body must be: exactly the four keys, a message, nothing around it."""
        assert self.headers.get("content-type") == "application/json", self
        assert self.headers.get("content-length") == str(len(self.body)), self
        value = self.json()
        assert list(value) == ["error"], value
        error: dict[str, Any] = value["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert isinstance(error["message"], str)
        assert 0 < len(error["message"]) < 1000
        assert isinstance(error["type"], str)
        assert error["param"] is None or isinstance(error["param"], str)
        assert error["code"] is None or isinstance(error["code"], str)
        return error


class Connection:
    """One connection to 127.0.0.1."""

    def __init__(self, port: int, patience: float = PATIENCE) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=patience)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        """Write all of it."""
        for piece in pieces:
            self.socket.sendall(piece)

    def send_as_long_as_anybody_reads(self, pieces: Iterable[bytes]) -> None:
        """Write; a server that answers and closes in the middle is within its rights."""
        try:
            for piece in pieces:
                self.socket.sendall(piece)
        except (ConnectionError, BrokenPipeError):
            pass

    def line(self) -> bytes:
        """One line, as it came."""
        return self._file.readline(1 << 16)

    def rest(self) -> bytes:
        """What comes until the server closes."""
        return self._file.read()

    def head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers of the next answer."""
        line = self.line()
        if not line:
            raise ConnectionError("the server closed the connection without an answer")
        assert line.startswith(b"HTTP/1."), line
        status = int(line.split()[1])
        return status, {name.lower(): value for name, value in http.client.parse_headers(self._file).items()}

    def answer(self, *, to: str = "POST") -> Answer:
        """The next answer, with its body."""
        status, headers = self.head()
        went_on = status == 100
        if went_on:
            status, headers = self.head()
        if to == "HEAD" or status == 204:
            return Answer(status, headers, b"", went_on)
        if headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers
            return Answer(status, headers, b"".join(iter(self.chunk, b"")), went_on)
        if "content-length" in headers:
            length = int(headers["content-length"])
            body = self._file.read(length)
            assert len(body) == length, "the body was cut"
            return Answer(status, headers, body, went_on)
        return Answer(status, headers, self.rest(), went_on)

    def chunk(self) -> bytes:
        """One chunk of a chunked body; empty at the end."""
        length = int(self.line().split(b";")[0], 16)
        data = self._file.read(length)
        assert len(data) == length, "the body was cut"
        assert self.line() == b"\r\n"
        return data

    def closed(self) -> bool:
        """Whether the server has closed the connection, with nothing more to say."""
        return self.rest() == b""


def request(
    method: str, path: str, headers: Mapping[str, str | None], body: bytes = b"", version: str = "1.1"
) -> bytes:
    """A request in one piece. A header that is None is left out."""
    fields: dict[str, str | None] = {"Host": "127.0.0.1"}
    if body:
        fields["Content-Length"] = str(len(body))
    fields.update(headers)
    lines = [f"{method} {path} HTTP/{version}", *(f"{k}: {v}" for k, v in fields.items() if v is not None)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
