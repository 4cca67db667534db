"""What a report of ``aci/1`` carries in ``evidence``: its members in their shapes, and the material stapled to it.

The protocol leaves ``evidence`` to policies (section 4.2). Members that are not known here are left unread; those that
are known must have the right type, since guessing would be reading something else than what was meant.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from confide.verify.material import Item
from confide.verify.verdict import CheckFailed
from confide.wire.aci import InvalidReport
from confide.wire.documents import Json, shaped
from confide.wire.nvgpu import GpuEvidence

MOST_GPUS: Final = 32
MOST_QUOTE: Final = 64 * 1024
_HEX: Final = re.compile(r"([0-9a-fA-F]{2})+")
_SNP_SIZE: Final = 1184
_TDX_TYPE: Final = bytes.fromhex("81000000")
_AMD_KEYS: Final = ("vcek", "vlek", "ask", "ark")


class _Device(Struct, frozen=True):
    arch: Annotated[str, Meta(max_length=64)]
    certificate: Annotated[str, Meta(max_length=256 * 1024)]
    evidence: Annotated[str, Meta(max_length=256 * 1024)]

    def read(self) -> GpuEvidence:
        return GpuEvidence(self.arch, _base64(self.certificate), _base64(self.evidence))


class GpuMembers(Struct, frozen=True):
    """The GPUs, or why there is no evidence of them."""

    status: Literal["available", "not available"]
    reason: Annotated[str, Meta(max_length=4096)] = ""
    devices: Annotated[tuple[_Device, ...], Meta(max_length=MOST_GPUS)] = ()
    switches: Annotated[tuple[_Device, ...], Meta(max_length=MOST_GPUS)] = ()

    def read(self) -> tuple[list[GpuEvidence], list[GpuEvidence]]:
        """The evidence of GPUs, and of switches.

        Raises:
            CheckFailed: some of it is no base64, or it is there and said not to be, or the reverse.
        """
        if bool(self.devices) != (self.status == "available"):
            raise CheckFailed(f"the report shows {len(self.devices)} GPUs and says that they are {self.status}")
        return [device.read() for device in self.devices], [switch.read() for switch in self.switches]

    def unavailable(self) -> str | None:
        """Why there is no evidence, None where there is some."""
        if self.devices:
            return None
        return self.reason or "the report has no evidence of GPUs"


class CpuEvidence(Struct, frozen=True):
    """The members of ``evidence`` that are known here; null reads as absent."""

    quote: str
    quote_report_data: str | None = None
    source: str | None = None
    event_log: str | list[Any] | None = None
    vm_config: str | Json | None = None
    app_compose: str | None = None
    collateral: Json | None = None
    key_custody: Json | None = None
    gpu: GpuMembers | None = None

    def quote_bytes(self) -> bytes:
        """The quote of TDX, or the report of SEV-SNP.

        Raises:
            CheckFailed: it is not in hex, or too long.
        """
        if len(self.quote) > 2 * MOST_QUOTE or not _HEX.fullmatch(self.quote):
            raise CheckFailed(f"evidence.quote is not 1 to {MOST_QUOTE} bytes in hex")
        return bytes.fromhex(self.quote)

    def log(self) -> str | None:
        """The event log as a JSON text, in which older servers nest it and others don't."""
        if isinstance(self.event_log, list):
            return msgspec.json.encode(self.event_log).decode()
        return self.event_log

    def stapled(self) -> list[Item]:
        """The vendors' material in ``collateral``. What it is worth, its signatures say."""
        if self.collateral is None:
            return []
        if not self.collateral.keys() & set(_AMD_KEYS):
            return [Item("tdx-collateral", "", msgspec.json.encode(self.collateral), "stapled")]
        given = ((key, self.collateral.get(key)) for key in _AMD_KEYS)
        return [Item("amd-certificate", key, _base64(text), "stapled") for key, text in given if isinstance(text, str)]


def read_evidence(value: Mapping[str, Any]) -> CpuEvidence:
    """The evidence in a report.

    Raises:
        InvalidReport: a known member is missing or of another type.
    """
    return shaped(dict(value), CpuEvidence, InvalidReport)


def format_of(quote: bytes) -> str | None:
    """What a quote is by its own bytes, in the words of ``tee_type``; None where it is neither."""
    if len(quote) == _SNP_SIZE and quote[1:4] == b"\0\0\0":
        return "sev_snp"
    return "tdx" if quote[4:8] == _TDX_TYPE else None


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CheckFailed("found a text in the evidence that is no base64") from None
