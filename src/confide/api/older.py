"""The older surface's two signatures, made when they are asked for, where the keys outlive this process.

A receipt was signed and committed before its answer was complete, and says everything that the older text says. So the
text is signed only for a stored receipt whose own signature verifies under this server's key of that epoch: whoever
changes the store gets no signature for what he wrote. Where keys end with the process the signatures are made and
stored with the receipt, since nobody could make them later. See ADR 10.
"""

from __future__ import annotations

from confide.attest.base import EvidenceFailed
from confide.errors import Unavailable
from confide.identity.custodian import Custodian
from confide.store.receipts import StoredReceipt
from confide.wire.documents import InvalidDocument
from confide.wire.legacy import Deferred, Proof, SignatureText, decode_proof, unknown_chat
from confide.wire.receipt import Receipt, parse_receipt


class OlderSurface:
    """Gives the signatures of stored receipts.

    Args:
        custodian: whose keys sign.
        model_in_text: the text begins with the model (``model:req:resp``).
    """

    def __init__(self, custodian: Custodian, *, model_in_text: bool) -> None:
        self._custodian = custodian
        self._model_in_text = model_in_text

    async def proof(self, found: StoredReceipt) -> Proof:
        """Both signatures over one exchange.

        Raises:
            NotFound: there are none, and none can be made.
            Unavailable: the keys of their epoch can't be had now.
        """
        if found.legacy is None:
            raise unknown_chat()
        stored = decode_proof(found.legacy)
        if isinstance(stored, Proof):
            return stored
        return await self._made(stored, found.document)

    async def _made(self, deferred: Deferred, document: bytes) -> Proof:
        try:
            identity = await self._custodian.of_epoch(deferred.epoch)
        except EvidenceFailed:
            raise Unavailable("The keys of that time can't be had now. Please try again later.") from None
        try:
            receipt = parse_receipt(document)
        except InvalidDocument:
            raise unknown_chat() from None
        if not identity.signed(receipt):
            raise unknown_chat()
        return identity.legacy.sign(str(self._text(receipt)))

    def _text(self, receipt: Receipt) -> SignatureText:
        request, response = (one.removeprefix("sha256:") for one in (receipt.request_hash(), receipt.response_hash()))
        return SignatureText(request, response, receipt.facts.model if self._model_in_text else None)
