"""The benchmark of the request path does what it says: once, with little of everything, and nothing measured by it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from benchmarks import peers
from benchmarks.report import ROWS, SEALED
from benchmarks.targets import Gateway

ROOT = Path(__file__).parent.parent


def test_the_benchmark_checks_every_answer(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    command = [sys.executable, "-m", "benchmarks.gateway", "--quick", "--write", str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    text = page.read_text()
    checked = re.search(
        r"([\d,]+) answers: 0 errors, 0 not equal .*; (\d+) receipts fetched and compared, 0 of them", text
    )
    assert checked is not None, text
    assert int(checked[1].replace(",", "")) > 200
    assert int(checked[2]) > 10
    for row in (*ROWS, *SEALED):
        assert (row.text in text) == (row.name != "many"), row.name
    assert not re.search(r"\{[A-Z]+\}", text)


def test_the_page_says_what_its_template_says() -> None:
    """Words that are in the page alone would be gone with the next measurement."""
    template = (ROOT / "benchmarks/gateway.md").read_text().splitlines()
    page = (ROOT / "docs/benchmarks.md").read_text().splitlines()
    fixed = [line for line in template if line and not re.search(r"\{[A-Z]+\}", line)]
    assert len(fixed) > 50
    assert [line for line in page if line in fixed] == fixed


def test_peers_are_told_beside_ours_with_what_they_answered() -> None:
    ours, theirs = (peers.Account(name=name, answers=10) for name in ("confide", "LiteLLM"))
    for name, (_, unit, _) in peers.FIGURES.items():
        for account, values in ((ours, (2, 1, 4)), (theirs, (4, 5, 6))):
            for value in values:
                account.put(name, Gateway(account.name, 0), value * unit)
    theirs.wrong, theirs.errors = 7, 1
    lines = peers.table([ours, theirs], {"LiteLLM": "1.2"}).splitlines()
    assert lines[0] == "| | confide | LiteLLM 1.2 | theirs : ours |"
    assert lines[2] == f"| {peers.FIGURES['small'][0]} | 2.00 | 5.00 | 2.0 (1.5–5.0) |"
    assert len(lines) == 2 + len(peers.FIGURES) + 2
    assert lines[-2:] == [
        "| answers that are the engine's, byte for byte | 10 of 10 | 2 of 10 | |",
        "| errors | 0 | 1 | |",
    ]
