"""A page against a running server: verified, sealed, checked, audited; and against one that is tampered with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from confide.verify.audit import audit
from confide.verify.bundle import parse_bundle
from confide.verify.policy import ChannelPolicy
from confide.wire import jcs
from confide.wire.aci import SECP256K1_SUITE, X25519_SUITE
from tests.client.world import MODEL, POLICY, Between, Passing, World
from tests.web.running import Run

ROOTS = ["development root for quotes", "development root for GPUs"]
OTHER = "sha256:" + "0" * 64


def given(served: World, url: str | None = None, **more: Any) -> dict[str, Any]:
    """What a page is told."""
    pem = served.pki.roots_pem().decode()
    return {"url": url or served.url, "key": served.key, "model": MODEL, "pem": pem} | more


def failing(findings: list[dict[str, Any]]) -> set[str]:
    """The steps that failed."""
    return {one["step"] for one in findings if one["outcome"] == "fail"}


def missing(findings: list[dict[str, Any]]) -> set[str]:
    """The steps that are required and were not made."""
    return {one["step"] for one in findings if one["outcome"] == "not checked" and one["required"]}


def said(stream: str) -> str:
    """What the deltas of a stream say together."""
    chunks = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize("stream", [True, False])
def test_a_development_service_is_consistent_and_never_ok(run: Run, served: World, stream: bool) -> None:
    found = run("talk", given(served, stream=stream))
    verdict, answer = found["verdict"], found["answer"]
    assert (verdict["verdict"], verdict["exit_code"], verdict["ok"]) == ("consistent, development root", 3, False)
    assert (verdict["development"], verdict["hardware"], verdict["roots"]) == (True, False, ROOTS)
    assert found["sealed"]
    assert (answer["consistent"], answer["ok"], answer["problem"], found["problem"]) == (True, False, None, None)
    assert not failing(answer["findings"]) | missing(answer["findings"])
    assert "Hello, wörld! 😀" in (said(found["text"]) if stream else found["text"])


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize(("seal", "stream"), [(True, True), (True, False), (False, True)])
def test_an_answer_in_pieces_of_any_size(run: Run, served: World, seal: bool, stream: bool, size: int) -> None:
    found = run("talk", given(served, seal=seal, stream=stream, size=size))
    assert (found["answer"]["consistent"], found["answer"]["problem"], found["problem"]) == (True, None, None)
    assert "Hello, wörld! 😀" in (said(found["text"]) if stream else found["text"])


@pytest.mark.parametrize("seal", [True, False])
def test_what_the_page_saves_is_what_confide_audit_reads(run: Run, served: World, seal: bool) -> None:
    found = run("talk", given(served, seal=seal))
    bundle = parse_bundle(found["bundle"].encode())
    assert [one.sealed for one in bundle.exchanges] == [seal]
    verdict = audit(bundle, POLICY, now=int(time.time()), development=served.roots)
    assert not failing(msgspec.to_builtins(verdict.findings))
    assert {one.step for one in verdict.problems()} == (set() if seal else {"report.10"})


@pytest.mark.parametrize(("stream", "size"), [(True, 7), (False, 1)])
def test_a_service_that_offers_only_secp256k1_is_sealed_to(
    run: Run, only_secp256k1: World, stream: bool, size: int
) -> None:
    found = run("talk", given(only_secp256k1, stream=stream, size=size))
    assert (found["suite"], found["verdict"]["exit_code"]) == (SECP256K1_SUITE, 3)
    assert (found["answer"]["consistent"], found["answer"]["problem"], found["problem"]) == (True, None, None)
    assert "Hello, wörld! 😀" in (said(found["text"]) if stream else found["text"])
    (exchange,) = parse_bundle(found["bundle"].encode()).exchanges
    assert exchange.sealed


def test_where_both_are_offered_x25519_is_taken(run: Run, served: World) -> None:
    assert run("talk", given(served))["suite"] == X25519_SUITE


def test_the_request_goes_out_sealed(run: Run, served: World, relay: Between) -> None:
    run("talk", given(served, relay.url))
    (body,) = relay.relay.posts
    assert b"Hello" not in body
    assert json.loads(body)["model"] == MODEL


def test_without_a_policy_nothing_is_good_enough(run: Run, served: World) -> None:
    verdict = run("talk", given(served, policy=None))["verdict"]
    assert (verdict["verdict"], verdict["exit_code"], verdict["ok"], verdict["policy"]) == ("no policy", 2, False, "")
    assert verdict["advice"][0].startswith("No policy was given")


def test_without_the_development_root_it_fails(run: Run, served: World) -> None:
    verdict = run("talk", given(served, pem=None, policy=None))["verdict"]
    assert failing(verdict["findings"]) == {"tdx.2", "report.2", "gpu.2", "report.9"}
    assert verdict["exit_code"] == 1
    assert not verdict["roots"]


def test_the_tls_key_that_no_page_sees_is_missing_where_the_policy_needs_it(run: Run, served: World) -> None:
    policy = msgspec.to_builtins(msgspec.structs.replace(POLICY, channel=ChannelPolicy(require="both")))
    verdict = run("talk", given(served, policy=policy))["verdict"]
    assert (verdict["exit_code"], missing(verdict["findings"])) == (5, {"report.10"})


# Tampered with -------------------------------------------------------------------------------------------------------


def in_report(change: Callable[[dict[str, Any]], object]) -> Callable[[Passing], None]:
    """Change the report on its way."""

    def tamper(passing: Passing) -> None:
        if passing.path.startswith("/v1/aci/attestation"):
            value = jcs.parse(passing.body)
            change(value)
            passing.body = jcs.canonical(value)

    return tamper


def other_keyset(report: dict[str, Any]) -> None:
    """A keyset of somebody else, whose digest is right."""
    keyset = report["attestation"]["workload_keyset"]
    keyset["receipt_signing_keys"][0]["public_key"] = "ab" * 32
    report["workload_keyset_digest"] = jcs.digest(keyset)


def in_log(report: dict[str, Any]) -> None:
    """Another compose hash in the event log."""
    log = json.loads(report["attestation"]["evidence"]["event_log"])
    next(one for one in log if one["event"] == "compose-hash")["event_payload"] = "00" * 32
    report["attestation"]["evidence"]["event_log"] = json.dumps(log)


def in_quote(at: int) -> Callable[[dict[str, Any]], None]:
    """One bit of the quote."""

    def change(report: dict[str, Any]) -> None:
        quote = bytearray.fromhex(report["attestation"]["evidence"]["quote"])
        quote[at] ^= 1
        report["attestation"]["evidence"]["quote"] = quote.hex()

    return change


def drop_collateral(report: dict[str, Any]) -> None:
    """No collateral."""
    del report["attestation"]["evidence"]["collateral"]


REPORTS: dict[str, tuple[set[str], Callable[[Passing], None]]] = {
    "another keyset": ({"report.3", "gpu.4", "report.9"}, in_report(other_keyset)),
    "another digest": (
        {"report.1"},
        in_report(lambda report: report.update(workload_keyset_digest="sha256:" + "0" * 64)),
    ),
    "a bit of RTMR3": ({"tdx.4", "report.2"}, in_report(in_quote(520))),
    "a bit of the quoting enclave": ({"tdx.3", "report.2"}, in_report(in_quote(834))),
    "the event log": ({"dstack.2"}, in_report(in_log)),
    "no JSON": ({"report.1"}, lambda passing: _cut(passing, "/v1/aci/attestation")),
    "another manifest": ({"report.8"}, lambda passing: _replace(passing, "/v1/aci/manifest", b"echo-1", b"echo-2")),
}


def _cut(passing: Passing, path: str) -> None:
    if passing.path.startswith(path):
        passing.body = passing.body[:-1]


def _replace(passing: Passing, path: str, old: bytes, new: bytes) -> None:
    if passing.path.startswith(path):
        assert old in passing.body
        passing.body = passing.body.replace(old, new)


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_that_was_changed_fails_at_its_step(run: Run, served: World, relay: Between, name: str) -> None:
    steps, relay.relay.tamper = REPORTS[name]
    verdict = run("talk", given(served, relay.url, policy=None))["verdict"]
    assert failing(verdict["findings"]) == steps
    assert (verdict["verdict"], verdict["exit_code"], verdict["ok"]) == ("failed", 1, False)


def test_an_old_report_is_not_fresh(run: Run, served: World, relay: Between) -> None:
    """Whatever nonce is asked for, the answer is to another one."""
    kept: list[bytes] = []

    def tamper(passing: Passing) -> None:
        if passing.path.startswith("/v1/aci/attestation"):
            kept.append(passing.body)
            passing.body = kept[0]

    relay.relay.tamper = tamper
    first = run("talk", given(served, relay.url, policy=None))["verdict"]
    second = run("talk", given(served, relay.url, policy=None))["verdict"]
    assert not failing(first["findings"])
    assert failing(second["findings"]) == {"report.3", "gpu.4", "report.9"}


def test_a_service_that_serves_something_else_than_at_first_use(run: Run, served: World) -> None:
    policy = {"roots": ["intel"], "trust": "first use", "models": {"manifests": ["sha256:" + "0" * 64]}}
    verdict = run("talk", given(served, policy=policy))["verdict"]
    assert failing(verdict["findings"]) == {"report.8"}


def in_receipt(change: Callable[[dict[str, Any]], object]) -> Callable[[Passing], None]:
    """Change the receipt on its way."""

    def tamper(passing: Passing) -> None:
        if passing.is_receipt:
            value = jcs.parse(passing.body)
            change(value)
            passing.body = jcs.canonical(value)

    return tamper


def body(change: Callable[[bytes], bytes]) -> Callable[[Passing], None]:
    """Change the body of the answer."""

    def tamper(passing: Passing) -> None:
        if passing.is_answer:
            passing.body = change(passing.body)

    return tamper


def header(name: str, value: str | None) -> Callable[[Passing], None]:
    """Change a header of the answer."""

    def tamper(passing: Passing) -> None:
        if passing.is_answer:
            passing.headers.pop(name, None)
            if value is not None:
                passing.headers[name] = value

    return tamper


def lost(passing: Passing) -> None:
    """No receipt is there."""
    if passing.is_receipt:
        passing.status, passing.body = 404, b"{}"


def cut_off(passing: Passing) -> None:
    """The stream ends early."""
    if passing.is_answer:
        passing.body = passing.body[: len(passing.body) // 2]


def elsewhere(passing: Passing) -> None:
    """The page is told to send its request to another place, which it must not."""
    if passing.is_answer:
        passing.status, passing.body = 307, b""
        passing.headers["location"] = "/v1/models"


def event(type: str, digest: str) -> Callable[[dict[str, Any]], None]:
    """Another hash in an event."""

    def change(receipt: dict[str, Any]) -> None:
        next(one for one in receipt["event_log"] if one["type"] == type)["body_hash"] = digest

    return change


LETTER, MORE = b'content":"', b'content":"0'
ANSWERS: dict[str, tuple[set[str], str, Callable[[Passing], None]]] = {
    "a comment in the stream": ({"receipt.5"}, "", body(lambda data: b": hello\n\n" + data)),
    "a sealed letter": ({"receipt.5"}, "isn't what the service", body(lambda data: data.replace(LETTER, MORE, 1))),
    "cut off": ({"receipt.5"}, "", cut_off),
    "sent elsewhere": (set(), "", elsewhere),
    "in clear": (set(), "in clear", header("x-e2ee-applied", "false")),
    "no receipt named": (set(), "no receipt", header("x-receipt-id", None)),
    "another keyset": (set(), "verify again", header("x-aci-keyset-digest", OTHER)),
    "no receipt there": (set(), "can't be had", lost),
    "another signature": ({"receipt.2"}, "", in_receipt(lambda value: value.update(signature="00" * 64))),
    "another request": ({"receipt.2", "receipt.4"}, "", in_receipt(event("request.received", OTHER))),
    "another response": ({"receipt.2", "receipt.5"}, "", in_receipt(event("response.returned", OTHER))),
    "another receipt": ({"receipt.2"}, "another receipt", in_receipt(lambda value: value.update(receipt_id="rcpt-1"))),
    "another time": ({"receipt.2", "receipt.9"}, "", in_receipt(lambda value: value.update(served_at=2**40))),
    "no receipt at all": ({"receipt.1"}, "", in_receipt(lambda value: value.clear())),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_or_receipt_that_was_changed_is_never_good(
    run: Run, served: World, relay: Between, name: str
) -> None:
    steps, problem, relay.relay.tamper = ANSWERS[name]
    found = run("talk", given(served, relay.url))
    answer = found["answer"]
    assert (answer["ok"], answer["consistent"]) == (False, False)
    assert failing(answer["findings"]) >= steps
    if steps:
        assert not failing(answer["findings"]) - steps - {"receipt.6"}
    else:
        assert missing(answer["findings"])
    assert problem in (answer["problem"] or "")
