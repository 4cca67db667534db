"""Environments of the real clients, each made once and by the lock file beside it, and scripts run in them.

The clients don't fit into one environment, nor belong into the server's: some hold others back. So each group has a
virtual environment of its own under ``.venvs/``, made anew when its lock file changes; the npm packages are installed
next to their scripts.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.serving import RunningServer

ROOT = Path(__file__).parent.parent.parent
NODE_FOLDER = Path(__file__).parent / "node"
PYTHON_FOLDER = Path(__file__).parent / "scripts"
NODE_NEEDED = 20
SETUP_SECONDS = 600
SCRIPT_SECONDS = 400


@dataclass(frozen=True)
class Environment:
    """``program`` runs a script with the clients at hand; ``folder`` is where the scripts are."""

    program: Path
    folder: Path

    def run(
        self, script: Path, env: Mapping[str, str], timeout: float = SCRIPT_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run one script to its end."""
        # Only what a process needs: no setting of a client may come from outside.
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        command = [str(self.program), str(script)]
        return subprocess.run(command, env=kept | env, capture_output=True, text=True, timeout=timeout)

    def scenarios(
        self,
        script: str,
        server: RunningServer,
        more: Mapping[str, str] | None = None,
        timeout: float = SCRIPT_SECONDS,
    ) -> dict[str, str | None]:
        """Run one of the scripts against a server: each scenario's name, and its error if it failed."""
        env = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": server.key or "none", "MODEL": server.model}
        env |= more or {}
        done = self.run(self.folder / script, env, timeout)
        assert done.returncode == 0, f"{script} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        reports = [json.loads(line) for line in done.stdout.splitlines()]
        return {report["scenario"]: report["error"] for report in reports}


def scenario_names(script: str) -> list[str]:
    """The scenarios that a script says it has, read from its text, so that each of them must report."""
    if script.endswith(".mjs"):
        names = re.findall(r"^  async (\w+)\(\) \{$", (NODE_FOLDER / script).read_text(), re.MULTILINE)
    else:
        names = [
            node.name
            for node in ast.parse((PYTHON_FOLDER / script).read_text()).body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and any(isinstance(mark, ast.Name) and mark.id == "scenario" for mark in node.decorator_list)
        ]
    assert names, f"{script} has no scenarios"
    return names


def python_environment(name: str) -> Environment:
    """The virtual environment of ``requirements/<name>.txt``, made if there is none or if that file has changed."""
    requirements = ROOT / "requirements" / f"{name}.txt"
    folder = ROOT / ".venvs" / name
    python = folder / "bin" / "python"
    stamp = _Stamp(folder / "made-from", [requirements], sys.version)
    if not stamp.fits():
        shutil.rmtree(folder, ignore_errors=True)
        _set_up([sys.executable, "-m", "venv", str(folder)])
        install = ["install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(requirements)]
        _set_up([str(python), "-m", "pip", *install])
        stamp.write()
    return Environment(python, PYTHON_FOLDER)


def node_environment(folder: Path = NODE_FOLDER) -> Environment:
    """Node, and the npm packages of the folder's ``package-lock.json``."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise AssertionError(
            f"The tests of the npm clients need Node >= {NODE_NEEDED} with npm on PATH: none is there."
        )
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    major = int(version.removeprefix("v").partition(".")[0])
    assert major >= NODE_NEEDED, f"The tests of the npm clients need Node >= {NODE_NEEDED}, and this is {version}."
    locks = [folder / "package.json", folder / "package-lock.json"]
    stamp = _Stamp(folder / "node_modules" / ".made-from", locks, version)
    if not stamp.fits():
        _set_up([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
        stamp.write()
    return Environment(Path(node), folder)


@dataclass(frozen=True)
class _Stamp:
    """What an environment was made from, kept inside it."""

    file: Path
    sources: Sequence[Path]
    version: str

    def _digest(self) -> str:
        parts = [self.version.encode(), *(source.read_bytes() for source in self.sources)]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def fits(self) -> bool:
        return self.file.exists() and self.file.read_text() == self._digest()

    def write(self) -> None:
        self.file.write_text(self._digest())


def _set_up(command: list[str], folder: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SETUP_SECONDS)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}"
