"""GPU evidence through NVML: only with CC on, all GPUs or none, and the reason when there is none."""

from __future__ import annotations

import asyncio
import ctypes
from pathlib import Path

import pytest

from confide.attest import dev_sign
from confide.attest.base import GpuAnswer, GpuUnavailable
from confide.attest.dev_pki import Pki
from confide.attest.gpu import NvmlGpus, load_nvml
from confide.wire.nvgpu import parse_measurements
from tests.simulator import nvml
from tests.simulator.nvml import Nvml

NONCE = bytes(range(32))
HOPPER = bytes.fromhex(
    (Path(__file__).parent.parent / "vectors" / "evidence" / "nvidia" / "hopper_580.hex").read_text().strip()
)


def ask(machine: Nvml, nonce: bytes = NONCE) -> GpuAnswer:
    async def main() -> GpuAnswer:
        gpus = NvmlGpus(lambda: machine)
        try:
            return await gpus.evidence(nonce)
        finally:
            await gpus.aclose()

    return asyncio.run(main())


@pytest.fixture
def machine(pki: Pki) -> Nvml:
    return Nvml(lambda _, nonce: dev_sign.gpu_evidence(pki, nonce).evidence, count=2)


def test_every_gpu_answers(machine: Nvml) -> None:
    answer = ask(machine)
    assert not isinstance(answer, GpuUnavailable)
    assert [gpu.arch for gpu in answer] == ["HOPPER", "HOPPER"]
    assert {parse_measurements(gpu.evidence).nonce for gpu in answer} == {NONCE}
    assert {gpu.certificate for gpu in answer} == {machine.chain}
    assert machine.open == 0


def test_a_real_report_is_passed_on_as_it_came(machine: Nvml) -> None:
    machine.evidence = lambda *_: HOPPER
    machine.architecture = 10
    answer = ask(machine, HOPPER[4:36])
    assert not isinstance(answer, GpuUnavailable)
    assert (answer[0].evidence, answer[0].arch) == (HOPPER, "BLACKWELL")


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ({"cc": 0}, "confidential computing is off on the GPU"),
        ({"devtools": 1}, "developer tools mode"),
        ({"count": 0}, "there is no NVIDIA GPU"),
        ({"architecture": 8}, r"architecture \(8\)"),
        ({"fails": {"nvmlInit": nvml.LibraryNotFound()}}, "no NVIDIA driver"),
        ({"fails": {"nvmlInit": nvml.DriverNotLoaded()}}, "no NVIDIA driver"),
        ({"fails": {"nvmlInit": nvml.Failed("No Permission")}}, "NVML does not start: No Permission"),
        ({"fails": {"nvmlSystemGetConfComputeState": nvml.NotSupported()}}, "has no confidential computing"),
        ({"fails": {"nvmlSystemGetConfComputeState": nvml.FunctionNotFound()}}, "has no confidential computing"),
        ({"fails": {"nvmlSystemGetConfComputeState": nvml.Failed("Lost")}}, "NVML failed: Lost"),
        ({"fails": {"nvmlDeviceGetConfComputeGpuCertificate": nvml.Failed("Unknown Error")}}, "Unknown Error"),
        ({"fails": {"nvmlDeviceGetConfComputeGpuAttestationReport": nvml.Failed("Unknown Error")}}, "Unknown"),
        ({"evidence": lambda *_: b"canned"}, "GPU 0 gave malformed evidence"),
        ({"evidence": lambda *_: HOPPER}, "GPU 0 gave evidence over another nonce"),
        ({"evidence": lambda *_: b""}, "malformed"),
    ],
)
def test_there_is_no_evidence_and_this_is_why(machine: Nvml, trouble: dict[str, object], reason: str) -> None:
    for name, value in trouble.items():
        setattr(machine, name, value)
    answer = ask(machine)
    assert isinstance(answer, GpuUnavailable)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(answer.reason)
    assert machine.open == 0


def test_one_broken_gpu_spoils_the_answer(machine: Nvml) -> None:
    good = machine.evidence
    machine.evidence = lambda index, nonce: good(index, nonce) if index == 0 else b""
    answer = ask(machine)
    assert isinstance(answer, GpuUnavailable)
    assert answer.reason.startswith("GPU 1 ")


def test_shutting_down_may_fail(machine: Nvml) -> None:
    machine.fails["nvmlShutdown"] = nvml.Failed()
    assert len(ask(machine)) == 2  # type: ignore[arg-type]


def test_the_library_may_be_missing() -> None:
    def missing() -> Nvml:
        raise ImportError

    answer = asyncio.run(NvmlGpus(missing).evidence(NONCE))
    assert answer == GpuUnavailable("the package nvidia-ml-py is not installed (confide[gpu])")


def test_a_nonce_has_one_size(machine: Nvml) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ask(machine, bytes(31))


def test_the_real_bindings_have_what_is_used() -> None:
    """Also where there is no GPU: names, and that buffers of ctypes become bytes."""
    pytest.importorskip("pynvml")
    real = load_nvml()
    for name in (name for name in dir(Nvml) if name.startswith(("nvml", "NVML"))):
        assert hasattr(real, name), name
    assert bytes((ctypes.c_uint8 * 4)(1, 2, 3, 4)[:3]) == b"\x01\x02\x03"


def test_this_machine_answers_honestly() -> None:
    """Evidence of its own GPUs, or a reason; on a machine with a GPU whose CC is off the reason says that."""
    pytest.importorskip("pynvml")
    answer = asyncio.run(NvmlGpus().evidence(NONCE))
    if isinstance(answer, GpuUnavailable):
        assert answer.reason
    else:
        assert {parse_measurements(gpu.evidence).nonce for gpu in answer} == {NONCE}
