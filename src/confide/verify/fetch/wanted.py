"""What evidence is in a report's document, whatever its format, and which vendors' material came with it.

Only for looking material up: nothing is checked, and what can't be read is just not there. A quote is taken for what
its own bytes say that it is. Documents of ``aci/1`` and of the older surface, also nested as gateways do it, are
walked for the members that they share; Tinfoil's are read by their own reader.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from confide.errors import ConfideError
from confide.verify.evidence import MOST_QUOTE, format_of
from confide.verify.material import Item
from confide.verify.services.tinfoil_wire import read_document
from confide.wire.nvgpu import GpuEvidence, parse_payload
from confide.wire.tdx import TdxCollateral

MOST_BYTES: Final = 8 << 20
MOST_NODES: Final = 20_000
MOST_QUOTES: Final = 16
MOST_DEVICES: Final = 64
_TDX_MEMBERS: Final = frozenset(TdxCollateral.__struct_fields__)
_AMD_KEYS: Final = ("vcek", "vlek", "ask", "ark")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A quote of TDX or a report of SEV-SNP, and what is stapled to it: ``tdx``, or the names of AMD's keys."""

    quote: bytes
    tee: str
    stapled: frozenset[str]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All evidence in a document, each piece once."""

    quotes: tuple[Wanted, ...] = ()
    devices: tuple[GpuEvidence, ...] = ()


def evidence_in(document: bytes) -> Evidence:
    """The evidence in a document; none where it is malformed or too long."""
    if len(document) > MOST_BYTES:
        return Evidence()
    try:
        value = msgspec.json.decode(document)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Evidence()
    if isinstance(value, dict) and "format" in value:
        return _tinfoil(document)
    quotes: dict[bytes, Wanted] = {}
    devices: dict[GpuEvidence, None] = {}
    for members in _objects(value):
        for one in _quotes(members):
            quotes.setdefault(one.quote, one)
        devices |= dict.fromkeys(_devices(members))
    return Evidence(tuple(quotes.values())[:MOST_QUOTES], tuple(devices)[:MOST_DEVICES])


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """The JSON objects in a value, outer ones first; not more than :data:`MOST_NODES` nodes are looked at."""
    level, seen = [value], 0
    while level:
        inner: list[Any] = []
        for node in level:
            seen += 1
            if seen > MOST_NODES:
                return
            if isinstance(node, dict):
                yield node
                inner += node.values()
            elif isinstance(node, list):
                inner += node
        level = [node for node in inner if isinstance(node, (dict, list))]


def _quotes(members: Mapping[str, Any]) -> Iterator[Wanted]:
    """The quotes in an object. Only the member ``quote`` of ``aci/1`` may have collateral beside it."""
    stapled = frozenset(_stapled(members.get("collateral")))
    for name in ("quote", "intel_quote"):
        text = members.get(name)
        if isinstance(text, str) and 0 < len(text) <= 2 * MOST_QUOTE + 2:
            yield from _wanted(_hex(text.removeprefix("0x")), stapled)


def _wanted(quote: bytes, stapled: Iterable[str]) -> Iterator[Wanted]:
    tee = format_of(quote)
    if tee is not None:
        yield Wanted(quote, tee, frozenset(stapled))


def _stapled(collateral: Any) -> Iterator[str]:
    if not isinstance(collateral, dict):
        return
    if collateral.keys() >= _TDX_MEMBERS:
        yield "tdx"
    yield from (name for name in _AMD_KEYS if isinstance(collateral.get(name), str))


def _devices(members: Mapping[str, Any]) -> Iterator[GpuEvidence]:
    """The device that an object is, and those in its ``nvidia_payload``, a text or an object."""
    certificate, evidence, arch = (members.get(name) for name in ("certificate", "evidence", "arch"))
    if isinstance(certificate, str) and isinstance(evidence, str):
        yield GpuEvidence(arch if isinstance(arch, str) else "", _base64(certificate), _base64(evidence))
    payload = members.get("nvidia_payload")
    if isinstance(payload, str):
        try:
            yield from parse_payload(payload).gpus
        except ConfideError:
            return


def _tinfoil(document: bytes) -> Evidence:
    try:
        found = read_document(document)
    except ConfideError:
        return Evidence()
    stapled = {_name(item) for item in found.collateral}
    devices = dict.fromkeys((*found.gpus, *found.switches))
    return Evidence(tuple(_wanted(found.quote, stapled)), tuple(devices)[:MOST_DEVICES])


def _name(item: Item) -> str:
    return {"tdx-collateral": "tdx", "amd-crl": "crl"}.get(item.kind, item.key)


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
