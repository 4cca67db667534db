"""What is counted of a request: noted while it walks, told once at its end. No content, no key, no id."""

from __future__ import annotations

import time
from typing import Final, Literal, Protocol

from confide.errors import ApiError
from confide.wire.answers import Usage

Outcome = Literal["answered", "refused", "unavailable", "failed", "left", "stopped"]
"""``refused``: what the request asks for can't be had; ``unavailable``: not now (429, 503); ``failed``: this server or
the engine broke, before the answer or in its middle; ``left``: the client closed the connection; ``stopped``: the
server ended."""

_NOT_NOW: Final = (429, 503)


class Seen:
    """Notes on one request. Moments are monotonic seconds; ``first`` is that of the answer's first byte."""

    __slots__ = ("begun", "code", "endpoint", "first", "model", "outcome", "sealed", "usage")

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.begun = time.monotonic()
        self.first: float | None = None
        self.model: str | None = None
        self.sealed = False
        self.usage: Usage | None = None
        self.outcome: Outcome = "failed"
        self.code: str | None = None

    def told(self, error: ApiError) -> None:
        """The client was told of an error in place of an answer."""
        self.code = error.code or error.type
        if error.status in _NOT_NOW:
            self.outcome = "unavailable"
        else:
            self.outcome = "refused" if error.status < 500 else "failed"

    def broke(self, error: ApiError) -> None:
        """The client was told of an error in the middle of an answer."""
        self.code = error.code or error.type
        self.outcome = "failed"


class Meter(Protocol):
    """Who counts."""

    def began(self, seen: Seen) -> None:
        """A request has come."""
        ...

    def finished(self, seen: Seen) -> None:
        """It has ended; the notes are complete."""
        ...

    def store_failed(self) -> None:
        """The store could not be asked."""
        ...

    def report_made(self, surface: Literal["aci", "older"]) -> None:
        """An attestation report was made."""
        ...


class NoMeter:
    """Nobody does."""

    def began(self, seen: Seen) -> None:
        """Nothing."""

    def finished(self, seen: Seen) -> None:
        """Nothing."""

    def store_failed(self) -> None:
        """Nothing."""

    def report_made(self, surface: Literal["aci", "older"]) -> None:
        """Nothing."""
