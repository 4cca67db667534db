"""What NVML says about the GPUs and their confidential-computing mode, for ``confide doctor``."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Card:
    """One line about one GPU, or about the lack of one."""

    name: str
    usable: bool
    detail: str = ""
    advice: str = ""


def find(root: Path) -> Iterator[Card]:
    """The GPUs of this machine; ``root`` is where /dev is."""
    if importlib.util.find_spec("pynvml") is None:
        yield _by_device_file(root)
        return
    yield from ask(importlib.import_module("pynvml"))


def ask(nvml: Any) -> Iterator[Card]:
    """Ask the driver, through the module ``pynvml``."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as failed:
        yield Card("GPU", False, f"NVML: {failed}", "needs an NVIDIA GPU and its driver")
        return
    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        mode, advice = _confidential(nvml)
        for index in range(nvml.nvmlDeviceGetCount()):
            name = _text(nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(index)))
            yield Card(f"GPU {index}", True, f"{name}, driver {driver}, confidential computing {mode}", advice)
    except nvml.NVMLError as failed:
        yield Card("GPU", False, f"NVML: {failed}", "check the driver with nvidia-smi")
    finally:
        nvml.nvmlShutdown()


def _confidential(nvml: Any) -> tuple[str, str]:
    """The mode of confidential computing, and what to do when it is not on."""
    try:
        state = nvml.nvmlSystemGetConfComputeState()
    except nvml.NVMLError as failed:
        return f"unknown ({failed})", ""
    if not state.ccFeature:
        return "off", "switch it on for evidence about the GPU"
    return ("on, in developer mode", "developer mode protects nothing") if state.devToolsMode else ("on", "")


def _by_device_file(root: Path) -> Card:
    if (root / "dev/nvidia0").exists():
        return Card("GPU", True, "/dev/nvidia0", "pip install nvidia-ml-py to see its name and mode")
    return Card("GPU", False, "/dev/nvidia0", "not needed: the embedded engine runs on the CPU")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
