"""Services that speak ``aci/1``: this project's own server, and Phala's gateway."""

from __future__ import annotations

from confide.verify.context import Context
from confide.verify.report import verify_report
from confide.verify.saved import Established, SavedReport
from confide.verify.services.base import marks, query
from confide.verify.verdict import Ledger


class Aci:
    """Reports of ``aci/1``."""

    name = "aci"

    def path(self, nonce: str, model: str | None = None) -> str:
        """Where a service shows its report; it is one for all models."""
        return query("/v1/aci/attestation", nonce=nonce)

    def recognises(self, document: bytes) -> bool:
        """Whether it names the protocol. Phala's gateway adds the same to its flat reports, which are not these."""
        found = marks(document)
        return found.has("api_version") and not found.has("signing_address")

    def verify(self, ledger: Ledger, context: Context, saved: SavedReport) -> Established | None:
        """See :func:`confide.verify.report.verify_report`."""
        return verify_report(ledger, context, saved)
