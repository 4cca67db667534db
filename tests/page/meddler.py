"""Somebody on the way: passes everything on to the server, and changes what a test says."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Passing:
    """One request and its whole answer, on its way back."""

    method: str
    path: str
    query: str
    request: bytes
    status: int
    headers: Mapping[str, str]
    body: bytes


Meddle = Callable[[Passing], Passing]


@dataclass
class Meddler:
    """Where it listens, which port it passes on to, what it does (nothing by default), and what went through."""

    port: int
    origin: str = ""
    meddle: Meddle = field(default=lambda passing: passing)
    redirect: Callable[[str], str] = field(default=lambda target: target)
    seen: list[Passing] = field(default_factory=list)

    def changing(self, path: str, change: Callable[[bytes], bytes]) -> None:
        """From now on, change the body of every answer to this path (a prefix)."""
        self.meddle = lambda passing: (
            replace(passing, body=change(passing.body)) if passing.path.startswith(path) else passing
        )


@contextmanager
def meddling(port: int) -> Iterator[Meddler]:
    """A proxy in front of the server on this port. It reads an answer to its end before it passes it on."""
    meddler = Meddler(port)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._pass()

        def do_POST(self) -> None:
            self._pass()

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            there = http.client.HTTPConnection("127.0.0.1", meddler.port, timeout=60)
            try:
                names = {name: value for name, value in self.headers.items() if name.lower() != "accept-encoding"}
                there.request(self.command, meddler.redirect(self.path), body, names)
                answer = there.getresponse()
                split = urlsplit(self.path)
                came = dict(answer.getheaders())
                passing = Passing(self.command, split.path, split.query, body, answer.status, came, answer.read())
            finally:
                there.close()
            meddler.seen.append(passing)
            changed = meddler.meddle(passing)
            self.send_response_only(changed.status)
            for name, value in changed.headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            if changed.status not in (204, 304):
                self.send_header("Content-Length", str(len(changed.body)))
            self.end_headers()
            self.wfile.write(changed.body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    meddler.origin = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield meddler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
