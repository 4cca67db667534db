from __future__ import annotations

import pytest

from confide.engine.remote.address import Address, parse_address
from confide.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "address", "root"),
    [
        ("http://127.0.0.1:8000/v1", Address("http://127.0.0.1:8000/v1"), "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000", Address("http://127.0.0.1:8000/v1"), "http://127.0.0.1:8000"),
        ("http://engine:8000/v1/", Address("http://engine:8000/v1"), "http://engine:8000"),
        ("https://engine/team/v1", Address("https://engine/team/v1"), "https://engine/team"),
        ("http://[::1]:8000/api", Address("http://[::1]:8000/api"), "http://[::1]:8000/api"),
        ("unix:/run/vllm.sock", Address("http://localhost/v1", "/run/vllm.sock"), "http://localhost"),
        ("unix:/run/vllm.sock:/api/v1", Address("http://localhost/api/v1", "/run/vllm.sock"), "http://localhost/api"),
        ("unix:/run/a b.sock", Address("http://localhost/v1", "/run/a b.sock"), "http://localhost"),
    ],
)
def test_addresses(text: str, address: Address, root: str) -> None:
    assert parse_address(text) == address
    assert address.root_url == root


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "secret:8000",
        "ftp://secret/v1",
        "http://",
        "http:///v1",
        "http://secret:99999/v1",
        "http://secret:0/v1",
        "http://secret:port/v1",
        "http://user:secret@host/v1",
        "http://secret@host/v1",
        "http://host/v1?key=secret",
        "http://host/v1#secret",
        "http://host/v1 secret",
        "http://host/v1\nsecret",
        "http://[secret/v1",
        "unix:",
        "unix:secret.sock",
        "unix:/secret.sock:",
        "unix:/secret.sock:v1",
        "unix:/secret.sock:/v1 ",
        "unix:/secret\0",
        "unix:/secret" + "x" * 107,
    ],
)
def test_other_texts_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("text", "encrypted"),
    [("http://host/v1", False), ("https://host/v1", True), ("unix:/run/s", True)],
)
def test_whether_the_way_is_encrypted(text: str, encrypted: bool) -> None:
    assert parse_address(text).encrypted is encrypted
