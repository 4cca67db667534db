"""AMD's processors: which product a report and a certificate name, and the parts of a TCB version.

Source: AMD publication 56860 (SEV-SNP firmware ABI), TCB_VERSION and ATTESTATION_REPORT; AMD publication 57230 (VCEK
certificate and KDS interface), X.509 extensions. A TCB version is eight bytes; Turin puts the firmware of the FMC
first, which Milan and Genoa don't have. Bergamo and Siena are of Genoa's line and have its keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from confide.verify.snp_der import IA5_STRING, Certificate, Der
from confide.verify.verdict import CheckFailed
from confide.wire.snp import SnpReport

Product = Literal["Milan", "Genoa", "Turin"]
KeyName = Literal["vcek", "vlek"]

PRODUCT_NAME: Final = "1.3.6.1.4.1.3704.1.2"
HWID: Final = "1.3.6.1.4.1.3704.1.4"
CSP_ID: Final = "1.3.6.1.4.1.3704.1.5"
_SVNS: Final[Mapping[str, str]] = {
    "bootloader": "1.3.6.1.4.1.3704.1.3.1",
    "tee": "1.3.6.1.4.1.3704.1.3.2",
    "snp": "1.3.6.1.4.1.3704.1.3.3",
    "microcode": "1.3.6.1.4.1.3704.1.3.8",
    "fmc": "1.3.6.1.4.1.3704.1.3.9",
}
_RESERVED_SVNS: Final = tuple(f"1.3.6.1.4.1.3704.1.3.{number}" for number in range(4, 8))
_OLDER: Final[Mapping[str, int]] = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_NEWER: Final[Mapping[str, int]] = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}
LAYOUTS: Final[Mapping[Product, Mapping[str, int]]] = {"Milan": _OLDER, "Genoa": _OLDER, "Turin": _NEWER}
"""Where in the eight bytes of a TCB version its parts lie. The other bytes are reserved and zero."""
HWID_SIZES: Final[Mapping[Product, int]] = {"Milan": 64, "Genoa": 64, "Turin": 8}
"""How many bytes of CHIP_ID name the chip; the rest is zero."""

_LINES: Final[Mapping[str, Product]] = {
    "Milan": "Milan",
    "Genoa": "Genoa",
    "Bergamo": "Genoa",
    "Siena": "Genoa",
    "Turin": "Turin",
}
_MODELS: Final[tuple[tuple[int, range, Product], ...]] = (
    (0x19, range(0x10), "Milan"),
    (0x19, range(0x10, 0x20), "Genoa"),
    (0x19, range(0xA0, 0xB0), "Genoa"),
    (0x1A, range(0x12), "Turin"),
)
"""CPUID family and models, both with their extended parts."""

Tcb = dict[str, int]
"""The parts of a TCB version by name."""


def product_of(name: str) -> Product:
    """The product line of a name such as ``Milan-B0``.

    Raises:
        CheckFailed: it is not known.
    """
    line = _LINES.get(name.partition("-")[0])
    if line is None:
        raise CheckFailed(f"found the processor {name!r}, expected one of {', '.join(_LINES)}")
    return line


def certified_product(certificate: Certificate) -> Product:
    """The product line that the certificate of a VCEK or VLEK names.

    Raises:
        CheckFailed: none, or one that is not known.
    """
    value = Der(_extension(certificate, PRODUCT_NAME, "product name"), "the product name")
    name = value.take(IA5_STRING).decode("ascii", "replace")
    value.end()
    return product_of(name)


def reported_product(report: SnpReport) -> Product | None:
    """The product line by the CPUID in a report; reports before version 3 have none.

    Raises:
        CheckFailed: a processor that is not known.
    """
    if report.version < 3:
        return None
    family, model, _ = report.cpuid
    for known, models, product in _MODELS:
        if family == known and model in models:
            return product
    raise CheckFailed(f"found a processor of family {family:#x}, model {model:#x}, which is not known here")


def parts(product: Product, tcb: bytes, what: str) -> Tcb:
    """The parts of a TCB version.

    Raises:
        CheckFailed: reserved bytes are not zero.
    """
    if any(byte for place, byte in enumerate(tcb) if place not in LAYOUTS[product].values()):
        raise CheckFailed(f"{what} is {tcb.hex()}, where reserved bytes are not zero")
    return read(product, tcb)


def read(product: Product, tcb: bytes) -> Tcb:
    """The parts of a TCB version, without a look at its reserved bytes."""
    return {name: tcb[place] for name, place in LAYOUTS[product].items()}


def certified_tcb(product: Product, certificate: Certificate) -> Tcb:
    """The TCB version that the certificate of a VCEK or VLEK is for.

    Raises:
        CheckFailed: a part is missing or malformed, or a reserved one is not zero.
    """
    for oid in _RESERVED_SVNS:
        if oid in certificate.extensions and _svn(certificate, oid):
            raise CheckFailed(f"the certificate's reserved version {oid} is not zero")
    return {name: _svn(certificate, _SVNS[name]) for name in LAYOUTS[product]}


def below(tcb: Tcb, least: Mapping[str, int]) -> list[str]:
    """The parts that are below the least wanted, in words. A part that this processor doesn't have counts as 0."""
    return [f"{name} {tcb.get(name, 0)} < {wanted}" for name, wanted in least.items() if tcb.get(name, 0) < wanted]


def csp_id(certificate: Certificate) -> str:
    """The cloud provider that a VLEK was issued to.

    Raises:
        CheckFailed: it names none.
    """
    value = Der(_extension(certificate, CSP_ID, "provider"), "the provider's name")
    name = value.take(IA5_STRING).decode("ascii", "replace")
    value.end()
    return name


def _svn(certificate: Certificate, oid: str) -> int:
    value = Der(_extension(certificate, oid, "security version"), "a security version")
    number = value.integer()
    value.end()
    if not 0 <= number <= 255:
        raise CheckFailed(f"the certificate's security version {oid} is {number}, expected 0 to 255")
    return number


def _extension(certificate: Certificate, oid: str, what: str) -> bytes:
    extension = certificate.extensions.get(oid)
    if extension is None:
        raise CheckFailed(f"the certificate has no {what} ({oid})")
    return extension.value
