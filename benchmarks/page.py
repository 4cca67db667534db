"""How fast the page is: ``python benchmarks/page.py [--write FILE]``, in Chromium, beside the echoing server.

First paint and verdict are told beside an empty page of the same server; the stream of a long answer beside a bare
``fetch`` that reads the same answer and draws nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.page.browsing import launched
from tests.proof.talking import EchoServer, echoing
from tests.simulator.echo_server import MODEL

from confide.api.page import Page as Served

ROUNDS = 5
STREAMED = 3
TOKENS = 10_000
TOKEN = 4
"""Characters of one piece."""
PATIENCE = 300_000
PROSE = "Light scatters. **Short waves** scatter `more` than long ones, by the *fourth* power of their frequency. "
ANSWERS = {
    "prose": (PROSE * 4 + "\n\n") * 100,
    "one paragraph": PROSE.replace("*", "") * 500,
    "a list": f"- {PROSE}\n" * 500,
    "code": "```py\n" + "x = compute(1, 2, 3)  # a comment\n" * 1500 + "```\n",
}
QUESTION = "Say it."
ASKED = f"""(content) => {{
  const stringify = JSON.stringify;
  const messages = [{{ role: "user", content }}];
  JSON.stringify = (value, ...rest) =>
    stringify(value?.messages ? {{ ...value, messages, user: "echo:by:{TOKEN}" }} : value, ...rest);
}}"""
"""Has the echoing server asked for a long answer in small pieces, whatever question the person typed."""
TRACED = ["toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline"]
"""What Chromium writes down while an answer comes: tasks of each thread, with the CPU that they took."""
JANK = 50
"""Milliseconds that a task may take."""
TYPED = """(text) => {
  const field = document.getElementById("prompt");
  field.value = text;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.focus();
}"""
SETTLED = """() => new Promise((resolve) => {
  const settled = () => document.querySelector(".badge:not([data-state=busy])") && resolve(performance.now());
  new MutationObserver(settled).observe(document.querySelector("main"), { subtree: true, attributes: true });
})"""
CLICKED = """(what) => {
  const said = (one) => one.checkVisibility() && one.textContent.trim() === what;
  const found = what.startsWith("#")
    ? document.querySelector(what)
    : [...document.querySelectorAll("button, label")].find(said);
  if (!found || found.disabled) return false;
  found.click();
  return true;
}"""
"""Click a button, a label or a selector, if it is there; whether it was."""
BARE = """async ([body, key]) => {
  const begun = performance.now();
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${key}` };
  const answer = await fetch("/v1/chat/completions", { method: "POST", headers, body });
  for (const reader = answer.body.getReader(); !(await reader.read()).done; );
  return performance.now() - begun;
}"""


@dataclass(frozen=True)
class Streamed:
    """One long answer, in milliseconds. ``cpu`` and ``wall`` are of each task of the page's main thread."""

    whole: float
    bare: float
    cpu: list[float]
    wall: list[float]


def paints(browser: Browser, server: EchoServer) -> tuple[float, float, float]:
    """First paint of the page, until its verdict, and first paint of the smallest page there is (a picture's)."""
    found: list[tuple[float, float]] = []
    empty: list[float] = []
    for _ in range(ROUNDS):
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/#key={server.keys[0]}")
        page.locator("#chip:not([data-state=busy])").wait_for()
        found.append((_paint(page), float(page.evaluate("performance.now()"))))
        icon = page.locator("link[rel=icon]").get_attribute("href")
        page.goto(f"http://127.0.0.1:{server.port}{icon}")
        page.wait_for_timeout(100)
        empty.append(_paint(page))
        context.close()
    first, verdict = (statistics.median(column) for column in zip(*found, strict=True))
    return first, verdict, statistics.median(empty)


def _paint(page: Page) -> float:
    entries: list[float] = page.evaluate("performance.getEntriesByType('paint').map(({ startTime }) => startTime)")
    return min(entries, default=float("nan"))


class Undisturbed:
    """A page that is driven and not listened to.

    For its own pages Playwright has Chromium keep what comes from the network, and decode all of it once more when it
    is complete, in the thread that is measured here.

    Args:
        pump: any page of Playwright's, which lets it read what comes.
    """

    def __init__(self, browser: Browser, pump: Page, url: str) -> None:
        self._browser = browser.new_browser_cdp_session()
        self._pump = pump
        self._count = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._browser.on("Target.receivedMessageFromTarget", self._received)
        self._context = self._browser.send("Target.createBrowserContext")["browserContextId"]
        made = self._browser.send("Target.createTarget", {"url": url, "browserContextId": self._context})
        attached = self._browser.send("Target.attachToTarget", {"targetId": made["targetId"], "flatten": False})
        self._session = attached["sessionId"]
        size = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._send("Emulation.setDeviceMetricsOverride", size)

    def _received(self, event: dict[str, Any]) -> None:
        message = json.loads(event["message"])
        if event["sessionId"] == self._session and "id" in message:
            self._answers[message["id"]] = message

    def _send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._count)
        message = json.dumps({"id": number, "method": method, "params": params})
        self._browser.send("Target.sendMessageToTarget", {"sessionId": self._session, "message": message})
        end = time.monotonic() + PATIENCE / 1000
        while number not in self._answers:
            assert time.monotonic() < end, f"{method} took too long"
            self._pump.wait_for_timeout(20)
        result: dict[str, Any] = self._answers.pop(number)["result"]
        return result

    def evaluate(self, function: str, argument: object = None) -> Any:
        """What a function of JavaScript gives for that argument."""
        expression = f"({function})({json.dumps(argument)})"
        given = self._send("Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True})
        assert "exceptionDetails" not in given, given
        return given["result"].get("value")

    def until(self, function: str, argument: object = None) -> None:
        """Wait until the function gives something true, without asking often."""
        while not self.evaluate(function, argument):
            self._pump.wait_for_timeout(100)

    def enter(self) -> None:
        """Press the key."""
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        self._send("Input.dispatchKeyEvent", {"type": "keyDown", **key})
        self._send("Input.dispatchKeyEvent", {"type": "keyUp", **key})

    def close(self) -> None:
        """Forget it."""
        self._browser.send("Target.disposeBrowserContext", {"browserContextId": self._context})
        self._browser.detach()


def stream(browser: Browser, server: EchoServer, what: str, *, sealed: bool, question: str = QUESTION) -> Streamed:
    """Have a long answer said, and watch the page from the question's sending until the answer's receipt is checked."""
    pump = browser.new_page()
    page = Undisturbed(browser, pump, f"http://127.0.0.1:{server.port}/#key={server.keys[0]}")
    page.until("() => document.querySelector('#chip:not([data-state=busy])') !== null")
    if not sealed:
        _unseal(page)
    text = ANSWERS[what][: TOKENS * TOKEN]
    bare = page.evaluate(BARE, [_body(text), server.keys[0]])
    page.evaluate(ASKED, text)
    page.evaluate(TYPED, question)
    pump.wait_for_timeout(500)
    browser.start_tracing(categories=TRACED)
    begun = page.evaluate("() => performance.now()")
    page.enter()
    whole = page.evaluate(SETTLED) - begun
    cpu, wall = tasks(json.loads(browser.stop_tracing())["traceEvents"])
    assert page.evaluate("() => document.querySelector('.badge').dataset.state") in ("development", "unproven")
    assert len(page.evaluate("() => document.querySelector('.assistant .prose').textContent")) > TOKENS * 3
    page.close()
    pump.close()
    return Streamed(whole, bare, cpu, wall)


def tasks(events: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """How long each task of the page's main thread took, in milliseconds: of CPU, and on the clock.

    A task that Chromium writes down within another one, under a second name, is the same one.
    """
    named = (event for event in events if event.get("name") == "thread_name")
    main = {(one["pid"], one["tid"]) for one in named if one["args"].get("name") == "CrRendererMain"}
    run = [one for one in events if one.get("name") in ("RunTask", "ThreadControllerImpl::RunTask") and "tdur" in one]
    own = [one for one in run if (one["pid"], one["tid"]) in main]
    assert own, "Chromium wrote down no task"
    outer: list[dict[str, Any]] = []
    for one in sorted(own, key=lambda one: (one["ts"], -one["dur"])):
        if not outer or one["ts"] >= outer[-1]["ts"] + outer[-1]["dur"]:
            outer.append(one)
    return [one["tdur"] / 1000 for one in outer], [one["dur"] / 1000 for one in outer]


def _unseal(page: Undisturbed) -> None:
    """Say that nothing is to be sealed, as a person does."""
    page.until(CLICKED, "#lock")
    page.until(CLICKED, "#wish:checked")
    for what in ("Done", "Send anyway …", "I understand that nothing I send here is protected.", "Send without proof"):
        page.until(CLICKED, what)


def _body(text: str) -> str:
    value: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": True}
    return json.dumps(value | {"user": f"echo:by:{TOKEN}"})


def row(name: str, rounds: Sequence[Streamed]) -> str:
    """A line of the table, of a few answers alike."""
    longest = [max(one.cpu) for one in rounds]
    many = sum(spent > JANK for one in rounds for spent in one.cpu)
    whole, bare, ratio, cpu, wall = (
        statistics.median(column)
        for column in zip(
            *((one.whole, one.bare, one.whole / one.bare, max(one.cpu), max(one.wall)) for one in rounds), strict=True
        )
    )
    return (
        f"| {name} | {whole / 1000:.1f} s | {bare / 1000:.1f} s | {ratio:.1f} | {cpu:.0f} ms ({min(longest):.0f} to "
        f"{max(longest):.0f}) | {wall:.0f} ms | {many} of {sum(len(one.cpu) for one in rounds):,} |"
    )


def table() -> str:
    """Measure everything."""
    with tempfile.TemporaryDirectory() as folder, echoing(Path(folder)) as server, sync_playwright() as playwright:
        browser = launched(playwright)
        first, verdict, empty = paints(browser, server)
        found: dict[str, list[Streamed]] = {}
        for _ in range(STREAMED):
            for what, sealed in itertools.product(ANSWERS, (True, False)):
                name = f"{what}, {'sealed' if sealed else 'in clear'}"
                found.setdefault(name, []).append(stream(browser, server, what, sealed=sealed))
            long = stream(browser, server, "prose", sealed=True, question=ANSWERS["prose"][: TOKENS * TOKEN])
            found.setdefault("prose after a question as long, sealed", []).append(long)
        rows = [row(name, rounds) for name, rounds in found.items()]
        version = browser.version
        browser.close()
    cores, load = os.cpu_count(), os.getloadavg()[0]
    return f"""# How fast the page is

`make bench-page`: Chromium {version}, headless and without a GPU, beside the server on one machine of {cores} cores,
whose load average was {load:.1f} at the end (a load above the number of cores stretches every time here). Medians of
{ROUNDS} rounds for the first table.

| what | measured | yardstick | goal |
| --- | ---: | ---: | --- |
| first paint, nothing cached | {first:.0f} ms | {empty:.0f} ms (the icon alone) | under 1,000 ms |
| until the verdict is shown | {verdict:.0f} ms | | |
| the page with all scripts, compressed | {Served.load().size / 1000:.0f} kB | | under 300 kB |

An answer of {TOKENS:,} tokens, each in a chunk of its own, as fast as the server can say it: medians of {STREAMED}
rounds, from the question's sending until the answer's receipt is checked. The yardstick is a bare `fetch` in the same
page that reads the same answer in clear, and draws and checks nothing. The goal is that the longest task is under
{JANK} ms: of CPU, since on a busy machine the clock also tells how long others were let in between. The longest are
those in which Chromium collects what sealed chunks left behind.

| answer | drawn and checked | bare fetch | ratio | the longest task, CPU | on the clock | tasks over {JANK} ms of CPU |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
{chr(10).join(rows)}
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    text = table()
    print(text)
    if asked.write is not None:
        asked.write.write_text(text)


if __name__ == "__main__":
    main()
