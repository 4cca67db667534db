"""Evidence of NVIDIA GPUs and NVSwitches: who made each device, that it signed our nonce, and what it runs.

Without reference measurements (RIMs) the claim is that genuine devices signed this nonce; whether they run NVIDIA's
released firmware and driver in confidential-computing mode follows only from the comparison with them. Whether a
certificate was revoked is not asked: NVIDIA answers that only over the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from confide.verify.chain import check_chain
from confide.verify.context import Context
from confide.verify.nvidia_device import (
    Kind,
    Named,
    Reading,
    check_shape,
    firmware_ids,
    name_device,
    read_evidence,
    wanted_rims,
)
from confide.verify.nvidia_links import check_links
from confide.verify.rim import Wanted, check_measurements, find_rim
from confide.verify.roots import Root
from confide.verify.verdict import CheckFailed, Checks, Ledger, NotChecked, Steps
from confide.wire import nvgpu
from confide.wire.rim import Rim

GPU: Final = Steps.of(
    "gpu",
    "NVIDIA GPU or NVSwitch",
    "DMTF DSP0274 1.1 (SPDM); TCG DICE Attestation Architecture 1.1; NVIDIA nvtrust",
    ("format", "The evidence is one request for all measurements with the device's signed answer, and a chain."),
    ("certificate chain", "NVIDIA made the device, of the kind and family it is offered as. Revocation is not asked."),
    ("signature", "The device's attestation key signed request and measurements."),
    ("nonce", "It did so for this verification's nonce, so the evidence is not older."),
    ("firmware identity", "The attestation key belongs to the firmware that the report names."),
    (
        "reference measurements",
        "Firmware, driver and mode are those that NVIDIA released; the devices run nothing else.",
    ),
)
GPUS: Final = Steps.of(
    "gpus",
    "NVIDIA devices together",
    "the policy; NVIDIA nvtrust, topology of protected PCIe",
    ("present", "There is evidence of GPUs, and NVIDIA's root is accepted for it."),
    ("distinct", "Every device is genuine, and none is shown twice: device keys and attestation keys all differ."),
    ("count", "As many GPUs and switches are there as the policy says."),
    ("architecture and driver", "The policy accepts each GPU's architecture and driver version."),
    ("interconnect", "All GPUs work in one mode; switches that they trust are genuine and shown here."),
)
MOST_DEVICES: Final = 128
WEAKER: Final = (
    "a genuine NVIDIA device signed this nonce; whether its firmware and driver are NVIDIA's released ones, "
    "and confidential-computing mode, was not compared"
)
_HALF: Final = 48
_NVDEC0_OFF: Final = b"\x55"


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A genuine device. ``device_id`` is the serial number of the certificate that NVIDIA gave it, in hex; ``ueid``
    names its attestation key as NVIDIA's service does. ``measured`` says that everything was compared with RIMs."""

    kind: Kind
    arch: str
    model: str
    device_id: str
    driver: str
    vbios: str
    root: Root
    ueid: str
    rims: tuple[str, ...]
    measured: bool


@dataclass(frozen=True, slots=True)
class GpuResult:
    """GPUs (and switches) that are genuine and distinct; ``measured`` where all of them were compared with RIMs."""

    devices: tuple[GpuDevice, ...]
    measured: bool
    root: Root
    switches: tuple[GpuDevice, ...] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    """A genuine device with its reading, and the digests of its device key and attestation key."""

    device: GpuDevice
    reading: Reading
    keys: tuple[str, str]


@dataclass(slots=True)
class _Run:
    """One call: chains above the device and manifests are checked once, however many devices share them."""

    ledger: Ledger
    context: Context
    nonce: bytes
    roots: tuple[Root, ...]
    prefix: str
    proven: dict[tuple[bytes, ...], Root] = field(default_factory=dict)
    rims: dict[str, Rim | None] = field(default_factory=dict)


def verify_gpus(
    ledger: Ledger,
    context: Context,
    gpus: Sequence[nvgpu.GpuEvidence],
    nonce: bytes,
    *,
    switches: Sequence[nvgpu.GpuEvidence] = (),
    unavailable: str | None = None,
    subject: str = "",
) -> GpuResult | None:
    """Judge the evidence of a machine's devices over ``nonce`` (32 bytes). ``unavailable`` is why there is none.

    ``subject`` names the machine where one verification has several; findings then say ``<subject>, gpu 0``.

    Returns:
        The devices, where each is genuine and none is shown twice; None otherwise, and the ledger says why.
    """
    result: list[GpuResult] = []
    run = _Run(ledger, context, nonce, context.roots.for_use("gpu"), f"{subject}, " if subject else "")
    with ledger.group(GPUS, subject) as checks:
        said = f"{len(gpus)} GPUs and {len(switches)} switches"
        checks.need(1, lambda: _check_present(run, len(gpus), len(switches), unavailable), said)
        found = [_judge(run, one, "gpu", place) for place, one in enumerate(gpus)]
        found += [_judge(run, one, "switch", place) for place, one in enumerate(switches)]
        facts = ledger.facts.setdefault("gpu", [])
        facts += [_fact(one.device) for one in found if one is not None]
        devices = checks.need(2, lambda: _check_distinct(found), lambda several: f"{len(several)} devices")
        checks.check(3, lambda: _check_count(context, len(gpus), len(switches)))
        checks.check(4, lambda: _check_policy(context, devices))
        checks.check(5, lambda: _check_interconnect(context, devices))
        result.append(_result(devices))
    return result[0] if result else None


def _result(found: Sequence[_Found]) -> GpuResult:
    devices = [one.device for one in found]
    return GpuResult(
        devices=tuple(one for one in devices if one.kind == "gpu"),
        measured=all(one.measured for one in devices),
        root=devices[0].root,
        switches=tuple(one for one in devices if one.kind == "switch"),
    )


def _fact(device: GpuDevice) -> dict[str, object]:
    return {
        "kind": device.kind,
        "arch": device.arch,
        "model": device.model,
        "device_id": device.device_id,
        "driver": device.driver,
        "vbios": device.vbios,
        "root": device.root.name,
        "ueid": device.ueid,
        "rims": list(device.rims),
        "measured": device.measured,
    }


# One device ----------------------------------------------------------------------------------------------------------


def _judge(run: _Run, evidence: nvgpu.GpuEvidence, kind: Kind, place: int) -> _Found | None:
    found: list[_Found] = []
    with run.ledger.group(GPU, f"{run.prefix}{kind} {place}") as checks:
        reading = checks.need(1, lambda: read_evidence(evidence))
        root, named = checks.need(2, lambda: _check_chain(run, reading, kind, evidence.arch), lambda two: two[1].model)
        checks.need(3, lambda: _check_signature(reading))
        run.ledger.trusted(root)
        checks.need(4, lambda: _check_nonce(reading, run.nonce))
        _check_firmware(checks, reading)
        wanted = wanted_rims(reading, named.chip)
        measured = checks.check(6, lambda: _measure(run, reading, kind, wanted))
        device = GpuDevice(
            kind=kind,
            arch=named.family,
            model=named.model,
            device_id=named.device_id,
            driver=reading.driver,
            vbios=reading.vbios,
            root=root,
            ueid=named.ueid,
            rims=tuple(one.id for one in wanted),
            measured=measured,
        )
        found.append(_Found(device, reading, named.keys))
    return found[0] if found else None


def _check_chain(run: _Run, reading: Reading, kind: Kind, claimed: str) -> tuple[Root, Named]:
    path = reading.certificates
    check_shape(path)
    root = _prove(run, path)
    named = name_device(path[:-1] if _der(path[-1]) == root.der else path)
    is_switch = named.family == "LS10"
    if is_switch != (kind == "switch"):
        raise CheckFailed(f"found a {'switch' if is_switch else 'GPU'} ({named.model}), expected a {kind}")
    if claimed and claimed.upper().replace("_", "") != named.family:
        raise CheckFailed(f"found the architecture {named.family} in the certificates, and {claimed} is claimed")
    return root, named


def _prove(run: _Run, path: Sequence[x509.Certificate]) -> Root:
    """The root of a chain. What is above the device's certificate is the same for many devices and checked once.

    A tail that was proven below a chain of the same length is itself an anchor for the next one, so that every
    certificate is still checked in its place.
    """
    what, time = "the device's certificate chain", run.context.time
    tail = tuple(_der(one) for one in path[2:])
    known = run.proven.get(tail)
    if known is not None:
        check_chain(path[:3], [replace(known, der=tail[0])], time, what)
        return known
    run.proven[tail] = root = check_chain(path, run.roots, time, what)
    return root


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _check_signature(reading: Reading) -> None:
    key = cast(ec.EllipticCurvePublicKey, reading.certificates[0].public_key())  # step 2 saw to it that it is of P-384
    raw = reading.exchange.signature
    signature = encode_dss_signature(int.from_bytes(raw[:_HALF], "big"), int.from_bytes(raw[_HALF:], "big"))
    try:
        key.verify(signature, reading.raw[: -nvgpu.SIGNATURE_SIZE], ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise CheckFailed("the measurements are not signed by the key of the first certificate") from None


def _check_nonce(reading: Reading, nonce: bytes) -> None:
    if reading.exchange.nonce != nonce:
        raise CheckFailed(f"found the nonce {reading.exchange.nonce.hex()}, expected {nonce.hex()}")


def _check_firmware(checks: Checks, reading: Reading) -> None:
    reported = reading.fwid
    if reported is None:
        checks.skip(5, "this version's report does not repeat the firmware's digest", required=False)
        return
    checks.need(5, lambda: _check_fwid(reading, reported))


def _check_fwid(reading: Reading, reported: bytes) -> None:
    certified = firmware_ids(reading.certificates[0])
    if reported not in certified:
        names = ", ".join(one.hex() for one in certified)
        raise CheckFailed(f"found {reported.hex()} in the report, expected {names} of the certificate")


def _measure(run: _Run, reading: Reading, kind: Kind, wanted: Sequence[Wanted]) -> str:
    """Compare with every manifest at hand. It counts as measured only where none is missing."""
    found = {one.id: _rim(run, one) for one in wanted}
    rims = [rim for rim in found.values() if rim is not None]
    runtime = {one.index: one.value for one in reading.exchange.measurements}
    off = reading.exchange.field(nvgpu.NVDEC0_STATUS) == _NVDEC0_OFF
    count = check_measurements(runtime, rims, nvdec0_off=off) if rims else 0
    missing = [name for name, rim in found.items() if rim is None]
    if missing or len(wanted) != (1 if kind == "switch" else 2):
        which = ", ".join(missing) or "what the device should be compared with"
        compared = f"{count} measurements agree, but " if count else ""
        required = run.context.policy.gpu.measurements
        raise NotChecked(f"{compared}no usable manifest for {which}: {WEAKER}", required=required)
    return f"{count} of {count} measurements are NVIDIA's ({', '.join(found)})"


def _rim(run: _Run, wanted: Wanted) -> Rim | None:
    if wanted.id not in run.rims:
        run.rims[wanted.id] = find_rim(run.ledger, run.context, wanted)
    return run.rims[wanted.id]


# All of them ---------------------------------------------------------------------------------------------------------


def _check_present(run: _Run, gpus: int, switches: int, unavailable: str | None) -> None:
    policy = run.context.policy.gpu
    needed = policy.required or bool(policy.count) or bool(policy.switches)
    if not gpus:
        reason = f": {unavailable}" if unavailable else ""
        raise NotChecked(f"there is no evidence of a GPU{reason}", required=needed)
    if gpus + switches > MOST_DEVICES:
        raise CheckFailed(f"found {gpus + switches} devices; more than {MOST_DEVICES} are not looked at")
    if not run.roots:
        raise NotChecked("the policy accepts no root for GPUs", required=needed)


def _check_distinct(found: Sequence[_Found | None]) -> list[_Found]:
    genuine = [one for one in found if one is not None]
    if len(genuine) != len(found):
        raise NotChecked(f"{len(found) - len(genuine)} of {len(found)} devices are not proven genuine")
    for which, name in enumerate(("device", "attestation")):
        keys = [one.keys[which] for one in genuine]
        if len(set(keys)) != len(keys):
            raise CheckFailed(f"found {len(set(keys))} {name} keys, expected {len(keys)}: a device is shown twice")
    return genuine


def _check_count(context: Context, gpus: int, switches: int) -> str:
    policy = context.policy.gpu
    if policy.count is None and policy.switches is None:
        raise NotChecked("the policy does not say how many there should be", required=False)
    expected = (
        gpus if policy.count is None else policy.count,
        switches if policy.switches is None else policy.switches,
    )
    if (gpus, switches) != expected:
        raise CheckFailed(
            f"found {gpus} GPUs and {switches} switches, expected {expected[0]} GPUs and {expected[1]} switches"
        )
    return f"{gpus} GPUs and {switches} switches"


def _check_policy(context: Context, found: Sequence[_Found]) -> str:
    policy = context.policy.gpu
    if not policy.architectures and not policy.drivers:
        raise NotChecked("the policy names no architecture and no driver", required=False)
    devices = [one.device for one in found if one.device.kind == "gpu"]
    wrong = [
        f"found the {what} {value or 'none'}, expected {' or '.join(accepted)}"
        for what, accepted, values in (
            ("architecture", policy.architectures, sorted({one.arch for one in devices})),
            ("driver", policy.drivers, sorted({one.driver for one in devices})),
        )
        for value in values
        if accepted and value not in accepted
    ]
    if wrong:
        raise CheckFailed("; ".join(wrong))
    return ", ".join(sorted({f"{one.arch} with driver {one.driver}" for one in devices}))


def _check_interconnect(context: Context, found: Sequence[_Found]) -> str:
    readings: dict[Kind, list[Reading]] = {"gpu": [], "switch": []}
    for one in found:
        readings[one.device.kind].append(one.reading)
    return check_links(readings["gpu"], readings["switch"], required=bool(context.policy.gpu.switches))
