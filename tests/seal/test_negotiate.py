"""From headers to a session, and from a body to a request that is answered once."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from starlette.datastructures import Headers
from tests.seal.helpers import KEYS, OFFER, PROTOCOLS, Marks, call, receive
from tests.seal.opinion import CHAT, NOW, K, X
from tests.seal.vectors import aci_headers, chat, old_headers

from confide.errors import StoreError
from confide.seal.errors import (
    DecryptionFailed,
    InvalidNonce,
    InvalidPublicKey,
    InvalidVersion,
    ReplayDetected,
    SealError,
    UnsupportedEndpoint,
)
from confide.seal.headers import KNOWN, Offer, negotiate
from confide.seal.service import Session, Unclaimed
from confide.seal.terms import NOT_APPLIED, ServiceKey

BODY = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}


def accept(headers: dict[str, str], *, now: float = NOW, offer: Offer = OFFER) -> Session:
    session = negotiate(headers.items(), offer, CHAT, now)
    assert session is not None
    return session


def refused(headers: dict[str, str], offer: Offer = OFFER) -> type[SealError]:
    with pytest.raises(SealError) as caught:
        accept(headers, offer=offer)
    return type(caught.value)


# Which ---------------------------------------------------------------------------------------------------------------


def test_no_header_means_no_encryption() -> None:
    headers = [("Authorization", "Bearer a"), ("X-Request-Hash", "b"), ("X-E2EE", "c")]
    assert negotiate(headers, OFFER, CHAT, NOW) is None
    assert negotiate([], OFFER, "/v1/whatever", NOW) is None
    assert NOT_APPLIED == {"X-E2EE-Applied": "false"}


@pytest.mark.parametrize("name", sorted(KNOWN))
@pytest.mark.parametrize("value", ["", "1", "2"])
def test_no_single_header_is_ignored(name: str, value: str) -> None:
    refused({name: value})
    with pytest.raises(UnsupportedEndpoint):
        negotiate([(name, value)], OFFER, "/v1/models", NOW)


@pytest.mark.parametrize(("algo", "version"), PROTOCOLS)
def test_every_protocol_says_what_it_applies(algo: str, version: str) -> None:
    session = accept(call(BODY, algo, version).headers)
    applied = {"X-E2EE-Applied": "true", "X-E2EE-Version": version, "X-E2EE-Algo": algo}
    assert session.terms.response_headers == applied
    assert (session.mark is None) == (version == "1")


def test_names_come_in_any_case_and_from_starlette() -> None:
    sealed = call(BODY, X, "2")
    raw = [(name.lower().encode(), value.encode()) for name, value in sealed.headers.items()]
    session = negotiate(Headers(raw=raw).items(), OFFER, CHAT, NOW)
    assert session is not None
    assert json.loads(session.open(sealed.body).claim(Marks()).body) == BODY


def test_a_header_that_comes_twice_is_wrong() -> None:
    for name, error in (("X-E2EE-Nonce", InvalidNonce), ("X-Client-Pub-Key", InvalidPublicKey)):
        headers = aci_headers(X)
        with pytest.raises(error):
            negotiate([*headers.items(), (name.lower(), headers[name])], OFFER, CHAT, NOW)


def test_what_is_not_offered_is_refused() -> None:
    only_aci, only_old = Offer(aci=OFFER.aci), Offer(legacy=OFFER.legacy)
    assert refused(old_headers("ecdsa", "2"), only_aci) is InvalidVersion
    assert refused(aci_headers(X), only_old) is InvalidVersion
    bound = replace(OFFER, legacy_versions=frozenset({"2"}))
    assert refused(old_headers("ed25519", "1"), bound) is InvalidVersion
    assert accept(old_headers("ed25519", "2"), offer=bound).terms.version == "2"


def test_a_key_is_found_among_several() -> None:
    new = replace(OFFER, aci=(*OFFER.aci, *(ServiceKey(k.suite, k.private, k.identity) for k in OFFER.aci)))
    assert accept(aci_headers(K), offer=new).key is OFFER.aci[1]


def test_answers_to_the_protocols_differ_in_what_is_hashed() -> None:
    for algo, version in PROTOCOLS:
        sealed = call(BODY, algo, version)
        opened = receive(sealed)
        assert opened.hashed == (opened.body if algo in (X, K) else sealed.body)
        assert (opened.model, opened.body) == ("demo", sealed.restored)
        assert b"hi" not in sealed.body
        assert repr(opened.body) not in repr(opened)
        assert repr(opened.hashed) not in repr(opened)


# Once ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algo", "version"), [each for each in PROTOCOLS if each[1] == "2"])
def test_a_replay_is_refused(algo: str, version: str) -> None:
    sealed, marks = call(BODY, algo, version), Marks()
    accept(sealed.headers).open(sealed.body).claim(marks)
    with pytest.raises(ReplayDetected):
        accept(sealed.headers, now=NOW + 300).open(sealed.body).claim(marks)


@pytest.mark.parametrize(("algo", "version"), [each for each in PROTOCOLS if each[1] == "2"])
def test_a_replay_under_another_client_key_is_refused(algo: str, version: str) -> None:
    sealed, other, marks = call(BODY, algo, version), call(BODY, algo, version), Marks()
    accept(sealed.headers).open(sealed.body).claim(marks)
    thief = sealed.headers | {"X-Client-Pub-Key": other.headers["X-Client-Pub-Key"]}
    with pytest.raises(ReplayDetected):
        accept(thief).open(sealed.body).claim(marks)


def test_a_replay_with_the_nonce_in_another_case_is_the_same_mark() -> None:
    headers = aci_headers(X)
    upper = headers | {"X-E2EE-Nonce": headers["X-E2EE-Nonce"].upper()}
    assert accept(headers).mark == accept(upper).mark


def test_marks_differ_by_key_and_nonce() -> None:
    marks = {accept(call(BODY, algo, "2").headers).mark for algo in KEYS for _ in range(2)}
    assert len(marks) == 2 * len(KEYS)
    assert all(mark and len(mark.nonce) == 64 for mark in marks)


@pytest.mark.parametrize("offset", [-300, 0, 300])
def test_a_mark_outlives_the_time_in_which_its_request_is_accepted(offset: int) -> None:
    session = accept(aci_headers(X), now=NOW + offset)
    assert session.mark is not None
    last = NOW + 300
    assert session.mark.expires > last
    accept(aci_headers(X), now=last)
    with pytest.raises(SealError):
        accept(aci_headers(X), now=session.mark.expires)


def test_a_memory_that_fails_is_neither_new_nor_a_replay() -> None:
    class Broken:
        def add(self, nonce: str, expires: int) -> bool:
            raise StoreError("the store is down")

    sealed = call(BODY, X, "2")
    with pytest.raises(StoreError):
        accept(sealed.headers).open(sealed.body).claim(Broken())


def test_a_body_that_cannot_be_opened_marks_nothing() -> None:
    sealed, marks = call(BODY, X, "2"), Marks()
    with pytest.raises(DecryptionFailed):
        accept(sealed.headers).open(json.dumps(chat("ff" * 80)).encode()).claim(marks)
    assert not marks.seen
    accept(sealed.headers).open(sealed.body).claim(marks)


def test_who_asks_the_memory_himself() -> None:
    sealed = call(BODY, X, "2")
    unclaimed = accept(sealed.headers).open(sealed.body)
    assert isinstance(unclaimed, Unclaimed)
    assert unclaimed.claimed(new=True).body == sealed.restored
    with pytest.raises(ReplayDetected):
        unclaimed.claimed(new=False)


def test_version_1_needs_no_memory() -> None:
    sealed, marks = call(BODY, "ecdsa", "1"), Marks()
    for _ in range(2):
        accept(sealed.headers).open(sealed.body).claim(marks)
    assert not marks.seen
