"""Stop sequences in text that we read ourselves: held back while one may be beginning, never shown."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Sans-I/O: text in, text out that holds no stop sequence."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """The text that may be shown now. Once :attr:`hit` is true nothing more comes."""
        if self.hit:
            return ""
        held = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:  # the one that is complete first, so that it doesn't matter in which pieces the text came
            self.hit, self._held = True, ""
            return held[: min(found)[1]]
        keep = max((self._overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def rest(self) -> str:
        """What was held back and turned out not to be a stop sequence."""
        rest, self._held = self._held, ""
        return rest

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """The length of the longest end of the text that is a start of the stop sequence."""
        longest = min(len(text), len(stop) - 1)
        return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)
