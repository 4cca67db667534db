"""The documents say what the code says."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from confide.api.metric_families import FAMILIES
from confide.cli import COMMANDS
from confide.cli.verdicts import WORST_FIRST
from confide.config import ModelSettings, Settings, load
from confide.verify.verdict import ExitCode, Word

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
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
    text = (REFERENCE / "commands.md").read_text()
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
    text = (REFERENCE / "exit-codes.md").read_text()
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


# What the code is read for -------------------------------------------------------------------------------------------


@pytest.fixture
def docs(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """``docs/``'s own modules, as ``docs/generate.py`` imports them: gives ``collect``."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    before = set(sys.modules)
    yield importlib.import_module("collect")
    for name in set(sys.modules) - before:
        del sys.modules[name]


def first_cells(page: str) -> set[str]:
    """What stands in backticks in the first cell of the rows of a page's tables."""
    rows = re.findall(r"^\| ([^|]+) \|", (REFERENCE / page).read_text(), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_error_code_and_type_has_its_row(docs: ModuleType) -> None:
    codes, types = docs.codes(), docs.types()
    assert codes["rate_limit_exceeded"] == {429}
    assert codes["e2ee_encryption_failed"] == {500}
    assert codes["invalid_image_url"] == {400}
    assert types["server_error"] == {500, 502, 503}
    assert {*codes, *types} <= first_cells("errors.md")


def test_an_error_code_without_words_stops_the_build(docs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = importlib.import_module("errors")
    monkeypatch.setattr(docs, "codes", lambda: {code: {400} for code in (*errors.CODES, "brand_new")})
    with pytest.raises(RuntimeError, match="no words for the codes brand_new"):
        errors.page()


def test_a_member_of_a_policy_without_words_stops_the_build(docs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    formats = importlib.import_module("formats")
    monkeypatch.delitem(formats.POLICY, "gpu.nras")
    with pytest.raises(RuntimeError, match=r"no words for gpu\.nras"):
        formats.policies()


def test_every_route_has_its_row(docs: ModuleType) -> None:
    routes = {re.sub(r":\w+}", "}", route) for route in docs.routes()}
    assert {"/v1/models/{id}", "/v1/chat/completions"} <= routes
    documented = {re.sub(r"^[A-Z]+ ([^?]+).*$", r"\1", name) for name in first_cells("endpoints.md")}
    assert routes <= documented, routes - documented


def test_every_header_has_its_row(docs: ModuleType) -> None:
    pattern = r"(?i)x-[a-z0-9-]+|retry-after|openai-[a-z-]+|www-authenticate"
    named = {name.lower() for name in docs.strings(pattern, "api", "seal", "client")}
    named -= {"x-stainless-retry-count"}  # an SDK's, which the transport reads of requests that it sends
    assert "x-receipt-id" in named
    documented = {name.lower() for name in first_cells("headers.md")}
    assert named <= documented, named - documented


def test_every_variable_is_in_the_reference(docs: ModuleType) -> None:
    text = "".join(page.read_text() for page in REFERENCE.glob("*.md"))
    for variable in docs.strings("CONFIDE_[A-Z_]+"):
        assert re.search(rf"\b{variable}\b", text), variable


def test_every_setting_says_what_it_takes() -> None:
    """The generator writes "text" where a field has no words of its own."""
    rows = re.findall(
        r"^\| `(\w+)` \| (?:`CONFIDE_\w+`|-) \| [^|]+ \| (.+) \|$",
        (REFERENCE / "settings.md").read_text(),
        re.MULTILINE,
    )
    fields = [*Settings.__struct_fields__, *ModelSettings.__struct_fields__]
    assert sorted(name for name, _ in rows) == sorted(name for name in fields if name != "models")
    assert [name for name, words in rows if words == "text"] == []


def test_every_exit_code_of_an_error_has_its_row(docs: ModuleType) -> None:
    rows = set(re.findall(r"^\| (\d) \|", (REFERENCE / "exit-codes.md").read_text(), re.MULTILINE))
    named = docs.exit_codes()
    assert {1, 2, 5} <= named
    assert {str(code) for code in named} <= rows


# The site ------------------------------------------------------------------------------------------------------------


def test_what_a_page_would_fetch_from_others_is_found(docs: ModuleType, tmp_path: Path) -> None:
    offline = importlib.import_module("offline")
    (tmp_path / "good.html").write_text(
        '<link rel="stylesheet" href="_static/a.css"><script src="b.js"></script><a href="https://x.example/">x</a>'
        '<img src="data:image/png;base64,AA==">'
    )
    (tmp_path / "good.css").write_text("a { background: url(pictures/a.svg) }")
    assert offline.loads_from_elsewhere(tmp_path) == []
    (tmp_path / "bad.html").write_text('<img src="//cdn.example/a.png"><LINK HREF="https://fonts.example/f.css">')
    (tmp_path / "bad.css").write_text("@import \"https://fonts.example/f.css\"; b { src: url( '//x.example/f.woff' ) }")
    assert [line.partition(":")[0] for line in offline.loads_from_elsewhere(tmp_path)] == [
        *("bad.html", "bad.html", "bad.css", "bad.css")
    ]
