"""Ids of what is stored for each request: in the order of time, and not to be guessed."""

from __future__ import annotations

import os
import secrets
from collections import deque
from typing import Final

_TIME_DIGITS: Final = 10
_TICKS: Final = 256
"""A second's parts in an id. In one of them a busy server ends a handful of answers: about what one commit writes."""

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
    """An even number of hex digits: 8 of the Unix time in seconds, 2 of its 256ths, then random ones.

    Ids that were made one after the other stand beside each other in an index, so that to write a row, or to delete
    the oldest, touches the same few pages of it however many rows there are. Ids of one whole second would not: a busy
    server has a thousand of them, in a dozen pages. Whoever learns an id learns when it was made, which whoever asked
    knows anyway.

    Args:
        now: Unix time, seconds.
        digits: how many, 12 to 42.
    """
    return f"{int(now * _TICKS) & 0xFFFFFFFFFF:0{_TIME_DIGITS}x}{random_hex()[: digits - _TIME_DIGITS]}"
