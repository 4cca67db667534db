"""Reads what a model decodes under a grammar of calls, piece by piece, and says what it means.

The text is ``Call: `` and a JSON array of ``{"name": …, "arguments": {…}}``, or ``Reply: `` and a text. The grammar is
ours, so the spelling is fixed and a scanner is enough; the arguments are handed on as the characters that were
decoded. Text that breaks the grammar is an error and never passed on, since the promise was that it can't happen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Any

from confide.engine.grammar import CALL, REPLY
from confide.errors import EngineFailed
from confide.wire.answers import CallArguments, CallStarted, Delta, TextDelta

_HEADER = re.compile(r'"name": "(?P<name>[a-zA-Z0-9_-]{1,64})", "arguments": \{')
_LONGEST_HEADER = 100


class _State(Enum):
    PREFIX = auto()
    REPLY = auto()
    BETWEEN = auto()  # inside the array, before a call
    HEADER = auto()  # inside a call, before its arguments
    ARGUMENTS = auto()
    TAIL = auto()  # after the arguments, before the call's closing brace
    END = auto()


class ToolCallReader:
    """Sans-I/O: :meth:`feed` takes decoded text and gives deltas; :meth:`close` says whether it was whole."""

    def __init__(self, index: int, new_id: Callable[[], str]) -> None:
        self._index = index
        self._new_id = new_id
        self._state = _State.PREFIX
        self._held = ""
        self._header = ""
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.calls = 0

    @property
    def replying(self) -> bool:
        """Whether the model chose to reply in text."""
        return self._state is _State.REPLY

    @property
    def _in_arguments(self) -> bool:
        return self._state is _State.ARGUMENTS

    def feed(self, text: str, logprobs: tuple[dict[str, Any], ...] | None = None) -> Iterator[Delta]:
        """Take more decoded text.

        Raises:
            EngineFailed: the text is not what the grammar allows.
        """
        while text:
            state = self._state
            if state is _State.PREFIX:
                text = self._prefix(text)
                logprobs = None if text else logprobs
            elif state is _State.REPLY:
                yield TextDelta(self._index, text, logprobs)
                return
            elif state is _State.ARGUMENTS:
                end = self._scan(text)
                if end:
                    yield CallArguments(self._index, self.calls - 1, text[:end])
                text = text[end:]
            else:
                delta = self._structure(text[0])
                if delta is not None:
                    yield delta
                if not self._in_arguments:  # else this very character opens the arguments
                    text = text[1:]

    def _prefix(self, text: str) -> str:
        """Consume the prefix that tells a call from a reply; what follows it is given back."""
        held = self._held + text
        for prefix, state in ((CALL, _State.BETWEEN), (REPLY, _State.REPLY)):
            if held.startswith(prefix):
                self._state, self._held = state, ""
                return held[len(prefix) :]
        if not CALL.startswith(held) and not REPLY.startswith(held):
            raise broken()
        self._held = held
        return ""

    def _structure(self, char: str) -> Delta | None:
        """One character outside of arguments and replies."""
        if self._state is _State.BETWEEN:
            self._between(char)
        elif self._state is _State.HEADER:
            return self._in_header(char)
        elif self._state is _State.TAIL and char == "}":
            self._state = _State.BETWEEN
        else:
            raise broken()
        return None

    def _between(self, char: str) -> None:
        """``[{`` before the first call, ``, {`` before each other, ``]`` after the last."""
        self._held += char
        opening = ", {" if self.calls else "[{"
        if self._held == opening:
            self._state, self._held, self._header = _State.HEADER, "", ""
        elif self._held == "]" and self.calls:
            self._state = _State.END
        elif not opening.startswith(self._held):
            raise broken()

    def _in_header(self, char: str) -> Delta | None:
        """``"name": "…", "arguments": `` up to the brace that opens the arguments."""
        self._header += char
        if char != "{":
            if len(self._header) > _LONGEST_HEADER:
                raise broken()
            return None
        match = _HEADER.fullmatch(self._header)
        if match is None:
            raise broken()
        self._state, self._depth, self._in_string, self._escaped = _State.ARGUMENTS, 0, False, False
        self.calls += 1
        return CallStarted(self._index, self.calls - 1, self._new_id(), match["name"])

    def _scan(self, text: str) -> int:
        """How many characters of the text belong to the arguments; the state moves on when they end."""
        for position, char in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._in_string = False
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self._state = _State.TAIL
                    return position + 1
        return len(text)

    def close(self) -> None:
        """Say that decoding came to its natural end.

        Raises:
            EngineFailed: in the middle of a call.
        """
        if self._state not in (_State.REPLY, _State.END) or (self._state is _State.END and not self.calls):
            raise broken()


def broken() -> EngineFailed:
    """The error for output that breaks the grammar it was decoded under."""
    return EngineFailed("The engine's output broke the constraint it was decoded under; the answer was not passed on.")
