"""Quotes and collateral for tests: the recorded ones at their time, and development ones with one thing changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec
from cryptography import x509

from confide.attest import dev_sign
from confide.attest.dev_pki import Identity, Pki, create_pki, pem
from confide.verify.context import Context
from confide.verify.material import Item, Material, Source
from confide.verify.policy import Policy, TdxPolicy
from confide.verify.roots import Roots, development
from confide.verify.tdx import TdxEvidence, verify_tdx
from confide.verify.verdict import Ledger, Outcome, Verdict, judge
from confide.wire.tdx import TdReport, TdxCollateral, build_quote, parse_quote
from tests.vectors.loading import VECTORS

INTEL = VECTORS / "evidence" / "intel"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
REPORT_DATA = bytes(range(64))
REGISTERS = (b"\x01" * 48, b"\x02" * 48, b"\x03" * 48, b"\x04" * 48)
CAPTURED = {
    "tdx_v4": int(datetime(2025, 6, 20, tzinfo=UTC).timestamp()),
    "tdx_v4_near": int(datetime(2025, 9, 5, tzinfo=UTC).timestamp()),
    "tdx_v5": int(datetime(2026, 2, 20, tzinfo=UTC).timestamp()),
}
Change = Callable[[dict[str, Any]], object]


class Tried:
    """One verification and what became of it."""

    def __init__(self, raw: bytes, context: Context) -> None:
        self.ledger = Ledger()
        self.evidence: TdxEvidence | None = verify_tdx(self.ledger, context, raw)
        self.verdict: Verdict = judge(self.ledger, subject="a quote", at=context.now, policy="")

    def failing(self) -> list[str]:
        """The steps that failed."""
        return [finding.step for finding in self.ledger.findings if finding.outcome is Outcome.FAIL]

    def missing(self) -> list[str]:
        """The steps that are required and were not made."""
        findings = self.ledger.findings
        return [f.step for f in findings if f.outcome is Outcome.NOT_CHECKED and f.required]

    def detail(self, step: str) -> str:
        """What was said about a step."""
        (finding,) = [finding for finding in self.ledger.findings if finding.step == step]
        return finding.detail


def policy(**members: Any) -> Policy:
    """A policy with these members in its TDX part."""
    return Policy(roots=("intel",), unsafe_any_workload=True, tdx=TdxPolicy(**members))


# Recorded ------------------------------------------------------------------------------------------------------------


@cache
def recorded(name: str) -> bytes:
    """The quote of this name."""
    return (INTEL / f"{name}.quote").read_bytes()


@cache
def recorded_collateral(name: str) -> bytes:
    """The JSON text beside it."""
    return (INTEL / f"{name}.collateral.json").read_bytes()


def at_capture(name: str, collateral: bytes | None = None, *, now: int | None = None, **members: Any) -> Context:
    """The time at which a quote was recorded, with its collateral or another one."""
    text = recorded_collateral(name) if collateral is None else collateral
    material = Material((Item("tdx-collateral", "", text, "stapled"),))
    return Context(policy(**members), Roots.of(["intel"]), CAPTURED[name] if now is None else now, material)


# Development ---------------------------------------------------------------------------------------------------------


@cache
def pki() -> Pki:
    """One development PKI for every test."""
    return create_pki(NOW)


@cache
def other_pki() -> Pki:
    """Another one."""
    return create_pki(NOW)


def report(**members: Any) -> TdReport:
    """A good TD report with some fields changed."""
    return replace(dev_sign.td_report(REPORT_DATA, REGISTERS), **members)


def quote(version: int = 4, **members: Any) -> bytes:
    """A quote over it, really signed."""
    return dev_sign.sign_quote(pki(), report(**members), version)


def spliced(raw: bytes, **members: Any) -> bytes:
    """A quote whose signature part has some fields changed, and so is not signed for them."""
    parsed = parse_quote(raw)
    return build_quote(replace(parsed, signature=replace(parsed.signature, **members)))


def enclave(raw: bytes, signer: Identity | None = None, **members: Any) -> bytes:
    """A quote whose quoting enclave's report has some fields changed and is signed for them."""
    enclaves = replace(parse_quote(raw).signature.qe_report, **members)
    signature = raw_signature(signer or pki().pck, enclaves.build())
    return spliced(raw, qe_report=enclaves, qe_report_signature=signature)


def raw_signature(signer: Identity, message: bytes) -> bytes:
    """r and s of an ECDSA signature."""
    return dev_sign._raw_signature(signer, message)


@cache
def collateral(status: str = "UpToDate", advisories: tuple[str, ...] = (), revoked: str = "") -> TdxCollateral:
    """Development collateral; ``revoked`` names a member of the PKI."""
    gone = [getattr(pki(), revoked).certificate] if revoked else []
    return dev_sign.collateral(pki(), NOW, status=status, advisories=advisories, revoked=gone)


def resigned(
    tcb_info: Change | None = None,
    qe_identity: Change | None = None,
    *,
    signer: Identity | None = None,
    chain: Iterable[x509.Certificate] = (),
) -> TdxCollateral:
    """Collateral in which something was changed before it was signed."""
    good, key = collateral(), signer or pki().tcb_signing
    members: dict[str, str] = {}
    for name, change in (("tcb_info", tcb_info), ("qe_identity", qe_identity)):
        value = json.loads(getattr(good, name))
        if change is not None:
            change(value)
        text = json.dumps(value, separators=(",", ":"))
        members |= {name: text, f"{name}_signature": raw_signature(key, text.encode()).hex()}
        if chain:
            members[f"{name}_issuer_chain"] = pem(list(chain)).decode()
    return with_members(good, members)


def with_members(good: TdxCollateral, members: Mapping[str, str]) -> TdxCollateral:
    """Collateral with other texts in some members."""
    return TdxCollateral(**good.as_json() | dict(members))


def item(text: TdxCollateral, source: Source = "stapled") -> Item:
    """Collateral as it is found."""
    return Item("tdx-collateral", "", msgspec.json.encode(text), source)


def context(*items: Item | TdxCollateral, now: int = SECONDS, **members: Any) -> Context:
    """The development root accepted beside Intel's, and this collateral at hand."""
    roots = Roots.of(["intel"], development(pki().roots_pem()))
    found = tuple(item(one) if isinstance(one, TdxCollateral) else one for one in items)
    return Context(policy(**members), roots, now, Material(found))
