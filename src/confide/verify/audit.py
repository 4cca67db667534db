"""Auditing: one verdict over saved evidence, without a network. A report once, then every exchange under its keys."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import structs

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
from confide.verify.verdict import Finding, Ledger, NotChecked, Steps, Verdict, judge
from confide.wire import jcs

MOST_KEPT: Final = 16
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
    return _judged(ledger, context, subject, context.policy.digest()), established


@dataclass(frozen=True, slots=True)
class _Reported:
    """What the verification of a report left, which is the same for every bundle that has it."""

    established: Established | None
    findings: tuple[Finding, ...]
    anchors: tuple[Root, ...]
    facts: dict[str, Any]

    def ledger(self) -> Ledger:
        """A ledger that goes on from there; nothing that is added to it comes back."""
        made = Ledger()
        made.findings += self.findings
        made.anchors += self.anchors
        made.facts |= deepcopy(self.facts)
        return made


class Auditor:
    """Audits of any number of bundles under one policy.

    A report that several of them hold is verified once. Such bundles are told by a digest of everything that the
    report's verification reads: its exact bytes, the nonce, the channel, the manifest, the material and the time.

    Args:
        policy: what is accepted.
        development: development roots that a person named.
        material: what is at hand beside the bundles; it is tried after a bundle's own.
        most_kept: of how many reports the outcome is kept; beyond, the one that wasn't used for longest is forgotten.

    Raises:
        PolicyError: the policy says too little to be one.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        development: Sequence[Root] = (),
        material: Material = Material(),  # noqa: B008
        most_kept: int = MOST_KEPT,
    ) -> None:
        policies.check(policy)
        self._policy = policy
        self._digest = policy.digest()
        self._roots = Roots.of(policy.roots, development)
        self._material = material
        self._most_kept = most_kept
        self._kept: OrderedDict[bytes, _Reported] = OrderedDict()

    def audit(self, bundle: Bundle, *, now: int) -> Verdict:
        """The verdict over a bundle.

        Args:
            bundle: the evidence.
            now: the time that all dates are compared with (Unix seconds). Collateral expires within weeks, so who asks
                "was it good then?" gives the time of capture, and who asks "is it good?" the time of day.

        Raises:
            ConfideError: no adapter is called what the bundle says, or reads such a report.
        """
        context = Context(self._policy, self._roots, now, bundle.items().plus(self._material.items))
        reported = self._reported(bundle, context)
        ledger = reported.ledger()
        for number, exchange in enumerate(bundle.exchanges, 1):
            _verify_exchange(ledger, context, reported.established, exchange, f"exchange {number}")
        verify_claims(ledger, context)
        return _judged(ledger, context, bundle.url or "the bundle", self._digest)

    def _reported(self, bundle: Bundle, context: Context) -> _Reported:
        key = _reads(bundle, context.now)
        found = self._kept.pop(key, None)
        if found is None:
            adapter = named(bundle.service) if bundle.service else detect(bundle.report)
            ledger = Ledger()
            established = adapter.verify(ledger, context, bundle.saved())
            found = _Reported(established, tuple(ledger.findings), tuple(ledger.anchors), ledger.facts)
        self._kept[key] = found
        if len(self._kept) > self._most_kept:
            self._kept.popitem(last=False)
        return found


def _reads(bundle: Bundle, now: int) -> bytes:
    """A digest of all that a report's verification reads of a bundle: everything but its exchanges, and the time."""
    return hashlib.sha256(msgspec.msgpack.encode((now, structs.replace(bundle, exchanges=())))).digest()


def audit(
    bundle: Bundle,
    policy: Policy,
    *,
    now: int,
    development: Sequence[Root] = (),
    material: Material = Material(),  # noqa: B008
) -> Verdict:
    """The verdict over one bundle; see :class:`Auditor`.

    Raises:
        PolicyError: the policy says too little to be one.
        ConfideError: no adapter is called what the bundle says, or reads such a report.
    """
    return Auditor(policy, development=development, material=material).audit(bundle, now=now)


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


def _judged(ledger: Ledger, context: Context, subject: str, policy: str) -> Verdict:
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
