"""SEV-SNP reports: real ones, each step broken alone, and mutations of every field."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.errors import ConfideError
from confide.verify import snp_chain
from confide.verify.context import Context
from confide.verify.material import Item, Material
from confide.verify.policy import SnpMeasurement, SnpTcb
from confide.verify.roots import Root, Roots, RootsError
from confide.verify.snp import SNP, SnpEvidence, verify_snp
from confide.verify.snp_chain import pinned_issuers
from confide.verify.snp_der import Der, common_name, parse_certificate, parse_crl
from confide.verify.verdict import CheckFailed, ExitCode, Finding, Ledger, Outcome, judge
from confide.wire.snp import SnpReport, build_report, parse_report
from tests.verify import snp_maker as maker
from tests.verify.snp_maker import CHIP, DAY, NOW, TCBS, Leaf, ask, crl, extension, number, tlv

AMD: Final = Path(__file__).parents[1] / "vectors" / "evidence" / "amd"
OPTIONAL: Final = {"snp.7", "snp.11"}
"""Steps that are not made where no CRL is at hand and the policy names no measurement."""


def pem(text: bytes) -> bytes:
    match = re.search(rb"-----BEGIN CERTIFICATE-----(.+?)-----END", text, re.DOTALL)
    assert match
    return b64decode(match[1])


@dataclass(frozen=True)
class Real:
    """A report that hardware made, its certificate, and a time when that was valid."""

    report: bytes
    certificate: bytes
    key: str
    at: datetime
    product: str
    policy: dict[str, Any] = field(default_factory=dict)

    def context(self, certificate: bytes | None = None, at: datetime | None = None, **snp: Any) -> Context:
        material = Material((Item("amd-certificate", self.key, certificate or self.certificate),))
        now = int((at or self.at).timestamp())
        return Context(maker.policy(**self.policy, **snp), Roots.of(["amd"]), now, material)


def real_ones() -> dict[str, Real]:
    azure = json.loads((AMD / "azure_genoa_v3.json").read_bytes())
    dstack = (AMD / "dstack_milan_v3.bin").read_bytes()[4 : 4 + 1184]
    summer = datetime(2026, 7, 1, tzinfo=UTC)
    spring = datetime(2025, 6, 1, tzinfo=UTC)
    return {
        "milan v2": Real(
            (AMD / "milan_v2.report").read_bytes(), (AMD / "vcek.der").read_bytes(), "vcek", spring, "Milan"
        ),
        "milan v3, VLEK": Real(
            (AMD / "vlek_v3.report").read_bytes(),
            (AMD / "vlek.der").read_bytes(),
            "vlek",
            spring,
            "Milan",
            {"vlek": True, "most_privileged_only": False},
        ),
        "milan v3": Real(dstack, pem((AMD / "dstack_milan_v3.vcek.pem").read_bytes()), "vcek", summer, "Milan"),
        "genoa v3": Real(bytes(azure["report"])[32:][:1184], pem(azure["vcek"].encode()), "vcek", summer, "Genoa"),
    }


REAL: Final = real_ones()


def run(context: Context, raw: bytes) -> tuple[SnpEvidence | None, Ledger]:
    ledger = Ledger()
    return verify_snp(ledger, context, raw), ledger


def problems(ledger: Ledger) -> list[Finding]:
    """What ended otherwise than well, but for steps that only miss an earlier one, and those that are optional."""
    return [
        finding
        for finding in ledger.findings
        if finding.outcome is not Outcome.PASS
        and not finding.detail.startswith("needs step")
        and (finding.required or finding.step not in OPTIONAL)
    ]


def accepted(ledger: Ledger) -> bool:
    return judge(ledger, subject="", at=0, policy="").exit_code in (ExitCode.VERIFIED, ExitCode.DEVELOPMENT)


# Real reports --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_real_reports_verify(name: str) -> None:
    real = REAL[name]
    evidence, ledger = run(real.context(), real.report)
    assert evidence is not None
    assert (evidence.product, evidence.key, evidence.root.name) == (real.product, real.key, f"AMD ARK-{real.product}")
    assert not problems(ledger)
    verdict = judge(ledger, subject=name, at=0, policy="")
    assert verdict.is_verified
    assert verdict.hardware
    assert verdict.facts["snp"]["product"] == real.product
    assert [finding.step for finding in ledger.findings] == [step.id for step in SNP.steps]
    json.dumps(verdict.facts)


@pytest.mark.parametrize("name", REAL)
def test_real_reports_match_their_measurement(name: str) -> None:
    real = REAL[name]
    _, ledger = run(real.context(), real.report)
    facts = ledger.facts["snp"]
    wanted = SnpMeasurement(measurement=facts["measurement"], host_data=facts["host_data"], note="this one")
    tcb = SnpTcb(**facts["reported_tcb"])
    context = real.context(measurements=(wanted,), minimum_tcb=tcb)
    _, ledger = run(context, real.report)
    assert ledger.passed("snp.10", "snp.11")
    assert ledger.findings[-1].detail == "this one"


def test_forged_certificate_of_trustee() -> None:
    real = REAL["milan v2"]
    _, ledger = run(real.context((AMD / "vcek_forged.der").read_bytes()), real.report)
    assert [finding.step for finding in problems(ledger)] == ["snp.2"]
    assert "not signed by SEV-Milan" in problems(ledger)[0].detail


def test_pinned_issuers_are_those_of_the_pinned_roots() -> None:
    names = {common_name(one.subject) for one in pinned_issuers()}
    lines = ("Milan", "Genoa", "Turin")
    assert names == {f"SEV-{line}" for line in lines} | {f"SEV-VLEK-{line}" for line in lines}
    for one in pinned_issuers():
        assert one.is_ca(0)
        assert not one.is_ca(1)
        assert not one.signs_crls()


def test_a_changed_file_of_this_package_is_noticed() -> None:
    with pytest.raises(RootsError, match="was changed"):
        snp_chain._pinned("amd-ask-milan.der", "00" * 32)


# Each step alone -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A good case with something changed: the report's fields, the leaf, the items, the terms of the policy."""

    report: dict[str, Any] = field(default_factory=dict)
    leaf: Leaf = field(default_factory=Leaf)
    issuer: dict[str, Any] = field(default_factory=dict)
    more: tuple[Callable[[], Item], ...] = ()
    terms: dict[str, Any] = field(default_factory=dict)
    roots: Callable[[], tuple[Root, ...]] | None = None
    raw: Callable[[bytes], bytes] = bytes
    signer: str | None = None
    says: str = ""

    def run(self) -> tuple[SnpEvidence | None, Ledger]:
        product, key = self.leaf.product, self.leaf.key
        report = maker.unsigned(product, key, **self.report)
        raw = self.raw(maker.signed(report, maker.report_key(self.signer or key)))
        issuer = ask(product, key, **self.issuer)
        items = [*maker.items(self.leaf.der(), issuer, product=product, key=key), *(make() for make in self.more)]
        roots = None if self.roots is None else self.roots()
        return run(maker.context(*items, product=product, roots=roots, **self.terms), raw)


def revocation(*args: Any, **kwargs: Any) -> tuple[Callable[[], Item], ...]:
    return (lambda: Item("amd-crl", "", crl(*args, **kwargs)),)


def tcb(product: str = "Milan", **changes: int) -> bytes:
    return maker.tcb_bytes(product, TCBS[product] | changes)


VLEK: Final = Leaf(key="vlek")
TURIN: Final = Leaf("Turin")
TURIN_PARTS: Final = TCBS["Turin"]
WANTED: Final = SnpMeasurement(measurement="11" * 48, host_data="22" * 32, id_key_digest="33" * 48)

GOOD: Final = {
    "Milan": Case(),
    "Genoa": Case(leaf=Leaf("Genoa")),
    "Siena, a Genoa": Case({"cpuid": bytes([0x19, 0xA0, 2])}, Leaf("Genoa", product_name="Siena-B0")),
    "Turin": Case(leaf=TURIN),
    "Turin with mitigation vectors": Case({"reserved_3": b"\1" * 16 + bytes(152)}, TURIN),
    "version 2": Case({"version": 2, "cpuid": bytes(3)}),
    "VLEK": Case({"chip_id": bytes(64)}, VLEK, terms={"vlek": True}),
    "VLEK on a Turin": Case(leaf=Leaf("Turin", "vlek"), terms={"vlek": True}),
    "a list that revokes others": Case(more=revocation(revoked=(7, 8))),
    "a list of another root": Case(more=revocation("Genoa", revoked=(0, 0x10001))),
    "an old list and a new one": Case(more=revocation(until=-DAY) + revocation()),
    "reported below committed": Case(
        {"committed_tcb": tcb(), "reported_tcb": tcb(snp=2)}, Leaf(svns=TCBS["Milan"] | {"snp": 2})
    ),
    "launched at a newer TCB": Case({"launch_tcb": tcb(snp=99)}),
    "the measurement of the policy": Case(terms={"measurements": (SnpMeasurement(measurement="00" * 48), WANTED)}),
    "the least TCB": Case(terms={"minimum_tcb": SnpTcb(bootloader=4, snp=24, microcode=219)}),
    "the least TCB of a Turin": Case(leaf=TURIN, terms={"minimum_tcb": SnpTcb(**TURIN_PARTS)}),
    "a migration agent": Case({"policy": 0x70000}, terms={"migration_agent": True}),
    "no SMT": Case({"policy": 0x20000, "platform_info": 0}, terms={"smt": False}),
    "the trailer field written out": Case(leaf=Leaf(algorithm=maker.PSS_SHA384_TRAILER)),
    "a lower level": Case({"vmpl": 3}, terms={"most_privileged_only": False}),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_cases_verify(name: str) -> None:
    evidence, ledger = GOOD[name].run()
    assert not problems(ledger)
    assert evidence is not None
    assert judge(ledger, subject="", at=0, policy="").exit_code == ExitCode.DEVELOPMENT


def last_bytes(*places: int) -> Callable[[bytes], bytes]:
    """The report with bytes behind the signed part set."""

    def change(raw: bytes) -> bytes:
        out = bytearray(raw)
        for place in places:
            out[place] = 1
        return bytes(out)

    return change


TWO: Final = extension("1.3.6.1.4.1.3704.1.1", number(0)) * 2
BREAKS: Final[dict[str, tuple[str, Case]]] = {
    "snp.1 short": ("snp.1", Case(raw=lambda raw: raw[:-1], says="are left")),
    "snp.1 long": ("snp.1", Case(raw=lambda raw: raw + b"\0", says="too many")),
    "snp.1 version": ("snp.1", Case({"version": 6}, says="version 6")),
    "snp.1 algorithm": ("snp.1", Case({"signature_algorithm": 2}, says="signature algorithm 2")),
    "snp.1 no signer": ("snp.1", Case({"key_info": 7 << 2}, says="key information")),
    "snp.1 reserved signer": ("snp.1", Case({"key_info": 2 << 2}, says="key information")),
    "snp.1 reserved key bits": ("snp.1", Case({"key_info": 1 << 5}, says="key information")),
    "snp.1 reserved 1": ("snp.1", Case({"reserved_1": b"\0\0\0\1"}, says="after KEY_INFO")),
    "snp.1 reserved 2": ("snp.1", Case({"reserved_2": b"\1" + bytes(20)}, says="after REPORTED_TCB")),
    "snp.1 CPUID in version 2": ("snp.1", Case({"version": 2}, says="after REPORTED_TCB")),
    "snp.1 current version": ("snp.1", Case({"current_version": b"\4\x37\1\1"}, says="after CURRENT_VERSION")),
    "snp.1 committed version": ("snp.1", Case({"committed_version": b"\4\x37\1\1"}, says="after COMMITTED_VERSION")),
    "snp.1 mitigations in version 3": ("snp.1", Case({"reserved_3": b"\1" + bytes(167)}, says="before SIGNATURE")),
    "snp.1 reserved in version 5": ("snp.1", Case({"reserved_3": bytes(167) + b"\1"}, TURIN, says="before SIGNATURE")),
    "snp.1 long number r": ("snp.1", Case(raw=last_bytes(0x2A0 + 48), says="in SIGNATURE")),
    "snp.1 long number s": ("snp.1", Case(raw=last_bytes(0x2E8 + 71), says="in SIGNATURE")),
    "snp.1 after the signature": ("snp.1", Case(raw=last_bytes(1183), says="in SIGNATURE")),
    "snp.2 no accepted root": ("snp.2", Case(roots=tuple, says="accepted: none")),
    "snp.2 another root": ("snp.2", Case(roots=lambda: (maker.root("Genoa"),), says="ARK-Genoa")),
    "snp.2 root's key is another": (
        "snp.2",
        Case(issuer={"issuer_key": "other"}, says="not signed by an accepted root"),
    ),
    "snp.2 leaf's issuer key is another": ("snp.2", Case(leaf=Leaf(signed_by="other"), says="not signed by SEV-Milan")),
    "snp.2 unknown issuer": ("snp.2", Case(leaf=Leaf(issuer="SEV-Other"), says="'SEV-Other'")),
    "snp.2 leaf expired": ("snp.2", Case(leaf=Leaf(until=-DAY), says="valid from")),
    "snp.2 leaf not yet valid": ("snp.2", Case(leaf=Leaf(since=DAY), says="valid from")),
    "snp.2 issuer expired": ("snp.2", Case(issuer={"until": -1}, says="SEV-Milan is valid from")),
    "snp.2 root expired": ("snp.2", Case(roots=lambda: (maker.root(until=-1),), says="ARK-Milan is valid from")),
    "snp.2 issuer is no CA": ("snp.2", Case(issuer={"ca": False}, says="SEV-Milan may not issue")),
    "snp.2 issuer may not sign": (
        "snp.2",
        Case(issuer={"cert_sign": False, "crl_sign": True}, says="SEV-Milan may not issue"),
    ),
    "snp.2 issuer without a key usage": ("snp.2", Case(issuer={"cert_sign": False}, says="SEV-Milan may not issue")),
    "snp.2 issuer without constraints": ("snp.2", Case(issuer={"limits": False}, says="SEV-Milan may not issue")),
    "snp.2 root's path length": (
        "snp.2",
        Case(roots=lambda: (maker.root(path_length=0),), says="ARK-Milan may not issue"),
    ),
    "snp.2 weak keys": (
        "snp.2",
        Case(roots=lambda: (maker.root(bits=2048),), issuer={"bits": 2048}, says="not signed"),
    ),
    "snp.2 VCEK of an ASVK": (
        "snp.2",
        Case(leaf=Leaf(issuer="SEV-VLEK-Milan"), issuer={"common": "SEV-VLEK-Milan"}, says="don't make a vcek chain"),
    ),
    "snp.2 VLEK of an ASK": (
        "snp.2",
        Case(
            leaf=Leaf(key="vlek", issuer="SEV-Milan"),
            issuer={"common": "SEV-Milan"},
            terms={"vlek": True},
            says="vlek chain",
        ),
    ),
    "snp.2 another subject": ("snp.2", Case(leaf=Leaf(subject="SEV-VLEK"), says="expected 'SEV-VCEK'")),
    "snp.2 no P-384 key": ("snp.2", Case(leaf=Leaf(public_key=tlv(0x30, b"")), says="P-384")),
    "snp.2 version of X.509": ("snp.2", Case(leaf=Leaf(version=1), says="version 3")),
    "snp.2 another algorithm": (
        "snp.2",
        Case(leaf=Leaf(algorithm=bytes.fromhex("300d06092a864886f70d01010c0500")), says="RSASSA-PSS"),
    ),
    "snp.2 two algorithms": (
        "snp.2",
        Case(leaf=Leaf(outer=maker.PSS_SHA384_TRAILER), says="two signature algorithms"),
    ),
    "snp.2 extension twice": ("snp.2", Case(leaf=Leaf(more=TWO), says="twice")),
    "snp.2 unknown critical extension": (
        "snp.2",
        Case(leaf=Leaf(more=extension("2.5.29.36", b"\5\0", critical=True)), says="critical"),
    ),
    "snp.3 another key signed": ("snp.3", Case(signer="other", says="signature")),
    "snp.3 changed after signing": ("snp.3", Case(raw=last_bytes(0x50), says="signature")),
    "snp.3 no signature": ("snp.3", Case(raw=lambda raw: raw[:0x2A0] + bytes(512), says="signature")),
    "snp.4 report of a Genoa": ("snp.4", Case({"cpuid": maker.CPUIDS["Genoa"]}, says="report of Genoa")),
    "snp.4 unknown processor": ("snp.4", Case({"cpuid": bytes([0x19, 0x40, 0])}, says="family 0x19, model 0x40")),
    "snp.4 certificate for a Genoa": ("snp.4", Case(leaf=Leaf(product_name="Genoa-B1"), says="certificate for Genoa")),
    "snp.4 certificate for another": ("snp.4", Case(leaf=Leaf(product_name="Rome-B0"), says="'Rome-B0'")),
    "snp.5 another chip": ("snp.5", Case({"chip_id": CHIP[::-1]}, says="expected 0102")),
    "snp.5 masked chip": ("snp.5", Case({"chip_id": bytes(64)}, says="masked")),
    "snp.5 short chip in the certificate": ("snp.5", Case(leaf=Leaf(hwid=CHIP[:8]), says="found chip")),
    "snp.5 more than a Turin's chip": ("snp.5", Case({"chip_id": CHIP}, TURIN, says="found chip")),
    "snp.5 no chip in the certificate": ("snp.5", Case(leaf=Leaf(hwid=b""), says="names no chip")),
    "snp.5 VLEK of nobody": ("snp.5", Case(leaf=Leaf(key="vlek", csp=""), terms={"vlek": True}, says="no provider")),
    "snp.5 VLEK not accepted": ("snp.5", Case(leaf=VLEK, says="'provider.example'")),
    "snp.6 reported TCB": ("snp.6", Case({"reported_tcb": tcb(snp=23)}, says="snp=23")),
    "snp.6 certified TCB": ("snp.6", Case(leaf=Leaf(svns=TCBS["Milan"] | {"microcode": 1}), says="microcode=1")),
    "snp.6 certified TCB out of range": ("snp.6", Case(leaf=Leaf(svns=TCBS["Milan"] | {"tee": 256}), says="is 256")),
    "snp.6 reserved part of the certificate": ("snp.6", Case(leaf=Leaf(reserved=1), says="reserved")),
    "snp.6 a part missing": ("snp.6", Case(leaf=Leaf(svns={"bootloader": 4, "tee": 0, "snp": 24}), says="no security")),
    "snp.6 Turin without FMC": (
        "snp.6",
        Case(leaf=Leaf("Turin", svns={k: v for k, v in TURIN_PARTS.items() if k != "fmc"}), says="3704.1.3.9"),
    ),
    "snp.6 older than reported": (
        "snp.6",
        Case({"current_tcb": tcb(tee=0, snp=23), "committed_tcb": tcb(snp=1)}, says="older than REPORTED"),
    ),
    "snp.6 older than committed": ("snp.6", Case({"committed_tcb": tcb(tee=1)}, says="older than COMMITTED")),
    "snp.6 reserved bytes": ("snp.6", Case({"launch_tcb": b"\4\0\0\1\0\0\x18\xdb"}, says="LAUNCH_TCB")),
    "snp.6 committed version": ("snp.6", Case({"committed_version": b"\0\x38\1\0"}, says="COMMITTED_VERSION")),
    "snp.7 issuer revoked": ("snp.7", Case(more=revocation(revoked=(3, 0x10001)), says="revoked by")),
    "snp.7 leaf revoked": ("snp.7", Case(more=revocation(revoked=(0,)), says="VCEK certificate (serial number 0)")),
    "snp.7 root revoked": ("snp.7", Case(more=revocation(revoked=(0x10000,)), says="ARK certificate")),
    "snp.7 revoked by an old list": ("snp.7", Case(more=revocation(revoked=(0x10001,), until=-DAY), says="revoked")),
    "snp.7 another key signed the list": ("snp.7", Case(more=revocation(signed_by="other"), says="not signed by")),
    "snp.7 root may not sign lists": (
        "snp.7",
        Case(roots=lambda: (maker.root(crl_sign=False),), more=revocation(), says="not signed by"),
    ),
    "snp.7 partial list": (
        "snp.7",
        Case(more=revocation(more=extension("2.5.29.27", number(1), critical=True)), says="critical"),
    ),
    "snp.7 no list": ("snp.7", Case(more=(lambda: Item("amd-crl", "", b"no list"),), says="can't be read")),
    "snp.8 debugging": ("snp.8", Case({"policy": 0xB0000}, says="DEBUG")),
    "snp.8 migration agent": ("snp.8", Case({"policy": 0x70000}, says="MIGRATE_MA")),
    "snp.8 SMT allowed": ("snp.8", Case({"platform_info": 0}, terms={"smt": False}, says="SMT")),
    "snp.8 SMT on": ("snp.8", Case({"policy": 0x20000}, terms={"smt": False}, says="SMT")),
    "snp.8 bit 17": ("snp.8", Case({"policy": 0x10000}, says="bit 17")),
    "snp.8 unknown bit": ("snp.8", Case({"policy": 0x30000 | 1 << 26}, says="not known")),
    "snp.9 lower level": ("snp.9", Case({"vmpl": 1}, says="VMPL 1")),
    "snp.9 asked for by the host": (
        "snp.9",
        Case({"vmpl": 0xFFFFFFFF}, terms={"most_privileged_only": False}, says="did not ask"),
    ),
    "snp.10 reported": (
        "snp.10",
        Case(terms={"minimum_tcb": SnpTcb(microcode=220)}, says="REPORTED_TCB microcode 219"),
    ),
    "snp.10 committed": (
        "snp.10",
        Case({"committed_tcb": tcb(snp=23)}, terms={"minimum_tcb": SnpTcb(snp=24)}, says="found COMMITTED_TCB snp 23"),
    ),
    "snp.10 at launch": (
        "snp.10",
        Case({"launch_tcb": tcb(bootloader=3)}, terms={"minimum_tcb": SnpTcb(bootloader=4)}, says="LAUNCH_TCB"),
    ),
    "snp.10 no FMC": ("snp.10", Case(terms={"minimum_tcb": SnpTcb(fmc=1)}, says="fmc 0 < 1")),
    "snp.11 measurement": (
        "snp.11",
        Case({"measurement": b"\x12" * 48}, terms={"measurements": (WANTED,)}, says="measurement 1212"),
    ),
    "snp.11 host data": (
        "snp.11",
        Case({"host_data": b"\1" * 32}, terms={"measurements": (WANTED,)}, says="none of 1"),
    ),
    "snp.11 ID key": (
        "snp.11",
        Case({"id_key_digest": bytes(48)}, terms={"measurements": (WANTED,)}, says="none of 1"),
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_step_breaks_alone(name: str) -> None:
    step, case = BREAKS[name]
    evidence, ledger = case.run()
    found = problems(ledger)
    assert [(finding.step, finding.outcome) for finding in found] == [(step, Outcome.FAIL)]
    assert case.says in found[0].detail
    assert not accepted(ledger)
    assert (evidence is None) == (int(step.removeprefix("snp.")) <= 6)


def test_every_step_is_broken_by_some_case() -> None:
    assert {step for step, _ in BREAKS.values()} == {step.id for step in SNP.steps}
    assert all(name.startswith(f"{step} ") for name, (step, _) in BREAKS.items())


def test_every_complaint_about_the_guest_policy_is_told() -> None:
    _, ledger = Case({"policy": 0xC0000}).run()
    (found,) = problems(ledger)
    assert all(word in found.detail for word in ("DEBUG", "MIGRATE_MA", "bit 17"))


def test_policy_failures_are_all_collected() -> None:
    terms = {"minimum_tcb": SnpTcb(snp=25), "measurements": (SnpMeasurement(measurement="00" * 48),)}
    _, ledger = Case({"policy": 0xB0000, "vmpl": 2}, terms=terms, more=revocation(revoked=(0,))).run()
    assert [finding.step for finding in problems(ledger)] == ["snp.7", "snp.8", "snp.9", "snp.10", "snp.11"]


# What is not at hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "hint"), [("vcek", "kdsintf.amd.com"), ("vlek", "cloud provider")])
def test_missing_certificate_is_not_enough(key: str, hint: str) -> None:
    raw = maker.signed(maker.unsigned(key=key))
    other = Item("amd-certificate", "vlek" if key == "vcek" else "vcek", Leaf().der())
    evidence, ledger = run(maker.context(other, vlek=True), raw)
    assert evidence is None
    (found,) = problems(ledger)
    assert (found.step, found.outcome, found.required) == ("snp.2", Outcome.NOT_CHECKED, True)
    assert hint in found.detail
    assert judge(ledger, subject="", at=0, policy="").exit_code == ExitCode.NOT_ENOUGH


@pytest.mark.parametrize("lists", [(), revocation(until=-DAY), revocation(since=DAY), revocation("Genoa")])
def test_no_current_list_is_said_and_not_required(lists: tuple[Callable[[], Item], ...]) -> None:
    _, ledger = Case(more=lists).run()
    (found,) = [finding for finding in ledger.findings if finding.step == "snp.7"]
    assert (found.outcome, found.required) == (Outcome.NOT_CHECKED, False)
    assert "https://kdsintf.amd.com/vcek/v1/Milan/crl" in found.detail
    assert accepted(ledger)


def test_no_measurement_is_said_and_not_required() -> None:
    _, ledger = Case().run()
    assert (ledger.findings[-1].outcome, ledger.findings[-1].required) == (Outcome.NOT_CHECKED, False)


# Several certificates at hand ----------------------------------------------------------------------------------------


def test_the_certificate_that_signed_is_found_among_others() -> None:
    other = Leaf(public_key=maker.spki(maker.report_key("other")), hwid=CHIP[::-1]).der()
    expired, good = Leaf(until=-DAY).der(), Leaf().der()
    items = [Item("amd-certificate", "vcek", der) for der in (b"broken", other, expired, good)]
    raw = maker.signed(maker.unsigned())
    evidence, ledger = run(maker.context(*items, Item("amd-certificate", "ask", ask())), raw)
    assert evidence is not None
    assert accepted(ledger)


def test_certificates_without_a_name_are_found() -> None:
    ders = (b"broken", ask(), maker.ark(), Leaf().der())
    evidence, _ = run(
        maker.context(*(Item("amd-certificate", "", der) for der in ders)), maker.signed(maker.unsigned())
    )
    assert evidence is not None


@pytest.mark.parametrize("der", [b"", b"\x30\x84\xff\xff\xff\xff", b"\0" * 9000])
def test_unreadable_certificate_fails(der: bytes) -> None:
    _, ledger = run(maker.context(Item("amd-certificate", "vcek", der)), maker.signed(maker.unsigned()))
    assert [(finding.step, finding.outcome) for finding in problems(ledger)] == [("snp.2", Outcome.FAIL)]


# Mutations -----------------------------------------------------------------------------------------------------------


def flips(data: bytes, every: int = 1) -> Iterator[bytes]:
    """Copies with one bit turned, another one in each byte."""
    for place in range(0, len(data), every):
        changed = bytearray(data)
        changed[place] ^= 1 << (place * 5 + place // 8) % 8
        yield bytes(changed)


def mutated_reports() -> Iterator[tuple[Context, bytes]]:
    for name, real in REAL.items():
        context = real.context()
        for raw in flips(real.report, 1 if name == "milan v2" else 4):
            yield context, raw
        yield from ((context, real.report[:size]) for size in (0, 1, 671, 672, 1183))
        yield context, real.report + b"\0"
        yield from ((context, other.report) for other in REAL.values() if other is not real)


def mutated_certificates() -> Iterator[tuple[Context, bytes]]:
    for name, real in REAL.items():
        for der in flips(real.certificate, 1 if name == "milan v2" else 4):
            yield real.context(der), real.report
        others = (other.certificate for other in REAL.values() if other is not real)
        yield from ((real.context(der), real.report) for der in others)
        for year in (1970, 2020, 2040):
            yield real.context(at=datetime(year, 1, 1, tzinfo=UTC)), real.report


def mutated_issuers() -> Iterator[tuple[Context, bytes]]:
    raw, leaf = maker.signed(maker.unsigned()), Leaf().der()
    for issuer in flips(ask()):
        yield maker.context(*maker.items(leaf, issuer)), raw
    for other in (maker.ark(), ask("Genoa"), ask(key="vlek"), ask(issuer_key="other")):
        yield maker.context(*maker.items(leaf, other)), raw


def mutated_fields() -> Iterator[tuple[Context, bytes]]:
    """Every field of a report set to another value and not signed again."""
    report = maker.unsigned()
    raw = maker.signed(report)
    good = maker.context(*maker.items())
    parsed = parse_report(raw)
    for name in SnpReport.__dataclass_fields__:
        value = getattr(parsed, name)
        others = (
            [value ^ 1, value + 1] if isinstance(value, int) else [bytes(b ^ 0xFF for b in value), value[1:] + b"\7"]
        )
        yield from ((good, build_report(replace(parsed, **{name: other}))) for other in others if other != value)


MUTATIONS: Final[dict[str, tuple[Callable[[], Iterator[tuple[Context, bytes]]], set[str]]]] = {
    "reports": (mutated_reports, {"snp.1", "snp.2", "snp.3"}),
    "certificates": (mutated_certificates, {"snp.2", "snp.3"}),
    "issuers": (mutated_issuers, {"snp.2"}),
    "fields": (mutated_fields, {"snp.1", "snp.2", "snp.3"}),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_are_rejected(name: str) -> None:
    make, steps = MUTATIONS[name]
    tried = passed = 0
    for context, raw in make():
        tried += 1
        evidence, ledger = run(context, raw)
        passed += evidence is not None or accepted(ledger)
        assert len(found := problems(ledger)) == 1
        assert found[0].step in steps
    print(f"snp {name}: {tried} mutations tried, {passed} accepted")
    assert tried > 50
    assert passed == 0


def test_mutated_lists_never_pass() -> None:
    """A list with a flipped bit is refused, or it is of another issuer or time, and then nothing is known."""
    raw, tried, passed = maker.signed(maker.unsigned()), 0, 0
    for der in flips(crl(revoked=(5,)), 2):
        tried += 1
        _, ledger = run(maker.context(*maker.items(), Item("amd-crl", "", der)), raw)
        passed += ledger.passed("snp.7")
    print(f"snp lists: {tried} mutations tried, {passed} accepted")
    assert passed == 0


# Hostile bytes -------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=64) | st.integers(0, 2**64).map(lambda n: tlv(0x30, number(n))))
def test_reading_is_total(data: bytes) -> None:
    for read in (lambda: parse_certificate(data, "it"), lambda: parse_crl(data, "it"), lambda: common_name(data)):
        with pytest.raises(CheckFailed):
            read()
    _, ledger = run(maker.context(Item("amd-certificate", "vcek", data), roots=()), data)
    assert not accepted(ledger)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_reading_spliced_certificates_is_total(data: st.DataObject) -> None:
    der = bytearray(REAL["milan v2"].certificate)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 700))
        der[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        one = parse_certificate(bytes(der), "it")
        common_name(one.subject)
        one.is_ca(0)
    except ConfideError:
        return


@pytest.mark.parametrize(
    "data",
    [
        b"\x02\x00",
        b"\x02\x02\x00\x01",
        b"\x02\x02\xff\xff",
        b"\x02\x21" + b"\1" * 33,
        b"\x02\x81\x01\x01",
        b"\x02\x82\x00\x80" + b"\1" * 128,
        b"\x02\x80",
        b"\x02\x85\0\0\0\0\1\1",
        b"\x02",
        b"\x02\x05\1",
        b"\x06\x01\x80",
        b"\x06\x00",
        b"\x17\x0d2601010000000",
        b"\x17\x0d261301000000Z",
        b"\x17\x0d26010100000 Z",
        b"\x18\x0f00000101000000Z",
        b"\x18\x0d260101000000Z",
        b"\x01\x01\x01",
        b"\x01\x01\x00",
        b"\x03\x01\x01",
        b"\x03\x00",
    ],
)
def test_malformed_der_is_refused(data: bytes) -> None:
    read = {2: Der.integer, 6: Der.oid, 0x17: Der.time, 0x18: Der.time, 1: Der.true, 3: Der.bits}[data[0]]
    with pytest.raises(CheckFailed):
        read(Der(data, "it"))


def test_well_formed_der_is_read() -> None:
    assert Der(number(-129), "it").integer() == -129
    assert Der(number(2**200), "it").integer() == 2**200
    assert Der(maker.oid("2.5.29.19"), "it").oid() == "2.5.29.19"
    assert Der(maker.oid("1.3.6.1.4.1.3704.1.3.9"), "it").oid() == "1.3.6.1.4.1.3704.1.3.9"
    assert Der(b"\x06\x02\x88\x37", "it").oid() == "2.999"
    assert Der(b"\x17\x0d491231235959Z", "it").time() == datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert Der(b"\x17\x0d500101000000Z", "it").time() == datetime(1950, 1, 1, tzinfo=UTC)
    assert Der(b"\x18\x0f20500101000000Z", "it").time() == datetime(2050, 1, 1, tzinfo=UTC)
    assert NOW.tzinfo is UTC
