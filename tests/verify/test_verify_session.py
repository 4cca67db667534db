"""Sessions of an aggregator: each step broken alone, single-field mutations, and the published vector."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from confide.verify.policy import SessionsPolicy
from confide.verify.session import MOST_BYTES, SESSION, verify_session
from confide.verify.verdict import Ledger
from confide.wire import jcs
from confide.wire.session import Claim, Session
from tests.vectors.loading import VECTORS, load
from tests.verify.making import NOW, failing, made_policy, made_report, made_session, missing

PUBLISHED: Any = load(VECTORS / "aci" / "published.json")["session"]


def check(
    document: bytes, session_id: str | None = None, *, at: int = NOW, policy: SessionsPolicy | None = None
) -> tuple[Session | None, Ledger]:
    ledger = Ledger()
    context = made_report().context(made_policy(sessions=policy or SessionsPolicy()))
    name = jcs.digest(jcs.parse(document)).removeprefix("sha256:") if session_id is None else session_id
    return verify_session(ledger, context, name, document, at=at), ledger


def with_claims(**claims: Claim) -> bytes:
    return made_session(claims=claims).document()


def changed(**members: Any) -> bytes:
    value = jcs.parse(made_session().document())
    return jcs.canonical(value | members)


REFUTED = Claim(status="refuted", source="hardware_proven", reason="no")
SAID = Claim(status="asserted", source="provider_asserted", reason="they say so")
BREAKS: dict[str, tuple[str, Callable[[], tuple[Session | None, Ledger]]]] = {
    "another id": ("session.1", lambda: check(made_session().document(), "ab" * 32)),
    "upper case": ("session.1", lambda: check(made_session().document(), made_session().id().upper())),
    "no JSON": ("session.1", lambda: check(b"{", made_session().id())),
    "too long": ("session.1", lambda: check(made_session().document() + b" " * MOST_BYTES, made_session().id())),
    "other version": ("session.2", lambda: check(changed(api_version="aci/2"))),
    "other evidence": (
        "session.2",
        lambda: check(changed(evidence={"digest": "sha256:" + "0" * 64, "data": "data:a;base64,"})),
    ),
    "empty evidence": ("session.2", lambda: check(changed(evidence={}))),
    "unknown member": ("session.2", lambda: check(changed(more=1))),
    "not an object": ("session.2", lambda: check(b"[]")),
    "too early": ("session.3", lambda: check(made_session().document(), at=NOW - 61)),
    "too late": ("session.3", lambda: check(made_session().document(), at=NOW + 3600)),
    "no channel": ("session.4", lambda: check(made_session(bound=False).document())),
    "unknown channel": ("session.4", lambda: check(changed(channel_binding=[{"type": "new"}]))),
    "refuted": ("session.4", lambda: check(with_claims(tee_attested=REFUTED))),
    "other source": ("session.4", lambda: check(with_claims(tee_attested=SAID))),
}


@pytest.mark.parametrize("name", BREAKS, ids=lambda name: f"{BREAKS[name][0]} {name}")
def test_each_broken_step_is_the_one_that_fails(name: str) -> None:
    step, run = BREAKS[name]
    session, ledger = run()
    assert (session, failing(ledger)) == (None, {step})
    assert missing(ledger) <= {one.id for one in SESSION.steps if one.id > step}


def test_a_good_session_passes_and_its_evidence_is_not_called_verified_session_5() -> None:
    session, ledger = check(made_session().document())
    assert session == made_session()
    assert {f.step: (f.outcome, f.required) for f in ledger.findings}["session.5"] == ("not checked", False)
    assert not failing(ledger) | missing(ledger)
    assert ledger.facts["sessions"][made_session().id()]["upstream_name"] == "upstream"


def test_any_spelling_of_the_record_is_the_record() -> None:
    pretty = json.dumps(jcs.parse(made_session().document()), indent=2).encode()
    assert check(pretty, made_session().id())[0] == made_session()


def test_a_claim_that_nobody_makes_is_missing_and_not_failed() -> None:
    _, ledger = check(with_claims())
    assert (failing(ledger), missing(ledger)) == (set(), {"session.4"})
    session, ledger = check(with_claims(), policy=SessionsPolicy(required=False))
    assert session is not None
    assert not missing(ledger)


def test_all_wrong_claims_are_told() -> None:
    wanted = SessionsPolicy(claims={"tee_attested": ("hardware_proven",), "gpu_attested": ("verifier_derived",)})
    _, ledger = check(with_claims(tee_attested=SAID, gpu_attested=REFUTED), policy=wanted)
    (finding,) = [one for one in ledger.findings if one.step == "session.4"]
    assert "tee_attested asserted (provider_asserted)" in finding.detail
    assert "gpu_attested refuted (hardware_proven)" in finding.detail


def test_the_published_vector() -> None:
    document = PUBLISHED["canonical"].encode()
    session, ledger = check(document, PUBLISHED["id"], at=jcs.parse(document)["established_at"])
    assert session is not None
    assert session.evidence.digest == PUBLISHED["evidence_digest"]
    assert not failing(ledger) | missing(ledger)


def test_every_changed_byte_of_the_published_vector_is_refused() -> None:
    document, tried = PUBLISHED["canonical"].encode(), 0
    at = jcs.parse(document)["established_at"]
    for place in range(len(document)):
        for flip in (0x01, 0x20, 0x80):
            changed_one = document[:place] + bytes([document[place] ^ flip]) + document[place + 1 :]
            session, ledger = check(changed_one, PUBLISHED["id"], at=at)
            assert (session, failing(ledger)) == (None, {"session.1"})
            tried += 1
    print(f"session: {tried} mutations tried, 0 accepted")
