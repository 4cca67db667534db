"""Which connections are used when: those that were made under the verification of now, and never older ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import httpx

from confide.client.trust import Standing

_T = TypeVar("_T", bound=httpx.HTTPTransport | httpx.AsyncHTTPTransport)


class Line(Generic[_T]):
    """The connections that were made under one standing."""

    def __init__(self, standing: Standing, inner: _T) -> None:
        self.standing = standing
        self.inner = inner
        self.users = 0
        self.is_retired = False


class Lines(Generic[_T]):
    """The connections of the standing of now; those of one before are let go when the last answer on them has ended."""

    def __init__(self, make: Callable[[Standing], _T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._line: Line[_T] | None = None

    def take(self, standing: Standing) -> tuple[Line[_T], _T | None]:
        """The connections to use, and those to close now."""
        with self._lock:
            old, idle = self._line, None
            if old is None or old.standing is not standing:
                self._line = Line(standing, self._make(standing))
                if old is not None:
                    old.is_retired = True
                    idle = old.inner if old.users == 0 else None
            assert self._line is not None
            self._line.users += 1
            return self._line, idle

    def give(self, line: Line[_T]) -> _T | None:
        """An answer has ended; the connections to close now."""
        with self._lock:
            line.users -= 1
            return line.inner if line.is_retired and line.users == 0 else None

    def close(self) -> _T | None:
        """No more requests; the connections to close."""
        with self._lock:
            line, self._line = self._line, None
            return None if line is None else line.inner
