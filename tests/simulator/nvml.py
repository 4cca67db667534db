"""The part of NVML that is asked, with NVML's errors and structures. Fields are what a test may break."""

# ruff: noqa: N802 - NVML names its calls so

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class Failed(Exception):
    """Any failure."""


class LibraryNotFound(Failed):
    """There is no libnvidia-ml."""


class DriverNotLoaded(Failed):
    """There is no kernel module."""


class NotSupported(Failed):
    """The GPU can't."""


class FunctionNotFound(Failed):
    """The library is too old."""


@dataclass
class Nvml:
    """A machine with GPUs."""

    evidence: Callable[[int, bytes], bytes]
    chain: bytes = b"-----BEGIN CERTIFICATE-----"
    count: int = 1
    architecture: int = 9
    cc: int = 1
    devtools: int = 0
    fails: dict[str, Exception] = field(default_factory=dict)
    """Which call fails with what."""
    open: int = 0
    NVMLError: type[Exception] = Failed
    NVMLError_LibraryNotFound: type[Exception] = LibraryNotFound
    NVMLError_DriverNotLoaded: type[Exception] = DriverNotLoaded
    NVMLError_NotSupported: type[Exception] = NotSupported
    NVMLError_FunctionNotFound: type[Exception] = FunctionNotFound

    def _fail(self, call: str) -> None:
        if call in self.fails:
            raise self.fails[call]

    def nvmlInit(self) -> None:
        self._fail("nvmlInit")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self._fail("nvmlShutdown")
        self.open -= 1

    def nvmlSystemGetConfComputeState(self) -> Any:
        self._fail("nvmlSystemGetConfComputeState")
        return SimpleNamespace(environment=2, ccFeature=self.cc, devToolsMode=self.devtools)

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetArchitecture(self, device: int) -> int:
        return self.architecture

    def nvmlDeviceGetConfComputeGpuCertificate(self, device: int) -> Any:
        self._fail("nvmlDeviceGetConfComputeGpuCertificate")
        return SimpleNamespace(
            attestationCertChain=[*self.chain, 0, *bytes(100)], attestationCertChainSize=len(self.chain) + 1
        )

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, device: int, nonce: bytes) -> Any:
        self._fail("nvmlDeviceGetConfComputeGpuAttestationReport")
        data = self.evidence(device, nonce)
        return SimpleNamespace(attestationReport=[*data, *bytes(100)], attestationReportSize=len(data))
