"""SHA-256 of a body that was received, and of another that begins alike: what both have in common is hashed once.

What an engine is sent is mostly what a client has sent, with some members added at the end. To hash it once more is the
largest single cost of a long prompt; to compare the bytes costs a tenth of that.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

_STEP: Final = 32 * 1024


class BodyDigest:
    """The digest of a body, ``hex``, and the hash's states on the way. Keep it no longer than the body."""

    __slots__ = ("_body", "_states", "hex")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._states: list[Any] = []
        made = hashlib.sha256()
        if len(body) < _STEP:
            made.update(body)
        else:
            view = memoryview(body)
            for start in range(0, len(body), _STEP):
                made.update(view[start : start + _STEP])
                self._states.append(made.copy())
        self.hex: Final[str] = made.hexdigest()

    def of(self, other: bytes) -> str:
        """The digest of another body, hex."""
        if other == self._body:
            return self.hex
        view, same = memoryview(self._body), 0
        for start in range(0, len(self._body) - _STEP + 1, _STEP):
            if not other.startswith(view[start : start + _STEP], start):
                break
            same += 1
        if not same:
            return hashlib.sha256(other).hexdigest()
        made = self._states[same - 1].copy()
        made.update(memoryview(other)[same * _STEP :])
        return str(made.hexdigest())
