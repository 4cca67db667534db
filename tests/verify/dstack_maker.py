"""A whole dstack guest in which every check of ``verify.dstack`` passes, and one thing of it changed at a time.

The registers are those that the log gives; nothing is signed, because the checks start at a report that is genuine.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import cbor2

from confide.attest import dev_sign
from confide.verify.context import Context
from confide.verify.dstack import DstackFacts, verify_dstack
from confide.verify.material import Material
from confide.verify.policy import DstackPolicy, Policy
from confide.verify.roots import Roots
from confide.verify.verdict import Ledger, Outcome
from confide.wire.eventlog import RUNTIME_EVENT, Event, build_events, replay
from confide.wire.mrconfig import version_1
from confide.wire.osimage import parse_image
from confide.wire.tdx import TdReport, parse_quote

NOW: Final = 1_790_000_000
VECTORS: Final = Path(__file__).parents[1] / "vectors" / "evidence" / "dstack"
APP_COMPOSE: Final = '{"manifest_version":2,"name":"made","runner":"docker-compose"}'
COMPOSE_HASH: Final = hashlib.sha256(APP_COMPOSE.encode()).digest()
APP_ID: Final = COMPOSE_HASH[:20]
INSTANCE_ID: Final = hashlib.sha256(b"instance").digest()[:20]
CA_KEY: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200") + b"\4" + bytes(range(64))
PROVIDER: Final = json.dumps({"name": "kms", "id": CA_KEY.hex()}, separators=(",", ":")).encode()
NO_POLICY: Final = Policy(roots=("intel",), unsafe_any_workload=True)


def digest(what: str) -> bytes:
    """48 bytes that stand for something."""
    return hashlib.sha384(what.encode()).digest()


MEASUREMENT: Final[dict[str, Any]] = {
    "version": 3,
    "image": {
        "cmdline_sha384": digest("command line"),
        "kernel_authenticode": digest("kernel"),
        "initrd_sha384": digest("initrd"),
    },
    "tdvf": {
        "ovmf": "pre202505",
        "mrtd": {"single_pass": digest("firmware, one pass"), "two_pass": digest("firmware, two passes")},
        "td_hob": b"\0\1",
    },
}


def document(
    measurement: Any = MEASUREMENT, checksums: bytes | None = None, data: bytes | None = None
) -> dict[str, str]:
    """The measurement document of an OS image."""
    data = cbor2.dumps(measurement) if data is None else data
    if checksums is None:
        listed = f"{hashlib.sha256(b'kernel').hexdigest()}  bzImage\n{hashlib.sha256(data).hexdigest()}  "
        checksums = listed.encode() + b"measurement.tdx.cbor\n"
    return {"checksum_file": base64.b64encode(checksums).decode(), "measurement": base64.b64encode(data).decode()}


IMAGE: Final = parse_image(document())


def boot_event(register: int, data: bytes) -> Event:
    """An event that the firmware measured."""
    return Event(register, 0x80000003, data, "", b"boot")


def runtime(name: str, payload: bytes = b"", version: int = 1) -> Event:
    """An event of dstack's own."""
    return Event(3, RUNTIME_EVENT, None, name, payload, version)


def _sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


EVENTS: Final = (
    boot_event(0, digest("virtual hardware")),
    boot_event(1, MEASUREMENT["image"]["kernel_authenticode"]),
    boot_event(1, _sha384(b"Calling EFI Application from Boot Option")),
    boot_event(1, _sha384(bytes(4))),
    boot_event(2, MEASUREMENT["image"]["cmdline_sha384"]),
    boot_event(2, MEASUREMENT["image"]["initrd_sha384"]),
    boot_event(1, _sha384(b"Exit Boot Services Invocation")),
    boot_event(1, _sha384(b"Exit Boot Services Returned with Success")),
    runtime("system-preparing"),
    runtime("app-id", APP_ID),
    runtime("compose-hash", COMPOSE_HASH),
    runtime("instance-id", INSTANCE_ID),
    runtime("boot-mr-done"),
    runtime("os-image-hash", IMAGE.image_hash),
    runtime("key-provider", PROVIDER, 2),
    runtime("storage-fs", b"zfs"),
    runtime("system-ready"),
    runtime("my-event", b"of the application"),
)


def report(events: tuple[Event, ...] = EVENTS, **members: bytes) -> TdReport:
    """The report of a TD into which these events were measured."""
    td = dev_sign.td_report(bytes(64), replay(events), version_1(COMPOSE_HASH))
    return replace(td, **({"mr_td": IMAGE.mr_td[1]} | members))


def aggregated(td: TdReport) -> str:
    """dstack's hash over all registers."""
    launch = (td.mr_config_id, td.mr_owner, td.mr_owner_config)
    return hashlib.sha256(b"".join((td.mr_td, *td.rtmrs, *launch))).hexdigest()


def info(td: TdReport) -> dict[str, Any]:
    """What the agent repeats of it."""
    tcb = {
        "mrtd": td.mr_td.hex(),
        **{f"rtmr{number}": register.hex() for number, register in enumerate(td.rtmrs)},
        "mr_aggregated": aggregated(td),
        "os_image_hash": IMAGE.image_hash.hex(),
        "compose_hash": COMPOSE_HASH.hex(),
        "app_compose": APP_COMPOSE,
        "device_id": "",
    }
    return {
        "app_id": APP_ID.hex(),
        "instance_id": INSTANCE_ID.hex(),
        "compose_hash": COMPOSE_HASH.hex(),
        "os_image_hash": IMAGE.image_hash.hex(),
        "mr_aggregated": aggregated(td),
        "key_provider_info": PROVIDER.decode(),
        "tcb_info": json.dumps(tcb),
    }


DSTACK_POLICY: Final = DstackPolicy(
    compose_hashes=(COMPOSE_HASH.hex(),),
    os_images=(IMAGE.image_hash.hex(),),
    app_ids=(APP_ID.hex(),),
    key_providers=(CA_KEY.hex(),),
)


def policy(dstack: DstackPolicy = DSTACK_POLICY, **members: Any) -> Policy:
    """A policy that accepts the made guest."""
    return Policy(roots=("intel",), dstack=dstack, **members)


def made_vm_config(**members: Any) -> dict[str, Any]:
    """What the agent says about the machine."""
    own = {"os_image_hash": IMAGE.image_hash.hex(), "cpu_count": 2, "tdx_measurement": document()}
    return {name: value for name, value in (own | members).items() if value is not None}


@dataclass(frozen=True)
class Guest:
    """What one verification is given."""

    td: TdReport = field(default_factory=report)
    event_log: str | bytes | None = field(default_factory=lambda: build_events(EVENTS))
    app_compose: str | None = APP_COMPOSE
    vm_config: Any = field(default_factory=lambda: json.dumps(made_vm_config()))
    info: Mapping[str, Any] | None = field(default_factory=lambda: info(report()))
    policy: Policy = field(default_factory=policy)
    material: Material = field(default_factory=Material)

    def changed(self, **members: Any) -> Guest:
        """The same with other members."""
        return replace(self, **members)

    def with_log(self, change: Callable[[list[Any]], object]) -> Guest:
        """The same report with a changed log: ``change`` edits the list of JSON objects, or returns a new one."""
        events = json.loads(self.event_log or "[]")
        changed = change(events)
        return replace(self, event_log=json.dumps(events if changed is None else changed))

    def context(self) -> Context:
        """What checks may use."""
        return Context(self.policy, Roots.of(()), NOW, self.material)

    def verify(self, ledger: Ledger | None = None) -> tuple[DstackFacts | None, Ledger]:
        """The facts and the ledger of one verification."""
        ledger = Ledger() if ledger is None else ledger
        facts = verify_dstack(
            ledger,
            self.context(),
            self.td,
            event_log=self.event_log,
            app_compose=self.app_compose,
            vm_config=self.vm_config,
            info=self.info,
        )
        return facts, ledger


def measured(*events: Event, **members: Any) -> Guest:
    """A guest into which other events were measured; what its agent repeats is left out."""
    chosen = {"td": report(events), "event_log": build_events(events), "info": None} | members
    return Guest(**chosen)


def replaced(name: str, *by: Event) -> tuple[Event, ...]:
    """The events with others in place of the one of this name."""
    return tuple(new for event in EVENTS for new in (by if event.event == name else (event,)))


def failed(ledger: Ledger) -> list[str]:
    """The steps that failed."""
    return [finding.step for finding in ledger.findings if finding.outcome is Outcome.FAIL]


def missing(ledger: Ledger) -> list[str]:
    """The steps that were not made although the policy needs them."""
    return [f.step for f in ledger.findings if f.outcome is Outcome.NOT_CHECKED and f.required]


def unmade(ledger: Ledger) -> list[str]:
    """The steps that were not made, and need not be."""
    return [f.step for f in ledger.findings if f.outcome is Outcome.NOT_CHECKED and not f.required]


def detail(ledger: Ledger, step: str) -> str:
    """What was said about a step."""
    return next(finding.detail for finding in ledger.findings if finding.step == step)


def recorded(name: str, **members: Any) -> Guest:
    """A guest that was recorded, under a policy that accepts any."""
    value = json.loads((VECTORS / f"{name}.json").read_text())
    chosen = {
        "td": parse_quote(bytes.fromhex(value["quote"])).report,
        "event_log": value["event_log"],
        "app_compose": None,
        "vm_config": value["vm_config"],
        "info": None,
        "policy": NO_POLICY,
    }
    return Guest(**(chosen | members))
