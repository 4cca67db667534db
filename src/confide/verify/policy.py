"""The policy: what a person accepts. A TOML file or a Python object; one that accepts anything is an error.

Three questions are kept apart: ``wire`` says what is well-formed, the modules beside this one say what is genuine,
and a policy says what is wanted. What is never acceptable (a TD that can be debugged, evidence for another nonce, a
token without a signature) is not an option here.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, field

from confide.errors import OperatorError
from confide.verify.roots import Vendor
from confide.wire import jcs
from confide.wire.documents import Digest, Hex32, Name, Text

VERSION: Final = 1
MOST_BYTES: Final = 1 << 20

Hex48 = Annotated[str, Meta(pattern=r"^[0-9a-f]{96}\Z")]
Hex20 = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}\Z")]
Days = Annotated[int, Meta(ge=0, le=36500)]
Count = Annotated[int, Meta(ge=0, le=1024)]
Svn = Annotated[int, Meta(ge=0, le=255)]
TcbStatus = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]
ClaimName = Literal[
    "tee_attested",
    "gpu_attested",
    "tcb_up_to_date",
    "os_known_good",
    "serving_software_known_good",
    "model_weights_provenance",
]
ClaimSource = Literal["hardware_proven", "verifier_derived", "provider_asserted", "operator_asserted"]


class PolicyError(OperatorError):
    """A policy that cannot be used; the text names the member and what to do."""

    exit_code = 2


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class TdMeasurement(_Part, frozen=True):
    """One TD that is accepted: every register that is named must be equal. ``note`` is for people."""

    mr_td: Hex48 | None = None
    mr_seam: Hex48 | None = None
    mr_config_id: Hex48 | None = None
    rtmr0: Hex48 | None = None
    rtmr1: Hex48 | None = None
    rtmr2: Hex48 | None = None
    rtmr3: Hex48 | None = None
    note: Text = ""


class TdxPolicy(_Part, frozen=True):
    """Intel TDX. ``advisories`` are tolerated, any other is refused; ``grace_days`` is for platforms and quoting
    enclaves whose TCB fell behind lately, and counts only for statuses that are accepted."""

    statuses: tuple[TcbStatus, ...] = ("UpToDate",)
    advisories: tuple[Name, ...] = ()
    grace_days: Days = 0
    minimum_evaluation_number: Annotated[int, Meta(ge=0)] = 0
    dynamic_platform: bool = True
    cached_keys: bool = True
    smt: bool = True
    perfmon: bool = False
    measurements: tuple[TdMeasurement, ...] = ()


class SnpMeasurement(_Part, frozen=True):
    """One SEV-SNP guest that is accepted: every member that is named must be equal."""

    measurement: Hex48
    host_data: Hex32 | None = None
    id_key_digest: Hex48 | None = None
    note: Text = ""


class SnpTcb(_Part, frozen=True):
    """The least security versions, of the reported, committed, current and launch TCB alike."""

    fmc: Svn = 0
    bootloader: Svn = 0
    tee: Svn = 0
    snp: Svn = 0
    microcode: Svn = 0


class SnpPolicy(_Part, frozen=True):
    """AMD SEV-SNP. ``vlek`` accepts keys that a cloud provider loaded, which do not name the chip."""

    vlek: bool = False
    smt: bool = True
    migration_agent: bool = False
    most_privileged_only: bool = True
    minimum_tcb: SnpTcb = SnpTcb()
    measurements: tuple[SnpMeasurement, ...] = ()


class DstackPolicy(_Part, frozen=True):
    """dstack: what was deployed, on which OS image, and whose KMS releases its keys.

    ``key_providers`` holds hex of two kinds: the id that dstack measures (the SPKI of the KMS's CA), and the KMS's
    secp256k1 root key, at which the signatures over released keys end. Naming a root makes custody required.
    """

    compose_hashes: tuple[Hex32, ...] = ()
    os_images: tuple[Hex32, ...] = ()
    app_ids: tuple[Hex20, ...] = ()
    key_providers: tuple[Annotated[str, Meta(pattern=r"^([0-9a-f]{2}){1,256}\Z")], ...] = ()


class GpuPolicy(_Part, frozen=True):
    """GPUs. ``measurements`` demands that they equal NVIDIA's reference values; without it the claim is only that
    genuine GPUs signed the nonce. ``nras`` demands a token of NVIDIA's service as well."""

    required: bool = False
    count: Count | None = None
    switches: Count | None = None
    architectures: tuple[Name, ...] = ()
    drivers: tuple[Name, ...] = ()
    measurements: bool = False
    nras: bool = False


class ModelsPolicy(_Part, frozen=True):
    """The manifests of models that are accepted."""

    manifests: tuple[Digest, ...] = ()


class ProvenancePolicy(_Part, frozen=True):
    """Where the code must come from. A repository counts where a measured image digest backs it (ACI 9.1, 4)."""

    repositories: tuple[Text, ...] = ()
    commits: tuple[Text, ...] = ()
    images: tuple[Digest, ...] = ()


class KeysPolicy(_Part, frozen=True):
    """The keyset. ``custody`` demands proof of who released the private keys; ``longest_days`` bounds how far in the
    future ``not_after`` may lie; ``subjects`` are those accepted, any where there are none."""

    custody: bool = False
    longest_days: Days = 400
    subjects: tuple[Text, ...] = ()


class ChannelPolicy(_Part, frozen=True):
    """The channel. ``tls`` demands that the TLS key is in the keyset; ``sealed`` that requests are encrypted end to
    end. ``either`` is satisfied by one of them."""

    require: Literal["either", "tls", "sealed", "both"] = "either"


class ReceiptsPolicy(_Part, frozen=True):
    """Receipts. ``rewritten`` tolerates a request that was forwarded with other bytes than received."""

    rewritten: bool = False


class SessionsPolicy(_Part, frozen=True):
    """Upstreams of an aggregator: every answer must cite a verified session whose claims satisfy ``claims``."""

    required: bool = True
    claims: dict[ClaimName, tuple[ClaimSource, ...]] = field(
        default_factory=lambda: {"tee_attested": ("hardware_proven", "verifier_derived")}
    )


class AgePolicy(_Part, frozen=True):
    """How old saved evidence may be when it is audited, compared with its own time of capture."""

    report_days: Days | None = None


class Policy(_Part, frozen=True):
    """Everything that one relying party accepts.

    ``trust`` is "first use" where a program wrote down what it saw and nobody has looked at it yet. Something must say
    which workload is accepted: measurements, compose hashes, OS images, manifests or images; only
    ``unsafe_any_workload`` lets every workload on genuine hardware pass, and its name says what that is.
    """

    version: Literal[1] = 1
    name: Name = "policy"
    trust: Literal["reviewed", "first use"] = "reviewed"
    roots: tuple[Vendor, ...] = ()
    unsafe_any_workload: bool = False
    tdx: TdxPolicy = TdxPolicy()
    snp: SnpPolicy = SnpPolicy()
    dstack: DstackPolicy = DstackPolicy()
    gpu: GpuPolicy = GpuPolicy()
    models: ModelsPolicy = ModelsPolicy()
    provenance: ProvenancePolicy = ProvenancePolicy()
    keys: KeysPolicy = KeysPolicy()
    channel: ChannelPolicy = ChannelPolicy()
    receipts: ReceiptsPolicy = ReceiptsPolicy()
    sessions: SessionsPolicy = SessionsPolicy()
    age: AgePolicy = AgePolicy()
    claims: dict[ClaimName, tuple[ClaimSource, ...]] = {}

    @property
    def names_workload(self) -> bool:
        """Whether it says which workload is accepted."""
        return bool(
            self.tdx.measurements
            or self.snp.measurements
            or self.dstack.compose_hashes
            or self.dstack.os_images
            or self.models.manifests
            or self.provenance.images
        )

    def digest(self) -> str:
        """What a verdict names: SHA-256 over the canonical JSON of every member, defaults left out."""
        return jcs.sha256(jcs.canonical(vars_of(self)))


def check(policy: Policy) -> Policy:
    """The policy, if it says enough to be one.

    Raises:
        PolicyError: it accepts no root, or any workload without saying so, or contradicts itself.
    """
    if not policy.roots:
        raise PolicyError('the policy accepts no root: name the vendors, as in roots = ["intel", "nvidia"]')
    if not policy.names_workload and not policy.unsafe_any_workload:
        raise PolicyError(
            "the policy does not say which workload it accepts: give measurements, compose hashes, OS images, "
            "manifests or image digests (`confide policy init URL` writes down what a service shows now)"
        )
    if any(set(vars_of(one)) <= {"note"} for one in policy.tdx.measurements):
        raise PolicyError("tdx.measurements: an entry names no register, and so would accept every TD")
    if policy.gpu.required and "nvidia" not in policy.roots:
        raise PolicyError('gpu.required needs "nvidia" among the roots')
    if policy.gpu.required and policy.gpu.count == 0:
        raise PolicyError("gpu.required and gpu.count = 0 contradict each other")
    if any(not sources for sources in (*policy.claims.values(), *policy.sessions.claims.values())):
        raise PolicyError("a required claim accepts no source, so that nothing could satisfy it")
    return policy


def vars_of(part: Struct) -> dict[str, Any]:
    """The members of a part that differ from their defaults, as JSON values."""
    members: dict[str, Any] = {}
    for member in msgspec.structs.fields(part):
        value = getattr(part, member.name)
        default = member.default if member.default is not msgspec.NODEFAULT else member.default_factory
        if value != (default() if callable(default) else default):
            members[member.name] = _plain(value)
    return members


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return vars_of(value) if isinstance(value, Struct) else msgspec.to_builtins(value)


def parse_policy(text: str | bytes, where: str = "the policy") -> Policy:
    """A policy from the text of its TOML file.

    Raises:
        PolicyError: it is no TOML, has members that are not known here, or says too little.
    """
    try:
        value = tomllib.loads(text.decode() if isinstance(text, bytes) else text)
        return check(msgspec.convert(value, Policy))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError, RecursionError) as wrong:
        raise PolicyError(f"{where}: {wrong}") from None


def read_policy(path: Path) -> Policy:
    """A policy from a file.

    Raises:
        PolicyError: it cannot be read or used.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as failed:
        raise PolicyError(f"the policy {path} can't be read: {failed.strerror}") from failed
    if len(text) > MOST_BYTES:
        raise PolicyError(f"the policy {path} is longer than {MOST_BYTES} bytes")
    return parse_policy(text, str(path))
