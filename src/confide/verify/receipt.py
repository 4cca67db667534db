"""Receipts: what an attested service signed about one request, checked against the bytes that were sent and received.

Source: Attested Confidential Inference, ``aci/1``, sections 7 and 9.3. ``served_at`` is the service's own word
(section 11): it catches an honest service's mistake and proves no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from confide.verify.context import Context
from confide.verify.saved import Established
from confide.verify.session import verify_session
from confide.verify.summary import stands
from confide.verify.verdict import CheckFailed, Ledger, NotChecked, Steps
from confide.wire.aci import Keyset, subject_manifest
from confide.wire.manifest import Manifest
from confide.wire.receipt import (
    ModelManifest,
    Receipt,
    RequestForwarded,
    ResponseAborted,
    UpstreamVerified,
    parse_receipt,
)

RECEIPT: Final = Steps.of(
    "receipt",
    "Receipt",
    "ACI aci/1, 9.3",
    ("well-formed", "It is a receipt of aci/1 and tells one exchange."),
    ("signature", "A receipt key of the established keyset signed all of it."),
    ("keyset", "It names the established keyset."),
    ("request", "The service processed exactly the bytes that were sent."),
    ("response", "The service wrote exactly the bytes that were received."),
    ("rewrite", "Inference used the request as it was received, or the policy tolerates another."),
    ("model", "It is for the model that was asked for, from the models that the quote binds."),
    ("upstream", "Behind an aggregator, a verified upstream served it, in a session that was valid then."),
    ("time", "It was served while the keyset counted, and not in the future."),
)
MOST_BYTES: Final = 256 * 1024
MOST_SESSIONS: Final = 8
CLOCK_SKEW: Final = 300
"""Seconds by which the service's clock may be ahead."""


def verify_receipt(
    ledger: Ledger,
    context: Context,
    established: Established,
    receipt: bytes,
    *,
    request_digest: str | None,
    response_digest: str | None,
    model: str | None = None,
    sessions: Mapping[str, bytes] | None = None,
    subject: str = "",
) -> Receipt | None:
    """Check a receipt under the keyset that a report established.

    Args:
        ledger: takes the findings.
        context: the policy and the time.
        established: whose receipt it must be.
        receipt: the document, in any JSON encoding.
        request_digest: ``sha256:`` and hex of the body that was sent, or that sealing restores; None if not at hand.
        response_digest: the same of the body as it came off the wire, framing of a stream included.
        model: the model that was asked for, where that is known.
        sessions: documents of sessions by id, for what an aggregator's receipt cites.
        subject: which exchange this is.

    Returns:
        The receipt, or None where a step that the policy needs did not pass.
    """
    read: Receipt | None = None
    with ledger.group(RECEIPT, subject) as checks:
        read = checks.need(1, lambda: _read(receipt), lambda read: f"the receipt {read.facts.receipt_id}")
        made = read
        checks.check(2, lambda: _check_signature(made, _keyset(established)))
        checks.check(3, lambda: _check_keyset(made, established))
        checks.check(4, lambda: _check_digest("request", made.request_hash(), request_digest))
        checks.check(5, lambda: _check_response(made, response_digest))
        checks.check(6, lambda: _check_rewrite(made, context))
        checks.check(7, lambda: _check_model(made, established, model, context))
        checks.check(8, lambda: _check_upstream(ledger, context, made, established, sessions or {}, subject))
        checks.check(9, lambda: _check_time(made, established, context))
    return None if read is None or checks.failed else read


def _read(receipt: bytes) -> Receipt:
    if len(receipt) > MOST_BYTES:
        raise CheckFailed(f"the receipt has {len(receipt)} bytes; at most {MOST_BYTES} are read")
    return parse_receipt(receipt)


def _keyset(established: Established) -> Keyset:
    if established.keyset is None:
        raise NotChecked("the service has no keyset, under which receipts are signed")
    return established.keyset


def _check_signature(receipt: Receipt, keyset: Keyset) -> str:
    """The key decides the algorithm; one that isn't known is refused by the keyset itself."""
    public_key = keyset.receipt_key(receipt.key_id)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(receipt.signature, receipt.signed_bytes)
    except (InvalidSignature, ValueError):
        raise CheckFailed(f"the signature is not that of the key {receipt.key_id!r} over this receipt") from None
    return f"signed by {receipt.key_id}"


def _check_keyset(receipt: Receipt, established: Established) -> None:
    _keyset(established)
    if receipt.workload_keyset_digest != established.keyset_digest:
        raise CheckFailed(f"found {receipt.workload_keyset_digest}, expected {established.keyset_digest}")


def _check_digest(what: str, signed: str, own: str | None) -> None:
    if own is None:
        raise NotChecked(f"the bytes of the {what} are not at hand")
    if signed != own:
        raise CheckFailed(f"the receipt is for a {what} with {signed}, and the one at hand has {own}")


def _check_response(receipt: Receipt, own: str | None) -> str:
    _check_digest("response", receipt.response_hash(), own)
    reasons = [event.reason for event in receipt.facts.events if isinstance(event, ResponseAborted)]
    return f"the answer ended early ({reasons[0]}); these are the bytes until then" if reasons else ""


def _check_rewrite(receipt: Receipt, context: Context) -> str:
    forwarded = [event.body_hash for event in receipt.facts.events if isinstance(event, RequestForwarded)]
    if not forwarded:
        return "the receipt tells of no forwarding"
    if forwarded[0] == receipt.request_hash():
        return "forwarded as it was received"
    if not context.policy.receipts.rewritten:
        raise CheckFailed(f"found {forwarded[0]} forwarded, expected {receipt.request_hash()} as received")
    return "it was rewritten, which the policy tolerates"


def _check_model(receipt: Receipt, established: Established, model: str | None, context: Context) -> str:
    if model is not None and receipt.facts.model != model:
        raise CheckFailed(f"found a receipt for the model {receipt.facts.model!r}, expected {model!r}")
    bound = None if established.keyset is None else subject_manifest(established.keyset.subject)
    named = [event.digest for event in receipt.facts.events if isinstance(event, ModelManifest)]
    for digest in named:
        if digest != bound:
            raise CheckFailed(f"found the manifest {digest}, expected {bound or 'none, as the keyset names none'}")
    if bound is not None and not named:
        raise NotChecked(f"names no manifest, and the keyset {bound}", required=bool(context.policy.models.manifests))
    return _said_of_model(receipt.facts.model, established.manifest, bound)


def _said_of_model(model: str | None, manifest: Manifest | None, bound: str | None) -> str:
    name = "no model" if model is None else f"model {model!r}"
    if bound is None:
        return f"{name}; no manifest says what that is"
    if manifest is None:
        return f"{name}, of the manifest {bound}"
    listed = any(entry.id == model or model in entry.aliases for entry in manifest.models)
    return f"{name}, {'which' if listed else 'NOT one that'} the manifest lists"


def _check_upstream(
    ledger: Ledger,
    context: Context,
    receipt: Receipt,
    established: Established,
    sessions: Mapping[str, bytes],
    subject: str,
) -> str:
    events = [event for event in receipt.facts.events if isinstance(event, UpstreamVerified)]
    if established.serving == "direct":
        if events:
            raise CheckFailed("found an upstream in the receipt of a service that says it serves directly")
        raise NotChecked("a direct service has no upstream", required=False)
    policy = context.policy.sessions
    if not events:
        raise NotChecked("an aggregator's receipt that tells of no upstream", required=policy.required)
    _check_outcome(receipt, events[-1], required=policy.required)
    cited = {event.session_id for event in events if isinstance(event.session_id, str)}
    if len(cited) > MOST_SESSIONS:
        raise CheckFailed(f"the receipt cites {len(cited)} sessions; at most {MOST_SESSIONS} are read")
    for session_id in sorted(cited):
        if session_id not in sessions:
            raise NotChecked(f"the session {session_id} is not at hand", required=policy.required)
        before, where = len(ledger.findings), f"{subject} session {session_id[:16]}".strip()
        verify_session(ledger, context, session_id, sessions[session_id], at=receipt.facts.served_at, subject=where)
        stands(ledger.findings[before:], f"the session {session_id[:16]}", required=policy.required)
    return f"served in the session {', '.join(sorted(cited))}"


def _check_outcome(receipt: Receipt, last: UpstreamVerified, *, required: bool) -> None:
    """The last attempt is the one that served. A refusal says that it failed, and that nothing was forwarded."""
    if last.result == "failed":
        if not any(isinstance(event, RequestForwarded) for event in receipt.facts.events):
            raise NotChecked(f"refused and not forwarded: {last.reason}", required=False)
        if not required:
            raise NotChecked(f"served unverified, which the policy tolerates: {last.reason}", required=False)
        raise CheckFailed(f"served by an upstream that was not verified: {last.reason}")
    if required and not last.required:
        raise CheckFailed("verification of the upstream was not required for this request, and the policy requires it")


def _check_time(receipt: Receipt, established: Established, context: Context) -> str:
    served = receipt.facts.served_at
    if served > context.now + CLOCK_SKEW:
        raise CheckFailed(f"served at {served}, which is {served - context.now} seconds from now")
    keyset = established.keyset
    if keyset is not None and served >= keyset.not_after:
        raise CheckFailed(f"served at {served}, and the keyset counted until {keyset.not_after}")
    return f"served at {served}, as the service says"
