from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tests.vectors.loading import VECTORS, load

from confide.errors import InvalidRequest
from confide.wire import aci, jcs
from confide.wire.aci import Capabilities, Keyset, PublicKey, SourceProvenance, TlsKey
from confide.wire.receipt import (
    Facts,
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
from confide.wire.session import Claim, E2eeBinding, InvalidSession, TlsBinding, build_session, parse_session

PUBLISHED: Any = load(VECTORS / "aci" / "published.json")
RECEIPT_KEY = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(PUBLISHED["receipt_seed"]))


def published_keyset() -> Keyset:
    return Keyset(
        subject="dstack-app://example-app",
        not_after=1800000000,
        receipt_signing_keys=(
            PublicKey(key_id="receipt-1", algo=aci.ED25519, public_key=PUBLISHED["receipt_public_key"]),
        ),
        e2ee_public_keys=(PublicKey(key_id="e2ee-1", algo=aci.X25519_SUITE, public_key=PUBLISHED["e2ee_public_key"]),),
        tls_public_keys=(TlsKey(spki_sha256="c0" * 32, domain="api.example.com"),),
    )


# The published vectors -----------------------------------------------------------------------------------------------


def test_published_keys() -> None:
    assert RECEIPT_KEY.public_key().public_bytes_raw().hex() == PUBLISHED["receipt_public_key"]
    x25519 = X25519PrivateKey.from_private_bytes(bytes.fromhex(PUBLISHED["e2ee_seed"]))
    assert x25519.public_key().public_bytes_raw().hex() == PUBLISHED["e2ee_public_key"]


def test_published_keyset() -> None:
    keyset = published_keyset()
    assert keyset.document() == PUBLISHED["keyset"]["canonical"].encode()
    assert keyset.digest() == PUBLISHED["keyset"]["digest"]
    assert aci.parse_keyset(keyset.document()) == keyset


def test_published_statement() -> None:
    vector, digest = PUBLISHED["statement"], PUBLISHED["keyset"]["digest"]
    assert aci.statement(digest, vector["nonce"]) == vector["bytes"].encode()
    assert aci.report_data(digest, vector["nonce"]).hex() == vector["report_data"]
    assert aci.report_data_slot(digest, vector["nonce"]).hex() == vector["slot"]
    assert aci.statement(digest, None) == vector["null_bytes"].encode()
    assert aci.report_data(digest, None).hex() == vector["null_report_data"]


def test_published_session() -> None:
    vector = PUBLISHED["session"]
    session = build_session(
        upstream_name="demo-upstream",
        endpoint="https://upstream.example.com",
        verifier_id="example/1",
        period=(1750000000, 1750003600),
        bindings=(TlsBinding(origin="https://upstream.example.com", spki_sha256="d1" * 32),),
        claims={"tee_attested": Claim(status="asserted", source="hardware_proven", reason="example quote verified")},
        evidence=vector["evidence"].encode(),
        evidence_type="text/plain",
        extra={"gpu_arch": "HOPPER", "tcb_status": "UpToDate"},
    )
    assert session.evidence.digest == vector["evidence_digest"]
    assert session.evidence.data == vector["evidence_data"]
    assert session.document() == vector["canonical"].encode()
    assert session.id() == vector["id"]
    assert parse_session(vector["canonical"].encode()) == session


def test_published_receipt() -> None:
    vector = PUBLISHED["receipt"]
    request, response = (jcs.sha256(vector[body].encode()) for body in ("request_body", "response_body"))
    assert (request, response) == (vector["request_hash"], vector["response_hash"])
    facts = Facts(
        receipt_id="rcpt-0001",
        chat_id="chatcmpl-123",
        model="demo-model",
        endpoint="/v1/chat/completions",
        method="POST",
        served_at=1750000000,
        events=(
            RequestReceived(body_hash=request),
            RequestForwarded(body_hash=request),
            UpstreamVerified(
                result="verified", required=True, model_id="demo-model", session_id=PUBLISHED["session"]["id"]
            ),
            ResponseReturned(body_hash=response),
        ),
    )
    document = unsigned(facts, keyset_digest=PUBLISHED["keyset"]["digest"], key_id="receipt-1")
    to_sign = jcs.canonical(document)
    assert to_sign == vector["signed_bytes"].encode()
    assert jcs.sha256(to_sign) == "sha256:" + vector["signed_sha256"]
    signature = RECEIPT_KEY.sign(to_sign)
    assert signature.hex() == vector["signature"]
    assert signed(document, signature) == vector["document"].encode()
    receipt = parse_receipt(json.dumps(json.loads(vector["document"]), indent=4).encode())
    assert (receipt.facts, receipt.signed_bytes, receipt.signature) == (facts, to_sign, signature)
    key = published_keyset().receipt_key(receipt.key_id)
    Ed25519PublicKey.from_public_bytes(key).verify(receipt.signature, receipt.signed_bytes)


# Keysets and reports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "keys"),
    [
        ("api.example.com", {"any", "api"}),
        ("API.Example.com.", {"any", "api"}),
        ("other.example.com", {"any", "other"}),
        ("nobody.example.com", {"any"}),
    ],
)
def test_tls_keys_are_those_of_the_host(host: str, keys: set[str]) -> None:
    spki = {"any": "aa" * 32, "api": "bb" * 32, "other": "cc" * 32}
    keyset = Keyset(
        subject=None,
        not_after=1,
        receipt_signing_keys=(),
        e2ee_public_keys=(),
        tls_public_keys=(
            TlsKey(spki_sha256=spki["any"]),
            TlsKey(spki_sha256=spki["api"], domain="Api.example.com."),
            TlsKey(spki_sha256=spki["other"], domain="other.example.com"),
        ),
    )
    assert keyset.tls_keys_for(host) == {spki[key] for key in keys}


def test_a_keyset_without_tls_keys_allows_none() -> None:
    keyset = Keyset(subject=None, not_after=1, receipt_signing_keys=(), e2ee_public_keys=())
    assert keyset.tls_keys_for("api.example.com") == frozenset()
    assert b"tls" not in keyset.document()


def test_a_receipt_key_of_another_algorithm_is_refused() -> None:
    key = PublicKey(key_id="r", algo="rsa", public_key="x")
    keyset = Keyset(subject=None, not_after=1, receipt_signing_keys=(key,), e2ee_public_keys=())
    with pytest.raises(aci.InvalidKeyset, match="no ed25519 receipt key has the id 'r'"):
        keyset.receipt_key("r")


@pytest.mark.parametrize(
    "nonce", ["", "00", "00" * 31, "00" * 33, "AB" * 32, "0x" + "00" * 31, "g" * 64, "00" * 32 + "\n", "٠" * 64]
)
def test_nonces_that_are_refused(nonce: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        aci.check_nonce(nonce)
    assert (caught.value.status, caught.value.type, caught.value.param) == (400, "invalid_request_error", "nonce")


def test_nonces_are_64_digits() -> None:
    aci.check_nonce("0123456789abcdef" * 4)


def test_a_report_says_what_it_was_built_from() -> None:
    keyset, nonce = published_keyset(), PUBLISHED["statement"]["nonce"]
    report = aci.build_report(
        keyset,
        nonce,
        tee_type="tdx",
        evidence={"quote": "00"},
        provenance=SourceProvenance(repo_url="https://example.com/r", repo_commit="ab"),
        capabilities=Capabilities(supported_e2ee_versions=("2",), serving="direct"),
    )
    read = aci.parse_report(report.document())
    assert read == report
    assert read.keyset() == keyset
    assert read.attestation.report_data == PUBLISHED["statement"]["report_data"]
    members = json.loads(report.document())
    assert set(members) == {"api_version", "workload_keyset_digest", "attestation", "service_capabilities"}
    assert members["attestation"]["source_provenance"] == {
        "repo_url": "https://example.com/r",
        "repo_commit": "ab",
        "image_digest": None,
        "image_provenance": None,
    }
    assert members["service_capabilities"] == {"supported_e2ee_versions": ["2"], "serving": "direct"}


def test_the_manifest_is_bound_by_the_subject() -> None:
    digest = jcs.sha256(b"manifest")
    assert aci.subject_manifest(aci.manifest_subject(digest)) == digest


@pytest.mark.parametrize("subject", [None, "", "dstack-app://x", "confide-manifest:", "confide-manifest:sha256:00"])
def test_other_subjects_bind_no_manifest(subject: str | None) -> None:
    assert aci.subject_manifest(subject) is None


# Receipts and sessions that can't be made ----------------------------------------------------------------------------

HASH = jcs.sha256(b"")
RECEIVED, RETURNED = RequestReceived(body_hash=HASH), ResponseReturned(body_hash=HASH)


def facts_of(*events: Any) -> Facts:
    return Facts(
        receipt_id="rcpt-1", chat_id=None, model=None, endpoint="/", method="POST", served_at=1, events=tuple(events)
    )


@pytest.mark.parametrize(
    "events",
    [
        (),
        (RETURNED,),
        (RECEIVED,),
        (RETURNED, RECEIVED),
        (RECEIVED, RECEIVED, RETURNED),
        (RECEIVED, RETURNED, RETURNED),
        (RECEIVED, RequestForwarded(body_hash=HASH), RequestForwarded(body_hash=HASH), RETURNED),
        (RECEIVED, OtherEvent(type="response.returned", members={}), RETURNED),
        (RECEIVED, OtherEvent(type="x", members={"type": "request.received"}), RETURNED),
    ],
)
def test_events_that_tell_no_exchange_are_not_signed(events: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidReceipt):
        unsigned(facts_of(*events), keyset_digest=HASH, key_id="r")


def test_every_event_survives() -> None:
    facts = facts_of(
        RECEIVED,
        ModelManifest(digest=HASH),
        OtherEvent(type="route.selected", members={"route": [1, {"a": None}]}),
        UpstreamVerified(result="failed", required=False, model_id="m", reason="r", upstream_name="u"),
        RETURNED,
        ResponseAborted(reason="engine_failed"),
    )
    document = unsigned(facts, keyset_digest=HASH, key_id="r")
    assert parse_receipt(signed(document, bytes(64))).facts == facts


@pytest.mark.parametrize("parts", [{"result": "verified"}, {"result": "failed"}])
def test_a_verification_has_its_outcome(parts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"has a (session_id|reason) and no"):
        UpstreamVerified(required=True, model_id="m", **parts)


def session_of(**parts: Any) -> Any:
    whole: dict[str, Any] = {
        "upstream_name": "u",
        "endpoint": None,
        "verifier_id": "v",
        "period": (1, 2),
        "bindings": (E2eeBinding(provider="p", algorithm="a", public_key_sha256="00" * 32),),
        "claims": {},
        "evidence": b"{}",
    }
    return build_session(**(whole | parts))


def test_a_session_without_claims_claims_nothing() -> None:
    session = session_of(identity={"key": "k"})
    assert {session.claim(name).status for name in ("tee_attested", "gpu_attested", "no such claim")} == {"unknown"}
    assert session.evidence_bytes() == b"{}"
    assert session.bindings() == (E2eeBinding(provider="p", algorithm="a", public_key_sha256="00" * 32),)
    assert json.loads(session.document())["identity"] == {"key": "k"}


@pytest.mark.parametrize(
    "parts",
    [
        {"period": (2, 2)},
        {"upstream_name": ""},
        {"claims": {"tee_attested": Claim(status="asserted")}},
        {"claims": {"tee_attested": Claim(status="unknown", reason="why")}},
        {"bindings": (TlsBinding(origin="o", spki_sha256="short"),)},
    ],
)
def test_sessions_that_are_not_made(parts: dict[str, Any]) -> None:
    with pytest.raises(InvalidSession):
        session_of(**parts)
