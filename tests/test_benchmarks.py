"""The benchmark of the request path does what it says: once, with little of everything, and nothing measured by it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from benchmarks.report import ROWS, SEALED

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
