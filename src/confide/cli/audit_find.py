"""Which bundles there are to audit: in files, in folders and theirs, and one on each line of JSON Lines.

Nothing that may hold evidence is passed over in silence: what can't be looked at is found too, with the reason. The
order is that of the names, so that it is the same every time. What is kept in memory is the names in a folder, for
each folder on the way down, and one line.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO, Final

from confide.verify.bundle import MOST_BYTES

BUNDLE: Final = ".json"
LINES: Final = ".jsonl"
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A file, or a line of one, that should be a bundle; or the reason why nobody can know.

    ``start`` and ``length`` say which bytes of the file, all of them where ``length`` is None. ``size`` is how many
    bytes that is, for whoever shows progress.
    """

    name: str
    path: Path
    start: int = 0
    length: int | None = None
    size: int = 0
    problem: str = ""


@dataclass(slots=True)
class Others:
    """How many files in folders have other names, and were not looked at."""

    count: int = 0


def files(paths: Iterable[Path], others: Others) -> Iterator[Found]:
    """The files that are named, and those in the folders that are named: what ends in ``.json`` or ``.jsonl``."""
    for path in paths:
        try:
            kind = path.stat()
        except OSError as failed:
            yield _unreadable(path, failed)
            continue
        if stat.S_ISDIR(kind.st_mode):
            nothing = Found(shown(path), path, problem=f"the folder {shown(path)} holds no *{BUNDLE} or *{LINES} file")
            yield from _or(_inside(path, others), nothing)
        else:
            yield Found(shown(path), path, size=kind.st_size)


def bundles(found: Iterable[Found]) -> Iterator[Found]:
    """The same, with the lines of each ``.jsonl`` file in place of the file."""
    for one in found:
        if one.problem or one.path.suffix.lower() != LINES:
            yield one
        else:
            yield from _or(_lines(one), _problem(one.path, "holds no bundle"))


def shown(path: Path) -> str:
    """A path as text; bytes that are no UTF-8 are written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _or(found: Iterator[Found], nothing: Found) -> Iterator[Found]:
    yield next(found, nothing)
    yield from found


def _unreadable(path: Path, failed: OSError) -> Found:
    return _problem(path, f"can't be read: {failed.strerror}")


def _problem(path: Path, why: str) -> Found:
    return Found(shown(path), path, problem=f"{shown(path)} {why}")


# Folders -------------------------------------------------------------------------------------------------------------


def _inside(folder: Path, others: Others) -> Iterator[Found]:
    """What is in a folder, depth first. Links to folders are not followed, so that none leads around in a circle."""
    way = [_entries(folder, others)]
    while way:
        one = next(way[-1], None)
        if one is None:
            way.pop()
        elif isinstance(one, Found):
            yield one
        else:
            way.append(_entries(one, others))


def _entries(folder: Path, others: Others) -> Iterator[Found | Path]:
    """What to audit, and folders, in the order of the names."""
    try:
        names = sorted(child.name for child in folder.iterdir())
    except OSError as failed:
        yield _unreadable(folder, failed)
        return
    for name in names:
        path = folder / name
        try:
            kind, is_link = path.stat(), path.is_symlink()
        except OSError as failed:
            yield _unreadable(path, failed)
            continue
        if stat.S_ISDIR(kind.st_mode):
            yield _problem(path, "is a link to a folder: name that folder itself") if is_link else path
        elif path.suffix.lower() not in (BUNDLE, LINES):
            others.count += 1
        elif stat.S_ISREG(kind.st_mode):
            yield Found(shown(path), path, size=kind.st_size)
        else:
            yield _problem(path, "is no regular file")


# Lines ---------------------------------------------------------------------------------------------------------------


def _lines(file: Found) -> Iterator[Found]:
    """Where each line is that is not blank. Of one that is too long to be read nothing else is known."""
    try:
        with file.path.open("rb") as stream:
            for number in count(1):
                name, start = f"{file.name}:{number}", stream.tell()
                line = stream.readline(MOST_BYTES + 1)
                if not line:
                    return
                if len(line) > MOST_BYTES:
                    _to_the_end_of_the_line(stream, line)
                    size = stream.tell() - start
                    yield Found(name, file.path, size=size, problem=f"{name} is longer than {MOST_BYTES} bytes")
                elif line.strip():
                    yield Found(name, file.path, start, len(line), size=len(line))
    except OSError as failed:
        yield _unreadable(file.path, failed)


def _to_the_end_of_the_line(stream: BinaryIO, piece: bytes) -> None:
    while piece and not piece.endswith(b"\n"):
        piece = stream.readline(_PIECE)
