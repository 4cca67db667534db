"""Receipts: each step broken alone, single-field mutations, aggregators, and the published vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from confide.verify.policy import ModelsPolicy, Policy, ReceiptsPolicy, SessionsPolicy
from confide.verify.receipt import MOST_BYTES, MOST_SESSIONS, verify_receipt
from confide.verify.saved import Established
from confide.verify.verdict import Ledger
from confide.wire import jcs
from confide.wire.aci import PublicKey, parse_keyset
from confide.wire.receipt import Receipt, RequestForwarded, ResponseAborted, UpstreamVerified
from tests.vectors.loading import VECTORS, load
from tests.verify.making import (
    MANIFEST,
    MODEL,
    NOW,
    REQUEST,
    RESPONSE,
    failing,
    made_identity,
    made_policy,
    made_receipt,
    made_report,
    made_session,
    made_upstream,
    missing,
    unmade,
)

PUBLISHED: Any = load(VECTORS / "aci" / "published.json")
ASKED, ANSWERED = jcs.sha256(REQUEST), jcs.sha256(RESPONSE)
DIRECT = made_report().established()
AGGREGATOR = made_report(serving="aggregator").established()


def check(
    receipt: bytes,
    *,
    established: Established = DIRECT,
    asked: str | None = ASKED,
    answered: str | None = ANSWERED,
    model: str | None = MODEL,
    sessions: Mapping[str, bytes] | None = None,
    policy: Policy | None = None,
    now: int = NOW,
) -> tuple[Receipt | None, Ledger]:
    ledger = Ledger()
    context = made_report().context(policy, now=now)
    read = verify_receipt(
        ledger,
        context,
        established,
        receipt,
        request_digest=asked,
        response_digest=answered,
        model=model,
        sessions=sessions,
        subject="exchange 1",
    )
    return read, ledger


def forwarded(*upstreams: UpstreamVerified) -> bytes:
    return made_receipt(forwarded=REQUEST, upstreams=upstreams)


def served(*upstreams: UpstreamVerified, policy: SessionsPolicy | None = None) -> tuple[Receipt | None, Ledger]:
    return check(
        forwarded(*upstreams),
        established=AGGREGATOR,
        sessions={SESSION.id(): SESSION.document()},
        policy=made_policy(sessions=policy or SessionsPolicy()),
    )


def unsigned_by(**members: Any) -> bytes:
    return jcs.canonical(jcs.parse(made_receipt()) | members)


def other_kind() -> Established:
    keyset = DIRECT.keyset
    assert keyset is not None
    (key,) = keyset.receipt_signing_keys
    other = msgspec.structs.replace(
        keyset, receipt_signing_keys=(PublicKey(key_id=key.key_id, algo="ml-dsa", public_key=key.public_key),)
    )
    return Established(keyset=other, keyset_digest=DIRECT.keyset_digest)


SESSION = made_session()
FAILED = UpstreamVerified(result="failed", required=True, model_id="m", reason="no quote")
LATER = made_identity(not_after=NOW + 86400)
BREAKS: dict[str, tuple[str, Callable[[], tuple[Receipt | None, Ledger]]]] = {
    "no JSON": ("receipt.1", lambda: check(b"{")),
    "too long": ("receipt.1", lambda: check(made_receipt() + b" " * MOST_BYTES)),
    "unknown member": ("receipt.1", lambda: check(unsigned_by(more=1))),
    "other version": ("receipt.1", lambda: check(unsigned_by(api_version="aci/2"))),
    "no events": ("receipt.1", lambda: check(unsigned_by(event_log=[]))),
    "no signature": ("receipt.1", lambda: check(unsigned_by(signature=""))),
    "other signature": ("receipt.2", lambda: check(unsigned_by(signature="00" * 64))),
    "other member": ("receipt.2", lambda: check(unsigned_by(receipt_id="rcpt-2"))),
    "other key": ("receipt.2", lambda: check(unsigned_by(key_id="nobody's"))),
    "unknown algorithm": ("receipt.2", lambda: check(made_receipt(), established=other_kind())),
    "other request": ("receipt.4", lambda: check(made_receipt(), asked=jcs.sha256(b""))),
    "other response": ("receipt.5", lambda: check(made_receipt(), answered=jcs.sha256(RESPONSE[:-1]))),
    "rewritten": ("receipt.6", lambda: check(made_receipt(forwarded=b"{}"))),
    "other model": ("receipt.7", lambda: check(made_receipt(), model="another")),
    "other manifest": ("receipt.7", lambda: check(made_receipt(manifest_digest="sha256:" + "0" * 64))),
    "upstream of a direct service": ("receipt.8", lambda: check(forwarded(made_upstream(SESSION)))),
    "unverified upstream": ("receipt.8", lambda: served(FAILED)),
    "unverified in the end": ("receipt.8", lambda: served(made_upstream(SESSION), FAILED)),
    "verification not required": ("receipt.8", lambda: served(made_upstream(SESSION, required=False))),
    "too many sessions": ("receipt.8", lambda: served(*(made_upstream(f"{n:064x}") for n in range(MOST_SESSIONS + 1)))),
    "in the future": ("receipt.9", lambda: check(made_receipt(served_at=NOW + 301))),
    "after the keyset": ("receipt.9", lambda: check(made_receipt(served_at=NOW + 7 * 86400), now=NOW + 8 * 86400)),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS, ids=lambda name: f"{BREAKS[name][0]} {name}")
def test_each_broken_step_is_the_one_that_fails(name: str) -> None:
    step, run = BREAKS[name]
    read, ledger = run()
    assert (read, failing(ledger)) == (None, {step})
    assert step == "receipt.1" or not missing(ledger)


def test_receipt_3_of_another_keyset_with_the_same_key() -> None:
    """The keyset changed and the receipt key did not."""
    _, ledger = check(made_receipt(LATER), established=DIRECT)
    assert failing(ledger) == {"receipt.3"}


def test_a_good_receipt_passes_every_step_but_the_upstream() -> None:
    read, ledger = check(made_receipt(forwarded=REQUEST))
    assert read is not None
    assert (failing(ledger), missing(ledger), unmade(ledger)) == (set(), set(), {"receipt.8"})
    assert {finding.subject for finding in ledger.findings} == {"exchange 1"}


def test_any_spelling_of_the_receipt_is_the_receipt() -> None:
    assert check(made_receipt().replace(b",", b" ,\n"))[0] is not None


@pytest.mark.parametrize(("given", "step"), [({"asked": None}, "receipt.4"), ({"answered": None}, "receipt.5")])
def test_bytes_that_are_not_at_hand_are_missing(given: dict[str, Any], step: str) -> None:
    read, ledger = check(made_receipt(), **given)
    assert (read, failing(ledger), missing(ledger)) == (None, set(), {step})


def test_a_service_without_a_keyset_signs_no_receipts() -> None:
    _, ledger = check(made_receipt(manifest_digest=None), established=Established())
    assert (failing(ledger), missing(ledger)) == (set(), {"receipt.2", "receipt.3"})


def test_an_answer_that_ended_early_is_told() -> None:
    _, ledger = check(made_receipt(more=[ResponseAborted(reason="client_closed")]))
    (finding,) = [one for one in ledger.findings if one.step == "receipt.5"]
    assert finding.outcome == "pass"
    assert "ended early (client_closed)" in finding.detail


def test_a_rewrite_that_the_policy_tolerates() -> None:
    _, ledger = check(made_receipt(forwarded=b"{}"), policy=made_policy(receipts=ReceiptsPolicy(rewritten=True)))
    assert not failing(ledger) | missing(ledger)


def test_a_receipt_without_the_manifest_that_the_keyset_names() -> None:
    _, ledger = check(made_receipt(manifest_digest=None))
    assert (failing(ledger), missing(ledger)) == (set(), {"receipt.7"})
    _, ledger = check(made_receipt(manifest_digest=None), policy=made_policy(models=ModelsPolicy()))
    assert (failing(ledger), missing(ledger)) == (set(), set())


def test_a_manifest_that_the_keyset_does_not_name_is_no_manifest() -> None:
    identity = made_identity(None)
    established = Established(keyset=identity.keyset, keyset_digest=identity.digest)
    _, ledger = check(made_receipt(identity), established=established)
    assert failing(ledger) == {"receipt.7"}


@pytest.mark.parametrize(("model", "said"), [(MODEL, "which"), ("small", "which"), ("large", "NOT one that")])
def test_whether_the_manifest_lists_the_model_is_told(model: str, said: str) -> None:
    _, ledger = check(made_receipt(model=model), model=None)
    (finding,) = [one for one in ledger.findings if one.step == "receipt.7"]
    assert finding.detail == f"model {model!r}, {said} the manifest lists"
    assert DIRECT.manifest == MANIFEST


# Aggregators ---------------------------------------------------------------------------------------------------------


def test_a_session_that_verifies_satisfies_the_step() -> None:
    read, ledger = served(made_upstream(SESSION))
    assert read is not None
    assert not failing(ledger) | missing(ledger)
    assert ledger.passed("receipt.8", "session.1", "session.2", "session.3", "session.4")


def test_an_attempt_that_failed_before_the_one_that_served_is_fine() -> None:
    assert served(FAILED, made_upstream(SESSION))[0] is not None


@pytest.mark.parametrize("broken", ["session.1", "session.2", "session.3", "session.4"])
def test_a_session_that_does_not_verify_fails_the_receipt_too(broken: str) -> None:
    early = made_session(period=(NOW - 100, NOW - 10))
    unbound = made_session(bound=False)
    odd = jcs.canonical(jcs.parse(SESSION.document()) | {"more": 1})
    name, document = {
        "session.1": (SESSION.id(), early.document()),
        "session.2": (jcs.digest(jcs.parse(odd)).removeprefix("sha256:"), odd),
        "session.3": (early.id(), early.document()),
        "session.4": (unbound.id(), unbound.document()),
    }[broken]
    receipt = forwarded(made_upstream(name))
    read, ledger = check(receipt, established=AGGREGATOR, sessions={name: document})
    assert (read, failing(ledger)) == (None, {broken, "receipt.8"})


def test_a_session_that_says_too_little_leaves_the_receipt_unproven() -> None:
    silent = made_session(claims={})
    receipt = forwarded(made_upstream(silent))
    _, ledger = check(receipt, established=AGGREGATOR, sessions={silent.id(): silent.document()})
    assert (failing(ledger), missing(ledger)) == (set(), {"session.4", "receipt.8"})


def test_a_session_that_is_not_at_hand_is_missing() -> None:
    for receipt in (forwarded(made_upstream(SESSION)), forwarded()):
        read, ledger = check(receipt, established=AGGREGATOR)
        assert (read, failing(ledger), missing(ledger)) == (None, set(), {"receipt.8"})
        policy = made_policy(sessions=SessionsPolicy(required=False))
        read, ledger = check(receipt, established=AGGREGATOR, policy=policy)
        assert (read is not None, failing(ledger), missing(ledger)) == (True, set(), set())


def test_serving_unverified_may_be_tolerated() -> None:
    free = SessionsPolicy(required=False)
    for upstream in (FAILED, made_upstream(SESSION, required=False)):
        read, ledger = served(upstream, policy=free)
        assert (read is not None, failing(ledger), missing(ledger)) == (True, set(), set())


def test_a_refusal_has_no_upstream_that_could_be_verified() -> None:
    read, ledger = check(made_receipt(upstreams=(FAILED,)), established=AGGREGATOR)
    assert (read is not None, failing(ledger), missing(ledger)) == (True, set(), set())
    assert not any(isinstance(event, RequestForwarded) for event in read.facts.events) if read else False


# Vectors and mutations -----------------------------------------------------------------------------------------------


def published() -> tuple[bytes, Established, dict[str, Any]]:
    keyset = parse_keyset(PUBLISHED["keyset"]["canonical"].encode())
    established = Established(keyset=keyset, keyset_digest=PUBLISHED["keyset"]["digest"], serving="direct")
    receipt = PUBLISHED["receipt"]
    given = {"asked": receipt["request_hash"], "answered": receipt["response_hash"], "model": "demo-model"}
    return receipt["document"].encode(), established, given


def test_the_published_vector() -> None:
    document, established, given = published()
    value = jcs.parse(document)
    cited = [event for event in value["event_log"] if event["type"] == "upstream.verified"]
    serving = "aggregator" if cited else "direct"
    sessions = {PUBLISHED["session"]["id"]: PUBLISHED["session"]["canonical"].encode()}
    established = Established(established.keyset, established.keyset_digest, serving=serving)
    policy = made_policy(receipts=ReceiptsPolicy(rewritten=True))
    _, ledger = check(document, established=established, sessions=sessions, policy=policy, **given)
    assert not failing(ledger)
    assert missing(ledger) <= {"session.4"}
    assert ledger.passed("receipt.1", "receipt.2", "receipt.3", "receipt.4", "receipt.5", "receipt.9")


def test_every_changed_byte_of_the_published_vector_is_refused() -> None:
    document, established, given = published()
    tried = 0
    for place in range(len(document)):
        for flip in (0x01, 0x20, 0x80):
            changed = document[:place] + bytes([document[place] ^ flip]) + document[place + 1 :]
            read, ledger = check(changed, established=established, **given)
            assert read is None
            assert failing(ledger) & {"receipt.1", "receipt.2"}
            tried += 1
    print(f"receipt: {tried} mutations tried, 0 accepted")


def test_every_changed_member_is_refused_by_the_signature() -> None:
    def variants(value: Any) -> list[Any]:
        if isinstance(value, dict):
            gone = [{n: m for n, m in value.items() if n != name} for name in value]
            return gone + [value | {name: one} for name in value for one in variants(value[name])]
        if isinstance(value, list):
            gone = [value[:n] + value[n + 1 :] for n in range(len(value))]
            return gone + [[*value[:n], one, *value[n + 1 :]] for n in range(len(value)) for one in variants(value[n])]
        return [None, 0, "", str(value) + "0", value + 1 if isinstance(value, int) else value[::-1]]

    original = jcs.parse(made_receipt(forwarded=REQUEST))
    tried = 0
    for value in variants(original):
        if value == original:
            continue
        _, ledger = check(jcs.canonical(value))
        assert failing(ledger) & {"receipt.1", "receipt.2"}
        tried += 1
    print(f"receipt members: {tried} mutations tried, 0 accepted")
