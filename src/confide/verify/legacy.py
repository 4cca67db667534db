"""Reports and signatures of the surface that came before ``aci/1``: one quote for one signing address, hashes signed.

Source: public code of the servers vllm-proxy (Dstack-TEE/vllm-proxy at 37726e5, ``src/app/quote/quote.py`` and
``src/app/api/v1/openai.py``) and inference-proxy (nearai/inference-proxy at a9082da, ``src/attestation.rs``,
``src/signing.rs``); EIP-191 and RFC 8032 for the signatures.

What the format cannot show, whatever passes: the GPUs are tied to this CPU by the nonce only, so a genuine GPU
elsewhere may have answered; the signed text has no time, and its model is the server's own word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import UNSET, Struct

from confide.errors import ConfideError
from confide.verify.context import Context
from confide.verify.demands import Held, check_age, check_channel, check_gpus, check_workload
from confide.verify.dstack import DstackFacts, verify_dstack
from confide.verify.flat import Claimed, Layout, Shown, layout_of, read_claimed, read_shown
from confide.verify.policy import DstackPolicy
from confide.verify.saved import Channel, Established, SavedReport, Signer
from confide.verify.summary import stands
from confide.verify.tdx import verify_tdx
from confide.verify.verdict import CheckFailed, Checks, Ledger, NotChecked, Outcome, Steps, bounded
from confide.wire import jcs, legacy, secp256k1
from confide.wire.legacy import Algorithm, SignatureText
from confide.wire.tdx import TdReport

LEGACY: Final = Steps.of(
    "legacy",
    "Report of the older surface",
    "Dstack-TEE/vllm-proxy and nearai/inference-proxy, report_data",
    ("well-formed", "It is a flat report: an address, an algorithm, a TDX quote and what belongs to them."),
    ("hardware", "The quote is genuine, and the TD is as the policy wants it."),
    ("binding", "The quote commits to exactly this signing address, and to a TLS key where the report names one."),
    ("freshness", "The quote was made after the verifier chose its nonce; the nonce that is echoed proves nothing."),
    ("key", "The public key that requests may be encrypted to belongs to the address in the quote."),
    ("GPUs", "Genuine GPUs answered our nonce. Nothing ties them to this CPU but that nonce."),
    ("dstack", "The TD runs the deployment and the image that its log tells of."),
    ("channel", "The connection ends at a TLS key in the quote, or requests are encrypted to the key of its address."),
    ("workload", "The policy names what may run there, and demands nothing that this format cannot show."),
    ("age", "Saved evidence is not older than the policy allows."),
)
SIGNATURE: Final = Steps.of(
    "signature",
    "Signature of the older surface",
    "Dstack-TEE/vllm-proxy, GET /v1/signature/{id}; EIP-191; RFC 8032",
    ("well-formed", "It is an answer with a text, a signature, an address and an algorithm."),
    ("text", "The text ends with two SHA-256, of a request and of a response."),
    ("signer", "An address that a genuine quote holds signed exactly this text."),
    ("request", "The service processed exactly the bytes that were sent."),
    ("response", "The service wrote exactly the bytes that were received."),
    ("model", "The service says that the model is the one that was asked for. Nothing measures that."),
)
MOST_SIGNATURE: Final = 1 << 20


# Reports -------------------------------------------------------------------------------------------------------------


def verify_flat_report(ledger: Ledger, context: Context, saved: SavedReport) -> Established | None:
    """Check a flat report: the attestation itself, and every other one in its list.

    What the caller still owes: a nonce of its own, 32 random bytes, for each report; a verdict over the whole ledger;
    and from then on the channel that ``saved`` names, and no other.

    Returns:
        The addresses whose signatures count, if the verdict over this ledger is good; None where there are none.
    """
    try:
        claimed = read_claimed(saved.document)
    except ConfideError as wrong:
        _refuse(ledger, wrong)
        return None
    kind = claimed[0].attestation_type
    if kind is not None:
        _refuse_relayed(ledger, kind)
        return None
    return verify_attestations(ledger, context, saved, claimed)


def verify_attestations(
    ledger: Ledger, context: Context, saved: SavedReport, claimed: Sequence[Claimed]
) -> Established | None:
    """Check attestations of one document, which must all pass; the channel must end at one of them."""
    cases = [_case(claim, saved) for claim in claimed]
    held = _held(cases)
    signers = [signer for case in cases if (signer := _verify_one(ledger, context, saved, case, held)) is not None]
    return Established(signers=tuple(dict.fromkeys(signers))) if signers else None


def _refuse(ledger: Ledger, wrong: ConfideError) -> None:
    """Record that a document is none of this surface."""

    def fail() -> None:
        raise wrong

    with ledger.group(LEGACY) as checks:
        checks.need(1, fail)


def _refuse_relayed(ledger: Ledger, kind: str) -> None:
    """What a gateway passes on from elsewhere was made for a nonce of the gateway's, or for none."""
    with ledger.group(LEGACY, bounded(kind)) as checks:
        reason = f"answers of the type {kind!r} are not verified"
        for number in (1, 2, 3):
            checks.skip(number, reason)
        checks.check(4, lambda: _stale(kind))


def _stale(kind: str) -> None:
    raise CheckFailed(
        "found an answer for which the gateway and not the client chooses the nonce, expected evidence for our nonce; "
        f"its type is {kind!r}"
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """One attestation to verify: what was read of it, or why it could not be, and the layout if its quote shows one."""

    claim: Claimed
    shown: Shown | ConfideError
    layout: Layout | None = None

    def read(self) -> Shown:
        if isinstance(self.shown, ConfideError):
            raise self.shown
        return self.shown


def _case(claim: Claimed, saved: SavedReport) -> _Case:
    try:
        shown = read_shown(claim)
    except ConfideError as wrong:
        return _Case(claim, wrong)
    try:
        return _Case(claim, shown, layout_of(shown, shown.parsed().report.report_data, _seen_tls(saved)))
    except ConfideError:
        return _Case(claim, shown)


def _held(cases: Sequence[_Case]) -> Held:
    """What the document claims to bind. It counts because all its attestations must pass, each with its own binding."""
    bound = [(case.read(), case.layout) for case in cases if case.layout is not None]
    tls = frozenset(layout.tls for _, layout in bound if layout.tls is not None)
    return Held(tls, lambda key: any(shown.holds(key) for shown, _ in bound))


def _seen_tls(saved: SavedReport) -> str | None:
    return None if saved.channel is None else saved.channel.tls_spki_sha256


def _verify_one(ledger: Ledger, context: Context, saved: SavedReport, case: _Case, held: Held) -> Signer | None:
    before, subject = len(ledger.findings), case.claim.subject
    signer: Signer | None = None
    with ledger.group(LEGACY, subject) as checks:
        shown = checks.need(1, case.read, lambda read: f"signs with {read.report.signing_algo}")
        td = _check_cpu(checks, ledger, context, shown)
        if td is None:
            return None
        layout = checks.need(3, lambda: _check_binding(shown, td, saved), lambda found: found.name)
        checks.check(4, lambda: _check_nonce(shown, td, saved))
        checks.check(5, shown.check_key)
        _check_gpus(checks, ledger, context, shown, saved)
        dstack = _check_dstack(checks, ledger, context, shown, td)
        checks.check(8, lambda: _check_channel(context, saved.channel, (shown, layout), held))
        checks.check(9, lambda: check_workload(context.policy, "tdx", dstack))
        checks.check(10, lambda: check_age(context, saved))
        signer = Signer(shown.report.signing_algo, shown.address)
        ledger.facts.setdefault("attestations", []).append(_facts(shown, layout, dstack))
    failed = any(finding.outcome is Outcome.FAIL for finding in ledger.findings[before:])
    return None if failed else signer


def _check_cpu(checks: Checks, ledger: Ledger, context: Context, shown: Shown) -> TdReport | None:
    """The report of a TD that is genuine, whether it is wanted or not."""
    before = len(ledger.findings)
    evidence = verify_tdx(ledger, context, shown.quote, subject=shown.claim.subject)
    findings = ledger.findings[before:]
    checks.check(2, lambda: stands(findings, "the quote"))
    return None if evidence is None else evidence.report


def _check_binding(shown: Shown, td: TdReport, saved: SavedReport) -> Layout:
    if shown.report_data not in (None, td.report_data):
        raise CheckFailed(f"report_data says {shown.report_data!r}, and the quote holds {td.report_data.hex()}")
    return layout_of(shown, td.report_data, _seen_tls(saved))


def _nonce(saved: SavedReport) -> bytes:
    if saved.nonce is None:
        raise NotChecked("the verifier sent no nonce, so that this report may be old")
    return legacy.parse_nonce(saved.nonce)


def _check_nonce(shown: Shown, td: TdReport, saved: SavedReport) -> None:
    nonce, found = _nonce(saved), td.report_data[32:]
    if found != nonce:
        raise CheckFailed(f"the quote was made for the nonce {found.hex()}, expected {nonce.hex()}")
    echoed = shown.report.request_nonce
    if echoed is not UNSET and echoed.lower() != nonce.hex():
        raise CheckFailed(f"request_nonce is {echoed!r}, and the quote was made for {nonce.hex()}")


def _check_gpus(checks: Checks, ledger: Ledger, context: Context, shown: Shown, saved: SavedReport) -> None:
    if not shown.claim.has_gpus:
        checks.skip(6, "a gateway has no GPUs; the machines behind it do", required=False)
        return
    required = context.policy.gpu.required
    if saved.nonce is None:
        checks.skip(6, "the verifier sent no nonce for GPUs to sign", required=required)
        return
    checks.check(6, lambda: _made_gpus(ledger, context, shown, _nonce(saved)))


def _made_gpus(ledger: Ledger, context: Context, shown: Shown, nonce: bytes) -> str:
    return check_gpus(ledger, context, shown.gpus(nonce), nonce, subject=shown.claim.subject)


def _check_dstack(checks: Checks, ledger: Ledger, context: Context, shown: Shown, td: TdReport) -> DstackFacts | None:
    """A TD that shows no log is no dstack guest, which is fine where the policy asks for nothing of dstack's."""
    given, is_wanted = shown.dstack(), context.policy.dstack != DstackPolicy()
    if given.event_log is None and given.app_compose is None and not is_wanted:
        checks.skip(7, "it shows nothing of dstack's", required=False)
        return None
    before = len(ledger.findings)
    facts = verify_dstack(
        ledger,
        context,
        td,
        event_log=given.event_log,
        app_compose=given.app_compose,
        vm_config=given.vm_config,
        info=given.info,
        subject=shown.claim.subject,
    )
    findings = ledger.findings[before:]
    checks.check(7, lambda: stands(findings, "dstack's evidence", required=is_wanted))
    return facts


def _check_channel(context: Context, channel: Channel | None, own: tuple[Shown, Layout], held: Held) -> str:
    """The channel ends at one attestation of the document, and is no concern of the others."""
    said = check_channel(context, channel, held)
    if channel is not None and not _ends_at(channel, own):
        raise NotChecked("the channel ends at another attestation of this document", required=False)
    return said


def _ends_at(channel: Channel, own: tuple[Shown, Layout]) -> bool:
    shown, layout = own
    if channel.sealed_to is not None and shown.holds(channel.sealed_to):
        return True
    return layout.tls is not None and layout.tls == channel.tls_spki_sha256


def _facts(shown: Shown, layout: Layout, dstack: DstackFacts | None) -> dict[str, Any]:
    """What is worth showing; values that a server chose freely are bounded."""
    return {
        "signing_address": shown.claim.subject,
        "signing_algo": shown.report.signing_algo,
        "signing_public_key": None if shown.key is None else shown.key.hex(),
        "layout": layout.name,
        "tls_key": layout.tls,
        "model_name": None if shown.model is None else bounded(shown.model),
        "compose_hash": None if dstack is None else dstack.compose_hash,
    }


# Signatures ----------------------------------------------------------------------------------------------------------


class _Answer(Struct, frozen=True):
    text: str
    signature: str
    signing_address: str
    signing_algo: Algorithm

    def signer(self) -> Signer:
        """The address that the answer names."""
        return Signer(self.signing_algo, legacy.parse_address(self.signing_algo, self.signing_address))


def verify_signature(
    ledger: Ledger,
    context: Context,
    established: Established,
    answer: bytes,
    *,
    request_digest: str | None,
    response_digest: str | None,
    model: str | None = None,
    subject: str = "",
) -> None:
    """Check the answer of ``GET /v1/signature/{id}`` for one exchange.

    vllm-proxy hashes another spelling of answers that are not streamed than it sends, so step 5 fails for those.

    Args:
        ledger: takes the findings.
        context: the policy and the time.
        established: whose signature it must be.
        answer: the JSON text.
        request_digest: ``sha256:`` and hex of the body that was sent; None if it is not at hand.
        response_digest: the same of the body as it came off the wire, framing of a stream included.
        model: the model that was asked for, where that is known.
        subject: which exchange this is.
    """
    with ledger.group(SIGNATURE, subject) as checks:
        made = checks.need(1, lambda: _read_answer(answer))
        text = checks.need(2, lambda: legacy.parse_text(made.text))
        checks.check(3, lambda: _check_signer(made, established))
        checks.check(4, lambda: _check_hash("request", text.request_hash, request_digest))
        checks.check(5, lambda: _check_hash("response", text.response_hash, response_digest))
        checks.check(6, lambda: _check_model(text, model))


def _read_answer(answer: bytes) -> _Answer:
    if len(answer) > MOST_SIGNATURE:
        raise CheckFailed(f"the answer has {len(answer)} bytes; at most {MOST_SIGNATURE} are read")
    value = jcs.parse(answer)
    if isinstance(value, dict) and isinstance(value.get("error_code"), str):
        raise NotChecked(f"the service has no signature for this exchange: {value['error_code']}")
    try:
        return msgspec.convert(value, _Answer)
    except msgspec.ValidationError as error:
        raise CheckFailed(f"no answer with a signature: {error}") from None


def _check_signer(answer: _Answer, established: Established) -> str:
    """The signature says who signed; that must be whom the answer names, and whom a quote holds."""
    named, algorithm = answer.signer(), answer.signing_algo
    signature = legacy.parse_signature(algorithm, answer.signature)
    if algorithm == "ecdsa":
        key = secp256k1.recover(signature, legacy.message_hash(answer.text), low_s=True)
        found = legacy.ethereum_address(key)
        if found != named.address:
            raise CheckFailed(f"found a signature of {found.hex()}, expected one of {named.address.hex()}")
    else:
        _check_ed25519(named.address, signature, answer.text)
    if not established.signers:
        raise NotChecked("no signing address was established")
    if named not in established.signers:
        listed = ", ".join(f"{one.algorithm} {one.address.hex()}" for one in established.signers[:8])
        raise CheckFailed(f"signed by {algorithm} {named.address.hex()}, expected {listed}")
    return f"signed by {algorithm} {named.address.hex()}"


def _check_ed25519(key: bytes, signature: bytes, text: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, text.encode())
    except (InvalidSignature, ValueError):
        raise CheckFailed(f"the signature is not that of {key.hex()} over this text") from None


def _check_hash(what: str, signed: str, own: str | None) -> None:
    if own is None:
        raise NotChecked(f"the bytes of the {what} are not at hand")
    if f"sha256:{signed}" != own:
        raise CheckFailed(f"the signature is for a {what} with sha256:{signed}, and the one at hand has {own}")


def _check_model(text: SignatureText, model: str | None) -> str:
    if text.model is None:
        raise NotChecked("the signed text names no model", required=False)
    if model is None:
        raise NotChecked(f"it is for {text.model!r}, and which one was asked for is not known", required=False)
    if text.model != model:
        raise CheckFailed(f"found a signature for the model {text.model!r}, expected {model!r}")
    return text.model
