"""The development PKI: real structures that an independent verifier accepts with this root and with no other."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import dcap_qvl
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from confide.attest import dev_sign
from confide.attest.dev_pki import (
    DIRECTORY,
    GPU_FWID,
    ORGANIZATION,
    ROOTS_FILE,
    Pki,
    create_pki,
    load_pki,
    open_pki,
)
from confide.errors import OperatorError
from confide.wire import nvgpu, tdx

from .conftest import NOW, REPORT_DATA

INTEL = Path(__file__).parent.parent / "vectors" / "evidence" / "intel"
REGISTERS = (b"\x01" * 48, b"\x02" * 48, b"\x03" * 48, b"\x04" * 48)
Change = Callable[[tdx.TdReport], tdx.TdReport]


def judge(
    quote: bytes, collateral: tdx.TdxCollateral, root: x509.Certificate | None, now: datetime = NOW
) -> dcap_qvl.VerifiedReport:
    """The verdict of dcap-qvl, with its own root or with this one."""
    given = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(collateral.as_json()))
    seconds = int(now.timestamp())
    if root is None:
        return dcap_qvl.verify(quote, given, seconds)
    return dcap_qvl.verify_with_root_ca(quote, given, root.public_bytes(Encoding.DER), seconds)


@pytest.fixture(scope="session")
def collateral(pki: Pki) -> tdx.TdxCollateral:
    return dev_sign.collateral(pki, NOW)


def test_the_verifier_accepts_a_quote_with_this_root(pki: Pki, quote: bytes, collateral: tdx.TdxCollateral) -> None:
    verdict = judge(quote, collateral, pki.roots[0])
    assert (verdict.status, verdict.advisory_ids) == ("UpToDate", [])


def test_the_verifier_refuses_it_with_intels_root(quote: bytes, collateral: tdx.TdxCollateral) -> None:
    with pytest.raises(ValueError, match="root CA CRL"):
        judge(quote, collateral, None)


def test_the_verifier_refuses_it_with_another_development_root(quote: bytes, collateral: tdx.TdxCollateral) -> None:
    with pytest.raises(ValueError, match="root CA CRL"):
        judge(quote, collateral, create_pki(NOW).roots[0])


def test_the_verifier_refuses_a_real_quote_with_this_root(pki: Pki) -> None:
    raw = (INTEL / "tdx_v4.quote").read_bytes()
    real = tdx.parse_collateral((INTEL / "tdx_v4.collateral.json").read_text())
    at = datetime.fromisoformat("2025-06-20T00:00:00Z")
    assert judge(raw, real, None, at).status == "UpToDate"
    with pytest.raises(ValueError, match="root CA CRL"):
        judge(raw, real, pki.roots[0], at)


@pytest.mark.parametrize(("version", "is_1_5"), [(5, False), (5, True)])
def test_version_5(pki: Pki, collateral: tdx.TdxCollateral, version: int, is_1_5: bool) -> None:
    report = dev_sign.td_report(REPORT_DATA, REGISTERS)
    if is_1_5:
        report = replace(report, tee_tcb_svn_2=report.tee_tcb_svn, mr_service_td=bytes(48))
    assert judge(dev_sign.sign_quote(pki, report, version), collateral, pki.roots[0]).status == "UpToDate"


def test_a_quote_is_one_of_version_4_and_says_what_it_is(quote: bytes) -> None:
    parsed = tdx.parse_quote(quote)
    assert parsed.header.version == 4
    assert parsed.header.user_data == b"DEV-PKI-NO-HARDWARE\0"
    assert parsed.report.report_data == REPORT_DATA
    assert tdx.build_quote(parsed) == quote
    assert dcap_qvl.parse_quote(quote).fmspc() == "00DE70000000"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: replace(r, td_attributes=b"\x01" + r.td_attributes[1:]), "Debug mode is enabled"),
        (lambda r: replace(r, td_attributes=bytes(8)), "SEPT_VE_DISABLE"),
        (lambda r: replace(r, td_attributes=b"\x02" + r.td_attributes[1:]), "Reserved bits"),
        (lambda r: replace(r, tee_tcb_svn=bytes(16)), "TCB"),
    ],
)
def test_what_a_verifier_must_refuse_although_it_is_signed(
    pki: Pki, collateral: tdx.TdxCollateral, change: Change, text: str
) -> None:
    signed = dev_sign.sign_quote(pki, change(dev_sign.td_report(REPORT_DATA, REGISTERS)))
    with pytest.raises(ValueError, match=text):
        judge(signed, collateral, pki.roots[0])


@pytest.mark.parametrize("offset", [12, 184, 520, 568, 636, 700, 770, 834, 1154, 1220])
def test_one_flipped_bit_is_refused(pki: Pki, quote: bytes, collateral: tdx.TdxCollateral, offset: int) -> None:
    mutated = bytearray(quote)
    mutated[offset] ^= 1
    with pytest.raises(ValueError, match=r"."):
        judge(bytes(mutated), collateral, pki.roots[0])


@pytest.mark.parametrize("name", sorted({*tdx.TdxCollateral.__struct_fields__} - {"pck_crl_issuer_chain"}))
def test_collateral_of_another_pki_is_refused(pki: Pki, quote: bytes, collateral: tdx.TdxCollateral, name: str) -> None:
    """All but the CRL's issuer chain, in whose place the verifier takes the chain in the quote."""
    other = dev_sign.collateral(create_pki(NOW), NOW, status="OutOfDate")
    mixed = tdx.TdxCollateral(**collateral.as_json() | {name: getattr(other, name)})
    if name == "qe_identity":
        assert mixed.qe_identity == collateral.qe_identity
        mixed = tdx.TdxCollateral(**mixed.as_json() | {name: mixed.qe_identity.replace('"TD_QE"', '"TD_QE" ')})
    with pytest.raises(ValueError, match=r"."):
        judge(quote, mixed, pki.roots[0])


@pytest.mark.parametrize("days", [-1, 31])
def test_collateral_has_its_time(pki: Pki, quote: bytes, collateral: tdx.TdxCollateral, days: int) -> None:
    with pytest.raises(ValueError, match=r"expired|future|Expired|NotValid"):
        judge(quote, collateral, pki.roots[0], NOW + timedelta(days=days))


def test_what_a_test_can_make_go_wrong(pki: Pki, quote: bytes) -> None:
    old = dev_sign.collateral(pki, NOW, status="OutOfDate", advisories=["INTEL-SA-00000"])
    verdict = judge(quote, old, pki.roots[0])
    assert (verdict.status, verdict.advisory_ids) == ("OutOfDate", ["INTEL-SA-00000"])
    with pytest.raises(ValueError, match=r"[Rr]evoked"):
        judge(quote, dev_sign.collateral(pki, NOW, status="Revoked"), pki.roots[0])
    for certificate in (pki.pck.certificate, pki.pck_ca.certificate):
        with pytest.raises(ValueError, match="CertRevoked"):
            judge(quote, dev_sign.collateral(pki, NOW, revoked=[certificate]), pki.roots[0])


def certificates_of(pki: Pki) -> list[x509.Certificate]:
    issuers = (pki.tdx_root, pki.pck_ca, pki.tcb_signing, pki.pck, pki.attestation, pki.gpu)
    return [*(each.certificate for each in issuers), *pki.gpu_issuers]


def test_every_certificate_says_that_it_is_for_development(pki: Pki) -> None:
    for certificate in certificates_of(pki):
        (common,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        (organization,) = certificate.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
        assert str(common.value).startswith("DEVELOPMENT ")
        assert str(common.value).endswith(" - NOT HARDWARE")
        assert organization.value == ORGANIZATION


def test_gpu_evidence_is_signed_by_a_chain_of_five(pki: Pki) -> None:
    nonce = b"\x07" * 32
    gpu = dev_sign.gpu_evidence(pki, nonce)
    parsed = nvgpu.parse_measurements(gpu.evidence)
    chain = x509.load_pem_x509_certificates(gpu.certificate)
    assert parsed.nonce == nonce
    assert len(chain) == 5
    assert chain[-1] == pki.roots[1]
    for certificate, issuer in zip(chain, [*chain[1:], chain[-1]], strict=True):
        certificate.verify_directly_issued_by(issuer)
    fwid = chain[0].extensions.get_extension_for_oid(x509.ObjectIdentifier("2.23.133.5.4.1")).value
    assert isinstance(fwid, x509.UnrecognizedExtension)
    assert fwid.value == parsed.field(nvgpu.FWID) == GPU_FWID
    key = chain[0].public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    r, s = (int.from_bytes(parsed.signature[i : i + 48], "big") for i in (0, 48))
    key.verify(encode_dss_signature(r, s), parsed.signed(), ec.ECDSA(hashes.SHA384()))
    with pytest.raises(InvalidSignature):
        key.verify(encode_dss_signature(r, s), parsed.signed() + b"\0", ec.ECDSA(hashes.SHA384()))


def test_a_pki_is_made_once_and_private(tmp_path: Path) -> None:
    first = open_pki(tmp_path / "data")
    second = open_pki(tmp_path / "data")
    directory = tmp_path / "data" / DIRECTORY
    assert first.roots_pem() == second.roots_pem() == (directory / ROOTS_FILE).read_bytes()
    assert first.seed == second.seed
    assert certificates_of(first) == certificates_of(second)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert "NOT HARDWARE" in (directory / "README.txt").read_text()
    assert [path.name for path in (tmp_path / "data").iterdir()] == [DIRECTORY]


def test_what_a_reopened_pki_signs_verifies_with_the_exported_root(tmp_path: Path) -> None:
    open_pki(tmp_path, lambda: NOW).export_roots(tmp_path / "roots.pem")
    reopened = load_pki(tmp_path / DIRECTORY)
    quote = dev_sign.sign_quote(reopened, dev_sign.td_report(REPORT_DATA, REGISTERS))
    root, gpu_root = x509.load_pem_x509_certificates((tmp_path / "roots.pem").read_bytes())
    assert judge(quote, dev_sign.collateral(reopened, NOW), root).status == "UpToDate"
    assert gpu_root == reopened.roots[1]


def test_two_processes_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: open_pki(tmp_path).roots_pem(), range(8)))
    assert len(set(made)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [DIRECTORY]


def _no_key(directory: Path) -> None:
    (directory / "pck.key").unlink()


def _garbage(directory: Path) -> None:
    (directory / "pck.crt").write_text("garbage")


def _swapped(directory: Path) -> None:
    shutil.copy(directory / "pck.key", directory / "pck_ca.key")


def _readable(directory: Path) -> None:
    (directory / "tdx_root.key").chmod(0o644)


def _empty(directory: Path) -> None:
    (directory / "gpu_issuers.crt").write_text("")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_no_key, "is damaged; remove the directory"),
        (_garbage, "is damaged"),
        (_swapped, "is damaged"),
        (_empty, "is damaged"),
        (_readable, "can be read by others"),
    ],
)
def test_a_damaged_pki_is_not_used(tmp_path: Path, damage: Callable[[Path], None], text: str) -> None:
    open_pki(tmp_path)
    damage(tmp_path / DIRECTORY)
    with pytest.raises(OperatorError, match=text):
        open_pki(tmp_path)


def test_a_place_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="can't be used"):
        open_pki(tmp_path / "file" / "below")


def test_nothing_is_left_beside_a_place_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).symlink_to(tmp_path / "nowhere")
    with pytest.raises(OperatorError, match="can't be used"):
        open_pki(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [DIRECTORY]
