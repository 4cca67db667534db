"""Whole development reports, receipts, sessions and bundles at a fixed time, made as the server makes them.

``made_report()`` is good in every step; each argument of it changes one thing. Nothing here reads the clock.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from confide.attest import dev_sign
from confide.attest.dev import DevMachine
from confide.attest.dev_pki import Pki, create_pki
from confide.identity.identity import Identity, Terms
from confide.identity.roles import EphemeralKeys
from confide.verify.audit import audit
from confide.verify.bundle import Bundle, Exchange
from confide.verify.context import Context
from confide.verify.firstuse import accepting_anything, policy_from
from confide.verify.material import Material
from confide.verify.policy import DstackPolicy, ModelsPolicy, Policy, TdMeasurement, TdxPolicy
from confide.verify.roots import Root, Roots, development
from confide.verify.saved import Channel, Established, SavedReport
from confide.verify.verdict import Ledger, Outcome
from confide.wire import aci, jcs, manifest
from confide.wire.aci import Capabilities, Keyset, SourceProvenance
from confide.wire.receipt import (
    Event,
    Facts,
    ModelManifest,
    RequestForwarded,
    RequestReceived,
    ResponseReturned,
    UpstreamVerified,
)
from confide.wire.session import Claim, Session, TlsBinding, build_session

NOW: Final = 1_790_000_000
NONCE: Final = "5a" * 32
HOST: Final = "inference.example"
MODEL: Final = "tiny"
REQUEST: Final = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}]}'
RESPONSE: Final = b'{"id":"chatcmpl-1","choices":[]}'
MANIFEST: Final = manifest.build(
    [
        manifest.ModelEntry(
            id=MODEL,
            files=(manifest.ModelFile(name="tiny.gguf", role="weights", sha256="11" * 32, size=64),),
            tokenizer="sha256:" + "22" * 32,
            chat_template=None,
            architecture="llama",
            quantisation=manifest.Quantisation(file_type=None, tensors={"Q8_0": 3}),
            context_length=4096,
            engine=manifest.Engine(name="echo", version="1", arguments={}),
            source="a test",
            licence=None,
            aliases=("small",),
        )
    ]
)
IMAGE: Final = "sha256:" + "77" * 32
APP_COMPOSE: Final = msgspec.json.encode(
    {
        "manifest_version": 2,
        "name": "confide",
        "runner": "docker-compose",
        "docker_compose_file": f"services:\n  confide:\n    image: registry.example/confide@{IMAGE}\n",
    }
).decode()
SUBJECT: Final = aci.manifest_subject(MANIFEST.digest())
PROVENANCE: Final = SourceProvenance(
    repo_url="https://git.example/confide", repo_commit="c0ffee" * 6 + "c0ff", image_digest=IMAGE
)


@cache
def made_pki(number: int = 0) -> Pki:
    """A development PKI; other numbers give other ones, and so other GPUs."""
    return create_pki(datetime.fromtimestamp(NOW, UTC))


@cache
def made_machine() -> DevMachine:
    """A development machine that runs :data:`APP_COMPOSE`."""
    return DevMachine(made_pki(), APP_COMPOSE)


@cache
def made_identity(
    subject: str | None = SUBJECT,
    *,
    not_after: int = NOW + 7 * 86400,
    domains: tuple[str, ...] = (HOST,),
    root: int = 1,
) -> Identity:
    """Keys and a keyset."""
    terms = Terms(subject=subject, domains=domains, tls=True)
    return asyncio.run(Identity.create(EphemeralKeys(bytes([root, 2]) * 16), terms, epoch=1, not_after=not_after))


@dataclass(frozen=True)
class Made:
    """A report and everything around it."""

    document: bytes
    nonce: str | None
    identity: Identity
    pki: Pki
    machine: DevMachine
    manifest: bytes | None
    channel: Channel | None
    now: int = NOW
    gpu_pkis: tuple[Pki, ...] = ()
    serving: str = "direct"
    captured_at: int | None = None

    @property
    def keyset(self) -> Keyset:
        """The keyset that the report holds."""
        return self.identity.keyset

    @property
    def value(self) -> dict[str, Any]:
        """The report as JSON, to change and put back with :meth:`but`."""
        report: dict[str, Any] = jcs.parse(self.document)
        return report

    def but(self, value: Mapping[str, Any]) -> Made:
        """The same with another report."""
        return replace(self, document=jcs.canonical(dict(value)))

    def roots(self) -> tuple[Root, ...]:
        """The development roots of the machine and of all its GPUs."""
        found = dict.fromkeys(root for pki in (self.pki, *self.gpu_pkis) for root in development(pki.roots_pem()))
        return tuple(found)

    def saved(self) -> SavedReport:
        """What a client holds."""
        return SavedReport(
            document=self.document,
            nonce=self.nonce,
            channel=self.channel,
            manifest=self.manifest,
            captured_at=self.captured_at,
        )

    def context(
        self, policy: Policy | None = None, *, now: int | None = None, material: Material | None = None
    ) -> Context:
        """What checks may use: a policy that accepts this machine unless another is given."""
        policy = made_policy() if policy is None else policy
        roots = Roots.of(policy.roots, self.roots())
        return Context(policy, roots, self.now if now is None else now, Material() if material is None else material)

    def established(self) -> Established:
        """What a good verification of the report gives."""
        return Established(
            keyset=self.identity.keyset,
            keyset_digest=self.identity.digest,
            manifest=None if self.manifest is None else manifest.parse_manifest(self.manifest),
            e2ee_versions=("2",),
            serving=self.serving,
        )


def made_policy(**members: Any) -> Policy:
    """A policy that accepts the development machine's TD, compose file and manifest; members replace its own."""
    machine = made_machine()
    own: dict[str, Any] = {
        "roots": ("intel", "nvidia"),
        "tdx": TdxPolicy(measurements=(TdMeasurement(mr_td=dev_sign.MR_TD.hex()),)),
        "dstack": DstackPolicy(compose_hashes=(machine.compose_hash.hex(),)),
        "models": ModelsPolicy(manifests=(MANIFEST.digest(),)),
    }
    return Policy(**own | members)


def made_gpus(count: int, nonce: bytes) -> tuple[list[dict[str, str]], tuple[Pki, ...]]:
    """Evidence of distinct GPUs as a report holds it, and the PKIs that issued it."""
    pkis = tuple(made_pki(number) for number in range(count))
    devices = []
    for pki in pkis:
        gpu = dev_sign.gpu_evidence(pki, nonce)
        devices.append(
            {
                "arch": gpu.arch,
                "certificate": base64.b64encode(gpu.certificate).decode(),
                "evidence": base64.b64encode(gpu.evidence).decode(),
            }
        )
    return devices, pkis


def made_report(
    nonce: str | None = NONCE,
    *,
    gpus: int = 0,
    now: int = NOW,
    identity: Identity | None = None,
    provenance: SourceProvenance = PROVENANCE,
    serving: str = "direct",
    tee_type: str = "tdx",
    report_data: bytes | None = None,
    gpu_nonce: bytes | None = None,
    evidence: Mapping[str, Any] | None = None,
    sent: str | None = "as answered",
    channel: Channel | str | None = "tls",
    with_manifest: bool = True,
    captured_at: int | None = None,
    collateral: Mapping[str, Any] | None = None,
) -> Made:
    """A report of the development machine.

    ``sent`` is the nonce that the client remembers, if not the one answered; ``report_data`` and ``gpu_nonce`` replace
    what the quote and the GPUs hold; ``evidence`` replaces members (None removes one); ``collateral`` has arguments of
    :func:`confide.attest.dev_sign.collateral`.
    """
    identity = made_identity() if identity is None else identity
    machine, digest = made_machine(), identity.digest
    slot = aci.report_data_slot(digest, nonce) if report_data is None else report_data
    devices, pkis = made_gpus(gpus, aci.report_data(digest, nonce) if gpu_nonce is None else gpu_nonce)
    members: dict[str, Any] = {
        "quote": machine.quote(slot).hex(),
        "quote_report_data": slot.hex(),
        "source": "development",
        "event_log": machine.event_log(),
        "vm_config": machine.vm_config(),
        "app_compose": machine.app_compose,
        "collateral": msgspec.to_builtins(
            dev_sign.collateral(machine.pki, datetime.fromtimestamp(now, UTC), **(collateral or {}))
        ),
        "gpu": {"status": "available", "devices": devices} if gpus else {"status": "not available", "reason": "no GPU"},
    }
    members = {name: value for name, value in (members | dict(evidence or {})).items() if value is not None}
    report = aci.build_report(
        identity.keyset,
        nonce,
        tee_type=tee_type,
        evidence=members,
        provenance=provenance,
        capabilities=Capabilities(supported_e2ee_versions=("2",), serving=serving),
    )
    return Made(
        document=report.document(),
        nonce=nonce if sent == "as answered" else sent,
        identity=identity,
        pki=machine.pki,
        machine=machine,
        manifest=MANIFEST.document() if with_manifest else None,
        channel=made_channel(identity) if channel == "tls" else channel if isinstance(channel, Channel) else None,
        now=now,
        gpu_pkis=pkis,
        serving=serving,
        captured_at=captured_at,
    )


def made_channel(identity: Identity | None = None, host: str = HOST) -> Channel:
    """TLS with the key of the keyset."""
    keyset = (made_identity() if identity is None else identity).keyset
    assert keyset.tls_public_keys
    return Channel(host=host, tls_spki_sha256=keyset.tls_public_keys[0].spki_sha256)


def made_receipt(
    identity: Identity | None = None,
    *,
    request: bytes = REQUEST,
    response: bytes = RESPONSE,
    forwarded: bytes | None = None,
    model: str | None = MODEL,
    manifest_digest: str | None = MANIFEST.digest(),
    served_at: int = NOW,
    upstreams: Sequence[UpstreamVerified] = (),
    more: Sequence[Event] = (),
) -> bytes:
    """A receipt as the server signs it; ``more`` events come last."""
    events: list[Event] = [RequestReceived(body_hash=jcs.sha256(request))]
    if manifest_digest is not None:
        events.append(ModelManifest(digest=manifest_digest))
    if forwarded is not None:
        events.append(RequestForwarded(body_hash=jcs.sha256(forwarded)))
    events += [*upstreams, ResponseReturned(body_hash=jcs.sha256(response)), *more]
    facts = Facts(
        receipt_id="rcpt-1",
        chat_id="chatcmpl-1",
        model=model,
        endpoint="/v1/chat/completions",
        method="POST",
        served_at=served_at,
        events=tuple(events),
    )
    return (made_identity() if identity is None else identity).sign_receipt(facts)


def made_session(
    *,
    period: tuple[int, int] = (NOW - 60, NOW + 3600),
    claims: dict[str, Claim] | None = None,
    bound: bool = True,
    evidence: bytes = b'{"quote":"00"}',
) -> Session:
    """The record of an upstream that was verified."""
    said = {"tee_attested": Claim(status="asserted", source="hardware_proven", reason="a quote")}
    return build_session(
        upstream_name="upstream",
        endpoint="https://upstream.example",
        verifier_id="test/1",
        period=period,
        bindings=(TlsBinding(origin="https://upstream.example", spki_sha256="d1" * 32),) if bound else (),
        claims=said if claims is None else claims,
        evidence=evidence,
    )


def made_upstream(session: Session | str, *, required: bool = True) -> UpstreamVerified:
    """The event that cites a session."""
    name = session if isinstance(session, str) else session.id()
    return UpstreamVerified(result="verified", required=required, model_id="upstream-model", session_id=name)


def made_exchange(**members: Any) -> Exchange:
    """A request and its answer with a good receipt; members replace its own."""
    given = {"id": "chatcmpl-1", "model": MODEL, "request": REQUEST, "response": RESPONSE, "receipt": made_receipt()}
    return Exchange(**given | members)


def made_bundle(made: Made, *exchanges: Exchange, **members: Any) -> Bundle:
    """What somebody saved of a report and exchanges; members replace its own."""
    given: dict[str, Any] = {
        "captured_at": NOW,
        "url": f"https://{HOST}",
        "report": made.document,
        "nonce": made.nonce,
        "channel": made.channel,
        "manifest": made.manifest,
        "exchanges": exchanges,
    }
    return Bundle(**given | members)


def made_options(folder: Path) -> list[str]:
    """The options of a command for somebody who accepts the development machine, and their files."""
    made = made_report()
    verdict = audit(made_bundle(made), accepting_anything(), now=NOW, development=made.roots())
    (folder / "policy.toml").write_text(policy_from(verdict))
    (folder / "roots.pem").write_bytes(made.pki.roots_pem())
    return ["--policy", str(folder / "policy.toml"), "--insecure-dev-root", str(folder / "roots.pem")]


def failing(ledger: Ledger) -> set[str]:
    """The ids of the steps that failed."""
    return {finding.step for finding in ledger.findings if finding.outcome is Outcome.FAIL}


def missing(ledger: Ledger) -> set[str]:
    """The ids of the steps that were required and could not be made."""
    return {f.step for f in ledger.findings if f.outcome is Outcome.NOT_CHECKED and f.required}


def unmade(ledger: Ledger) -> set[str]:
    """The ids of all steps that were not made, required or not."""
    return {finding.step for finding in ledger.findings if finding.outcome is Outcome.NOT_CHECKED}
