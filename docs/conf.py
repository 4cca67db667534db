"""The documentation site, for Sphinx: ``make site``. A warning is an error; no page asks another host for anything."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

sys.path.insert(0, str(Path(__file__).parent))
from offline import loads_from_elsewhere

project = "confide"
author = "the authors of confide"
copyright = "the authors of confide; Apache-2.0"  # noqa: A001 - Sphinx's name for it
extensions = ["myst_parser"]
myst_heading_anchors = 3
nitpicky = True
html_theme = "furo"
html_title = "confide"
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def _check(app: Sphinx, failed: Exception | None) -> None:
    wrong = [] if failed else loads_from_elsewhere(Path(app.outdir))
    if wrong:
        raise ExtensionError("pages must work offline, but fetch: " + ", ".join(wrong))


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's hook."""
    app.connect("build-finished", _check)
    app.add_lexer("haproxy", TextLexer)  # Pygments knows none
    return {"parallel_read_safe": True}
