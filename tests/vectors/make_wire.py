"""Makes the vectors of ``wire/``: ``python -m tests.vectors.make_wire`` writes them, a test makes them and compares.

Nothing of the package is used here. Canonical bytes come from ``json.dumps`` with sorted ASCII names, signatures from
``cryptography``, outcomes from this page; those of secp256k1 are in ``make_curve.py``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.vectors import make_curve

FOLDER = Path(__file__).parent / "wire"
Value = dict[str, Any]
Case = dict[str, Any]

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def accepted(name: str, data: bytes, **outcome: Any) -> Case:
    return _case(name, data, {"ok": outcome})


def refused(name: str, data: bytes, error: str, reason: str) -> Case:
    return _case(name, data, {"error": error, "reason": reason})


def _case(name: str, data: bytes, outcome: Value) -> Case:
    try:
        return {"name": name, "input": data.decode(), "outcome": outcome}
    except UnicodeDecodeError:
        return {"name": name, "input_base64": base64.b64encode(data).decode(), "outcome": outcome}


def changed(value: Value, change: Callable[[Value], object]) -> bytes:
    """A copy with one thing changed, as JSON in the order of its members."""
    copy = deepcopy(value)
    change(copy)
    return json.dumps(copy).encode()


def put(name: str, value: Any, *path: str | int) -> Callable[[Value], object]:
    """A change: set a member, at the end of a path."""

    def change(document: Any) -> None:
        for step in path:
            document = document[step]
        document[name] = value

    return change


def drop(name: str, *path: str | int) -> Callable[[Value], object]:
    """A change: remove a member, at the end of a path."""

    def change(document: Any) -> None:
        for step in path:
            document = document[step]
        del document[name]

    return change


# Canonical JSON ------------------------------------------------------------------------------------------------------

WRITTEN = {
    "spaces and order": (b' { "b" : 1 , "a" : [ true , false , null ] } ', '{"a":[true,false,null],"b":1}'),
    "nested": (b'{"z":{"y":{"x":[{"b":1,"a":2}]}}}', '{"z":{"y":{"x":[{"a":2,"b":1}]}}}'),
    "utf-16 order": (
        '{"\ufb33":1,"\U0001f600":2,"\u20ac":3,"1":4}'.encode(),
        '{"1":4,"\u20ac":3,"\U0001f600":2,"\ufb33":1}',
    ),
    "escapes": (rb'"\u20ac$\u000F\u000aA\u0027\u0042\u0022\u005c\\\"\/"', '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'),
    "short escapes": (rb'"\u0008\u0009\u000a\u000c\u000d\u007f"', '"\\b\\t\\n\\f\\r\x7f"'),
    "surrogate pair": (rb'"\ud83d\ude00"', '"😀"'),
    "numbers": (
        b"[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001]",
        "[333333333.3333333,1e+30,4.5,0.002,1e-27]",
    ),
    "zeros": (b"[0,-0,0.0,-0.0,0e9]", "[0,0,0,0,0]"),
    "limits of the plain form": (
        b"[1e20,1e21,1e-6,1e-7,123e18]",
        "[100000000000000000000,1e+21,0.000001,1e-7,123000000000000000000]",
    ),
    "smallest and largest double": (b"[5e-324,-1.7976931348623157e308]", "[5e-324,-1.7976931348623157e+308]"),
    "largest integers": (b"[9007199254740991,-9007199254740991]", "[9007199254740991,-9007199254740991]"),
    "a bare string": (b'""', '""'),
    "empty": (b"[{},[]]", "[{},[]]"),
    "deepest": (b"[" * 64 + b"]" * 64, "[" * 64 + "]" * 64),
}

UNREADABLE = {
    "nothing": (b"", "not JSON at character 0: Expecting value"),
    "two values": (b"1 2", "not JSON at character 2: Extra data"),
    "duplicate names": (b'{"a":1,"a":1}', "an object has two members of one name"),
    "duplicate names by escape": (rb'{"a":1,"\u0061":2}', "an object has two members of one name"),
    "duplicate names inside": (b'[{"x":{"a":1,"b":2,"a":3}}]', "an object has two members of one name"),
    "NaN": (b"[NaN]", "a number isn't finite"),
    "infinity": (b"-Infinity", "a number isn't finite"),
    "overflow": (b"1e400", "a number isn't finite"),
    "integer beyond 2^53 - 1": (b"9007199254740992", "an integer is beyond 2^53 - 1"),
    "negative beyond 2^53 - 1": (b"-9007199254740992", "an integer is beyond 2^53 - 1"),
    "integer of many digits": (b"1" * 5000, "an integer is beyond 2^53 - 1"),
    "lone high surrogate": (rb'["\ud800"]', "a string has a lone surrogate"),
    "lone low surrogate": (rb'{"\udc00":1}', "a string has a lone surrogate"),
    "surrogates the wrong way round": (rb'"\ude00\ud83d"', "a string has a lone surrogate"),
    "surrogate in utf-8": (b'"\xed\xa0\x80"', "not UTF-8 at byte 1"),
    "overlong utf-8": (b'"\xc0\xaf"', "not UTF-8 at byte 1"),
    "utf-16": ('"a"'.encode("utf-16"), "not UTF-8 at byte 0"),
    "byte order mark": (b"\xef\xbb\xbf{}", "not JSON at character 0: Unexpected UTF-8 BOM (decode using utf-8-sig)"),
    "control character": (b'"\x01"', "not JSON at character 1: Invalid control character at"),
    "leading zero": (b"[01]", "not JSON at character 2: Expecting ',' delimiter"),
    "plus sign": (b"+1", "not JSON at character 0: Expecting value"),
    "bare point": (b"[.5]", "not JSON at character 1: Expecting value"),
    "single quotes": (b"{'a':1}", "not JSON at character 1: Expecting property name enclosed in double quotes"),
    "comment": (b"/**/1", "not JSON at character 0: Expecting value"),
    "too deep": (b"[" * 65 + b"]" * 65, "values nest deeper than 64 levels"),
    "far too deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "values nest deeper than 64 levels"),
}


def jcs_cases() -> list[Case]:
    good = [accepted(name, data, canonical=text) for name, (data, text) in WRITTEN.items()]
    bad = [refused(name, data, "InvalidJson", reason) for name, (data, reason) in UNREADABLE.items()]
    # the deep one would make a file of a megabyte
    return good + [case for case in bad if case["name"] != "far too deep"]


# Keysets -------------------------------------------------------------------------------------------------------------

RECEIPT_KEY = {"key_id": "r-1", "algo": "ed25519", "public_key": SIGNER.public_key().public_bytes_raw().hex()}
X25519_KEY = {"key_id": "e-1", "algo": "x25519-aes-256-gcm-hkdf-sha256", "public_key": "11" * 32}
SECP256K1_KEY = {"key_id": "e-2", "algo": "secp256k1-aes-256-gcm-hkdf-sha256", "public_key": "04" + "22" * 64}
TLS_KEY = {"spki_sha256": "33" * 32, "domain": "api.example.com"}
KEYSET: Value = {
    "subject": "spiffe://example.com/inference",
    "not_after": 1900000000,
    "receipt_signing_keys": [RECEIPT_KEY],
    "e2ee_public_keys": [X25519_KEY, SECP256K1_KEY],
    "tls_public_keys": [TLS_KEY, {"spki_sha256": "44" * 32}],
}


def keyset_cases() -> list[Case]:
    def good(name: str, change: Callable[[Value], object]) -> Case:
        data = changed(KEYSET, change)
        return accepted(name, data, digest=sha256(canonical(json.loads(data))))

    def bad(name: str, change: Callable[[Value], object], reason: str) -> Case:
        return refused(name, changed(KEYSET, change), "InvalidKeyset", reason)

    text = json.dumps(KEYSET, indent=3, sort_keys=True).encode()
    receipt, e2ee, tls = "receipt_signing_keys", "e2ee_public_keys", "tls_public_keys"
    return [
        good("all members", lambda _: None),
        accepted("spaced and ordered otherwise", text, digest=sha256(canonical(KEYSET))),
        good("no subject", put("subject", None)),
        good("no TLS member", drop(tls)),
        good("no TLS keys", put(tls, [])),
        good("no encryption keys", put(e2ee, [])),
        good("key of an unknown algorithm", put(e2ee, [{"key_id": "q", "algo": "ml-kem-768", "public_key": "AbC="}])),
        good("expired long ago", put("not_after", 0)),
        bad("subject missing", drop("subject"), "Object missing required field `subject`"),
        bad("not_after missing", drop("not_after"), "Object missing required field `not_after`"),
        bad("receipt keys missing", drop(receipt), f"Object missing required field `{receipt}`"),
        bad("encryption keys missing", drop(e2ee), f"Object missing required field `{e2ee}`"),
        bad("member unknown", put("extra", 1), "Object contains unknown field `extra`"),
        bad(
            "key member unknown",
            put("use", "sig", receipt, 0),
            f"Object contains unknown field `use` - at `$.{receipt}[0]`",
        ),
        bad("TLS member unknown", put("san", "x", tls, 0), f"Object contains unknown field `san` - at `$.{tls}[0]`"),
        bad("not_after a string", put("not_after", "1900000000"), "Expected `int`, got `str` - at `$.not_after`"),
        bad("not_after a float", put("not_after", 1.9e9), "Expected `int`, got `float` - at `$.not_after`"),
        bad("not_after true", put("not_after", True), "Expected `int`, got `bool` - at `$.not_after`"),
        bad("not_after negative", put("not_after", -1), "Expected `int` >= 0 - at `$.not_after`"),
        bad("not_after beyond 2^53 - 1", put("not_after", 18446744073709551615), "an integer is beyond 2^53 - 1"),
        bad("domain null", put("domain", None, tls, 0), f"Expected `str`, got `null` - at `$.{tls}[0].domain`"),
        bad(
            "SPKI in capitals",
            put("spki_sha256", "AB" * 32, tls, 0),
            f"Expected `str` matching regex '^[0-9a-f]{{64}}\\\\Z' - at `$.{tls}[0].spki_sha256`",
        ),
        bad(
            "SPKI with a line end",
            put("spki_sha256", "33" * 32 + "\n", tls, 0),
            f"Expected `str` matching regex '^[0-9a-f]{{64}}\\\\Z' - at `$.{tls}[0].spki_sha256`",
        ),
        bad(
            "SPKI with a prefix",
            put("spki_sha256", "sha256:" + "33" * 32, tls, 0),
            f"Expected `str` matching regex '^[0-9a-f]{{64}}\\\\Z' - at `$.{tls}[0].spki_sha256`",
        ),
        bad("TLS keys null", put(tls, None), f"Expected `array`, got `null` - at `$.{tls}`"),
        bad(
            "receipt key short",
            put("public_key", "11" * 31, receipt, 0),
            "the public key 'r-1' is no ed25519 key in lower-case hex",
        ),
        bad(
            "receipt key in capitals",
            put("public_key", "AA" * 32, receipt, 0),
            "the public key 'r-1' is no ed25519 key in lower-case hex",
        ),
        bad(
            "secp256k1 key compressed",
            put("public_key", "02" + "22" * 32, e2ee, 1),
            "the public key 'e-2' is no secp256k1-aes-256-gcm-hkdf-sha256 key in lower-case hex",
        ),
        bad(
            "key id empty", put("key_id", "", receipt, 0), f"Expected `str` of length >= 1 - at `$.{receipt}[0].key_id`"
        ),
        bad("key ids equal", put("key_id", "e-1", e2ee, 1), "two keys of one role have the same key_id"),
        bad(
            "one key for two roles",
            put("public_key", RECEIPT_KEY["public_key"], e2ee, 0),
            "one key is listed twice; each key has one role",
        ),
        refused("a list", b"[]", "InvalidKeyset", "Expected `object`, got `array`"),
        refused("no JSON", b"keyset", "InvalidKeyset", "not JSON at character 0: Expecting value"),
        refused(
            "a member twice",
            canonical(KEYSET)[:-1] + b',"subject":null}',
            "InvalidKeyset",
            "an object has two members of one name",
        ),
    ]


# Reports -------------------------------------------------------------------------------------------------------------

NONCE = "5a" * 32


def statement(keyset: Value, nonce: str | None) -> bytes:
    return canonical({"keyset_digest": sha256(canonical(keyset)), "nonce": nonce, "purpose": "aci.report_data.v1"})


REPORT: Value = {
    "api_version": "aci/1",
    "workload_keyset_digest": sha256(canonical(KEYSET)),
    "attestation": {
        "tee_type": "tdx",
        "workload_keyset": KEYSET,
        "report_data": hashlib.sha256(statement(KEYSET, NONCE)).hexdigest(),
        "source_provenance": {
            "repo_url": "https://example.com/repository",
            "repo_commit": "ab" * 20,
            "image_digest": None,
            "image_provenance": {"bundle": [1, 2.5]},
        },
        "evidence": {"quote": "0400", "event_log": "[]"},
    },
    "service_capabilities": {"supported_e2ee_versions": ["2"], "serving": "direct"},
}


def report_cases() -> list[Case]:
    def good(name: str, change: Callable[[Value], object], serving: str = "direct", **outcome: Any) -> Case:
        data = changed(REPORT, change)
        bound = {"nonce": NONCE, "report_data": REPORT["attestation"]["report_data"]}
        return accepted(name, data, digest=REPORT["workload_keyset_digest"], serving=serving, **(bound | outcome))

    def bad(name: str, change: Callable[[Value], object], reason: str, error: str = "InvalidReport") -> Case:
        return refused(name, changed(REPORT, change), error, reason)

    unchallenged = hashlib.sha256(statement(KEYSET, None)).hexdigest()
    inside = ("attestation", "workload_keyset")
    hex32 = "Expected `str` matching regex '^[0-9a-f]{64}\\\\Z' - at `$.attestation.report_data`"
    return [
        good("all members", lambda _: None),
        good(
            "without a challenge", put("report_data", unchallenged, "attestation"), nonce=None, report_data=unchallenged
        ),
        good("members of another surface", put("signing_address", "0x00")),
        good("more evidence", put("collateral", {"tcb": "x"}, "attestation", "evidence")),
        good("no provenance", drop("source_provenance", "attestation")),
        good("no capabilities", drop("service_capabilities"), serving="aggregator"),
        good("capabilities of the future", put("voice", True, "service_capabilities")),
        bad("another version", put("api_version", "aci/2"), "Invalid enum value 'aci/2' - at `$.api_version`"),
        bad("no version", drop("api_version"), "Object missing required field `api_version`"),
        bad(
            "digest of another keyset",
            put("workload_keyset_digest", "sha256:" + "00" * 32),
            "workload_keyset_digest is not the digest of workload_keyset",
        ),
        bad(
            "keyset changed",
            put("not_after", 1900000001, *inside),
            "workload_keyset_digest is not the digest of workload_keyset",
        ),
        bad(
            "digest without its prefix",
            put("workload_keyset_digest", "00" * 32),
            "Expected `str` matching regex '^sha256:[0-9a-f]{64}\\\\Z' - at `$.workload_keyset_digest`",
        ),
        bad(
            "keyset with an unknown member", put("x", 1, *inside), "Object contains unknown field `x`", "InvalidKeyset"
        ),
        bad(
            "keyset missing",
            drop("workload_keyset", "attestation"),
            "Object missing required field `workload_keyset` - at `$.attestation`",
        ),
        bad(
            "keyset as text",
            put("workload_keyset", canonical(KEYSET).decode(), "attestation"),
            "Expected `object`, got `str` - at `$.attestation.workload_keyset`",
        ),
        bad(
            "report data missing",
            drop("report_data", "attestation"),
            "Object missing required field `report_data` - at `$.attestation`",
        ),
        bad("report data in capitals", put("report_data", "AB" * 32, "attestation"), hex32),
        bad("report data of 64 bytes", put("report_data", "ab" * 64, "attestation"), hex32),
        bad(
            "evidence a list",
            put("evidence", [], "attestation"),
            "Expected `object`, got `array` - at `$.attestation.evidence`",
        ),
        bad("attestation null", put("attestation", None), "Expected `object`, got `null` - at `$.attestation`"),
        bad(
            "serving a number",
            put("serving", 1, "service_capabilities"),
            "Expected `str`, got `int` - at `$.service_capabilities.serving`",
        ),
        bad(
            "versions as text",
            put("supported_e2ee_versions", "2", "service_capabilities"),
            "Expected `array`, got `str` - at `$.service_capabilities.supported_e2ee_versions`",
        ),
        refused(
            "cut",
            json.dumps(REPORT).encode()[:-1],
            "InvalidReport",
            f"not JSON at character {len(json.dumps(REPORT)) - 1}: Expecting ',' delimiter",
        ),
    ]


# Receipts ------------------------------------------------------------------------------------------------------------

REQUEST = b'{"model":"m","messages":[]}'
RESPONSE = b"data: {}\n\ndata: [DONE]\n\n"
RECEIPT: Value = {
    "api_version": "aci/1",
    "receipt_id": "rcpt-000102030405060708090a0b",
    "chat_id": "chatcmpl-1",
    "model": "m",
    "workload_keyset_digest": sha256(canonical(KEYSET)),
    "endpoint": "/v1/chat/completions",
    "method": "POST",
    "served_at": 1800000000,
    "event_log": [
        {"type": "request.received", "body_hash": sha256(REQUEST)},
        {"type": "model.manifest", "digest": sha256(b"manifest")},
        {"type": "request.forwarded", "body_hash": sha256(REQUEST)},
        {"type": "response.returned", "body_hash": sha256(RESPONSE)},
    ],
    "key_id": "r-1",
}
VERIFIED = {
    "type": "upstream.verified",
    "result": "verified",
    "required": True,
    "model_id": "u",
    "session_id": "ab" * 32,
}
FAILED = {"type": "upstream.verified", "result": "failed", "required": True, "model_id": "u", "reason": "no quote"}


def sealed(document: Value, signer: Ed25519PrivateKey = SIGNER) -> Value:
    return document | {"signature": signer.sign(canonical(document)).hex()}


def receipt_cases() -> list[Case]:
    def good(name: str, change: Callable[[Value], object]) -> Case:
        document = json.loads(changed(RECEIPT, change))
        returned = [one for one in document["event_log"] if one["type"] == "response.returned"]
        return accepted(
            name,
            json.dumps(sealed(document), indent=1).encode(),
            signed_sha256=hashlib.sha256(canonical(document)).hexdigest(),
            request_hash=document["event_log"][0]["body_hash"],
            response_hash=returned[0]["body_hash"],
            events=len(document["event_log"]),
        )

    def bad(name: str, change: Callable[[Value], object], reason: str) -> Case:
        """Wrong, and signed all the same."""
        document = json.loads(changed(RECEIPT, change))
        return refused(name, json.dumps(sealed(document)).encode(), "InvalidReceipt", reason)

    def forged(name: str, change: Callable[[Value], object]) -> Case:
        """Well-formed, and changed after it was signed."""
        return refused(name, changed(sealed(RECEIPT), change), "BadSignature", "the signature is not of the key r-1")

    def event(index: int, value: Value) -> Callable[[Value], object]:
        return lambda document: document["event_log"].insert(index, value)

    log = "event_log"
    digest = "Expected `str` matching regex '^sha256:[0-9a-f]{64}\\\\Z'"
    signature = "Expected `str` matching regex '^[0-9a-f]{128}\\\\Z' - at `$.signature`"
    aborted = {"type": "response.aborted", "reason": "client_closed"}
    return [
        good("served", lambda _: None),
        good("no chat id, no model", lambda d: d.update(chat_id=None, model=None)),
        good("left by the client", event(4, aborted)),
        good("refused before inference", lambda d: d[log].pop(2)),
        good("verified upstream", event(2, VERIFIED)),
        good("refused upstream", event(2, FAILED | {"upstream_name": "one"})),
        good("two verifications", lambda d: d[log].__setitem__(slice(2, 2), [FAILED | {"required": False}, VERIFIED])),
        good("event of another implementation", event(1, {"type": "route.selected", "target": {"id": 7}})),
        good("model with a tag", put("model", "vendor/model:tag")),
        forged("model changed", put("model", "n")),
        forged("time changed", put("served_at", 1800000001)),
        forged("response hash changed", put("body_hash", sha256(b""), log, 3)),
        forged("unknown event added", event(4, {"type": "note"})),
        forged("events in another order", lambda d: d[log].insert(1, d[log].pop(3))),
        forged("manifest removed", lambda d: d[log].pop(1)),
        forged("signature of zeros", put("signature", "00" * 64)),
        refused(
            "signed by another key",
            json.dumps(sealed(RECEIPT, OTHER)).encode(),
            "BadSignature",
            "the signature is not of the key r-1",
        ),
        refused(
            "unknown key id",
            json.dumps(sealed(RECEIPT | {"key_id": "r-2"})).encode(),
            "InvalidKeyset",
            "no ed25519 receipt key has the id 'r-2'",
        ),
        refused(
            "no signature", json.dumps(RECEIPT).encode(), "InvalidReceipt", "Object missing required field `signature`"
        ),
        refused("signature in capitals", changed(RECEIPT, put("signature", "AB" * 64)), "InvalidReceipt", signature),
        refused("signature short", changed(RECEIPT, put("signature", "ab" * 63)), "InvalidReceipt", signature),
        bad("another version", put("api_version", "aci/2"), "Invalid enum value 'aci/2' - at `$.api_version`"),
        bad("chat id missing", drop("chat_id"), "Object missing required field `chat_id`"),
        bad("member unknown", put("body", "secret"), "Object contains unknown field `body`"),
        bad("served_at a float", put("served_at", 1.5), "Expected `int`, got `float` - at `$.served_at`"),
        bad("no events", put(log, []), "the first event must be request.received"),
        bad("request not first", lambda d: d[log].reverse(), "the first event must be request.received"),
        bad("request twice", event(1, RECEIPT[log][0]), "2 events are request.received"),
        bad("forwarded twice", event(1, RECEIPT[log][2]), "2 events are request.forwarded"),
        bad("no response", lambda d: d[log].pop(), "0 events are response.returned"),
        bad("response twice", event(3, RECEIPT[log][3]), "2 events are response.returned"),
        bad("event without a type", event(1, {"a": 1}), "an event has no type"),
        bad("type a number", event(1, {"type": 7}), "an event has no type"),
        bad("event a string", event(1, "x"), "Expected `object`, got `str` - at `$.event_log[1]`"),  # type: ignore[arg-type]
        bad(
            "hash without its prefix",
            put("body_hash", "00" * 32, log, 0),
            f"event request.received: {digest} - at `$.body_hash`",
        ),
        bad(
            "event member unknown",
            put("size", 3, log, 3),
            "event response.returned: Object contains unknown field `size`",
        ),
        bad(
            "verified without a session",
            event(2, {k: v for k, v in VERIFIED.items() if k != "session_id"}),
            "event upstream.verified: a verified upstream has a session_id and no reason",
        ),
        bad(
            "failed with a session",
            event(2, FAILED | {"session_id": "ab" * 32}),
            "event upstream.verified: a failed verification has a reason and no session_id",
        ),
        bad(
            "verified with a reason",
            event(2, VERIFIED | {"reason": "x"}),
            "event upstream.verified: a verified upstream has a session_id and no reason",
        ),
        bad(
            "required a string",
            event(2, VERIFIED | {"required": "yes"}),
            "event upstream.verified: Expected `bool`, got `str` - at `$.required`",
        ),
        bad(
            "unknown result",
            event(2, VERIFIED | {"result": "maybe"}),
            "event upstream.verified: Invalid enum value 'maybe' - at `$.result`",
        ),
        bad(
            "aborted for no known reason",
            event(4, {"type": "response.aborted", "reason": "x"}),
            "event response.aborted: Invalid enum value 'x' - at `$.reason`",
        ),
    ]


# Sessions ------------------------------------------------------------------------------------------------------------

EVIDENCE = b'{"quote":"0400"}'
UNKNOWN = {"status": "unknown"}
SESSION: Value = {
    "api_version": "aci/1",
    "upstream_name": "one",
    "endpoint": "https://one.example.com",
    "verifier_id": "confide/1",
    "established_at": 1800000000,
    "expires_at": 1800003600,
    "identity": {"signing_address": "0x00", "keys": ["a"]},
    "channel_binding": [
        {"type": "tls_spki_sha256", "origin": "https://one.example.com", "spki_sha256": "cd" * 32},
        {"type": "e2ee_public_key_sha256", "provider": "one", "algorithm": "x", "public_key_sha256": "ef" * 32},
    ],
    "claims": {
        "tee_attested": {"status": "asserted", "source": "hardware_proven", "reason": "quote"},
        "gpu_attested": UNKNOWN,
        "tcb_up_to_date": {"status": "refuted", "source": "verifier_derived", "reason": "OutOfDate"},
        "os_known_good": UNKNOWN,
        "serving_software_known_good": UNKNOWN,
        "model_weights_provenance": {"status": "asserted", "source": "operator_asserted", "reason": "said so"},
        "extra": {"tcb_status": "OutOfDate"},
    },
    "evidence": {
        "digest": sha256(EVIDENCE),
        "data": "data:application/json;base64," + base64.b64encode(EVIDENCE).decode(),
    },
}


def session_cases() -> list[Case]:
    def good(name: str, change: Callable[[Value], object], tee: str = "asserted", bindings: int = 2) -> Case:
        data = changed(SESSION, change)
        address = hashlib.sha256(canonical(json.loads(data))).hexdigest()
        return accepted(name, data, id=address, tee_attested=tee, bindings=bindings)

    def bad(name: str, change: Callable[[Value], object], reason: str) -> Case:
        return refused(name, changed(SESSION, change), "InvalidSession", reason)

    tee = ("claims", "tee_attested")
    other = base64.b64encode(b"other").decode()
    binding = "channel_binding"
    return [
        good("all members", lambda _: None),
        good("no identity", drop("identity")),
        good("no endpoint", put("endpoint", None)),
        good("claim missing", drop("tee_attested", "claims"), tee="unknown"),
        good("claim of another name", put("quantum_attested", {"anything": 1}, "claims")),
        good("status of the future", put("status", "probable", *tee), tee="unknown"),
        good("source of the future", put("source", "astrology", *tee), tee="unknown"),
        good("channel of the future", put(binding, [{"type": "noise", "key": 1}]), bindings=0),
        bad("another version", put("api_version", "aci/2"), "Invalid enum value 'aci/2' - at `$.api_version`"),
        bad("verifier missing", drop("verifier_id"), "Object missing required field `verifier_id`"),
        bad("member unknown", put("session_id", "ab" * 32), "Object contains unknown field `session_id`"),
        bad("ends as it begins", put("expires_at", 1800000000), "expires_at is not after established_at"),
        bad("ends before it begins", put("expires_at", 1), "expires_at is not after established_at"),
        bad(
            "evidence changed",
            put("data", "data:application/json;base64," + other, "evidence"),
            "evidence.data does not hash to evidence.digest",
        ),
        bad(
            "digest changed", put("digest", sha256(b"x"), "evidence"), "evidence.data does not hash to evidence.digest"
        ),
        bad("evidence dropped", drop("data", "evidence"), "Object missing required field `data` - at `$.evidence`"),
        bad("evidence no data URI", put("data", other, "evidence"), "evidence.data is no base64 data URI"),
        bad(
            "evidence in URL base64",
            put("data", "data:text/plain;base64,_-8=", "evidence"),
            "evidence.data is no base64 data URI",
        ),
        bad(
            "evidence without padding",
            put("data", "data:text/plain;base64,YQ", "evidence"),
            "evidence.data: Incorrect padding",
        ),
        bad(
            "evidence with a line end",
            put("data", "data:text/plain;base64,YQ==\n", "evidence"),
            "evidence.data is no base64 data URI",
        ),
        bad("SPKI missing", drop("spki_sha256", binding, 0), "Object missing required field `spki_sha256`"),
        bad(
            "SPKI of another length",
            put("spki_sha256", "cd", binding, 0),
            "Expected `str` matching regex '^[0-9a-f]{64}\\\\Z' - at `$.spki_sha256`",
        ),
        bad("channel member unknown", put("pin", "x", binding, 0), "Object contains unknown field `pin`"),
        bad("channels null", put(binding, None), f"Expected `array`, got `null` - at `$.{binding}`"),
        bad("claim a string", put("tee_attested", "asserted", "claims"), "Expected `object`, got `str`"),
        bad("claim null", put("tee_attested", None, "claims"), "Expected `object`, got `null`"),
        bad("claim without a source", drop("source", *tee), "the claim tee_attested has no source"),
        bad(
            "unknown with a source",
            put("gpu_attested", UNKNOWN | {"source": "hardware_proven"}, "claims"),
            "the claim gpu_attested is unknown and has a source or a reason",
        ),
        bad(
            "unknown with a reason",
            put("gpu_attested", UNKNOWN | {"reason": "x"}, "claims"),
            "the claim gpu_attested is unknown and has a source or a reason",
        ),
        bad("claim member unknown", put("proof", 1, *tee), "Object contains unknown field `proof`"),
    ]


# Signature texts -----------------------------------------------------------------------------------------------------


def text_cases() -> list[Case]:
    request, response = "0a" * 32, "f9" * 32

    def good(name: str, text: str, model: str | None) -> Case:
        return accepted(name, text.encode(), request_hash=request, response_hash=response, model=model)

    hashes = "the signed text doesn't end with two SHA-256 in lower-case hex"
    bad = {
        "nothing": ("", hashes),
        "one hash": (request, hashes),
        "hash and model the wrong way round": (f"{request}:{response}:model", hashes),
        "capitals": (f"{request.upper()}:{response}", hashes),
        "short hash": (f"{request[:-2]}:{response}", hashes),
        "long hash": (f"{request}00:{response}", hashes),
        "line end": (f"{request}:{response}\n", hashes),
        "space": (f"{request}: {response}", hashes),
        "prefix": (f"sha256:{request}:sha256:{response}", hashes),
        "empty model": (f":{request}:{response}", "the signed text names an empty model"),
        "empty hashes": ("model::", hashes),
    }
    return [
        good("two hashes", f"{request}:{response}", None),
        good("model", f"phala/m:{request}:{response}", "phala/m"),
        good("model with colons", f"vendor:m:v2:{request}:{response}", "vendor:m:v2"),
        good("model that looks like a hash", f"{request}:{request}:{response}", request),
        *[refused(name, text.encode(), "InvalidLegacy", reason) for name, (text, reason) in bad.items()],
    ]


# secp256k1 -----------------------------------------------------------------------------------------------------------


def curve_cases() -> list[Case]:
    return [_case(name, data, outcome) for name, data, outcome in make_curve.cases()]


FILES: dict[str, tuple[str, Callable[[], list[Case]]]] = {
    "jcs.json": ("JSON text: canonical bytes (RFC 8785), or why it has none", jcs_cases),
    "keyset.json": ("keyset: its digest, or why it is none", keyset_cases),
    "report.json": ("attestation report: what it binds, or why it is none", report_cases),
    "receipt.json": ("receipt under the keyset of keyset.json, 'all members': what it says, or why not", receipt_cases),
    "session.json": ("attested session: its id, or why it is none", session_cases),
    "signature_text.json": ("text of the older surface: its parts, or why it has none", text_cases),
    "secp256k1.json": ("a recovered key, a point, a shared point; or why there is none", curve_cases),
}


def make() -> dict[Path, bytes]:
    """Every file and its bytes."""
    made = {}
    for name, (about, cases) in FILES.items():
        document = {"about": about, "made_by": "tests/vectors/make_wire.py", "cases": cases()}
        made[FOLDER / name] = json.dumps(document, indent=1, ensure_ascii=True).encode() + b"\n"
    return made


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, data in make().items():
        path.write_bytes(data)
