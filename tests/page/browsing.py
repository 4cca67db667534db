"""A browser with one page open, which notes everything that should not happen."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page, Playwright, Request, expect

from tests.conftest import ROOT

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    "--host-resolver-rules=MAP far.example 127.0.0.1",
)
"""Chromium as root, and without its own business on the network. It thinks that this machine is also somewhere else."""
ARTEFACTS = Path(os.environ.get("CONFIDE_PAGE_ARTEFACTS") or ROOT / ".cache" / "page")
"""Screenshots; ignored by git."""
PATIENCE = 20_000
"""Milliseconds that something may take to appear, on a busy machine."""

Size = Literal["desktop", "phone"]
Scheme = Literal["light", "dark"]
SIZES: dict[Size, tuple[int, int]] = {"desktop": (1440, 900), "phone": (390, 844)}


def launched(playwright: Playwright) -> Browser:
    """Debian's Chromium."""
    return playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@dataclass
class Visit:
    """The page as somebody has it open. ``wrong`` collects errors of the console, of scripts and of the policy."""

    page: Page
    origin: str
    wrong: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Note what happens from now on. Refusals that a test asks for are the server's word and not a fault."""
        self.page.on("console", lambda message: self._said(message.type, message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(f"exception: {error}"))
        self.page.on("request", self._requested)

    def _said(self, kind: str, text: str) -> None:
        refused = re.match(r"Failed to load resource: the server responded with a status of [45]\d\d", text)
        if kind in ("error", "warning") and not refused:
            self.wrong.append(f"{kind}: {text}")

    def _requested(self, request: Request) -> None:
        self.requests.append(request.url)

    @property
    def elsewhere(self) -> list[str]:
        """Requests that went to another origin than the server's. Data and blobs go nowhere."""
        own = urlsplit(self.origin).netloc
        parts = (urlsplit(url) for url in self.requests)
        return [part.geturl() for part in parts if part.scheme not in ("data", "blob") and part.netloc != own]

    # What people do --------------------------------------------------------------------------------------------------

    def settled(self, *states: str) -> str:
        """Wait until the verdict is there; which it is."""
        chip = self.page.locator("#chip:not([data-state=busy])")
        chip.wait_for(timeout=PATIENCE)
        state = str(chip.get_attribute("data-state"))
        assert not states or state in states, f"{state}: {self.page.locator('#proof').inner_text()[:1000]}"
        return state

    def say(self, text: str) -> Locator:
        """Send a message; the answer that it gets, which may still be coming."""
        before = self.answers.count()
        self.page.fill("#prompt", text)
        expect(self.page.locator("#send")).to_be_enabled()
        self.page.press("#prompt", "Enter")
        expect(self.answers).to_have_count(before + 1)
        return self.answers.nth(before)

    def answered(self, text: str) -> Locator:
        """Send a message and wait until its answer is complete and its receipt was looked at."""
        answer = self.say(text)
        self.badge(answer)
        return answer

    def order(self, what: str) -> None:
        """From now on, have each request tell the echo engine what to do: see its module."""
        self.page.evaluate(
            """(user) => {
              const stringify = JSON.stringify;
              JSON.stringify = (value, ...rest) => stringify(value?.messages ? { ...value, user } : value, ...rest);
            }""",
            what,
        )

    def badge(self, answer: Locator | None = None) -> str:
        """Wait until the receipt was looked at; what came of it."""
        answer = self.answers.last if answer is None else answer
        badge = answer.locator(".badge:not([data-state=busy])")
        badge.wait_for(timeout=PATIENCE)
        return str(badge.get_attribute("data-state"))

    def unseal(self) -> None:
        """Turn end-to-end encryption off. Nothing shows a page to whom it is connected, so that sending then needs an
        override."""
        self.page.click("#lock")
        self.page.locator("#wish").uncheck()
        self.page.get_by_role("button", name="Done").click()
        self.page.locator("#barrier").wait_for(timeout=PATIENCE)
        assert self.settled() == "open"
        self.override()

    def override(self) -> None:
        """Send anyway."""
        self.page.get_by_role("button", name="Send anyway").click()
        self.page.get_by_label("I understand that nothing I send here is protected.").check()
        self.page.get_by_role("button", name="Send without proof").click()

    def open_proof(self) -> None:
        """Show the panel, where it isn't."""
        if not self.page.locator("#proof").is_visible():
            self.page.click("#chip")

    def steps(self, scope: str = "#proof") -> dict[str, str]:
        """Every step that is shown, and how it looks: pass, fail, open (missing though needed), spare."""
        rows = self.page.locator(f"{scope} .step").evaluate_all(
            "rows => rows.map(row => [row.dataset.step, row.dataset.look])"
        )
        return dict(rows)

    def failed(self, scope: str = "#proof") -> set[str]:
        """The steps that are shown as failed."""
        return {step for step, look in self.steps(scope).items() if look == "fail"}

    @property
    def answers(self) -> Locator:
        """Every answer of the conversation."""
        return self.page.locator(".turn.assistant")


@contextmanager
def visiting(
    browser: Browser,
    origin: str,
    key: str | None,
    *,
    size: Size = "desktop",
    scheme: Scheme = "light",
    **options: Any,
) -> Iterator[Visit]:
    """Open the page; at the end nothing may have gone wrong, and nothing may have gone elsewhere."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
    try:
        visit = Visit(context.new_page(), origin)
        visit.watch()
        visit.page.goto(f"{origin}/#key={key}" if key else f"{origin}/")
        yield visit
        assert not visit.wrong, visit.wrong
        assert not visit.elsewhere, visit.elsewhere
    finally:
        context.close()
