"""What a client fetches to check this server: reports, receipts, keysets, the manifest, and the older surface's two.

Source: Attested Confidential Inference, ``aci/1``, sections 4 and 7.1; the older surface as Phala's and RedPill's
clients use it.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from confide.api.auth import Doorman
from confide.api.older import OlderSurface
from confide.api.seen import Meter, NoMeter
from confide.attest.base import Evidence, EvidenceFailed, GpuAnswer, GpuUnavailable, KeyCustody
from confide.attest.choose import Sources
from confide.errors import InvalidRequest, NotFound, TooManyRequests, Unavailable
from confide.identity.custodian import Custodian
from confide.identity.identity import Identity
from confide.store.receipts import ReceiptStore, StoredReceipt
from confide.wire import aci, legacy
from confide.wire.aci import Capabilities, SourceProvenance

E2EE_VERSIONS: Final = ("2",)


class Throttle:
    """For each client at most ``rate`` per second on average, ``burst`` at once: a quote takes the machine's time.

    Clients are addresses. The longest silent ones are forgotten first, beyond ``most``.
    """

    def __init__(
        self, rate: float, burst: int, *, most: int = 4096, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Take one turn.

        Raises:
            TooManyRequests: there is none left now.
        """
        now = self._clock()
        tokens, at = self._seen.pop(client, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - at) * self._rate)
        self._seen[client] = (max(tokens - 1, 0.0) if tokens >= 1 else tokens, now)
        while len(self._seen) > self._most:
            self._seen.popitem(last=False)
        if tokens < 1:
            raise TooManyRequests(
                "Too many attestation requests. Please try again shortly.",
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )


@dataclass(frozen=True)
class Attestor:
    """Makes reports.

    ``manifest`` is the document that the keyset's subject names; ``stapled`` is collateral for clients without a
    network, where the machine itself gives none.
    """

    custodian: Custodian
    sources: Sources
    manifest: bytes
    provenance: SourceProvenance = field(default_factory=SourceProvenance)
    stapled: Mapping[str, Any] | None = None
    throttle: Throttle = field(default_factory=lambda: Throttle(rate=10, burst=40))
    meter: Meter = field(default_factory=NoMeter)

    async def report(self, nonce: str | None, client: str = "") -> bytes:
        """The report for a nonce: GPUs first, then the quote.

        Raises:
            InvalidRequest: the nonce isn't one.
            TooManyRequests, Unavailable: not now.
        """
        if nonce is not None:
            aci.check_nonce(nonce)
        identity = self.custodian.current
        self.throttle.take(client)
        gpus, evidence = await self._ask(
            aci.report_data(identity.digest, nonce), aci.report_data_slot(identity.digest, nonce)
        )
        report = aci.build_report(
            identity.keyset,
            nonce,
            tee_type=evidence.tee_type,
            evidence=self._evidence(evidence, gpus),
            provenance=self.provenance,
            capabilities=Capabilities(supported_e2ee_versions=E2EE_VERSIONS, serving="direct"),
        )
        self.meter.report_made("aci")
        return report.document()

    async def _ask(self, gpu_nonce: bytes, report_data: bytes) -> tuple[GpuAnswer, Evidence]:
        try:
            gpus = await self.sources.gpu.evidence(gpu_nonce)
            return gpus, await self.sources.evidence.quote(report_data)
        except EvidenceFailed as failed:
            raise Unavailable(f"This machine gives no evidence now: {failed}", headers={"Retry-After": "2"}) from failed

    def _evidence(self, evidence: Evidence, gpus: GpuAnswer) -> dict[str, Any]:
        """Evidence as JSON; what this machine doesn't have isn't there, except the GPUs, whose absence is explained."""
        out: dict[str, Any] = {
            "quote": evidence.quote.hex(),
            "quote_report_data": evidence.report_data.hex(),
            "source": self.sources.evidence.describe().source,
        }
        texts = ("event_log", "vm_config", "app_compose")
        out |= {name: text for name in texts if (text := getattr(evidence, name)) is not None}
        if evidence.collateral is not None:
            out["collateral"] = msgspec.to_builtins(evidence.collateral)
        elif self.stapled is not None:
            out["collateral"] = dict(self.stapled)
        if evidence.key_custody is not None:
            out["key_custody"] = _custody(evidence.key_custody)
        out["gpu"] = _gpu(gpus)
        return out

    async def older_report(self, query: OlderQuery, client: str = "") -> dict[str, Any]:
        """The flat report: the quote holds the signing address and the client's nonce, which the GPUs sign too.

        Raises:
            InvalidRequest, NotFound, TooManyRequests, Unavailable: as above.
        """
        identity = self.custodian.current
        signer, algorithm = identity.legacy, legacy.parse_algorithm(query.signing_algo)
        nonce = secrets.token_bytes(32) if query.nonce is None else legacy.parse_nonce(query.nonce)
        wanted = query.signing_address
        if wanted is not None and not legacy.same_address(wanted, signer.address(algorithm)):
            raise legacy.unknown_address()
        spki = _spki(identity) if query.tls_bound else None
        self.throttle.take(client)
        slot = legacy.report_data(signer.address_bytes(algorithm), nonce, None if spki is None else bytes.fromhex(spki))
        gpus, evidence = await self._ask(nonce, slot)
        self.meter.report_made("older")
        return legacy.FlatReport(
            signing_address=signer.address(algorithm),
            signing_algo=algorithm,
            intel_quote=evidence.quote.hex(),
            quote=evidence.quote.hex(),
            request_nonce=nonce.hex(),
            signing_public_key=signer.public_key(algorithm).hex(),
            nvidia_payload=_nvidia(nonce, gpus),
            event_log=evidence.event_log or "",
            vm_config=evidence.vm_config or "",
            info=dict(evidence.info or {}),
            **({} if spki is None else {"tls_cert_fingerprint": spki}),
        ).body()


@dataclass(frozen=True, slots=True)
class OlderQuery:
    """The query of ``GET /v1/attestation/report``."""

    signing_algo: str | None
    signing_address: str | None
    nonce: str | None
    tls_bound: bool


def _custody(custody: KeyCustody) -> dict[str, Any]:
    keys = [
        {
            "path": key.path,
            "purpose": key.purpose,
            "algorithm": key.algorithm,
            "public_key": key.public_key.hex(),
            "signature_chain": [signature.hex() for signature in key.signature_chain],
        }
        for key in custody.keys
    ]
    return {"provider": custody.provider, "keys": keys}


def _spki(identity: Identity) -> str:
    keys = identity.keyset.tls_public_keys
    if not keys:
        raise NotFound("This server doesn't end TLS itself, so no TLS key is bound to it.", param="version")
    return keys[0].spki_sha256


def _gpu(gpus: GpuAnswer) -> dict[str, Any]:
    if isinstance(gpus, GpuUnavailable):
        return {"status": "not available", "reason": gpus.reason}
    return {"status": "available", "devices": [_device(gpu) for gpu in gpus]}


def _device(gpu: Any) -> dict[str, str]:
    return {
        "arch": gpu.arch,
        "certificate": base64.b64encode(gpu.certificate).decode(),
        "evidence": base64.b64encode(gpu.evidence).decode(),
    }


def _nvidia(nonce: bytes, gpus: GpuAnswer) -> str:
    if isinstance(gpus, GpuUnavailable):
        return legacy.nvidia_payload(nonce.hex(), [], "")
    devices = [_device(gpu) for gpu in gpus]
    return legacy.nvidia_payload(nonce.hex(), devices, devices[0]["arch"] if devices else "")


# Routes --------------------------------------------------------------------------------------------------------------


class AttestationRoutes:
    """The routes over an attestor and the store of receipts."""

    def __init__(self, doorman: Doorman, attestor: Attestor, receipts: ReceiptStore, older: OlderSurface) -> None:
        self._doorman = doorman
        self._attestor = attestor
        self._receipts = receipts
        self._older = older

    def table(self) -> list[BaseRoute]:
        """The routes. Reports, keysets and the manifest are open: who checks a server has no key yet."""
        return [
            Route("/v1/aci/attestation", self.report, methods=["GET"]),
            Route("/v1/aci/receipts/{id}", self.receipt, methods=["GET"]),
            Route("/v1/aci/keysets/{digest}", self.keyset, methods=["GET"]),
            Route("/v1/aci/manifest", self.manifest, methods=["GET"]),
            Route("/v1/attestation/report", self.older_report, methods=["GET"]),
            Route("/v1/signature/{id}", self.older_signature, methods=["GET"]),
        ]

    async def report(self, request: Request) -> Response:
        """``GET /v1/aci/attestation?nonce=``."""
        return _json(await self._attestor.report(_nonce(request), _client(request)))

    async def manifest(self, _: Request) -> Response:
        """``GET /v1/aci/manifest``: the exact bytes that its digest is of."""
        return _json(self._attestor.manifest)

    async def keyset(self, request: Request) -> Response:
        """``GET /v1/aci/keysets/{digest}``: one that receipts were signed under, current or archived."""
        document = await asyncio.to_thread(self._receipts.keyset, request.path_params["digest"])
        if document is None:
            raise NotFound("No keyset with this digest was ever used here.", type="not_found")
        return _json(document)

    async def receipt(self, request: Request) -> Response:
        """``GET /v1/aci/receipts/{id}``, by receipt id or response id, for the key that made the request."""
        found = await self._find(request)
        if found is None:
            raise NotFound("No receipt with this id.", type="not_found")
        return _json(found.document)

    async def older_signature(self, request: Request) -> Response:
        """``GET /v1/signature/{id}?signing_algo=``."""
        found = await self._find(request)
        if found is None:
            raise legacy.unknown_chat()
        algorithm = legacy.parse_algorithm(request.query_params.get("signing_algo"))
        proof = await self._older.proof(found)
        return _json(msgspec.json.encode(proof.body(algorithm)))

    async def older_report(self, request: Request) -> Response:
        """``GET /v1/attestation/report``."""
        query = request.query_params
        bound = query.get("version") == "2" or query.get("include_tls_fingerprint", "").lower() == "true"
        asked = OlderQuery(query.get("signing_algo"), query.get("signing_address"), _nonce(request), bound)
        return _json(msgspec.json.encode(await self._attestor.older_report(asked, _client(request))))

    async def _find(self, request: Request) -> StoredReceipt | None:
        """A receipt, if it is the caller's: somebody else's doesn't exist."""
        caller = self._doorman.caller(request.headers)
        found = await asyncio.to_thread(self._receipts.find, request.path_params["id"], owner=caller.owner)
        return found if found is not None and found.owner in (None, caller.owner) else None


def _nonce(request: Request) -> str | None:
    """The one nonce: of two, somebody on the way may have read the other."""
    given = request.query_params.getlist("nonce")
    if len(given) > 1:
        raise InvalidRequest("'nonce' was given twice.", param="nonce")
    return given[0] if given else None


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _client(request: Request) -> str:
    """Whom to throttle: the address of the connection, as headers can say anything."""
    return request.client.host if request.client else ""
