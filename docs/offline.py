"""What a built page would fetch from other hosts: nothing, or the build fails."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

_LOADS: Final = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}
_ELSEWHERE: Final = re.compile(r"(?:https?:)?//", re.IGNORECASE)
_STYLE_LOADS: Final = re.compile(r"(?:@import\s+|url\()\s*[\"']?(?:https?:)?//", re.IGNORECASE)


class _Loads(HTMLParser):
    """What a page fetches when it is opened; links that a reader follows are not among it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect addresses on other hosts."""
        address = dict(attrs).get(_LOADS.get(tag, ""))
        if address and _ELSEWHERE.match(address):
            self.found.append(address)


def loads_from_elsewhere(folder: Path) -> list[str]:
    """``page: address`` for whatever the pages and styles in a folder would fetch from other hosts."""
    wrong = []
    for page in sorted(folder.rglob("*.html")):
        loads = _Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        wrong += [f"{page.relative_to(folder)}: {address}" for address in loads.found]
    for style in sorted(folder.rglob("*.css")):
        wrong += [f"{style.relative_to(folder)}: {match[0]}" for match in _STYLE_LOADS.finditer(style.read_text())]
    return wrong
