"""Seals events that differ from the one before in nothing but one text, without reading and writing all of their JSON.

An event in which one text was sealed, and nothing else, is remembered with what came out. One that looks alike
(:mod:`confide.wire.lookalike`) has the same fields in the same places, so that its text is sealed under the same
associated data, and what stands around it comes out as before. It halves what a sealed chunk costs beside its key.
"""

from __future__ import annotations

from typing import Any

from confide.seal.terms import KeyPairs
from confide.wire.lookalike import Lookalike


class SealedAlike:
    """What was sealed in the last event, and what that event looked like."""

    __slots__ = ("_aad", "_after", "_before", "_look", "_seals")

    def __init__(self) -> None:
        self._look = Lookalike()
        self._seals: list[tuple[Any, bytes | None, str]] = []
        self._aad: bytes | None = None
        self._before = b""
        self._after = b""

    def forget(self) -> None:
        """Another event begins."""
        self._look = Lookalike()
        self._seals.clear()

    def saw(self, value: Any, aad: bytes | None, sealed: str) -> None:
        """Take a value that was sealed in the event."""
        self._seals.append((value, aad, sealed))

    def learn(self, raw: bytes, out: bytes) -> None:
        """Take the whole event, and what came out."""
        if len(self._seals) != 1:
            return
        value, aad, sealed = self._seals[0]
        before, found, after = out.partition(sealed.encode())
        if isinstance(value, str) and value and found:
            self._look.learn(raw, value)
            self._aad, self._before, self._after = aad, before, after

    def sealed(self, data: bytes, pairs: KeyPairs) -> bytes:
        """The events sealed, if they look like the last one; else nothing."""
        texts = self._look.texts(data)
        return b"".join([self._before + pairs.next().digits(text.encode(), self._aad) + self._after for text in texts])
