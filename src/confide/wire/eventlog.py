"""dstack's event log: what was measured into the four RTMRs of a TD, in order.

Source: the public dstack repository, ``cc-eventlog``. A register starts as 48 zeros, and each event extends it:
``register = SHA384(register || digest)``. dstack's own events (type 0x08000001) say in their name and payload what was
measured, so their digest is computed here and never taken from the log: newer agents leave it out, and a log whose
digest and payload disagree must not replay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from confide.wire import jcs
from confide.wire.binary import MalformedEvidence, from_hex

RUNTIME_EVENT: Final = 0x08000001
REGISTERS: Final = 4
DIGEST_SIZE: Final = 48
Registers = tuple[bytes, bytes, bytes, bytes]


@dataclass(frozen=True, slots=True)
class Event:
    """One measured event. ``digest`` is what the log says, None where it says nothing."""

    imr: int
    event_type: int
    digest: bytes | None
    event: str
    payload: bytes
    version: int = 1

    @property
    def is_runtime(self) -> bool:
        """Whether dstack measured it by name and payload."""
        return self.event_type == RUNTIME_EVENT

    def measured(self) -> bytes:
        """What extends the register: computed for dstack's own events, else the log's digest."""
        if self.is_runtime:
            return runtime_digest(self.event, self.payload, self.version)
        if self.digest is None:
            raise MalformedEvidence(f"event log: an event of type {self.event_type:#x} has no digest")
        return self.digest


class _Event(msgspec.Struct):
    imr: int
    event_type: int
    event: str = ""
    event_payload: str = ""
    digest: str | None = None
    version: int | None = None


def runtime_digest(name: str, payload: bytes, version: int = 1) -> bytes:
    """The digest of one of dstack's own events, in the older (1) or the newer form (2)."""
    if version == 1:
        preimage = b":".join((RUNTIME_EVENT.to_bytes(4, "little"), name.encode(), payload))
    elif version == 2:
        preimage = jcs.canonical({"name": name, "payload": payload.hex(), "type": RUNTIME_EVENT})
    else:
        raise MalformedEvidence(f"event log: version {version} of an event; 1 and 2 are known")
    return hashlib.sha384(preimage).digest()


def parse_events(text: str | bytes) -> tuple[Event, ...]:
    """The events in the JSON text of a log."""
    try:
        decoded = msgspec.json.decode(text, type=list[_Event])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as failed:
        raise MalformedEvidence(f"event log: {failed}") from None
    return tuple(_event(position, event) for position, event in enumerate(decoded))


def build_events(events: Iterable[Event]) -> str:
    """The JSON text of a log."""
    return msgspec.json.encode(as_json(events)).decode()


def as_json(events: Iterable[Event]) -> list[dict[str, Any]]:
    """A log as JSON values."""
    return [_as_json(event) for event in events]


def replay(events: Iterable[Event]) -> Registers:
    """The four registers after these events."""
    registers = [bytes(DIGEST_SIZE)] * REGISTERS
    for event in events:
        registers[event.imr] = extend(registers[event.imr], event.measured())
    return registers[0], registers[1], registers[2], registers[3]


def extend(register: bytes, digest: bytes) -> bytes:
    """A register after one more digest."""
    return hashlib.sha384(register + digest).digest()


def _event(position: int, event: _Event) -> Event:
    where = f"event log, event {position}"
    digest = from_hex(event.digest, f"{where}: the digest") if event.digest else None
    if digest is not None and len(digest) != DIGEST_SIZE:
        raise MalformedEvidence(f"{where}: the digest is {len(digest)} bytes long, not {DIGEST_SIZE}")
    if event.imr not in range(REGISTERS):
        raise MalformedEvidence(f"{where}: there is no register {event.imr}")
    parsed = Event(
        event.imr,
        event.event_type,
        digest,
        event.event,
        from_hex(event.event_payload, f"{where}: the payload"),
        1 if event.version is None else event.version,
    )
    parsed.measured()
    return parsed


def _as_json(event: Event) -> dict[str, Any]:
    value: dict[str, Any] = {
        "imr": event.imr,
        "event_type": event.event_type,
        "digest": "" if event.digest is None else event.digest.hex(),
        "event": event.event,
        "event_payload": event.payload.hex(),
    }
    return value if event.version == 1 else value | {"version": event.version}
