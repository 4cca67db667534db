"""The event log of a dstack guest as values: bounded, and what the guest's OS measured told apart from the rest.

Source: the public dstack repository, ``cc-eventlog`` and ``dstack-util`` (``system_setup.rs``: the order of events).
RTMR3 belongs to dstack alone, which measures only its own kind of event there. An event of another kind carries a
digest that nothing ties to its name and payload, so one that sits in RTMR3 makes the log a forgery.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from confide.verify.verdict import CheckFailed
from confide.wire.binary import from_hex
from confide.wire.eventlog import Event, parse_events

MOST_LOG: Final = 2 << 20
MOST_EVENTS: Final = 4096
MOST_PAYLOAD: Final = 256 * 1024
MOST_TEXT: Final = 2 << 20
_LONGEST_SHOWN: Final = 200
READY: Final = "system-ready"
"""What the OS measures last before the application starts; all later events are the application's."""
_REQUIRED: Final = ("app-id", "compose-hash", "instance-id", "key-provider")
_SIZES: Final = {"app-id": (20,), "compose-hash": (32,), "instance-id": (0, 20), "os-image-hash": (32,)}
_REPEATED: Final = frozenset({"init-script-hash"})


class _Provider(msgspec.Struct):
    name: str
    id: str


@dataclass(frozen=True, slots=True)
class System:
    """What the OS measured before the application started.

    ``os_image_hash`` is None where the OS measured none, which it does only when a KMS gave it its keys.
    ``instance_id`` is empty where the application asked for none. ``application`` names the application's own events.
    """

    app_id: bytes
    compose_hash: bytes
    instance_id: bytes
    provider: str
    provider_id: bytes
    provider_text: str
    os_image_hash: bytes | None
    gpu_policy_hash: bytes | None
    init_script_hashes: tuple[bytes, ...]
    names: tuple[str, ...]
    application: tuple[str, ...]


def read_log(text: str | bytes) -> tuple[Event, ...]:
    """The events of a log.

    Raises:
        CheckFailed: there is too much of it.
        MalformedEvidence: it is not well-formed.
    """
    if len(text) > MOST_LOG:
        raise CheckFailed(f"the event log is longer than {MOST_LOG} characters")
    events = parse_events(text)
    if len(events) > MOST_EVENTS:
        raise CheckFailed(f"found {len(events)} events, expected {MOST_EVENTS} at most")
    if any(len(event.payload) > MOST_PAYLOAD for event in events):
        raise CheckFailed(f"an event's payload is longer than {MOST_PAYLOAD} bytes")
    return events


def read_system(events: tuple[Event, ...]) -> System:
    """What the OS measured, from a log that was found to replay.

    Raises:
        CheckFailed: it says so ambiguously, or leaves something out.
    """
    for place, event in enumerate(events):
        if event.is_runtime != (event.imr == 3):
            raise CheckFailed(f"event {place} has type {event.event_type:#x} in RTMR{event.imr}, which no guest does")
    own = [event for event in events if event.is_runtime]
    ready = [place for place, event in enumerate(own) if event.event == READY]
    if len(ready) != 1:
        raise CheckFailed(f"found {len(ready)} events {READY!r}, expected one")
    system, application = own[: ready[0]], own[ready[0] + 1 :]
    payloads = _payloads(system)
    provider_text, provider = _provider(payloads["key-provider"])
    return System(
        app_id=payloads["app-id"],
        compose_hash=payloads["compose-hash"],
        instance_id=payloads["instance-id"],
        provider=provider.name,
        provider_id=from_hex(provider.id, "the key provider's id"),
        provider_text=provider_text,
        os_image_hash=payloads.get("os-image-hash"),
        gpu_policy_hash=payloads.get("gpu-policy-hash"),
        init_script_hashes=tuple(event.payload for event in system if event.event == "init-script-hash"),
        names=tuple(event.event for event in system),
        application=tuple(event.event for event in application),
    )


def _payloads(system: list[Event]) -> dict[str, bytes]:
    """The payload of each event, by names that are there once and can be read in one way."""
    counts = Counter(event.event for event in system)
    twice = [name for name, count in counts.items() if count > 1 and name not in _REPEATED]
    if twice:
        raise CheckFailed(f"found {twice[0]!r} {counts[twice[0]]} times before {READY!r}, expected it once")
    # The older digest is over "name:payload", so a colon in a name could be moved to begin the payload elsewhere.
    colons = [event.event for event in system if ":" in event.event]
    if colons:
        raise CheckFailed(f"found {colons[0]!r} before {READY!r}; the OS measures nothing by a name with a colon")
    missing = [name for name in _REQUIRED if name not in counts]
    if missing:
        raise CheckFailed(f"found no {', '.join(missing)} before {READY!r}")
    payloads = {event.event: event.payload for event in system}
    for name, sizes in _SIZES.items():
        if name in payloads and len(payloads[name]) not in sizes:
            raise CheckFailed(f"found {len(payloads[name])} bytes in {name!r}, expected {sizes[-1]}")
    return payloads


def _provider(payload: bytes) -> tuple[str, _Provider]:
    try:
        return payload.decode(), msgspec.json.decode(payload, type=_Provider)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as failed:
        raise CheckFailed(f"the event 'key-provider' can't be read: {failed}") from None


def json_object(value: object, what: str) -> Mapping[str, Any]:
    """A JSON object that came as such, or as a text.

    Raises:
        CheckFailed: it is neither.
    """
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, (str, bytes)) or len(value) > MOST_TEXT:
        raise CheckFailed(f"{what} is no JSON object in a text of up to {MOST_TEXT} characters")
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as failed:
        raise CheckFailed(f"{what} can't be read: {failed}") from None


def utf8(text: str, what: str) -> bytes:
    """The bytes of a text that is not too long.

    Raises:
        CheckFailed: it is, or holds halves of characters.
    """
    if len(text) > MOST_TEXT:
        raise CheckFailed(f"{what} is longer than {MOST_TEXT} characters")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise CheckFailed(f"{what} is no text that UTF-8 can hold") from None


def shown(value: object) -> str:
    """A value as an error may quote it. One that is no text may be nested without end, so only its type is named."""
    return repr(value[:_LONGEST_SHOWN]) if isinstance(value, str) else f"a {type(value).__name__}"
