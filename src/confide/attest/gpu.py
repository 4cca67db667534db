"""Evidence of NVIDIA GPUs through NVML, only where confidential computing is on; elsewhere the reason why not.

Source: NVML API reference, "Confidential Computing". With CC off the evidence calls fail with "Unknown Error" (999),
so the state is asked first. Every GPU answers, or there is no evidence at all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol, cast

from confide.attest.base import GpuAnswer, GpuUnavailable, check_nonce
from confide.attest.shared import Blocking
from confide.wire.binary import MalformedEvidence
from confide.wire.nvgpu import GpuEvidence, parse_measurements

ARCHITECTURES: Final = {9: "HOPPER", 10: "BLACKWELL"}
"""The architectures with confidential computing, by NVML's number."""
_ON: Final = 1


class Nvml(Protocol):
    """The part of ``pynvml`` that is used. Structures come back as ctypes."""

    NVMLError: type[Exception]
    NVMLError_LibraryNotFound: type[Exception]
    NVMLError_DriverNotLoaded: type[Exception]
    NVMLError_NotSupported: type[Exception]
    NVMLError_FunctionNotFound: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlSystemGetConfComputeState(self) -> Any: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802
    def nvmlDeviceGetArchitecture(self, device: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetConfComputeGpuCertificate(self, device: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetConfComputeGpuAttestationReport(self, device: Any, nonce: bytes) -> Any: ...  # noqa: N802


class _Missing(Exception):
    """Why there is no evidence."""


def load_nvml() -> Nvml:
    """NVIDIA's bindings, which are imported only here."""
    return cast(Nvml, importlib.import_module("pynvml"))


class NvmlGpus:
    """The GPUs of this machine."""

    def __init__(self, load: Callable[[], Nvml] = load_nvml) -> None:
        self._load = load
        self._thread = Blocking("nvml")

    async def evidence(self, nonce: bytes) -> GpuAnswer:
        """Evidence of every GPU over 32 bytes, or why there is none."""
        check_nonce(nonce)
        return await self._thread.run(lambda: self._collect(nonce))

    async def aclose(self) -> None:
        """Let the thread end."""
        self._thread.close()

    def _collect(self, nonce: bytes) -> GpuAnswer:
        try:
            with _initialised(self._load) as nvml:
                _require_cc(nvml)
                return tuple(_one(nvml, index, nonce) for index in range(_count(nvml)))
        except _Missing as missing:
            return GpuUnavailable(str(missing))


@contextmanager
def _initialised(load: Callable[[], Nvml]) -> Iterator[Nvml]:
    try:
        nvml = load()
    except ImportError:
        raise _Missing("the package nvidia-ml-py is not installed (confide[gpu])") from None
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
        raise _Missing("there is no NVIDIA driver on this machine") from None
    except nvml.NVMLError as failed:
        raise _Missing(f"NVML does not start: {failed}") from None
    try:
        yield nvml
    except nvml.NVMLError as failed:
        raise _Missing(f"NVML failed: {failed}") from None
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _count(nvml: Nvml) -> int:
    count = nvml.nvmlDeviceGetCount()
    if not count:
        raise _Missing("there is no NVIDIA GPU on this machine")
    return count


def _require_cc(nvml: Nvml) -> None:
    _count(nvml)
    try:
        state = nvml.nvmlSystemGetConfComputeState()
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        raise _Missing("this GPU or its driver has no confidential computing") from None
    if state.ccFeature != _ON:
        raise _Missing("confidential computing is off on the GPU")
    if state.devToolsMode == _ON:
        raise _Missing("the GPU is in developer tools mode, in which confidential computing protects nothing")


def _one(nvml: Nvml, index: int, nonce: bytes) -> GpuEvidence:
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    number = nvml.nvmlDeviceGetArchitecture(device)
    if number not in ARCHITECTURES:
        raise _Missing(f"GPU {index} is of an architecture ({number}) whose evidence is not known")
    chain = nvml.nvmlDeviceGetConfComputeGpuCertificate(device)
    report = nvml.nvmlDeviceGetConfComputeGpuAttestationReport(device, nonce)
    certificate = _filled(chain.attestationCertChain, chain.attestationCertChainSize).rstrip(b"\0")
    evidence = _filled(report.attestationReport, report.attestationReportSize)
    try:
        answered = parse_measurements(evidence).nonce
    except MalformedEvidence as failed:
        raise _Missing(f"GPU {index} gave malformed evidence: {failed}") from None
    if answered != nonce:
        raise _Missing(f"GPU {index} gave evidence over another nonce")
    return GpuEvidence(ARCHITECTURES[number], certificate, evidence)


def _filled(buffer: Sequence[int], size: int) -> bytes:
    return bytes(buffer[:size])
