"""The vectors of the project, run by the page's modules: whole, byte by byte and in odd pieces, in both places."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import pytest

from confide.seal.aci_v2 import X25519_SUITE, service_key
from confide.seal.headers import Offer, negotiate
from confide.verify.policy import Policy, PolicyError, check
from tests.seal.helpers import Marks
from tests.seal.opinion import CLIENT, NONCE, NOW, X
from tests.vectors import make_wire
from tests.vectors.loading import VECTORS, cases, folder, load
from tests.web.running import Run
from tests.wire.test_jcs import NUMBERS

Json = dict[str, Any]
WIRE = VECTORS / "wire"
PUBLISHED = load(VECTORS / "aci" / "published.json")
SIZES = (0, 1, 7)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@cache
def _outcomes(run: Run, name: str) -> dict[str, Json]:
    given = GIVEN[name]()
    assert len({one["name"] for one in given}) == len(given) > 0
    return {one["name"]: one for one in run("outcomes", given)}


def outcomes(run: Run, name: str) -> list[tuple[Json, Json]]:
    """Each case of a group with what the modules made of it."""
    found = _outcomes(run, name)
    return [(one, found[one["name"]]) for one in GIVEN[name]()]


# What the groups are -------------------------------------------------------------------------------------------------


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


def answers() -> list[Json]:
    """Sealed answers under X25519, in pieces of each size."""
    vectors = [vector for vector in load(VECTORS / "seal" / "answers.json") if vector["algo"] == X]
    return [
        {
            "name": f"{vector['name']} by {size}",
            "kind": "answer",
            "secret": CLIENT[X],
            "nonce": NONCE,
            "timestamp": NOW,
            "size": size,
            **{name: vector[name] for name in ("path", "stream", "wire", "opened", "error") if name in vector},
        }
        for vector in vectors
        for size in SIZES
    ]


def fields() -> list[Json]:
    """Known answers."""
    vectors = [vector for vector in load(VECTORS / "seal" / "fields.json") if vector["algo"] == X]
    return [
        {
            "name": vector["name"] + vector["aad"],
            "kind": "field",
            "private": vector["private_key"],
            "ephemeral": vector["ephemeral_private_key"],
            **{name: vector[name] for name in ("nonce", "aad", "plaintext", "ciphertext")},
        }
        for vector in vectors
    ]


SERVICE = service_key(X25519_SUITE, bytes(range(32)))
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
            "name": name,
            "kind": "sealed",
            "key": SERVICE.identity.hex(),
            "path": f"/v1/{path}",
            "body": b64(body),
            "now": NOW,
        }
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
    "numbers": numbers,
    "statements": statements,
    "hashes": hashes,
    "answers": answers,
    "fields": fields,
    "bodies": bodies,
    "policies": policies,
}


# Documents -----------------------------------------------------------------------------------------------------------


def test_the_page_reads_every_folder_of_vectors_that_it_can() -> None:
    """The older surface's texts are not for it."""
    assert {path.stem for path in folder("wire")} == {"jcs", "keyset", "report", "receipt", "session", "signature_text"}


@pytest.mark.parametrize("file", ["jcs", "keyset", "report", "session", "receipt"])
def test_documents_come_out_as_their_vectors_say(run: Run, file: str) -> None:
    for given, found in outcomes(run, file):
        expected = given["outcome"]
        if "ok" in expected:
            assert found.get("ok") == expected["ok"], (given["name"], found)
            continue
        steps = {"InvalidReceipt": "receipt.1", "BadSignature": "receipt.2", "InvalidKeyset": "receipt.2"}
        wanted = steps if file == "receipt" else {}
        assert found.get("error") == wanted.get(expected["error"], "CheckFailed"), (given["name"], found)


def test_numbers_of_the_rfc(run: Run) -> None:
    for (given, found), (_, text) in zip(outcomes(run, "numbers"), NUMBERS, strict=True):
        assert found["ok"]["canonical"] == text, given["name"]


def test_the_published_statement(run: Run) -> None:
    (_, slot), (_, unchallenged) = outcomes(run, "statements")
    vector = PUBLISHED["statement"]
    assert slot["ok"] == vector["slot"]
    assert unchallenged["ok"] == vector["null_report_data"] + "00" * 32


def test_hashes_of_pieces(run: Run) -> None:
    for given, found in outcomes(run, "hashes"):
        assert found["ok"] == "sha256:" + hashlib.sha256(base64.b64decode(given["data"])).hexdigest(), given["name"]


# Sealing -------------------------------------------------------------------------------------------------------------


def test_sealed_answers_whole_and_in_pieces(run: Run) -> None:
    for given, found in outcomes(run, "answers"):
        if "opened" in given:
            assert found.get("ok") == given["opened"], (given["name"], found)
        else:
            assert found.get("error") == {"forged": "Forged", "truncated": "Truncated"}[given["error"]], (
                given["name"],
                found,
            )


def test_known_fields(run: Run) -> None:
    for given, found in outcomes(run, "fields"):
        assert found["ok"]["sealed"] == given["ciphertext"]
        assert found["ok"]["opened"] == given["plaintext"]


def test_the_server_restores_what_the_page_hashes(run: Run) -> None:
    refused = 0
    for given, found in outcomes(run, "bodies"):
        if "ok" not in found:
            refused += 1
            assert found["error"] == "CannotSeal", (given["name"], found)
            continue
        assert given["name"] in {*BODIES, "numbers, and members in an odd order"}
        made = found["ok"]
        session = negotiate(made["headers"].items(), Offer(aci=(SERVICE,)), given["path"], NOW)
        assert session is not None
        assert session.open(made["body"].encode()).claim(Marks()).body.decode() == made["restored"], given["name"]
        assert "hello" not in made["body"]
    assert refused == len(UNSEALABLE) + 2


# Policies ------------------------------------------------------------------------------------------------------------


def test_policies_are_taken_and_refused_as_in_python(run: Run) -> None:
    for given, found in outcomes(run, "policies"):
        try:
            expected = check(msgspec.convert(given["policy"], Policy)).digest()
        except (msgspec.ValidationError, PolicyError):
            assert found.get("error") == "PolicyError", (given["name"], found)
        else:
            assert found.get("ok") == expected, (given["name"], found)
