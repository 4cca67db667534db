"""A program that stands in for an engine that we start: listens where its words say, and misbehaves as they say.

``python fake_engine.py serve MODEL WORD… --uds PATH`` (or ``--host H --port P``). What it writes down goes to the file
after ``--notes``, a line each: its arguments, its variables' names, the signals that it got.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

SECRET = "what-a-user-asked"
WORDS = sys.argv[1:]


def after(word: str) -> str | None:
    return WORDS[WORDS.index(word) + 1] if word in WORDS else None


def note(**members: object) -> None:
    if notes := after("--notes"):
        with Path(notes).open("a") as out:
            out.write(json.dumps(members) + "\n")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        sick = after("--sick-while")
        status = 503 if sick and Path(sick).exists() else 200
        if self.path == "/health" and "--no-health" in WORDS:
            status = 404
        body = b"{}"
        if self.path == "/v1/models":
            body = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if "--die-when-asked" in WORDS:
            self.wfile.flush()
            os._exit(7)

    def address_string(self) -> str:
        return "-"

    def log_message(self, *_: object) -> None:
        print(f"asked: {SECRET}", flush=True)


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class TcpServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True


def on_term(*_: object) -> None:
    note(signal="TERM")
    if "--stubborn" not in WORDS:
        sys.exit(0)


def main() -> None:
    signal.signal(signal.SIGTERM, on_term)
    note(pid=os.getpid(), words=WORDS, names=sorted(os.environ), values=dict(os.environ))
    if "--helper" in WORDS:
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        note(helper=helper.pid)
    if "--say" in WORDS:
        print(f"loading {after('--say')}\x1b[31m", flush=True)
    if "--exit" in WORDS:
        sys.exit(int(after("--exit") or 0))
    if "--never" in WORDS:
        time.sleep(600)
    path = after("--uds") or after("--host") or ""
    unix = path.startswith("/")
    server = UnixServer(path, Handler) if unix else TcpServer((path, int(after("--port") or 0)), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    while True:
        time.sleep(600)


if __name__ == "__main__":
    main()
