"""Bundles: what is written is read again, and nothing else is."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.verify import bundle as bundles
from confide.verify.bundle import Bundle, BundleError, Exchange, parse_bundle
from confide.verify.material import Item
from confide.verify.saved import Channel
from tests.verify.making import HOST, NONCE, NOW

FULL = Bundle(
    captured_at=NOW,
    url="https://inference.example",
    service="aci",
    report=b"\x00report\xff",
    nonce=NONCE,
    channel=Channel(host=HOST, tls_spki_sha256="ab" * 32, sealed_to=None),
    manifest=b"{}",
    material=(Item("tdx-collateral", "00de70000000", b"{}", "network"),),
    exchanges=(
        Exchange(
            id="chatcmpl-1",
            sealed=True,
            model="tiny",
            request=b"asked",
            response=b"data: x\n\n",
            receipt=b"{}",
            signature=b"{}",
            sessions={"0f" * 32: b"{}"},
        ),
        Exchange(),
    ),
)


def altered(**members: Any) -> bytes:
    return json.dumps(json.loads(FULL.encode()) | members).encode()


def test_a_bundle_is_read_as_it_was_written() -> None:
    assert parse_bundle(FULL.encode()) == FULL
    assert parse_bundle(FULL.encode()).encode() == FULL.encode()
    small = Bundle(captured_at=0, report=b"")
    assert parse_bundle(small.encode()) == small
    assert json.loads(small.encode()) == {"captured_at": 0, "report": "", "confide_bundle": 1}


def test_what_it_holds_is_what_the_client_held() -> None:
    saved = FULL.saved()
    assert (saved.document, saved.nonce, saved.manifest, saved.captured_at) == (FULL.report, NONCE, b"{}", NOW)
    assert saved.channel == FULL.channel
    assert [item.source for item in FULL.items().items] == ["bundle"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"report":"","captured_at":0}',
        b'{"confide_bundle":2,"report":"","captured_at":0}',
        b'{"confide_bundle":1,"report":"*","captured_at":0}',
        b'{"confide_bundle":1,"report":"","captured_at":-1}',
        b'{"confide_bundle":1,"captured_at":0}',
        b"[" * 100_000,
        altered(more=1),
        altered(exchanges=[{"more": 1}]),
        altered(exchanges=[{"sessions": {"x": ""}}]),
        altered(exchanges=[{"sessions": {f"{n:064x}": "" for n in range(9)}}]),
        altered(exchanges=[{}] * 10_001),
        altered(material=[{"kind": "other", "key": "", "data": ""}]),
        altered(material=[{"kind": "jwks", "key": "", "data": ""}] * 129),
        altered(channel={"tls_spki_sha256": None}),
        altered(url="x" * 5000),
    ],
)
def test_anything_else_is_no_bundle(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse_bundle(data)


def test_a_bundle_is_not_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "MOST_BYTES", 100)
    for work in (lambda: parse_bundle(b" " * 101), lambda: FULL.encode()):
        with pytest.raises(BundleError, match="too long"):
            work()


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    with contextlib.suppress(BundleError):
        parse_bundle(data)
