"""What evidence is and who gives it.

The caller's order is GPU first, quote second, because the quote commits to what the GPUs said. A source never judges
its evidence; it only makes sure that the evidence is well-formed and answers the question that was asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from confide.errors import ConfideError
from confide.wire.nvgpu import GpuEvidence
from confide.wire.snp import SnpCertificates
from confide.wire.tdx import TdxCollateral

TeeType = Literal["tdx", "sev_snp"]
"""The names that ACI gives them in ``tee_type``."""
KeyAlgorithm = Literal["secp256k1", "ed25519"]
REPORT_DATA_SIZE: Final = 64
NONCE_SIZE: Final = 32


class EvidenceFailed(ConfideError):
    """This machine gave no evidence, or not for what was asked. Try again later; the text says what happened."""


@dataclass(frozen=True, slots=True)
class Description:
    """Where evidence comes from. ``hardware`` is False for the development PKI, and for nothing else."""

    tee_type: TeeType
    source: Literal["dstack", "configfs-tsm", "development"]
    hardware: bool
    text: str


@dataclass(frozen=True, slots=True)
class KeyProof:
    """What shows that a key was released to this workload only: the provider's signatures over it.

    ``public_key`` is the released key's compressed secp256k1 or raw Ed25519 public key.
    """

    path: str
    purpose: str
    algorithm: KeyAlgorithm
    public_key: bytes
    signature_chain: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class KeyCustody:
    """The proofs of every key that was released by this source so far."""

    provider: Literal["dstack-kms"]
    keys: tuple[KeyProof, ...]


@dataclass(frozen=True, slots=True, repr=False)
class ReleasedKey:
    """A private key of 32 bytes that the platform releases to this workload, with its proof."""

    secret: bytes
    proof: KeyProof


@dataclass(frozen=True, slots=True)
class Evidence:
    """The machine's answer for one ``report_data``.

    ``quote`` is a TDX quote or a SEV-SNP report as the machine gave it. The texts are passed on as they came, because
    verifiers hash them. What a machine does not have is None.
    """

    tee_type: TeeType
    quote: bytes
    report_data: bytes
    event_log: str | None = None
    vm_config: str | None = None
    app_compose: str | None = None
    info: Mapping[str, Any] | None = None
    collateral: TdxCollateral | SnpCertificates | None = None
    key_custody: KeyCustody | None = None


@dataclass(frozen=True, slots=True)
class GpuUnavailable:
    """There is no GPU evidence, and this is why."""

    reason: str


GpuAnswer = Sequence[GpuEvidence] | GpuUnavailable


class EvidenceSource(Protocol):
    """Something that can quote. Failure is :class:`EvidenceFailed`."""

    async def quote(self, report_data: bytes) -> Evidence:
        """Evidence over 64 bytes of the caller's choice."""
        ...

    def describe(self) -> Description:
        """What this source is, without asking it."""
        ...

    async def aclose(self) -> None:
        """Let go of sockets and threads."""
        ...


class GpuSource(Protocol):
    """Something that can ask the GPUs of this machine."""

    async def evidence(self, nonce: bytes) -> GpuAnswer:
        """Evidence of every GPU over 32 bytes of the caller's choice, or why there is none."""
        ...

    async def aclose(self) -> None:
        """Let go of threads."""
        ...


class KeySource(Protocol):
    """A source that also releases keys to this workload."""

    async def key(self, path: str, purpose: str, algorithm: KeyAlgorithm = "secp256k1") -> ReleasedKey:
        """The key for this path: the same one for as long as the workload stays the same."""
        ...


def check_report_data(report_data: bytes) -> None:
    """The caller's mistake, not the machine's."""
    if len(report_data) != REPORT_DATA_SIZE:
        raise ValueError(f"report_data is {REPORT_DATA_SIZE} bytes long, not {len(report_data)}")


def check_nonce(nonce: bytes) -> None:
    """The caller's mistake, not the machine's."""
    if len(nonce) != NONCE_SIZE:
        raise ValueError(f"a GPU nonce is {NONCE_SIZE} bytes long, not {len(nonce)}")
