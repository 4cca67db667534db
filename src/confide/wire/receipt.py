"""A receipt: what happened to one request, as a list of events under one signature.

Source: Attested Confidential Inference, ``aci/1``, section 7. A receipt is read strictly, since everything in it is
signed; events of other implementations are kept as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from json.encoder import encode_basestring
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from confide.wire import jcs
from confide.wire.documents import (
    API_VERSION,
    Digest,
    Hex32,
    InvalidDocument,
    Json,
    Name,
    Seconds,
    Text,
    Version,
    plain,
    read,
    shaped,
)

_RECEIVED: Final = "request.received"
_FORWARDED: Final = "request.forwarded"
_RETURNED: Final = "response.returned"


class InvalidReceipt(InvalidDocument):
    """No receipt of ``aci/1``."""

    kind = "receipt"


# Events --------------------------------------------------------------------------------------------------------------


class RequestReceived(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=_RECEIVED):
    """The body that was processed: the bytes on the wire, or those that a protection of the transport restored."""

    body_hash: Digest


class RequestForwarded(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=_FORWARDED):
    """The bytes that inference used. A hash other than the one received shows a rewrite."""

    body_hash: Digest


class UpstreamVerified(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="upstream.verified"
):
    """What checking an upstream gave: a session, or the reason why there is none."""

    result: Literal["verified", "failed"]
    required: bool
    model_id: Text
    session_id: Hex32 | UnsetType = UNSET
    reason: Text | UnsetType = UNSET
    upstream_name: Text | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.result == "verified") != (self.session_id is not UNSET and self.reason is UNSET):
            raise ValueError("a verified upstream has a session_id and no reason")
        if self.result == "failed" and (self.reason is UNSET or self.session_id is not UNSET):
            raise ValueError("a failed verification has a reason and no session_id")


class ResponseReturned(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=_RETURNED):
    """The body as it was written to the client, framing of a stream included."""

    body_hash: Digest


class ResponseAborted(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="response.aborted"
):
    """Ours: the answer ended early; ``response.returned`` covers what had been written by then."""

    reason: Literal["client_closed", "engine_failed", "shutdown"]


class ModelManifest(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="model.manifest"
):
    """Ours: the manifest of the models that this server runs, the same that its keyset's ``subject`` binds."""

    digest: Digest


class OtherEvent(Struct, frozen=True, kw_only=True):
    """An event of a type that isn't known here; it means nothing to us and stays under the signature."""

    type: str
    members: Json


_Known = RequestReceived | RequestForwarded | UpstreamVerified | ResponseReturned | ResponseAborted | ModelManifest
Event = _Known | OtherEvent
_TYPES: Final = frozenset({_RECEIVED, _FORWARDED, "upstream.verified", _RETURNED, "response.aborted", "model.manifest"})


def _event(value: Json) -> Event:
    kind = value.get("type")
    if not isinstance(kind, str):
        raise InvalidReceipt("an event has no type")
    if kind not in _TYPES:
        return OtherEvent(type=kind, members={name: member for name, member in value.items() if name != "type"})
    try:
        known: _Known = msgspec.convert(value, _Known)
    except msgspec.ValidationError as error:
        raise InvalidReceipt(f"event {kind}: {error}") from None
    return known


def _event_value(event: Event) -> Json:
    if not isinstance(event, OtherEvent):
        return plain(event)
    if event.type in _TYPES or "type" in event.members:
        raise InvalidReceipt(f"an event of another kind can't be of type {event.type}")
    return {"type": event.type, **event.members}


def _check_order(events: Sequence[Event]) -> None:
    """Each half of the exchange is told once, and the request first."""
    if not events or not isinstance(events[0], RequestReceived):
        raise InvalidReceipt(f"the first event must be {_RECEIVED}")
    for kind, name, least in (
        (RequestReceived, _RECEIVED, 1),
        (RequestForwarded, _FORWARDED, 0),
        (ResponseReturned, _RETURNED, 1),
    ):
        count = sum(isinstance(event, kind) for event in events)
        if not least <= count <= 1:
            raise InvalidReceipt(f"{count} events are {name}")


# The document --------------------------------------------------------------------------------------------------------


class Facts(Struct, frozen=True, kw_only=True):
    """What happened, before anybody signs it."""

    receipt_id: str
    chat_id: str | None
    model: str | None
    endpoint: str
    method: str
    served_at: int
    events: tuple[Event, ...]


class Receipt(Struct, frozen=True, kw_only=True):
    """A receipt that was read: the facts, who signed them, and the exact bytes under the signature."""

    facts: Facts
    workload_keyset_digest: str
    key_id: str
    signature: bytes
    signed_bytes: bytes

    def request_hash(self) -> str:
        """The digest of the request's body."""
        return next(event.body_hash for event in self.facts.events if isinstance(event, RequestReceived))

    def response_hash(self) -> str:
        """The digest of the response's body."""
        return next(event.body_hash for event in self.facts.events if isinstance(event, ResponseReturned))


class _Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    api_version: Version
    receipt_id: Name
    chat_id: Name | None
    model: Text | None
    workload_keyset_digest: Digest
    endpoint: Name
    method: Name
    served_at: Seconds
    event_log: tuple[Json, ...]
    key_id: Name
    signature: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}\Z")]


def unsigned(facts: Facts, *, keyset_digest: str, key_id: str) -> Json:
    """The document without its signature. Its canonical bytes are what is signed.

    Raises:
        InvalidReceipt: the events don't tell one exchange.
    """
    _check_order(facts.events)
    return {
        "api_version": API_VERSION,
        "receipt_id": facts.receipt_id,
        "chat_id": facts.chat_id,
        "model": facts.model,
        "workload_keyset_digest": keyset_digest,
        "endpoint": facts.endpoint,
        "method": facts.method,
        "served_at": facts.served_at,
        "event_log": [_event_value(event) for event in facts.events],
        "key_id": key_id,
    }


def signed(unsigned_document: Json, signature: bytes) -> bytes:
    """The document as it is stored and served."""
    return jcs.canonical({**unsigned_document, "signature": signature.hex()})


class Form:
    """Writes receipts under one keyset and key, already in canonical form: their members are known, so that their order
    is, too. It costs a tenth of writing any value at all; a test holds the two equal.

    Args:
        keyset_digest: ``sha256:`` and hex.
        key_id: of the key that signs.
    """

    __slots__ = ("_key", "_keyset")

    def __init__(self, keyset_digest: str, key_id: str) -> None:
        self._key = encode_basestring(key_id)
        self._keyset = encode_basestring(keyset_digest)

    def signed(self, facts: Facts, sign: Callable[[bytes], bytes]) -> bytes:
        """The document as it is stored and served.

        Args:
            facts: what happened.
            sign: makes the signature over canonical bytes.

        Raises:
            InvalidReceipt: the events don't tell one exchange.
        """
        _check_known_order(facts.events)
        text = (
            f'{{"api_version":"{API_VERSION}","chat_id":{_quoted(facts.chat_id)},'
            f'"endpoint":{encode_basestring(facts.endpoint)},"event_log":[{",".join(map(_event_text, facts.events))}],'
            f'"key_id":{self._key},"method":{encode_basestring(facts.method)},"model":{_quoted(facts.model)},'
            f'"receipt_id":{encode_basestring(facts.receipt_id)},"served_at":{facts.served_at}'
        )
        end = f',"workload_keyset_digest":{self._keyset}}}'
        signature = sign((text + end).encode()).hex()
        return f'{text},"signature":"{signature}"{end}'.encode()


def _quoted(text: str | None) -> str:
    return "null" if text is None else encode_basestring(text)


def _event_text(event: Event) -> str:
    if isinstance(event, (RequestReceived, RequestForwarded, ResponseReturned)):
        return f'{{"body_hash":{encode_basestring(event.body_hash)},"type":"{event.__struct_config__.tag}"}}'
    if isinstance(event, ModelManifest):
        return f'{{"digest":{encode_basestring(event.digest)},"type":"model.manifest"}}'
    return jcs.canonical(_event_value(event)).decode()


_sound: Final[set[tuple[type, ...]]] = set()
"""Which kinds of events, in which order, tell one exchange: those that were found to. There are few."""


def _check_known_order(events: Sequence[Event]) -> None:
    kinds = tuple(map(type, events))
    if kinds not in _sound:
        _check_order(events)
        if OtherEvent not in kinds:
            _sound.add(kinds)


def parse_receipt(data: bytes) -> Receipt:
    """Read a receipt in any JSON encoding.

    What the caller still owes: that ``signature`` verifies over ``signed_bytes`` under the established keyset's key
    ``key_id``, that the digest is that keyset's, and that both hashes are those of the bytes sent and received.

    Raises:
        InvalidReceipt: it breaks the protocol.
    """
    value: Any = read(data, InvalidReceipt)
    document = shaped(value, _Document, InvalidReceipt)
    events = tuple(_event(event) for event in document.event_log)
    _check_order(events)
    return Receipt(
        facts=Facts(
            receipt_id=document.receipt_id,
            chat_id=document.chat_id,
            model=document.model,
            endpoint=document.endpoint,
            method=document.method,
            served_at=document.served_at,
            events=events,
        ),
        workload_keyset_digest=document.workload_keyset_digest,
        key_id=document.key_id,
        signature=bytes.fromhex(document.signature),
        signed_bytes=jcs.canonical({name: member for name, member in value.items() if name != "signature"}),
    )
