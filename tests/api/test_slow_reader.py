"""A client that doesn't read: the engine has to wait, and nothing piles up in between."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.rawhttp import Connection, request
from tests.serving import serving

PATH = "/v1/chat/completions"
PIECE = 32 * 1024
ALL = 64 * 1024 * 1024
FEW = 24 * 1024 * 1024
"""What sockets and buffers on the way may hold; a fraction of what the engine has to say."""


class Talker:
    """An engine that has much to say, and counts what it got rid of."""

    def __init__(self) -> None:
        self.said = 0
        self.stuck = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            asked = connection.recv(65536)
            wanted = re.search(rb'"request_id":"([0-9a-f]+)"', asked)
            if asked.startswith(b"POST /v1/chat/completions ") and wanted:
                self._talk(connection, wanted[1].decode())
                return
            if asked.startswith(b"POST"):  # what else it can do is asked when it is attached
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            entry = {"id": "tiny", "object": "model", "owned_by": "vllm", "max_model_len": 4096}
            page = json.dumps({"object": "list", "data": [entry], "version": "0.32.0"}).encode()
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(page), page)
            )

    def _talk(self, connection: socket.socket, name: str) -> None:
        connection.settimeout(1.0)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        choice = {"index": 0, "delta": {"content": "x" * PIECE}, "logprobs": None, "finish_reason": None}
        head = {"id": f"chatcmpl-{name}", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
        event = b"data: " + json.dumps(head | {"choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"
        framed = b"%x\r\n%b\r\n" % (len(event), event)
        try:
            while self.said < ALL:
                connection.sendall(framed)
                self.said += len(framed)
        except TimeoutError:
            self.stuck.set()


@contextmanager
def talking() -> Iterator[Talker]:
    talker = Talker()
    threading.Thread(target=talker.serve, daemon=True).start()
    try:
        yield talker
    finally:
        talker.close()


def test_a_client_that_does_not_read_stops_the_engine(tmp_path: Path) -> None:
    settings = tmp_path / "confide.toml"
    with talking() as engine:
        settings.write_text(f'[[model]]\nid = "tiny"\nurls = ["http://127.0.0.1:{engine.port}/v1"]\ndialect = "vllm"\n')
        with (
            serving(tmp_path, [], "--config", str(settings), model="tiny") as server,
            Connection(server.port) as client,
        ):
            body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}
            fields = {"Content-Type": "application/json", **server.headers}
            client.send(request("POST", PATH, fields, json.dumps(body).encode()))
            assert client.head()[0] == 200
            assert engine.stuck.wait(60)
            assert 0 < engine.said < FEW
