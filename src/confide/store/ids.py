"""Ids of what is stored for each request: in the order of time, and not to be guessed."""

from __future__ import annotations

import os
import secrets
from collections import deque
from typing import Final

_TIME_DIGITS: Final = 8


_TOKEN_BYTES: Final = 16
_TOKENS: Final = 256
_tokens: Final[deque[str]] = deque()
os.register_at_fork(after_in_child=_tokens.clear)


def random_hex() -> str:
    """32 random hex digits. They are drawn from the system for many at a time, since each time costs as much as to
    parse a request; for ids, not for keys."""
    while True:
        try:
            return _tokens.popleft()  # in one step, so that no two threads get the same
        except IndexError:
            drawn = secrets.token_bytes(_TOKEN_BYTES * _TOKENS).hex()
            _tokens.extend(drawn[at : at + 2 * _TOKEN_BYTES] for at in range(0, len(drawn), 2 * _TOKEN_BYTES))


def ordered_id(now: float, digits: int) -> str:
    """An even number of hex digits: 8 of the Unix time in seconds, then random ones.

    Ids that were made one after the other stand beside each other in an index, so that to write a row, or to delete
    the oldest, touches the same few pages of it however many rows there are. Whoever learns an id learns no more than
    the time, which the answer and its receipt state as well.
    """
    return f"{int(now) & 0xFFFFFFFF:0{_TIME_DIGITS}x}{random_hex()[: digits - _TIME_DIGITS]}"
