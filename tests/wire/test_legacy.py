from __future__ import annotations

import json
from typing import Any

import pytest
from tests.vectors.loading import VECTORS, load

from confide.errors import ApiError, InvalidRequest
from confide.wire import jcs, legacy
from confide.wire.legacy import FlatReport, InvalidLegacy, Proof, SignatureText, Signed

G1: Any = load(VECTORS / "phala" / "computed.json")
KEYS, REPORT = G1["keys"], G1["report_data"]
ADDRESS = bytes.fromhex(KEYS["eth_address_checksummed"][2:])
NONCE = bytes.fromhex(REPORT["nonce"])


def test_texts_hash_the_bodies() -> None:
    vector = G1["signature"]
    request, response = (jcs.sha256(vector[body].encode())[7:] for body in ("request_body", "response_body"))
    texts = [str(SignatureText(request, response)), str(SignatureText(request, response, "phala/m"))]
    assert texts == [case["text"] for case in vector["cases"]]
    assert [legacy.parse_text(text).model for text in texts] == [None, "phala/m"]


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"testing", "5f16f4c7f149ac4f9510d9cf8cf384038ad348b3bcdc01915f95de12df9d1b02"),
    ],
)
def test_keccak_is_not_sha3(data: bytes, digest: str) -> None:
    assert legacy.keccak256(data).hex() == digest


def test_message_hash_counts_bytes() -> None:
    expected = legacy.keccak256(b"\x19Ethereum Signed Message:\n4" + "éé".encode())
    assert legacy.message_hash("éé") == expected


def test_addresses() -> None:
    public = bytes.fromhex(KEYS["signing_public_key_ecdsa"])
    assert legacy.ethereum_address(public) == ADDRESS
    assert legacy.checksummed(ADDRESS) == KEYS["eth_address_checksummed"]
    assert legacy.parse_address("ecdsa", KEYS["eth_address_checksummed"].lower()) == ADDRESS
    assert legacy.parse_address("ed25519", KEYS["ed25519_public"]).hex() == KEYS["ed25519_public"]
    assert legacy.same_address(KEYS["eth_address_checksummed"], "0x" + ADDRESS.hex())
    assert not legacy.same_address(KEYS["eth_address_checksummed"], KEYS["ed25519_public"])


@pytest.mark.parametrize("size", [0, 33, 65])
def test_public_keys_of_other_forms_have_no_address(size: int) -> None:
    with pytest.raises(InvalidLegacy, match="64 bytes"):
        legacy.ethereum_address(bytes(size))


@pytest.mark.parametrize(
    ("algorithm", "text"),
    [
        ("ecdsa", ""),
        ("ecdsa", ADDRESS.hex()),
        ("ecdsa", "0x" + "0" * 39),
        ("ecdsa", KEYS["ed25519_public"]),
        ("ecdsa", "0x" + ADDRESS.hex() + "\n"),
        ("ed25519", "0x" + "00" * 32),
        ("ed25519", "00" * 31),
    ],
)
def test_addresses_that_are_refused(algorithm: legacy.Algorithm, text: str) -> None:
    with pytest.raises(InvalidLegacy, match=f"no {algorithm} signing address"):
        legacy.parse_address(algorithm, text)


@pytest.mark.parametrize(
    ("layout", "data"),
    [
        ("v1_ecdsa", (ADDRESS, NONCE)),
        ("v1_ed25519", (bytes.fromhex(KEYS["ed25519_public"]), NONCE)),
        ("v2_tls_ecdsa", (ADDRESS, NONCE, bytes.fromhex(REPORT["tls_spki_sha256"]))),
        (
            "v2_tls_ed25519",
            (bytes.fromhex(KEYS["ed25519_public"]), NONCE, bytes.fromhex(REPORT["tls_spki_sha256"])),
        ),
    ],
)
def test_report_data(layout: str, data: tuple[bytes, ...]) -> None:
    assert legacy.report_data(*data).hex() == REPORT[layout]


# Signatures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", G1["signature"]["cases"])
def test_signatures_are_read(case: dict[str, str]) -> None:
    assert legacy.parse_signature("ecdsa", case["signature_ecdsa"])[64] in (27, 28)
    assert legacy.parse_signature("ed25519", case["signature_ed25519"]).hex() == case["signature_ed25519"]


@pytest.mark.parametrize(
    ("algorithm", "text", "reason"),
    [
        ("ecdsa", "00" * 65, "no ecdsa signature"),
        ("ecdsa", "0x" + "00" * 64, "no ecdsa signature"),
        ("ecdsa", "0x" + "00" * 65, "v of an ecdsa signature"),
        ("ecdsa", "0x" + "00" * 64 + "1d", "v of an ecdsa signature"),
        ("ed25519", "0x" + "00" * 64, "no ed25519 signature"),
        ("ed25519", "00" * 65, "no ed25519 signature"),
    ],
)
def test_signatures_that_are_refused(algorithm: legacy.Algorithm, text: str, reason: str) -> None:
    with pytest.raises(InvalidLegacy, match=reason):
        legacy.parse_signature(algorithm, text)


def test_a_proof_is_stored_and_answered() -> None:
    proof = Proof(
        text="t",
        ecdsa=Signed(signature="0x1", signing_address="0xA"),
        ed25519=Signed(signature="2", signing_address="b"),
    )
    assert legacy.decode_proof(proof.encode()) == proof
    assert proof.body("ecdsa") == {
        "text": "t",
        "signature": "0x1",
        "signing_address": "0xA",
        "signing_algo": "ecdsa",
    }
    assert proof.body("ed25519")["signature"] == "2"
    with pytest.raises(InvalidLegacy):
        legacy.decode_proof(b"{}")


# Reports -------------------------------------------------------------------------------------------------------------


def flat(**members: Any) -> FlatReport:
    whole: dict[str, Any] = {
        "signing_address": KEYS["eth_address_checksummed"],
        "signing_algo": "ecdsa",
        "intel_quote": "0400",
        "quote": "0400",
        "request_nonce": REPORT["nonce"],
        "signing_public_key": KEYS["signing_public_key_ecdsa"],
        "nvidia_payload": legacy.nvidia_payload(REPORT["nonce"], [], "HOPPER"),
        "event_log": '[{"imr":3}]',
        "vm_config": "",
        "info": {"app_id": "a"},
    }
    return FlatReport(**(whole | members))


def test_a_report_lists_itself() -> None:
    report = flat()
    body = report.body()
    assert body["all_attestations"] == [{name: value for name, value in body.items() if name != "all_attestations"}]
    assert legacy.parse_flat_report(json.dumps(body).encode()) == (report,)
    assert json.loads(body["nvidia_payload"]) == {"nonce": REPORT["nonce"], "evidence_list": [], "arch": "HOPPER"}


def test_members_are_json_or_text_of_json() -> None:
    assert flat().member("event_log") == flat(event_log=[{"imr": 3}]).member("event_log") == [{"imr": 3}]
    assert flat().member("vm_config") is None
    assert flat(vm_config={"a": 1}).member("vm_config") == {"a": 1}
    with pytest.raises(InvalidLegacy, match="event_log: not JSON"):
        flat(event_log="[").member("event_log")


def test_reports_of_several_servers() -> None:
    second = flat(signing_address="0x" + "11" * 20)
    body = flat().body() | {"all_attestations": [flat().body(), second.body() | {"model_name": "m"}]}
    assert legacy.parse_flat_report(json.dumps(body).encode()) == (flat(), second)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"signing_algo": "rsa"}, "Invalid enum value 'rsa'"),
        ({"signing_address": "0x00"}, "no ecdsa signing address"),
        ({"intel_quote": None}, "Expected `str`, got `null`"),
        ({"all_attestations": {}}, "all_attestations is no list"),
        ({"all_attestations": [{}]}, "missing required field"),
        ({"event_log": 3}, "Expected `str | array`"),
    ],
)
def test_reports_that_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidLegacy, match=reason.replace("|", r"\|")):
        legacy.parse_flat_report(json.dumps(flat().body() | change).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'{"a":1,"a":1}'])
def test_bytes_that_are_no_report(data: bytes) -> None:
    with pytest.raises(InvalidLegacy):
        legacy.parse_flat_report(data)


# Queries -------------------------------------------------------------------------------------------------------------


def test_algorithms() -> None:
    assert legacy.parse_algorithm(None) == legacy.parse_algorithm("ecdsa") == "ecdsa"
    assert legacy.parse_algorithm("ed25519") == "ed25519"
    for other in ("", "ECDSA", "rsa", "ecdsa-p256"):
        with pytest.raises(InvalidRequest) as caught:
            legacy.parse_algorithm(other)
        assert caught.value.body() == error("Invalid signing algorithm. Must be 'ed25519' or 'ecdsa'", algo=True)


def error(message: str, *, algo: bool = False, not_found: bool = False, param: str | None = None) -> Any:
    kind = "invalid_signing_algo" if algo else "not_found" if not_found else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


def test_nonces() -> None:
    assert legacy.parse_nonce(REPORT["nonce"]) == legacy.parse_nonce(REPORT["nonce"].upper()) == NONCE


@pytest.mark.parametrize(
    ("nonce", "message"),
    [
        ("xyz", "Nonce must be hex-encoded"),
        ("0", "Nonce must be hex-encoded"),
        (" " + "00" * 31 + "0", "Nonce must be hex-encoded"),
        ("00" * 32 + "\n", "Nonce must be hex-encoded"),
        ("", "Nonce must be 32 bytes"),
        ("00" * 31, "Nonce must be 32 bytes"),
        ("00" * 33, "Nonce must be 32 bytes"),
    ],
)
def test_nonces_that_are_refused(nonce: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        legacy.parse_nonce(nonce)
    assert caught.value.status == 400
    assert caught.value.body() == error(message, param="nonce")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (legacy.unknown_chat(), "Chat id not found or expired"),
        (legacy.unknown_address(), "Signing address not found on this server"),
    ],
)
def test_what_is_not_there(answer: ApiError, message: str) -> None:
    assert answer.status == 404
    assert answer.body() == error(message, not_found=True)
