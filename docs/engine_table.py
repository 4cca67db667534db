"""The page of what engines can do behind this server, from the results of ``make test-engines``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).with_name("engines.json")


def page() -> str:
    """The table, what stands below it, and what each engine was."""
    results = json.loads(RESULTS.read_text())
    engines: dict[str, dict[str, Any]] = results["engines"]
    head = ["capability", *(f"{one['title']} {one['version'].partition(' ')[0]}" for one in engines.values())]
    rows = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for name in results["capabilities"]:
        cells = [one["cells"].get(name, "not tried") for one in engines.values()]
        rows.append(f"| {name} | {' | '.join(_cell(cell) for cell in cells)} |")
    return f"""# Engines: what was tried, and what came of it

Written by runs of `make test-engines` on real engines, each started by `confide serve` as its child and asked through
it, in clear and sealed. Every answer's receipt was checked. A cell says

* yes;
* refused by name: the engine can't be held to it, so the request is refused with a 400 that names the member;
* not offered by the engine: it has no such thing, and nothing claims it;
* not offered here: the engine has it, and this server answers 404, since tenants' caches would mix there, or the
  answers aren't in the form that SDKs read, or nobody looked at how the engine does it;
* fails: something is promised, and the test did not see it kept.

{chr(10).join(rows)}

{chr(10).join(_ran(one) for one in engines.values())}

SGLang and Ollama were not run: there is no SGLang for CPUs, and no Ollama in a registry that these tests install from.
Their dialects were read from their source, and are replayed by a stand-in (`tests/simulator/engine_dialects.py`).

{_notes(engines)}"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _ran(engine: dict[str, Any]) -> str:
    return f"* {engine['title']} {engine['version']}, run on {engine['date']}: {engine['how']}."


def _notes(engines: dict[str, dict[str, Any]]) -> str:
    """Scenarios of client scripts that can't pass, and why."""
    lines = [
        f"* {engine['title']}, {row}, `{scenario}`: {why}"
        for engine in engines.values()
        for row, notes in engine["notes"].items()
        for scenario, why in notes.items()
    ]
    if not lines:
        return ""
    return f"""## Scenarios of client scripts that don't pass

The scripts are those of the embedded engine, unchanged. These scenarios ask for what is refused or not offered:

{chr(10).join(lines)}
"""
