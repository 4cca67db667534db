"""Services behind vllm-proxy: Phala's, RedPill's and those that relay them, and the older surface of our own server.

RedPill passes on answers of other networks, marked by ``attestation_type`` ("chutes", "tinfoil"), for which its gateway
and not the client chooses the nonce. They are refused by that name at the step of freshness.
"""

from __future__ import annotations

from confide.verify.context import Context
from confide.verify.legacy import verify_flat_report
from confide.verify.saved import Established, SavedReport
from confide.verify.services.base import marks, query
from confide.verify.verdict import Ledger


class VllmProxy:
    """Flat reports."""

    name = "vllm-proxy"

    def path(self, nonce: str, model: str | None = None) -> str:
        """Where a service shows its report. ECDSA is what ``GET /v1/signature/{id}`` signs with unless asked."""
        return query("/v1/attestation/report", model=model, nonce=nonce, signing_algo="ecdsa")

    def recognises(self, document: bytes) -> bool:
        """Whether it is flat, or passes on what is not, and has no sign of NEAR AI's servers."""
        found = marks(document)
        is_near = found.has("model_name") or found.has("gateway_attestation") or found.has("model_attestations")
        is_flat = found.has("signing_address", "intel_quote") or found.has("attestation_type", "all_attestations")
        return is_flat and not is_near

    def verify(self, ledger: Ledger, context: Context, saved: SavedReport) -> Established | None:
        """See :func:`confide.verify.legacy.verify_flat_report`."""
        return verify_flat_report(ledger, context, saved)
