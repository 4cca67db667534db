"""Vectors: the published ones, known answers, and requests and answers with one exact outcome each."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.seal import vectors
from tests.seal.helpers import KEYS, OFFER, Marks, load, pieces
from tests.seal.opinion import CHAT, CLIENT, NONCE, NOW, SHORT_NONCE, K, X
from tests.seal.vectors import FOLDER

from confide.seal import aci_v2, legacy
from confide.seal.client import ResponseOpener
from confide.seal.ecies import Opener, Sealer
from confide.seal.errors import Forged, SealError, Truncated
from confide.seal.fields import ENDPOINTS
from confide.seal.headers import negotiate
from confide.seal.terms import Head, Terms

PUBLISHED: dict[str, Any] = json.loads((FOLDER / "published.json").read_text())
FIELDS, REQUESTS, ANSWERS = load("fields.json"), load("requests.json"), load("answers.json")


def named(vector: dict[str, Any]) -> str:
    return str(vector["name"])


# The files -----------------------------------------------------------------------------------------------------------


def test_the_files_are_what_the_generator_makes() -> None:
    for name, built in vectors.build().items():
        assert (FOLDER / name).read_text() == vectors.text(built)


def test_more_vectors_fail_than_succeed_and_no_name_comes_twice() -> None:
    for some in (REQUESTS, ANSWERS):
        bad = [vector for vector in some if "error" in vector]
        assert len(bad) > len(some) / 2
        assert len({named(vector) for vector in some}) == len(some)


def test_every_error_has_vectors() -> None:
    types = {vector["error"] for vector in REQUESTS if "error" in vector}
    assert types == {cls.type for cls in SealError.__subclasses__()} - {"e2ee_replay_detected"}


# Published -----------------------------------------------------------------------------------------------------------


def test_published_associated_data() -> None:
    binding = aci_v2.Binding(PUBLISHED["suite"], PUBLISHED["nonce"], PUBLISHED["timestamp"])
    request = binding.request(PUBLISHED["model"], tuple(PUBLISHED["request_field"].split(".")))
    head = Head(PUBLISHED["response_id"], "another model")
    response = binding.response(PUBLISHED["model"], head, tuple(PUBLISHED["response_field"].split(".")))
    assert (request.decode(), response.decode()) == (PUBLISHED["request_aad"], PUBLISHED["response_aad"])


def test_published_key() -> None:
    key = aci_v2.service_key(PUBLISHED["suite"], bytes.fromhex(PUBLISHED["service_private_key"]))
    assert key.identity.hex() == PUBLISHED["service_public_key"]


# Fields --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", FIELDS, ids=named)
def test_field(vector: dict[str, Any]) -> None:
    suite = (aci_v2 if vector["algo"] in (X, K) else legacy).suite(vector["algo"])
    key = KEYS[vector["algo"]]
    aad = vector["aad"].encode() if vector["aad"] else None
    sealed, plaintext = vector["ciphertext"], vector["plaintext"].encode()
    assert Opener(suite, key.private).open(sealed, aad) == plaintext
    drawn = iter([bytes.fromhex(vector["ephemeral_private_key"]), bytes.fromhex(vector["nonce"])])
    sealer = Sealer(suite, suite.curve.point(key.identity), lambda _: next(drawn))
    assert sealer.seal(plaintext, aad) == sealed
    assert key.private.exchange(bytes.fromhex(sealed)[: suite.curve.point_size]).hex() == vector["shared_secret"]


# Requests ------------------------------------------------------------------------------------------------------------


def open_vector(vector: dict[str, Any]) -> bytes:
    session = negotiate(vector["headers"].items(), OFFER, vector["path"], vector["now"])
    assert session is not None
    return session.open(vector["body"].encode()).claim(Marks()).body


@pytest.mark.parametrize("vector", REQUESTS, ids=named)
def test_request(vector: dict[str, Any]) -> None:
    if "restored" in vector:
        expected = json.dumps(vector["restored"], separators=(",", ":"), ensure_ascii=False)
        assert open_vector(vector).decode() == expected
        return
    with pytest.raises(SealError) as caught:
        open_vector(vector)
    error = {"message": caught.value.message, "type": vector["error"], "param": None, "code": None}
    assert (caught.value.status, caught.value.body()) == (400, {"error": error})


# Answers -------------------------------------------------------------------------------------------------------------


def opener(vector: dict[str, Any]) -> ResponseOpener:
    algo, version, secret = vector["algo"], vector["version"], bytes.fromhex(CLIENT[vector["algo"]])
    terms: Terms
    if algo in (X, K):
        terms = aci_v2.terms(aci_v2.suite(algo), ENDPOINTS[CHAT], NONCE, NOW)
        return ResponseOpener(terms, aci_v2.service_key(algo, secret).private, "demo")
    binding = legacy.NoBinding() if version == "1" else legacy.Binding(algo, SHORT_NONCE, NOW)
    terms = legacy.terms(version, legacy.suite(algo), binding)
    return ResponseOpener(terms, legacy.service_key(algo, secret).private, "demo")


def read(vector: dict[str, Any], size: int) -> str:
    reader, wire = opener(vector), vector["wire"].encode()
    if not vector["stream"]:
        return reader.whole(wire).decode()
    opened = b"".join([reader.feed(piece) for piece in pieces(wire, size)])
    reader.end()
    return opened.decode()


@pytest.mark.parametrize("size", [0, 1, 7])
@pytest.mark.parametrize("vector", ANSWERS, ids=named)
def test_answer(vector: dict[str, Any], size: int) -> None:
    if "opened" in vector:
        assert read(vector, size) == vector["opened"]
        return
    with pytest.raises({"forged": Forged, "truncated": Truncated}[vector["error"]]):
        read(vector, size)
