"""dstack guests: which application runs on which OS image, as the registers of a genuine TD prove it.

Source: the public dstack repository, ``cc-eventlog``, ``dstack-types``, ``dstack-mr`` and ``dstack-util``, 0.5 and 0.6.
The guest's OS measures its application into RTMR3 before it starts it, as events with a name and a payload. So the log
says what runs, as far as the OS is one that measures honestly: that the OS is such a one is a question of its own
(steps 6 and 8), and without its answer every event is only that OS's word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from confide.verify.context import Context
from confide.verify.guest import System, json_object, read_log, read_system, shown, utf8
from confide.verify.policy import DstackPolicy, TdMeasurement
from confide.verify.verdict import CheckFailed, Checks, Ledger, NotChecked, Steps
from confide.wire import mrconfig
from confide.wire.eventlog import Event, replay
from confide.wire.osimage import OsImage, parse_image
from confide.wire.tdx import TdReport

DSTACK: Final = Steps.of(
    "dstack",
    "dstack guest",
    "Dstack-TEE/dstack: cc-eventlog, dstack-types, dstack-mr, dstack-util",
    ("event log", "There is a log of what was measured, and it is well-formed."),
    (
        "replay",
        "The log is the one behind RTMR0 to RTMR3; digests of dstack's own events are computed, never believed.",
    ),
    (
        "system events",
        "What the OS measured before it handed over to the application is unambiguous and complete; what the "
        "application measured itself is left out.",
    ),
    ("application description", "This text is the one whose hash was measured; every image and script is in it."),
    ("launch configuration", "The host committed to the same application before the TD started (MRCONFIGID)."),
    (
        "OS image measured",
        "MRTD, RTMR1 and RTMR2 are those of one OS image: firmware, kernel, command line, initial RAM disk. RTMR0 "
        "(virtual hardware, ACPI tables) is not compared.",
    ),
    ("repeated values", "What the guest's agent says beside the evidence does not contradict it."),
    ("OS image accepted", "The policy accepts this OS image."),
    ("compose hash accepted", "The policy accepts this application description."),
    ("app id accepted", "The policy accepts this application id."),
    ("key provider accepted", "The policy accepts the provider that gave the guest its keys."),
)
_REGISTERS: Final = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
_BOOT_REGISTERS: Final = ("mr_td", "rtmr0", "rtmr1", "rtmr2")
_MOST_NAMES: Final = 64


@dataclass(frozen=True, slots=True)
class DstackFacts:
    """What the log proves about a guest; hashes and ids in hex.

    ``app_compose`` is the description only where its hash is the measured one. ``os_measured`` says that the TD's boot
    registers are those of the image ``os_image_hash``; otherwise that hash is the OS's word about itself, or None.
    """

    compose_hash: str | None = None
    app_id: str | None = None
    instance_id: str | None = None
    os_image_hash: str | None = None
    key_provider: Mapping[str, str] | None = None
    app_compose: str | None = None
    os_measured: bool = False


@dataclass(frozen=True, slots=True)
class _Guest:
    """One guest while it is verified."""

    context: Context
    td: TdReport
    system: System
    app_compose: str | None
    vm_config: str | Mapping[str, Any] | None
    info: Mapping[str, Any] | None

    @property
    def policy(self) -> DstackPolicy:
        return self.context.policy.dstack

    def config(self) -> Mapping[str, Any]:
        return {} if self.vm_config in (None, "") else json_object(self.vm_config, "vm_config")


def verify_dstack(
    ledger: Ledger,
    context: Context,
    td: TdReport,
    *,
    event_log: str | bytes | None,
    app_compose: str | None,
    vm_config: str | Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
    subject: str = "",
) -> DstackFacts | None:
    """Check a dstack guest's log and what goes with it against a TD's report.

    What the caller still owes: that the report is genuine, and that the quote is over the caller's own challenge.

    Args:
        td: the report of a quote whose signatures were verified.
        event_log: JSON text as the guest's agent gives it.
        app_compose: the application description, byte for byte.
        vm_config: what the agent says about the machine; from OS 0.6 on it holds the image's measurement document.
        info: the answer of the agent's ``Info``, which repeats much of the above.

    Returns:
        What the log proves; None where it proves nothing. It counts only if the verdict over the ledger is good.
    """
    facts: DstackFacts | None = None
    with ledger.group(DSTACK, subject) as checks:
        events = checks.need(1, lambda: _read(event_log, context.policy.dstack), lambda read: f"{len(read)} events")
        checks.need(2, lambda: _check_replay(events, td))
        system = checks.need(3, lambda: read_system(events), lambda read: f"{len(read.names)} system events")
        guest = _Guest(context, td, system, app_compose, vm_config, info)
        facts = _check_guest(checks, guest)
        ledger.facts[f"dstack {subject}".rstrip()] = _shown(facts, system)
    return facts


def _check_guest(checks: Checks, guest: _Guest) -> DstackFacts:
    is_described = checks.check(4, lambda: _check_compose(guest))
    checks.check(5, lambda: _check_launch(guest))
    image = _check_image(checks, guest)
    system = guest.system
    stated = system.os_image_hash
    facts = DstackFacts(
        compose_hash=system.compose_hash.hex(),
        app_id=system.app_id.hex(),
        instance_id=system.instance_id.hex(),
        os_image_hash=image.image_hash.hex() if image else stated.hex() if stated else None,
        key_provider={"name": system.provider, "id": system.provider_id.hex()},
        app_compose=guest.app_compose if is_described else None,
        os_measured=image is not None,
    )
    checks.check(7, lambda: _check_repeated(guest, facts))
    checks.check(8, lambda: _check_os(guest, facts))
    checks.check(9, lambda: _check_listed(facts.compose_hash, guest.policy.compose_hashes, "compose hash"))
    checks.check(10, lambda: _check_listed(facts.app_id, guest.policy.app_ids, "app id"))
    checks.check(11, lambda: _check_provider(guest))
    return facts


# The log -------------------------------------------------------------------------------------------------------------


def _read(event_log: str | bytes | None, policy: DstackPolicy) -> tuple[Event, ...]:
    if not event_log:
        raise NotChecked("there is no event log, so this is no dstack guest that shows itself", required=_wants(policy))
    return read_log(event_log)


def _wants(policy: DstackPolicy) -> bool:
    return bool(policy.compose_hashes or policy.os_images or policy.app_ids or policy.key_providers)


def _check_replay(events: tuple[Event, ...], td: TdReport) -> None:
    for place, event in enumerate(events):
        if event.is_runtime and event.digest not in (None, event.measured()):
            raise CheckFailed(f"event {place} ({event.event!r}) has another digest than its name and payload give")
    for name, replayed, quoted in zip(_REGISTERS, replay(events), td.rtmrs, strict=True):
        if replayed != quoted:
            raise CheckFailed(f"{name}: the log gives {replayed.hex()}, expected {quoted.hex()} as in the quote")


def _check_compose(guest: _Guest) -> str:
    if guest.app_compose is None:
        reason = "the application description is not at hand; its measured hash is known all the same"
        raise NotChecked(reason, required=False)
    text = utf8(guest.app_compose, "the application description")
    found, expected = hashlib.sha256(text).hexdigest(), guest.system.compose_hash.hex()
    if found != expected:
        raise CheckFailed(f"found a description with the hash {found}, expected {expected} as measured")
    return found


# What the host committed to ------------------------------------------------------------------------------------------


def _check_launch(guest: _Guest) -> str:
    system, found = guest.system, guest.td.mr_config_id
    if not any(found):
        raise NotChecked("MRCONFIGID is zero: only RTMR3 binds the application", required=False)
    if found[0] == 1:
        expected = mrconfig.version_1(system.compose_hash)
    elif found[0] == 2:
        expected = mrconfig.version_2(system.compose_hash, system.app_id, system.provider, system.provider_id)
    elif found[0] == 3:
        expected = _launch_document(guest)
    else:
        raise CheckFailed(f"found MRCONFIGID of version {found[0]}, expected 1, 2 or 3")
    if found != expected:
        raise CheckFailed(f"found MRCONFIGID {found.hex()}, expected {expected.hex()} for what was measured")
    return f"version {found[0]}"


def _launch_document(guest: _Guest) -> bytes:
    """The register for the document in ``vm_config``, whose members must be what the guest measured."""
    text = guest.config().get("mr_config")
    if not isinstance(text, str):
        reason = "MRCONFIGID names a document that is not at hand; RTMR3 binds the application all the same"
        raise NotChecked(reason, required=False)
    data, system = utf8(text, "mr_config"), guest.system
    document = mrconfig.parse_document(data)
    policy = system.gpu_policy_hash
    measured = {
        "compose_hash": system.compose_hash.hex(),
        "provider_name": system.provider,
        "app_id": system.app_id.hex(),
        "instance_id": system.instance_id.hex(),
        "key_provider_id": system.provider_id.hex(),
        "gpu_policy_hash": "" if policy is None else policy.hex(),
        "init_script_hashes": tuple(one.hex() for one in system.init_script_hashes),
    }
    for name, expected in measured.items():
        found = getattr(document, name)
        if found not in (None, expected):
            raise CheckFailed(f"found {name} = {found!r} in mr_config, expected {expected!r} as measured")
    return mrconfig.version_3(data)


# What the agent repeats ----------------------------------------------------------------------------------------------


def _check_repeated(guest: _Guest, facts: DstackFacts) -> str:
    if not guest.info:
        raise NotChecked("nothing is repeated", required=False)
    tcb = guest.info.get("tcb_info")
    sources = [guest.info] if tcb in (None, "") else [guest.info, json_object(tcb, "tcb_info")]
    expected = dict(_repeatable(guest, facts))
    compared = [(name, source[name]) for source in sources for name in expected if source.get(name) not in (None, "")]
    for name, found in compared:
        _compare(name, found, expected[name])
    if not compared:
        raise NotChecked("nothing is repeated", required=False)
    return f"{len(compared)} values"


def _repeatable(guest: _Guest, facts: DstackFacts) -> Iterator[tuple[str, str]]:
    td = guest.td
    yield from (("app_id", guest.system.app_id.hex()), ("instance_id", guest.system.instance_id.hex()))
    yield from (("compose_hash", guest.system.compose_hash.hex()), ("mrtd", td.mr_td.hex()))
    yield from zip(_REGISTERS, (register.hex() for register in td.rtmrs), strict=True)
    yield "mr_aggregated", _aggregated(td).hex()
    yield "key_provider_info", guest.system.provider_text
    if facts.os_image_hash is not None:
        yield "os_image_hash", facts.os_image_hash
    if facts.app_compose is not None:
        yield "app_compose", facts.app_compose


def _compare(name: str, found: object, expected: str) -> None:
    if found != expected and not (isinstance(found, str) and found.lower() == expected):
        raise CheckFailed(f"found {name} = {shown(found)}, expected {shown(expected)}")


def _aggregated(td: TdReport) -> bytes:
    """dstack's one hash for everything: all registers, and the launch configuration where there is any."""
    launch = (td.mr_config_id, td.mr_owner, td.mr_owner_config)
    parts = (td.mr_td, *td.rtmrs, *(launch if any(map(any, launch)) else ()))
    return hashlib.sha256(b"".join(parts)).digest()


# The OS image --------------------------------------------------------------------------------------------------------


def _check_image(checks: Checks, guest: _Guest) -> OsImage | None:
    """The image whose registers these are, None where that is not shown."""
    found: list[OsImage] = []

    def measured() -> str:
        found.append(_image(guest))
        return _said(found[0], guest.system.os_image_hash)

    return found[0] if checks.check(6, measured) else None


def _image(guest: _Guest) -> OsImage:
    config = guest.config()
    document = config.get("tdx_measurement")
    image = parse_image(json_object(document, "tdx_measurement")) if document is not None else _given_image(guest)
    stated = config.get("os_image_hash")
    if document is not None and stated not in (None, "", image.image_hash.hex()):
        raise CheckFailed(f"found os_image_hash = {shown(stated)} in vm_config, expected {image.image_hash.hex()}")
    td = guest.td
    if td.mr_td not in image.mr_td:
        raise CheckFailed(f"found MRTD {td.mr_td.hex()}, expected {' or '.join(one.hex() for one in image.mr_td)}")
    for name, found, expected in (("RTMR1", td.rtmr1, image.rtmr1), ("RTMR2", td.rtmr2, image.rtmr2)):
        if found != expected:
            raise CheckFailed(f"found {name} {found.hex()}, expected {expected.hex()} for the OS image")
    return image


def _given_image(guest: _Guest) -> OsImage:
    """The image by a document that came some other way, for the hash that the guest measured."""
    stated = guest.system.os_image_hash
    for item in guest.context.material.of("dstack-image"):
        image = parse_image(json_object(item.data, "the document of the OS image"))
        if image.image_hash == stated:
            return image
    pinned = _is_pinned(guest.context.policy.tdx.measurements, guest.td)
    reason = "there is no measurement document of the OS image (dstack before 0.6 has none)"
    more = "; the policy pins MRTD and RTMR0 to RTMR2 instead" if pinned else ""
    raise NotChecked(reason + more, required=bool(guest.policy.os_images) and not pinned)


def _is_pinned(measurements: tuple[TdMeasurement, ...], td: TdReport) -> bool:
    """Whether the policy accepts this TD by an entry that names all that is measured up to the kernel's start."""
    return any(all(getattr(one, name) == getattr(td, name).hex() for name in _BOOT_REGISTERS) for one in measurements)


def _said(image: OsImage, stated: bytes | None) -> str:
    said = image.image_hash.hex()
    return said if stated in (None, image.image_hash) else f"{said} (the key provider names {stated.hex()})"


# What the policy accepts ---------------------------------------------------------------------------------------------


def _check_os(guest: _Guest, facts: DstackFacts) -> str:
    """An unknown OS may measure whatever it likes, so nothing in the log can be demanded without naming the OS too."""
    if not guest.policy.os_images:
        required = _wants(guest.policy) and not guest.context.policy.tdx.measurements
        more = ", nor registers of the TD: without them the log is the word of an unknown OS" if required else ""
        raise NotChecked(f"the policy names no OS image{more}", required=required)
    return _check_listed(facts.os_image_hash, guest.policy.os_images, "OS image")


def _check_listed(found: str | None, accepted: tuple[str, ...], what: str) -> str:
    if not accepted:
        raise NotChecked(f"the policy names no {what}", required=False)
    if found is None:
        raise NotChecked(f"no {what} was measured")
    if found not in accepted:
        raise CheckFailed(f"found the {what} {found}, expected one of {', '.join(accepted)}")
    return found


def _check_provider(guest: _Guest) -> str:
    """A KMS has two root keys: the one of its CA, whose SubjectPublicKeyInfo is measured, and one on secp256k1.

    Where the policy names the latter only, its signatures decide (key custody), and here nothing can be compared.
    """
    accepted, system = guest.policy.key_providers, guest.system
    if not accepted:
        raise NotChecked("the policy names no key provider", required=False)
    found = system.provider_id.hex()
    if found in accepted:
        return system.provider
    if system.provider == "kms" and all(is_signing_root(one) for one in accepted):
        reason = "the policy names roots of the KMS's signatures, and the measured key is that of its CA"
        raise NotChecked(reason, required=False)
    raise CheckFailed(f"found the key provider {system.provider} {found}, expected one of {', '.join(accepted)}")


def is_signing_root(key: str) -> bool:
    """Whether a key in ``policy.dstack.key_providers`` is a compressed point, the form of a KMS's signing root."""
    return len(key) == 66 and key[:2] in ("02", "03")


def _shown(facts: DstackFacts, system: System) -> dict[str, Any]:
    proven = {name: getattr(facts, name) for name in DstackFacts.__slots__ if name != "app_compose"}
    stated = system.os_image_hash
    return proven | {
        "os_image_event": None if stated is None else stated.hex(),
        "key_provider": dict(facts.key_provider or {}),
        "events": list(system.names[:_MOST_NAMES]),
        "application_events": list(system.application[:_MOST_NAMES]),
    }
