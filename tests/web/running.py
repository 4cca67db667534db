"""Where the page's modules are run: in Node, and in Debian's Chromium. Both get the same input and give the same JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

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


def in_node(folder: Path) -> Run:
    """Runs ``outcomes`` or ``talk`` in Node; inputs go through a file in this folder."""
    node = shutil.which("node")
    assert node is not None, "Node 20 or later is needed"

    def run(what: str, given: Any) -> Any:
        file = folder / "given.json"
        file.write_text(json.dumps(given))
        command = [node, str(HERE / "node.mjs"), str(PROOF), what, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return run


class _Handler(SimpleHTTPRequestHandler):
    """Static files of two folders, and one input."""

    extensions_map = {".js": "text/javascript", ".mjs": "text/javascript", ".json": "application/json", ".html": "text/html"}
    given: bytes = b""

    def translate_path(self, path: str) -> str:
        name = path.partition("?")[0].lstrip("/")
        return str(PROOF / name.removeprefix("proof/") if name.startswith("proof/") else HERE / name)

    def do_GET(self) -> None:
        if self.path in ("/", "/given.json"):
            body, kind = (b"<!doctype html><title>proof</title>", "text/html") if self.path == "/" else (
                type(self).given,
                "application/json",
            )
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def in_browser() -> Iterator[Run]:
    """Runs the same in a page of Chromium, which may ask nobody but this machine; errors in its console are failures."""
    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler))
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
