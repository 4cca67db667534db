"""Bundles on the disk: one file for each checked exchange, readable by its owner only."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from confide.errors import OperatorError
from confide.verify.bundle import Bundle, Exchange

_SAFE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,100}")


class CannotKeep(OperatorError):
    """A bundle can't be written, so the answer that belongs in it is not given on."""


class BundleFolder:
    """Writes bundles into a folder, which is made if it isn't there.

    Raises:
        CannotKeep: it can't be made.
    """

    def __init__(self, folder: Path, bundle: Callable[[Iterable[Exchange]], Bundle]) -> None:
        self._folder = folder
        self._bundle = bundle
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as failed:
            raise CannotKeep(f"the folder {folder} can't be made: {failed.strerror}") from failed

    def __call__(self, exchange: Exchange) -> None:
        """Write one; the file has its name only when it is whole.

        Raises:
            CannotKeep: the disk is full, for instance.
        """
        path = self._folder / f"{_file_name(exchange.id)}.json"
        try:
            handle, name = tempfile.mkstemp(dir=self._folder)  # mode 0600
            with os.fdopen(handle, "wb") as file:
                file.write(self._bundle([exchange]).encode())
            Path(name).replace(path)
        except OSError as failed:
            raise CannotKeep(f"{path} can't be written: {failed.strerror}") from failed


def _file_name(id: str) -> str:
    """An id as a file name: ids are the service's to choose."""
    return id if _SAFE.fullmatch(id) else hashlib.sha256(id.encode()).hexdigest()
