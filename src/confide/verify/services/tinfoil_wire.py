"""Tinfoil's attestation documents v3, in both layouts that were served under that name: bytes to values.

Source, read for the facts: tinfoilsh/cvmimage (``tinfoil/internal/attestation``), at 5537633 and up to the commit
before 7a484d8 for the layout of keys (April to August 2026: ``report_data``, ``cpu``, ``gpu``, ``nvswitch``), at
a7f72f9 for the layout of sections (since 10 August 2026: ``challenge``, ``cpu_evidence``, ``crypto_material``,
``device_evidence``, ``collateral``); and tinfoilsh/tinfoil-go at 933174d (``verifier/envelope/envelope.go``) and
558dddc (``document/document.go``), whose constants and derivation of the second are the same. Documents of version 2
hold no nonce and are refused by name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from confide.errors import ConfideError
from confide.verify.evidence import MOST_GPUS, MOST_QUOTE
from confide.verify.material import Item
from confide.verify.services.tinfoil_collateral import Entry, stapled
from confide.verify.verdict import bounded
from confide.wire import jcs
from confide.wire.documents import Hex32
from confide.wire.nvgpu import GpuEvidence

MOST_BYTES: Final = 8 << 20
V3: Final = "https://tinfoil.sh/predicate/attestation/v3"
DERIVATION: Final = "https://tinfoil.sh/report-data/v1"
CRYPTO_MATERIAL: Final = "https://tinfoil.sh/crypto-material/v1"
DEVICE_EVIDENCE: Final = "https://tinfoil.sh/device-evidence/v1"
SPKI: Final = "https://tinfoil.sh/key/spki-fp-sha256/v1"
HPKE: Final = "https://tinfoil.sh/key/x25519-hpke/v1"
GPU: Final = "https://tinfoil.sh/format/nvidia-gpu-evidence/v1"
NVSWITCH: Final = "https://tinfoil.sh/format/nvidia-nvswitch-evidence/v1"

Platform = Literal["tdx", "snp"]
_PLATFORMS: Final[dict[str, Platform]] = {
    "tdx": "tdx",
    "sev-snp": "snp",
    "https://tinfoil.sh/format/tdx-quote/v1": "tdx",
    "https://tinfoil.sh/format/sev-snp-report/v1": "snp",
}
_S = TypeVar("_S", bound=Struct)


class InvalidTinfoil(ConfideError):
    """No document of version 3, or one whose parts are not of their shapes."""


@dataclass(frozen=True, slots=True)
class Hashed:
    """A part of a document: the hash that the document states, and that of the bytes that are there; None if absent."""

    name: str
    stated: str | None
    found: str | None


@dataclass(frozen=True, slots=True)
class Document:
    """What a document shows. ``report_data`` is what its own parts give, and what its quote must hold.

    ``tls`` is the SHA-256 of an SPKI and ``hpke`` an X25519 public key, both hex. ``nonces`` are all that it repeats.
    ``parts`` must be what they are hashed as; so must ``switches_part``, which some servers hashed before they
    formatted it anew.
    """

    layout: str
    platform: Platform
    quote: bytes
    nonce: bytes
    tls: str
    hpke: str | None
    report_data: bytes
    stated_report_data: str | None
    parts: tuple[Hashed, ...]
    switches_part: Hashed | None
    gpus: tuple[GpuEvidence, ...]
    switches: tuple[GpuEvidence, ...]
    nonces: frozenset[str]
    unknown_devices: tuple[str, ...] = ()
    collateral: tuple[Item, ...] = ()


class _Device(Struct, frozen=True):
    arch: Annotated[str, Meta(max_length=64)]
    certificate: Annotated[str, Meta(max_length=256 * 1024)]
    evidence: Annotated[str, Meta(max_length=256 * 1024)]
    nonce: Annotated[str, Meta(max_length=64)] = ""

    def read(self) -> GpuEvidence:
        return GpuEvidence(self.arch, _base64("certificate", self.certificate), _base64("evidence", self.evidence))


_Devices = Annotated[tuple[_Device, ...], Meta(max_length=MOST_GPUS)]


class _Evidences(Struct, frozen=True):
    evidences: _Devices = ()


def read_document(data: bytes) -> Document:
    """Read a document of version 3.

    Raises:
        InvalidTinfoil: it is none.
    """
    if len(data) > MOST_BYTES:
        raise InvalidTinfoil(f"the document has {len(data)} bytes; at most {MOST_BYTES} are read")
    try:
        value = jcs.parse(data)
    except jcs.InvalidJson as error:
        raise InvalidTinfoil(f"the document: {error}") from None
    kind = value.get("format") if isinstance(value, dict) else None
    if kind != V3:
        raise InvalidTinfoil(f"the format is {bounded(str(kind))!r}, expected {V3}; older ones hold no nonce")
    return _read_sections(data) if "challenge" in value else _read_keys(data)


# The layout of keys --------------------------------------------------------------------------------------------------


class _ReportData(Struct, frozen=True):
    tls_key_fp: Hex32
    hpke_key: Hex32
    nonce: Hex32
    gpu_evidence_hash: Hex32 | Literal[""] = ""
    nvswitch_evidence_hash: Hex32 | Literal[""] = ""


class _Cpu(Struct, frozen=True):
    platform: str
    report: str


class _Keys(Struct, frozen=True):
    report_data: _ReportData
    cpu: _Cpu
    gpu: msgspec.Raw = msgspec.Raw()
    nvswitch: msgspec.Raw = msgspec.Raw()


def _read_keys(data: bytes) -> Document:
    """``SHA256(TLS || HPKE || nonce [|| hash of gpu [|| hash of nvswitch]])``, over the bytes as transmitted.

    The document's own ``signature`` by its TLS key is not read: the quote binds that key already.
    """
    keys = _decode(data, _Keys, "the document")
    said = keys.report_data
    if said.nvswitch_evidence_hash and not said.gpu_evidence_hash:
        raise InvalidTinfoil("a hash of switches without one of GPUs has no place in the report data")
    gpus, switches = _evidences(keys.gpu, "gpu"), _evidences(keys.nvswitch, "nvswitch")
    bound = (said.tls_key_fp, said.hpke_key, said.nonce, said.gpu_evidence_hash, said.nvswitch_evidence_hash)
    return Document(
        layout="keys",
        platform=_platform(keys.cpu.platform),
        quote=_quote(keys.cpu.report),
        nonce=bytes.fromhex(said.nonce),
        tls=said.tls_key_fp,
        hpke=said.hpke_key,
        report_data=_padded(hashlib.sha256(bytes.fromhex("".join(bound))).digest()),
        stated_report_data=None,
        parts=(_hashed("gpu", said.gpu_evidence_hash, bytes(keys.gpu)),),
        switches_part=_hashed("nvswitch", said.nvswitch_evidence_hash, bytes(keys.nvswitch)),
        gpus=tuple(device.read() for device in gpus),
        switches=tuple(device.read() for device in switches),
        nonces=frozenset(device.nonce for device in (*gpus, *switches) if device.nonce),
    )


def _evidences(raw: msgspec.Raw, name: str) -> _Devices:
    return _decode(bytes(raw), _Evidences, name).evidences if bytes(raw) not in (b"", b"null") else ()


def _hashed(name: str, stated: str, data: bytes) -> Hashed:
    is_there = data not in (b"", b"null")
    return Hashed(name, stated or None, hashlib.sha256(data).hexdigest() if is_there else None)


# The layout of sections ----------------------------------------------------------------------------------------------


class _Challenge(Struct, frozen=True):
    nonce: Hex32
    report_data: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}\Z")]
    report_data_algorithm: str


class _Endorsed(Struct, frozen=True):
    crypto_material_hash: Hex32
    device_evidence_hash: Hex32


class _CpuEvidence(Struct, frozen=True):
    format: str
    report_base64: str
    endorsed: _Endorsed


class _Sections(Struct, frozen=True):
    challenge: _Challenge
    cpu_evidence: _CpuEvidence
    crypto_material: str
    device_evidence: str
    collateral: Annotated[tuple[Entry, ...], Meta(max_length=64)] = ()


class _Key(Struct, frozen=True, forbid_unknown_fields=True):
    id: Annotated[str, Meta(min_length=1)]
    format: str
    data: str


class _KeySection(Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    items: Annotated[tuple[_Key, ...], Meta(max_length=64)]


class _DeviceItem(Struct, frozen=True, forbid_unknown_fields=True):
    id: Annotated[str, Meta(min_length=1)]
    kind: str
    vendor: str
    format: str
    evidence: msgspec.Raw


class _DeviceSection(Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    items: Annotated[tuple[_DeviceItem, ...], Meta(max_length=64)]


def _read_sections(data: bytes) -> Document:
    """``SHA256(derivation || nonce || SHA256(keys) || SHA256(devices))``, over the sections' bytes inside base64."""
    read = _decode(data, _Sections, "the document")
    if read.challenge.report_data_algorithm != DERIVATION:
        raise InvalidTinfoil(f"report data is derived by {bounded(read.challenge.report_data_algorithm)!r}")
    keys_bytes = _base64("crypto_material", read.crypto_material)
    devices_bytes = _base64("device_evidence", read.device_evidence)
    keys = _section(keys_bytes, _KeySection, CRYPTO_MATERIAL).items
    devices = _section(devices_bytes, _DeviceSection, DEVICE_EVIDENCE).items
    _check_ids([item.id for item in keys])
    _check_ids([item.id for item in devices])
    tls = _key(keys, "tls", SPKI)
    if tls is None:
        raise InvalidTinfoil("crypto_material has no TLS key")
    nonce, endorsed = bytes.fromhex(read.challenge.nonce), read.cpu_evidence.endorsed
    hashes = hashlib.sha256(keys_bytes), hashlib.sha256(devices_bytes)
    bound = DERIVATION.encode() + nonce + hashes[0].digest() + hashes[1].digest()
    gpus, switches, unknown = _devices(devices)
    platform = _platform(read.cpu_evidence.format)
    return Document(
        layout="sections",
        platform=platform,
        quote=_quote(read.cpu_evidence.report_base64),
        nonce=nonce,
        tls=tls,
        hpke=_key(keys, "hpke", HPKE),
        report_data=_padded(hashlib.sha256(bound).digest()),
        stated_report_data=read.challenge.report_data,
        parts=(
            Hashed("crypto_material", endorsed.crypto_material_hash, hashes[0].hexdigest()),
            Hashed("device_evidence", endorsed.device_evidence_hash, hashes[1].hexdigest()),
        ),
        switches_part=None,
        gpus=tuple(device.read() for device in gpus),
        switches=tuple(device.read() for device in switches),
        nonces=frozenset(device.nonce for device in (*gpus, *switches) if device.nonce),
        unknown_devices=unknown,
        collateral=tuple(stapled(read.collateral)),
    )


def _devices(items: Sequence[_DeviceItem]) -> tuple[list[_Device], list[_Device], tuple[str, ...]]:
    """GPUs, switches, and the formats that are not known here."""
    gpus: list[_Device] = []
    switches: list[_Device] = []
    unknown: list[str] = []
    for item in items:
        if item.format == GPU:
            gpus.append(_decode(bytes(item.evidence), _Device, f"device {bounded(item.id)}"))
        elif item.format == NVSWITCH:
            switches += _decode(bytes(item.evidence), _Evidences, f"device {bounded(item.id)}").evidences
        else:
            unknown.append(bounded(item.format))
    if len(gpus) > MOST_GPUS or len(switches) > MOST_GPUS:
        raise InvalidTinfoil(f"more than {MOST_GPUS} devices")
    return gpus, switches, tuple(unknown)


def _key(items: Sequence[_Key], name: str, kind: str) -> str | None:
    """The key of this id, which must be of the format that is known for it."""
    for item in items:
        if item.id == name:
            if item.format != kind:
                raise InvalidTinfoil(f"the key {name!r} has the format {bounded(item.format)!r}, expected {kind}")
            _decode(msgspec.json.encode(item.data), Hex32, f"the key {name!r}")
            return item.data
    return None


def _check_ids(ids: Sequence[str]) -> None:
    if len(set(ids)) != len(ids):
        raise InvalidTinfoil("two items of one section have the same id")


def _section(data: bytes, shape: type[_S], kind: str) -> Any:
    """A section's value. It is read as strictly as the document: one meaning for one text."""
    try:
        jcs.parse(data)
    except jcs.InvalidJson as error:
        raise InvalidTinfoil(f"a section: {error}") from None
    section: Any = _decode(data, shape, "a section")
    if section.format != kind:
        raise InvalidTinfoil(f"a section has the format {bounded(section.format)!r}, expected {kind}")
    return section


# What both have ------------------------------------------------------------------------------------------------------


def _decode(data: bytes, shape: Any, what: str) -> Any:
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidTinfoil(f"{what}: {error}") from None


def _platform(name: str) -> Platform:
    try:
        return _PLATFORMS[name]
    except KeyError:
        raise InvalidTinfoil(f"evidence of {bounded(name)!r} is not known here") from None


def _quote(text: str) -> bytes:
    if len(text) > 2 * MOST_QUOTE:
        raise InvalidTinfoil(f"the quote is longer than {MOST_QUOTE} bytes")
    return _base64("the quote", text)


def _padded(digest: bytes) -> bytes:
    return digest.ljust(64, b"\0")


def _base64(what: str, text: str) -> bytes:
    """Bytes in the one spelling that base64 has for them."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidTinfoil(f"{what} is no base64") from None
    if base64.b64encode(data).decode() != text:
        raise InvalidTinfoil(f"{what} is no base64 in its one spelling")
    return data
