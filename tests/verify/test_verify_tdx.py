"""TDX quotes: the recorded ones pass at their time, and whatever is changed is noticed at the step that names it."""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

import dcap_qvl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from confide.attest import dev_sign
from confide.attest.dev_pki import FMSPC, Identity, pem
from confide.verify import tdx_collateral
from confide.verify.context import Context
from confide.verify.material import Item, Material
from confide.verify.policy import TdMeasurement, TdxPolicy
from confide.verify.roots import Roots
from confide.verify.tdx import MOST_BYTES, TDX, verify_tdx
from confide.verify.tdx_platform import Platform
from confide.verify.tdx_policy import check_flags
from confide.verify.verdict import CheckFailed, ExitCode, Ledger, Outcome
from confide.wire.tdx import TdxCollateral, build_quote, parse_quote

from . import tdx_maker as make
from .tdx_maker import NOW, SECONDS, Tried

ALL_STEPS = [step.id for step in TDX.steps]
DAY = 86400
DEBUG = bytes.fromhex("0100001000000000")
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


# What passes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tdx_v4", "tdx_v4_near"])
def test_a_recorded_quote_is_verified_at_its_time(name: str) -> None:
    tried = Tried(make.recorded(name), make.at_capture(name))
    assert (tried.failing(), tried.missing()) == ([], [])
    assert tried.verdict.exit_code == ExitCode.VERIFIED
    assert tried.verdict.hardware
    assert tried.verdict.roots == ("Intel SGX Root CA",)
    assert [finding.step for finding in tried.ledger.findings] == ALL_STEPS
    assert tried.evidence is not None
    assert (tried.evidence.status, tried.evidence.advisories) == ("UpToDate", ())
    assert tried.evidence.quote == parse_quote(make.recorded(name))


def test_a_machine_below_every_tcb_level_fails_at_tdx_9() -> None:
    tried = Tried(make.recorded("tdx_v5"), make.at_capture("tdx_v5"))
    assert tried.failing() == ["tdx.9"]
    assert tried.evidence is None
    assert tried.ledger.passed(*(f"tdx.{number}" for number in (1, 2, 3, 4, 5, 6, 8)))


@pytest.mark.parametrize(
    ("name", "text"), [("tdx_v4_debug", "DEBUG is set"), ("tdx_v5_service", "a service TD is bound to it")]
)
def test_real_quotes_of_tds_that_nobody_may_accept_fail_at_tdx_5(name: str, text: str) -> None:
    context = replace(make.at_capture("tdx_v5"), material=Material())
    tried = Tried(make.recorded(name), context)
    assert tried.failing() == ["tdx.5"]
    assert text in tried.detail("tdx.5")
    assert tried.missing() == ["tdx.8", "tdx.9", "tdx.10"]
    assert tried.verdict.exit_code == ExitCode.FAILED
    assert tried.evidence is not None
    assert tried.evidence.status is None


@pytest.mark.parametrize(("version", "is_1_5"), [(4, False), (5, False), (5, True)])
def test_a_development_quote_is_consistent_and_no_hardware(version: int, is_1_5: bool) -> None:
    more = {"tee_tcb_svn_2": make.report().tee_tcb_svn, "mr_service_td": bytes(48)} if is_1_5 else {}
    tried = Tried(make.quote(version, **more), make.context(make.collateral()))
    assert (tried.failing(), tried.missing()) == ([], [])
    assert tried.verdict.exit_code == ExitCode.DEVELOPMENT
    assert not tried.verdict.hardware


def test_without_collateral_there_is_not_enough_evidence() -> None:
    tried = Tried(make.quote(), make.context())
    assert tried.failing() == []
    assert tried.missing() == ["tdx.8", "tdx.9", "tdx.10"]
    assert tried.verdict.exit_code == ExitCode.NOT_ENOUGH
    assert f"no collateral for FMSPC {FMSPC.hex().upper()} is at hand" in tried.detail("tdx.8")
    assert tried.evidence is not None
    assert tried.evidence.status is None


def test_facts_are_what_one_pins() -> None:
    facts = Tried(make.recorded("tdx_v4"), make.at_capture("tdx_v4")).verdict.facts["tdx"]
    report = parse_quote(make.recorded("tdx_v4")).report
    registers = ("mr_td", "mr_seam", "mr_config_id", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "td_attributes", "report_data")
    assert facts == {
        **{name: getattr(report, name).hex() for name in registers},
        "version": 4,
        "fmspc": "B0C06F000000",
        "ppid": "811dca2a26b952e85bb6448b097ba4fd",
        "status": "UpToDate",
        "advisories": [],
        "evaluation_number": 17,
        "collateral_source": "stapled",
        "collateral_expires": int(datetime(2025, 7, 19, 10, 0, 35, tzinfo=UTC).timestamp()),
    }


def test_facts_of_one_of_several_are_kept_apart() -> None:
    ledger = Ledger()
    for subject in ("", "node 2"):
        verify_tdx(ledger, make.context(), make.quote(), subject=subject)
    assert set(ledger.facts) == {"tdx", "tdx:node 2"}
    assert {finding.subject for finding in ledger.findings} == {"", "node 2"}


# One break per step --------------------------------------------------------------------------------------------------


def _expired() -> Tried:
    return Tried(make.quote(), make.context(make.collateral(), now=SECONDS + 31 * DAY))


def _measured(**registers: str) -> Tried:
    context = make.context(make.collateral(), measurements=(TdMeasurement(**registers, note="the one"),))
    return Tried(make.quote(), context)


def _other_key() -> bytes:
    parsed = parse_quote(make.quote())
    key = make.raw_signature(make.pki().pck, parsed.signed())
    return make.spliced(make.quote(), signature=key)


BREAKS: dict[str, Callable[[], Tried]] = {
    "tdx.1": lambda: Tried(make.quote() + b"\x01", make.context(make.collateral())),
    "tdx.2": lambda: Tried(
        make.quote(), replace(make.context(make.collateral()), roots=Roots.of(["intel", "amd", "nvidia"]))
    ),
    "tdx.3": lambda: Tried(make.enclave(make.quote(), make.pki().pck_ca), make.context(make.collateral())),
    "tdx.4": lambda: Tried(_other_key(), make.context(make.collateral())),
    "tdx.5": lambda: Tried(make.quote(td_attributes=DEBUG), make.context(make.collateral())),
    "tdx.6": lambda: Tried(make.quote(), make.context(make.collateral(), smt=False)),
    "tdx.7": lambda: _measured(rtmr1="00" * 48),
    "tdx.8": _expired,
    "tdx.9": lambda: Tried(make.quote(), make.context(make.collateral(revoked="pck"))),
    "tdx.10": lambda: Tried(make.quote(), make.context(make.collateral(status="OutOfDate"))),
}
"""For each step something that is wrong there and nowhere else."""


def test_every_step_has_its_break() -> None:
    assert list(BREAKS) == ALL_STEPS


@pytest.mark.parametrize("step", BREAKS)
def test_only_the_broken_step_fails(step: str) -> None:
    tried = BREAKS[step]()
    assert tried.failing() == [step]
    assert tried.verdict.exit_code == ExitCode.FAILED
    assert not tried.verdict.hardware
    assert [finding.step for finding in tried.ledger.findings] == ALL_STEPS
    assert (tried.evidence is None) == (step in ("tdx.1", "tdx.2", "tdx.3", "tdx.4", "tdx.8", "tdx.9"))


# More ways to break each step ----------------------------------------------------------------------------------------


class Wrong(NamedTuple):
    """A change, the step that must notice it, and a part of what it must say."""

    step: str
    text: str
    raw: Callable[[], bytes] = make.quote
    collateral: Callable[[], TdxCollateral] = make.collateral
    policy: Mapping[str, Any] = MappingProxyType({})
    now: int = SECONDS


def _td(**members: Any) -> Callable[[], bytes]:
    return lambda: make.quote(**members)


def _attributes(*bits: int) -> Callable[[], bytes]:
    return _td(td_attributes=sum(1 << bit for bit in bits).to_bytes(8, "little"))


def _header(**members: Any) -> Callable[[], bytes]:
    def build() -> bytes:
        parsed = parse_quote(make.quote())
        return build_quote(replace(parsed, header=replace(parsed.header, **members)))

    return build


def _certified(kind: int, text: bytes) -> Callable[[], bytes]:
    return lambda: make.spliced(make.quote(), certification_type=kind, certification=text)


def _pcks(*names: str, extra: bytes = b"") -> Callable[[], bytes]:
    def build() -> bytes:
        return make.spliced(
            make.quote(), certification=pem([getattr(make.pki(), name).certificate for name in names]) + extra
        )

    return build


def _enclave(**members: Any) -> Callable[[], bytes]:
    return lambda: make.enclave(make.quote(), **members)


def _level(**members: Any) -> Callable[[dict[str, Any]], object]:
    return lambda value: value["tcbLevels"][0].update(members)


def _tcb(**members: Any) -> Callable[[], TdxCollateral]:
    return lambda: make.resigned(lambda value: value.update(members))


def _qe(**members: Any) -> Callable[[], TdxCollateral]:
    return lambda: make.resigned(None, lambda value: value.update(members))


def _texts(**members: str) -> Callable[[], TdxCollateral]:
    return lambda: make.with_members(make.collateral(), members)


def _chain_of(*names: str) -> str:
    return pem([getattr(make.pki(), name).certificate for name in names]).decode()


def _crl(signer: Identity, *, days: int = 30, delta: bool = False, endless: bool = False) -> str:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(signer.certificate.subject)
        .last_update(NOW - timedelta(hours=1))
        .next_update(NOW + timedelta(days=days))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
    )
    if delta:
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.DER).hex()


def _module(**members: Any) -> Callable[[dict[str, Any]], object]:
    return lambda value: value["tdxModuleIdentities"][0].update(members)


def _components(name: str) -> Callable[[], TdxCollateral]:
    return lambda: make.resigned(lambda value: value["tcbLevels"][0]["tcb"][name][2].update(svn=255))


WRONG: dict[str, Wrong] = {
    "nothing": Wrong("tdx.1", "version", lambda: b""),
    "a quote of SGX": Wrong("tdx.1", "SGX enclave", lambda: make.recorded("sgx_v3")),
    "a token of CBOR": Wrong("tdx.1", "CWT", lambda: b"\xd2\x84\x43" + bytes(9000)),
    "a token of CBOR, tagged": Wrong("tdx.1", "CWT", lambda: b"\xd8\x3d\xd2\x84" + bytes(9000)),
    "a certificate": Wrong("tdx.1", "DICE", lambda: b"\x30\x82" + bytes(9000)),
    "a PEM text": Wrong("tdx.1", "PEM", lambda: b"-----BEGIN CERTIFICATE-----"),
    "too long": Wrong("tdx.1", f"at most {MOST_BYTES}", lambda: make.quote().ljust(MOST_BYTES + 1, b"\0")),
    "another version": Wrong("tdx.1", "version 6", _header(version=6)),
    "another TEE": Wrong("tdx.1", "TEE type", _header(tee_type=0)),
    "another signature algorithm": Wrong("tdx.1", "attestation key type 3", _header(attestation_key_type=3)),
    "another vendor": Wrong("tdx.1", "expected Intel's", _header(qe_vendor_id=bytes(16))),
    "encrypted PPID": Wrong("tdx.2", "type 3, expected 5", _certified(3, bytes(404))),
    "no certificates": Wrong("tdx.2", "PCK chain", _certified(5, b"")),
    "text between": Wrong("tdx.2", "belongs to no certificate", _pcks("pck", "pck_ca", "tdx_root", extra=b"x")),
    "the leaf alone": Wrong("tdx.2", "no accepted root", _pcks("pck")),
    "no issuer": Wrong("tdx.2", "not signed by the next", _pcks("pck", "tdx_root")),
    "wrong order": Wrong("tdx.2", "", _pcks("pck_ca", "pck", "tdx_root")),
    "no PCK": Wrong("tdx.2", "2 certificates", _pcks("tcb_signing", "tdx_root")),
    "a sibling": Wrong("tdx.2", "no PCK certificate", _pcks("attestation", "pck_ca", "tdx_root")),
    "before the certificates": Wrong("tdx.2", "is valid from", now=SECONDS - 2 * DAY),
    "after the certificates": Wrong("tdx.2", "is valid from", now=SECONDS + 3651 * DAY),
    "another attestation key": Wrong("tdx.3", "another attestation key", _enclave(report_data=bytes(64))),
    "more than the digest": Wrong(
        "tdx.3",
        "another attestation key",
        lambda: make.enclave(
            make.quote(), report_data=parse_quote(make.quote()).signature.qe_report.report_data[:63] + b"\x01"
        ),
    ),
    "a debugged enclave": Wrong("tdx.3", "debug mode", _enclave(attributes=b"\x13" + bytes(7) + b"\xe7" + bytes(7))),
    "short authentication data": Wrong("tdx.3", "31 bytes", lambda: make.spliced(make.quote(), qe_auth_data=bytes(31))),
    "a key off the curve": Wrong("tdx.3", "another", lambda: make.spliced(make.quote(), attestation_key=bytes(64))),
    "debug": Wrong("tdx.5", "DEBUG", _attributes(0, 28)),
    "no SEPT_VE_DISABLE": Wrong("tdx.5", "SEPT_VE_DISABLE", _attributes()),
    "a reserved bit of TUD": Wrong("tdx.5", "reserved bits are set (4)", _attributes(4, 28)),
    "migratable": Wrong("tdx.5", "reserved bits are set (29)", _attributes(28, 29)),
    "two more reserved bits": Wrong("tdx.5", "reserved bits are set (27, 62)", _attributes(27, 28, 62)),
    "performance counters": Wrong("tdx.5", "PERFMON", _attributes(28, 63)),
    "a service TD": Wrong(
        "tdx.5", "service TD", lambda: make.quote(5, tee_tcb_svn_2=bytes(16), mr_service_td=bytes(47) + b"\x01")
    ),
    "a dynamic platform": Wrong("tdx.6", "dynamic_platform is on", policy={"dynamic_platform": False}),
    "cached keys": Wrong("tdx.6", "cached_keys is on", policy={"cached_keys": False}),
    "a signature that is not hex": Wrong("tdx.8", "not hexadecimal", collateral=_texts(tcb_info_signature="zz")),
    "a short signature": Wrong("tdx.8", "TCB info is not signed", collateral=_texts(tcb_info_signature="00" * 63)),
    "no signature": Wrong("tdx.8", "QE identity is not signed", collateral=_texts(qe_identity_signature="")),
    "TCB info of yesterday": Wrong("tdx.8", "TCB info counts", collateral=_tcb(nextUpdate="2026-11-22T11:59:59Z")),
    "TCB info of tomorrow": Wrong("tdx.8", "TCB info counts", collateral=_tcb(issueDate="2026-11-22T12:00:01Z")),
    "QE identity of yesterday": Wrong("tdx.8", "QE identity counts", collateral=_qe(nextUpdate="2026-11-22T11:59:59Z")),
    "QE identity of tomorrow": Wrong("tdx.8", "QE identity counts", collateral=_qe(issueDate="2026-11-22T12:00:01Z")),
    "the identity of SGX's enclave": Wrong("tdx.8", "expected 'TD_QE'", collateral=_qe(id="QE")),
    "TCB info signed by a platform": Wrong(
        "tdx.8",
        "TCB signing certificate",
        collateral=lambda: make.resigned(signer=make.pki().pck, chain=_certificates("pck", "pck_ca", "tdx_root")),
    ),
    "TCB info signed by a sibling": Wrong(
        "tdx.8",
        "TCB signing certificate",
        collateral=lambda: make.resigned(
            signer=make.pki().attestation, chain=_certificates("attestation", "pck_ca", "tdx_root")
        ),
    ),
    "TCB info signed by a CA": Wrong(
        "tdx.8",
        "TCB signing certificate",
        collateral=lambda: make.resigned(signer=make.pki().pck_ca, chain=_certificates("pck_ca", "tdx_root")),
    ),
    "TCB info signed by the root": Wrong(
        "tdx.8",
        "TCB signing certificate",
        collateral=lambda: make.resigned(signer=make.pki().tdx_root, chain=_certificates("tdx_root")),
    ),
    "no chain of the CRL": Wrong("tdx.8", "PCK CRL", collateral=_texts(pck_crl_issuer_chain="")),
    "another chain of the CRL": Wrong(
        "tdx.8", "another CA", collateral=lambda: _texts(pck_crl_issuer_chain=_chain_of("tcb_signing", "tdx_root"))()
    ),
    "the root's chain of the CRL": Wrong(
        "tdx.8", "another CA", collateral=lambda: _texts(pck_crl_issuer_chain=_chain_of("tdx_root"))()
    ),
    "a foreign chain of the CRL": Wrong(
        "tdx.8",
        "no accepted root",
        collateral=lambda: _texts(
            pck_crl_issuer_chain=dev_sign.collateral(make.other_pki(), NOW).pck_crl_issuer_chain
        )(),
    ),
    "no CRL": Wrong("tdx.8", "PCK CRL can't be read", collateral=_texts(pck_crl="")),
    "the root's CRL twice": Wrong(
        "tdx.8", "PCK CRL is not signed", collateral=lambda: _texts(pck_crl=make.collateral().root_ca_crl)()
    ),
    "the CRLs swapped": Wrong(
        "tdx.8",
        "CRL of the root is not signed",
        collateral=lambda: _texts(pck_crl=make.collateral().root_ca_crl, root_ca_crl=make.collateral().pck_crl)(),
    ),
    "a CRL of another PKI": Wrong(
        "tdx.8", "is not signed", collateral=lambda: _texts(root_ca_crl=_crl(make.other_pki().tdx_root))()
    ),
    "an old PCK CRL": Wrong(
        "tdx.8",
        "the PCK CRL counts",
        collateral=lambda: _texts(pck_crl=_crl(make.pki().pck_ca, days=1))(),
        now=SECONDS + 2 * DAY,
    ),
    "an old CRL of the root": Wrong(
        "tdx.8",
        "the CRL of the root counts",
        collateral=lambda: _texts(root_ca_crl=_crl(make.pki().tdx_root, days=1))(),
        now=SECONDS + 2 * DAY,
    ),
    "a part of a CRL": Wrong(
        "tdx.8", "only a part", collateral=lambda: _texts(pck_crl=_crl(make.pki().pck_ca, delta=True))()
    ),
    "the PCK revoked": Wrong("tdx.9", "PCK certificate was revoked", collateral=lambda: make.collateral(revoked="pck")),
    "the CA revoked": Wrong("tdx.9", "was revoked by the root", collateral=lambda: make.collateral(revoked="pck_ca")),
    "the signer revoked": Wrong(
        "tdx.9", "TCB Signing - NOT HARDWARE' was revoked", collateral=lambda: make.collateral(revoked="tcb_signing")
    ),
    "the platform revoked": Wrong("tdx.9", "dcap-qvl", collateral=lambda: make.collateral(status="Revoked")),
    "an unknown status": Wrong("tdx.9", "dcap-qvl", collateral=lambda: make.collateral(status="Splendid")),
    "no level": Wrong("tdx.9", "dcap-qvl", collateral=_tcb(tcbLevels=[])),
    "an old processor": Wrong("tdx.9", "dcap-qvl", collateral=_components("sgxtcbcomponents")),
    "an old TDX module": Wrong("tdx.9", "dcap-qvl", collateral=_components("tdxtcbcomponents")),
    "an old PCE": Wrong(
        "tdx.9",
        "dcap-qvl",
        collateral=lambda: make.resigned(lambda value: value["tcbLevels"][0]["tcb"].update(pcesvn=12)),
    ),
    "an unknown TDX module": Wrong("tdx.9", "dcap-qvl", collateral=lambda: make.resigned(_module(id="TDX_02"))),
    "another signer of the TDX module": Wrong(
        "tdx.9", "dcap-qvl", collateral=lambda: make.resigned(_module(mrsigner="01" * 48))
    ),
    "a TDX module with attributes": Wrong("tdx.9", "dcap-qvl", _td(seam_attributes=b"\x01" + bytes(7))),
    "another quoting enclave": Wrong("tdx.9", "dcap-qvl", _enclave(mr_signer=bytes(32))),
    "another product": Wrong("tdx.9", "dcap-qvl", _enclave(isv_prod_id=1)),
    "an old quoting enclave": Wrong("tdx.9", "dcap-qvl", _enclave(isv_svn=5)),
    "another MISCSELECT": Wrong("tdx.9", "dcap-qvl", _enclave(misc_select=b"\x01" + bytes(3))),
    "a status that is not accepted": Wrong(
        "tdx.10", "found status SWHardeningNeeded", collateral=lambda: make.collateral(status="SWHardeningNeeded")
    ),
    "advisories": Wrong(
        "tdx.10",
        "not tolerated: INTEL-SA-2, INTEL-SA-3",
        collateral=lambda: make.collateral(advisories=("INTEL-SA-1", "INTEL-SA-2", "INTEL-SA-3")),
        policy={"advisories": ("INTEL-SA-1",)},
    ),
    "out of date without grace": Wrong(
        "tdx.10",
        "the platform or its TDX module is OutOfDate with patches of 2026-11-22, and the grace is 0 days",
        collateral=lambda: make.collateral(status="OutOfDate"),
        policy={"statuses": ("OutOfDate",)},
    ),
    "out of date for longer": Wrong(
        "tdx.10",
        "patches of 2026-11-10, and the grace is 11 days",
        collateral=lambda: make.resigned(_level(tcbStatus="OutOfDate", tcbDate="2026-11-10T00:00:00Z")),
        policy={"statuses": ("OutOfDate",), "grace_days": 11},
    ),
    "an enclave that is out of date": Wrong(
        "tdx.10",
        "quoting enclave is OutOfDate",
        collateral=lambda: make.resigned(None, _level(tcbStatus="OutOfDate", tcbDate="2026-10-01T00:00:00Z")),
        policy={"statuses": ("UpToDate", "OutOfDate"), "grace_days": 30},
    ),
    "a module that is out of date": Wrong(
        "tdx.10",
        "TDX module is OutOfDate",
        collateral=lambda: make.resigned(
            lambda value: value["tdxModuleIdentities"][0]["tcbLevels"][0].update(
                tcbStatus="OutOfDate", tcbDate="2026-10-01T00:00:00Z"
            )
        ),
        policy={"statuses": ("UpToDate", "OutOfDate"), "grace_days": 30},
    ),
    "an older evaluation": Wrong(
        "tdx.10", "evaluation number 1, expected 2 or more", policy={"minimum_evaluation_number": 2}
    ),
    "an older evaluation of the enclave": Wrong(
        "tdx.10",
        "evaluation number 1, expected 2 or more",
        collateral=lambda: make.resigned(lambda value: value.update(tcbEvaluationDataNumber=2)),
        policy={"minimum_evaluation_number": 2},
    ),
    "no status at all": Wrong("tdx.10", "none at all", policy={"statuses": ()}),
}


def _certificates(*names: str) -> list[x509.Certificate]:
    return [getattr(make.pki(), name).certificate for name in names]


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_by_its_step(name: str) -> None:
    wrong = WRONG[name]
    tried = Tried(wrong.raw(), make.context(wrong.collateral(), now=wrong.now, **wrong.policy))
    assert tried.failing() == [wrong.step], tried.verdict.problems()
    assert wrong.text in tried.detail(wrong.step)


def test_every_problem_of_the_policy_is_named_at_once() -> None:
    collateral = make.collateral(status="OutOfDate", advisories=("INTEL-SA-9",))
    wanted = {"smt": False, "cached_keys": False, "minimum_evaluation_number": 9}
    measurements = (TdMeasurement(mr_td="00" * 48, note="here"), TdMeasurement(rtmr0="11" * 48, rtmr1="11" * 48))
    tried = Tried(make.quote(), make.context(collateral, **wanted, measurements=measurements))
    assert tried.failing() == ["tdx.6", "tdx.7", "tdx.10"]
    assert "cached_keys is on" in tried.detail("tdx.6")
    assert "smt is on" in tried.detail("tdx.6")
    assert tried.detail("tdx.7").startswith("no entry of tdx.measurements matches; closest is entry 1 of 2 (here): ")
    assert f"mr_td found {make.report().mr_td.hex()}, expected {'00' * 48}" in tried.detail("tdx.7")
    for part in ("found status OutOfDate, expected UpToDate", "INTEL-SA-9", "number 1, expected 9", "grace is 0 days"):
        assert part in tried.detail("tdx.10")


def test_two_faults_of_a_td_are_named_at_once() -> None:
    tried = Tried(make.quote(td_attributes=b"\x05" + bytes(7)), make.context(make.collateral()))
    for part in ("DEBUG", "reserved bits are set (2)", "SEPT_VE_DISABLE"):
        assert part in tried.detail("tdx.5")


# What a policy can allow ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "collateral", "policy"),
    [
        (_attributes(28, 63), make.collateral, {"perfmon": True}),
        (_attributes(28, 30, 31), make.collateral, {}),
        (make.quote, lambda: make.collateral("SWHardeningNeeded"), {"statuses": ("SWHardeningNeeded",)}),
        (make.quote, lambda: make.collateral(advisories=("INTEL-SA-1",)), {"advisories": ("INTEL-SA-1", "INTEL-SA-2")}),
        (make.quote, lambda: make.collateral("OutOfDate"), {"statuses": ("OutOfDate",), "grace_days": 1}),
        (make.quote, make.collateral, {"minimum_evaluation_number": 1}),
        (
            make.quote,
            make.collateral,
            {"measurements": (TdMeasurement(mr_td="00" * 48), TdMeasurement(rtmr3="04" * 48, rtmr0="01" * 48))},
        ),
    ],
)
def test_what_the_policy_allows(
    raw: Callable[[], bytes], collateral: Callable[[], TdxCollateral], policy: dict[str, Any]
) -> None:
    tried = Tried(raw(), make.context(collateral(), **policy))
    assert (tried.failing(), tried.missing()) == ([], [])


def test_statuses_and_advisories_are_given_even_when_refused() -> None:
    tried = Tried(make.quote(), make.context(make.collateral("OutOfDate", ("INTEL-SA-1",))))
    assert tried.evidence is not None
    assert (tried.evidence.status, tried.evidence.advisories) == ("OutOfDate", ("INTEL-SA-1",))
    assert tried.verdict.facts["tdx"]["status"] == "OutOfDate"


def test_a_platform_that_does_not_state_its_flags_is_refused_where_they_count() -> None:
    platform = Platform((), "", "", "", None, None, False)
    assert check_flags(platform, TdxPolicy(smt=False)) == "dynamic_platform ?, cached_keys ?, smt off"
    with pytest.raises(CheckFailed, match="cached_keys is not stated"):
        check_flags(platform, TdxPolicy(cached_keys=False))


# Collateral from several places --------------------------------------------------------------------------------------


def test_what_is_out_of_date_is_not_used_where_something_newer_is_at_hand() -> None:
    old = make.resigned(lambda value: value.update(nextUpdate="2026-11-22T11:30:00Z"))
    tried = Tried(make.quote(), make.context(make.item(old), make.item(make.collateral(), "cache")))
    assert tried.failing() == []
    assert tried.detail("tdx.8").startswith("cache, in date until ")
    assert tried.verdict.facts["tdx"]["collateral_source"] == "cache"


def test_newer_collateral_decides_over_older_that_is_stapled() -> None:
    newer = make.resigned(lambda value: (value.update(tcbEvaluationDataNumber=2), _level(tcbStatus="OutOfDate")(value)))
    tried = Tried(make.quote(), make.context(make.item(make.collateral()), make.item(newer, "cache")))
    assert tried.failing() == ["tdx.10"]


def test_who_is_revoked_in_any_list_is_revoked() -> None:
    newer = make.resigned(lambda value: value.update(tcbEvaluationDataNumber=2))
    lists = make.item(make.collateral(revoked="pck"), "cache")
    assert Tried(make.quote(), make.context(make.item(newer), lists)).failing() == ["tdx.9"]


def test_why_nothing_can_be_used_is_said_for_each() -> None:
    foreign = make.resigned(lambda value: value.update(fmspc="00806F050000"))
    sgx = make.resigned(lambda value: value.update(id="SGX"))
    pce = make.resigned(lambda value: value.update(pceId="0001"))
    items = (make.item(foreign), make.item(sgx, "cache"), make.item(pce, "network"))
    garbage = Item("tdx-collateral", "", b"{", "bundle")
    tried = Tried(make.quote(), make.context(*items, garbage))
    assert tried.failing() == []
    assert tried.verdict.exit_code == ExitCode.NOT_ENOUGH
    for part in ("TDX 00806F050000", "cache: TCB info is for SGX", "0001", "bundle: TDX collateral"):
        assert part in tried.detail("tdx.8")


def test_each_item_that_is_not_genuine_is_named() -> None:
    one = make.item(_texts(tcb_info_signature="00" * 64)())
    other = make.item(_texts(pck_crl="")(), "network")
    detail = Tried(make.quote(), make.context(one, other)).detail("tdx.8")
    assert detail == "stapled: TCB info is not signed by its issuer; network: the PCK CRL can't be read"


def test_only_some_items_are_looked_at() -> None:
    garbage = Item("tdx-collateral", "", b"{}", "stapled")
    many = (garbage,) * tdx_collateral.MOST_ITEMS
    assert Tried(make.quote(), make.context(*many[1:], make.collateral())).failing() == []
    assert Tried(make.quote(), make.context(*many, make.collateral())).missing() == ["tdx.8", "tdx.9", "tdx.10"]
    long = Item("tdx-collateral", "", b" " * (tdx_collateral.MOST_BYTES + 1), "stapled")
    assert "longer than" in Tried(make.quote(), make.context(long)).detail("tdx.8")


def test_dcap_qvl_alone_would_let_a_platform_judge_itself() -> None:
    """Why issuers of TCB info are checked here: if this fails, dcap-qvl has begun to check them too."""
    chain = _certificates("pck", "pck_ca", "tdx_root")
    judged = make.resigned(lambda value: value.update(tcbEvaluationDataNumber=99), signer=make.pki().pck, chain=chain)
    given = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(judged.as_json()))
    root = make.pki().roots[0].public_bytes(Encoding.DER)
    assert dcap_qvl.verify_with_root_ca(make.quote(), given, root, SECONDS).status == "UpToDate"


def test_a_pck_chain_in_the_collateral_is_not_looked_at() -> None:
    """dcap-qvl would take it in place of the quote's."""
    text = json.dumps(make.collateral().as_json() | {"pck_certificate_chain": "another"}).encode()
    assert Tried(make.quote(), make.context(Item("tdx-collateral", "", text))).failing() == []


# What changes and means the same -------------------------------------------------------------------------------------


def _means_the_same() -> Iterator[tuple[str, bytes, bytes]]:
    raw, text = make.recorded("tdx_v4"), json.loads(make.recorded_collateral("tdx_v4"))
    parsed = parse_quote(raw)
    signature = parsed.signature.signature
    other_s = (N - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    chain = parsed.signature.certification
    yield "no padding", build_quote(replace(parsed, padding=0)), json.dumps(text).encode()
    yield "more padding", raw + bytes(3000), json.dumps(text).encode()
    yield "-s in place of s", make.spliced(raw, signature=signature[:32] + other_s), json.dumps(text).encode()
    yield "whitespace in PEM", make.spliced(raw, certification=chain.replace(b"\n", b"\r\n")), json.dumps(text).encode()
    yield "no NUL after PEM", make.spliced(raw, certification=chain.rstrip(b"\0")), json.dumps(text).encode()
    yield "capitals in hex", raw, json.dumps(text | {"pck_crl": text["pck_crl"].upper()}).encode()
    yield "whitespace in JSON", raw, json.dumps(text, indent=4).encode()
    yield "a member nobody reads", raw, json.dumps(text | {"more": 1}).encode()


@pytest.mark.parametrize(("raw", "collateral"), [pytest.param(*case[1:], id=case[0]) for case in _means_the_same()])
def test_what_no_signature_covers_and_nobody_reads(raw: bytes, collateral: bytes) -> None:
    """The complete list of what may change in evidence: none of it says anything."""
    assert Tried(raw, make.at_capture("tdx_v4", collateral)).verdict.exit_code == ExitCode.VERIFIED


# Mutations -----------------------------------------------------------------------------------------------------------

WHITESPACE = b" \t\n\r\v\f"
REGIONS = (
    ("header", 48, {"tdx.1", "tdx.4"}),
    ("TD report", 584, {"tdx.4"}),
    ("signature length", 4, {"tdx.1"}),
    ("signature", 64, {"tdx.4"}),
    ("attestation key", 64, {"tdx.3"}),
    ("certification type and size", 6, {"tdx.1"}),
    ("QE report", 384, {"tdx.3"}),
    ("QE report signature", 64, {"tdx.3"}),
    ("size of authentication data", 2, {"tdx.1", "tdx.3"}),
    ("authentication data", 32, {"tdx.3"}),
    ("inner type and size", 6, {"tdx.1", "tdx.2"}),
)
"""The parts of a quote of version 4 in their order, and the steps that may refuse a change in each."""


def _regions(raw: bytes, body: int) -> Iterator[tuple[str, range, set[str]]]:
    at = 0
    for name, size, steps in REGIONS:
        long = body if name == "TD report" else size
        allowed = steps | ({"tdx.1"} if name == "TD report" and body != size else set())
        yield name, range(at, at + long), allowed
        at += long
    padding = parse_quote(raw).padding
    yield "certificates", range(at, len(raw) - padding), {"tdx.2"}
    yield "padding", range(len(raw) - padding, len(raw)), {"tdx.1"}


def _is_free(name: str, before: int, after: int) -> bool:
    """Whitespace for whitespace in a PEM text: the one change of one byte in a quote that means nothing."""
    return name == "certificates" and before in WHITESPACE and after in WHITESPACE


def _flipped(raw: bytes, at: int, bit: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]


@pytest.mark.parametrize(("name", "body", "every"), [("tdx_v4", 584, 1), ("tdx_v4_near", 584, 5), ("tdx_v5", 654, 3)])
def test_every_byte_of_a_quote_counts(name: str, body: int, every: int, capsys: pytest.CaptureFixture[str]) -> None:
    raw, context, tried, accepted = make.recorded(name), make.at_capture(name), Counter[str](), []
    for region, span, steps in _regions(raw, body):
        for at in span[:: every if len(span) > 64 else 1]:
            mutated = _flipped(raw, at, at % 8)
            if _is_free(region, raw[at], mutated[at]):
                continue
            tried[region] += 1
            failing = Tried(mutated, context).failing()
            if not failing or failing[0] not in steps:
                accepted.append((region, at, failing))
    with capsys.disabled():
        print(f"\n{name}: {tried.total()} mutations of the quote tried, {len(accepted)} accepted")
    assert accepted == []
    assert min(tried.values()) >= 2
    assert len(tried) == len(REGIONS) + 1 + (parse_quote(raw).padding > 0)


def test_every_byte_of_a_certificate_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """The DER inside the PEM texts: of the quote, and of the chain that signs TCB info."""
    raw, text = make.recorded("tdx_v4"), json.loads(make.recorded_collateral("tdx_v4"))
    tried, accepted = 0, []
    for place, certificate in enumerate(x509.load_pem_x509_certificates(parse_quote(raw).signature.certification)):
        for chain in _damaged(raw, place, certificate):
            tried += 1
            failing = Tried(make.spliced(raw, certification=chain), make.at_capture("tdx_v4")).failing()
            accepted += [] if failing == ["tdx.2"] else [(place, failing)]
    signer, root = x509.load_pem_x509_certificates(text["tcb_info_issuer_chain"].encode())
    for der in _flips(signer.public_bytes(Encoding.DER), 3):
        tried += 1
        chain = (_pem(der) + pem([root])).decode()
        context = make.at_capture("tdx_v4", json.dumps(text | {"tcb_info_issuer_chain": chain}).encode())
        accepted += [] if Tried(raw, context).failing() == ["tdx.8"] else ["signer"]
    with capsys.disabled():
        print(f"\ntdx_v4: {tried} mutations of certificates tried, {len(accepted)} accepted")
    assert accepted == []


def _damaged(raw: bytes, place: int, certificate: x509.Certificate) -> Iterator[bytes]:
    good = [_pem(c.public_bytes(Encoding.DER)) for c in x509.load_pem_x509_certificates(_certification(raw))]
    for der in _flips(certificate.public_bytes(Encoding.DER), 2):
        yield b"".join([*good[:place], _pem(der), *good[place + 1 :]])


def _certification(raw: bytes) -> bytes:
    return parse_quote(raw).signature.certification


def _flips(data: bytes, every: int) -> Iterator[bytes]:
    yield from (_flipped(data, at, at % 8) for at in range(0, len(data), every))


def _pem(der: bytes) -> bytes:
    text = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


def _changed_text(text: str, at: int) -> str:
    return text[:at] + chr(ord(text[at]) ^ 1 << at % 5) + text[at + 1 :]


def _collateral_mutations(text: dict[str, str], every: int) -> Iterator[tuple[str, int, dict[str, str]]]:
    for name, value in text.items():
        for at in range(0, len(value), every):
            changed = _changed_text(value, at)
            is_chain, is_hex = name.endswith("_chain"), name.endswith(("_crl", "_signature"))
            if is_chain and not value[at].strip() and not changed[at].strip():
                continue  # whitespace for whitespace in a PEM text
            if is_hex and changed.lower() == value.lower():
                continue  # the same digit
            yield name, at, text | {name: changed}


@pytest.mark.parametrize(("name", "every"), [("tdx_v4", 11), ("tdx_v4_near", 41)])
def test_every_byte_of_the_collateral_counts(name: str, every: int, capsys: pytest.CaptureFixture[str]) -> None:
    raw, tried, accepted = make.recorded(name), Counter[str](), []
    text = json.loads(make.recorded_collateral(name))
    for member, at, changed in _collateral_mutations(text, every):
        tried[member] += 1
        made = Tried(raw, make.at_capture(name, json.dumps(changed).encode()))
        if [*made.failing(), *made.missing()][0] != "tdx.8":
            accepted.append((member, at, made.failing()))
    with capsys.disabled():
        print(f"\n{name}: {tried.total()} mutations of the collateral tried, {len(accepted)} accepted")
    assert accepted == []
    assert set(tried) == set(text)


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, (*path, key))
    else:
        yield path


def _set(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> str:
    top = json.loads(value)
    *way, last = path
    inner = top
    for key in way:
        inner = inner[key]
    inner[last] = change(inner[last])
    return json.dumps(top, separators=(",", ":"))


def _another(value: Any) -> Any:
    return value + 1 if isinstance(value, int) else "" if isinstance(value, str) else None


def test_every_member_of_signed_json_counts(capsys: pytest.CaptureFixture[str]) -> None:
    raw, text = make.recorded("tdx_v4"), json.loads(make.recorded_collateral("tdx_v4"))
    tried, accepted = 0, []
    for name in ("tcb_info", "qe_identity"):
        for path in _leaves(json.loads(text[name])):
            changed = text | {name: _set(text[name], path, _another)}
            tried += 1
            made = Tried(raw, make.at_capture("tdx_v4", json.dumps(changed).encode()))
            if [*made.failing(), *made.missing()][0] != "tdx.8":
                accepted.append((name, path))
    with capsys.disabled():
        print(f"\ntdx_v4: {tried} members of signed JSON changed, {len(accepted)} accepted")
    assert accepted == []
    assert tried > 150


@pytest.mark.parametrize("name", TdxCollateral.__struct_fields__)
@pytest.mark.parametrize("value", [None, 1, [], {}, "", "\0", "\ud800", "x" * 100, "[" * 5000, "missing"])
def test_every_member_of_the_collateral_is_needed_and_a_text(name: str, value: object) -> None:
    text = json.loads(make.recorded_collateral("tdx_v4"))
    changed = {key: kept for key, kept in text.items() if key != name} if value == "missing" else text | {name: value}
    tried = Tried(make.recorded("tdx_v4"), make.at_capture("tdx_v4", json.dumps(changed).encode()))
    assert [*tried.failing(), *tried.missing()][0] == "tdx.8"


@pytest.mark.parametrize("name", ["tdx_v4", "tdx_v4_near"])
def test_every_date_counts(name: str) -> None:
    text = json.loads(make.recorded_collateral(name))
    first, last = [], []
    for member in ("tcb_info", "qe_identity"):
        value = json.loads(text[member])
        first.append(datetime.fromisoformat(value["issueDate"]))
        last.append(datetime.fromisoformat(value["nextUpdate"]))
    for member in ("root_ca_crl", "pck_crl"):
        crl = x509.load_der_x509_crl(bytes.fromhex(text[member]))
        first.append(crl.last_update_utc)
        last.append(crl.next_update_utc or last[0])
    begin, end = int(max(first).timestamp()), int(min(last).timestamp())
    for now, failing in ((begin - 1, ["tdx.8"]), (begin, []), (end - 1, []), (end, ["tdx.8"])):
        assert Tried(make.recorded(name), make.at_capture(name, now=now)).failing() == failing
    for now in (0, 1_500_000_000, 2_600_000_000):
        assert Tried(make.recorded(name), make.at_capture(name, now=now)).failing() == ["tdx.2"]


def test_parts_of_two_machines_do_not_go_together() -> None:
    one, other = (parse_quote(make.recorded(name)).signature for name in ("tdx_v4_near", "tdx_v4"))
    steps = {}
    for name in ("signature", "attestation_key", "qe_report", "qe_report_signature", "qe_auth_data", "certification"):
        raw = make.spliced(make.recorded("tdx_v4_near"), **{name: getattr(other, name)})
        if getattr(one, name) != getattr(other, name):
            steps[name] = Tried(raw, make.at_capture("tdx_v4_near")).failing()
    assert steps.pop("signature") == ["tdx.4"]
    assert len(steps) >= 4
    assert set(map(tuple, steps.values())) == {("tdx.3",)}


@pytest.mark.parametrize("member", TdxCollateral.__struct_fields__)
def test_collateral_of_two_pkis_does_not_go_together(member: str) -> None:
    foreign = dev_sign.collateral(make.other_pki(), NOW, status="OutOfDate")
    text = getattr(foreign, member) + (" " if member == "qe_identity" else "")
    mixed = make.with_members(make.collateral(), {member: text})
    assert Tried(make.quote(), make.context(mixed)).failing() == ["tdx.8"]


def test_real_and_development_evidence_do_not_go_together() -> None:
    real = Item("tdx-collateral", "", make.recorded_collateral("tdx_v4"))
    context = make.context(real)
    assert "tdx.8" in Tried(make.quote(), context).missing()
    here = make.resigned(lambda value: value.update(fmspc="B0C06F000000"))
    when = make.CAPTURED["tdx_v4"]
    tried = Tried(make.recorded("tdx_v4"), make.context(here, now=when))
    assert tried.failing() == ["tdx.8"]
    assert "no accepted root" in tried.detail("tdx.8")


def test_a_cut_quote_is_refused_wherever_it_is_cut() -> None:
    raw, context = make.recorded("tdx_v4"), make.at_capture("tdx_v4")
    whole = len(raw) - parse_quote(raw).padding
    for size in (*range(0, whole, 29), whole - 1):
        assert Tried(raw[:size], context).failing() == ["tdx.1"]


@pytest.mark.parametrize("seed", range(200))
def test_no_bytes_make_anything_but_findings(seed: int) -> None:
    chance = random.Random(seed)
    raw = bytearray(make.quote())
    for _ in range(chance.randrange(1, 30)):
        at = chance.choice([chance.randrange(len(raw)), chance.randrange(1258, len(raw)), chance.randrange(632, 1260)])
        raw[at] = chance.randrange(256)
    tried = Tried(bytes(raw[: chance.choice([len(raw), chance.randrange(len(raw))])]), make.context(make.collateral()))
    assert tried.failing()
    assert all(finding.outcome in Outcome for finding in tried.ledger.findings)


def test_a_context_without_roots_accepts_nothing() -> None:
    context = Context(make.policy(), Roots(()), SECONDS)
    tried = Tried(make.quote(), context)
    assert tried.failing() == ["tdx.2"]
    assert "accepted: none" in tried.detail("tdx.2")
