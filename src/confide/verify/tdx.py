"""Intel TDX: whether a quote is a genuine TD's, on a platform and with software that a policy accepts. Offline.

Source: Intel TDX DCAP Quoting Library API, appendix 3 (quotes of version 4 and 5); Intel SGX PCK Certificate and CRL
Profile; Intel PCS API version 4 (collateral). Steps 1 to 7 need nothing but the quote; 8 to 10 need collateral, and
without it the verdict is "not enough evidence".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from confide.verify import tdx_collateral as intel
from confide.verify.context import Context
from confide.verify.roots import Root
from confide.verify.tdx_collateral import Genuine, Standing
from confide.verify.tdx_platform import Platform, check_enclave, check_signature, walk
from confide.verify.tdx_policy import check_attributes, check_flags, check_measurements, check_status, faults
from confide.verify.verdict import CheckFailed, Checks, Ledger, Steps
from confide.wire.tdx import Quote, TdReport, parse_quote

TDX: Final = Steps.of(
    "tdx",
    "Intel TDX quote",
    "Intel TDX DCAP Quoting Library API, appendix 3; Intel PCS API version 4",
    ("format", "It is one quote of version 4 or 5 over a TD's report, with nothing after it but zeros."),
    ("certificate chain", "An accepted root vouches for the machine's certificate (PCK), and all dates hold."),
    ("quoting enclave", "That machine's quoting enclave, which can't be debugged, holds the attestation key."),
    ("signature", "That key signed the TD's report; no bit of it was changed."),
    ("TD attributes", "The TD can't be debugged or faulted by its host, and no service TD is bound to it."),
    ("platform flags", "The machine's configuration, as its certificate states it, is one that the policy accepts."),
    ("measurements", "The TD was started with software that the policy names."),
    ("collateral", "Intel's words on this machine's model are at hand, signed under the same root, and in date."),
    ("platform", "No part of the machine was revoked, and Intel knows its patches, TDX module and quoting enclave."),
    ("TCB status", "The machine is patched as well as the policy demands."),
)
MOST_BYTES: Final = 64 * 1024
_INTEL_QE: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_SGX_QUOTE: Final = bytes.fromhex("0300")
_OTHER_FORMATS: Final = (
    (b"\xd2", "a signed CBOR structure (CWT)"),
    (b"\xd8\x3d", "a CBOR web token (CWT)"),
    (b"\x84", "a signed CBOR structure (CWT)"),
    (b"\x30\x82", "an ASN.1 structure (DICE or X.509)"),
    (b"-----BEGIN", "a PEM text"),
)


@dataclass(frozen=True, slots=True)
class TdxEvidence:
    """A quote that is proven genuine up to ``root``. ``status`` is None where there was no collateral.

    ``fmspc`` (model of the platform) and ``ppid`` (this one platform) are in hexadecimal.
    """

    quote: Quote
    report: TdReport
    root: Root
    fmspc: str | None = None
    ppid: str | None = None
    status: str | None = None
    advisories: tuple[str, ...] = ()


def verify_tdx(ledger: Ledger, context: Context, raw: bytes, *, subject: str = "") -> TdxEvidence | None:
    """Check a quote, with the collateral at hand. The evidence, or None where it is not proven genuine.

    What the caller still owes: that ``report_data`` binds what it must, and a verdict over the whole ledger; a TD
    that is genuine and not wanted is returned too.
    """
    evidence = None
    with ledger.group(TDX, subject) as checks:
        quote = checks.need(1, lambda: _parse(raw), lambda found: f"version {found.header.version}")
        platform, root = checks.need(2, lambda: walk(quote, context), lambda found: f"ends at {found[1].name}")
        checks.need(3, lambda: check_enclave(quote, platform))
        checks.need(4, lambda: check_signature(quote))
        ledger.trusted(root)
        facts = ledger.facts[f"tdx:{subject}" if subject else "tdx"] = _facts(quote, platform)
        checks.check(5, lambda: check_attributes(quote.report, context.policy.tdx))
        checks.check(6, lambda: check_flags(platform, context.policy.tdx))
        checks.check(7, lambda: check_measurements(quote.report, context.policy.tdx))
        proven = TdxEvidence(quote, quote.report, root, platform.fmspc, platform.ppid)
        found, reason = intel.candidates(context.material, platform)
        if not found:
            _skip(checks, reason, 8, 9, 10)
            return proven
        good = checks.need(8, lambda: intel.genuine(found, platform, root, context), _said)
        if faults(quote.report):  # which step 5 names; dcap-qvl would refuse them again in step 9
            _skip(checks, "needs step tdx.5", 9, 10)
            return proven
        standing = checks.need(9, lambda: intel.stand(quote, platform, root, good, context.now))
        facts |= _facts_of_standing(good[0], standing)
        evidence = replace(proven, status=standing.status, advisories=standing.advisories)
        checks.check(10, lambda: check_status(standing, context.policy.tdx, context.now))
    return evidence


def _parse(raw: bytes) -> Quote:
    if len(raw) > MOST_BYTES:
        raise CheckFailed(f"found {len(raw)} bytes, expected a quote of at most {MOST_BYTES}")
    if raw[:2] == _SGX_QUOTE:
        raise CheckFailed("found a quote of version 3, which is of an SGX enclave; expected a TD's")
    for start, name in _OTHER_FORMATS:
        if raw.startswith(start):
            raise CheckFailed(f"found {name}, expected a quote of version 4 or 5")
    quote = parse_quote(raw)
    if quote.header.qe_vendor_id != _INTEL_QE:
        raise CheckFailed(f"found a quoting enclave of vendor {quote.header.qe_vendor_id.hex()}, expected Intel's")
    return quote


def _skip(checks: Checks, reason: str, *numbers: int) -> None:
    for number in numbers:
        checks.skip(number, reason)


def _said(good: Sequence[Genuine]) -> str:
    return f"{good[0].candidate.source}, in date until {good[0].expires:%Y-%m-%d %H:%M}Z"


def _facts(quote: Quote, platform: Platform) -> dict[str, Any]:
    report = quote.report
    registers = ("mr_td", "mr_seam", "mr_config_id", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "td_attributes", "report_data")
    return {
        "version": quote.header.version,
        **{name: getattr(report, name).hex() for name in registers},
        "fmspc": platform.fmspc,
        "ppid": platform.ppid,
    }


def _facts_of_standing(newest: Genuine, standing: Standing) -> dict[str, Any]:
    return {
        "status": standing.status,
        "advisories": list(standing.advisories),
        "evaluation_number": standing.evaluation_number,
        "collateral_source": newest.candidate.source,
        "collateral_expires": int(standing.expires.timestamp()),
    }
