"""Every vector of our own: exactly the outcome that its file states."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tests.vectors import make_wire
from tests.vectors.loading import Case, cases, folder

from confide.errors import ConfideError
from confide.seal.curves import Curve, Secp256k1
from confide.seal.errors import BadKey
from confide.seal.fastcurve import best_secp256k1
from confide.wire import aci, jcs, legacy, secp256k1
from confide.wire.documents import InvalidDocument
from confide.wire.receipt import parse_receipt
from confide.wire.session import parse_session

KEYSET = aci.parse_keyset(json.dumps(make_wire.KEYSET).encode())


class BadSignature(ConfideError):
    """A receipt that nobody signed in this form."""


def jcs_outcome(data: bytes) -> dict[str, Any]:
    return {"canonical": jcs.canonical(jcs.parse(data)).decode()}


def keyset_outcome(data: bytes) -> dict[str, Any]:
    keyset = aci.parse_keyset(data)
    assert aci.parse_keyset(keyset.document()) == keyset
    return {"digest": keyset.digest()}


def report_outcome(data: bytes) -> dict[str, Any]:
    report = aci.parse_report(data)
    assert aci.parse_report(report.document()) == report
    digest = report.keyset().digest()
    bound = [
        nonce
        for nonce in (make_wire.NONCE, None)
        if aci.report_data(digest, nonce).hex() == report.attestation.report_data
    ]
    return {
        "digest": digest,
        "serving": report.service_capabilities.serving,
        "nonce": bound[0],
        "report_data": report.attestation.report_data,
    }


def receipt_outcome(data: bytes) -> dict[str, Any]:
    receipt = parse_receipt(data)
    key = Ed25519PublicKey.from_public_bytes(KEYSET.receipt_key(receipt.key_id))
    try:
        key.verify(receipt.signature, receipt.signed_bytes)
    except InvalidSignature:
        raise BadSignature(f"the signature is not of the key {receipt.key_id}") from None
    return {
        "signed_sha256": jcs.sha256(receipt.signed_bytes).removeprefix("sha256:"),
        "request_hash": receipt.request_hash(),
        "response_hash": receipt.response_hash(),
        "events": len(receipt.facts.events),
    }


def session_outcome(data: bytes) -> dict[str, Any]:
    session = parse_session(data)
    assert parse_session(session.document()) == session
    return {
        "id": session.id(),
        "tee_attested": session.claim("tee_attested").status,
        "bindings": len(session.bindings()),
    }


def text_outcome(data: bytes) -> dict[str, Any]:
    text = legacy.parse_text(data.decode())
    assert str(text) == data.decode()
    return {"request_hash": text.request_hash, "response_hash": text.response_hash, "model": text.model}


def curve_outcome(data: bytes) -> dict[str, Any]:
    given = json.loads(data)
    raw = {name: bytes.fromhex(value) for name, value in given.items() if name not in ("call", "low_s")}
    if given["call"] == "recover":
        return {"key": secp256k1.recover(raw["signature"], raw["digest"], low_s=given["low_s"]).hex()}
    if given["call"] == "decode":
        point = secp256k1.decode(raw["point"])
        return {"point": point.hex(), "compressed": secp256k1.compressed(point).hex()}
    made, same = (agreement(curve, raw["secret"], raw["point"]) for curve in (Secp256k1(), best_secp256k1()))
    assert str(made) == str(same)
    if isinstance(made, BadKey):
        raise made
    return made


def agreement(curve: Curve, secret: bytes, point: bytes) -> dict[str, Any] | BadKey:
    try:
        private = curve.load(secret)
        return {"own": private.point.hex(), "shared": private.exchange(curve.point(point)).hex()}
    except BadKey as wrong:
        return wrong


OUTCOMES: dict[str, Callable[[bytes], dict[str, Any]]] = {
    "jcs.json": jcs_outcome,
    "keyset.json": keyset_outcome,
    "report.json": report_outcome,
    "receipt.json": receipt_outcome,
    "session.json": session_outcome,
    "signature_text.json": text_outcome,
    "secp256k1.json": curve_outcome,
}
ALL = [(path.name, case) for path in folder("wire") for case in cases(path)]


@pytest.mark.parametrize(("file", "case"), ALL, ids=lambda value: str(value))
def test_outcome(file: str, case: Case) -> None:
    try:
        outcome: dict[str, Any] = {"ok": OUTCOMES[file](case.data)}
    except ConfideError as error:
        reason = error.reason if isinstance(error, InvalidDocument) else str(error)
        outcome = {"error": type(error).__name__, "reason": reason}
    assert outcome == case.outcome


def test_every_file_is_read_and_most_cases_are_failures() -> None:
    assert {path.name for path in folder("wire")} == set(OUTCOMES) == set(make_wire.FILES)
    for path in folder("wire"):
        failures = sum("error" in case.outcome for case in cases(path))
        assert failures > len(cases(path)) / 2, path.name


def test_the_generator_makes_these_files() -> None:
    for path, data in make_wire.make().items():
        assert path.read_bytes() == data, f"{path.name}: run python -m tests.vectors.make_wire"


def test_an_empty_folder_or_file_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        folder("nowhere")
    (tmp_path / "empty.json").write_text('{"cases":[]}')
    with pytest.raises(ValueError, match="no cases"):
        cases(tmp_path / "empty.json")
