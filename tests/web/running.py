"""Where the page's modules are run: in Node, and in Debian's Chromium. The same input gives the same JSON in both."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Final

import httpx
from playwright.sync_api import sync_playwright

import confide

HERE: Final = Path(__file__).parent
PROOF: Final = Path(confide.__file__).parent / "web" / "proof"
CHROMIUM: Final = "/usr/bin/chromium"
FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
Run = Callable[[str, Any], Any]


def in_node(folder: Path, *missing: str) -> Run:
    """Runs ``outcomes`` or ``talk`` in Node; inputs go through a file in this folder.

    ``missing`` names an algorithm that is taken away, or ``all``.
    """
    node = shutil.which("node")
    assert node is not None, "Node 20 or later is needed"

    def run(what: str, given: Any) -> Any:
        file = folder / "given.json"
        file.write_text(json.dumps(given))
        command = [node, str(HERE / "node.mjs"), str(PROOF), what, str(file), *missing]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return run


class _Handler(SimpleHTTPRequestHandler):
    """Static files of two folders, one input, and everything below /v1 from the service: a page has one origin."""

    protocol_version = "HTTP/1.1"
    extensions_map: ClassVar[dict[str, str]] = {".js": "text/javascript", ".mjs": "text/javascript"}
    given: bytes = b""
    service: str = ""

    def translate_path(self, path: str) -> str:
        name = path.partition("?")[0].lstrip("/")
        return str(PROOF / name.removeprefix("proof/") if name.startswith("proof/") else HERE / name)

    def do_GET(self) -> None:
        if self.path == "/":
            self._send(200, {"Content-Type": "text/html"}, b"<!doctype html><title>proof</title>")
        elif self.path == "/given.json":
            self._send(200, {"Content-Type": "application/json"}, type(self).given)
        elif self.path.startswith("/v1/"):
            self._forward(None)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self._forward(self.rfile.read(int(self.headers["Content-Length"])))

    def _forward(self, body: bytes | None) -> None:
        """In pieces as they come, and cut off where they are."""
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        with httpx.stream(self.command, type(self).service + self.path, headers=headers, content=body) as answer:
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            for piece in answer.iter_raw():
                self.wfile.write(piece)
        self.close_connection = True

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def in_browser() -> Iterator[Run]:
    """Runs the same in a page of Chromium, which asks nobody but this machine. Errors of the page are failures."""
    served = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    origin = f"http://127.0.0.1:{served.server_port}"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
            page = browser.new_page()
            wrong: list[str] = []
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.goto(origin)

            def run(what: str, given: Any) -> Any:
                if what == "talk":
                    _Handler.service, given = given["url"], given | {"url": origin}
                _Handler.given = json.dumps(given).encode()
                module = {"outcomes": "judging", "talk": "talking"}[what]
                made = page.evaluate(
                    """async ([what, module, proof]) => {
                        const given = await (await fetch("/given.json", { cache: "no-store" })).json();
                        const { [what]: call } = await import(`/${module}.mjs`);
                        return JSON.stringify(await call(given, proof));
                    }""",
                    [what, module, f"{origin}/proof"],
                )
                assert not wrong
                return json.loads(made)

            yield run
            browser.close()
    finally:
        served.shutdown()
        thread.join()
        served.server_close()
