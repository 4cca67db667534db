"""Whether a genuine TD is one that is wanted: its attributes, its machine's flags and TCB, its measurements.

Source: Intel TDX Module ABI specification, "ATTRIBUTES" (bits of a TD); Intel PCS API version 4, "TCB info" (statuses
and dates). Every failure is collected, not only the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from confide.verify.policy import TdMeasurement, TdxPolicy
from confide.verify.tdx_collateral import Level, Standing
from confide.verify.tdx_platform import Platform
from confide.verify.verdict import CheckFailed, NotChecked
from confide.wire.tdx import TdReport

_DEBUG: Final = 1 << 0
_SEPT_VE_DISABLE: Final = 1 << 28
_PKS: Final = 1 << 30
_KEY_LOCKER: Final = 1 << 31
_PERFMON: Final = 1 << 63
_KNOWN: Final = _DEBUG | _SEPT_VE_DISABLE | _PKS | _KEY_LOCKER | _PERFMON
_DAY: Final = 86400
_REGISTERS: Final = ("mr_td", "mr_seam", "mr_config_id", "rtmr0", "rtmr1", "rtmr2", "rtmr3")


def faults(report: TdReport) -> list[str]:
    """What is never acceptable in how a TD runs; nothing, it is to be hoped."""
    bits = int.from_bytes(report.td_attributes, "little")
    unknown = [str(bit) for bit in range(64) if (bits & ~_KNOWN) >> bit & 1]
    wrong = {
        "DEBUG is set, so that the host reads and changes the TD's memory": bits & _DEBUG,
        f"reserved bits are set ({', '.join(unknown)})": unknown,
        "SEPT_VE_DISABLE is not set, so that the host can inject faults": not bits & _SEPT_VE_DISABLE,
        "a service TD is bound to it, which can read or move it": (report.mr_service_td or b"").strip(b"\0"),
    }
    return [text for text, is_wrong in wrong.items() if is_wrong]


def check_attributes(report: TdReport, policy: TdxPolicy) -> str:
    """What the TD runs with. Only PERFMON is for the policy; the rest is never acceptable.

    Raises:
        CheckFailed: what must not be set is, or the reverse.
    """
    wrong = faults(report)
    if int.from_bytes(report.td_attributes, "little") & _PERFMON and not policy.perfmon:
        wrong.append("PERFMON is set, so that the TD counts events that leak, and the policy does not allow it")
    _refuse(wrong)
    return f"attributes {report.td_attributes.hex()}"


def check_flags(platform: Platform, policy: TdxPolicy) -> str:
    """What the machine's certificate says about its configuration.

    Raises:
        CheckFailed: the policy refuses something that it has, or does not exclude.
    """
    flags = {name: getattr(platform, name) for name in ("dynamic_platform", "cached_keys", "smt")}
    _refuse(
        f"{name} is {'on' if value else 'not stated'}, and the policy demands that it is off"
        for name, value in flags.items()
        if value is not False and not getattr(policy, name)
    )
    return ", ".join(f"{name} {'?' if value is None else 'on' if value else 'off'}" for name, value in flags.items())


def check_measurements(report: TdReport, policy: TdxPolicy) -> str:
    """Some entry of the policy is this TD, in every register that it names.

    Raises:
        CheckFailed: none is; the text names the registers of the entry that comes closest.
        NotChecked: the policy names none.
    """
    if not policy.measurements:
        raise NotChecked("the policy names no TD (tdx.measurements)", required=False)
    differing = [_differing(entry, report) for entry in policy.measurements]
    place = min(range(len(differing)), key=lambda at: len(differing[at]))
    label = f"entry {place + 1} of {len(differing)}"
    if note := policy.measurements[place].note:
        label += f" ({note[:80]})"
    if differing[place]:
        raise CheckFailed(f"no entry of tdx.measurements matches; closest is {label}: {'; '.join(differing[place])}")
    return label


def check_status(standing: Standing, policy: TdxPolicy, now: int) -> str:
    """The TCB of platform, TDX module and quoting enclave, as Intel judges it.

    Raises:
        CheckFailed: the policy does not accept a status, advisory, date or evaluation number.
    """
    wrong = []
    if standing.status not in policy.statuses:
        wrong.append(f"found status {standing.status}, expected {' or '.join(policy.statuses) or 'none at all'}")
    if strange := [name for name in standing.advisories if name not in policy.advisories]:
        wrong.append(f"advisories that are not tolerated: {', '.join(strange)}")
    wrong += _too_old(standing.levels, policy.grace_days, now)
    if standing.evaluation_number < policy.minimum_evaluation_number:
        least = policy.minimum_evaluation_number
        wrong.append(f"found TCB evaluation number {standing.evaluation_number}, expected {least} or more")
    _refuse(wrong)
    tolerated = f", tolerated: {', '.join(standing.advisories)}" if standing.advisories else ""
    return f"{standing.status}, evaluation number {standing.evaluation_number}{tolerated}"


def _too_old(levels: Iterable[Level], grace_days: int, now: int) -> list[str]:
    """What fell behind longer ago than the grace: a level's date is that of the patches that it does have."""
    return [
        f"the {level.what} is {level.status} with patches of {level.date:%Y-%m-%d}, and the grace is {grace_days} days"
        for level in levels
        if level.status.startswith("OutOfDate") and level.date.timestamp() + grace_days * _DAY < now
    ]


def _differing(entry: TdMeasurement, report: TdReport) -> list[str]:
    expected = {name: getattr(entry, name) for name in _REGISTERS}
    found = {name: getattr(report, name).hex() for name in _REGISTERS}
    return [
        f"{name} found {found[name]}, expected {value}"
        for name, value in expected.items()
        if value is not None and value != found[name]
    ]


def _refuse(reasons: Iterable[str]) -> None:
    if wrong := "; ".join(reasons):
        raise CheckFailed(wrong)
