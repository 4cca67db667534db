"""What a server says on its terminal: that it is ready, and how to ask it. Needs no library of the command line."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, field
from typing import Final, Literal

DEVELOPMENT: Final = (
    "Development evidence: attestation reports are signed by a root that was made on this machine.",
    "They show that the protocol works, not that hardware protects anything. Clients must name the root to accept it.",
)
"""What ``--tee dev`` means."""

Style = Literal["error", "warning", "good", "strong", "faint"]
_CODES: Final[dict[Style, str]] = {"error": "1;31", "warning": "33", "good": "1;32", "strong": "1", "faint": "2"}
"""ECMA-48, 8.3.117 (SGR)."""


def clean(text: str) -> str:
    """Foreign text as it may reach a terminal: line ends and tabs stay, other control characters become blanks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)


def note(text: str, style: Style, *, styled: bool) -> None:
    """One line on stderr."""
    text = clean(text)
    print(f"\x1b[{_CODES[style]}m{text}\x1b[0m" if styled else text, file=sys.stderr, flush=True)  # noqa: T201


def fail(text: str, *, styled: bool) -> None:
    """One red line on stderr."""
    note(f"Error: {' '.join(text.split())}", "error", styled=styled)


@dataclass(frozen=True, slots=True)
class Announcement:
    """What to say when the server answers.

    Attributes:
        model: the first that it serves.
        key: one that was made for this start, to be shown.
        development: whether evidence is.
        page: whether there is a page for browsers.
        examples: whether to print lines for a shell.
        auth: whether keys are asked for.
        styled: whether the terminal shows colours, and wants to.
    """

    model: str
    key: str | None = field(repr=False)
    development: bool
    page: bool
    examples: bool
    auth: bool
    styled: bool = False

    def __call__(self, base_url: str) -> None:
        """Say it, with the URL under which clients on this machine reach the server."""
        root = base_url.rstrip("/").removesuffix("/v1")
        for line in DEVELOPMENT if self.development else ():
            self._note(line, "warning")
        self._note(f"Serving {self.model} on {root}/v1  (Ctrl-C ends it)", "good")
        if self.page:
            self._note(f"In a browser: {page_link(root, self.key)}", "strong")
        if self.examples:
            for line in try_it(root, self.model, self.key):
                print(clean(line), flush=True)  # noqa: T201
        elif self.auth:
            self._note("Make a key with: confide keys create NAME", "faint")

    def _note(self, text: str, style: Style) -> None:
        note(text, style, styled=self.styled)


def page_link(root: str, key: str | None) -> str:
    """The page's address. The key stands in the fragment, which no browser sends; the page takes it out at once."""
    return f"{root}/" if key is None else f"{root}/#key={key}"


def try_it(root: str, model: str, key: str | None) -> list[str]:
    """Lines for a shell: one asks the server something, one sets up the SDKs."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Say hello in one sentence."}]})
    headers = ["-H 'Content-Type: application/json'"]
    if key:
        headers.insert(0, f"-H 'Authorization: Bearer {key}'")
    return [
        f"curl {root}/v1/chat/completions {' '.join(headers)} -d {shlex.quote(body)}",
        f"export OPENAI_API_KEY={key or 'none'} OPENAI_BASE_URL={root}/v1",
    ]
