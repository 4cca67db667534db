"""How the GPUs of one machine are connected, as far as their signed reports say.

In protected PCIe mode GPUs trust the NVSwitches between them, so each switch that a GPU names must itself be shown and
genuine. Source: NVIDIA nvtrust, the topology check of its verifier for protected PCIe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from confide.verify.nvidia_device import DEVICE_PDI, Reading
from confide.verify.verdict import CheckFailed, NotChecked
from confide.wire import nvgpu

_PROTECTED: Final = b"\xaa"
_MODES: Final = {0: "single GPU passthrough", 1: "multi GPU passthrough", 2: "protected PCIe"}
_PPCIE: Final = 2
_PDI_SIZE: Final = 8


def check_links(gpus: Sequence[Reading], switches: Sequence[Reading], *, required: bool) -> str:
    """The one mode that all GPUs work in; where it is protected PCIe, the switches they name are those shown.

    Raises:
        CheckFailed: the GPUs do not fit together, or not with the switches.
        NotChecked: they do not say, or no switch is shown; ``required`` says whether the policy needs it.
    """
    modes = {_mode(gpu) for gpu in gpus}
    if len(modes) != 1:
        names = ", ".join(sorted(_MODES.get(-1 if mode is None else mode, "not known") for mode in modes))
        raise CheckFailed(f"found GPUs in different modes ({names}), expected one")
    (mode,) = modes
    if mode is None or mode not in _MODES:
        raise NotChecked("the GPUs do not say in a known way how they are connected", required=required)
    if mode == _PPCIE:
        _check_switches(gpus, switches, required=required)
        return f"{_MODES[mode]} over {len(switches)} switches"
    return _MODES[mode]


def _check_switches(gpus: Sequence[Reading], switches: Sequence[Reading], *, required: bool) -> None:
    if not switches:
        reason = "in protected PCIe mode the GPUs trust the NVSwitches between them, and no evidence of these is shown"
        raise NotChecked(reason, required=required)
    shown = {(one.exchange.field(DEVICE_PDI) or b"")[::-1] for one in switches}  # GPUs write them in reverse
    for gpu in gpus:
        named = _linked(gpu)
        if named != shown:
            raise CheckFailed(f"found links to the switches {_hexes(named)}, expected {_hexes(shown)}")


def _mode(gpu: Reading) -> int | None:
    flag = gpu.exchange.field(nvgpu.FEATURE_FLAG)
    if gpu.exchange.field(nvgpu.PROTECTED_PCIE) == _PROTECTED:
        return _PPCIE
    return None if flag is None else int.from_bytes(flag, "little")


def _linked(gpu: Reading) -> set[bytes]:
    value = gpu.exchange.field(DEVICE_PDI) or b""
    parts = {value[at : at + _PDI_SIZE] for at in range(0, len(value), _PDI_SIZE)}
    return parts - {bytes(_PDI_SIZE)}  # a link that is off


def _hexes(parts: set[bytes]) -> str:
    return ", ".join(sorted(part[::-1].hex() for part in parts)) or "none"
