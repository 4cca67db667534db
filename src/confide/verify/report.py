"""Reports of ``aci/1``: which workload serves, and which keys are its own.

Source: Attested Confidential Inference, ``aci/1``, sections 3, 4 and 9.1. One recomputation binds the keyset and the
verifier's nonce to the quote; everything else in the report counts only where a measurement or a signature backs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from confide.verify import demands, provenance
from confide.verify.context import Context
from confide.verify.custody import verify_custody
from confide.verify.dstack import DSTACK, DstackFacts, verify_dstack
from confide.verify.evidence import CpuEvidence, GpuMembers, format_of, read_evidence
from confide.verify.material import Material
from confide.verify.policy import DstackPolicy
from confide.verify.saved import Established, SavedReport
from confide.verify.snp import verify_snp
from confide.verify.summary import stands
from confide.verify.tdx import verify_tdx
from confide.verify.verdict import CheckFailed, Checks, Finding, Ledger, NotChecked, Outcome, Steps, bounded
from confide.wire import aci
from confide.wire.aci import Keyset, Report, parse_report, subject_manifest
from confide.wire.manifest import Manifest, parse_manifest
from confide.wire.tdx import TdReport

REPORT: Final = Steps.of(
    "report",
    "Attestation report",
    "ACI aci/1, 9.1",
    ("well-formed", "It is a report of aci/1, and names the digest of the keyset inside."),
    ("hardware", "The CPU's evidence is of the kind that the report says, genuine, and as the policy wants it."),
    ("binding", "The genuine quote commits to exactly this keyset."),
    ("freshness", "The quote was made after the verifier chose its nonce."),
    ("expiry", "The keyset counts now, and not for longer than is plausible."),
    ("provenance", "The code comes from where the policy demands, as far as an accepted measurement backs that."),
    ("custody", "The keys of the keyset were released to this workload only."),
    ("subject and manifest", "The workload's name, and the models that it serves, are those that the policy accepts."),
    ("GPUs", "Genuine GPUs answered the same statement that the quote holds."),
    ("channel", "The connection ends at a key of the keyset, or requests are encrypted to one."),
    ("age", "Saved evidence is not older than the policy allows."),
)
MOST_BYTES: Final = 8 << 20
_DAY: Final = 86400
_MOST_SHOWN: Final = 16


@dataclass(slots=True)
class _Case:
    """One report while it is verified, and what its CPU's evidence proves so far."""

    ledger: Ledger
    context: Context
    saved: SavedReport
    report: Report
    keyset: Keyset
    evidence: CpuEvidence
    report_data: bytes | None = None
    td: TdReport | None = None
    dstack: DstackFacts | None = None
    manifest: Manifest | None = None
    is_forged: bool = False

    @property
    def digest(self) -> str:
        return self.report.workload_keyset_digest

    def since(self, before: int) -> list[Finding]:
        return self.ledger.findings[before:]


def verify_report(ledger: Ledger, context: Context, saved: SavedReport) -> Established | None:
    """Check a report of ``aci/1`` with everything inside it.

    What the caller still owes: a nonce of its own, 32 random bytes, for each report; a verdict over the whole ledger;
    and from then on the channel that ``saved`` names, and no other.

    Returns:
        The keyset and what goes with it, which count only if the verdict over this ledger is good. None where the
        report is none, or its own evidence contradicts it.
    """
    established: Established | None = None
    with ledger.group(REPORT) as checks:
        report, evidence = checks.need(1, lambda: _read(saved), lambda read: read[0].workload_keyset_digest)
        case = _Case(ledger, context, saved, report, report.keyset(), evidence)
        ledger.facts["report"] = _facts(case)
        checks.check(2, lambda: _check_cpu(case))
        case.dstack = _verify_dstack(case)
        _check_binding(case, checks)
        checks.check(5, lambda: _check_expiry(case))
        checks.check(6, lambda: provenance.check(report.attestation.source_provenance, case.dstack, context.policy))
        checks.check(7, lambda: _check_custody(case))
        checks.check(8, lambda: _check_subject(case))
        checks.check(9, lambda: _check_gpus(case))
        checks.check(10, lambda: _check_channel(case))
        checks.check(11, lambda: demands.check_age(context, saved))
        if not case.is_forged:
            established = _established(case)
    return established


def _read(saved: SavedReport) -> tuple[Report, CpuEvidence]:
    if len(saved.document) > MOST_BYTES:
        raise CheckFailed(f"the report has {len(saved.document)} bytes; at most {MOST_BYTES} are read")
    report = parse_report(saved.document)
    return report, read_evidence(report.attestation.evidence)


def _established(case: _Case) -> Established:
    capabilities = case.report.service_capabilities
    return Established(
        keyset=case.keyset,
        keyset_digest=case.digest,
        manifest=case.manifest,
        e2ee_versions=capabilities.supported_e2ee_versions,
        serving="direct" if capabilities.serving == "direct" else "aggregator",
    )


# The CPU -------------------------------------------------------------------------------------------------------------


def _check_cpu(case: _Case) -> str:
    """Evidence is verified as what its bytes are; ``tee_type`` must say the same."""
    quote, said = case.evidence.quote_bytes(), case.report.attestation.tee_type
    kind, before = format_of(quote) or said, len(case.ledger.findings)
    context = case.context.with_material(Material(tuple(case.evidence.stapled())).plus(case.context.material.items))
    if kind == "tdx":
        td = verify_tdx(case.ledger, context, quote)
        case.td = None if td is None else td.report
        case.report_data = None if td is None else td.report.report_data
    elif kind == "sev_snp":
        guest = verify_snp(case.ledger, context, quote)
        case.report_data = None if guest is None else guest.report.report_data
    else:
        raise CheckFailed(f"found evidence of the type {kind!r}, expected tdx or sev_snp")
    findings = case.since(before)
    case.is_forged = case.report_data is None and any(one.outcome is Outcome.FAIL for one in findings)
    if kind != said:
        raise CheckFailed(f"found evidence of {kind}, expected {said!r}, as tee_type says")
    stands(findings, "the CPU's evidence")
    return kind


def _verify_dstack(case: _Case) -> DstackFacts | None:
    """A guest that shows no log is no dstack guest, which is fine where the policy asks for nothing of dstack's."""
    log, compose, config = case.evidence.log(), case.evidence.app_compose, case.evidence.vm_config
    is_wanted = case.context.policy.dstack != DstackPolicy()
    if log is None and compose is None and not is_wanted:
        return None
    if case.td is None:
        with case.ledger.group(DSTACK) as checks:
            checks.skip(1, "no TD's registers are proven", required=is_wanted)
        return None
    return verify_dstack(case.ledger, case.context, case.td, event_log=log, app_compose=compose, vm_config=config)


def _check_binding(case: _Case, checks: Checks) -> None:
    """A quote over the statement without a nonce binds the keyset as well, and is not fresh."""
    nonce, slot = case.saved.nonce, case.report_data
    if slot is None:
        checks.skip(3, "needs step report.2: nothing says what genuine evidence commits to")
        checks.skip(4, "needs step report.3")
        return
    is_unchallenged = slot == aci.report_data_slot(case.digest, None)
    if not checks.check(3, lambda: _check_slot(case, slot, is_unchallenged=is_unchallenged)):
        case.is_forged = True
        checks.skip(4, "needs step report.3")
        return
    checks.check(4, lambda: _check_nonce(nonce, is_unchallenged=is_unchallenged))


def _check_slot(case: _Case, slot: bytes, *, is_unchallenged: bool) -> str:
    expected = aci.report_data_slot(case.digest, None if is_unchallenged else case.saved.nonce)
    if slot != expected:
        raise CheckFailed(f"the quote commits to {slot.hex()}, expected {expected.hex()} of the keyset and our nonce")
    if case.report.attestation.report_data != slot[:32].hex():
        raise CheckFailed(f"report_data is {case.report.attestation.report_data}, and the quote holds {slot.hex()}")
    repeated = case.evidence.quote_report_data
    if repeated is not None and repeated not in (slot.hex(), slot[:32].hex()):
        raise CheckFailed(f"quote_report_data is {repeated}, and the quote holds {slot.hex()}")
    return slot[:32].hex()


def _check_nonce(nonce: str | None, *, is_unchallenged: bool) -> None:
    if nonce is None:
        raise NotChecked("the verifier sent no nonce, so that this report may be old")
    aci.check_nonce(nonce)
    if is_unchallenged:
        raise CheckFailed(f"the quote was made without a nonce, expected {nonce}")


# The keyset ----------------------------------------------------------------------------------------------------------


def _check_expiry(case: _Case) -> str:
    now, not_after = case.context.now, case.keyset.not_after
    if now >= not_after:
        raise CheckFailed(f"the keyset counted until {not_after}, and the time is {now}")
    longest = case.context.policy.keys.longest_days
    if not_after - now > longest * _DAY:
        raise CheckFailed(f"the keyset counts until {not_after}, which is more than {longest} days away")
    return f"counts for {(not_after - now) // _DAY} more days"


def _check_custody(case: _Case) -> None:
    before = len(case.ledger.findings)
    keys = [raw for key in _keys(case.keyset) if (raw := _raw(key.public_key))]  # in their order, as they are told
    verify_custody(case.ledger, case.context, case.evidence.key_custody, keyset_keys=keys, dstack=case.dstack)
    stands(case.since(before), "the custody of the keys", required=case.context.policy.keys.custody)


def _keys(keyset: Keyset) -> tuple[aci.PublicKey, ...]:
    return (*keyset.receipt_signing_keys, *keyset.e2ee_public_keys)


def _raw(text: str) -> bytes:
    """A public key's bytes; a key of a kind that isn't known here may be written otherwise, and is none."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _check_subject(case: _Case) -> str:
    policy, subject = case.context.policy, case.keyset.subject
    if policy.keys.subjects and subject not in policy.keys.subjects:
        raise CheckFailed(f"found the subject {subject!r}, expected one of {', '.join(policy.keys.subjects)}")
    digest = subject_manifest(subject)
    if case.saved.manifest is not None:
        manifest = parse_manifest(case.saved.manifest)
        if manifest.digest() != digest:
            raise CheckFailed(f"the manifest at hand is {manifest.digest()}, and the keyset names {digest or 'none'}")
        case.manifest = manifest
    wanted = policy.models.manifests
    case.ledger.facts["report"]["manifest_accepted"] = digest in wanted if wanted and digest is not None else None
    if wanted and digest is None:
        raise NotChecked("the keyset names no manifest of models")
    if wanted and digest not in wanted:
        raise CheckFailed(f"found the manifest {digest}, expected one of {', '.join(wanted)}")
    if not wanted and not policy.keys.subjects and digest is None:
        raise NotChecked("the policy accepts any subject, and this one names no manifest", required=False)
    return f"the subject is {subject}"


# The rest ------------------------------------------------------------------------------------------------------------


def _check_gpus(case: _Case) -> str:
    members = case.evidence.gpu or GpuMembers("not available")
    devices, switches = members.read()
    gpus = demands.Gpus(devices, switches, members.unavailable())
    return demands.check_gpus(case.ledger, case.context, gpus, aci.report_data(case.digest, case.saved.nonce))


def _check_channel(case: _Case) -> str:
    channel = case.saved.channel
    tls = frozenset[str]() if channel is None else case.keyset.tls_keys_for(channel.host)
    held = demands.Held(tls, lambda key: key in _sealing_keys(case.keyset))
    return demands.check_channel(case.context, channel, held)


def _sealing_keys(keyset: Keyset) -> frozenset[str]:
    known = (aci.X25519_SUITE, aci.SECP256K1_SUITE)
    return frozenset(key.public_key for key in keyset.e2ee_public_keys if key.algo in known)


def _facts(case: _Case) -> dict[str, Any]:
    keyset, said = case.keyset, case.report.attestation.source_provenance
    tls = keyset.tls_public_keys or ()
    return {
        "keyset_digest": case.digest,
        "subject": None if keyset.subject is None else bounded(keyset.subject),
        "manifest": subject_manifest(keyset.subject),
        "not_after": keyset.not_after,
        "receipt_keys": [bounded(key.public_key) for key in keyset.receipt_signing_keys[:_MOST_SHOWN]],
        "e2ee_keys": [bounded(key.public_key) for key in keyset.e2ee_public_keys[:_MOST_SHOWN]],
        "tls_keys": [key.spki_sha256 for key in tls[:_MOST_SHOWN]],
        "serving": bounded(case.report.service_capabilities.serving),
        "tee_type": bounded(case.report.attestation.tee_type),
        "source": None if case.evidence.source is None else bounded(case.evidence.source),
        "provenance": {
            name: None if (value := getattr(said, name)) is None else bounded(value)
            for name in ("repo_url", "repo_commit", "image_digest")
        },
    }
