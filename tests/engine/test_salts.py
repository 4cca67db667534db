from __future__ import annotations

import base64
import hashlib
import hmac
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.engine.salts import SHORTEST_SECRET, cache_salt

SECRET = bytes(range(32))


@given(st.binary(min_size=SHORTEST_SECRET, max_size=80), st.text(st.characters(codec=None)))
def test_engines_take_it(secret: bytes, tenant: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", cache_salt(secret, tenant))


@given(st.text(), st.text())
def test_as_many_salts_as_tenants(one: str, other: str) -> None:
    assert (cache_salt(SECRET, one) == cache_salt(SECRET, other)) is (one == other)


def test_it_is_keyed() -> None:
    assert cache_salt(SECRET, "key_1") != cache_salt(SECRET[::-1], "key_1")


def test_it_is_the_hmac_for_this_purpose_only() -> None:
    """The same secret may serve other purposes: what is hashed begins with the name of this one."""
    expected = hmac.new(SECRET, b"confide/cache-salt/1\0key_1", hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(cache_salt(SECRET, "key_1") + "=") == expected


@pytest.mark.parametrize("secret", [b"", bytes(SHORTEST_SECRET - 1)])
def test_a_secret_that_can_be_guessed_is_none(secret: bytes) -> None:
    with pytest.raises(ValueError, match="at least 16 bytes"):
        cache_salt(secret, "key_1")
