"""A development AMD PKI, and SEV-SNP reports that its keys sign. What cryptography can't write (serial number 0, wrong
fields) is written here, in DER, without the package's own reader. One set of keys for a whole test run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from confide.verify.context import Context
from confide.verify.material import Item, Material
from confide.verify.policy import Policy, SnpPolicy
from confide.verify.roots import Root, Roots
from confide.wire.snp import SnpReport, build_report

NOW: Final = datetime(2026, 11, 1, tzinfo=UTC)
DAY: Final = timedelta(days=1)
CHIP: Final = bytes(range(1, 65))
TURIN_CHIP: Final = bytes(range(1, 9)).ljust(64, b"\0")
SHA384: Final = hashes.SHA384()
PSS: Final = padding.PSS(padding.MGF1(SHA384), 48)
SVNS: Final = {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8, "fmc": 9}
TCBS: Final[dict[str, dict[str, int]]] = {
    "Milan": {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219},
    "Genoa": {"bootloader": 10, "tee": 0, "snp": 23, "microcode": 84},
    "Turin": {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 75},
}
CPUIDS: Final = {"Milan": bytes([0x19, 1, 1]), "Genoa": bytes([0x19, 0x11, 1]), "Turin": bytes([0x1A, 2, 1])}
_PSS_HEX: Final = (
    "06092a864886f70d01010a30{:02x}a00f300d06096086480165030402020500"
    "a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130"
)
PSS_SHA384: Final = bytes.fromhex("3041" + _PSS_HEX.format(0x34))
PSS_SHA384_TRAILER: Final = bytes.fromhex("3046" + _PSS_HEX.format(0x39) + "a303020101")
"""The same with the default trailer field written out, as in older certificates of AMD."""


def rsa_key(name: str, bits: int = 4096) -> rsa.RSAPrivateKey:
    """A key by name: those of all products share theirs."""
    return _rsa_key(name, bits)


@cache
def _rsa_key(name: str, bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def report_key(name: str = "vcek") -> ec.EllipticCurvePrivateKey:
    """A key that signs reports."""
    return ec.generate_private_key(ec.SECP384R1())


# DER -----------------------------------------------------------------------------------------------------------------


def tlv(tag: int, *parts: bytes) -> bytes:
    """One element."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def number(value: int) -> bytes:
    """An INTEGER."""
    return tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    content = b""
    for arc in (first * 40 + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        content += bytes(reversed(groups))
    return tlv(6, content)


def name(common: str) -> bytes:
    """A Name as AMD writes it."""
    return _name(common).public_bytes()


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Development - not hardware"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def extension(dotted: str, value: bytes, *, critical: bool = False) -> bytes:
    """One extension of a certificate."""
    return tlv(0x30, oid(dotted), tlv(1, b"\xff") if critical else b"", tlv(4, value))


# Certificates --------------------------------------------------------------------------------------------------------


@cache
def authority(
    common: str,
    issuer: str,
    key: str,
    issuer_key: str,
    *,
    serial: int = 0x10001,
    ca: bool = True,
    path_length: int | None = 0,
    cert_sign: bool = True,
    crl_sign: bool = False,
    limits: bool = True,
    bits: int = 4096,
    until: int = 3650,
) -> bytes:
    """The certificate of an ARK, ASK or ASVK."""
    usage = x509.KeyUsage(
        digital_signature=not (cert_sign or crl_sign),
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common))
        .issuer_name(_name(issuer))
        .public_key(rsa_key(key, bits).public_key())
        .serial_number(serial)
        .not_valid_before((NOW - 365 * DAY).replace(tzinfo=None))
        .not_valid_after((NOW + until * DAY).replace(tzinfo=None))
    )
    if limits:
        constraints = x509.BasicConstraints(ca=ca, path_length=path_length if ca else None)
        builder = builder.add_extension(constraints, critical=True)
    if cert_sign or crl_sign or not ca:
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(rsa_key(issuer_key, bits), SHA384, rsa_padding=PSS).public_bytes(Encoding.DER)


def ark(product: str = "Milan", **changes: Any) -> bytes:
    """A development ARK."""
    terms = {"serial": 0x10000, "path_length": None, "crl_sign": True} | changes
    return authority(f"ARK-{product}", f"ARK-{product}", "ark", "ark", **terms)


def ask(product: str = "Milan", key: str = "vcek", **changes: Any) -> bytes:
    """A development ASK, or an ASVK for the key ``vlek``."""
    common = changes.pop("common", f"SEV-{product}" if key == "vcek" else f"SEV-VLEK-{product}")
    issuer_key = changes.pop("issuer_key", "ark")
    return authority(common, f"ARK-{product}", "ask", issuer_key, **changes)


@dataclass(frozen=True)
class Leaf:
    """The certificate of a VCEK or VLEK, field by field. ``svns`` maps parts to versions."""

    product: str = "Milan"
    key: str = "vcek"
    issuer: str | None = None
    subject: str | None = None
    product_name: str | None = None
    svns: dict[str, int] | None = None
    reserved: int = 0
    hwid: bytes | None = None
    csp: str = "provider.example"
    serial: int = 0
    since: timedelta = -30 * DAY
    until: timedelta = 365 * DAY
    public_key: bytes | None = None
    more: bytes = b""
    version: int = 2
    algorithm: bytes = PSS_SHA384
    outer: bytes | None = None
    signed_by: str = "ask"

    def der(self) -> bytes:
        """The certificate."""
        prefix = "SEV-" if self.key == "vcek" else "SEV-VLEK-"
        parts = (
            tlv(0xA0, number(self.version)),
            number(self.serial),
            self.algorithm,
            name(self.issuer or prefix + self.product),
            tlv(0x30, *(tlv(0x17, (NOW + at).strftime("%y%m%d%H%M%SZ").encode()) for at in (self.since, self.until))),
            name(self.subject or f"SEV-{self.key.upper()}"),
            self.public_key or spki(report_key(self.key)),
            tlv(0xA3, tlv(0x30, self._extensions(), self.more)),
        )
        tbs = tlv(0x30, *parts)
        signature = rsa_key(self.signed_by).sign(tbs, PSS, SHA384)
        return tlv(0x30, tbs, self.outer or self.algorithm, tlv(3, b"\0", signature))

    def _extensions(self) -> bytes:
        arc = "1.3.6.1.4.1.3704.1"
        product = self.product_name or (f"{self.product}-B0" if self.key == "vcek" else self.product)
        svns = TCBS[self.product] if self.svns is None else self.svns
        chip = self.hwid
        if chip is None:
            chip = TURIN_CHIP[:8] if self.product == "Turin" else CHIP
        whose = extension(f"{arc}.4", chip) if chip else b""
        if self.key == "vlek":
            whose = extension(f"{arc}.5", tlv(0x16, self.csp.encode())) if self.csp else b""
        versions = b"".join(extension(f"{arc}.3.{SVNS[part]}", number(svn)) for part, svn in svns.items())
        reserved = extension(f"{arc}.3.4", number(self.reserved))
        return extension(f"{arc}.2", tlv(0x16, product.encode())) + versions + reserved + whose


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A public key as certificates hold it."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def crl(
    product: str = "Milan",
    revoked: tuple[int, ...] = (),
    *,
    issuer: str | None = None,
    since: timedelta = -10 * DAY,
    until: timedelta = 10 * DAY,
    signed_by: str = "ark",
    more: bytes = b"",
) -> bytes:
    """A revocation list of an ARK."""
    dates = [tlv(0x17, (NOW + at).strftime("%y%m%d%H%M%SZ").encode()) for at in (since, until)]
    entries = tlv(0x30, *(tlv(0x30, number(serial), dates[0]) for serial in revoked)) if revoked else b""
    issuer_name = name(issuer or f"ARK-{product}")
    tbs = tlv(0x30, number(1), PSS_SHA384, issuer_name, *dates, entries, tlv(0xA0, tlv(0x30, more)) if more else b"")
    return tlv(0x30, tbs, PSS_SHA384, tlv(3, b"\0", rsa_key(signed_by).sign(tbs, PSS, SHA384)))


# Reports -------------------------------------------------------------------------------------------------------------


def tcb_bytes(product: str, parts: dict[str, int]) -> bytes:
    """A TCB version."""
    places = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
    if product == "Turin":
        places = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}
    out = bytearray(8)
    for part, version in parts.items():
        out[places[part]] = version
    return bytes(out)


def unsigned(product: str = "Milan", key: str = "vcek", **changes: Any) -> SnpReport:
    """A report that is good in every field and not signed."""
    tcb = tcb_bytes(product, TCBS[product])
    zeros = {"reserved_1": 4, "family_id": 16, "image_id": 16, "author_key_digest": 48, "report_id_ma": 32}
    zeros |= {"reserved_2": 21, "reserved_3": 168, "signature_r": 72, "signature_s": 72, "reserved_4": 368}
    values: dict[str, Any] = {name: bytes(size) for name, size in zeros.items()}
    values |= {
        "version": 5 if product == "Turin" else 3,
        "guest_svn": 1,
        "policy": 0x30000,
        "vmpl": 0,
        "signature_algorithm": 1,
        "platform_info": 0x25,
        "key_info": 4 if key == "vlek" else 0,
        "report_data": bytes(range(64)),
        "measurement": b"\x11" * 48,
        "host_data": b"\x22" * 32,
        "id_key_digest": b"\x33" * 48,
        "report_id": b"\x44" * 32,
        "cpuid": CPUIDS[product],
        "chip_id": TURIN_CHIP if product == "Turin" else CHIP,
        "current_version": bytes([4, 55, 1, 0]),
        "committed_version": bytes([4, 55, 1, 0]),
    }
    values |= dict.fromkeys(("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"), tcb)
    return SnpReport(**(values | changes))


def signed(report: SnpReport, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """The bytes of a report with its signature."""
    key = key or report_key("vlek" if report.key_info == 4 else "vcek")
    r, s = decode_dss_signature(key.sign(report.signed(), ec.ECDSA(SHA384)))
    numbers = {"signature_r": r.to_bytes(72, "little"), "signature_s": s.to_bytes(72, "little")}
    return build_report(replace(report, **numbers))


# Whole cases ---------------------------------------------------------------------------------------------------------


def root(product: str = "Milan", **changes: Any) -> Root:
    """A development ARK as a root."""
    return Root(f"development ARK-{product}", "amd", "snp", ark(product, **changes), development=True)


def policy(**snp: Any) -> Policy:
    """A policy with these terms for SEV-SNP."""
    return Policy(roots=("amd",), unsafe_any_workload=True, snp=SnpPolicy(**snp))


def context(
    *items: Item, product: str = "Milan", roots: tuple[Root, ...] | None = None, now: datetime = NOW, **snp: Any
) -> Context:
    """A context that accepts a development root and has these items at hand."""
    accepted = Roots((root(product),) if roots is None else roots)
    return Context(policy(**snp), accepted, int(now.timestamp()), Material(items))


def items(
    leaf: bytes | None = None, issuer: bytes | None = None, *, product: str = "Milan", key: str = "vcek"
) -> list[Item]:
    """The certificates of a good case, or these."""
    leaf = Leaf(product, key).der() if leaf is None else leaf
    issuer = ask(product, key) if issuer is None else issuer
    return [Item("amd-certificate", key, leaf), Item("amd-certificate", "ask", issuer)]
