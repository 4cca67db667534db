"""How fast the page is: ``python benchmarks/page.py [--write FILE]``, in Chromium, beside the echoing server.

First paint and verdict are told beside an empty page of the same server; the stream of a long answer beside a bare
``fetch`` that reads the same answer and draws nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
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
SLOW = f"""() => {{
  const stringify = JSON.stringify;
  JSON.stringify = (value, ...rest) =>
    stringify(value?.messages ? {{ ...value, user: "echo:by:{TOKEN}" }} : value, ...rest);
}}"""
TRACED = ["toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline"]
"""What Chromium writes down while an answer comes: tasks of each thread, with the CPU that they took."""
JANK = 50
"""Milliseconds that a task may take."""
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

    what: str
    sealed: bool
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


def stream(browser: Browser, server: EchoServer, what: str, *, sealed: bool) -> Streamed:
    """Have a long answer said, and watch the page while it comes."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{server.port}/#key={server.keys[0]}")
    page.locator("#chip:not([data-state=busy])").wait_for()
    if not sealed:
        _unseal(page)
    text = ANSWERS[what][: TOKENS * TOKEN]
    bare = page.evaluate(BARE, [_body(text), server.keys[0]])
    page.evaluate(SLOW)
    page.fill("#prompt", text)
    page.wait_for_timeout(500)
    browser.start_tracing(page=page, categories=TRACED)
    begun = page.evaluate("performance.now()")
    page.keyboard.press("Enter")
    page.locator(".badge:not([data-state=busy])").wait_for(timeout=PATIENCE)
    whole = page.evaluate("performance.now()") - begun
    cpu, wall = tasks(json.loads(browser.stop_tracing())["traceEvents"])
    assert page.locator(".badge").get_attribute("data-state") in ("development", "unproven")
    context.close()
    return Streamed(what, sealed, whole, bare, cpu, wall)


def tasks(events: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """How long each task of the page's main thread took, in milliseconds: of CPU, and on the clock."""
    named = (event for event in events if event.get("name") == "thread_name")
    main = {(one["pid"], one["tid"]) for one in named if one["args"].get("name") == "CrRendererMain"}
    run = [one for one in events if one.get("name") in ("RunTask", "ThreadControllerImpl::RunTask") and "tdur" in one]
    own = [one for one in run if (one["pid"], one["tid"]) in main]
    assert own, "Chromium wrote down no task"
    return [one["tdur"] / 1000 for one in own], [one["dur"] / 1000 for one in own]


def _unseal(page: Page) -> None:
    page.click("#lock")
    page.locator("#wish").uncheck()
    page.get_by_role("button", name="Done").click()
    page.get_by_role("button", name="Send anyway").click()
    page.get_by_label("I understand that nothing I send here is protected.").check()
    page.get_by_role("button", name="Send without proof").click()


def _body(text: str) -> str:
    value: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": True}
    return json.dumps(value | {"user": f"echo:by:{TOKEN}"})


def row(one: Streamed) -> str:
    """A line of the table."""
    kind = "sealed" if one.sealed else "in clear"
    long = sum(spent > JANK for spent in one.cpu)
    return (
        f"| {one.what}, {kind} | {one.whole / 1000:.1f} s | {one.bare / 1000:.1f} s | {one.whole / one.bare:.1f} "
        f"| {long} of {len(one.cpu):,} | {max(one.cpu):.0f} ms | {max(one.wall):.0f} ms |"
    )


def table() -> str:
    """Measure everything."""
    with tempfile.TemporaryDirectory() as folder, echoing(Path(folder)) as server, sync_playwright() as playwright:
        browser = launched(playwright)
        first, verdict, empty = paints(browser, server)
        rows = [row(stream(browser, server, what, sealed=sealed)) for what in ANSWERS for sealed in (True, False)]
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

An answer of {TOKENS:,} tokens, each in a chunk of its own, as fast as the server can say it. The yardstick is a bare
`fetch` in the same page that reads the same answer in clear, and draws and checks nothing. The goal is no task over
{JANK} ms: of CPU, since on a busy machine the clock also tells how long others were let in between.

| answer | drawn and checked | bare fetch | ratio | tasks over {JANK} ms of CPU | the longest, CPU | on the clock |
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
