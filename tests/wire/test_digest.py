"""A digest that shares what two bodies have in common is the digest."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.wire.digest import BodyDigest

STEP = 32 * 1024


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, STEP - 1, STEP, STEP + 1, 2 * STEP, 5 * STEP + 17])
@pytest.mark.parametrize("changed", [None, 0, STEP - 1, STEP, 2 * STEP + 5, -1])
@pytest.mark.parametrize("end", [b"", b"x", b"y" * STEP])
def test_a_body_that_begins_alike(size: int, changed: int | None, end: bytes) -> None:
    body = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    other = bytearray(body)
    if changed is not None and -len(other) <= changed < len(other):
        other[changed] ^= 1
    digest = BodyDigest(body)
    assert digest.hex == sha256(body)
    assert digest.of(bytes(other) + end) == sha256(bytes(other) + end)
    assert digest.of(bytes(other)[: size // 2]) == sha256(bytes(other)[: size // 2])
    assert digest.of(body) == digest.hex


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(0, 3), st.integers(0, 3))
def test_any_two(one: bytes, other: bytes, more: int, less: int) -> None:
    one, other = b"a" * STEP * more + one, b"a" * STEP * less + other
    assert BodyDigest(one).of(other) == sha256(other)
