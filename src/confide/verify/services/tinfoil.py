"""Tinfoil: an enclave's attestation document v3, on Intel TDX or AMD SEV-SNP, with its GPUs bound to the CPU's quote.

Source: see ``tinfoil_wire``. Not checked here, and said so by the policy's own demands: Tinfoil's Sigstore bundles over
code and platform measurements. What runs is judged by the measurements in the policy. Behind Tinfoil's router other
enclaves answer, which this document says nothing of.
"""

from __future__ import annotations

from typing import Any, Final

from confide.verify.context import Context
from confide.verify.demands import Gpus, Held, check_age, check_channel, check_gpus, check_workload
from confide.verify.material import Material
from confide.verify.saved import Established, SavedReport
from confide.verify.services.base import marks, query
from confide.verify.services.tinfoil_wire import Document, read_document
from confide.verify.snp import verify_snp
from confide.verify.summary import stands
from confide.verify.tdx import verify_tdx
from confide.verify.verdict import CheckFailed, Checks, Ledger, NotChecked, Outcome, Steps
from confide.wire import legacy

TINFOIL: Final = Steps.of(
    "tinfoil",
    "Tinfoil attestation document v3",
    "tinfoilsh/cvmimage, internal/attestation; tinfoilsh/tinfoil-go, document",
    ("well-formed", "It is a document of version 3, in one of the two layouts that were served under that name."),
    ("hardware", "The CPU's evidence is genuine, and the guest is as the policy wants it."),
    ("binding", "The genuine evidence commits to exactly the keys, the nonce and the hashes in the document."),
    ("parts", "The keys and the evidence of GPUs are the bytes that were hashed."),
    ("switches", "The evidence of NVSwitches is the bytes that were hashed."),
    ("freshness", "The document was made after the verifier chose its nonce."),
    ("GPUs", "Genuine GPUs answered our nonce, and the guest itself quoted their answers."),
    ("channel", "The connection ends at the TLS key in the document, or requests are encrypted to its HPKE key."),
    ("workload", "The policy names what may run there, and demands nothing that this format cannot show."),
    ("age", "Saved evidence is not older than the policy allows."),
)
_PREFIX: Final = "https://tinfoil.sh/predicate/"


class Tinfoil:
    """Attestation documents of Tinfoil's enclaves."""

    name = "tinfoil"

    def path(self, nonce: str, model: str | None = None) -> str:
        """Where an enclave shows its document; it is one for all models. Without a nonce it would be an older one."""
        return query("/.well-known/tinfoil-attestation", nonce=nonce)

    def recognises(self, document: bytes) -> bool:
        """Whether its format is one of Tinfoil's, of any version; older ones are refused when they are verified."""
        kind = marks(document).format
        return isinstance(kind, str) and kind.startswith(_PREFIX)

    def verify(self, ledger: Ledger, context: Context, saved: SavedReport) -> Established | None:
        """Check a document. It establishes no signing keys, since Tinfoil signs no answers: the channel is all."""
        before = len(ledger.findings)
        established: Established | None = None
        with ledger.group(TINFOIL) as checks:
            document = checks.need(1, lambda: read_document(saved.document), lambda read: f"layout of {read.layout}")
            ledger.facts["tinfoil"] = _facts(document)
            slot = _check_cpu(checks, ledger, context, document)
            if slot is None:
                return None
            checks.check(3, lambda: _check_binding(document, slot))
            checks.check(4, lambda: _check_parts(document))
            checks.check(5, lambda: _check_switches(context, document))
            checks.check(6, lambda: _check_nonce(document, saved))
            checks.check(7, lambda: _check_gpus(ledger, context, document, saved))
            held = Held((document.tls,), lambda key: key == document.hpke)
            checks.check(8, lambda: check_channel(context, saved.channel, held))
            checks.check(9, lambda: check_workload(context.policy, document.platform, None))
            checks.check(10, lambda: check_age(context, saved))
            established = Established()
        failed = any(finding.outcome is Outcome.FAIL for finding in ledger.findings[before:])
        return None if failed else established


def _check_cpu(checks: Checks, ledger: Ledger, context: Context, document: Document) -> bytes | None:
    """What genuine evidence commits to, whether the guest is wanted or not."""
    before, slot = len(ledger.findings), None
    own = context.with_material(Material(document.collateral).plus(context.material.items))
    if document.platform == "tdx":
        td = verify_tdx(ledger, own, document.quote)
        slot = None if td is None else td.report.report_data
    else:
        guest = verify_snp(ledger, own, document.quote)
        slot = None if guest is None else guest.report.report_data
    findings = ledger.findings[before:]
    checks.check(2, lambda: stands(findings, "the CPU's evidence"))
    return slot


def _check_binding(document: Document, slot: bytes) -> str:
    if slot != document.report_data:
        raise CheckFailed(f"the quote commits to {slot.hex()}, expected {document.report_data.hex()} of the document")
    if document.stated_report_data not in (None, slot.hex()):
        raise CheckFailed(f"challenge.report_data is {document.stated_report_data}, and the quote holds {slot.hex()}")
    return slot[:32].hex()


def _check_parts(document: Document) -> None:
    wrong = [
        f"found {part.name} with {part.found or 'nothing in it'}, expected {part.stated or 'none'}"
        for part in document.parts
        if part.found != part.stated
    ]
    if wrong:
        raise CheckFailed("; ".join(wrong))


def _check_switches(context: Context, document: Document) -> None:
    """In the layout of keys, servers hashed what NVIDIA's tool wrote, and then formatted it anew."""
    part = document.switches_part
    if part is None and document.switches:
        return
    if part is None or part.found is part.stated is None:
        raise NotChecked("the document has no evidence of switches", required=bool(context.policy.gpu.switches))
    if part.found is None or part.stated is None:
        raise CheckFailed(f"found nvswitch with {part.found or 'nothing'}, expected {part.stated or 'none'}")
    if part.found != part.stated:
        reason = "the switches' evidence was formatted anew after it was hashed, so that nothing binds it to the CPU"
        raise NotChecked(reason, required=bool(context.policy.gpu.switches))


def _nonce(saved: SavedReport) -> bytes:
    if saved.nonce is None:
        raise NotChecked("the verifier sent no nonce, so that this document may be old")
    return legacy.parse_nonce(saved.nonce)


def _check_nonce(document: Document, saved: SavedReport) -> None:
    nonce = _nonce(saved)
    if document.nonce != nonce:
        raise CheckFailed(f"the document is for the nonce {document.nonce.hex()}, expected {nonce.hex()}")


def _check_gpus(ledger: Ledger, context: Context, document: Document, saved: SavedReport) -> str:
    if document.unknown_devices:
        raise CheckFailed(f"found devices of the formats {', '.join(document.unknown_devices)}, which are not known")
    if saved.nonce is None:
        raise NotChecked("the verifier sent no nonce for GPUs to sign", required=context.policy.gpu.required)
    nonce = _nonce(saved)
    others = sorted(document.nonces - {nonce.hex()})
    if others:
        raise CheckFailed(f"found evidence for the nonce {others[0]}, expected {nonce.hex()}")
    unavailable = None if document.gpus else "the document has no evidence of GPUs"
    return check_gpus(ledger, context, Gpus(document.gpus, document.switches, unavailable), nonce)


def _facts(document: Document) -> dict[str, Any]:
    return {
        "layout": document.layout,
        "platform": document.platform,
        "tls_key": document.tls,
        "hpke_key": document.hpke,
        "gpus": len(document.gpus),
        "switches": len(document.switches),
    }
