"""What a policy demands of every service's report, whatever its format: GPUs, a channel, a named workload, an age.

Reports of ``aci/1`` answer more than these; see ``verify/report.py``. A demand that a format has no answer for is
recorded as not checked and required, so that a policy for one format never becomes weaker on another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from confide.verify import provenance
from confide.verify.context import Context
from confide.verify.dstack import DstackFacts
from confide.verify.nras import verify_nras
from confide.verify.nvidia import verify_gpus
from confide.verify.policy import DstackPolicy, Policy
from confide.verify.saved import Channel, SavedReport
from confide.verify.summary import stands
from confide.verify.verdict import CheckFailed, Ledger, NotChecked
from confide.wire.nvgpu import GpuEvidence

_DAY: Final = 86400


# GPUs ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gpus:
    """The devices in a report, or why there is no evidence of any."""

    devices: Sequence[GpuEvidence] = ()
    switches: Sequence[GpuEvidence] = ()
    unavailable: str | None = None


def check_gpus(ledger: Ledger, context: Context, gpus: Gpus, nonce: bytes, *, subject: str = "") -> str:
    """Check the devices, and NVIDIA's tokens where some are at hand; ``subject`` names the machine of several.

    Raises:
        CheckFailed, NotChecked: not all of it is as the policy wants it.
    """
    policy, before = context.policy.gpu, len(ledger.findings)
    found = verify_gpus(
        ledger,
        context,
        gpus.devices,
        nonce,
        switches=gpus.switches,
        unavailable=gpus.unavailable,
        subject=subject,
    )
    ueids = None if found is None else [device.ueid for device in found.devices]
    tokens = [token for token in context.material.of("nras-token") if not subject or token.key in ("", subject)]
    for token in tokens:
        verify_nras(ledger, context, token.data, nonce, devices=len(gpus.devices), ueids=ueids, subject=subject)
    stands(ledger.findings[before:], "the GPUs", required=policy.required)
    if policy.nras and not tokens:
        raise NotChecked("no token of NVIDIA's attestation service is at hand")
    return f"{len(gpus.devices)} GPUs"


# The channel ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """The keys that evidence binds: digests of TLS keys, and whether a key in hex is one to encrypt requests to."""

    tls: Collection[str]
    seals: Callable[[str], bool]


def check_channel(context: Context, channel: Channel | None, held: Held) -> str:
    """Check that the channel ends where the evidence says, as far as the policy demands it.

    A key that requests are encrypted to must be attested in any case: otherwise somebody else reads them.

    Raises:
        CheckFailed: the channel ends elsewhere.
        NotChecked: it is not known, or nothing binds it.
    """
    if channel is None:
        raise NotChecked("nobody recorded which channel was used")
    require, tls = context.policy.channel.require, channel.tls_spki_sha256
    has_tls, has_seal = tls is not None and tls in held.tls, channel.sealed_to is not None
    if channel.sealed_to is not None and not held.seals(channel.sealed_to):
        raise CheckFailed(f"requests are encrypted to {channel.sealed_to}, which is no attested key")
    if has_seal and require == "sealed":
        return "requests are sealed to an attested key"
    if not has_seal and require in ("sealed", "both"):
        raise NotChecked("requests are not encrypted end to end, and the policy demands it")
    if not has_tls and (require in ("tls", "both") or not has_seal):
        raise _unbound(tls, held)
    return " and ".join(
        ["TLS ends at an attested key"] * has_tls + ["requests are sealed to an attested key"] * has_seal
    )


def _unbound(tls: str | None, held: Held) -> CheckFailed | NotChecked:
    if not held.tls:
        return NotChecked("the evidence binds no TLS key, and requests are not encrypted to the attested key")
    seen = "no TLS" if tls is None else f"the TLS key {tls}"
    return CheckFailed(f"found {seen}, expected {' or '.join(sorted(held.tls)[:8])}")


# The workload, and the age -------------------------------------------------------------------------------------------


def check_workload(policy: Policy, tee: Literal["tdx", "snp"], dstack: DstackFacts | None) -> str:
    """Check that the policy says of this kind of machine which workload it accepts, and demands nothing else.

    Raises:
        CheckFailed: the measured compose file runs images that are not accepted.
        NotChecked: a demand has no answer in this format.
    """
    demands = {
        "models.manifests": policy.models.manifests,
        "keys.custody": policy.keys.custody,
        "keys.subjects": policy.keys.subjects,
        "provenance.repositories": policy.provenance.repositories,
        "provenance.commits": policy.provenance.commits,
        "dstack": dstack is None and policy.dstack != DstackPolicy(),
    }
    unanswered = [name for name, wanted in demands.items() if wanted]
    if unanswered:
        raise NotChecked(f"the policy demands {', '.join(unanswered)}, which reports of this format don't show")
    named = [f"{tee}.measurements"] * bool(_measurements(policy, tee))
    if dstack is not None:
        named += [f"dstack.{name}" for name in ("compose_hashes", "os_images") if getattr(policy.dstack, name)]
    if policy.provenance.images:
        _check_images(policy.provenance.images, dstack)
        named.append("provenance.images")
    if not named and not policy.unsafe_any_workload:
        raise NotChecked(f"the policy does not say which workload on {tee} it accepts")
    return f"named by {', '.join(named)}" if named else "the policy accepts any workload"


def _measurements(policy: Policy, tee: Literal["tdx", "snp"]) -> Sequence[object]:
    return policy.tdx.measurements if tee == "tdx" else policy.snp.measurements


def _check_images(accepted: Collection[str], dstack: DstackFacts | None) -> None:
    compose = None if dstack is None else dstack.app_compose
    if dstack is None or compose is None or hashlib.sha256(compose.encode()).hexdigest() != dstack.compose_hash:
        raise NotChecked("no measured compose file says which images run")
    unknown = [image for image in provenance.images(compose) if image not in accepted]
    if unknown:
        raise CheckFailed(f"the measured compose file runs {', '.join(unknown)}, which the policy does not accept")


def check_age(context: Context, saved: SavedReport) -> str:
    """Check that saved evidence is not older than the policy allows.

    Raises:
        CheckFailed: it is, or it is from the future.
        NotChecked: the policy sets no limit.
    """
    captured, days = saved.captured_at, context.policy.age.report_days
    if captured is None:
        return "fetched for this verification"
    age = context.now - captured
    if age < 0:
        raise CheckFailed(f"saved at {captured}, which is {-age} seconds from now")
    if days is None:
        raise NotChecked("the policy sets no limit", required=False)
    if age > days * _DAY:
        raise CheckFailed(f"found evidence that is {age // _DAY} days old, expected at most {days}")
    return f"{age // _DAY} days old"
