"""Deterministic damage to bytes and to JSON: what a short run does without a fuzzer's feedback."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x5C, 0x7B, 0x5D, 0x2D, 0x30)
HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 1e308, 2**53, 2**64),
    *("", "x", "0x", "\u2028", "\ud800", "a" * 5000),
    *([], {}, [[]], {"a": {}}, [1] * 300),
)


def damaged(seed: bytes, source: random.Random) -> bytes:
    """A seed with one to four kinds of damage."""
    data = bytearray(seed)
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        _DAMAGE[source.randrange(len(_DAMAGE))](data, source)
    return bytes(data)


def _place(data: bytearray, source: random.Random) -> int:
    return source.randrange(len(data)) if data else 0


def _flip(data: bytearray, source: random.Random) -> None:
    if data:
        data[_place(data, source)] ^= 1 << source.randrange(8)


def _set(data: bytearray, source: random.Random) -> None:
    if data:
        data[_place(data, source)] = source.choice(INTERESTING)


def _cut(data: bytearray, source: random.Random) -> None:
    del data[_place(data, source) :]


def _remove(data: bytearray, source: random.Random) -> None:
    at = _place(data, source)
    del data[at : at + source.randrange(1, 64)]


def _repeat(data: bytearray, source: random.Random) -> None:
    at = _place(data, source)
    data[at:at] = data[at : at + source.randrange(1, 64)]


def _insert(data: bytearray, source: random.Random) -> None:
    data[_place(data, source) : 0] = source.randbytes(source.randrange(1, 16))


def _word(data: bytearray, source: random.Random) -> None:
    at = _place(data, source)
    size = source.choice((2, 4))
    data[at : at + size] = source.choice((0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)).to_bytes(4, "little")[:size]


def _json(data: bytearray, source: random.Random) -> None:
    """One member somewhere in a JSON text becomes something else, goes, or comes twice."""
    try:
        value = json.loads(bytes(data))
    except (ValueError, RecursionError):
        return
    places = list(_holders(value))
    if not places:
        return
    holder, key = source.choice(places)
    if source.random() < 0.2:
        del holder[key]
    else:
        holder[key] = source.choice(HOSTILE)
    data[:] = json.dumps(value).encode()


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, inner in items:
        yield value, key
        yield from _holders(inner)


_DAMAGE = (_flip, _set, _cut, _remove, _repeat, _insert, _word, _json, _json)
