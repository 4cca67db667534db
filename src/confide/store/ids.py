"""Ids of what is stored for each request: in the order of time, and not to be guessed."""

from __future__ import annotations

import secrets
from typing import Final

_TIME_DIGITS: Final = 8


def ordered_id(now: float, digits: int) -> str:
    """An even number of hex digits: 8 of the Unix time in seconds, then random ones.

    Ids that were made one after the other stand beside each other in an index, so that to write a row, or to delete
    the oldest, touches the same few pages of it however many rows there are. Whoever learns an id learns no more than
    the time, which the answer and its receipt state as well.
    """
    return f"{int(now) & 0xFFFFFFFF:0{_TIME_DIGITS}x}{secrets.token_hex((digits - _TIME_DIGITS) // 2)}"
