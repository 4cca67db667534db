"""A stand-in for a model hub that has one file: ``owner/name``, of any revision."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """The two requests that a model hub must answer for one file: it sends ``content`` and says ``etag``."""

    file: str
    content: bytes
    etag: str
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.asked.append(f"{self.command} {self.path}")
        known = self.path in [f"/owner/name/resolve/{revision}/{self.file}" for revision in ("main", "v2", COMMIT)]
        self.send_response(200 if known else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        if not known:
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_header("ETag", f'"{self.etag}"')
        self.send_header("X-Linked-Etag", f'"{self.etag}"')
        self.send_header("X-Linked-Size", str(len(self.content)))
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        if with_body:
            self.wfile.write(self.content)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def hub_with(file: str, content: bytes) -> Iterator[tuple[str, type[Hub]]]:
    """Its address, which ``HF_ENDPOINT`` takes, and the handler, whose members a test may change."""
    members = {"file": file, "content": content, "etag": hashlib.sha256(content).hexdigest(), "asked": []}
    handler = type("OneHub", (Hub,), members)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
