"""Model files on disk: hashing, pinned bytes, GGUF magic, folders."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confide.engine.gguf import MAGIC
from confide.errors import ModelFileError

CHUNK = 1024 * 1024


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(path: Path, sha256: str, size: int | None = None) -> None:
    """Raise ModelFileError unless the file has exactly these bytes."""
    with readable(path):
        got_size = path.stat().st_size
        if size is not None and got_size != size:
            raise ModelFileError(f"{path} is not the pinned file: expected {size} bytes, got {got_size}")
        got = sha256_of(path)
    if got != sha256:
        raise ModelFileError(f"{path} is not the pinned file: expected SHA-256 {sha256}, got {got}")


def check_gguf(path: Path) -> None:
    """Raise ModelFileError unless the file begins like a GGUF file."""
    with readable(path), path.open("rb") as stream:
        magic = stream.read(len(MAGIC))
    if magic != MAGIC:
        raise ModelFileError(f"{path} is not a GGUF file: it begins with {magic!r}")


def in_folder(folder: Path) -> tuple[Path, Path | None]:
    """The one model of a folder, and its projector (``mmproj*.gguf``) when there is one."""
    with readable(folder):
        files = sorted(path for path in folder.iterdir() if path.suffix == ".gguf" and path.is_file())
    projectors = [path for path in files if path.name.startswith("mmproj")]
    models = [path for path in files if path not in projectors]
    if len(models) != 1 or len(projectors) > 1:
        raise ModelFileError(
            f"{folder}: expected one model .gguf and at most one mmproj*.gguf, "
            f"got {len(models)} and {len(projectors)}; name the file instead"
        )
    return models[0], projectors[0] if projectors else None


def need_space(folder: Path, size: int) -> None:
    """Raise ModelFileError when the disk of ``folder`` has less than ``size`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ModelFileError(f"{folder} needs {size / 1e6:.0f} MB, and its disk has {free / 1e6:.0f} MB free")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the operating system says about ``path`` into a ModelFileError."""
    try:
        yield
    except OSError as failed:
        raise ModelFileError(f"{path}: {failed.strerror or failed}") from failed
