"""Where the real engines are, and the models that they are tried with.

vLLM and transformers have a virtual environment of their own, which ``make test-engines`` makes (3 GB); llama.cpp's
server comes with the library that the embedded engine uses.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confide.engine.pull import LocalModel
from tests.conftest import ROOT
from tests.vision.mmproj import Tower, write_mmproj

HERE: Final = Path(__file__).parent
PYTHON: Final = ROOT / ".venvs" / "engines" / "bin" / "python"
TEMPLATE: Final = HERE / "template.jinja"
TORCHVISION: Final = str(HERE / "site")
"""On the PYTHONPATH of what needs torchvision, whose wheel is not for a PyTorch that was built for the CPU."""
LLAMA_SERVER: Final = (sys.executable, str(HERE / "llama_server.py"))
MAKING_SECONDS: Final = 600


@dataclass(frozen=True)
class Models:
    """The same weights thrice: a GGUF file with a projector, and folders of safetensors, without eyes and with."""

    gguf: Path
    projector: Path
    text: Path
    seeing: Path


def models(default: LocalModel, cache: Path) -> Models:
    """The models, made anew where what makes them has changed."""
    maker = HERE / "make_models.py"
    digest = hashlib.sha256(maker.read_bytes() + TEMPLATE.read_bytes()).hexdigest()
    folder = cache / f"engines-{digest[:16]}"
    if not (folder / "made").exists():
        offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": TORCHVISION}
        done = subprocess.run(
            [str(PYTHON), str(maker), str(default.path), str(folder)],
            env=os.environ | offline,
            capture_output=True,
            text=True,
            timeout=MAKING_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        write_mmproj(folder / "mmproj.gguf", Tower())
        (folder / "made").touch()
    return Models(default.path, folder / "mmproj.gguf", folder / "text", folder / "seeing")


def installed(name: str) -> str:
    """The version of a package in the engines' environment."""
    ask = f"from importlib.metadata import version; print(version({name!r}))"
    return subprocess.run([str(PYTHON), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
