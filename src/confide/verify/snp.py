"""AMD SEV-SNP reports: genuine, of a chip that is as secure as it says, and as the policy wants them.

Source: AMD publication 56860 (SEV-SNP firmware ABI), ATTESTATION_REPORT, guest policy and TCB_VERSION; AMD publication
57230 (VCEK certificate and KDS interface). What the caller still owes: that REPORT_DATA and HOST_DATA hold what they
should, and that the measurement is of software that deserves trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from confide.verify.context import Context
from confide.verify.policy import SnpMeasurement, SnpPolicy
from confide.verify.roots import Root
from confide.verify.snp_chain import Chain, check_revocation, find_chain, leaf_signed
from confide.verify.snp_tcb import (
    HWID,
    HWID_SIZES,
    KeyName,
    Product,
    below,
    certified_product,
    certified_tcb,
    csp_id,
    parts,
    read,
    reported_product,
)
from confide.verify.verdict import CheckFailed, Ledger, NotChecked, Steps
from confide.wire.snp import SIGNED_SIZE, SnpReport, parse_report

SNP: Final = Steps.of(
    "snp",
    "AMD SEV-SNP report",
    "AMD publications 56860 (SEV-SNP firmware ABI) and 57230 (VCEK certificate and KDS interface)",
    ("report is well-formed", "It is one report of a version that is known here, and says which key signed it."),
    ("key's chain ends at an accepted root", "AMD certified the key: VCEK by ASK by ARK, or VLEK by ASVK by ARK."),
    ("report is signed by that key", "The firmware of an AMD processor made the report, and nobody changed it."),
    ("one product in chain and report", "The keys are those of the processor line that the report is from."),
    ("key belongs to the chip", "The VCEK was issued for this very chip; or the policy accepts a provider's VLEK."),
    ("TCB version is the certified one", "The firmware can only have this key if it is at least as new as reported."),
    ("chain is not revoked", "AMD did not withdraw the issuer of the key."),
    ("guest policy is acceptable", "The host can't debug the guest; migration and SMT are as the policy wants."),
    ("guest itself asked", "The report was asked for from inside, at the privilege level that the policy wants."),
    ("firmware is new enough", "Every TCB version, at launch and now, reaches the least that the policy wants."),
    ("launch is an accepted one", "The guest started as one of the measurements in the policy."),
)

_SIGNATURE_ALGORITHM: Final = 1
_SIGNING_KEYS: Final[dict[int, KeyName]] = {0: "vcek", 1: "vlek"}
_KEY_INFO_BITS: Final = 5
_SMT: Final = 1 << 16
_MUST_BE_ONE: Final = 1 << 17
_MIGRATION_AGENT: Final = 1 << 18
_DEBUG: Final = 1 << 19
_POLICY_BITS: Final = 26
_PLATFORM_SMT: Final = 1
_MOST_VMPL: Final = 3
_MITIGATIONS: Final = 16
"""Bytes of the two mitigation vectors, which reports have from version 5 on."""


@dataclass(frozen=True, slots=True)
class SnpEvidence:
    """A report that is genuine. Whether it is wanted is in the ledger."""

    report: SnpReport
    root: Root
    product: Product
    key: KeyName


def verify_snp(ledger: Ledger, context: Context, raw: bytes, *, subject: str = "") -> SnpEvidence | None:
    """Make the steps of :data:`SNP`; the evidence if steps 1 to 6 passed, which make the report genuine."""
    policy = context.policy.snp
    genuine: list[SnpEvidence] = []
    with ledger.group(SNP, subject) as checks:
        report, key = checks.need(
            1, lambda: _well_formed(raw), lambda it: f"version {it[0].version}, signed by a {it[1].upper()}"
        )
        signature = _signature(report)
        signed = raw[:SIGNED_SIZE]
        chain = checks.need(
            2,
            lambda: find_chain(context, key, lambda leaf: leaf_signed(leaf, signature, signed)),
            lambda it: it.root.name,
        )
        checks.need(3, lambda: _check_signature(chain, signature, signed))
        ledger.trusted(chain.root)
        ledger.facts["snp"] = _facts(report, chain)
        bound = checks.check(4, lambda: _check_product(report, chain))
        bound &= checks.check(5, lambda: _check_chip(report, chain, policy))
        bound &= checks.check(6, lambda: _check_tcb(report, chain))
        checks.check(7, lambda: check_revocation(context, chain))
        checks.check(8, lambda: _check_guest_policy(report, policy))
        checks.check(9, lambda: _check_level(report, policy))
        checks.check(10, lambda: _check_minimum(report, chain, policy))
        checks.check(11, lambda: _check_measurement(report, policy.measurements))
        if bound:
            genuine.append(SnpEvidence(report, chain.root, chain.product, key))
    return genuine[0] if genuine else None


def _well_formed(raw: bytes) -> tuple[SnpReport, KeyName]:
    """The report, and which key it says signed it. PLATFORM_INFO is not looked at: new bits there say what a host
    has, and forbid nothing."""
    report = parse_report(raw)
    if report.signature_algorithm != _SIGNATURE_ALGORITHM:
        raise CheckFailed(f"found signature algorithm {report.signature_algorithm}, expected 1 (ECDSA P-384, SHA-384)")
    key = _SIGNING_KEYS.get(report.key_info >> 2 & 7)
    if key is None or report.key_info >> _KEY_INFO_BITS:
        raise CheckFailed(f"found key information {report.key_info:#x}, expected that a VCEK or a VLEK signed")
    for name, value in _reserved(report).items():
        if any(value):
            raise CheckFailed(f"the reserved bytes {name} are not zero")
    return report, key


def _reserved(report: SnpReport) -> dict[str, bytes]:
    """What has to be zero in a report of its version."""
    return {
        "after KEY_INFO": report.reserved_1,
        "after REPORTED_TCB": report.reserved_2 if report.version >= 3 else report.cpuid + report.reserved_2,
        "after CURRENT_VERSION": report.current_version[3:],
        "after COMMITTED_VERSION": report.committed_version[3:],
        "before SIGNATURE": report.reserved_3[_MITIGATIONS if report.version >= 5 else 0 :],
        "in SIGNATURE": report.signature_r[48:] + report.signature_s[48:] + report.reserved_4,
    }


def _signature(report: SnpReport) -> bytes:
    """The signature in DER; the firmware writes both numbers little-endian."""
    numbers = (int.from_bytes(number, "little") for number in (report.signature_r, report.signature_s))
    return encode_dss_signature(*numbers)


def _check_signature(chain: Chain, signature: bytes, signed: bytes) -> None:
    if not chain.signed(signature, signed):
        raise CheckFailed(f"the report's signature is not of the key in the {chain.key.upper()} certificate")


def _check_product(report: SnpReport, chain: Chain) -> str:
    certified, reported = certified_product(chain.leaf), reported_product(report)
    if certified != chain.product or reported not in (None, chain.product):
        raise CheckFailed(
            f"found a certificate for {certified} and a report of {reported or 'an unnamed processor'}, "
            f"expected {chain.product}, whose keys these are"
        )
    return chain.product


def _check_chip(report: SnpReport, chain: Chain, policy: SnpPolicy) -> str:
    """The chip of a VCEK, which must be shown: a host may mask it, and then nothing ties the key to one chip."""
    if chain.key == "vlek":
        provider = csp_id(chain.leaf)
        if not policy.vlek:
            raise CheckFailed(
                f"found a VLEK of {provider!r}; the policy accepts only keys of one chip (snp.vlek = false)"
            )
        return f"VLEK of {provider!r}, which names no chip"
    hwid, size = chain.leaf.extensions.get(HWID), HWID_SIZES[chain.product]
    if hwid is None:
        raise CheckFailed(f"the VCEK certificate names no chip ({HWID})")
    if not any(report.chip_id):
        raise CheckFailed("the report's CHIP_ID is masked (zeros), so that nothing ties it to a chip")
    if hwid.value != report.chip_id[:size] or any(report.chip_id[size:]):
        raise CheckFailed(f"found chip {report.chip_id.hex()}, expected {hwid.value.hex()}, which the VCEK is for")
    return f"chip {hwid.value.hex()}"


def _check_tcb(report: SnpReport, chain: Chain) -> str:
    """The reported TCB is the certified one; reported and committed are not newer than current, nor is the version."""
    tcbs = {name: parts(chain.product, tcb, name) for name, tcb in _tcbs(report).items()}
    certified, current = certified_tcb(chain.product, chain.leaf), tcbs["CURRENT_TCB"]
    if tcbs["REPORTED_TCB"] != certified:
        raise CheckFailed(
            f"found REPORTED_TCB {_words(tcbs['REPORTED_TCB'])}, expected the certified {_words(certified)}"
        )
    for name in ("REPORTED_TCB", "COMMITTED_TCB"):
        if newer := below(current, tcbs[name]):
            raise CheckFailed(f"found a CURRENT_TCB that is older than {name}: {', '.join(newer)}")
    if report.committed_version[2::-1] > report.current_version[2::-1]:
        raise CheckFailed("found a COMMITTED_VERSION that is newer than CURRENT_VERSION")
    return _words(certified)


def _check_guest_policy(report: SnpReport, policy: SnpPolicy) -> str:
    """All complaints at once. Debugging is never acceptable; bits that are not known here are not either, because the
    firmware refuses guests whose reserved bits are set, and a new bit may allow something."""
    found, smt = report.policy, report.policy & _SMT or report.platform_info & _PLATFORM_SMT
    wrong = {
        "the host may debug the guest (DEBUG)": found & _DEBUG,
        "a migration agent may move the guest (MIGRATE_MA)": found & _MIGRATION_AGENT and not policy.migration_agent,
        "sibling threads may share its cores (SMT)": smt and not policy.smt,
        "reserved bit 17 is not set": not found & _MUST_BE_ONE,
        "bits are set that are not known here": found >> _POLICY_BITS,
    }
    if complaints := [complaint for complaint, is_so in wrong.items() if is_so]:
        raise CheckFailed(f"found guest policy {found:#x}: {'; '.join(complaints)}")
    return f"{found:#x}"


def _check_level(report: SnpReport, policy: SnpPolicy) -> str:
    """A report that the host asked for shows VMPL 0xFFFFFFFF, and no guest chose its REPORT_DATA."""
    if report.vmpl > _MOST_VMPL:
        raise CheckFailed(f"found VMPL {report.vmpl:#x}, expected 0 to 3: the guest did not ask for this report")
    if report.vmpl and policy.most_privileged_only:
        raise CheckFailed(f"found VMPL {report.vmpl}, expected 0 (snp.most_privileged_only)")
    return f"VMPL {report.vmpl}"


def _check_minimum(report: SnpReport, chain: Chain, policy: SnpPolicy) -> str:
    """Reported, and committed, to which a host may go back at any time, and at launch, which made the measurement."""
    least = msgspec.structs.asdict(policy.minimum_tcb)
    complaints = [
        f"{name} {complaint}"
        for name, tcb in _tcbs(report).items()
        for complaint in below(read(chain.product, tcb), least)
    ]
    if complaints:
        raise CheckFailed(f"found {', '.join(complaints)} (snp.minimum_tcb)")
    return f"at least {_words(least)}"


def _check_measurement(report: SnpReport, accepted: tuple[SnpMeasurement, ...]) -> str:
    if not accepted:
        raise NotChecked("the policy names no SEV-SNP measurement (snp.measurements)", required=False)
    members: tuple[str, ...] = ("measurement", "host_data", "id_key_digest")
    found = {name: getattr(report, name).hex() for name in members}
    for entry in accepted:
        if all(getattr(entry, name) in (None, found[name]) for name in members):
            return entry.note or f"measurement {entry.measurement}"
    shown = ", ".join(f"{name} {value}" for name, value in found.items())
    raise CheckFailed(f"found {shown}; none of {len(accepted)} accepted launches has all of these")


def _tcbs(report: SnpReport) -> dict[str, bytes]:
    return {
        "REPORTED_TCB": report.reported_tcb,
        "COMMITTED_TCB": report.committed_tcb,
        "CURRENT_TCB": report.current_tcb,
        "LAUNCH_TCB": report.launch_tcb,
    }


def _words(tcb: dict[str, int]) -> str:
    return " ".join(f"{name}={version}" for name, version in tcb.items())


def _facts(report: SnpReport, chain: Chain) -> dict[str, Any]:
    """What is worth showing or pinning, in hex."""
    names = ("measurement", "host_data", "id_key_digest", "report_data", "chip_id")
    return {name: getattr(report, name).hex() for name in names} | {
        "product": chain.product,
        "key": chain.key,
        "policy": f"{report.policy:#x}",
        "vmpl": report.vmpl,
        "reported_tcb": read(chain.product, report.reported_tcb),
    }
