"""Bounded GETs, and a folder that keeps what they gave. Nothing fetched is believed: everything is signed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from confide.errors import OperatorError
from confide.verify.material import MOST_BYTES, Item, Kind

TIMEOUT: Final = httpx.Timeout(20.0, connect=10.0)
MOST_SECONDS: Final = 120


class Unreachable(OperatorError):
    """A service could not be asked; the text names its host and what happened."""

    exit_code = 4


class Refused(OperatorError):
    """A service answered, and not with what was asked for."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole answer with status 200. Names of headers are in lower case."""

    body: bytes
    headers: Mapping[str, str]


def get(client: httpx.Client, url: str, *, most: int = MOST_BYTES, headers: Mapping[str, str] | None = None) -> Fetched:
    """One GET without redirects and without compression, which ends after :data:`MOST_SECONDS`.

    Raises:
        Unreachable: no answer, one that is longer than ``most`` bytes, or one that takes too long.
        Refused: another status than 200, or a compressed body.
    """
    host = httpx.URL(url).host
    until = time.monotonic() + MOST_SECONDS
    try:
        with client.stream(
            "GET", url, headers={**(headers or {}), "Accept-Encoding": "identity"}, follow_redirects=False
        ) as answer:
            if answer.status_code != 200:
                raise Refused(f"{host} answered {answer.status_code} to GET {answer.request.url.path}")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise Refused(f"{host} sent a compressed answer, which was not asked for")
            body = bytearray()
            for chunk in answer.iter_bytes():
                body += chunk
                if time.monotonic() > until:
                    raise Unreachable(f"{host} took longer than {MOST_SECONDS} seconds to answer")
                if len(body) > most:
                    raise Unreachable(f"{host} sent more than {most} bytes")
            return Fetched(bytes(body), {name.lower(): value for name, value in answer.headers.items()})
    except httpx.HTTPError as failed:
        raise Unreachable(f"{host} can't be reached: {str(failed) or type(failed).__name__}") from failed


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of artefacts, one file each. A file that is missing or can't be read is just not there."""

    folder: Path

    def load(self, kind: Kind, key: str) -> Item | None:
        """What was kept for this key."""
        try:
            with self._path(kind, key).open("rb") as file:
                data = file.read(MOST_BYTES + 1)
        except OSError:
            return None
        return Item(kind, key, data, "cache") if len(data) <= MOST_BYTES else None

    def keep(self, item: Item) -> None:
        """Keep an item in place of the older one. A folder that can't be written keeps nothing, which is no error."""
        path = self._path(item.kind, item.key)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(item.data)
            Path(name).replace(path)

    def _path(self, kind: Kind, key: str) -> Path:
        return self.folder / kind / hashlib.sha256(key.encode()).hexdigest()
