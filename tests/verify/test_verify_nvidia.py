"""NVIDIA devices: real evidence passes, each step can be broken alone, no mutation passes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from confide.attest import dev_pki, dev_sign
from confide.verify import roots
from confide.verify.context import Context
from confide.verify.material import Item, Material
from confide.verify.nvidia import GPU, GPUS, MOST_DEVICES, WEAKER, GpuResult, verify_gpus
from confide.verify.nvidia_device import firmware_ids, rim_ids
from confide.verify.policy import GpuPolicy, Policy
from confide.verify.rim import RIM
from confide.verify.roots import Roots
from confide.verify.verdict import CheckFailed, Ledger, Outcome
from confide.wire import nvgpu
from confide.wire.nvgpu import GpuEvidence
from tests.verify import nvidia_maker as maker
from tests.verify.nvidia_maker import DRIVER_RIM, NONCE, NOW, SWITCH_RIM, VBIOS, VBIOS_RIM, Factory, Publisher

VECTORS = Path(__file__).parent.parent / "vectors" / "evidence" / "nvidia"
IN_2024 = int(datetime(2024, 9, 1, tzinfo=UTC).timestamp())
IN_2026 = int(datetime(2026, 9, 1, tzinfo=UTC).timestamp())
FACTORY = Factory()
ANY = GpuPolicy()
PUBLISHER = Publisher()


# Real evidence -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Real:
    """One recorded device: when, what it is, and what must be read from it."""

    evidence: GpuEvidence
    at: int
    arch: str
    driver: str
    vbios: str
    rims: tuple[str, ...]

    @property
    def nonce(self) -> bytes:
        return self.evidence.evidence[4:36]


def _real(arch: str, name: str, chain: str) -> GpuEvidence:
    exchange = bytes.fromhex((VECTORS / f"{name}.hex").read_text().strip())
    return GpuEvidence(arch, (VECTORS / f"{chain}.pem").read_bytes(), exchange)


def _listed() -> GpuEvidence:
    (item,) = json.loads((VECTORS / "hopper_590.list.json").read_text())
    return GpuEvidence(item["arch"], base64.b64decode(item["certificate"]), base64.b64decode(item["evidence"]))


def _ids(driver: str, vbios: str) -> tuple[str, ...]:
    return (f"NV_GPU_{driver}", f"NV_GPU_VBIOS_{vbios}")


REAL = {
    "hopper_535": Real(
        _real("HOPPER", "devices/hopper_535", "devices/hopper_535"),
        IN_2024,
        "HOPPER",
        "535.86.09",
        "96.00.5E.00.01",
        _ids("DRIVER_GH100_535.86.09", "1010_0200_882_96005E0001"),
    ),
    "hopper_550": Real(
        _real("HOPPER", "devices/hopper_550", "devices/hopper_550"),
        IN_2024,
        "HOPPER",
        "550.90.07",
        "96.00.9F.00.01",
        _ids("DRIVER_GH100_550.90.07", "1010_0200_882_96009F0001"),
    ),
    "hopper_570": Real(
        _real("HOPPER", "devices/hopper_570", "devices/hopper_570"),
        IN_2026,
        "HOPPER",
        "570.124.03",
        "96.00.5E.00.04",
        _ids("DRIVER_GH100_570.124.03", "1010_0205_862_96005E0004"),
    ),
    "hopper_580": Real(
        _real("HOPPER", "hopper_580", "hopper_580"),
        IN_2026,
        "HOPPER",
        "580.159.03",
        "96.00.74.00.20",
        _ids("DRIVER_GH100_580.159.03", "1010_0205_862_9600740020"),
    ),
    "hopper_590": Real(
        _listed(),
        IN_2026,
        "HOPPER",
        "590.12",
        "96.00.A5.00.01",
        _ids("DRIVER_GH100_590.12", "G520_0200_885_9600A50001"),
    ),
    "blackwell_575": Real(
        _real("BLACKWELL", "blackwell_575", "devices/blackwell_575"),
        IN_2026,
        "BLACKWELL",
        "575.32",
        "97.00.88.00.0F",
        _ids("CC_DRIVER_GB100_575.32", "G525_0220_886_970088000F"),
    ),
}
SWITCH = Real(
    _real("LS10", "nvswitch", "devices/nvswitch"),
    IN_2026,
    "LS10",
    "",
    "96.10.55.00.01",
    ("NV_SWITCH_BIOS_5612_0002_890_9610550001",),
)
VBIOS_5E = Item(
    "nvidia-rim", "NV_GPU_VBIOS_1010_0200_882_96005E0001", (VECTORS / "rims/vbios_96.00.5E.00.01.xml").read_bytes()
)
SWITCH_BIOS = Item("nvidia-rim", SWITCH.rims[0], (VECTORS / "rims/switch_96.10.55.00.01.xml").read_bytes())


@dataclass(frozen=True)
class Case:
    """One call of the verifier below our own roots, all of it good unless changed."""

    gpus: Sequence[GpuEvidence]
    switches: Sequence[GpuEvidence] = ()
    policy: GpuPolicy = ANY
    items: Sequence[Item] = ()
    nonce: bytes = NONCE
    now: int = NOW
    roots: Roots | None = None
    unavailable: str | None = None

    def run(self) -> tuple[Ledger, GpuResult | None]:
        own = Roots.of([], [FACTORY.trusted, PUBLISHER.trusted])
        policy = Policy(roots=("nvidia",), unsafe_any_workload=True, gpu=self.policy)
        context = Context(policy, self.roots or own, self.now, Material(tuple(self.items)))
        ledger = Ledger()
        result = verify_gpus(
            ledger, context, self.gpus, self.nonce, switches=self.switches, unavailable=self.unavailable
        )
        return ledger, result


def failed(ledger: Ledger) -> set[str]:
    return {finding.step for finding in ledger.findings if finding.outcome is Outcome.FAIL}


def finding(ledger: Ledger, step: str, subject: str = "") -> Any:
    (found,) = (one for one in ledger.findings if one.step == step and subject in ("", one.subject))
    return found


def real_case(real: Real, **changes: Any) -> Case:
    case = Case([real.evidence], nonce=real.nonce, now=real.at, roots=Roots.of(["nvidia"]))
    return replace(case, **changes)


def test_there_are_vectors() -> None:
    assert len(REAL) == 6
    assert len(list((VECTORS / "devices").glob("*.hex"))) == 4


@pytest.mark.parametrize("name", REAL)
def test_real_device_passes(name: str) -> None:
    real = REAL[name]
    ledger, result = real_case(real, policy=GpuPolicy(required=True, count=1, architectures=(real.arch,))).run()
    assert result is not None
    assert not failed(ledger)
    assert ledger.passed("gpu.1", "gpu.2", "gpu.3", "gpu.4", "gpus.1", "gpus.2", "gpus.3", "gpus.4")
    (device,) = result.devices
    assert (device.arch, device.driver, device.vbios, device.rims) == (real.arch, real.driver, real.vbios, real.rims)
    assert [root.name for root in ledger.anchors] == ["NVIDIA Device Identity CA"]
    assert rim_ids(real.evidence) == real.rims
    assert WEAKER in finding(ledger, "gpu.6").detail
    assert not result.measured
    assert not device.measured


def test_facts_are_json() -> None:
    ledger, _ = real_case(REAL["hopper_590"]).run()
    (fact,) = json.loads(json.dumps(ledger.facts["gpu"]))
    assert fact["device_id"] == "412E7AA130CAA058DD"
    assert fact["root"] == "NVIDIA Device Identity CA"


def test_older_report_without_firmware_identity_is_not_checked_and_says_so() -> None:
    ledger, _ = real_case(REAL["hopper_535"]).run()
    found = finding(ledger, "gpu.5")
    assert (found.outcome, found.required) == (Outcome.NOT_CHECKED, False)


def test_real_vbios_measurements_agree() -> None:
    ledger, result = real_case(REAL["hopper_535"], items=[VBIOS_5E]).run()
    assert result is not None
    assert ledger.passed(*(step.id for step in RIM.steps))
    assert "12 measurements agree" in finding(ledger, "gpu.6").detail
    assert not result.measured


def test_real_switch_passes_and_is_measured() -> None:
    own = FACTORY.device(mode=0).evidence(SWITCH.nonce)
    trusted = Roots.of(["nvidia"], [FACTORY.trusted])
    case = Case([own], [SWITCH.evidence], nonce=SWITCH.nonce, now=SWITCH.at, roots=trusted, items=[SWITCH_BIOS])
    ledger, result = case.run()
    assert not failed(ledger)
    assert result is not None
    assert [(one.arch, one.measured, one.rims) for one in result.switches] == [("LS10", True, SWITCH.rims)]
    assert not result.measured, "the GPU was not"
    assert "31 of 31" in finding(ledger, "gpu.6", "switch 0").detail


def test_expired_manifest_is_as_if_it_were_not_at_hand() -> None:
    for demanded in (False, True):
        policy = GpuPolicy(measurements=demanded)
        ledger, result = real_case(REAL["hopper_535"], items=[VBIOS_5E], now=IN_2026, policy=policy).run()
        assert result is not None
        assert not failed(ledger)
        assert finding(ledger, "rim.5").required is demanded
        assert finding(ledger, "gpu.6").required is demanded
        assert "VBIOS" in finding(ledger, "gpu.6").detail


def test_nvidias_own_bad_signature_sample() -> None:
    exchange = bytes.fromhex((VECTORS / "devices/hopper_560_bad_signature.hex").read_text().strip())
    evidence = replace(REAL["hopper_590"].evidence, evidence=exchange)
    ledger, result = real_case(replace(REAL["hopper_590"], evidence=evidence)).run()
    assert failed(ledger) == {"gpu.3"}
    assert result is None


def test_development_evidence_is_consistent_with_its_root_only() -> None:
    pki = dev_pki.create_pki(maker.TIME)
    evidence = dev_sign.gpu_evidence(pki, NONCE)
    ledger, result = Case([evidence], roots=Roots.of([], roots.development(pki.roots_pem()))).run()
    assert result is not None
    assert not failed(ledger)
    assert all(root.development for root in ledger.anchors)
    assert ledger.passed("gpu.5")
    assert failed(Case([evidence], roots=Roots.of(["nvidia"])).run()[0]) == {"gpu.2"}


# Our own evidence ----------------------------------------------------------------------------------------------------


@cache
def manifests() -> tuple[Item, ...]:
    return (
        Item("nvidia-rim", DRIVER_RIM, PUBLISHER.rim()),
        Item("nvidia-rim", VBIOS_RIM, PUBLISHER.rim(VBIOS, range(6))),
        Item(
            "nvidia-rim",
            SWITCH_RIM,
            PUBLISHER.rim("96.10.55.00.01", range(31), product="LS10", edition="SWITCH"),
        ),
    )


@cache
def machine(gpus: int, switches: int) -> tuple[tuple[GpuEvidence, ...], tuple[GpuEvidence, ...]]:
    """A machine in protected PCIe mode."""
    linked = {22: maker.links(range(switches))}
    made = tuple(FACTORY.device(mode=2, fields=linked).evidence() for _ in range(gpus))
    shown = tuple(FACTORY.device("LS_10", fields={22: maker.pdi(number)}).evidence() for number in range(switches))
    return made, shown


@cache
def one() -> GpuEvidence:
    return FACTORY.device().evidence()


def test_fully_measured_machine() -> None:
    gpus, switches = machine(2, 2)
    policy = GpuPolicy(
        required=True, count=2, switches=2, architectures=("HOPPER",), drivers=(maker.DRIVER,), measurements=True
    )
    ledger, result = Case(gpus, switches, policy, manifests()).run()
    assert {finding.outcome for finding in ledger.findings if finding.required} == {Outcome.PASS}
    assert result is not None
    assert result.measured
    assert len(result.devices) == len(result.switches) == 2
    assert ledger.passed(*(step.id for step in (*GPUS.steps, *RIM.steps) if step.id != "gpu.5"))
    assert sum(finding.step == "rim.1" for finding in ledger.findings) == 3, "each manifest is checked once"
    assert finding(ledger, "gpus.5").detail == "protected PCIe over 2 switches"
    assert finding(ledger, "gpu.6", "gpu 0").detail.startswith("8 of 8")  # 35 means nothing while NVDEC0 is off


def test_measurement_35_counts_while_nvdec0_is_on() -> None:
    device = FACTORY.device(fields={nvgpu.NVDEC0_STATUS: b"\xaa"})
    ledger, _ = Case([device.evidence()], items=manifests()).run()
    assert finding(ledger, "gpu.6").detail.startswith("9 of 9")


@pytest.mark.parametrize("chip", ["GB100", "GB202", "GB20X"])
def test_blackwell_has_its_own_driver_manifest(chip: str) -> None:
    device = FACTORY.device(chip, fields={35: b"GB200\0"})
    ledger, result = Case([device.evidence()], policy=GpuPolicy(architectures=("BLACKWELL",))).run()
    assert result is not None
    assert not failed(ledger)
    assert ledger.passed("gpu.5")
    assert result.devices[0].rims[0] == f"NV_GPU_CC_DRIVER_GB200_{maker.DRIVER}"


def test_claimed_architecture_may_be_left_out() -> None:
    evidence = replace(one(), arch="")
    assert Case([evidence]).run()[1] is not None


def test_hostile_text_of_a_device_names_no_manifest() -> None:
    fields = {nvgpu.DRIVER_VERSION: b"../../x?y=1\0", nvgpu.PROJECT: b"G5/20\0", 35: b"\xff/\0"}
    for chip in ("GH100", "GB100"):
        evidence = FACTORY.device(chip, fields=fields).evidence()
        assert rim_ids(evidence) == ()
        ledger, result = Case([evidence]).run()
        assert result is not None
        assert WEAKER in finding(ledger, "gpu.6").detail
    assert rim_ids(GpuEvidence("HOPPER", b"", b"")) == ()


def test_subject_names_the_machine() -> None:
    ledger = Ledger()
    context = Context(Policy(roots=("nvidia",)), Roots.of([], [FACTORY.trusted]), NOW)
    verify_gpus(ledger, context, [one()], NONCE, subject="machine 3")
    assert {finding.subject for finding in ledger.findings} == {"machine 3", "machine 3, gpu 0"}


# What breaks each step -----------------------------------------------------------------------------------------------


def chained(certificates: Iterable[x509.Certificate], evidence: GpuEvidence) -> GpuEvidence:
    return replace(evidence, certificate=b"".join(one.public_bytes(Encoding.PEM) for one in certificates))


def _other_family() -> Case:
    """A GB100 key and device below the provisioner of GH100."""
    device = maker.issue("GB100 A01 GSP BROM", FACTORY.device().chain[2])
    leaf = maker.issue("GB100 A01 GSP FMC LF", device, ca=False)
    other = FACTORY.device()
    made = maker.Device("GH100", leaf, (leaf, device, *other.chain[2:]), other.fwid)
    return Case([made.evidence()])


def _weak_key() -> Case:
    provisioner = FACTORY.device().chain[2]
    device = maker.issue("GH100 A01 GSP BROM", provisioner, curve=ec.SECP256R1())
    leaf = maker.issue("GH100 A01 GSP FMC LF", device, ca=False, digest=hashes.SHA256())
    return Case([maker.Device("GH100", leaf, (leaf, device, *FACTORY.device().chain[2:]), bytes(48)).evidence()])


def _second_with_broken_middle() -> Case:
    """The second device's chain has the known upper part, and a device certificate of somebody else below it."""
    stranger = maker.issue("GH100 A01 GSP BROM", maker.issue("NVIDIA GH100 Provisioner ICA 1"))
    leaf = maker.issue("GH100 A01 GSP FMC LF", stranger, ca=False)
    made = maker.Device("GH100", leaf, (leaf, stranger, *FACTORY.device().chain[2:]), bytes(48))
    return Case([one(), made.evidence()])


def _device_is_no_ca() -> Case:
    made = FACTORY.device(device={"ca": False})
    return Case([one(), made.evidence()])


def _one_ca_too_many() -> Case:
    """Five certificates below the root, which is left out."""
    known = FACTORY.device().chain
    extra = maker.issue("NVIDIA GH100 Provisioner ICA 2", known[2])
    device = maker.issue("GH100 A01 GSP BROM", extra)
    leaf = maker.issue("GH100 A01 GSP FMC LF", device, ca=False)
    return Case([maker.Device("GH100", leaf, (leaf, device, extra, known[2], known[3]), bytes(48)).evidence()])


def _two_names() -> Case:
    known = FACTORY.device().chain
    names = [x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in ("GH100 A01 GSP BROM", "LS_10")]
    device = maker.issue("", known[2], subject=x509.Name(names))
    leaf = maker.issue("GH100 A01 GSP FMC LF", device, ca=False)
    return Case([maker.Device("GH100", leaf, (leaf, device, *known[2:]), bytes(48)).evidence()])


def _same_device_other_firmware() -> Case:
    """The real H100 that was recorded under two drivers: one device key, two attestation keys."""
    nonce = maker.NONCE
    device = FACTORY.device()
    value = device.fwid
    leaf = maker.issue(
        "GH100 A01 GSP FMC LF", device.chain[1], ca=False, extension=maker.composite_id(device.chain[1], value)
    )
    second = maker.Device("GH100", leaf, (leaf, *device.chain[1:]), value)
    return Case([device.evidence(nonce), second.evidence(nonce)])


def _manifest(key: str, data: bytes) -> list[Item]:
    return [item for item in manifests() if item.key != key] + [Item("nvidia-rim", key, data)]


def _case(**device: Any) -> Case:
    return Case([FACTORY.device(**device).evidence()])


BREAKS: dict[str, list[Callable[[], Case]]] = {
    "gpu.1": [
        lambda: Case([replace(one(), evidence=one().evidence[:-1])]),
        lambda: Case([replace(one(), evidence=one().evidence + b"\0" * 70_000)]),
        lambda: Case([FACTORY.device().evidence(request_params=b"\x01\x01")]),
        lambda: Case([FACTORY.device().evidence(request_params=b"\x00\xff")]),
        lambda: Case([replace(one(), certificate=b"")]),
        lambda: Case([replace(one(), certificate=one().certificate * 3)]),
        lambda: Case([replace(one(), evidence=one().evidence.hex().encode())]),
    ],
    "gpu.2": [
        lambda: Case([Factory().device().evidence()]),
        lambda: Case([one()], now=NOW + 11 * 365 * 86400),
        lambda: Case([one()], now=NOW - 40 * 86400),
        lambda: Case([one()], [one()]),
        lambda: Case([FACTORY.device("LS_10").evidence()]),
        lambda: Case([replace(one(), arch="BLACKWELL")]),
        lambda: Case([replace(one(), arch="LS10")]),
        lambda: Case([FACTORY.device("GR100").evidence(arch="RUBIN")]),
        lambda: Case([chained(x509.load_pem_x509_certificates(one().certificate)[1:], one())]),
        lambda: Case([chained(reversed(x509.load_pem_x509_certificates(one().certificate)), one())]),
        _other_family,
        _weak_key,
        _second_with_broken_middle,
        _device_is_no_ca,
        _one_ca_too_many,
        _two_names,
        lambda: real_case(SWITCH),
        lambda: real_case(REAL["hopper_580"], gpus=[replace(REAL["hopper_580"].evidence, arch="BLACKWELL")]),
    ],
    "gpu.3": [
        lambda: Case([replace(one(), certificate=FACTORY.device().pem)]),
        lambda: Case([replace(one(), evidence=one().evidence[:-96] + bytes(96))]),
        lambda: Case([replace(one(), evidence=one().evidence[:-1] + bytes([one().evidence[-1] ^ 1]))]),
        lambda: real_case(
            REAL["hopper_580"],
            gpus=[replace(REAL["hopper_580"].evidence, certificate=REAL["hopper_550"].evidence.certificate)],
        ),
    ],
    "gpu.4": [
        lambda: Case([one()], nonce=bytes(32)),
        lambda: Case([one()], nonce=b""),
        lambda: real_case(REAL["hopper_550"], nonce=REAL["hopper_590"].nonce),
    ],
    "gpu.5": [
        lambda: _case(fields={nvgpu.FWID: bytes(48)}),
        lambda: _case(fields={nvgpu.FWID: b""}),
        lambda: _case(chip="GB100", fields={nvgpu.FWID: bytes(48)}),
        lambda: _case(leaf={"digest": hashes.SHA384()}, fwid=bytes(48), fields={nvgpu.FWID: b"\1" * 48}),
    ],
    "gpu.6": [
        lambda: Case([FACTORY.device(measurements={8: bytes(48)}).evidence()], items=manifests()),
        lambda: Case([FACTORY.device(measurements={1: bytes(48)}).evidence()], items=manifests()[1:]),
        lambda: Case([one()], items=_manifest(DRIVER_RIM, PUBLISHER.rim(indices=[5]))),
        lambda: Case([one()], items=_manifest(DRIVER_RIM, PUBLISHER.rim(indices=[7, 100]))),
        lambda: Case([one()], items=[Item("nvidia-rim", DRIVER_RIM, PUBLISHER.rim(indices=[35]))]),
    ],
    "gpus.1": [lambda: Case([one()] * (MOST_DEVICES + 1))],
    "gpus.2": [lambda: Case([one(), one()]), _same_device_other_firmware],
    "gpus.3": [
        lambda: Case([one()], policy=GpuPolicy(count=8)),
        lambda: Case(*machine(2, 2), policy=GpuPolicy(count=2, switches=4)),
        lambda: Case([one()], policy=GpuPolicy(count=0)),
    ],
    "gpus.4": [
        lambda: Case([one()], policy=GpuPolicy(architectures=("BLACKWELL",))),
        lambda: Case([one()], policy=GpuPolicy(drivers=("580.95.04",))),
    ],
    "gpus.5": [
        lambda: Case([one(), machine(2, 2)[0][0]]),
        lambda: Case(machine(2, 2)[0], machine(2, 2)[1][:1]),
        lambda: Case([FACTORY.device(mode=2, fields={22: maker.links([0, 2])}).evidence()], machine(2, 2)[1]),
        lambda: Case([FACTORY.device(mode=2).evidence()], machine(2, 2)[1]),
    ],
}
TABLE = [pytest.param(step, make, id=f"{step}-{n}") for step, makes in BREAKS.items() for n, make in enumerate(makes)]


def test_every_step_has_a_break() -> None:
    assert set(BREAKS) == {step.id for steps in (GPU, GPUS) for step in steps.steps}


@pytest.mark.parametrize(("step", "make"), TABLE)
def test_break_is_seen_at_its_step(step: str, make: Callable[[], Case]) -> None:
    ledger, result = make().run()
    assert failed(ledger) == {step}
    if step in ("gpu.1", "gpu.2", "gpu.3", "gpu.4", "gpu.5", "gpus.1", "gpus.2"):
        assert result is None
    else:
        assert result is not None
        assert not (step == "gpu.6" and result.measured)


def test_device_recorded_twice_is_one_device() -> None:
    """The same physical H100, recorded under drivers 570 and 580: same device key, other attestation key."""
    first, second = (real_case(REAL[name]).run()[1] for name in ("hopper_570", "hopper_580"))
    assert first is not None
    assert second is not None
    assert first.devices[0].device_id == second.devices[0].device_id
    assert first.devices[0].ueid != second.devices[0].ueid


def test_policy_failures_are_all_told() -> None:
    policy = GpuPolicy(count=3, architectures=("BLACKWELL",), drivers=("1.2",))
    ledger, _ = Case([one()], policy=policy).run()
    assert failed(ledger) == {"gpus.3", "gpus.4"}
    detail = finding(ledger, "gpus.4").detail
    assert "HOPPER" in detail
    assert maker.DRIVER in detail


# Absent, and not needed or needed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "required"),
    [
        (GpuPolicy(), False),
        (GpuPolicy(required=True), True),
        (GpuPolicy(count=8), True),
        (GpuPolicy(switches=4), True),
        (GpuPolicy(count=0), False),
    ],
)
def test_no_evidence_is_not_checked(policy: GpuPolicy, required: bool) -> None:
    ledger, result = Case([], policy=policy, unavailable="confidential computing is off on the GPU").run()
    assert result is None
    assert {(found.outcome, found.required) for found in ledger.findings} == {(Outcome.NOT_CHECKED, required)}
    assert "confidential computing is off" in finding(ledger, "gpus.1").detail
    assert [found.step for found in ledger.findings] == [step.id for step in GPUS.steps]


@pytest.mark.parametrize("required", [False, True])
def test_policy_without_nvidia_does_not_look(required: bool) -> None:
    ledger, result = Case([one()], policy=GpuPolicy(required=required), roots=Roots.of(["intel"])).run()
    assert result is None
    assert not ledger.anchors
    assert {(found.outcome, found.required) for found in ledger.findings} == {(Outcome.NOT_CHECKED, required)}


def test_policy_that_demands_measurements_needs_both_manifests() -> None:
    ledger, result = Case([one()], policy=GpuPolicy(measurements=True), items=manifests()[:1]).run()
    assert result is not None
    assert not result.measured
    found = finding(ledger, "gpu.6")
    assert (found.outcome, found.required) == (Outcome.NOT_CHECKED, True)
    assert VBIOS_RIM in found.detail


def test_forged_manifest_fails_and_nothing_is_measured() -> None:
    forged = Publisher().rim()
    ledger, result = Case([one()], items=_manifest(DRIVER_RIM, forged)).run()
    assert failed(ledger) == {"rim.4"}
    assert result is not None
    assert not result.measured


def test_good_manifest_behind_a_forged_one_counts() -> None:
    forged = Item("nvidia-rim", DRIVER_RIM, Publisher().rim(), "stapled")
    ledger, result = Case([one()], items=[forged, *manifests()]).run()
    assert not failed(ledger)
    assert result is not None
    assert result.measured


@pytest.mark.parametrize("switches", [None, 4])
def test_protected_pcie_without_switches_says_so(switches: int | None) -> None:
    policy = GpuPolicy(switches=switches)
    ledger, result = Case(machine(2, 2)[0], policy=policy).run()
    assert result is not None
    found = finding(ledger, "gpus.5")
    assert (found.outcome, found.required) == (Outcome.NOT_CHECKED, switches is not None)


@pytest.mark.parametrize("mode", [None, 7])
def test_unknown_mode_is_not_checked(mode: int | None) -> None:
    ledger, _ = Case([FACTORY.device(mode=mode).evidence()]).run()
    assert finding(ledger, "gpus.5").outcome is Outcome.NOT_CHECKED


@pytest.mark.parametrize("mode", [0, 1])
def test_known_modes_without_switches(mode: int) -> None:
    ledger, _ = Case([FACTORY.device(mode=mode).evidence() for _ in range(2)]).run()
    assert finding(ledger, "gpus.5").outcome is Outcome.PASS


def test_real_protected_pcie_is_seen() -> None:
    ledger, _ = real_case(REAL["hopper_590"]).run()
    assert "protected PCIe" in finding(ledger, "gpus.5").detail


# Certificates with strange extensions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x30",
        b"\x30\x83\x00\x00\x00",
        b"\x30\x03\x02\x01\x01",
        b"\x31\x00",
        bytes(47),
        b"\x30\x80",
        b"\x30\x82\xff",
    ],
)
@pytest.mark.parametrize("arc", ["2.23.133.5.4.1", "2.23.133.5.4.1.1"])
def test_strange_dice_extension_fails(arc: str, value: bytes) -> None:
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(arc), value)
    with pytest.raises(CheckFailed):
        firmware_ids(maker.issue("leaf", ca=False, extension=extension).certificate)


def test_certificate_without_dice_extension_fails() -> None:
    with pytest.raises(CheckFailed):
        firmware_ids(maker.issue("leaf", ca=False).certificate)


# Mutations -----------------------------------------------------------------------------------------------------------


def flips(data: bytes, step: int, start: int = 0) -> Iterable[bytes]:
    for at in range(start, len(data), step):
        yield data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]


def mutated(real: Real, kind: str) -> Iterable[Case]:
    """Single changes to everything that is signed, and to what it is compared with."""
    case = real_case(real) if kind == "gpu" else real_case(real, gpus=[one()], switches=[real.evidence])

    def of(evidence: GpuEvidence) -> Case:
        return replace(case, **({"gpus": [evidence]} if kind == "gpu" else {"switches": [evidence]}))  # type: ignore[arg-type]

    raw = real.evidence.evidence
    for changed in (*flips(raw[:45], 1), *flips(raw[-620:], 9)):
        whole = changed + raw[45:] if len(changed) == 45 else raw[:-620] + changed
        yield of(replace(real.evidence, evidence=whole))
    for whole in flips(raw, 53, 45):
        yield of(replace(real.evidence, evidence=whole))
    ders = [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(real.evidence.certificate)]
    for place, der in enumerate(ders):
        yield of(_pem(real.evidence, [*ders[:place], *ders[place + 1 :]])) if place < len(ders) - 1 else case_at(case)
        for changed in flips(der, 11, place):
            yield of(_pem(real.evidence, [*ders[:place], changed, *ders[place + 1 :]]))
    for nonce in (*flips(real.nonce, 1), b"", real.nonce[:-1], real.nonce + b"\0"):
        yield replace(case, nonce=nonce)


def case_at(case: Case) -> Case:
    """Before the first certificate was valid."""
    return replace(case, now=int(datetime(2020, 1, 1, tzinfo=UTC).timestamp()))


def _pem(evidence: GpuEvidence, ders: Sequence[bytes]) -> GpuEvidence:
    text = b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n" for der in ders
    )
    return replace(evidence, certificate=text)


# cryptography warns of what RFC 5280 forbids and it still reads; that must not be the reason for a refusal here
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("name", [*REAL, "nvswitch"])
def test_no_mutation_of_real_evidence_passes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    real, kind = (SWITCH, "switch") if name == "nvswitch" else (REAL[name], "gpu")
    tried = accepted = 0
    for case in mutated(real, kind):
        ledger, result = case.run()
        of_device = {one.step for one in ledger.findings if one.outcome is Outcome.FAIL and kind in one.subject}
        tried += 1
        accepted += result is not None or not of_device & {"gpu.1", "gpu.2", "gpu.3", "gpu.4"}
    with capsys.disabled():
        print(f"\n{name}: {tried} mutations tried, {accepted} accepted")
    assert tried > 300
    assert accepted == 0


# Many ----------------------------------------------------------------------------------------------------------------


def test_eight_gpus_and_four_switches() -> None:
    gpus, switches = machine(8, 4)
    case = Case(gpus, switches, GpuPolicy(count=8, switches=4, measurements=True), manifests())
    _, result = case.run()
    assert result is not None
    assert result.measured
