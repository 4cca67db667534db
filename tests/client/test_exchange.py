"""What is decided about one exchange, without any I/O: an aggregator's receipts, and services of the older surface."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec
import pytest

from confide.attest import dev_sign
from confide.attest.dev import DevMachine
from confide.client.address import parse_address
from confide.client.errors import AnswerForged, Misused, NotVerified, ReceiptFailed
from confide.client.exchange import NO_REPLY, Ask, Exchange, Reply, check_request
from confide.client.sealing import offered_key
from confide.client.trust import Checked, Standing, Trust
from confide.verify.audit import audit, check_report
from confide.verify.bundle import Exchange as Kept
from confide.verify.fetch.base import Cache
from confide.verify.material import Item
from confide.verify.policy import Policy, TdMeasurement, TdxPolicy
from confide.verify.saved import Established
from confide.verify.services import named
from confide.wire.session import Session
from tests.client.world import MODEL as ECHO
from tests.client.world import Between, Passing, World, hello
from tests.verify.making import (
    HOST,
    MODEL,
    NOW,
    REQUEST,
    RESPONSE,
    made_policy,
    made_receipt,
    made_report,
    made_session,
    made_upstream,
)

URL = f"https://{HOST}/v1/chat/completions"
HEADERS = {"X-Receipt-Id": "rcpt-1", "Content-Type": "application/json"}


def made_trust(serving: str = "direct", told: list[Checked] | None = None) -> Trust:
    """A service that was verified at a fixed time."""
    made = made_report(serving=serving)
    context = made.context(made_policy())
    verdict, established = check_report(made.saved(), named("aci"), context)
    assert established is not None, verdict.problems()
    address = parse_address(f"https://{HOST}")
    standing = Standing(address, "aci", made.saved(), context, verdict, established, None)
    trust = Trust(standing, clock=lambda: float(NOW))
    trust.on_receipt = None if told is None else told.append
    return trust


def driven(exchange: Exchange, answers: Mapping[str, bytes]) -> tuple[bytes, list[str]]:
    """The end of an exchange whose answer was fed, and what was asked for."""
    proof, asked = exchange.proof(), list[str]()
    try:
        ask = next(proof)
        while True:
            asked.append(ask.path)
            body = answers.get(ask.path)
            ask = proof.send(NO_REPLY if body is None else Reply(200, body))
    except StopIteration as ended:
        return bytes(ended.value), asked


def exchanged(trust: Trust, answers: Mapping[str, bytes]) -> tuple[bytes, list[str]]:
    """One question, answered with :data:`RESPONSE`."""
    exchange = Exchange(trust, trust.current(), httpx.Request("POST", URL), REQUEST)
    assert exchange.answered(200, httpx.Headers(HEADERS))
    assert exchange.feed(RESPONSE) == b""
    return driven(exchange, answers)


def of(session: Session, name: str | None = None) -> dict[str, bytes]:
    """A receipt that cites a session, and the session."""
    document = session.document()
    return {
        "/v1/aci/receipts/rcpt-1": made_receipt(forwarded=REQUEST, upstreams=[made_upstream(name or session)]),
        f"/v1/aci/sessions/{name or session.id()}": document,
    }


def test_a_direct_service_is_asked_for_its_receipt_only() -> None:
    told: list[Checked] = []
    rest, asked = exchanged(made_trust(told=told), {"/v1/aci/receipts/rcpt-1": made_receipt()})
    assert (rest, asked) == (RESPONSE, ["/v1/aci/receipts/rcpt-1"])
    assert [(checked.id, checked.model, checked.sealed) for checked in told] == [("rcpt-1", MODEL, False)]


def test_the_session_behind_an_aggregator_is_checked() -> None:
    trust, session = made_trust("aggregator"), made_session()
    rest, asked = exchanged(trust, of(session))
    assert rest == RESPONSE
    assert asked == ["/v1/aci/receipts/rcpt-1", f"/v1/aci/sessions/{session.id()}"]
    assert exchanged(trust, of(session))[1] == ["/v1/aci/receipts/rcpt-1"]  # it can't be another one, so it is kept


def test_a_session_that_is_another_one() -> None:
    with pytest.raises(ReceiptFailed, match=r"session\.1|receipt\.8"):
        exchanged(made_trust("aggregator"), of(made_session(), "ab" * 32))


def test_a_session_that_can_not_be_had() -> None:
    answers = of(made_session())
    del answers[next(path for path in answers if "sessions" in path)]
    with pytest.raises(ReceiptFailed, match=r"the session that the receipt cites can't be had: .* nothing"):
        exchanged(made_trust("aggregator"), answers)


def test_an_aggregator_that_cites_none() -> None:
    with pytest.raises(ReceiptFailed, match=r"receipt\.8"):
        exchanged(made_trust("aggregator"), {"/v1/aci/receipts/rcpt-1": made_receipt()})


def test_what_is_no_receipt_cites_no_session() -> None:
    with pytest.raises(ReceiptFailed, match=r"receipt\.1"):
        exchanged(made_trust("aggregator"), {"/v1/aci/receipts/rcpt-1": b"[" * 100_000})


def test_waiting_grows_and_ends() -> None:
    trust = made_trust()
    exchange = Exchange(trust, trust.current(), httpx.Request("POST", URL), REQUEST)
    assert exchange.answered(200, httpx.Headers(HEADERS))
    exchange.feed(RESPONSE)
    proof = exchange.proof()
    waits = [next(proof).wait, *(proof.send(Reply(503, b"")).wait for _ in range(3))]
    with pytest.raises(ReceiptFailed, match="answered 503"):
        proof.send(Reply(503, b""))
    assert waits == sorted(waits)
    assert waits[0] == 0
    assert sum(waits) < 5


def test_a_refusal_of_the_receipt_is_not_repeated() -> None:
    trust = made_trust()
    exchange = Exchange(trust, trust.current(), httpx.Request("POST", URL), REQUEST)
    assert exchange.answered(200, httpx.Headers(HEADERS))
    proof = exchange.proof()
    assert next(proof) == Ask("/v1/aci/receipts/rcpt-1")
    with pytest.raises(ReceiptFailed, match="answered 401"):
        proof.send(Reply(401, b""))


def test_ids_of_receipts_stay_in_their_place() -> None:
    trust = made_trust()
    exchange = Exchange(trust, trust.current(), httpx.Request("POST", URL), REQUEST)
    assert exchange.answered(200, httpx.Headers({**HEADERS, "X-Receipt-Id": "../../v1/models?x=1#y"}))
    assert next(exchange.proof()).path == "/v1/aci/receipts/..%2F..%2Fv1%2Fmodels%3Fx%3D1%23y"


@pytest.mark.parametrize("status", [100, 101, 199, 301, 302, 304, 399])
def test_statuses_that_are_no_answer(status: int) -> None:
    trust = made_trust()
    exchange = Exchange(trust, trust.current(), httpx.Request("POST", URL), REQUEST)
    with pytest.raises(AnswerForged, match=str(status)):
        exchange.answered(status, httpx.Headers(HEADERS))


def test_only_so_many_failures_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.client.trust._MOST_FAILURES", 2)
    trust = made_trust()
    for number in range(3):
        trust.failed(str(number), ReceiptFailed(f"the {number}th"))
    again = httpx.Headers({"x-stainless-retry-count": "1"})
    trust.refuse_repetition("0", again)
    for number in (1, 2):
        trust.refuse_repetition(str(number), httpx.Headers())
        with pytest.raises(ReceiptFailed, match=f"the {number}th"):
            trust.refuse_repetition(str(number), again)


def test_sessions_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.client.trust._MOST_SESSIONS", 2)
    trust = made_trust()
    for number in range(3):
        trust.keep_session(str(number), b"")
    assert [trust.session(str(number)) for number in range(3)] == [None, b"", b""]


def test_other_methods_and_origins() -> None:
    standing = made_trust().current()
    check_request(standing, httpx.Request("GET", f"https://{HOST}/v1/models"))
    for method, url in (
        *(("PUT", URL), ("DELETE", URL), ("PATCH", URL), ("OPTIONS", URL), ("CONNECT", URL)),
        *(("POST", URL.replace("https", "http")), ("POST", URL.replace(HOST, "elsewhere.example"))),
        ("POST", URL.replace(HOST, f"{HOST}:8443")),
    ):
        with pytest.raises(Misused):
            check_request(standing, httpx.Request(method, url))


def test_a_service_that_signs_nothing_is_as_good_as_its_connection() -> None:
    """Where the evidence binds a TLS key and nothing else, pinning is all the proof there is."""
    told: list[Checked] = []
    trust = made_trust(told=told)
    trust.renew(replace(trust.current(), established=Established()))
    exchange = Exchange(trust, trust.current(), httpx.Request("POST", URL), REQUEST)
    assert exchange.answered(200, httpx.Headers({"Content-Type": "application/json"}))
    exchange.feed(RESPONSE)
    assert driven(exchange, {}) == (RESPONSE, [])
    assert [(checked.id, checked.receipt, checked.findings) for checked in told] == [("chatcmpl-1", None, ())]


# The older surface ---------------------------------------------------------------------------------------------------


@pytest.fixture
def older(secure: World, tmp_path: Path) -> tuple[Policy, Cache]:
    """A policy for the older surface of our own server, which staples no collateral: that comes from the cache."""
    registers = DevMachine(secure.pki).state().registers
    rtmrs = {f"rtmr{number}": register.hex() for number, register in enumerate(registers[:3])}
    measured = TdMeasurement(mr_td=dev_sign.MR_TD.hex(), **rtmrs)
    policy = Policy(roots=("intel", "nvidia"), tdx=TdxPolicy(measurements=(measured,)))
    cache = Cache(tmp_path / "cache")
    made = dev_sign.collateral(secure.pki, datetime.fromtimestamp(secure.clock(), UTC))
    cache.keep(Item("tdx-collateral", "00DE70000000/platform", msgspec.json.encode(made)))
    return policy, cache


@pytest.fixture
def ca_file(secure: World, inside: Between, tmp_path: Path) -> Path:
    """The self-signed certificates of server and relay, as authorities."""
    path, ports = tmp_path / "ca.pem", (secure.port, int(inside.url.rsplit(":", 1)[1]))
    path.write_text("".join(ssl.get_server_certificate(("127.0.0.1", port)) for port in ports))
    return path


@pytest.mark.parametrize("stream", [True, False])
def test_the_older_surface(secure: World, older: tuple[Policy, Cache], ca_file: Path, stream: bool) -> None:
    policy, cache = older
    told: list[Checked] = []
    kept: list[Kept] = []
    service = secure.verified(
        policy=policy, cache=cache, service="vllm-proxy", webpki=True, ca_file=ca_file, keep=kept.append
    )
    service.on_receipt = told.append
    with service.http_client() as client:
        answer = client.post("chat/completions", json=hello("older", stream=stream))
    assert (b"[DONE]" if stream else b"older") in answer.content
    assert [(checked.receipt, checked.sealed, checked.model) for checked in told] == [(None, True, ECHO)]
    assert {finding.step for finding in told[0].findings} == {f"signature.{number}" for number in range(1, 7)}
    verdict = audit(service.bundle(kept), policy, now=service.verdict.at, development=secure.roots)
    assert [(finding.step, finding.detail) for finding in verdict.problems()] == []


def test_it_does_not_bind_tls_by_itself(secure: World, older: tuple[Policy, Cache], ca_file: Path) -> None:
    policy, cache = older
    with pytest.raises(NotVerified, match=r"legacy\.8"):
        secure.verified(policy=policy, cache=cache, service="vllm-proxy", seal=False, webpki=True, ca_file=ca_file)
    with pytest.raises(Misused, match="webpki=False needs a TLS key"):
        secure.verified(policy=policy, cache=cache, service="vllm-proxy")


def test_its_signatures_are_of_these_bytes(
    secure: World, inside: Between, older: tuple[Policy, Cache], ca_file: Path
) -> None:
    policy, cache = older
    service = secure.verified(
        inside.url, policy=policy, cache=cache, service="vllm-proxy", webpki=True, ca_file=ca_file
    )

    def more(passing: Passing) -> None:
        if passing.is_answer:
            passing.body = passing.body.replace(b'"object":', b'"object": ', 1)

    inside.relay.tamper = more
    with service.http_client() as client:
        with pytest.raises(ReceiptFailed, match=r"signature\.5"):
            client.post("chat/completions", json=hello())
        with pytest.raises(Misused, match="not defined for /v1/completions"):
            client.post("completions", json={"model": ECHO, "prompt": "secret"})
        inside.relay.tamper = lambda passing: setattr(
            passing, "body", passing.body.replace(b'"id":"chatcmpl', b'"xd":"chatcmpl') if passing.is_answer else b""
        )
        with pytest.raises((ReceiptFailed, AnswerForged)):
            client.post("chat/completions", json=hello())
    assert len(inside.relay.posts) == 2


@pytest.mark.parametrize("service", ["aci", "vllm-proxy", "near", "tinfoil", ""])
@pytest.mark.parametrize("document", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"signing_address":1}'])
def test_no_report_offers_no_key(service: str, document: bytes) -> None:
    assert offered_key(service, document) is None


def test_the_older_key_is_that_of_the_address(secure: World) -> None:
    for algorithm in ("ecdsa", "ed25519"):
        answer = httpx.get(f"{secure.url}/v1/attestation/report", params={"signing_algo": algorithm}, verify=False)
        key = offered_key("vllm-proxy", answer.content)
        assert key is not None
        assert key.algo == algorithm
        assert key.public_key.removeprefix("04") == answer.json()["signing_public_key"]
