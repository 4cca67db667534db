"""configfs-tsm as the kernel has it, in memory: drivers/virt/coco/guest/report.c and fs/configfs/file.c.

What matters: a write counts at once, but a lost commit is silent; a report is made when it is first read and made
anew after another write; TDX takes exactly 64 bytes and serves one quote at a time.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path("/simulated/tsm/report")


@dataclass
class Entry:
    """One directory of the kernel."""

    inblob: bytes = b""
    written: int = 0
    reported: int | None = None
    outblob: bytes = b""


@dataclass
class Kernel:
    """The five file operations, over entries of its own. Fields are what a test may break."""

    make: Callable[[bytes], bytes]
    provider: str | None = "tdx_guest"
    auxblob: bytes | None = None
    mounted: bool = True
    faults: list[int] = field(default_factory=list)
    """Errors of the next reports, by number."""
    lost_writes: int = 0
    """How many commits fail silently."""
    races: int = 0
    """Before how many reports another process writes to the same entry."""
    late_races: int = 0
    """After how many reports it does."""
    mkdir_fault: int | None = None
    rmdir_fault: int | None = None
    generation_text: str | None = None
    gate: threading.Event | None = None
    """A report waits for this, as it waits for a slow host."""
    entries: dict[Path, Entry] = field(default_factory=dict)
    made: int = 0
    served: int = 0

    def exists(self, path: Path) -> bool:
        if path == ROOT:
            return self.mounted
        return path.name != "auxblob" or self.auxblob is not None

    def mkdir(self, path: Path) -> None:
        if not self.mounted:
            raise _error(errno.ENOENT)
        if self.mkdir_fault is not None:
            raise _error(self.mkdir_fault)
        if self.provider is None:
            raise _error(errno.ENXIO)
        if path.parent != ROOT or path in self.entries:
            raise _error(errno.EEXIST)
        self.made += 1
        self.entries[path] = Entry()

    def rmdir(self, path: Path) -> None:
        if self.rmdir_fault is not None:
            raise _error(self.rmdir_fault)
        del self.entries[path]

    def write(self, path: Path, data: bytes) -> None:
        assert path.name == "inblob"
        if len(data) > 64:
            raise _error(errno.EFBIG)
        if self.lost_writes:
            self.lost_writes -= 1
            return
        entry = self.entries[path.parent]
        entry.inblob = data
        entry.written += 1

    def read(self, path: Path) -> bytes:
        entry = self.entries[path.parent]
        if path.name == "provider":
            return f"{self.provider}\n".encode()
        if path.name == "generation":
            return (self.generation_text or f"{entry.written}\n").encode()
        if path.name == "auxblob" and self.auxblob is not None:
            return self.auxblob
        assert path.name == "outblob"
        return self._outblob(entry)

    def _outblob(self, entry: Entry) -> bytes:
        if self.races:
            self.races -= 1
            self._other_writes(entry)
        if len(entry.inblob) != 64:
            raise _error(errno.EINVAL)
        if entry.reported != entry.written:
            if self.gate is not None and not self.gate.wait(30):
                raise _error(errno.ETIMEDOUT)
            if self.faults:
                raise _error(self.faults.pop(0))
            entry.outblob = self.make(entry.inblob)
            entry.reported = entry.written
            self.served += 1
        if self.late_races:
            self.late_races -= 1
            self._other_writes(entry)
        return entry.outblob

    def _other_writes(self, entry: Entry) -> None:
        entry.inblob = b"\xee" * 64
        entry.written += 1


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
