"""Auditing: one verdict over saved evidence, without a network. A report once, then every exchange under its keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from confide.verify import policy as policies
from confide.verify.bundle import Bundle, Exchange
from confide.verify.claims import CLAIMS, claims_of, verify_claims
from confide.verify.context import Context
from confide.verify.custody import CUSTODY
from confide.verify.dstack import DSTACK
from confide.verify.legacy import LEGACY, SIGNATURE, verify_signature
from confide.verify.material import Item, Material
from confide.verify.nras import NRAS
from confide.verify.nvidia import GPU, GPUS
from confide.verify.policy import Policy
from confide.verify.receipt import RECEIPT, verify_receipt
from confide.verify.report import REPORT
from confide.verify.rim import RIM
from confide.verify.roots import Root, Roots
from confide.verify.saved import Channel, Established, SavedReport
from confide.verify.services import STEPS as SERVICES
from confide.verify.services import detect, named
from confide.verify.services.base import Adapter
from confide.verify.session import SESSION
from confide.verify.snp import SNP
from confide.verify.tdx import TDX
from confide.verify.verdict import Ledger, NotChecked, Steps, Verdict, judge
from confide.wire import jcs

_CATALOGUE: Final = (
    REPORT,
    TDX,
    SNP,
    DSTACK,
    CUSTODY,
    GPU,
    GPUS,
    RIM,
    NRAS,
    RECEIPT,
    SESSION,
    LEGACY,
    SIGNATURE,
    *SERVICES,
    CLAIMS,
)


def catalogue() -> tuple[Steps, ...]:
    """Every kind of evidence with its numbered steps, as documents and tests list them."""
    return _CATALOGUE


def check_report(saved: SavedReport, adapter: Adapter, context: Context) -> tuple[Verdict, Established | None]:
    """The verdict over a report alone, and whose signatures count if it is good.

    Raises:
        PolicyError: the policy says too little to be one.
    """
    policies.check(context.policy)
    ledger = Ledger()
    established = adapter.verify(ledger, context, saved)
    verify_claims(ledger, context)
    subject = "the report" if saved.channel is None else saved.channel.host
    return _judged(ledger, context, subject), established


def audit(
    bundle: Bundle,
    policy: Policy,
    *,
    now: int,
    development: Sequence[Root] = (),
    material: Material = Material(),  # noqa: B008
) -> Verdict:
    """The verdict over a bundle.

    Args:
        bundle: the evidence.
        policy: what is accepted.
        now: the time that all dates are compared with (Unix seconds). Collateral expires within weeks, so who asks
            "was it good then?" gives the time of capture, and who asks "is it good?" the time of day.
        development: development roots that a person named.
        material: what is at hand beside the bundle; it is tried after the bundle's own.

    Raises:
        PolicyError: the policy says too little to be one.
        ConfideError: no adapter is called what the bundle says, or reads such a report.
    """
    policies.check(policy)
    context = Context(policy, Roots.of(policy.roots, development), now, bundle.items().plus(material.items))
    adapter = named(bundle.service) if bundle.service else detect(bundle.report)
    ledger = Ledger()
    established = adapter.verify(ledger, context, bundle.saved())
    for number, exchange in enumerate(bundle.exchanges, 1):
        _verify_exchange(ledger, context, established, exchange, f"exchange {number}")
    verify_claims(ledger, context)
    return _judged(ledger, context, bundle.url or "the bundle")


def audit_parts(
    report: bytes,
    *,
    captured_at: int,
    nonce: str | None = None,
    channel: Channel | None = None,
    manifest: bytes | None = None,
    material: Sequence[Item] = (),
    exchange: Exchange | None = None,
    service: str = "",
    url: str = "",
) -> Bundle:
    """A bundle of loose files: a report and at most one exchange. ``captured_at`` is when the report was fetched."""
    return Bundle(
        captured_at=captured_at,
        url=url,
        service=service,
        report=report,
        nonce=nonce,
        channel=channel,
        manifest=manifest,
        material=tuple(material),
        exchanges=() if exchange is None else (exchange,),
    )


def _judged(ledger: Ledger, context: Context, subject: str) -> Verdict:
    policy = context.policy.digest()
    return judge(ledger, subject=subject, at=context.now, policy=policy, claims=claims_of(ledger))


def _verify_exchange(
    ledger: Ledger, context: Context, established: Established | None, exchange: Exchange, subject: str
) -> None:
    """Whatever the service signed about it; at least what a service of its kind signs."""
    if established is None:
        steps = SIGNATURE if exchange.receipt is None and exchange.signature is not None else RECEIPT
        _missing(ledger, steps, subject, "the report establishes no keys")
        return
    request, response = _digest(exchange.request), _digest(exchange.response)
    if exchange.receipt is not None:
        verify_receipt(
            ledger,
            context,
            established,
            exchange.receipt,
            request_digest=request,
            response_digest=response,
            model=exchange.model,
            sessions=exchange.sessions,
            subject=subject,
        )
    elif established.keyset is not None:
        _missing(ledger, RECEIPT, subject, "no receipt was kept")
    if exchange.signature is not None:
        verify_signature(
            ledger,
            context,
            established,
            exchange.signature,
            request_digest=request,
            response_digest=response,
            model=exchange.model,
            subject=subject,
        )
    elif established.keyset is None and exchange.receipt is None:
        _missing(ledger, SIGNATURE, subject, "no signature was kept")


def _digest(data: bytes | None) -> str | None:
    return None if data is None else jcs.sha256(data)


def _missing(ledger: Ledger, steps: Steps, subject: str, why: str) -> None:
    def step() -> None:
        raise NotChecked(why)

    with ledger.group(steps, subject) as checks:
        checks.need(1, step)
