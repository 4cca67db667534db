"""A machine that is none: evidence from the development PKI, through the interfaces of the real sources.

DEVELOPMENT - NOT HARDWARE. The registers are really extended and the log really replays, so a verifier does on this
evidence what it does on a TD's, and finds a root that it does not know.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from confide.attest import dev_sign
from confide.attest.base import (
    Description,
    Evidence,
    GpuAnswer,
    KeyAlgorithm,
    check_nonce,
    check_report_data,
)
from confide.attest.dev_pki import Pki
from confide.wire.eventlog import DIGEST_SIZE, RUNTIME_EVENT, Event, Registers, as_json, build_events, extend
from confide.wire.tdx import TdReport

APP_COMPOSE: Final = (
    '{"manifest_version":2,"name":"confide-development","runner":"none","description":"DEVELOPMENT - NOT HARDWARE"}'
)
_BOOT_EVENT: Final = 0x80000001
_BOOT: Final = ((0, b"development firmware"), (1, b"development kernel"), (2, b"development command line"))
_OS_IMAGE: Final = hashlib.sha256(b"development OS image, not hardware").digest()
_KEY_PROVIDER: Final = '{"name":"none","id":""}'
_APP_ID_SIZE: Final = 20


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class State:
    """The registers of a development machine and the log that gives them."""

    registers: Registers
    events: tuple[Event, ...]


class DevMachine:
    """A virtual TD: what was measured into it, and quotes over that. Its log is that of a dstack guest."""

    def __init__(self, pki: Pki, app_compose: str = APP_COMPOSE) -> None:
        self.pki = pki
        self.app_compose = app_compose
        self.compose_hash = hashlib.sha256(app_compose.encode()).digest()
        self.app_id = self.compose_hash[:_APP_ID_SIZE]
        self.instance_id = hashlib.sha256(b"instance" + pki.seed).digest()[:_APP_ID_SIZE]
        self._registers = [bytes(DIGEST_SIZE)] * 4
        self._events: list[Event] = []
        self._boot()

    def emit(self, name: str, payload: bytes) -> None:
        """Measure one more event into register 3."""
        self._measure(Event(3, RUNTIME_EVENT, None, name, payload))

    def state(self) -> State:
        """The registers and the log of this moment."""
        first, second, third, fourth = self._registers
        return State((first, second, third, fourth), tuple(self._events))

    def quote(self, report_data: bytes) -> bytes:
        """A quote of this moment."""
        return dev_sign.sign_quote(self.pki, self._report(report_data))

    def event_log(self) -> str:
        """The log as the agent writes it."""
        return build_events(self._events)

    def vm_config(self) -> str:
        """What a verifier reads to know the machine's image and size."""
        return _json({"os_image_hash": _OS_IMAGE.hex(), "development": True})

    def info(self) -> dict[str, Any]:
        """The answer of dstack's ``Info``; ``tcb_info`` is text, as the agent sends it."""
        return {
            "app_id": self.app_id.hex(),
            "instance_id": self.instance_id.hex(),
            "app_cert": "",
            "tcb_info": _json(self._tcb_info()),
            "app_name": "confide-development",
            "device_id": "",
            "mr_aggregated": self._aggregated().hex(),
            "os_image_hash": _OS_IMAGE.hex(),
            "key_provider_info": _KEY_PROVIDER,
            "compose_hash": self.compose_hash.hex(),
            "vm_config": self.vm_config(),
        }

    def derive(self, path: str, algorithm: KeyAlgorithm) -> bytes:
        """The 32 bytes of the key for a path, the same ones for as long as the PKI exists."""
        return hmac.digest(self.pki.seed, f"{algorithm}:{path}".encode(), "sha256")

    def _boot(self) -> None:
        for register, what in _BOOT:
            self._measure(Event(register, _BOOT_EVENT, hashlib.sha384(what).digest(), "", what))
        self.emit("system-preparing", b"")
        self.emit("app-id", self.app_id)
        self.emit("compose-hash", self.compose_hash)
        self.emit("instance-id", self.instance_id)
        self.emit("boot-mr-done", b"")
        self.emit("os-image-hash", _OS_IMAGE)
        self.emit("key-provider", _KEY_PROVIDER.encode())
        self.emit("storage-fs", b"none")
        self.emit("system-ready", b"")

    def _measure(self, event: Event) -> None:
        digest = event.measured()
        self._registers[event.imr] = extend(self._registers[event.imr], digest)
        self._events.append(Event(event.imr, event.event_type, digest, event.event, event.payload))

    def _report(self, report_data: bytes) -> TdReport:
        return dev_sign.td_report(report_data, self.state().registers, b"\x01" + self.compose_hash)

    def _tcb_info(self) -> dict[str, Any]:
        state = self.state()
        return {
            "mrtd": dev_sign.MR_TD.hex(),
            **{f"rtmr{i}": register.hex() for i, register in enumerate(state.registers)},
            "mr_aggregated": self._aggregated().hex(),
            "os_image_hash": _OS_IMAGE.hex(),
            "compose_hash": self.compose_hash.hex(),
            "device_id": "",
            "app_compose": self.app_compose,
            "event_log": as_json(state.events),
        }

    def _aggregated(self) -> bytes:
        report = self._report(bytes(64))
        owners = (report.mr_config_id, report.mr_owner, report.mr_owner_config)
        return hashlib.sha256(b"".join((report.mr_td, *report.rtmrs, *owners))).digest()


class DevSource:
    """Quotes of a development machine, with their collateral."""

    def __init__(self, machine: DevMachine, now: Callable[[], datetime] = _now) -> None:
        self._machine = machine
        self._now = now

    async def quote(self, report_data: bytes) -> Evidence:
        """A development quote over 64 bytes."""
        check_report_data(report_data)
        machine = self._machine
        return Evidence(
            "tdx",
            machine.quote(report_data),
            report_data,
            event_log=machine.event_log(),
            vm_config=machine.vm_config(),
            app_compose=machine.app_compose,
            info=machine.info(),
            collateral=dev_sign.collateral(machine.pki, self._now()),
        )

    def describe(self) -> Description:
        """What this source is, and is not."""
        return Description("tdx", "development", hardware=False, text="development PKI - NOT HARDWARE")

    async def aclose(self) -> None:
        """There is nothing to let go of."""


class DevGpu:
    """The one GPU of a development machine."""

    def __init__(self, pki: Pki) -> None:
        self._pki = pki

    async def evidence(self, nonce: bytes) -> GpuAnswer:
        """Development evidence over 32 bytes."""
        check_nonce(nonce)
        return (dev_sign.gpu_evidence(self._pki, nonce),)

    async def aclose(self) -> None:
        """There is nothing to let go of."""


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()
