"""What the development PKI signs: TDX quotes, their collateral, and GPU evidence. DEVELOPMENT - NOT HARDWARE.

The structures are the real ones, so that a verifier runs the same code on them as on a machine's. Source: Intel TDX
DCAP Quoting Library API (quotes), Intel PCS API version 4 (TCB info, QE identity), RFC 5280 (CRLs).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from confide.attest.dev_pki import CPU_SVN, FMSPC, GPU_FWID, PCE_ID, PCE_SVN, Identity, Pki, pem
from confide.wire import nvgpu, tdx
from confide.wire.eventlog import Registers

USER_DATA: Final = b"DEV-PKI-NO-HARDWARE\0"
"""What a development quote says in its header."""
MR_TD: Final = hashlib.sha384(b"development TD, not hardware").digest()
COLLATERAL_LIFETIME: Final = timedelta(days=30)
GPU_DRIVER: Final = b"000.00.00\0"
GPU_ARCH: Final = "HOPPER"

_QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_QE_SIGNER: Final = hashlib.sha256(b"development quoting enclave, not hardware").digest()
_QE_ATTRIBUTES: Final = bytes.fromhex("1100000000000000e700000000000000")
_QE_AUTH_DATA: Final = b"development, not hardware".ljust(32, b"\0")
_QE_PRODUCT: Final = 2
_QE_SVN: Final = 6
_TEE_TCB_SVN: Final = bytes([6, 1, 3]) + bytes(13)
_SEPT_VE_DISABLE: Final = (1 << 28).to_bytes(8, "little")
_XFAM: Final = bytes.fromhex("e702060000000000")
_BACKDATED: Final = timedelta(hours=1)


def td_report(report_data: bytes, rtmrs: Registers, mr_config_id: bytes = b"") -> tdx.TdReport:
    """The report of a development TD that runs in production mode, as far as reports can say."""
    return tdx.TdReport(
        tee_tcb_svn=_TEE_TCB_SVN,
        mr_seam=hashlib.sha384(b"development TDX module, not hardware").digest(),
        mr_signer_seam=bytes(48),
        seam_attributes=bytes(8),
        td_attributes=_SEPT_VE_DISABLE,
        xfam=_XFAM,
        mr_td=MR_TD,
        mr_config_id=mr_config_id.ljust(48, b"\0"),
        mr_owner=bytes(48),
        mr_owner_config=bytes(48),
        rtmr0=rtmrs[0],
        rtmr1=rtmrs[1],
        rtmr2=rtmrs[2],
        rtmr3=rtmrs[3],
        report_data=report_data,
    )


def sign_quote(pki: Pki, report: tdx.TdReport, version: int = 4) -> bytes:
    """A quote over this report. A TDX 1.5 report needs version 5."""
    header = tdx.QuoteHeader(version, _QE_VENDOR, USER_DATA)
    key = pki.attestation.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    qe_report = tdx.EnclaveReport(
        cpu_svn=CPU_SVN,
        misc_select=bytes(4),
        attributes=_QE_ATTRIBUTES,
        mr_enclave=hashlib.sha256(b"development quoting enclave build, not hardware").digest(),
        mr_signer=_QE_SIGNER,
        isv_prod_id=_QE_PRODUCT,
        isv_svn=_QE_SVN,
        report_data=hashlib.sha256(key + _QE_AUTH_DATA).digest().ljust(64, b"\0"),
    )
    chain = pem([pki.pck.certificate, pki.pck_ca.certificate, pki.tdx_root.certificate])
    signature = tdx.QuoteSignature(
        signature=_raw_signature(pki.attestation, tdx.signed_part(header, report)),
        attestation_key=key,
        qe_report=qe_report,
        qe_report_signature=_raw_signature(pki.pck, qe_report.build()),
        qe_auth_data=_QE_AUTH_DATA,
        certification_type=tdx.PCK_CHAIN,
        certification=chain + b"\0",
    )
    return tdx.build_quote(tdx.Quote(header, report, signature))


def collateral(
    pki: Pki,
    now: datetime,
    *,
    status: str = "UpToDate",
    advisories: Iterable[str] = (),
    revoked: Iterable[x509.Certificate] = (),
) -> tdx.TdxCollateral:
    """The collateral of development quotes. The last three say what a test wants to go wrong."""
    gone = {certificate.serial_number for certificate in revoked}
    chain = pem([pki.tcb_signing.certificate, pki.tdx_root.certificate]).decode()
    tcb_info = _json(_tcb_info(now, status, list(advisories)))
    qe_identity = _json(_qe_identity(now))
    return tdx.TdxCollateral(
        pck_crl_issuer_chain=pem([pki.pck_ca.certificate, pki.tdx_root.certificate]).decode(),
        root_ca_crl=_crl(pki.tdx_root, now, gone).hex(),
        pck_crl=_crl(pki.pck_ca, now, gone).hex(),
        tcb_info_issuer_chain=chain,
        tcb_info=tcb_info,
        tcb_info_signature=_raw_signature(pki.tcb_signing, tcb_info.encode()).hex(),
        qe_identity_issuer_chain=chain,
        qe_identity=qe_identity,
        qe_identity_signature=_raw_signature(pki.tcb_signing, qe_identity.encode()).hex(),
    )


def gpu_evidence(pki: Pki, nonce: bytes) -> nvgpu.GpuEvidence:
    """The evidence of one development GPU over 32 bytes."""
    unsigned = nvgpu.Measurements(
        nonce=nonce,
        measurements=tuple(nvgpu.Measurement(index, 1, _gpu_measurement(index)) for index in range(1, 65)),
        responder_nonce=secrets.token_bytes(nvgpu.NONCE_SIZE),
        opaque=_gpu_fields(),
    )
    signed = replace(unsigned, signature=_raw_signature(pki.gpu, unsigned.signed()))
    chain = pem([pki.gpu.certificate, *pki.gpu_issuers])
    return nvgpu.GpuEvidence(GPU_ARCH, chain, nvgpu.build_measurements(signed))


def _gpu_measurement(index: int) -> bytes:
    return hashlib.sha384(b"development GPU measurement %d, not hardware" % index).digest()


def _gpu_fields() -> tuple[nvgpu.OpaqueField, ...]:
    values = {
        nvgpu.DRIVER_VERSION: GPU_DRIVER,
        nvgpu.VBIOS_VERSION: bytes(8),
        nvgpu.NVDEC0_STATUS: b"\x55",
        nvgpu.CHIP_SKU: b"DEV\0",
        nvgpu.PROJECT: b"DEV0\0",
        nvgpu.PROJECT_SKU: b"0000\0",
        nvgpu.FWID: GPU_FWID,
        nvgpu.PROTECTED_PCIE: b"\x55",
        nvgpu.OPAQUE_VERSION: b"\x01\0",
        nvgpu.FEATURE_FLAG: b"\0\0",
    }
    return tuple(nvgpu.OpaqueField(kind, value) for kind, value in values.items())


def _tcb_info(now: datetime, status: str, advisories: list[str]) -> dict[str, Any]:
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    level: dict[str, Any] = {
        "tcb": {
            "sgxtcbcomponents": _components(CPU_SVN),
            "pcesvn": PCE_SVN,
            "tdxtcbcomponents": _components(bytes([_TEE_TCB_SVN[0], 0, _TEE_TCB_SVN[2]]) + bytes(13)),
        },
        "tcbDate": _iso(now - _BACKDATED),
        "tcbStatus": status,
    }
    if advisories:
        level["advisoryIDs"] = advisories
    module_levels = [_level({"isvsvn": _TEE_TCB_SVN[0]}, now)]
    return {
        "id": "TDX",
        "version": 3,
        **_dates(now),
        "fmspc": FMSPC.hex().upper(),
        "pceId": PCE_ID.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": 1,
        "tdxModule": module,
        "tdxModuleIdentities": [{"id": "TDX_01", **module, "tcbLevels": module_levels}],
        "tcbLevels": [level],
    }


def _qe_identity(now: datetime) -> dict[str, Any]:
    return {
        "id": "TD_QE",
        "version": 2,
        **_dates(now),
        "tcbEvaluationDataNumber": 1,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11" + "00" * 15,
        "attributesMask": "FBFFFFFFFFFFFFFF" + "00" * 8,
        "mrsigner": _QE_SIGNER.hex().upper(),
        "isvprodid": _QE_PRODUCT,
        "tcbLevels": [_level({"isvsvn": _QE_SVN}, now)],
    }


def _level(tcb: dict[str, int], now: datetime) -> dict[str, Any]:
    return {"tcb": tcb, "tcbDate": _iso(now - _BACKDATED), "tcbStatus": "UpToDate"}


def _dates(now: datetime) -> dict[str, str]:
    return {"issueDate": _iso(now - _BACKDATED), "nextUpdate": _iso(now + COLLATERAL_LIFETIME)}


def _components(svns: bytes) -> list[dict[str, int]]:
    return [{"svn": svn} for svn in svns]


def _crl(issuer: Identity, now: datetime, revoked: Iterable[int]) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now - _BACKDATED)
        .next_update(now + COLLATERAL_LIFETIME)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - _BACKDATED).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def _raw_signature(signer: Identity, message: bytes) -> bytes:
    """r and s one after the other, as quotes and SPDM have them."""
    is_p384 = isinstance(signer.key.curve, ec.SECP384R1)
    algorithm, size = (hashes.SHA384(), 48) if is_p384 else (hashes.SHA256(), 32)
    r, s = decode_dss_signature(signer.key.sign(message, ec.ECDSA(algorithm)))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


def _iso(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
