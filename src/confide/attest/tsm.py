"""Quotes from the Linux kernel's configfs-tsm, for TDX guests and for SEV-SNP guests.

Source: Linux ``Documentation/ABI/testing/configfs-tsm-report`` and ``drivers/virt/coco/guest/report.c``. A request is
a directory of its own: write ``inblob``, read ``outblob``. The write is committed when the file is closed, and its
result is lost there; so ``generation``, which counts writes, is what shows that ours was taken and no other came in
between. The report itself must hold our bytes as well.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from confide.attest.base import Description, Evidence, EvidenceFailed, TeeType, check_report_data
from confide.attest.shared import Blocking
from confide.wire import snp, tdx
from confide.wire.binary import MalformedEvidence

DIRECTORY: Final = Path("/sys/kernel/config/tsm/report")
PROVIDERS: Final[dict[str, TeeType]] = {"tdx_guest": "tdx", "sev_guest": "sev_snp"}
_RETRIED: Final = {errno.EBUSY, errno.EINTR, errno.EAGAIN, errno.ETIMEDOUT}
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_CHUNK: Final = 65536
_MOST_BYTES: Final = 1 << 20
_MEANINGS: Final = {
    errno.ENXIO: "the kernel has no provider of reports",
    errno.ENOENT: "there is no such directory: no confidential VM, Linux before 6.7, or configfs is not mounted",
    errno.EINVAL: "the provider refused the request",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.EBUSY: "the host is still busy with another quote",
    errno.ETIMEDOUT: "the host did not answer",
}


class Files(Protocol):
    """The five things that are done with the directory, each of which may raise OSError."""

    def mkdir(self, path: Path) -> None: ...
    def rmdir(self, path: Path) -> None: ...
    def exists(self, path: Path) -> bool: ...
    def read(self, path: Path) -> bytes: ...
    def write(self, path: Path, data: bytes) -> None: ...


class OsFiles:
    """The real ones."""

    def mkdir(self, path: Path) -> None:
        """A new entry; the kernel fills it."""
        path.mkdir(mode=0o700)

    def rmdir(self, path: Path) -> None:
        """Remove an entry; its attributes go with it and can't be unlinked before."""
        path.rmdir()

    def exists(self, path: Path) -> bool:
        """Whether there is such a file or directory."""
        return path.exists()

    def read(self, path: Path) -> bytes:
        """A whole attribute, whose size is not known before."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = bytearray()
            while chunk := os.read(fd, _CHUNK):
                data += chunk
                if len(data) > _MOST_BYTES:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            return bytes(data)
        finally:
            os.close(fd)

    def write(self, path: Path, data: bytes) -> None:
        """A whole attribute in one write, as the kernel demands."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.write(fd, data) != len(data):
                raise OSError(errno.EIO, "short write")
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try again, with the clock and the pause as arguments."""

    seconds: float = 15.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Report:
    """What one entry gave. ``auxblob`` holds the host's certificates for SEV-SNP and is empty otherwise."""

    provider: str
    outblob: bytes
    auxblob: bytes = b""


class _Raced(Exception):
    """The entry was written to by somebody else."""


def find_provider(directory: Path = DIRECTORY, files: Files | None = None) -> str | None:
    """The name of the kernel's provider, or None where there is none. It makes and removes an entry."""
    files = files or OsFiles()
    if not files.exists(directory):
        return None
    try:
        with _entry(directory, files) as entry:
            return _text(files.read(entry / "provider"))
    except OSError as failed:
        if failed.errno in (errno.ENXIO, errno.ENOENT):
            return None
        raise EvidenceFailed(_explain(directory, failed)) from failed


def take_report(
    inblob: bytes, directory: Path = DIRECTORY, files: Files | None = None, patience: Patience | None = None
) -> Report:
    """A report over these 64 bytes. What can pass by itself is tried again, each time with a new entry."""
    files, patience = files or OsFiles(), patience or Patience()
    give_up = patience.clock() + patience.seconds
    pause = _FIRST_PAUSE
    while True:
        try:
            return _attempt(inblob, directory, files)
        except (_Raced, OSError) as failed:
            if isinstance(failed, OSError) and failed.errno not in _RETRIED:
                raise EvidenceFailed(_explain(directory, failed)) from failed
            if patience.clock() + pause > give_up:
                raise EvidenceFailed(f"{_explain(directory, failed)}, for {patience.seconds:g} seconds") from failed
        patience.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


class TsmSource:
    """Quotes of one kind of guest through configfs-tsm."""

    def __init__(
        self,
        tee_type: TeeType,
        directory: Path = DIRECTORY,
        files: Files | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._tee_type = tee_type
        self._directory = directory
        self._files = files or OsFiles()
        self._patience = patience or Patience()
        self._thread = Blocking("configfs-tsm")

    async def quote(self, report_data: bytes) -> Evidence:
        """A quote over 64 bytes. The kernel makes one at a time."""
        check_report_data(report_data)
        report = await self._thread.run(lambda: take_report(report_data, self._directory, self._files, self._patience))
        if PROVIDERS.get(report.provider) != self._tee_type:
            raise EvidenceFailed(f"{self._directory}: the provider is {report.provider}, which is not {self._tee_type}")
        try:
            return _evidence(self._tee_type, report, report_data)
        except MalformedEvidence as failed:
            raise EvidenceFailed(f"{self._directory} gave a malformed report: {failed}") from failed

    def describe(self) -> Description:
        """What this source is."""
        return Description(self._tee_type, "configfs-tsm", hardware=True, text=str(self._directory))

    async def aclose(self) -> None:
        """Let the thread end."""
        self._thread.close()


def _attempt(inblob: bytes, directory: Path, files: Files) -> Report:
    with _entry(directory, files) as entry:
        provider = _text(files.read(entry / "provider"))
        before = _number(files.read(entry / "generation"))
        files.write(entry / "inblob", inblob)
        _require_generation(before + 1, entry, files)
        outblob = files.read(entry / "outblob")
        auxblob = files.read(entry / "auxblob") if files.exists(entry / "auxblob") else b""
        _require_generation(before + 1, entry, files)
        return Report(provider, outblob, auxblob)


def _require_generation(wanted: int, entry: Path, files: Files) -> None:
    """Our write was taken, and it was the only one."""
    if _number(files.read(entry / "generation")) != wanted:
        raise _Raced("our write was lost, or another process wrote to our entry")


@contextmanager
def _entry(directory: Path, files: Files) -> Iterator[Path]:
    """A directory of our own, removed in every case."""
    path = directory / f"confide-{os.getpid()}-{secrets.token_hex(8)}"
    files.mkdir(path)
    try:
        yield path
    finally:
        with suppress(OSError):
            files.rmdir(path)


def _evidence(tee_type: TeeType, report: Report, report_data: bytes) -> Evidence:
    if tee_type == "tdx":
        answered = tdx.parse_quote(report.outblob).report.report_data
    else:
        answered = snp.parse_report(report.outblob).report_data
    if answered != report_data:
        raise EvidenceFailed("the kernel gave a report over other bytes than the ones that were asked for")
    return Evidence(tee_type, report.outblob, report_data, collateral=_certificates(tee_type, report.auxblob))


def _certificates(tee_type: TeeType, auxblob: bytes) -> snp.SnpCertificates | None:
    """The host's certificates. They are a convenience of an untrusted party: a broken table is no table."""
    if tee_type != "sev_snp" or not auxblob:
        return None
    with suppress(MalformedEvidence):
        return snp.parse_certificates(auxblob)
    return None


def _explain(directory: Path, failed: Exception) -> str:
    reason = _MEANINGS.get(failed.errno or 0, failed.strerror or "") if isinstance(failed, OSError) else str(failed)
    return f"{directory}: {reason}"


def _text(data: bytes) -> str:
    return data.decode("ascii", "replace").strip()


def _number(data: bytes) -> int:
    text = _text(data)
    if not text.isdecimal():
        raise EvidenceFailed(f"configfs-tsm says that the generation is {text!r}")
    return int(text)
