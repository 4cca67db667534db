"""The client's half, against our server, against a second implementation, and what it refuses to send."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.seal import answervectors, opinion, vectors
from tests.seal.helpers import KEYS, OFFER, PROTOCOLS, Marks, call, receive
from tests.seal.opinion import CHAT, CLIENT, NOW, K, X
from tests.seal.vectors import chat

from confide.seal import aci_v2, legacy
from confide.seal.edwards import agreement_secret
from confide.seal.errors import BadKey, CannotSeal
from confide.seal.headers import negotiate
from confide.seal.jsontext import MOST_VALUES, BadJson, TooWide, array_in, decode, encode

texts = st.text(st.characters(codec="utf-8"), max_size=60)
numbers = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    numbers | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "system", "tool"]),
            "content": st.none() | texts | st.lists(values, max_size=3),
        },
        optional={"name": texts, "tool_calls": values},
    ),
    min_size=1,
    max_size=4,
)
both = pytest.mark.parametrize(("algo", "version"), PROTOCOLS)


# There ---------------------------------------------------------------------------------------------------------------


@both
@settings(max_examples=40)
@given(messages, st.dictionaries(texts, values, max_size=3), texts)
def test_whatever_is_asked_arrives(algo: str, version: str, said: Any, members: dict[str, Any], model: str) -> None:
    body = {**members, "model": model.replace("|", "/"), "messages": said}
    if all(message["content"] is None for message in said):
        with pytest.raises(CannotSeal):
            call(body, algo, version)
        return
    sealed = call(body, algo, version)
    opened = receive(sealed)
    assert opened.body == sealed.restored
    received = json.loads(opened.body)
    for asked, got in zip(said, received["messages"], strict=True):
        content = asked["content"]
        array = isinstance(content, str) and array_in(content) is not None
        assert got == ({**asked, "content": [{"type": "text", "text": content}]} if array else asked)
    assert {**received, "messages": said} == body


@both
@pytest.mark.parametrize("text", ["[]", "[1, 2]", ' ["a"]\n', "[[[]]]"])
def test_a_text_that_is_an_array_stays_a_text(algo: str, version: str, text: str) -> None:
    opened = receive(call(chat(text), algo, version))
    assert json.loads(opened.body)["messages"][0]["content"] == [{"type": "text", "text": text}]


def test_prompts_and_inputs() -> None:
    for path, member in (("/v1/completions", "prompt"), ("/v1/embeddings", "input")):
        for value in ("one", ["one", "[1]"]):
            sealed = call({"model": "demo", member: value}, X, "2", path)
            assert b"one" not in sealed.body
            assert json.loads(receive(sealed, path).body) == {"model": "demo", member: value}


@both
def test_every_request_has_new_keys_and_nonces(algo: str, version: str) -> None:
    one, two = call(chat("a"), algo, version), call(chat("a"), algo, version)
    same = {"X-Model-Pub-Key", "X-Signing-Algo", "X-E2EE-Timestamp", "X-E2EE-Version"}
    for name in one.headers:
        assert (one.headers[name] == two.headers[name]) == (name in same)
    assert one.body != two.body


@both
@pytest.mark.parametrize(
    "body",
    [
        {"model": "demo", "messages": []},
        {"model": "demo", "messages": [{"role": "user", "content": None}]},
        {"model": "demo", "messages": [{"role": "user", "content": {"text": "a"}}]},
        {"model": "demo", "messages": {"0": "a"}},
        {"model": "demo", "messages": None},
        {"model": "demo", "prompt": "a"},
        {"messages": [{"role": "user", "content": "a"}]},
        {"model": 7, "messages": [{"role": "user", "content": "a"}]},
        ["model"],
    ],
)
def test_what_cannot_be_sealed_is_not_sent(algo: str, version: str, body: object) -> None:
    with pytest.raises(CannotSeal):
        call(body, algo, version)


def test_token_ids_are_not_sent() -> None:
    for value in ([1, 2], ["a", [1]], [], 7):
        with pytest.raises(CannotSeal):
            call({"model": "demo", "prompt": value}, X, "2", "/v1/completions")
    with pytest.raises(CannotSeal):
        aci_v2.seal_request(b"{", CHAT, X, KEYS[X].identity.hex(), NOW)


def test_an_endpoint_without_encryption() -> None:
    with pytest.raises(CannotSeal):
        call(chat("a"), X, "2", "/v1/responses")


def test_a_model_that_would_make_the_binding_ambiguous() -> None:
    with pytest.raises(CannotSeal):
        call({**chat("a"), "model": "a|b"}, "ecdsa", "2")
    receive(call({**chat("a"), "model": "a|b"}, "ecdsa", "1"))
    receive(call({**chat("a"), "model": "a|b"}, X, "2"))


def test_service_keys_that_cannot_be_used() -> None:
    body = json.dumps(chat("a")).encode()
    for algo, key in ((X, "00" * 32), (X, "01"), (K, "04" + "01" * 64), ("rsa", "00" * 32)):
        with pytest.raises(BadKey):
            aci_v2.seal_request(body, CHAT, algo, key, NOW)
    with pytest.raises(BadKey):
        legacy.seal_request(body, "ed25519", "01" + "00" * 31, NOW)


# And back, with somebody else's client -------------------------------------------------------------------------------


def foreign_open(algo: str, text: str, aad: str | None) -> str:
    """Open a field as the older protocol's public clients do."""
    blob, secret = bytes.fromhex(text), bytes.fromhex(CLIENT[algo])
    if algo == "ecdsa":
        head = 65
        peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), blob[:65])
        shared = ec.derive_private_key(int.from_bytes(secret), ec.SECP256K1()).exchange(ec.ECDH(), peer)
    else:
        head = 32
        mine = x25519.X25519PrivateKey.from_private_bytes(agreement_secret(secret))
        shared = mine.exchange(x25519.X25519PublicKey.from_public_bytes(blob[:32]))
    key = HKDF(hashes.SHA256(), 32, None, opinion.INFO[algo]).derive(shared)
    data = aad.encode() if aad else None
    return AESGCM(key).decrypt(blob[head : head + 12], blob[head + 12 :], data).decode()


@pytest.mark.parametrize("algo", ["ecdsa", "ed25519"])
@pytest.mark.parametrize("version", ["1", "2"])
def test_the_older_protocols_own_clients(algo: str, version: str) -> None:
    headers = vectors.old_headers(algo, version)
    aad = opinion.old_request_aad(algo) if version == "2" else None
    fresh = opinion.Numbers(f"{algo}{version}")
    content = opinion.seal(algo, opinion.public(algo, opinion.SERVICE[algo]), "please only reply: OK", aad, *fresh())
    session = negotiate(headers.items(), OFFER, CHAT, NOW + 3)
    assert session is not None
    opened = session.open(json.dumps(chat(content)).encode()).claim(Marks())
    assert json.loads(opened.body) == chat("please only reply: OK")
    aad = opinion.old_response_aad(algo, 0, "content") if version == "2" else None
    whole = json.loads(opened.sealer().whole(json.dumps(answervectors.whole({"content": "OK é"})).encode()))
    assert foreign_open(algo, whole["choices"][0]["message"]["content"], aad) == "OK é"
    sealer, parts = opened.sealer(), []
    for delta in ({"role": "assistant", "content": ""}, {"content": "O"}, {"content": "K"}, {}):
        line = sealer.feed(answervectors.sse(answervectors.chunk(delta), done=False).encode()).decode().strip()
        chunk = json.loads(line.removeprefix("data: "))
        piece = chunk["choices"][0]["delta"].get("content")
        if isinstance(piece, str) and piece:
            parts.append(foreign_open(algo, piece, aad))
    assert "".join(parts) == "OK"


# JSON ----------------------------------------------------------------------------------------------------------------


def test_json_that_is_too_wide_or_too_deep() -> None:
    wide = b"[" + b"0," * MOST_VALUES + b"0]"
    with pytest.raises(TooWide):
        decode(wide)
    with pytest.raises(TooWide):
        array_in(wide.decode())
    with pytest.raises(BadJson):
        decode(b"[" * 100_000)
    assert array_in("[" * 100_000) is None
    assert array_in("x" + wide.decode()) is None


def test_json_that_became_too_deep() -> None:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(BadJson):
        encode(deep)
    content = "[" * 800 + "]" * 800
    for body in (chat(content), chat(json.loads(content))):
        restored = json.loads(receive(call(body, X, "2")).body)
        assert len(restored["messages"][0]["content"]) == 1
