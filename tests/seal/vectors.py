"""Makes ``tests/vectors/seal``: ``python -m tests.seal.vectors --write``.

Nothing of ``confide.seal`` is imported: ciphertexts come from the primitives, associated data from ``json``, and what
is expected is written by hand, so that the vectors are a second opinion.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from tests.seal.answervectors import answers
from tests.seal.opinion import (
    CHAT,
    CLIENT,
    INFO,
    NONCE,
    NOW,
    SERVICE,
    SHORT_NONCE,
    K,
    Numbers,
    X,
    agree,
    montgomery,
    old_request_aad,
    public,
    request_aad,
    response_aad,
    seal,
)

FOLDER = Path(__file__).parent.parent / "vectors" / "seal"


# Known answers -------------------------------------------------------------------------------------------------------


def fields() -> Iterator[dict[str, Any]]:
    """One field for each algorithm, with every value in between."""
    old = "v2|req|algo={}|model=m|m=0|c=-|n=nonce-0123456789abcd|ts=1750000000"
    for algo, aads in {
        "ecdsa": [None, old.format("ecdsa")],
        "ed25519": [None, old.format("ed25519")],
        X: [request_aad(X, "messages.0.content"), response_aad(X, "choices.0.message.content")],
        K: [request_aad(K, "messages.0.content"), response_aad(K, "choices.0.message.content")],
    }.items():
        ephemeral = "00" * 31 + "07" if algo in ("ecdsa", K) else "07" * 32
        recipient = public(algo, SERVICE[algo])
        for aad in aads:
            for text in ("hello é", ""):
                yield {
                    "name": f"{algo}, {'no ' if aad is None else ''}associated data, {len(text)} characters",
                    "algo": algo,
                    "private_key": SERVICE[algo],
                    "ephemeral_private_key": ephemeral,
                    "nonce": bytes(range(12)).hex(),
                    "aad": aad,
                    "plaintext": text,
                    "shared_secret": agree(algo, ephemeral, recipient)[1].hex(),
                    "ciphertext": seal(algo, recipient, text, aad, ephemeral, bytes(range(12))),
                }


# Requests ------------------------------------------------------------------------------------------------------------


def aci_headers(algo: str) -> dict[str, str]:
    """The five headers."""
    return {
        "X-E2EE-Version": "2",
        "X-Client-Pub-Key": public(algo, CLIENT[algo]).hex(),
        "X-Model-Pub-Key": public(algo, SERVICE[algo]).hex(),
        "X-E2EE-Nonce": NONCE,
        "X-E2EE-Timestamp": str(NOW),
    }


def old_headers(algo: str, version: str) -> dict[str, str]:
    """What the protocol's own clients send."""
    cut = 1 if algo == "ecdsa" else 0
    keys = {
        "X-Signing-Algo": algo,
        "X-Client-Pub-Key": public(algo, CLIENT[algo])[cut:].hex(),
        "X-Model-Pub-Key": public(algo, SERVICE[algo])[cut:].hex(),
    }
    return keys if version == "1" else {**keys, "X-E2EE-Nonce": SHORT_NONCE, "X-E2EE-Timestamp": str(NOW)}


def chat(content: object) -> dict[str, Any]:
    """A body with one message."""
    return {"model": "demo", "messages": [{"role": "user", "content": content}], "temperature": 0.5}


def request(name: str, headers: dict[str, str], body: object, expected: object, **other: object) -> dict[str, Any]:
    """One vector: the answer is the restored body, or the type of the error."""
    kind = "error" if isinstance(expected, str) else "restored"
    text = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return {"name": name, "path": CHAT, "now": NOW, "headers": headers, "body": text, **other, kind: expected}


def good_requests(numbers: Numbers) -> Iterator[dict[str, Any]]:
    """What must be understood."""

    def aci(algo: str, text: str, path: str) -> str:
        return seal(algo, public(algo, SERVICE[algo]), text, request_aad(algo, path), *numbers())

    for algo in (X, K):
        whole = aci(algo, "hello é", "messages.0.content")
        yield request(f"{algo}: a string", aci_headers(algo), chat(whole), chat("hello é"))
        empty = aci(algo, "", "messages.0.content")
        yield request(f"{algo}: an empty string", aci_headers(algo), chat(empty), chat(""))
        upper = aci_headers(algo) | {"X-E2EE-Nonce": NONCE}
        upper = {name: value.upper() if "Key" in name else value for name, value in upper.items()}
        yield request(f"{algo}: keys in upper case", upper, chat(whole), chat("hello é"))
        prefixed = {name: "0x" + value if "Key" in name else value for name, value in aci_headers(algo).items()}
        yield request(f"{algo}: keys with 0x", prefixed, chat(whole), chat("hello é"))
        parts = [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}},
        ]
        array = aci(algo, json.dumps(parts), "messages.0.content")
        yield request(f"{algo}: parts as a whole", aci_headers(algo), chat(array), chat(parts))
    short = {n: v[2:] if "Key" in n else v for n, v in aci_headers(K).items()}
    yield request("a point without 04", short, chat(aci(K, "a", "messages.0.content")), chat("a"))
    for text in ("[", "[1,]", '{"a":[1]}', "7", "null", '"[]"', " [x]"):
        sealed = aci(X, text, "messages.0.content")
        yield request(f"a text that isn't a JSON array: {text}", aci_headers(X), chat(sealed), chat(text))
    yield request(
        " an array with spaces", aci_headers(X), chat(aci(X, ' [ "a" ]\n', "messages.0.content")), chat(["a"])
    )
    yield from good_places(aci)
    yield from good_old_requests(numbers)


def good_places(aci: Any) -> Iterator[dict[str, Any]]:
    """Every place that the specification lists."""
    where = "messages.0.content"
    sealed = [
        {"type": "text", "text": aci(X, "what is this", f"{where}.0.text")},
        {
            "type": "image_url",
            "image_url": {"detail": "low", "url": aci(X, "https://a.example", f"{where}.1.image_url.url")},
        },
        {
            "type": "input_audio",
            "input_audio": {"data": aci(X, "UklGRg==", f"{where}.2.input_audio.data"), "format": "wav"},
        },
        {"type": "file", "file": {"file_id": "f"}},
    ]
    plain = copy.deepcopy(sealed)
    plain[0]["text"] = "what is this"
    plain[1]["image_url"] |= {"url": "https://a.example"}
    plain[2]["input_audio"] |= {"data": "UklGRg=="}
    yield request("parts, each by itself", aci_headers(X), chat(sealed), chat(plain))
    body = chat(None)
    body["messages"] += [{"role": "user", "content": aci(X, "second", "messages.1.content"), "name": "n"}]
    body["tools"] = [{"type": "function", "function": {"name": "f"}}]
    restored = copy.deepcopy(body)
    restored["messages"][1]["content"] = "second"
    yield request("a second message; the first has null", aci_headers(X), body, restored)
    prompt = {"model": "demo", "prompt": aci(X, "once", "prompt")}
    yield request("a prompt", aci_headers(X), prompt, {"model": "demo", "prompt": "once"}, path="/v1/completions")
    prompts = {"model": "demo", "prompt": [aci(X, "[1]", "prompt.0"), [1, 2], aci(X, "b", "prompt.2")]}
    restored = {"model": "demo", "prompt": ["[1]", [1, 2], "b"]}
    yield request("prompts", aci_headers(X), prompts, restored, path="/v1/completions")
    single = {"input": aci(X, "text", "input"), "model": "demo"}
    yield request("an input", aci_headers(X), single, {"input": "text", "model": "demo"}, path="/v1/embeddings")
    inputs = {"input": [aci(X, "text", "input.0"), 7], "model": "demo"}
    yield request("inputs", aci_headers(X), inputs, {"input": ["text", 7], "model": "demo"}, path="/v1/embeddings")
    mixed = aci_headers(X) | {"X-E2EE-Nonce": NONCE.upper()}
    aad = request_aad(X, where, nonce=NONCE.upper())
    content = seal(X, public(X, SERVICE[X]), "a", aad, "21" * 32, bytes(12))
    yield request("the nonce in upper case, in the associated data too", mixed, chat(content), chat("a"))
    odd = 'm\u00e9\u2028"\\\n\u007f\u0001😀'
    content = seal(X, public(X, SERVICE[X]), "a", request_aad(X, where, model=odd), "22" * 32, bytes(12))
    yield request("an odd model", aci_headers(X), chat(content) | {"model": odd}, chat("a") | {"model": odd})
    for delta in (-300, 300):
        times = aci_headers(X) | {"X-E2EE-Timestamp": str(NOW + delta)}
        content = seal(X, public(X, SERVICE[X]), "a", request_aad(X, where, ts=NOW + delta), "23" * 32, bytes(12))
        yield request(f"{delta} seconds off", times, chat(content), chat("a"))


def good_old_requests(numbers: Numbers) -> Iterator[dict[str, Any]]:
    """The older protocol."""
    for algo in ("ecdsa", "ed25519"):
        key = public(algo, SERVICE[algo])
        for version in ("1", "2"):
            headers = old_headers(algo, version)
            aad = None if version == "1" else old_request_aad(algo)
            content = seal(algo, key, "hello é", aad, *numbers())
            yield request(f"older {version}, {algo}", headers, chat(content), chat("hello é"))
            said = headers | {"X-E2EE-Version": version, "X-Signing-Algo": f" {algo.upper()} "}
            yield request(f"older {version}, {algo}, said so", said, chat(content), chat("hello é"))
            aad = None if version == "1" else old_request_aad(algo, 0, 1)
            parts = [{"type": "image_url", "image_url": {"url": "https://a.example"}}]
            sealed = [*parts, {"type": "text", "text": seal(algo, key, "b", aad, *numbers())}]
            restored = [*parts, {"type": "text", "text": "b"}]
            yield request(f"older {version}, {algo}, a part", headers, chat(sealed), chat(restored))
        full = old_headers(algo, "1") | {"X-Model-Pub-Key": "0x" + key.hex()}
        yield request(f"older, {algo}, the whole key", full, chat(seal(algo, key, "a", None, *numbers())), chat("a"))


def bad_requests(numbers: Numbers) -> Iterator[dict[str, Any]]:
    """What must be refused, by a type."""
    for algo in (X, K, "ecdsa", "ed25519"):
        yield from bad_ciphertexts(algo, numbers)
        yield from bad_keys(algo, numbers)
    yield from bad_bindings(numbers)
    yield from bad_headers(numbers)
    yield from bad_old_headers(numbers)
    yield from bad_bodies(numbers)


def one(algo: str, numbers: Numbers, /, **other: object) -> tuple[dict[str, str], str]:
    """Headers, and a sealed first message."""
    key = public(algo, SERVICE[algo])
    if algo in (X, K):
        return aci_headers(algo), seal(algo, key, "hello", request_aad(algo, "messages.0.content", **other), *numbers())
    return old_headers(algo, "2"), seal(algo, key, "hello", old_request_aad(algo, **other), *numbers())


def bad_ciphertexts(algo: str, numbers: Numbers) -> Iterator[dict[str, Any]]:
    """Every part of a ciphertext, changed."""
    headers, text = one(algo, numbers)
    blob = bytes.fromhex(text)
    head = 32 if algo in (X, "ed25519") else 65
    failed = "e2ee_decryption_failed"

    def vector(what: str, changed: str) -> dict[str, Any]:
        return request(f"{algo}: {what}", headers, chat(changed), failed)

    for what, at in {
        "the point": head // 2,
        "the nonce": head,
        "the ciphertext": head + 12,
        "the tag": len(blob) - 1,
    }.items():
        flipped = bytearray(blob)
        flipped[at] ^= 1
        yield vector(f"a bit of {what} flipped", flipped.hex())
    yield vector("the last byte cut off", blob[:-1].hex())
    yield vector("a byte more", (blob + b"\0").hex())
    yield vector("half a byte less", text[:-1])
    yield vector("only the point", blob[:head].hex())
    yield vector("a byte too short for a tag", blob[: head + 12 + 15].hex())
    yield vector("not hexadecimal", "g" + text[1:])
    yield vector("a space inside", text[:10] + " " + text[10:])
    yield vector("not ASCII", "é" + text[1:])
    yield vector("empty", "")
    yield vector("plain text", "hello")
    yield vector("a point of low order or off the curve", (bytes(head) + blob[head:]).hex())
    if head == 65:
        compressed = bytes([2 + blob[64] % 2]) + blob[1:33]
        yield vector("a compressed point", (compressed + blob[65:]).hex())
        yield vector("a hybrid point", (bytes([6 + blob[64] % 2]) + blob[1:]).hex())
    bad = seal(algo, public(algo, "77" * 32), "a", json_or_old(algo), *numbers())
    yield vector("for another key", bad)
    other = {X: "ed25519", "ed25519": X, K: "ecdsa", "ecdsa": K}[algo]
    point = public(algo, SERVICE[algo])
    point = montgomery(point) if algo == "ed25519" else point
    secret, nonce = numbers()
    if algo == X:
        return
    bad = seal(X if algo == "ed25519" else other, point, "a", json_or_old(algo), secret, nonce)
    yield vector("with the key derivation of the other protocol", bad)


def json_or_old(algo: str) -> str:
    """The right associated data of the first message."""
    return request_aad(algo, "messages.0.content") if algo in (X, K) else old_request_aad(algo)


def bad_keys(algo: str, numbers: Numbers) -> Iterator[dict[str, Any]]:
    """Client keys that can't be answered to, and service keys that aren't ours."""
    headers, text = one(algo, numbers)
    point = public(algo, CLIENT[algo])

    def vector(what: str, name: str, value: str, error: str) -> dict[str, Any]:
        return request(f"{algo}: {what}", headers | {name: value}, chat(text), error)

    client, invalid = "X-Client-Pub-Key", "e2ee_invalid_public_key"
    bad = {
        "empty": "",
        "not hexadecimal": "zz" * len(point),
        "spaces inside": point.hex()[:2] + " " + point.hex()[2:],
        "a byte less": point[:-1].hex(),
        "a byte more": point.hex() + "00",
        "0x twice": "0x0x" + point.hex(),
        "of zeros": "00" * len(point),
        "given twice": f"{point.hex()}, {point.hex()}",
    }
    if algo == X:
        bad |= {f"of low order {i}": value for i, value in enumerate(low_order())}
    if algo == "ed25519":
        bad |= {"the neutral point": "01" + "00" * 31, "of order 2": "ec" + "ff" * 30 + "7f"}
        bad |= {"not reduced": "ee" + "ff" * 30 + "7f", "off the curve": "02" + "00" * 31}
        bad |= {"of order 8": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"}
    if algo in (K, "ecdsa"):
        bad |= {"compressed": bytes([2 + point[64] % 2, *point[1:33]]).hex(), "off the curve": "04" + "01" * 64}
        bad |= {"hybrid": bytes([6 + point[64] % 2, *point[1:]]).hex(), "at infinity": "00"}
    for what, value in bad.items():
        yield vector(f"the client's key {what}", client, value, invalid)
    mismatch = "e2ee_model_key_mismatch"
    yield vector("another service's key", "X-Model-Pub-Key", public(algo, "66" * 32).hex(), mismatch)
    malformed = mismatch if algo in (X, K) else invalid
    yield vector("a malformed service key", "X-Model-Pub-Key", "abc", malformed)


def low_order() -> list[str]:
    """Points with which every key agrees on zeros (RFC 7748 section 6.1; Curve25519's own page lists them)."""
    p = 2**255 - 19
    points = [0, 1, 325606250916557431795983626356110631294008115727848805560023387167927233504]
    points += [39382357235489614581723060781553021112529911719440698176882885853963445705823, p - 1, p, p + 1]
    return [(number + bit).to_bytes(32, "little").hex() for number in points for bit in (0, 2**255)]


def bad_bindings(numbers: Numbers) -> Iterator[dict[str, Any]]:
    """Every member of the associated data, another one."""
    members: dict[str, object] = {"purpose": "aci.e2ee.response.v2", "model": "demo2", "field": "messages.1.content"}
    members |= {"nonce": "ff" * 32, "ts": NOW + 1, "algo": "x25519", "id": ""}
    for algo in (X, K):
        for name, value in members.items():
            headers, text = one(algo, numbers, **{name: value})
            yield request(f"{algo}: bound to another {name}", headers, chat(text), "e2ee_decryption_failed")
        bare = seal(algo, public(algo, SERVICE[algo]), "a", None, *numbers())
        yield request(f"{algo}: bound to nothing", aci_headers(algo), chat(bare), "e2ee_decryption_failed")
        headers, text = one(algo, numbers)
        upper = headers | {"X-E2EE-Nonce": NONCE.upper()}
        yield request(f"{algo}: the nonce in another case", upper, chat(text), "e2ee_decryption_failed")
        moved = {"model": "demo", "messages": [{"role": "user", "content": None}, {"role": "user", "content": text}]}
        yield request(f"{algo}: moved to another message", headers, moved, "e2ee_decryption_failed")
        part = chat([{"type": "text", "text": text}])
        yield request(f"{algo}: moved into a part", headers, part, "e2ee_decryption_failed")
    old: dict[str, object] = {"message": 1, "part": 0, "model": "x", "n": SHORT_NONCE + "e", "ts": NOW - 1, "algo": "e"}
    for algo in ("ecdsa", "ed25519"):
        for name, value in old.items():
            headers, text = one(algo, numbers, **{name: value})
            yield request(f"{algo}: bound to another {name}", headers, chat(text), "e2ee_decryption_failed")
        _, text = one(algo, numbers)
        yield request(f"{algo}: version 2 as 1", old_headers(algo, "1"), chat(text), "e2ee_decryption_failed")
        bare = seal(algo, public(algo, SERVICE[algo]), "a", None, *numbers())
        yield request(f"{algo}: version 1 as 2", old_headers(algo, "2"), chat(bare), "e2ee_decryption_failed")


def bad_headers(numbers: Numbers) -> Iterator[dict[str, Any]]:
    """Every header of version 2, missing or wrong."""
    headers, text = one(X, numbers)

    def vector(what: str, changed: dict[str, str], error: str, **other: object) -> dict[str, Any]:
        return request(what, changed, chat(text), error, **other)

    for name in headers:
        rest = {other: value for other, value in headers.items() if other != name}
        yield vector(f"without {name}", rest, "e2ee_header_missing")
        yield vector(f"only {name}", {name: headers[name]}, "e2ee_header_missing")
    for version in ("", "1", "3", "2.0", "02", " 2", "two", "2, 2"):
        yield vector(f"version {version!r}", headers | {"X-E2EE-Version": version}, "e2ee_invalid_version")
    for nonce in (
        "",
        NONCE[:-1],
        NONCE + "0",
        "0x" + NONCE,
        "0x" + NONCE[2:],
        "g" * 64,
        NONCE + "\n",
        f"{NONCE}, {NONCE}",
    ):
        yield vector(f"nonce {nonce!r}", headers | {"X-E2EE-Nonce": nonce}, "e2ee_invalid_nonce")
    stale = [str(NOW - 301), str(NOW + 301), "0", str(NOW * 1000), "9" * 30]
    malformed = ["", "now", "-1", "+" + str(NOW), f" {NOW}", f"{NOW}.0", "1_750_000_000", "١٧٥٠٠٠٠٠٠٠", f"{NOW}, {NOW}"]
    for stamp in stale + malformed:
        yield vector(f"timestamp {stamp!r}", headers | {"X-E2EE-Timestamp": stamp}, "e2ee_invalid_timestamp")
    for path in ("/v1/responses", "/v1/models", "/v1/images/generations", "/v1/chat/completions/"):
        yield vector(f"at {path}", headers, "e2ee_unsupported_endpoint", path=path)
    for name in ("X-Encryption-Version", "X-Encrypt-All-Fields"):
        yield vector(f"another variant: {name}", headers | {name: "1"}, "e2ee_invalid_version")
    suites = {"X-Model-Pub-Key": public(K, SERVICE[K]).hex()}
    yield vector("the key of the other suite", headers | suites, "e2ee_invalid_public_key")
    suites = {"X-Model-Pub-Key": public(X, SERVICE[X]).hex(), "X-Client-Pub-Key": public(K, CLIENT[K]).hex()}
    yield vector("a client's key of the other suite", headers | suites, "e2ee_invalid_public_key")
    yield vector(
        "an older protocol's key",
        headers | {"X-Model-Pub-Key": public("ed25519", SERVICE["ed25519"]).hex()},
        "e2ee_model_key_mismatch",
    )


def bad_old_headers(numbers: Numbers) -> Iterator[dict[str, Any]]:
    """The older protocol's headers, missing or wrong."""
    headers, text = one("ed25519", numbers)

    def vector(what: str, changed: dict[str, str], error: str, **other: object) -> dict[str, Any]:
        return request(f"older: {what}", changed, chat(text), error, **other)

    def without(name: str) -> dict[str, str]:
        return {other: value for other, value in headers.items() if other != name}

    for name in ("X-Client-Pub-Key", "X-Model-Pub-Key", "X-E2EE-Nonce", "X-E2EE-Timestamp", "X-Signing-Algo"):
        yield vector(f"without {name}", without(name), "e2ee_header_missing")
    yield vector("only X-Signing-Algo", {"X-Signing-Algo": "ecdsa"}, "e2ee_header_missing")
    for algo in ("", "rsa", "ecdsa-p256", X, "ecdsa, ed25519"):
        yield vector(f"algorithm {algo!r}", headers | {"X-Signing-Algo": algo}, "e2ee_invalid_signing_algo")
    for version in ("", "0", "3", "2 "):
        yield vector(f"version {version!r}", headers | {"X-E2EE-Version": version}, "e2ee_invalid_version")
    yield vector(
        "version 2 without the rest", old_headers("ed25519", "1") | {"X-E2EE-Version": "2"}, "e2ee_header_missing"
    )
    for nonce in ("", "n" * 15, "a nonce with spaces", "n|m=1|c=-|n=1234567890", "é" * 16, "n" * 257, "n" * 16 + "\n"):
        yield vector(f"nonce {nonce[:30]!r}", headers | {"X-E2EE-Nonce": nonce}, "e2ee_invalid_nonce")
    for stamp in ("", "soon", str(NOW - 301), str(NOW + 301), f"+{NOW}"):
        yield vector(f"timestamp {stamp!r}", headers | {"X-E2EE-Timestamp": stamp}, "e2ee_invalid_timestamp")
    for path in ("/v1/completions", "/v1/embeddings", "/v1/models"):
        yield vector(f"at {path}", headers, "e2ee_unsupported_endpoint", path=path)
    yield vector("the other algorithm", headers | {"X-Signing-Algo": "ecdsa"}, "e2ee_invalid_public_key")
    yield vector("ACI's key", headers | {"X-Model-Pub-Key": public(X, SERVICE[X]).hex()}, "e2ee_model_key_mismatch")


def bad_bodies(numbers: Numbers) -> Iterator[dict[str, Any]]:
    """Bodies without what they need."""
    headers, text = one(X, numbers)
    failed, nameless = "e2ee_decryption_failed", "e2ee_invalid_payload_model"
    for body in ("", "{", "[]", "null", '"x"', "\ufeff{}", "[" * 5000, '{"model":"demo","messages":[NaN]}'):
        yield request(f"body {body[:20]!r}", headers, body, failed)
    for model in (None, 7, ["demo"], {"a": 1}):
        yield request(f"model {model!r}", headers, chat(text) | {"model": model}, nameless)
    yield request("no model", headers, {"messages": chat(text)["messages"]}, nameless)
    for messages in (None, [], {}, "x", [None], ["x"], [{}], [{"content": None}], [{"content": 7}], [{"content": []}]):
        body = {"model": "demo", "messages": messages}
        yield request(f"nothing sealed in {messages!r}", headers, body, failed)
    yield request("no messages", headers, {"model": "demo", "prompt": text}, failed)
    for part in ({"type": "file"}, {"type": ["text"]}, {"text": text}, {"type": "image_url", "image_url": text}):
        yield request(f"no sealed part in {str(part)[:30]}", headers, chat([part]), failed)
    for part in ({"type": "text"}, {"type": "text", "text": None}, {"type": "input_audio", "input_audio": {"data": 7}}):
        yield request(f"a part without content: {part}", headers, chat([part]), failed)
    half = {"model": "demo", "messages": [*chat(text)["messages"], {"role": "system", "content": "obey"}]}
    yield request("a plain message beside a sealed one", headers, half, failed)
    nontext = AESGCM(HKDF(hashes.SHA256(), 32, None, INFO[X]).derive(agree(X, "31" * 32, public(X, SERVICE[X]))[1]))
    point = agree(X, "31" * 32, public(X, SERVICE[X]))[0]
    aad = request_aad(X, "messages.0.content").encode()
    raw = point + bytes(12) + nontext.encrypt(bytes(12), b"\xff\xfe", aad)
    yield request("a plaintext that isn't text", headers, chat(raw.hex()), failed)
    for path, body in {
        "/v1/completions": [
            {"prompt": [1, 2]},
            {"prompt": None},
            {"prompt": "plain"},
            {"prompt": []},
            {"messages": []},
        ],
        "/v1/embeddings": [{"input": [[1, 2]]}, {"input": 7}, {"input": ["plain"]}, {"input": [text]}],
    }.items():
        for members in body:
            yield request(f"{path} with {str(members)[:30]}", headers, {"model": "demo", **members}, failed, path=path)
    old, sealed = one("ecdsa", numbers, model="de|mo")
    yield request("older: a model with a bar", old, chat(sealed) | {"model": "de|mo"}, nameless)


# Files ---------------------------------------------------------------------------------------------------------------


def build() -> dict[str, list[dict[str, Any]]]:
    """The contents of every generated file."""
    numbers = Numbers("requests")
    return {
        "fields.json": list(fields()),
        "requests.json": [*good_requests(numbers), *bad_requests(numbers)],
        "answers.json": list(answers(Numbers("answers"))),
    }


def text(vectors: list[dict[str, Any]]) -> str:
    """A file."""
    return json.dumps(vectors, indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    if "--write" not in sys.argv:
        sys.exit(__doc__)
    for name, vectors in build().items():
        (FOLDER / name).write_text(text(vectors))
        print(name, len(vectors))
