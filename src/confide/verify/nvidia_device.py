"""What the evidence of one NVIDIA device says about it: its family, its identity, its versions, its manifests' ids.

Reading only. Nothing here is genuine before :mod:`confide.verify.nvidia` has checked chain and signature, and text of
the device is used in an id, and so in a URL, only where it is made of a few harmless characters.
Source: TCG DICE Attestation Architecture 1.1 (extensions of alias certificates); NVIDIA nvtrust and attestation-sdk
(opaque fields, names of certificates, ids of RIMs).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from confide.errors import ConfideError
from confide.verify.chain import check_readable, guarded, read_pem
from confide.verify.rim import Wanted
from confide.verify.verdict import CheckFailed
from confide.wire import nvgpu
from confide.wire.binary import MalformedEvidence, Reader

Kind = Literal["gpu", "switch"]
MOST_EVIDENCE: Final = 64 * 1024
DEVICE_PDI: Final = 22
"""The opaque field of a switch with its own identifier; in that of a GPU, those of the switches it is linked to."""
CHIP_INFO: Final = 35
FAMILIES: Final = {"GH": "HOPPER", "GB": "BLACKWELL", "LS": "LS10"}
"""Architectures by the first letters of the chip, in the words of NVIDIA's tools."""

_CHIP: Final = re.compile(r"(GH|GB)[0-9]{2}[0-9X]|LS_?10")
_CERTIFICATES: Final = 4
_PART: Final = re.compile(r"[A-Z0-9]{1,16}")
_DRIVER: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")
_BIOS: Final = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}")
_SWITCH_BOARD: Final = "5612_0002_890"
_COMPOSITE_ID: Final = x509.ObjectIdentifier("2.23.133.5.4.1")
_TCB_INFO: Final = x509.ObjectIdentifier("2.23.133.5.4.1.1")
_DIGEST_SIZE: Final = 48


@dataclass(frozen=True, slots=True)
class Reading:
    """Evidence of one device that is well-formed: the exchange and its certificates, the attestation key's first."""

    raw: bytes
    exchange: nvgpu.Measurements
    certificates: tuple[x509.Certificate, ...]

    def text(self, field: int) -> str:
        """A text field up to its first NUL, without what can't be printed; empty where there is none."""
        value = (self.exchange.field(field) or b"").split(b"\0")[0][:64].decode("ascii", "replace")
        return "".join(c for c in value if c.isprintable()).strip()

    @property
    def driver(self) -> str:
        """The version of the driver; switches have none."""
        return self.text(nvgpu.DRIVER_VERSION)

    @property
    def vbios(self) -> str:
        """The version of the VBIOS or switch BIOS, as in ``96.00.5E.00.01``; empty where there is none."""
        value = self.exchange.field(nvgpu.VBIOS_VERSION) or b""
        if len(value) != 8:
            return self.text(nvgpu.VBIOS_VERSION).upper()
        ordered = value[::-1]
        return ".".join(f"{byte:02X}" for byte in ordered[4:] + ordered[3:4])

    @property
    def fwid(self) -> bytes | None:
        """The digest of the device's first mutable firmware, as the report repeats it; older drivers leave it out."""
        return self.exchange.field(nvgpu.FWID)


@dataclass(frozen=True, slots=True)
class Named:
    """What the certificates say: chip (``GH100``) and its family, model, serial of the device, and that of its key."""

    chip: str
    family: str
    model: str
    device_id: str
    ueid: str
    keys: tuple[str, str]
    """SHA-256 of the public keys that stand for the device and for its firmware."""


def read_evidence(evidence: nvgpu.GpuEvidence) -> Reading:
    """The parts of one device's evidence.

    Raises:
        MalformedEvidence: the exchange is none, or does not ask for all measurements under a signature.
        CheckFailed: there is no readable certificate chain.
    """
    if len(evidence.evidence) > MOST_EVIDENCE:
        raise MalformedEvidence(f"the exchange is longer than {MOST_EVIDENCE} bytes")
    exchange = nvgpu.parse_measurements(evidence.evidence)
    if exchange.request_params != b"\x01\xff":
        raise MalformedEvidence("the request does not ask for all measurements and a signature")
    return Reading(evidence.evidence, exchange, read_pem(evidence.certificate, "the device's certificate chain"))


def name_device(path: Sequence[x509.Certificate]) -> Named:
    """Who the device is, from its certificates without the root: attestation key, device, provisioner, identity.

    The first three name the chip. The fourth does not tell families apart: NVSwitches are below "GH100 Identity".

    Raises:
        CheckFailed: the chain has another shape, or its certificates do not agree.
    """
    if len(path) != _CERTIFICATES:
        raise CheckFailed(f"found {len(path)} certificates below the root, expected {_CERTIFICATES}")
    names = [_common_name(certificate) for certificate in path]
    chips = {_chip(name) for name in names[:3]}
    if len(chips) != 1 or None in chips:
        raise CheckFailed(f"the certificates do not name one known chip: {', '.join(names[:3])}")
    chip = str(chips.pop())
    leaf, device = path[0], path[1]
    return Named(
        chip=chip.replace("_", ""),
        family=FAMILIES[chip[:2]],
        model=names[1],
        device_id=f"{device.serial_number:X}",
        ueid=str(leaf.serial_number),
        keys=(_key_digest(device), _key_digest(leaf)),
    )


def check_shape(path: Sequence[x509.Certificate]) -> None:
    """A device's chain has four certificates, or five with the root; all keys are of P-384, all digests SHA-384.

    Raises:
        CheckFailed: what is different.
    """
    if not _CERTIFICATES <= len(path) <= _CERTIFICATES + 1:
        raise CheckFailed(f"found {len(path)} certificates, expected {_CERTIFICATES} and the root")
    for place, certificate in enumerate(path):
        key = guarded(f"the key of certificate {place}", certificate.public_key)
        digest = guarded(f"the signature of certificate {place}", lambda: certificate.signature_hash_algorithm)  # noqa: B023
        check_readable(certificate, f"certificate {place}")
        curve = key.curve if isinstance(key, ec.EllipticCurvePublicKey) else None
        if not isinstance(curve, ec.SECP384R1) or not isinstance(digest, SHA384):
            raise CheckFailed(f"certificate {place} is not of ECDSA P-384 with SHA-384")


def firmware_ids(leaf: x509.Certificate) -> tuple[bytes, ...]:
    """The firmware digests in the DICE extension of an attestation key's certificate.

    Raises:
        CheckFailed: it has none, or one that can't be read.
    """
    for extension in guarded("the attestation key's certificate", lambda: leaf.extensions):
        value = extension.value
        if extension.oid in (_COMPOSITE_ID, _TCB_INFO) and isinstance(value, x509.UnrecognizedExtension):
            return _firmware_ids(extension.oid, value.value)
    raise CheckFailed("the attestation key's certificate names no firmware")


def _firmware_ids(oid: x509.ObjectIdentifier, value: bytes) -> tuple[bytes, ...]:
    if len(value) == _DIGEST_SIZE:  # nothing but the digest, as our development PKI writes it
        return (value,)
    try:
        body = _der(Reader(value, "DICE extension"), 0x30)
        if oid == _COMPOSITE_ID:  # version, the device's public key, one firmware id
            _der(body, 0x02), _der(body, 0x30)
            return (_firmware_id(_der(body, 0x30)),)
        while body.left:  # DiceTcbInfo: tagged members, of which [6] holds the firmware ids
            tag, content = _any_der(body)
            if tag == 0xA6:
                found = []
                while content.left:
                    found.append(_firmware_id(_der(content, 0x30)))
                return tuple(one for one in found if any(one))  # zeros stand for no firmware
    except MalformedEvidence as wrong:
        raise CheckFailed(str(wrong)) from None
    raise CheckFailed("the DICE extension names no firmware")


def _firmware_id(reader: Reader) -> bytes:
    _der(reader, 0x06)
    return _der(reader, 0x04).rest()


def _der(reader: Reader, wanted: int) -> Reader:
    tag, content = _any_der(reader)
    if tag != wanted:
        raise reader.wrong(f"found the tag {tag:#x}, expected {wanted:#x}")
    return content


def _any_der(reader: Reader) -> tuple[int, Reader]:
    """One ASN.1 DER value of a short tag and a length below 64 KiB. Source: ITU-T X.690, 8.1."""
    tag, length = reader.number(1, "tag"), reader.number(1, "length")
    if length > 0x82:
        raise reader.wrong("a length is too long")
    if length & 0x80:
        length = int.from_bytes(reader.take(length & 0x7F, "length"), "big")
    return tag, reader.part(length, "value")


def wanted_rims(reading: Reading, chip: str) -> tuple[Wanted, ...]:
    """The manifests of this device: driver and VBIOS of a GPU, the BIOS of a switch; without those it does not name."""
    if FAMILIES.get(chip[:2]) == "LS10":
        ids = [(f"NV_SWITCH_BIOS_{_SWITCH_BOARD}_{_squeezed(reading.vbios)}", reading.vbios, _BIOS)]
        return _wanted(ids, (chip,), "SWITCH")
    info = reading.text(CHIP_INFO).upper()
    driver_chip = info if _PART.fullmatch(info) else chip
    prefix = "NV_GPU_DRIVER" if chip.startswith("GH") else "NV_GPU_CC_DRIVER"
    board = [reading.text(field).upper() for field in (nvgpu.PROJECT, nvgpu.PROJECT_SKU, nvgpu.CHIP_SKU)]
    ids = [(f"{prefix}_{chip if chip.startswith('GH') else driver_chip}_{reading.driver}", reading.driver, _DRIVER)]
    if all(_PART.fullmatch(part) for part in board):
        ids.append((f"NV_GPU_VBIOS_{'_'.join(board)}_{_squeezed(reading.vbios)}", reading.vbios, _BIOS))
    return _wanted(ids, tuple(dict.fromkeys((chip, driver_chip))), "GPU")


def rim_ids(evidence: nvgpu.GpuEvidence) -> tuple[str, ...]:
    """The ids of the manifests that evidence asks for, before anything about it is checked; none where it is broken."""
    try:
        reading = read_evidence(evidence)
        chip = _chip(_common_name(reading.certificates[0])) if reading.certificates else None
    except ConfideError:
        return ()
    return () if chip is None else tuple(one.id for one in wanted_rims(reading, chip.replace("_", "")))


def _wanted(ids: list[tuple[str, str, re.Pattern[str]]], products: tuple[str, ...], edition: str) -> tuple[Wanted, ...]:
    return tuple(Wanted(name, version, products, edition) for name, version, shape in ids if shape.fullmatch(version))


def _squeezed(version: str) -> str:
    return version.replace(".", "")


def _chip(name: str) -> str | None:
    found = [word for word in name.split() if _CHIP.fullmatch(word)]
    return found[0] if len(found) == 1 else None


def _common_name(certificate: x509.Certificate) -> str:
    oid = x509.NameOID.COMMON_NAME
    found = guarded("the subject of a certificate", lambda: certificate.subject.get_attributes_for_oid(oid))
    if len(found) != 1:
        raise CheckFailed(f"a certificate has {len(found)} common names, expected one")
    return str(found[0].value)[:128]


def _key_digest(certificate: x509.Certificate) -> str:
    key = guarded("the key of a certificate", certificate.public_key)
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
