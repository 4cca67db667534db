"""The shell blocks of the how-to guides that need no server, run as they stand there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from confide import config
from confide.verify import provenance
from confide.verify.policy import parse_policy

ROOT = Path(__file__).parent.parent
GUIDES = ROOT / "docs" / "how-to"


def run(page: str, folder: Path) -> str:
    """What the page's ``sh`` blocks print, one after the other in one shell."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (GUIDES / page).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks, page
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"PATH": path, "HOME": str(folder), "CONFIDE_DATA_DIR": str(folder / "data")}
    command = ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_compose_hash(tmp_path: Path) -> None:
    """It is of the form that dstack's rules give: keys sorted, no spaces, UTF-8; and our verifier reads the images."""
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    printed = run("dstack.md", tmp_path)
    document = (tmp_path / "app-compose.json").read_bytes()
    value = json.loads(document)
    assert document == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert printed.split()[0] == hashlib.sha256(document).hexdigest()
    assert value["public_logs"] is False
    assert value["allowed_envs"] == []
    assert provenance.images(document.decode()) == ("sha256:" + "0" * 64,)


def test_keys_and_backup(tmp_path: Path) -> None:
    keys = run("rotate-keys.md", tmp_path)
    assert "alice" in keys
    assert run("operate.md", tmp_path).strip() == "ok"
    assert (tmp_path / "confide-backup.db").stat().st_size > 0


def examples() -> list[tuple[str, str]]:
    """The TOML examples of all pages."""
    return [
        (page.name, example)
        for page in sorted((ROOT / "docs").rglob("*.md"))
        for example in re.findall(r"^```toml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    ]


@pytest.mark.parametrize(("page", "example"), examples(), ids=[page for page, _ in examples()])
def test_examples_are_taken(page: str, example: str, tmp_path: Path) -> None:
    """By what reads such a file in earnest: a policy names roots, and settings don't."""
    if re.search(r"^roots = ", example, re.MULTILINE):
        assert parse_policy(example).roots
        return
    file = tmp_path / "confide.toml"
    file.write_text(example)
    assert config.load({}, environ={}, config_file=file)
