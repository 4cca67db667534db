"""Attested sessions of an aggregator: what it verified of an upstream, checked against the id that cites it.

Source: Attested Confidential Inference, ``aci/1``, sections 8 and 9.2.
"""

from __future__ import annotations

from typing import Final

from confide.verify.context import Context
from confide.verify.verdict import CheckFailed, Ledger, NotChecked, Steps, bounded
from confide.wire import jcs
from confide.wire.session import Session, parse_session

SESSION: Final = Steps.of(
    "session",
    "Attested session",
    "ACI aci/1, 9.2",
    ("id", "The record is the one that its id names: SHA-256 over its canonical form."),
    ("record and evidence", "It is a session of aci/1, and the evidence inside is the one that its digest names."),
    ("period", "The upstream was verified before the answer, and the verification still counted then."),
    ("channel and claims", "The aggregator names a channel that can be enforced, and claims what the policy demands."),
    ("deep audit", "The evidence of the upstream itself is genuine and wanted, and not only said to be."),
)
MOST_BYTES: Final = 4 << 20


def verify_session(
    ledger: Ledger, context: Context, session_id: str, document: bytes, *, at: int, subject: str = ""
) -> Session | None:
    """Check the record that was fetched for ``session_id``; ``at`` is when the answer was served (Unix seconds).

    What the caller still owes: that a signed receipt cites this id, or that requests are pinned to it. None where a
    step that the policy needs did not pass.
    """
    session: Session | None = None
    with ledger.group(SESSION, subject) as checks:
        checks.need(1, lambda: _check_id(session_id, document))
        session = checks.need(2, lambda: parse_session(document), lambda read: f"the record of {read.upstream_name!r}")
        made = session
        checks.check(3, lambda: _check_period(made, at))
        checks.check(4, lambda: _check_claims(made, context))
        # Formats of upstreams are other services' reports; who has a verifier for one checks the bytes with it.
        checks.skip(5, f"the upstream's evidence ({made.evidence.digest}) was not verified again", required=False)
        _tell(ledger, session_id, made)
    return None if session is None or checks.failed else session


def _check_id(session_id: str, document: bytes) -> None:
    if len(document) > MOST_BYTES:
        raise CheckFailed(f"the record has {len(document)} bytes; at most {MOST_BYTES} are read")
    found = jcs.digest(jcs.parse(document)).removeprefix("sha256:")
    if found != session_id:
        raise CheckFailed(f"found the record {found}, expected {session_id}")


def _check_period(session: Session, at: int) -> str:
    if not session.established_at <= at < session.expires_at:
        period = f"{session.established_at} to {session.expires_at}"
        raise CheckFailed(f"found a session that counts from {period}, expected one for {at}")
    return f"counts until {session.expires_at}"


def _check_claims(session: Session, context: Context) -> str:
    """A claim that is refuted or from a source that doesn't count fails; one that nobody makes is missing."""
    if not session.bindings():
        raise CheckFailed("found no channel binding of a known kind, expected at least one")
    wrong, unknown = [], []
    for name, sources in context.policy.sessions.claims.items():
        claim = session.claim(name)
        if claim.status == "unknown":
            unknown.append(name)
        elif claim.status != "asserted" or claim.source not in sources:
            wrong.append(f"found {name} {claim.status} ({claim.source}), expected asserted ({', '.join(sources)})")
    if wrong:
        raise CheckFailed("; ".join(wrong))
    if unknown:
        required = context.policy.sessions.required
        raise NotChecked(f"the session says nothing about {', '.join(unknown)}", required=required)
    return ", ".join(context.policy.sessions.claims) or "the policy demands no claim"


def _tell(ledger: Ledger, session_id: str, session: Session) -> None:
    told = ledger.facts.setdefault("sessions", {})
    told[session_id] = {
        "upstream_name": bounded(session.upstream_name),
        "endpoint": None if session.endpoint is None else bounded(session.endpoint),
        "verifier_id": bounded(session.verifier_id),
        "evidence": session.evidence.digest,
    }
