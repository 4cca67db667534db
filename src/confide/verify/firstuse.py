"""A policy out of what a service shows now, for a person to read: "trusted on first use" until somebody edits it.

Everything that the evidence leaves open is accepted by :func:`accepting_anything`, so that a verification under it
fails only where evidence is not genuine. What it found becomes the text of a policy that names this workload and
nothing else. Whoever writes the text down still owes a verification under it: it must accept what it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, get_args

from confide.verify.policy import (
    DstackPolicy,
    GpuPolicy,
    KeysPolicy,
    Policy,
    PolicyError,
    ReceiptsPolicy,
    SessionsPolicy,
    SnpPolicy,
    TcbStatus,
    TdxPolicy,
)
from confide.verify.roots import Vendor, pinned
from confide.verify.verdict import Verdict, bounded

_VENDORS: Final[tuple[Vendor, ...]] = ("intel", "amd", "nvidia")
_DEVELOPMENT: Final[dict[str, Vendor]] = {"quotes": "intel", "GPUs": "nvidia"}
_CURRENT: Final = "UpToDate"
_LONGEST_GRACE: Final = 36500
_BEHIND: Final = ("OutOfDate", "OutOfDateConfigurationNeeded")
_PER_GUEST: Final = ("mr_td", "rtmr0", "rtmr1", "rtmr2")
_ALL_REGISTERS: Final = ("mr_td", "mr_config_id", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
_ZERO: Final = frozenset("0")
_MOST: Final = 64


def accepting_anything(advisories: Sequence[str] = ()) -> Policy:
    """Every workload on genuine hardware of every vendor, with every setting that a policy may accept.

    Args:
        advisories: what must be tolerated by name, since no policy can tolerate all.
    """
    return Policy(
        name="anything",
        roots=_VENDORS,
        unsafe_any_workload=True,
        tdx=TdxPolicy(
            statuses=get_args(TcbStatus),
            advisories=tuple(advisories),
            grace_days=_LONGEST_GRACE,
            perfmon=True,
        ),
        snp=SnpPolicy(vlek=True, migration_agent=True, most_privileged_only=False),
        dstack=DstackPolicy(),
        gpu=GpuPolicy(),
        keys=KeysPolicy(longest_days=_LONGEST_GRACE),
        receipts=ReceiptsPolicy(rewritten=True),
        sessions=SessionsPolicy(required=False, claims={}),
    )


def advisories_in(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Every advisory that stands against a platform in the facts of a verification, in order of their names."""
    return tuple(sorted({str(name) for found in _about(facts, "tdx") for name in found.get("advisories", ())}))[:_MOST]


def policy_from(verdict: Verdict, *, name: str = "", now: str = "") -> str:
    """The text of a TOML policy that accepts what a verification found, and comments that say what each value is.

    Args:
        verdict: of a verification under :func:`accepting_anything`, good or resting on a development root.
        name: what to call the policy; what was verified, if empty.
        now: when that was, for people.

    Raises:
        PolicyError: nothing in it names a workload, so that no policy can be made of it.
    """
    body = [*_tdx(verdict), *_snp(verdict), *_dstack(verdict), *_models(verdict), *_provenance(verdict)]
    if not any(line.startswith(("[[tdx", "[[snp", "compose_hashes", "os_images", "manifests")) for line in body):
        raise PolicyError("the evidence names no workload: no measurement, compose hash, OS image or manifest")
    lines = [*_head(verdict, name or verdict.subject, now), *body, *_gpus(verdict)]
    return "\n".join(lines).strip() + "\n"


def _head(verdict: Verdict, name: str, now: str) -> Iterator[str]:
    yield f"# What {bounded(name)} showed{f' on {now}' if now else ''}, written down by a program."
    yield "# Nobody has compared these values with what they should be. Do that, with a source that is not the service"
    yield '# itself (a release page, a reproducible build), then write trust = "reviewed".'
    yield "version = 1"
    yield f"name = {_text(bounded(name)[:128] or 'policy')}"
    yield 'trust = "first use"'
    yield ""
    yield "# Whose hardware is trusted. A development root is never named here, only on the command line."
    yield f"roots = {_list(_vendors(verdict.roots))}"


def _vendors(names: Iterable[str]) -> list[str]:
    known = {root.name: root.vendor for root in pinned()}
    found = {known.get(name) or _DEVELOPMENT.get(name.rpartition(" ")[2], "intel") for name in names}
    return [vendor for vendor in _VENDORS if vendor in found]


# Guests --------------------------------------------------------------------------------------------------------------


def _tdx(verdict: Verdict) -> Iterator[str]:
    found = _about(verdict.facts, "tdx")
    if not found:
        return
    statuses = sorted({str(one.get("status") or _CURRENT) for one in found} - {_CURRENT})
    advisories = advisories_in(verdict.facts)
    yield ""
    yield "[tdx]"
    yield "# TCB levels that are accepted, in Intel's words; UpToDate is the best."
    if statuses:
        yield f"# {', '.join(map(bounded, statuses))} was seen now: read what Intel says about it before you keep it."
    yield f"statuses = {_list([_CURRENT, *statuses])}"
    if advisories:
        yield "# Known weaknesses of this platform, by Intel's number, that are tolerated. Any other is refused."
        yield f"advisories = {_list(advisories)}"
    if any(status in _BEHIND for status in statuses):
        yield "# How long ago the missing patches may have been published."
        yield f"grace_days = {_LONGEST_GRACE}"
    if any(_has_perfmon(one) for one in found):
        yield "# The guest shares performance counters with the host, which is a side channel."
        yield "perfmon = true"
    is_dstack = bool(_about(verdict.facts, "dstack"))
    for one in _distinct(found, _PER_GUEST if is_dstack else _ALL_REGISTERS):
        yield from _td(one, is_dstack=is_dstack)


def _td(registers: Mapping[str, str], *, is_dstack: bool) -> Iterator[str]:
    yield ""
    yield "# mr_td is the firmware, rtmr0 the virtual machine's shape, rtmr1 and rtmr2 the kernel, its arguments and"
    yield "# what it started first" + (
        "; the application is bound by its compose hash, below." if is_dstack else ", rtmr3 what the guest added later."
    )
    yield "[[tdx.measurements]]"
    for name, value in registers.items():
        yield f"{name} = {_text(value)}"


def _has_perfmon(facts: Mapping[str, Any]) -> bool:
    attributes = str(facts.get("td_attributes", ""))
    return len(attributes) == 16 and bool(int(attributes[14:], 16) & 0x80)


def _snp(verdict: Verdict) -> Iterator[str]:
    found = _about(verdict.facts, "snp")
    if not found:
        return
    yield ""
    yield "[snp]"
    if any(one.get("key") == "vlek" for one in found):
        yield "# The key that signed was loaded by a cloud provider, and does not name the chip."
        yield "vlek = true"
    if any(one.get("vmpl", 0) for one in found):
        yield "# The report was asked for by less privileged code of the guest."
        yield "most_privileged_only = false"
    if any(int(str(one.get("policy", "0")), 0) >> 18 & 1 for one in found):
        yield "# The guest may be moved to other machines by a migration agent."
        yield "migration_agent = true"
    if least := _least_tcb(found):
        yield "# The TCB that was reported now. As minimum_tcb it would hold for the committed and the launch TCB too."
        yield "# minimum_tcb = { " + ", ".join(f"{name} = {value}" for name, value in least.items()) + " }"
    for one in _distinct(found, ("measurement", "host_data", "id_key_digest")):
        yield ""
        yield "# measurement is what the guest was launched with, host_data what the host committed to."
        yield "[[snp.measurements]]"
        for name, value in one.items():
            yield f"{name} = {_text(value)}"


def _least_tcb(found: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    least: dict[str, int] = {}
    for one in found:
        for name, value in one.get("reported_tcb", {}).items():
            if name in ("fmc", "bootloader", "tee", "snp", "microcode") and isinstance(value, int) and value:
                least[name] = min(value, least.get(name, value))
    return least


def _dstack(verdict: Verdict) -> Iterator[str]:
    found = _about(verdict.facts, "dstack")
    if not found:
        return
    yield ""
    yield "[dstack]"
    yield "# SHA-256 of the application's description (app-compose.json)."
    yield f"compose_hashes = {_list(_values(found, 'compose_hash'))}"
    if images := _values([one for one in found if one.get("os_measured")], "os_image_hash"):
        yield "# Digests of the OS images, recomputed from what was measured."
        yield f"os_images = {_list(images)}"
    else:
        yield "# The OS image was only stated, not measured, so that it is not listed: the registers above bind it."
    yield f"app_ids = {_list(_values(found, 'app_id'))}"
    providers = [one.get("key_provider") or {} for one in found]
    if ids := _values(providers, "id"):
        yield "# Who releases the application's keys."
        yield f"key_providers = {_list(ids)}"


# What runs there -----------------------------------------------------------------------------------------------------


def _models(verdict: Verdict) -> Iterator[str]:
    if manifests := _values(_about(verdict.facts, "report"), "manifest"):
        yield ""
        yield "[models]"
        yield "# Digests of the manifests of models: /v1/aci/manifest has the document."
        yield f"manifests = {_list(manifests)}"


def _provenance(verdict: Verdict) -> Iterator[str]:
    said = [one.get("provenance") or {} for one in _about(verdict.facts, "report")]
    stated = {name: _values(said, name) for name in ("repo_url", "repo_commit", "image_digest")}
    if any(stated.values()):
        yield ""
        yield "# The service says where its code is from. It is written here as a comment: a statement proves nothing."
        for name, values in stated.items():
            for value in values:
                yield f"# {name}: {bounded(value)}"


def _gpus(verdict: Verdict) -> Iterator[str]:
    devices = _about(verdict.facts, "gpu")
    if not devices or "nvidia" not in _vendors(verdict.roots):
        return
    gpus = [one for one in devices if one.get("kind", "gpu") == "gpu"]
    is_measured = all(one.get("measured") is True for one in devices)
    yield ""
    yield "[gpu]"
    yield "required = true"
    yield f"count = {len(gpus)}"
    yield f"switches = {len(devices) - len(gpus)}"
    yield f"architectures = {_list(_values(devices, 'arch'))}"
    if not is_measured:
        yield "# Reference values were not at hand: the devices are genuine, what runs on them was not compared."
    yield f"measurements = {str(is_measured).lower()}"


# Facts and TOML ------------------------------------------------------------------------------------------------------


def _about(facts: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    """Every group of facts of a kind: under its name, or its name and a subject; one group or a list of them."""
    found: list[Mapping[str, Any]] = []
    for key, value in facts.items():
        if key == kind or key.startswith((f"{kind}:", f"{kind} ")):
            found += [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, Mapping)]
    return found[:_MOST]


def _values(found: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    return list(dict.fromkeys(str(one[name]) for one in found if one.get(name)))


def _distinct(found: Iterable[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, str]]:
    """The registers of each guest, without those that are zero, and each combination once."""
    made = [{name: str(one[name]) for name in names if set(str(one.get(name) or "0")) != _ZERO} for one in found]
    return [one for place, one in enumerate(made) if one and one not in made[:place]]


def _list(values: Iterable[str]) -> str:
    return f"[{', '.join(_text(value) for value in values)}]"


def _text(value: str) -> str:
    """A TOML basic string. JSON's escapes of quotes and backslashes are TOML's too, and nothing else is left."""
    return json.dumps(bounded(value), ensure_ascii=False)
