"""Receipts that are written by their form are the canonical bytes of RFC 8785, written in general."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.wire import jcs
from confide.wire.receipt import (
    Event,
    Facts,
    Form,
    InvalidReceipt,
    ModelManifest,
    OtherEvent,
    RequestForwarded,
    RequestReceived,
    ResponseAborted,
    ResponseReturned,
    UpstreamVerified,
    parse_receipt,
    signed,
    unsigned,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
DIGESTS = st.integers(0, 2**256 - 1).map(lambda number: f"sha256:{number:064x}")
TEXTS = st.text(min_size=1, max_size=20)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(ModelManifest, digest=DIGESTS),
    st.builds(ResponseAborted, reason=st.sampled_from(["client_closed", "engine_failed", "shutdown"])),
    st.builds(UpstreamVerified, result=st.just("failed"), required=st.booleans(), model_id=TEXTS, reason=TEXTS),
    st.builds(OtherEvent, type=st.just("acme.event"), members=st.dictionaries(st.sampled_from("abc"), TEXTS)),
)


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    events: list[Event] = [RequestReceived(body_hash=draw(DIGESTS)), *draw(st.lists(EVENTS, max_size=3))]
    if draw(st.booleans()):
        events.append(RequestForwarded(body_hash=draw(DIGESTS)))
    events.append(ResponseReturned(body_hash=draw(DIGESTS)))
    return Facts(
        receipt_id=draw(TEXTS),
        chat_id=draw(st.none() | TEXTS),
        model=draw(st.none() | TEXTS),
        endpoint=draw(TEXTS),
        method=draw(TEXTS),
        served_at=draw(st.integers(0, 2**53 - 1)),
        events=(*events, *draw(st.lists(EVENTS, max_size=2))),
    )


@settings(deadline=None)
@given(facts(), DIGESTS, TEXTS)
def test_a_form_writes_canonical_receipts(told: Facts, digest: str, key_id: str) -> None:
    document = unsigned(told, keyset_digest=digest, key_id=key_id)
    expected = signed(document, KEY.sign(jcs.canonical(document)))
    assert Form(digest, key_id).signed(told, KEY.sign) == expected


def test_what_it_signs_is_what_a_reader_checks() -> None:
    told = make(RequestReceived(body_hash="sha256:" + "1" * 64), ResponseReturned(body_hash="sha256:" + "2" * 64))
    receipt = parse_receipt(Form("sha256:" + "3" * 64, "key").signed(told, KEY.sign))
    KEY.public_key().verify(receipt.signature, receipt.signed_bytes)
    assert receipt.facts == told


def make(*events: Any) -> Facts:
    return Facts(receipt_id="r", chat_id=None, model=None, endpoint="/", method="POST", served_at=1, events=events)


RECEIVED, RETURNED = RequestReceived(body_hash="sha256:" + "1" * 64), ResponseReturned(body_hash="sha256:" + "2" * 64)


@pytest.mark.parametrize(
    "events",
    [
        (),
        (RETURNED,),
        (RECEIVED,),
        (RETURNED, RECEIVED),
        (RECEIVED, RECEIVED, RETURNED),
        (RECEIVED, RETURNED, RETURNED),
    ],
)
def test_events_that_tell_no_exchange(events: tuple[Any, ...]) -> None:
    form = Form("sha256:" + "3" * 64, "key")
    for _ in range(2):
        with pytest.raises(InvalidReceipt):
            form.signed(make(*events), KEY.sign)
