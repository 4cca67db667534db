"""The reference says what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from confide.api.metric_families import FAMILIES
from confide.cli import COMMANDS
from confide.cli.verdicts import WORST_FIRST
from confide.config import load
from confide.verify.verdict import ExitCode, Word

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_generated_pages_are_current() -> None:
    """Else: ``make docs``."""
    assert subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], check=False).returncode == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Links to files of the project."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_files_that_contributors_are_sent_to_exist() -> None:
    """The table of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:src/confide|wire|engine|api|store|route)/[\w/]+\.py|\w+\.py)`", text))
    assert len(named) > 15
    for name in named:
        inside = ROOT / "src" / "confide" / name
        assert (ROOT / name).exists() or inside.exists(), name


def test_every_command_and_option_is_in_the_reference() -> None:
    """The page is generated; this reads what people read."""
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    for command in COMMANDS:
        made = command.load()
        for name, one in {"": made, **getattr(made, "commands", {})}.items():
            heading = f"## confide {command.name} {name}".rstrip()
            assert text.count(f"{heading}\n") == 1, heading
            section = text.partition(f"{heading}\n")[2].partition("\n## ")[0]
            if one is made and name == "" and hasattr(made, "commands"):
                continue
            for option in one.params:
                if not getattr(option, "hidden", False) and option.name != "help":
                    assert all(name in section for name in option.opts if name.startswith("-")), option.opts


def test_every_exit_code_has_its_row() -> None:
    """The numbers, the words, and which of several counts."""
    text = (ROOT / "docs" / "reference" / "exit-codes.md").read_text()
    rows = {int(number): word for number, word in re.findall(r"^\| (\d) \| ([^|]+) \|", text, re.MULTILINE)}
    assert set(rows) == set(ExitCode)
    assert {rows[code] for code in (0, 1, 3, 5)} == set(get_args(Word))
    assert f"in this order: {', '.join(str(code.value) for code in WORST_FIRST)}." in text


def test_every_metric_has_its_row() -> None:
    """The page is generated; this reads what people read."""
    text = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]+) \| ([^|]+\.) \|$", text, re.MULTILINE)
    assert [(name, kind) for name, kind, *_ in rows] == [(family.name, family.kind) for family in FAMILIES]
    for family in FAMILIES:
        for label in family.labels:
            assert f"* `{label}`:" in text or label == "version", label


def test_settings_of_the_how_tos_are_taken(tmp_path: Path) -> None:
    """Each TOML example that is a whole file."""
    page = (ROOT / "docs" / "how-to" / "replicas.md").read_text()
    examples = re.findall(r"^```toml\n(# confide\.toml.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert examples
    for example in examples:
        (tmp_path / "confide.toml").write_text(example)
        assert load({}, environ={}, config_file=tmp_path / "confide.toml").database_file is not None
