"""AMD SEV-SNP attestation reports and the certificate table that a host may staple: bytes to values and back.

Source: AMD publication 56860 "SEV Secure Nested Paging Firmware ABI Specification", ATTESTATION_REPORT (1184 bytes);
AMD publication 56421 "SEV-ES Guest-Hypervisor Communication Block", the table of SNP Extended Guest Request.
Well-formed only; what a field must hold is for the verifier.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from confide.wire import binary
from confide.wire.binary import Layout, Reader

REPORT_SIZE: Final = 1184
SIGNED_SIZE: Final = 0x2A0
CERTIFICATES: Final[Mapping[str, str]] = {
    "63da758d-e664-4564-adc5-f4b93be8accd": "vcek",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "vlek",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ask",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ark",
}
"""The certificates that are known in a host's table, by GUID."""

_VERSIONS: Final = range(2, 6)
_LAYOUT: Final[Layout] = (
    ("version", 4, int),
    ("guest_svn", 4, int),
    ("policy", 8, int),
    ("family_id", 16, bytes),
    ("image_id", 16, bytes),
    ("vmpl", 4, int),
    ("signature_algorithm", 4, int),
    ("current_tcb", 8, bytes),
    ("platform_info", 8, int),
    ("key_info", 4, int),
    ("reserved_1", 4, bytes),
    ("report_data", 64, bytes),
    ("measurement", 48, bytes),
    ("host_data", 32, bytes),
    ("id_key_digest", 48, bytes),
    ("author_key_digest", 48, bytes),
    ("report_id", 32, bytes),
    ("report_id_ma", 32, bytes),
    ("reported_tcb", 8, bytes),
    ("cpuid", 3, bytes),
    ("reserved_2", 21, bytes),
    ("chip_id", 64, bytes),
    ("committed_tcb", 8, bytes),
    ("current_version", 4, bytes),
    ("committed_version", 4, bytes),
    ("launch_tcb", 8, bytes),
    ("reserved_3", 168, bytes),
    ("signature_r", 72, bytes),
    ("signature_s", 72, bytes),
    ("reserved_4", 368, bytes),
)


@dataclass(frozen=True, slots=True)
class SnpReport:
    """One report. TCB versions stay bytes, because their layout depends on the processor family."""

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algorithm: int
    current_tcb: bytes
    platform_info: int
    key_info: int
    reserved_1: bytes
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: bytes
    """Family, model and stepping (reports of version 3 and later)."""
    reserved_2: bytes
    chip_id: bytes
    committed_tcb: bytes
    current_version: bytes
    committed_version: bytes
    launch_tcb: bytes
    reserved_3: bytes
    """From version 5 on this holds the mitigation vectors."""
    signature_r: bytes
    signature_s: bytes
    """Both little-endian, as the firmware writes them."""
    reserved_4: bytes

    def signed(self) -> bytes:
        """The bytes that the chip's key signs."""
        return build_report(self)[:SIGNED_SIZE]


@dataclass(frozen=True, slots=True)
class SnpCertificates:
    """DER certificates that a host stapled to a report; None where it gave none."""

    vcek: bytes | None = None
    vlek: bytes | None = None
    ask: bytes | None = None
    ark: bytes | None = None


def parse_report(raw: bytes) -> SnpReport:
    """The report in these bytes, which are exactly one report."""
    reader = Reader(raw, "SEV-SNP report")
    report = SnpReport(**reader.fields(_LAYOUT))
    reader.end()
    if report.version not in _VERSIONS:
        raise reader.wrong(f"version {report.version}; {_VERSIONS.start} to {_VERSIONS.stop - 1} are known")
    return report


def build_report(report: SnpReport) -> bytes:
    """The bytes of a report."""
    return binary.build(report, _LAYOUT)


def parse_certificates(table: bytes) -> SnpCertificates:
    """The certificates in a host's table: entries of GUID, offset and length up to a GUID of zeros, then the data."""
    reader = Reader(table, "SEV-SNP certificate table")
    found: dict[str, bytes] = {}
    while any(guid := reader.take(16, "GUID")):
        offset, length = reader.number(4, "offset"), reader.number(4, "length")
        if offset + length > len(table):
            raise reader.wrong(f"an entry ends at {offset + length} and the table at {len(table)}")
        name = CERTIFICATES.get(str(uuid.UUID(bytes_le=guid)))
        if name in found:
            raise reader.wrong(f"two entries for the {name}")
        if name is not None:
            found[name] = table[offset : offset + length]
    return SnpCertificates(**found)


def build_certificates(certificates: SnpCertificates) -> bytes:
    """A host's table of these certificates."""
    present = [(guid, der) for guid, name in CERTIFICATES.items() if (der := getattr(certificates, name)) is not None]
    head, data, offset = b"", b"", 24 * (len(present) + 1)
    for guid, der in present:
        head += uuid.UUID(guid).bytes_le + offset.to_bytes(4, "little") + len(der).to_bytes(4, "little")
        data += der
        offset += len(der)
    return head + bytes(24) + data
