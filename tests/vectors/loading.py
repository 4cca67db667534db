"""Reads vector files. No files, or no cases in one, is a failure and not a pass."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One input and exactly what must come of it."""

    name: str
    data: bytes
    outcome: dict[str, Any]

    def __str__(self) -> str:
        return self.name


def load(path: Path) -> Any:
    """One file."""
    return json.loads(path.read_bytes())


def folder(name: str) -> list[Path]:
    """All vector files of a folder."""
    files = sorted((VECTORS / name).glob("*.json"))
    if not files:
        raise FileNotFoundError(f"no vectors in {VECTORS / name}")
    return files


def cases(path: Path) -> list[Case]:
    """The cases of one file of our own."""
    found = [_case(case) for case in load(path)["cases"]]
    if not found:
        raise ValueError(f"no cases in {path}")
    if len({case.name for case in found}) != len(found):
        raise ValueError(f"two cases of one name in {path}")
    return found


def _case(case: dict[str, Any]) -> Case:
    data = case["input"].encode() if "input" in case else base64.b64decode(case["input_base64"])
    return Case(case["name"], data, case["outcome"])
