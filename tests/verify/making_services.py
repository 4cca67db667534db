"""Development reports in other people's formats at a fixed time, made as their servers make them.

Every maker is good in every step; what a test breaks it says in arguments, or does to the JSON that comes out. What a
vendor's key signs over must be right at signing time, so makers take what goes into the quote.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import msgspec

from confide.attest import dev_sign
from confide.attest.dev import DevMachine
from confide.attest.dev_pki import Pki
from confide.identity.legacy import LegacySigner
from confide.verify.context import Context
from confide.verify.material import Item, Material
from confide.verify.policy import DstackPolicy, Policy, TdMeasurement, TdxPolicy
from confide.verify.roots import Root, Roots, development
from confide.verify.saved import Channel, Established, SavedReport
from confide.verify.services.base import Adapter
from confide.verify.verdict import ExitCode, Ledger, Outcome, judge
from confide.wire import legacy
from confide.wire.legacy import Algorithm
from tests.verify import making, snp_maker

NOW: Final = making.NOW
NONCE: Final = making.NONCE
HOST: Final = making.HOST
MODEL: Final = "qwen/qwen3:tee"
TLS: Final = "c0" * 32
OTHER_TLS: Final = "c1" * 32
HPKE: Final = "ab" * 32
SIGNER: Final = LegacySigner(b"\x11" * 32, b"\x12" * 32)
OTHER_SIGNER: Final = LegacySigner(b"\x21" * 32, b"\x22" * 32)
COMPOSE_MANAGER: Final = [
    {"timestamp": "2026-06-04T08:54:25+00:00", "action": "compose_up", "tag": "v1", "file": "model.yaml"},
    {"timestamp": "2026-06-05T08:54:25+00:00", "action": "compose_up", "tag": "v2", "file": "model.yaml"},
]


def machine() -> DevMachine:
    """The development TD that everything here is from."""
    return making.made_machine()


@cache
def collateral() -> Item:
    """What is at hand for its quotes."""
    given = dev_sign.collateral(machine().pki, datetime.fromtimestamp(NOW, UTC))
    return Item("tdx-collateral", "", msgspec.json.encode(msgspec.to_builtins(given)))


@cache
def roots(gpus: int = 3) -> tuple[Root, ...]:
    """The development roots: of the TD, of so many GPUs, and of the SNP guest."""
    pkis: list[Pki] = [machine().pki, *(making.made_pki(number) for number in range(gpus))]
    found = dict.fromkeys(root for pki in pkis for root in development(pki.roots_pem()))
    return (*found, snp_maker.root())


def policy(**members: Any) -> Policy:
    """A policy that accepts the machine's TD and compose file; members replace its own."""
    own: dict[str, Any] = {
        "roots": ("intel", "nvidia"),
        "tdx": TdxPolicy(measurements=(TdMeasurement(mr_td=dev_sign.MR_TD.hex()),)),
        "dstack": DstackPolicy(compose_hashes=(machine().compose_hash.hex(),)),
    }
    return Policy(**own | members)


BOUND: Final = Channel(HOST, tls_spki_sha256=TLS)
ACCEPTING: Final = policy()


@dataclass(frozen=True)
class Case:
    """What a client holds, and what it accepts."""

    value: Any
    nonce: str | None = NONCE
    channel: Channel | None = BOUND
    policy: Policy = ACCEPTING
    items: tuple[Item, ...] = ()
    now: int = NOW
    captured_at: int | None = None
    raw: bytes | None = None

    def but(self, **changes: Any) -> Case:
        """The same with other members."""
        return replace(self, **changes)

    @property
    def document(self) -> bytes:
        """The report's bytes."""
        return msgspec.json.encode(self.value) if self.raw is None else self.raw

    def run(self, adapter: Adapter) -> tuple[Ledger, Established | None]:
        """Verify it."""
        ledger = Ledger()
        items = self.items or (collateral(),)
        context = Context(self.policy, Roots.of(self.policy.roots, roots()), self.now, Material(items))
        saved = SavedReport(self.document, self.nonce, self.channel, captured_at=self.captured_at)
        return ledger, adapter.verify(ledger, context, saved)


def code(ledger: Ledger) -> ExitCode:
    """What a verdict over it would exit with."""
    return ExitCode(judge(ledger, subject="a test", at=NOW, policy="").exit_code)


def failing(ledger: Ledger, *names: str) -> set[str]:
    """The steps of these groups that failed."""
    return {f.step for f in ledger.findings if f.outcome is Outcome.FAIL and f.step.split(".")[0] in names}


def missing(ledger: Ledger, *names: str) -> set[str]:
    """The steps of these groups that were required and could not be made."""
    unmade = (f for f in ledger.findings if f.outcome is Outcome.NOT_CHECKED and f.required)
    return {f.step for f in unmade if f.step.split(".")[0] in names}


# The older surface ---------------------------------------------------------------------------------------------------


def flat(
    algorithm: Algorithm = "ecdsa",
    *,
    signer: LegacySigner = SIGNER,
    tls: str | None = TLS,
    nonce: str = NONCE,
    gpus: int = 1,
    report_data: bytes | None = None,
    gpu_nonce: str | None = None,
    **members: Any,
) -> dict[str, Any]:
    """A flat report without its list. ``members`` replace its own; one that is None is left out."""
    spki = None if tls is None else bytes.fromhex(tls)
    slot = legacy.report_data(signer.address_bytes(algorithm), bytes.fromhex(nonce), spki)
    quote = machine().quote(slot if report_data is None else report_data).hex()
    devices, _ = making.made_gpus(gpus, bytes.fromhex(gpu_nonce or nonce))
    own = {
        "signing_address": signer.address(algorithm),
        "signing_algo": algorithm,
        "request_nonce": nonce,
        "intel_quote": quote,
        "quote": quote,
        "nvidia_payload": legacy.nvidia_payload(nonce, devices, "HOPPER" if gpus else ""),
        "event_log": machine().event_log(),
        "vm_config": machine().vm_config(),
        "info": machine().info(),
        "signing_public_key": signer.public_key(algorithm).hex(),
        "tls_cert_fingerprint": tls,
    }
    return {name: value for name, value in (own | members).items() if value is not None}


def listed(*reports: Mapping[str, Any], **members: Any) -> dict[str, Any]:
    """The answer of a server: the first report, and the list of all of them."""
    return {**reports[0], "all_attestations": [dict(report) for report in reports], **members}


def answer(text: str, algorithm: Algorithm = "ecdsa", signer: LegacySigner = SIGNER, **members: Any) -> dict[str, Any]:
    """The answer of ``GET /v1/signature/{id}``."""
    return {**signer.sign(text).body(algorithm), **members}


# NEAR AI -------------------------------------------------------------------------------------------------------------


def compose_manager(
    *,
    actions: Sequence[Mapping[str, Any]] = COMPOSE_MANAGER,
    nonce: str = NONCE,
    actions_hash: str | None = None,
    is_ordered: bool = True,
    made_by: DevMachine | None = None,
) -> dict[str, Any]:
    """A machine's log of deployments, in the spelling of newer managers or (not ``is_ordered``) of older ones."""
    text = json.dumps(list(actions), separators=(",", ":"), sort_keys=is_ordered, ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest() if actions_hash is None else actions_hash
    slot = bytes.fromhex(digest) + bytes.fromhex(nonce)
    return {
        "actions": list(actions),
        "actions_hash": digest,
        "nonce": nonce,
        "nonce_source": "client",
        "quote": (made_by or machine()).quote(slot).hex(),
        "event_log": machine().event_log(),
        "report_data": slot.hex(),
        "vm_config": machine().vm_config(),
    }


def near_machine(*, signer: LegacySigner = OTHER_SIGNER, tls: str = OTHER_TLS, **members: Any) -> dict[str, Any]:
    """The attestation of a model's machine: its log is a list, and nothing is said twice."""
    own = {
        "model_name": MODEL,
        "quote": None,
        "vm_config": None,
        "event_log": msgspec.json.decode(machine().event_log()),
        "info": {**machine().info(), "tcb_info": msgspec.json.decode(machine().info()["tcb_info"])},
        "compose_manager_attestation": compose_manager(),
    }
    return flat(signer=signer, tls=tls, **(own | members))


def near_gateway(**members: Any) -> dict[str, Any]:
    """A gateway's own attestation: no GPUs and no public key, and the report data beside the quote."""
    slot = legacy.report_data(SIGNER.address_bytes("ecdsa"), bytes.fromhex(NONCE), bytes.fromhex(TLS))
    own = {"nvidia_payload": None, "signing_public_key": None, "report_data_text": slot.hex()}
    made = flat(gpus=0, **(own | members))
    text = made.pop("report_data_text", None)
    return made if text is None else {**made, "report_data": text}


def near(gateway: Mapping[str, Any] | None = None, machines: Sequence[Any] | None = None) -> dict[str, Any]:
    """A gateway's answer."""
    return {
        "gateway_attestation": dict(near_gateway() if gateway is None else gateway),
        "model_attestations": list([near_machine()] if machines is None else machines),
        "tls_certificate": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    }


# Tinfoil -------------------------------------------------------------------------------------------------------------

V3: Final = "https://tinfoil.sh/predicate/attestation/v3"
DERIVATION: Final = "https://tinfoil.sh/report-data/v1"


def tinfoil_gpus(count: int, nonce: str = NONCE) -> list[dict[str, str]]:
    """Evidence of GPUs as the guest's shim writes it."""
    devices, _ = making.made_gpus(count, bytes.fromhex(nonce))
    return [{**device, "nonce": nonce} for device in devices]


def compact(value: Any) -> bytes:
    """JSON as Go's encoder writes it, members in their order."""
    return json.dumps(value, separators=(",", ":")).encode()


def quoted(slot: bytes, platform: str) -> str:
    """Evidence of a TD or of an SNP guest, in base64."""
    if platform == "tdx":
        return base64.b64encode(machine().quote(slot)).decode()
    return base64.b64encode(snp_maker.signed(snp_maker.unsigned(report_data=slot))).decode()


def tinfoil_keys(
    *,
    platform: str = "tdx",
    nonce: str = NONCE,
    gpus: int = 1,
    switches: Sequence[Mapping[str, Any]] = (),
    gpu_hash: str | None = None,
    switch_hash: str | None = None,
    slot: bytes | None = None,
    gpu_nonce: str | None = None,
) -> dict[str, Any]:
    """A document in the layout of keys (April to August 2026)."""
    gpu = {"evidences": tinfoil_gpus(gpus, gpu_nonce or nonce)} if gpus else None
    switch = {"evidences": list(switches), "result_code": 0} if switches else None
    said = {"tls_key_fp": TLS, "hpke_key": HPKE, "nonce": nonce}
    if gpu is not None:
        said["gpu_evidence_hash"] = gpu_hash or hashlib.sha256(compact(gpu)).hexdigest()
    if switch is not None:
        said["nvswitch_evidence_hash"] = switch_hash or hashlib.sha256(compact(switch)).hexdigest()
    made = hashlib.sha256(bytes.fromhex("".join(said.values()))).digest().ljust(64, b"\0")
    document: dict[str, Any] = {
        "format": V3,
        "report_data": said,
        "cpu": {"platform": platform, "report": quoted(made if slot is None else slot, platform)},
    }
    document |= {name: value for name, value in (("gpu", gpu), ("nvswitch", switch)) if value is not None}
    return {**document, "certificate": "-----BEGIN CERTIFICATE-----\n", "signature": "MGYCMQ=="}


def section(kind: str, items: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes of one endorsed section."""
    return compact({"format": f"https://tinfoil.sh/{kind}/v1", "items": list(items)})


def tinfoil_sections(
    *,
    platform: str = "tdx",
    nonce: str = NONCE,
    gpus: int = 1,
    keys: Sequence[Mapping[str, str]] | None = None,
    devices: Sequence[Mapping[str, Any]] = (),
    collateral_entries: Sequence[Mapping[str, Any]] = (),
    slot: bytes | None = None,
    gpu_nonce: str | None = None,
) -> dict[str, Any]:
    """A document in the layout of sections (since August 2026). ``devices`` come after the GPUs."""
    tls = {"id": "tls", "format": "https://tinfoil.sh/key/spki-fp-sha256/v1", "data": TLS}
    hpke = {"id": "hpke", "format": "https://tinfoil.sh/key/x25519-hpke/v1", "data": HPKE}
    known = {"kind": "gpu", "vendor": "nvidia", "format": "https://tinfoil.sh/format/nvidia-gpu-evidence/v1"}
    listed_gpus = [
        {"id": f"gpu{number}", **known, "evidence": gpu}
        for number, gpu in enumerate(tinfoil_gpus(gpus, gpu_nonce or nonce))
    ]
    crypto = section("crypto-material", [tls, hpke] if keys is None else keys)
    device = section("device-evidence", [*listed_gpus, *devices])
    hashes = hashlib.sha256(crypto), hashlib.sha256(device)
    bound = DERIVATION.encode() + bytes.fromhex(nonce) + hashes[0].digest() + hashes[1].digest()
    made = hashlib.sha256(bound).digest().ljust(64, b"\0") if slot is None else slot
    kind = {"tdx": "tdx-quote", "sev-snp": "sev-snp-report"}[platform]
    return {
        "format": V3,
        "challenge": {"nonce": nonce, "report_data": made.hex(), "report_data_algorithm": DERIVATION},
        "cpu_evidence": {
            "format": f"https://tinfoil.sh/format/{kind}/v1",
            "report_base64": quoted(made, platform),
            "endorsed": {
                "crypto_material_hash": hashes[0].hexdigest(),
                "device_evidence_hash": hashes[1].hexdigest(),
            },
        },
        "crypto_material": base64.b64encode(crypto).decode(),
        "device_evidence": base64.b64encode(device).decode(),
        "collateral": [dict(entry) for entry in collateral_entries],
    }


def intel_entry() -> dict[str, Any]:
    """Collateral of the TD as Tinfoil staples it: answers of PCS, as they were captured."""
    given = msgspec.to_builtins(dev_sign.collateral(machine().pki, datetime.fromtimestamp(NOW, UTC)))
    host = "https://api.trustedservices.intel.com"
    tcb = b'{"tcbInfo":' + given["tcb_info"].encode() + b',"signature":"' + given["tcb_info_signature"].encode() + b'"}'
    identity = given["qe_identity"].encode()
    qe = b'{"enclaveIdentity":' + identity + b',"signature":"' + given["qe_identity_signature"].encode() + b'"}'
    answers = (
        ("/tdx/certification/v4/tcb?fmspc=00de70000000", "TCB-Info-Issuer-Chain", "tcb_info_issuer_chain", tcb),
        (
            "/tdx/certification/v4/qe/identity",
            "SGX-Enclave-Identity-Issuer-Chain",
            "qe_identity_issuer_chain",
            qe,
        ),
        (
            "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
            "SGX-PCK-CRL-Issuer-Chain",
            "pck_crl_issuer_chain",
            bytes.fromhex(given["pck_crl"]),
        ),
    )
    responses = [
        {"url": host + path, "headers": {name: [given[chain]]}, "body_base64": base64.b64encode(body).decode()}
        for path, name, chain, body in answers
    ]
    root_crl = base64.b64encode(bytes.fromhex(given["root_ca_crl"])).decode()
    root_url = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    responses.append({"url": root_url, "headers": {}, "body_base64": root_crl})
    return {
        "id": "intel",
        "role": "endorsement",
        "format": "https://tinfoil.sh/collateral/intel-pcs/v1",
        "subjects": ["cpu"],
        "data": {"responses": responses},
    }


def chain_entry() -> dict[str, Any]:
    """The certificates of the SNP guest as Tinfoil staples them."""
    leaf, issuer = (item.data for item in snp_maker.items())
    text = base64.encodebytes(issuer).decode()
    return {
        "id": "vcek",
        "role": "endorsement",
        "format": "https://tinfoil.sh/collateral/amd-vcek/v1",
        "subjects": ["cpu"],
        "data": {
            "vcek_der_base64": base64.b64encode(leaf).decode(),
            "cert_chain_pem": f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n",
        },
    }
