"""What makes an answer checkable: opening what was sealed, and one signed receipt for each request.

Source: Attested Confidential Inference, ``aci/1``, sections 5.2 and 7; the older surface signs the same two hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from confide.api.older import OlderSurface
from confide.errors import StoreError
from confide.identity.custodian import Custodian
from confide.identity.identity import Identity
from confide.identity.roles import Role
from confide.seal import aci_v2, legacy
from confide.seal.headers import Offer, negotiate
from confide.seal.service import OpenedRequest
from confide.seal.terms import ServiceKey
from confide.store.ids import ordered_id
from confide.store.receipts import ReceiptRow
from confide.wire.aci import SECP256K1_SUITE, X25519_SUITE
from confide.wire.digest import BodyDigest
from confide.wire.legacy import Deferred, SignatureText
from confide.wire.receipt import (
    Event,
    Facts,
    ModelManifest,
    RequestForwarded,
    RequestReceived,
    ResponseAborted,
    ResponseReturned,
)

VERSION: Final = "aci/1"
Abort = Literal["client_closed", "engine_failed", "shutdown"]


class ReceiptSink(Protocol):
    """Where receipts and replay marks are committed; :class:`confide.store.receipts.ReceiptWriter`."""

    async def commit(self, *rows: ReceiptRow) -> None:
        """Return when the rows are on the disk. Whoever is cancelled while it waits doesn't undo that."""
        ...

    async def claim(self, mark: str, *, now: int, expires: int) -> bool:
        """Whether nobody claimed this mark before."""
        ...


class Prover:
    """Opens sealed requests and begins the record of each request.

    Args:
        custodian: whose keys sign and decrypt.
        sink: where receipts go before the answer's last byte leaves.
        manifest: the digest of the model manifest, named in every receipt.
        model_in_text: the older signature's text begins with the model (``model:req:resp``).
        clock: Unix time.
    """

    def __init__(
        self,
        custodian: Custodian,
        sink: ReceiptSink,
        *,
        manifest: str,
        clock: Callable[[], float],
        model_in_text: bool = False,
    ) -> None:
        self._custodian = custodian
        self._sink = sink
        self._manifest = ModelManifest(digest=manifest)
        self._clock = clock
        self._model_in_text = model_in_text
        self._offer: tuple[tuple[Identity, ...], Offer] | None = None

    def older(self) -> OlderSurface:
        """What gives the older surface's signatures of stored receipts."""
        return OlderSurface(self._custodian, model_in_text=self._model_in_text)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer of the server carries."""
        digest = self._custodian.current.digest
        return [(b"x-aci-version", VERSION.encode()), (b"x-aci-keyset-digest", digest.encode())]

    async def open(self, request_headers: Iterable[tuple[str, str]], path: str, body: bytes) -> OpenedRequest | None:
        """What a sealed request says, or None where it isn't sealed.

        Raises:
            SealError: it can't be opened, or came before.
            StoreError: nobody knows whether it came before.
        """
        session = negotiate(request_headers, self._current_offer(), path, self._clock())
        if session is None:
            return None
        unclaimed = session.open(body)
        mark = unclaimed.mark
        if mark is None:
            return unclaimed.claimed(new=True)
        new = await self._sink.claim(mark.nonce, now=int(self._clock()), expires=mark.expires)
        return unclaimed.claimed(new=new)

    def _current_offer(self) -> Offer:
        """The keys of every identity that is still honoured; loaded once for each change."""
        honoured = self._custodian.honoured
        if self._offer is None or self._offer[0] != honoured:
            aci: list[ServiceKey] = []
            older: list[ServiceKey] = []
            for identity in honoured:
                aci.append(aci_v2.service_key(X25519_SUITE, identity.secret(Role.E2EE_X25519)))
                aci.append(aci_v2.service_key(SECP256K1_SUITE, identity.secret(Role.E2EE_SECP256K1)))
                older.append(legacy.service_key("ecdsa", identity.secret(Role.LEGACY_ECDSA)))
                older.append(legacy.service_key("ed25519", identity.secret(Role.LEGACY_ED25519)))
            self._offer = (honoured, Offer(tuple(aci), tuple(older)))
        return self._offer[1]

    def begin(self, received: BodyDigest, *, owner: str | None, endpoint: str, model: str | None) -> Record:
        """Begin the record of a request. ``received`` is what its receipt says: see :attr:`OpenedRequest.hashed`."""
        now = self._clock()
        asked = Asked(
            receipt_id=f"rcpt-{ordered_id(now, 24)}",
            model=model,
            endpoint=endpoint,
            served_at=int(now),
            owner=owner,
            digest=received.hex,
            manifest=self._manifest,
        )
        return Record(asked, self._custodian.current, self._sink, model_in_text=self._model_in_text)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a request when its record begins. ``digest`` is the SHA-256 of its body, hex."""

    receipt_id: str
    model: str | None
    endpoint: str
    served_at: int
    owner: str | None
    digest: str
    manifest: ModelManifest


class Record:
    """One request and its answer: takes every byte that is written, and signs and commits the receipt at the end."""

    __slots__ = ("_asked", "_committed", "_forwarded", "_identity", "_lost", "_model_in_text", "_sink", "_written")

    def __init__(self, asked: Asked, identity: Identity, sink: ReceiptSink, *, model_in_text: bool) -> None:
        self._asked = asked
        self._identity = identity
        self._sink = sink
        self._model_in_text = model_in_text
        self._forwarded: str | None = None
        self._written = hashlib.sha256()
        self._committed = False
        self._lost = False

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """The headers in which the answer tells of its receipt: not of one that is known to be lost."""
        keyset = (b"x-aci-keyset-digest", self._identity.digest.encode())
        return [keyset] if self._lost else [(b"x-receipt-id", self._asked.receipt_id.encode()), keyset]

    @property
    def committed(self) -> bool:
        """Whether the receipt is stored: after that nothing more may be written."""
        return self._committed

    def forwarded(self, digest: str) -> None:
        """Take the digest of the bytes that an engine in another process was sent. It isn't called for the others.

        Args:
            digest: ``sha256:`` and hex.
        """
        if self._committed:
            raise RuntimeError("an event after the receipt")
        self._forwarded = digest

    def add(self, data: bytes) -> bytes:
        """Hash bytes that are about to be written; gives them back."""
        if self._committed:
            raise RuntimeError("bytes after the receipt")
        self._written.update(data)
        return data

    async def commit(self, *, chat_id: str | None, aborted: Abort | None = None) -> None:
        """Sign the receipt and return when it is on the disk. Call it before the answer's last byte leaves.

        Raises:
            StoreError: it isn't stored; the answer must not be completed.
        """
        if self._committed:
            return
        self._committed = True
        asked, returned = self._asked, self._written.hexdigest()
        facts = Facts(
            receipt_id=asked.receipt_id,
            chat_id=chat_id,
            model=asked.model,
            endpoint=asked.endpoint,
            method="POST",
            served_at=asked.served_at,
            events=self._events(returned, aborted),
        )
        row = ReceiptRow(
            receipt_id=asked.receipt_id,
            chat_id=chat_id,
            owner=asked.owner,
            created=asked.served_at,
            document=self._identity.sign_receipt(facts),
            legacy=self._older_proof(returned),
        )
        try:
            await self._sink.commit(row)
        except StoreError:
            self._lost = True
            raise

    def _events(self, returned: str, aborted: Abort | None) -> tuple[Event, ...]:
        events: list[Event] = [RequestReceived(body_hash=f"sha256:{self._asked.digest}"), self._asked.manifest]
        if self._forwarded is not None:
            events.append(RequestForwarded(body_hash=self._forwarded))
        events.append(ResponseReturned(body_hash=f"sha256:{returned}"))
        if aborted is not None:
            events.append(ResponseAborted(reason=aborted))
        return tuple(events)

    def _older_proof(self, returned: str) -> bytes:
        """Both signatures of the older surface, or that they can be made when somebody asks: few ever do."""
        if self._identity.lasting:
            return Deferred(epoch=self._identity.epoch).encode()
        model = self._asked.model if self._model_in_text else None
        return self._identity.legacy.sign(str(SignatureText(self._asked.digest, returned, model))).encode()
