"""Reports, keysets, the manifest and the headers of every answer, from a server in a process of its own."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from confide.seal import aci_v2
from confide.wire import aci, legacy, nvgpu
from confide.wire.receipt import parse_receipt
from tests.proof.talking import (
    CHAT,
    Client,
    EchoServer,
    check_receipt,
    check_signature,
    echoing,
    sha256,
)
from tests.rawhttp import Answer, Connection, request
from tests.simulator.echo_server import MANIFEST, MANIFEST_DIGEST, MODEL

NONCE = "ab" * 32


def root(server: EchoServer, number: int = 0) -> x509.Certificate:
    """An exported development root: of quotes, or of GPUs."""
    roots = x509.load_pem_x509_certificates((server.data / "dev-pki" / "development-roots.pem").read_bytes())
    return roots[number]


def judged(quote: str, collateral: Any, authority: x509.Certificate | None) -> dcap_qvl.VerifiedReport:
    """What another implementation says of a quote: under this root, or under Intel's."""
    given, now = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(collateral)), int(time.time())
    if authority is None:
        return dcap_qvl.verify(bytes.fromhex(quote), given, now)
    return dcap_qvl.verify_with_root_ca(bytes.fromhex(quote), given, authority.public_bytes(Encoding.DER), now)


def slot(quote: str) -> bytes:
    """The report data inside a quote."""
    return bytes.fromhex(quote)[48 + 520 : 48 + 584]


@pytest.fixture(autouse=True)
def _turns() -> None:
    """Reports are limited to ten a second."""
    time.sleep(0.15)


# aci/1 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nonce", [NONCE, None, "0" * 64])
def test_a_report_is_bound_to_the_nonce_and_the_keys(echo: EchoServer, nonce: str | None) -> None:
    with echo.client(None) as client:
        report = client.report(nonce)
    keyset = report.keyset()
    assert keyset.digest() == report.workload_keyset_digest
    statement = aci.report_data(keyset.digest(), nonce)
    assert report.attestation.report_data == statement.hex()
    evidence = report.attestation.evidence
    assert slot(evidence["quote"]) == statement.ljust(64, b"\0") == bytes.fromhex(evidence["quote_report_data"])
    assert evidence["source"] == "development"
    assert (report.attestation.tee_type, report.service_capabilities.serving) == ("tdx", "direct")
    assert report.service_capabilities.supported_e2ee_versions == ("2",)
    assert {key.algo for key in keyset.e2ee_public_keys} == {aci.X25519_SUITE, aci.SECP256K1_SUITE}
    assert time.time() < keyset.not_after < time.time() + 15 * 86400
    (device,) = evidence["gpu"]["devices"]
    exchange = nvgpu.parse_measurements(base64.b64decode(device["evidence"]))
    assert exchange.nonce == statement
    chain = x509.load_pem_x509_certificates(base64.b64decode(device["certificate"]))
    assert chain[-1] == root(echo, 1)


def test_the_quote_is_genuine_under_the_exported_root_only(echo: EchoServer) -> None:
    with echo.client(None) as client:
        evidence = client.report(NONCE).attestation.evidence
    verdict = judged(evidence["quote"], evidence["collateral"], root(echo))
    assert verdict.status == "UpToDate"
    with pytest.raises(ValueError, match="root"):
        judged(evidence["quote"], evidence["collateral"], None)
    with pytest.raises(ValueError, match=r"."):
        judged(evidence["quote"], evidence["collateral"], root(echo, 1))
    forged = bytearray(bytes.fromhex(evidence["quote"]))
    forged[48 + 520] ^= 1
    with pytest.raises(ValueError, match=r"."):
        judged(forged.hex(), evidence["collateral"], root(echo))


@pytest.mark.parametrize(
    "query",
    [
        *("nonce", "nonce=", "nonce=AB" + "ab" * 31, "nonce=" + "ab" * 31, "nonce=" + "ab" * 33),
        *("nonce=" + "g" * 64, "nonce=0x" + "ab" * 31, "nonce=%20" + "ab" * 32, f"nonce={NONCE}%0a"),
    ],
)
def test_other_nonces_are_refused(echo: EchoServer, query: str) -> None:
    with echo.client(None) as client:
        answer = client.get(f"/v1/aci/attestation?{query}")
        assert (answer.status, answer.error()["param"]) == (400, "nonce")


def test_a_nonce_that_comes_twice_is_refused(echo: EchoServer) -> None:
    """Whoever reads the first and whoever reads the last must not be told different things."""
    with echo.client(None) as client:
        assert client.get(f"/v1/aci/attestation?nonce={'cd' * 32}&nonce={NONCE}").status == 400
        assert client.get(f"/v1/attestation/report?nonce={'cd' * 32}&nonce={NONCE}").status == 400


def test_two_reports_have_two_quotes(echo: EchoServer) -> None:
    with echo.client(None) as client:
        assert client.report(NONCE).attestation.report_data != client.report("cd" * 32).attestation.report_data


def test_keysets_and_the_manifest_are_the_bytes_of_their_digests(echo: EchoServer) -> None:
    with echo.client(None) as client:
        report = client.report()
        assert client.keyset(report.workload_keyset_digest) == report.keyset()
        manifest = client.get("/v1/aci/manifest")
        assert (manifest.body, sha256(manifest.body)) == (MANIFEST, MANIFEST_DIGEST)
        assert aci.subject_manifest(report.keyset().subject) == MANIFEST_DIGEST
        for unknown in ("sha256:" + "0" * 64, "x", "%00", "sha256:" + report.workload_keyset_digest):
            assert client.get(f"/v1/aci/keysets/{unknown}").status == 404


def test_unknown_receipts_are_not_there(echo: EchoServer) -> None:
    with echo.client() as client, echo.client(None) as nobody:
        for name in ("rcpt-" + "0" * 24, "chatcmpl-x", "%25", "'", "x" * 3000, "%00", "%ff"):
            found, older = client.receipt(name), client.signature(name)
            assert (found.status, older.status) == (404, 404)
            assert older.error()["message"] == "Chat id not found or expired"
            assert nobody.receipt(name).status == nobody.signature(name).status == 401


def test_an_unknown_algorithm_is_refused(echo: EchoServer) -> None:
    with echo.client() as client:
        _, answer = client.ask(messages=[{"role": "user", "content": "x"}])
        for name in ("ecdsa-p256", "rsa", "", "ECDSA"):
            refused = client.get(f"/v1/signature/{answer.headers['x-receipt-id']}?signing_algo={name}")
            assert (refused.status, refused.error()["type"]) == (400, "invalid_signing_algo")
            assert client.get(f"/v1/attestation/report?signing_algo={name}").status == 400


# The older report ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ecdsa", "ed25519"])
@pytest.mark.parametrize("nonce", [NONCE, "AB" * 32, None])
def test_the_older_report_is_bound_to_the_address_and_the_nonce(
    echo: EchoServer, algorithm: legacy.Algorithm, nonce: str | None
) -> None:
    with echo.client() as client:
        query = f"signing_algo={algorithm}" + (f"&nonce={nonce}" if nonce else "")
        answer = client.get(f"/v1/attestation/report?{query}")
    (report,) = legacy.parse_flat_report(answer.body)
    assert isinstance(report.request_nonce, str)
    assert nonce is None or report.request_nonce == nonce.lower()
    public = bytes.fromhex(str(report.signing_public_key))
    who = legacy.ethereum_address(public) if algorithm == "ecdsa" else public
    assert report.signing_algo == algorithm
    assert slot(report.intel_quote) == who.ljust(32, b"\0") + bytes.fromhex(report.request_nonce)
    payload = nvgpu.parse_payload(str(report.nvidia_payload))
    assert payload.nonce.hex() == report.request_nonce
    (gpu,) = payload.gpus
    assert nvgpu.parse_measurements(gpu.evidence).nonce == payload.nonce
    members = answer.json()
    assert members["all_attestations"] == [{name: members[name] for name in members if name != "all_attestations"}]
    assert members["info"]["tcb_info"]
    with echo.client() as client:
        aci_evidence = client.report(NONCE).attestation.evidence
    assert judged(report.intel_quote, aci_evidence["collateral"], root(echo)).status == "UpToDate"


def test_two_older_reports_without_a_nonce_differ(echo: EchoServer) -> None:
    with echo.client() as client:
        nonces = {client.json("/v1/attestation/report")["request_nonce"] for _ in range(2)}
    assert len(nonces) == 2


@pytest.mark.parametrize(
    ("nonce", "message"),
    [
        *((text, "Nonce must be hex-encoded") for text in ("xyz", "abc", "0x" + "ab" * 31)),
        *((text, "Nonce must be 32 bytes") for text in ("ab" * 31, "ab" * 33)),
    ],
)
def test_nonces_of_the_older_report(echo: EchoServer, nonce: str, message: str) -> None:
    with echo.client() as client:
        answer = client.get(f"/v1/attestation/report?nonce={nonce}")
        assert (answer.status, answer.error()["message"]) == (400, message)


def test_the_older_report_is_for_its_own_addresses(echo: EchoServer) -> None:
    with echo.client() as client:
        for algorithm in ("ecdsa", "ed25519"):
            path = f"/v1/attestation/report?signing_algo={algorithm}"
            own = client.json(path)["signing_address"]
            for form in (own, own.lower(), own.upper().replace("0X", "0x")):
                assert client.json(f"{path}&signing_address={form}")["signing_address"] == own
            foreign = "0x" + "12" * 20 if algorithm == "ecdsa" else "12" * 32
            answer = client.get(f"{path}&signing_address={foreign}")
            assert (answer.status, answer.error()["message"]) == (404, "Signing address not found on this server")


def test_without_tls_inside_nothing_is_bound_to_tls(echo: EchoServer) -> None:
    with echo.client() as client:
        for query in ("version=2", "include_tls_fingerprint=true"):
            assert client.get(f"/v1/attestation/report?{query}").status == 404
        assert "tls_cert_fingerprint" not in client.json("/v1/attestation/report?version=1")


# Every answer --------------------------------------------------------------------------------------------------------

ANSWERS: dict[str, tuple[int, Callable[[Client], Answer]]] = {
    "health": (200, lambda c: c.get("/health")),
    "models": (200, lambda c: c.get("/v1/models")),
    "report": (200, lambda c: c.get("/v1/aci/attestation")),
    "whole answer": (200, lambda c: c.ask(messages=[{"role": "user", "content": "x"}])[1]),
    "stream": (200, lambda c: c.ask(messages=[{"role": "user", "content": "x"}], stream=True)[1]),
    "HTTP/1.0": (200, lambda c: c.exchange(request("GET", "/health", {}, version="1.0"))),
    "HEAD": (200, lambda c: c.exchange(request("HEAD", "/v1/aci/manifest", {}), to="HEAD")),
    "no key": (401, lambda c: c.get("/v1/models", {"Authorization": "Bearer no"})),
    "no such path": (404, lambda c: c.get("/nowhere")),
    "no such method": (405, lambda c: c.exchange(request("DELETE", CHAT, {}))),
    "no JSON": (400, lambda c: c.post(b"{")),
    "no such model": (404, lambda c: c.post(b'{"model":"m","messages":[{"role":"user","content":"x"}]}')),
    "too large": (413, lambda c: c.post(b"x" * (16 * 2**20 + 1))),
    "bad seal": (400, lambda c: c.post(b"{}", {"X-E2EE-Version": "2"})),
    "engine's bug": (500, lambda c: c.ask(messages=[{"role": "user", "content": "x"}], user="echo:bug")[1]),
    "no HTTP": (400, lambda c: c.exchange(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")),
    "large headers": (400, lambda c: c.get("/health", {"X-Long": "x" * 70_000})),
    "preflight": (
        200,
        lambda c: c.exchange(
            request("OPTIONS", CHAT, {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"})
        ),
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_names_the_protocol_and_the_keyset(echo: EchoServer, name: str) -> None:
    status, ask = ANSWERS[name]
    with echo.client() as client:
        answer = ask(client)
        assert answer.status == status, answer
        client.close()
        assert answer.headers.get("x-aci-version") == "aci/1"
        assert answer.headers.get("x-aci-keyset-digest") == client.report().workload_keyset_digest


def test_scripts_of_the_allowed_origin_may_read_the_proofs(echo: EchoServer) -> None:
    with echo.client() as client:
        answer = client.get("/v1/models", {"Origin": "https://app.example"})
        exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert exposed >= {"x-receipt-id", "x-aci-version", "x-aci-keyset-digest", "x-e2ee-applied"}


def test_too_many_reports_are_refused_and_answers_are_not(tmp_path: Path) -> None:
    with echoing(tmp_path) as server, server.client() as client:
        statuses = [client.get("/v1/aci/attestation").status for _ in range(80)]
        assert set(statuses) == {200, 429}
        assert statuses[:30] == [200] * 30
        refused = client.get("/v1/attestation/report")
        while refused.status == 200:
            refused = client.get("/v1/attestation/report")
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert refused.error()["code"] == "rate_limit_exceeded"
        assert client.get("/v1/aci/attestation?nonce=x").status == 400  # costs nothing, and is told so
        _, answer = client.ask(messages=[{"role": "user", "content": "x"}])
        assert client.receipt(answer.headers["x-receipt-id"]).status == 200


# Rotation ------------------------------------------------------------------------------------------------------------


def test_keys_rotate_and_old_receipts_stay(tmp_path: Path) -> None:
    moved = tmp_path / "clock"
    moved.write_text("0")
    with echoing(tmp_path, "--key-period", "1000", "--moved-clock", str(moved)) as server, server.client() as client:

        def move(seconds: int, digest: str) -> None:
            """Move the server's clock; a file in one piece, and then wait for the change."""
            (tmp_path / "next").write_text(str(seconds))
            (tmp_path / "next").replace(moved)
            until = time.monotonic() + 10
            while client.get("/health").headers["x-aci-keyset-digest"] == digest:
                assert time.monotonic() < until
                time.sleep(0.02)

        def check(asked: bytes, answer: Answer, digest: str, flat: dict[str, Any]) -> None:
            name = answer.headers["x-receipt-id"]
            receipt = check_receipt(client.receipt(name).body, client.keyset(digest), asked=asked, answered=answer.body)
            assert receipt.workload_keyset_digest == digest
            check_signature(client.signature(name).json(), flat, asked=asked, answered=answer.body)

        first, flat = client.report(), client.json("/v1/attestation/report")
        before = client.ask(messages=[{"role": "user", "content": "before"}])
        now = time.time() + 1000
        move(1000, first.workload_keyset_digest)
        second, other_flat = client.report(), client.json("/v1/attestation/report")
        after = client.ask(messages=[{"role": "user", "content": "after"}])
        assert first.workload_keyset_digest != second.workload_keyset_digest
        assert flat["signing_address"] != other_flat["signing_address"]
        assert second.keyset().not_after == first.keyset().not_after + 1000
        check(*before, first.workload_keyset_digest, flat)
        check(*after, second.workload_keyset_digest, other_flat)

        sealed_to = {key.public_key for key in first.keyset().e2ee_public_keys + second.keyset().e2ee_public_keys}
        assert len(sealed_to) == 4
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "sealed"}]}).encode()
        for report in (first, second):
            for key in report.keyset().e2ee_public_keys:
                call = aci_v2.seal_request(body, CHAT, key.algo, key.public_key, now)
                answer = client.post(call.body, call.headers)
                assert answer.status == 200, answer
                assert b"sealed" in call.opener.whole(answer.body)

        move(2000, second.workload_keyset_digest)  # the first has expired
        now += 1000
        for report, status in ((first, 400), (second, 200)):
            key = report.keyset().e2ee_public_keys[0]
            call = aci_v2.seal_request(body, CHAT, key.algo, key.public_key, now)
            answer = client.post(call.body, call.headers)
            assert answer.status == status
            assert status == 200 or answer.error()["type"] == "e2ee_model_key_mismatch"
        check(*before, first.workload_keyset_digest, flat)


def test_a_receipt_is_of_the_keyset_that_its_answer_names(tmp_path: Path) -> None:
    """The keys change while the engine thinks; the head of the answer leaves after that."""
    moved = tmp_path / "clock"
    moved.write_text("0")
    with echoing(tmp_path, "--key-period", "1000", "--moved-clock", str(moved)) as server, server.client() as client:
        said = [{"role": "user", "content": "0123456789"}]
        body = json.dumps({"model": MODEL, "messages": said, "user": "echo:slow:200"}).encode()
        with Connection(server.port) as waiting:
            waiting.send(request("POST", CHAT, {"Content-Type": "application/json", **client.headers}, body))
            time.sleep(0.1)
            moved.write_text("1000")
            answer = waiting.answer()
        receipt = parse_receipt(client.receipt(answer.headers["x-receipt-id"]).body)
        assert answer.headers["x-aci-keyset-digest"] == receipt.workload_keyset_digest
