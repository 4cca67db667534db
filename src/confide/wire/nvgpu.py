"""Evidence of NVIDIA GPUs: the SPDM 1.1 measurement exchange, and the JSON payload that carries it.

Source: DMTF DSP0274 1.1, GET_MEASUREMENTS and MEASUREMENTS; NVIDIA's vendor fields in the opaque data as its public
nvtrust samples hold them. A GPU hands out the request and the signed response one after the other, without framing.
Well-formed only; the signature is over everything before it.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

import msgspec

from confide.wire.binary import MalformedEvidence, Reader

NONCE_SIZE: Final = 32
SIGNATURE_SIZE: Final = 96
DRIVER_VERSION: Final = 3
VBIOS_VERSION: Final = 6
NVDEC0_STATUS: Final = 11
CHIP_SKU: Final = 15
PROJECT: Final = 17
PROJECT_SKU: Final = 18
FWID: Final = 20
PROTECTED_PCIE: Final = 21
OPAQUE_VERSION: Final = 34
FEATURE_FLAG: Final = 36
"""Types of fields in the opaque data."""

_REQUEST: Final = b"\x11\xe0"
_RESPONSE: Final = b"\x11\x60"
_DMTF: Final = 1


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement block: its index from 1, the DMTF value type, and the value."""

    index: int
    type: int
    value: bytes


@dataclass(frozen=True, slots=True)
class OpaqueField:
    """One vendor field."""

    type: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Measurements:
    """A request for measurements and the GPU's signed answer."""

    nonce: bytes
    measurements: tuple[Measurement, ...]
    responder_nonce: bytes
    opaque: tuple[OpaqueField, ...]
    signature: bytes = bytes(SIGNATURE_SIZE)
    request_params: bytes = b"\x01\xff"
    slot: int = 0
    response_params: bytes = b"\0\0"

    def signed(self) -> bytes:
        """The bytes that the GPU's attestation key signs."""
        return build_measurements(self)[:-SIGNATURE_SIZE]

    def field(self, type: int) -> bytes | None:
        """The vendor field of this type, or None."""
        return next((field.value for field in self.opaque if field.type == type), None)


@dataclass(frozen=True, slots=True)
class GpuEvidence:
    """What one GPU gives: its architecture, its PEM certificate chain (leaf first) and the measurement exchange."""

    arch: str
    certificate: bytes
    evidence: bytes


@dataclass(frozen=True, slots=True)
class GpuPayload:
    """The evidence of a machine's GPUs for one nonce."""

    nonce: bytes
    gpus: tuple[GpuEvidence, ...]


class _Item(msgspec.Struct):
    certificate: str
    evidence: str
    arch: str | None = None


class _Payload(msgspec.Struct):
    nonce: str
    evidence_list: list[_Item]
    arch: str = ""


def parse_measurements(raw: bytes) -> Measurements:
    """The exchange in these bytes."""
    reader = Reader(raw, "SPDM measurements")
    _expect(reader, _REQUEST, "an SPDM 1.1 GET_MEASUREMENTS request")
    request_params = reader.take(2, "request parameters")
    nonce, slot = reader.take(NONCE_SIZE, "nonce"), reader.number(1, "slot")
    _expect(reader, _RESPONSE, "an SPDM 1.1 MEASUREMENTS response")
    response_params = reader.take(2, "response parameters")
    count = reader.number(1, "number of blocks")
    measurements = _parse_blocks(reader.part(reader.number(3, "record length"), "record"), count)
    responder_nonce = reader.take(NONCE_SIZE, "responder's nonce")
    opaque = _parse_opaque(reader.part(reader.number(2, "opaque length"), "opaque data"))
    signature = reader.take(SIGNATURE_SIZE, "signature")
    reader.end()
    return Measurements(nonce, measurements, responder_nonce, opaque, signature, request_params, slot, response_params)


def build_measurements(value: Measurements) -> bytes:
    """The bytes of an exchange."""
    record = b"".join(_build_block(block) for block in value.measurements)
    opaque = b"".join(_number(field.type, 2) + _sized(field.value, 2) for field in value.opaque)
    request = _REQUEST + value.request_params + value.nonce + _number(value.slot, 1)
    head = _RESPONSE + value.response_params + _number(len(value.measurements), 1)
    return request + head + _sized(record, 3) + value.responder_nonce + _sized(opaque, 2) + value.signature


def build_payload(payload: GpuPayload) -> str:
    """The JSON text that reports carry as ``nvidia_payload``. Its bytes are what a binding hashes."""
    items = [
        {"certificate": _base64(gpu.certificate), "evidence": _base64(gpu.evidence), "arch": gpu.arch}
        for gpu in payload.gpus
    ]
    arch = payload.gpus[0].arch if payload.gpus else ""
    return msgspec.json.encode({"nonce": payload.nonce.hex(), "evidence_list": items, "arch": arch}).decode()


def parse_payload(text: str | bytes) -> GpuPayload:
    """The evidence in a payload; an item without an architecture has that of the payload."""
    try:
        payload = msgspec.json.decode(text, type=_Payload)
        gpus = tuple(
            GpuEvidence(
                payload.arch if item.arch is None else item.arch,
                base64.b64decode(item.certificate, validate=True),
                base64.b64decode(item.evidence, validate=True),
            )
            for item in payload.evidence_list
        )
        nonce = bytes.fromhex(payload.nonce)
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError) as failed:
        raise MalformedEvidence(f"GPU payload: {failed}") from None
    if len(nonce) != NONCE_SIZE:
        raise MalformedEvidence(f"GPU payload: the nonce is {len(nonce)} bytes long, not {NONCE_SIZE}")
    return GpuPayload(nonce, gpus)


def _expect(reader: Reader, magic: bytes, what: str) -> None:
    if reader.take(len(magic), what) != magic:
        raise reader.wrong(f"not {what}")


def _parse_blocks(reader: Reader, count: int) -> tuple[Measurement, ...]:
    blocks: dict[int, Measurement] = {}
    for _ in range(count):
        index = reader.number(1, "index")
        if reader.number(1, "specification") != _DMTF:
            raise reader.wrong(f"measurement {index} is not in DMTF's format")
        block = reader.part(reader.number(2, "block size"), f"measurement {index}")
        kind = block.number(1, "type")
        value = block.take(block.number(2, "value size"), "value")
        block.end()
        if index in blocks:
            raise reader.wrong(f"two measurements have index {index}")
        blocks[index] = Measurement(index, kind, value)
    reader.end()
    return tuple(blocks.values())


def _parse_opaque(reader: Reader) -> tuple[OpaqueField, ...]:
    fields: list[OpaqueField] = []
    while reader.left:
        kind = reader.number(2, "type")
        fields.append(OpaqueField(kind, reader.take(reader.number(2, "size"), f"field {kind}")))
    if len({field.type for field in fields}) != len(fields):
        raise reader.wrong("two fields have the same type")
    return tuple(fields)


def _build_block(block: Measurement) -> bytes:
    body = _number(block.type, 1) + _sized(block.value, 2)
    return _number(block.index, 1) + _number(_DMTF, 1) + _sized(body, 2)


def _number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def _sized(data: bytes, size: int) -> bytes:
    return _number(len(data), size) + data


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
