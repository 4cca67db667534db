"""Which source of evidence this machine has. Development is chosen by name, and never fallen back to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from confide.attest.base import EvidenceFailed, EvidenceSource, GpuSource, TeeType
from confide.attest.gpu import NvmlGpus
from confide.attest.shared import SharedEvidence, SharedGpu
from confide.attest.tsm import DIRECTORY, PROVIDERS, Files, OsFiles, TsmSource, find_provider
from confide.errors import OperatorError

if TYPE_CHECKING:
    from confide.attest.dstack import DstackSource

SOCKETS: Final = tuple(
    Path(path)
    for path in (
        "/var/run/dstack.sock",
        "/run/dstack.sock",
        "/var/run/dstack/dstack.sock",
        "/run/dstack/dstack.sock",
    )
)
"""Where the socket of dstack's guest agent is found, in the order of dstack's own SDK."""

Tee = Literal["auto", "dstack", "tdx", "sev-snp", "dev"]


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look. ``data_dir`` holds the development PKI."""

    data_dir: Path
    dstack_sockets: Sequence[Path] = SOCKETS
    tsm_directory: Path = DIRECTORY
    tsm_files: Files | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """What was chosen. ``keys`` is the dstack source where keys can be had from one, else None; ``development_roots``
    is what development evidence ends at (PEM), None for a machine's own."""

    evidence: EvidenceSource
    gpu: GpuSource
    keys: DstackSource | None = None
    development_roots: bytes | None = None

    async def aclose(self) -> None:
        """Close both."""
        await self.evidence.aclose()
        await self.gpu.aclose()


def choose(tee: Tee, places: Places, seconds: float = 20.0) -> Sources:
    """The sources for this setting.

    Raises:
        OperatorError: this machine has no such thing; the text says what was looked for.
    """
    if tee == "dev":
        return _development(places, seconds)
    source = keys = _dstack(tee, places, seconds)
    return Sources(SharedEvidence(source or _tsm_source(tee, places), seconds), SharedGpu(NvmlGpus(), seconds), keys)


def _development(places: Places, seconds: float) -> Sources:
    from confide.attest.dev import DevGpu, DevMachine, DevSource
    from confide.attest.dev_pki import open_pki

    machine = DevMachine(open_pki(places.data_dir))
    evidence, gpu = SharedEvidence(DevSource(machine), seconds), SharedGpu(DevGpu(machine.pki), seconds)
    return Sources(evidence, gpu, development_roots=machine.pki.roots_pem())


def _dstack(tee: str, places: Places, seconds: float) -> DstackSource | None:
    if tee in ("auto", "dstack"):
        socket = next((path for path in places.dstack_sockets if path.is_socket()), None)
        if socket is not None:
            from confide.attest.dstack import DstackSource

            return DstackSource(socket, seconds)
        if tee == "dstack":
            raise OperatorError(f"no dstack guest agent: {_no_socket(places)}")
    return None


def _tsm_source(tee: Literal["auto", "dstack", "tdx", "sev-snp"], places: Places) -> TsmSource:
    found = _tsm(places)
    wanted: TeeType | None = None if tee == "auto" else _TEE_TYPES[tee]
    if found is None or wanted not in (None, found):
        raise OperatorError(_nothing(tee, found, places))
    return TsmSource(found, places.tsm_directory, places.tsm_files)


_TEE_TYPES: dict[str, TeeType] = {"tdx": "tdx", "sev-snp": "sev_snp"}


def _tsm(places: Places) -> TeeType | None:
    try:
        provider = find_provider(places.tsm_directory, places.tsm_files or OsFiles())
    except EvidenceFailed as failed:
        raise OperatorError(str(failed)) from failed
    return None if provider is None else PROVIDERS.get(provider)


def _nothing(tee: str, found: TeeType | None, places: Places) -> str:
    there = f"no known provider of reports in {places.tsm_directory}" if found is None else f"a {found} guest"
    if tee != "auto":
        return f"this is not a {tee} guest: {there}"
    return f"no TEE on this machine: {_no_socket(places)}, and {there}. To try it without hardware, say so: --tee dev"


def _no_socket(places: Places) -> str:
    return f"no socket at {', '.join(map(str, places.dstack_sockets))}"
