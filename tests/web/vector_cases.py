"""The vectors of the project as cases of the page's modules: each file in groups, and what is made for a group here."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import struct
from collections.abc import Callable
from typing import Any

from confide.seal.aci_v2 import SECP256K1_SUITE, X25519_SUITE, service_key
from confide.wire import legacy
from tests.seal.helpers import KEYS
from tests.seal.opinion import CLIENT, NONCE, NOW, SERVICE, SHORT_NONCE, K, X
from tests.vectors import make_curve, make_wire
from tests.vectors.loading import VECTORS, cases, load
from tests.web.cases import SEED
from tests.wire.test_jcs import NUMBERS

Json = dict[str, Any]
WIRE = VECTORS / "wire"
SEAL = VECTORS / "seal"
PUBLISHED = load(VECTORS / "aci" / "published.json")
PUBLISHED_SEAL = load(SEAL / "published.json")
PHALA = load(VECTORS / "phala" / "computed.json")
SIZES = (0, 1, 7)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def wire(file: str, kind: str, **more: Any) -> list[Json]:
    """The cases of one file of ``wire/``."""
    return [
        {"name": case.name, "kind": kind, "data": b64(case.data), "outcome": case.outcome} | more
        for case in cases(WIRE / f"{file}.json")
    ]


def numbers() -> list[Json]:
    """RFC 8785, appendix B, as JSON texts with all digits of the double."""
    return [
        {"name": bits, "kind": "jcs", "data": b64(json.dumps(struct.unpack(">d", bytes.fromhex(bits))[0]).encode())}
        for bits, _ in NUMBERS
    ]


def statements() -> list[Json]:
    """Of the published vector, with a nonce and without."""
    digest = PUBLISHED["keyset"]["digest"]
    return [
        {"name": str(nonce), "kind": "statement", "digest": digest, "nonce": nonce}
        for nonce in (PUBLISHED["statement"]["nonce"], None)
    ]


def hashes() -> list[Json]:
    """SHA-256 in pieces of several sizes, at all lengths where padding changes."""
    data = bytes(range(256)) * 16
    return [
        {"name": f"{length} by {size}", "kind": "sha256", "data": b64(data[:length]), "size": size}
        for length in (0, 1, 3, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 1000, 4096)
        for size in (1, 7, 64, 5000)
    ]


def documents() -> list[Json]:
    """The published documents of ``aci/1``."""
    keyset, session, receipt = PUBLISHED["keyset"], PUBLISHED["session"], PUBLISHED["receipt"]
    texts = {"request": receipt["request_body"], "response": receipt["response_body"], "proof": session["evidence"]}
    return [
        {"name": "keyset", "kind": "keyset", "data": b64(keyset["canonical"].encode())},
        {"name": "session", "kind": "parsed_session", "data": b64(session["canonical"].encode())},
        {
            "name": "receipt",
            "kind": "signed_receipt",
            "data": b64(receipt["document"].encode()),
            "keyset": b64(keyset["canonical"].encode()),
        },
        *({"name": n, "kind": "sha256", "data": b64(text.encode()), "size": 7} for n, text in texts.items()),
    ]


def any_numbers() -> list[Json]:
    """Of secp256k1: signatures, some by nobody, and agreements, with numbers that a fixed seed chooses."""
    chosen = random.Random(SEED)
    made = [one for number in range(60) for one in make_curve.drawn(number, chosen)]
    return [{"name": name, "kind": "curve", "data": b64(data), "outcome": outcome} for name, data, outcome in made]


def answers() -> list[Json]:
    """Sealed answers of every suite and version, in pieces of each size."""
    return [
        {
            "kind": "answer",
            "secret": CLIENT[vector["algo"]],
            "nonce": NONCE if vector["algo"] in (X, K) else SHORT_NONCE,
            "timestamp": NOW,
            "size": size,
            **vector,
            "name": f"{vector['name']} by {size}",
        }
        for vector in load(SEAL / "answers.json")
        for size in SIZES
    ]


def fields() -> list[Json]:
    """Known answers."""
    return [
        {
            **vector,
            "kind": "field",
            "private": vector["private_key"],
            "ephemeral": vector["ephemeral_private_key"],
            "name": f"{vector['name']}, {vector['aad']}",
        }
        for vector in load(SEAL / "fields.json")
    ]


def requests() -> list[Json]:
    """Sealed requests, to be opened by the other end."""
    keys = [{"algo": algo, "secret": SERVICE[algo], "identity": key.identity.hex()} for algo, key in KEYS.items()]
    return [
        {"name": vector["name"], "kind": "request", "request": vector, "keys": keys}
        for vector in load(SEAL / "requests.json")
    ]


def bindings() -> list[Json]:
    """The published key and associated data, of the seed of ``aci/1``'s vector as well."""
    vector = {"algo": PUBLISHED_SEAL["suite"], "private": PUBLISHED_SEAL["service_private_key"]}
    kept = {name: value for name, value in PUBLISHED_SEAL.items() if not name.endswith(("key", "aad"))}
    return [
        {"name": "published", "kind": "bound", **kept, **vector},
        {"name": "of aci/1", "kind": "bound", **kept, **vector, "private": PUBLISHED["e2ee_seed"]},
    ]


def older() -> list[Json]:
    """Keys, report data and signatures of the older surface."""
    keys, signed, bound = PHALA["keys"], PHALA["signature"], PHALA["report_data"]
    addresses = {"ecdsa": keys["eth_address_checksummed"], "ed25519": keys["ed25519_public"]}
    signers = [{"algorithm": name, "address": text.removeprefix("0x")} for name, text in addresses.items()]
    asked, answered = (
        "sha256:" + hashlib.sha256(signed[name].encode()).hexdigest() for name in ("request_body", "response_body")
    )
    return [
        {"name": "key", "kind": "older_key", "secret": keys["secp256k1_private"]},
        *(
            {
                "name": f"{layout}_{algorithm}",
                "kind": "older_report_data",
                "algorithm": algorithm,
                "address": address,
                "nonce": bound["nonce"],
                "tls": tls,
            }
            for algorithm, address in addresses.items()
            for layout, tls in {"v1": None, "v2_tls": bound["tls_spki_sha256"]}.items()
        ),
        *(
            {
                "name": f"{number} {algorithm}",
                "kind": "signature",
                "document": b64(_older_answer(case, algorithm, address)),
                "signers": signers,
                "asked": asked,
                "answered": answered,
                "model": legacy.parse_text(case["text"]).model,
                "subject": "",
            }
            for number, case in enumerate(signed["cases"])
            for algorithm, address in addresses.items()
        ),
    ]


def _older_answer(case: Json, algorithm: str, address: str) -> bytes:
    members = {"text": case["text"], "signature": case[f"signature_{algorithm}"]}
    return json.dumps(members | {"signing_address": address, "signing_algo": algorithm}).encode()


OURS = {algo: service_key(algo, bytes(range(1, 33))) for algo in (X25519_SUITE, SECP256K1_SUITE)}
BODIES = {
    "text": ("chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hello é 😀"}]}),
    "parts": (
        "chat/completions",
        {
            "model": "m",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "x", "y": 1}]}],
        },
    ),
    "an array in a text": ("chat/completions", {"model": "m", "messages": [{"role": "user", "content": " [1, 2]"}]}),
    "no array in a text": ("chat/completions", {"model": "m", "messages": [{"role": "user", "content": "[1, 2"}]}),
    "several": (
        "chat/completions",
        {
            "model": "ü\u2028",
            "messages": [
                {"role": "system", "content": ""},
                {"role": "assistant", "content": None, "tool_calls": []},
                {"role": "user", "content": '\u0000\u001f\u007f"\\/'},
            ],
        },
    ),
    "prompt": ("completions", {"model": "m", "prompt": "hello"}),
    "prompts": ("completions", {"model": "m", "prompt": ["hello", ""]}),
    "inputs": ("embeddings", {"model": "m", "input": ["hello"]}),
}
NUMBERED = (
    b'{"model":"m","2":1,"1":[-0,-0.0,1.0,0.1e1,1e15,1e16,1.5e16,123456789012345680.0,1e-5,1e-6,0.0001,1.25e-7,1e300,'
    b'5e-324,123456.7e3,9007199254740993,123456789012345678901234567890],"messages":[{"role":"user","content":"x"}]}'
)
UNSEALABLE = {
    "no JSON": b"{",
    "a list": b"[]",
    "no model": b'{"messages":[{"content":"x"}]}',
    "no messages": b'{"model":"m"}',
    "no content": b'{"model":"m","messages":[{"role":"user"}]}',
    "content that is a number": b'{"model":"m","messages":[{"content":1}]}',
}


def bodies() -> list[Json]:
    """Requests to be sealed."""
    good = {name: (path, json.dumps(body).encode()) for name, (path, body) in BODIES.items()}
    bad = {name: ("chat/completions", body) for name, body in UNSEALABLE.items()}
    rest = {
        "numbers, and members in an odd order": ("chat/completions", NUMBERED),
        "token ids": ("completions", b'{"model":"m","prompt":[1]}'),
        "no endpoint": ("models", b'{"model":"m"}'),
    }
    return [
        {
            "name": f"{name}, {algo}",
            "text": name,
            "kind": "sealed",
            "algo": algo,
            "key": key.identity.hex(),
            "path": f"/v1/{path}",
            "body": b64(body),
            "now": NOW,
        }
        for algo, key in OURS.items()
        for name, (path, body) in (good | bad | rest).items()
    ]


POLICIES: dict[str, Json] = {
    "the least": {"roots": ["intel"], "unsafe_any_workload": True},
    "registers": {"roots": ["intel"], "tdx": {"measurements": [{"mr_td": "ab" * 48, "note": "one"}], "smt": False}},
    "many": {
        "roots": ["intel", "nvidia"],
        "models": {"manifests": ["sha256:" + "ab" * 32]},
        "claims": {"tee_attested": ["hardware_proven"]},
        "sessions": {"claims": {}},
        "snp": {"minimum_tcb": {"snp": 3}},
        "channel": {"require": "both"},
        "age": {"report_days": 3},
    },
    "nothing": {},
    "no root": {"unsafe_any_workload": True},
    "no workload": {"roots": ["intel"]},
    "unknown member": {"roots": ["intel"], "unsafe_any_workload": True, "more": 1},
    "unknown member of a part": {"roots": ["intel"], "unsafe_any_workload": True, "tdx": {"debug": True}},
    "wrong type": {"roots": "intel", "unsafe_any_workload": True},
    "a register that is none": {"roots": ["intel"], "tdx": {"measurements": [{"mr_td": "ab"}]}},
    "no register": {"roots": ["intel"], "tdx": {"measurements": [{"note": "all"}]}},
    "GPUs without their root": {"roots": ["intel"], "unsafe_any_workload": True, "gpu": {"required": True}},
    "no GPUs": {"roots": ["intel", "nvidia"], "unsafe_any_workload": True, "gpu": {"required": True, "count": 0}},
    "no source": {"roots": ["intel"], "unsafe_any_workload": True, "claims": {"tee_attested": []}},
    "unknown claim": {"roots": ["intel"], "unsafe_any_workload": True, "claims": {"good": ["hardware_proven"]}},
}


def policies() -> list[Json]:
    """Policies as JSON, most of which can't be used."""
    return [{"name": name, "kind": "policy", "policy": policy} for name, policy in POLICIES.items()]


GIVEN: dict[str, Callable[[], list[Json]]] = {
    "jcs": lambda: wire("jcs", "jcs"),
    "keyset": lambda: wire("keyset", "keyset"),
    "report": lambda: wire("report", "parsed_report", nonces=[make_wire.NONCE, None]),
    "session": lambda: wire("session", "parsed_session"),
    "receipt": lambda: wire("receipt", "signed_receipt", keyset=b64(json.dumps(make_wire.KEYSET).encode())),
    "signature_text": lambda: wire("signature_text", "signature_text"),
    "secp256k1": lambda: wire("secp256k1", "curve"),
    "any numbers": any_numbers,
    "numbers": numbers,
    "statements": statements,
    "documents": documents,
    "hashes": hashes,
    "answers": answers,
    "fields": fields,
    "requests": requests,
    "bindings": bindings,
    "older": older,
    "bodies": bodies,
    "policies": policies,
}
FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "wire": {
        name: (name.removesuffix(".json"),)
        for name in (
            "jcs.json",
            "keyset.json",
            "report.json",
            "session.json",
            "receipt.json",
            "signature_text.json",
            "secp256k1.json",
        )
    },
    "seal": {
        "published.json": ("bindings",),
        "fields.json": ("fields",),
        "requests.json": ("requests",),
        "answers.json": ("answers",),
    },
    "aci": {"published.json": ("statements", "documents", "bindings")},
    "phala": {"computed.json": ("older",)},
}
"""Every vector file, and the groups that run it."""
