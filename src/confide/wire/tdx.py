"""Intel TDX quotes, versions 4 and 5: bytes to values and back. Well-formed only; nothing here is believed.

Source: Intel TDX DCAP Quoting Library API, appendix 3 "Quote format" (version 4 and 5), and the SGX REPORT body for
the quoting enclave. ECDSA P-256 quotes of TDs are read; anything else is refused by name. Zeros after the signature
are padding of the machine that made the quote; other bytes there make it malformed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from confide.wire import binary
from confide.wire.binary import Layout, MalformedEvidence, Reader

TEE_TDX: Final = 0x81
ECDSA_P256: Final = 2
CERTIFIED_BY_QE: Final = 6
PCK_CHAIN: Final = 5
BODY_TD_1_0: Final = 2
BODY_TD_1_5: Final = 3

_HEADER: Final[Layout] = (
    ("version", 2, int),
    ("attestation_key_type", 2, int),
    ("tee_type", 4, int),
    ("qe_svn", 2, int),
    ("pce_svn", 2, int),
    ("qe_vendor_id", 16, bytes),
    ("user_data", 20, bytes),
)
_TD_1_0: Final[Layout] = (
    ("tee_tcb_svn", 16, bytes),
    ("mr_seam", 48, bytes),
    ("mr_signer_seam", 48, bytes),
    ("seam_attributes", 8, bytes),
    ("td_attributes", 8, bytes),
    ("xfam", 8, bytes),
    ("mr_td", 48, bytes),
    ("mr_config_id", 48, bytes),
    ("mr_owner", 48, bytes),
    ("mr_owner_config", 48, bytes),
    ("rtmr0", 48, bytes),
    ("rtmr1", 48, bytes),
    ("rtmr2", 48, bytes),
    ("rtmr3", 48, bytes),
    ("report_data", 64, bytes),
)
_TD_1_5: Final[Layout] = (*_TD_1_0, ("tee_tcb_svn_2", 16, bytes), ("mr_service_td", 48, bytes))
_ENCLAVE: Final[Layout] = (
    ("cpu_svn", 16, bytes),
    ("misc_select", 4, bytes),
    ("reserved_1", 28, bytes),
    ("attributes", 16, bytes),
    ("mr_enclave", 32, bytes),
    ("reserved_2", 32, bytes),
    ("mr_signer", 32, bytes),
    ("reserved_3", 96, bytes),
    ("isv_prod_id", 2, int),
    ("isv_svn", 2, int),
    ("reserved_4", 60, bytes),
    ("report_data", 64, bytes),
)


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """The first 48 bytes."""

    version: int
    qe_vendor_id: bytes
    user_data: bytes
    attestation_key_type: int = ECDSA_P256
    tee_type: int = TEE_TDX
    qe_svn: int = 0
    pce_svn: int = 0


@dataclass(frozen=True, slots=True)
class TdReport:
    """What the TDX module says about a TD. The last two fields exist in TDX 1.5 reports only (quote version 5)."""

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes
    tee_tcb_svn_2: bytes | None = None
    mr_service_td: bytes | None = None

    @property
    def rtmrs(self) -> tuple[bytes, bytes, bytes, bytes]:
        """The four runtime measurement registers."""
        return self.rtmr0, self.rtmr1, self.rtmr2, self.rtmr3


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """The SGX report body of the quoting enclave."""

    cpu_svn: bytes
    misc_select: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: bytes
    reserved_1: bytes = bytes(28)
    reserved_2: bytes = bytes(32)
    reserved_3: bytes = bytes(96)
    reserved_4: bytes = bytes(60)

    def build(self) -> bytes:
        """The 384 bytes that the PCK key signs."""
        return binary.build(self, _ENCLAVE)


@dataclass(frozen=True, slots=True)
class QuoteSignature:
    """The signature of a quote, and what certifies the key that made it."""

    signature: bytes
    attestation_key: bytes
    qe_report: EnclaveReport
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification_type: int
    certification: bytes
    """For type 5 the PEM chain of the PCK certificate, as it came (most machines end it with a NUL)."""


@dataclass(frozen=True, slots=True)
class Quote:
    """One quote. ``padding`` counts the zeros after it."""

    header: QuoteHeader
    report: TdReport
    signature: QuoteSignature
    padding: int = 0

    def signed(self) -> bytes:
        """The bytes that the attestation key signs: header and body."""
        return signed_part(self.header, self.report)


class TdxCollateral(msgspec.Struct, frozen=True):
    """What a verifier needs beside a quote, as PCS serves it; DER and signatures in hexadecimal.

    The names are those of dcap-qvl's ``QuoteCollateralV3``, so the JSON form goes there unchanged.
    """

    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str

    def as_json(self) -> dict[str, str]:
        """The nine members."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


def parse_collateral(text: str | bytes) -> TdxCollateral:
    """Collateral from its JSON text."""
    try:
        return msgspec.json.decode(text, type=TdxCollateral)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as failed:
        raise MalformedEvidence(f"TDX collateral: {failed}") from None


def parse_quote(raw: bytes) -> Quote:
    """The quote in these bytes."""
    reader = Reader(raw, "TDX quote")
    header = _parse_header(reader)
    report = _parse_body(reader, header.version)
    signature = _parse_signature(reader.part(reader.number(4, "signature length"), "signature"))
    padding = reader.rest()
    if padding.strip(b"\0"):
        raise reader.wrong("bytes after the signature that are not zero")
    return Quote(header, report, signature, len(padding))


def build_quote(quote: Quote) -> bytes:
    """The bytes of a quote."""
    signature = _build_signature(quote.signature)
    return quote.signed() + len(signature).to_bytes(4, "little") + signature + bytes(quote.padding)


def signed_part(header: QuoteHeader, report: TdReport) -> bytes:
    """Header and body of a quote that is not signed yet."""
    is_1_5 = report.mr_service_td is not None
    body = binary.build(report, _TD_1_5 if is_1_5 else _TD_1_0)
    if header.version == 5:
        body = _number(BODY_TD_1_5 if is_1_5 else BODY_TD_1_0, 2) + _number(len(body), 4) + body
    elif is_1_5:
        raise ValueError("a TDX 1.5 report needs quote version 5")
    return binary.build(header, _HEADER) + body


def _parse_header(reader: Reader) -> QuoteHeader:
    header = QuoteHeader(**reader.fields(_HEADER))
    if header.version not in (4, 5):
        raise reader.wrong(f"version {header.version}; 4 and 5 are known")
    if header.tee_type != TEE_TDX:
        raise reader.wrong(f"TEE type {header.tee_type:#x}; TDX is {TEE_TDX:#x}")
    if header.attestation_key_type != ECDSA_P256:
        raise reader.wrong(f"attestation key type {header.attestation_key_type}; ECDSA P-256 is {ECDSA_P256}")
    return header


def _parse_body(reader: Reader, version: int) -> TdReport:
    if version == 4:
        return TdReport(**reader.fields(_TD_1_0))
    kind = reader.number(2, "body type")
    layouts = {BODY_TD_1_0: _TD_1_0, BODY_TD_1_5: _TD_1_5}
    if kind not in layouts:
        raise reader.wrong(f"body type {kind}; {BODY_TD_1_0} (TD 1.0) and {BODY_TD_1_5} (TD 1.5) are known")
    body = reader.part(reader.number(4, "body size"), "body")
    report = TdReport(**body.fields(layouts[kind]))
    body.end()
    return report


def _parse_signature(reader: Reader) -> QuoteSignature:
    signature = reader.take(64, "signature")
    key = reader.take(64, "attestation key")
    kind = reader.number(2, "certification type")
    if kind != CERTIFIED_BY_QE:
        raise reader.wrong(f"certification type {kind}; a quoting enclave's report is {CERTIFIED_BY_QE}")
    inner = reader.part(reader.number(4, "certification size"), "certification")
    reader.end()
    report = EnclaveReport(**inner.fields(_ENCLAVE))
    report_signature = inner.take(64, "signature of the QE report")
    auth_data = inner.take(inner.number(2, "size of the QE authentication data"), "QE authentication data")
    inner_kind = inner.number(2, "inner certification type")
    chain = inner.take(inner.number(4, "inner certification size"), "inner certification")
    inner.end()
    return QuoteSignature(signature, key, report, report_signature, auth_data, inner_kind, chain)


def _build_signature(value: QuoteSignature) -> bytes:
    inner = b"".join(
        (
            value.qe_report.build(),
            value.qe_report_signature,
            _sized(value.qe_auth_data, 2),
            _number(value.certification_type, 2),
            _sized(value.certification, 4),
        )
    )
    return value.signature + value.attestation_key + _number(CERTIFIED_BY_QE, 2) + _sized(inner, 4)


def _number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def _sized(data: bytes, size: int) -> bytes:
    return _number(len(data), size) + data
