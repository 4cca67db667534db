"""The composition root: builds every object once, in order, runs the server, and closes them in reverse."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from confide import config, logs, observing, serving_models
from confide.api.app import ApiParts, build
from confide.api.attestation import Attestor
from confide.api.auth import Doorman
from confide.api.chat import ChatLimits
from confide.api.images import ImagePolicy
from confide.api.page import Page
from confide.api.proof import Prover
from confide.api.vision import ImageRules
from confide.attest.choose import Places, Sources, choose
from confide.config import Settings
from confide.errors import ConfideError, ConfigError
from confide.identity.custodian import Custodian
from confide.identity.identity import Terms
from confide.identity.roles import EphemeralKeys
from confide.listening import Server, Stages, base_url, bind, ending_on_signals, run_loop
from confide.observing import Board, Observer
from confide.route.models import ModelTable, ServedModel
from confide.serving_models import Models, Prepared, Secrets
from confide.store import open as stores
from confide.store.base import Database
from confide.store.receipts import ReceiptWriter
from confide.wire.aci import SourceProvenance, manifest_subject
from confide.workers import run_workers

log = logging.getLogger("confide.server")

REFRESH_SECONDS: Final = 5.0
PRUNE_SECONDS: Final = 3600.0
ORDER_SECONDS: Final = 60.0
DAY: Final = 24 * 3600
MOST_COLLATERAL: Final = 4 * 1024 * 1024


def run(settings: Settings, models: Models, *, on_ready: Callable[[str], None]) -> int:
    """Serve until a signal; returns the exit code.

    Args:
        settings: validated settings.
        models: what to serve, already on disk and verified.
        on_ready: called with the base URL when requests can come.

    Raises:
        OperatorError: there is no TEE as the settings ask for, the address can't be bound, a model can't be loaded or
            isn't the one of the manifest, an engine can't be reached or started, the store can't be opened.
    """
    config.prepare_for_engine()
    listener = bind(settings.host, settings.port)
    ready = partial(on_ready, base_url(settings.host, listener, tls=settings.tls))
    board = observing.board(settings, [model.id or (local.id if local else "") for model, local in models])
    shared = Shared(EphemeralKeys(), listener, board)
    if settings.workers == 1:
        serve(settings, models, shared, 0, ready)
        return 0
    return run_workers(partial(_worker, settings, models, shared), settings.workers, on_ready=ready)


@dataclass(frozen=True)
class Shared:
    """What all processes of a server have together: one root of keys, so that they have one keyset; the listener; and
    what they count."""

    keys: EphemeralKeys
    listener: socket.socket
    board: Board | None


def _worker(settings: Settings, models: Models, shared: Shared, number: int, ready: Callable[[], object]) -> None:
    """One of several processes: each has models and store connections of its own."""
    config.prepare_for_engine()
    serve(settings, models, shared, number, ready)


def serve(
    settings: Settings,
    models: Models,
    shared: Shared,
    number: int,
    ready: Callable[[], object],
) -> None:
    """Serve in this process, one of several with numbers from 0, until a signal."""
    logs.setup(settings.log_level)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold prompts and keys
    sources = choose(settings.tee, Places(settings.data_dir))
    database = stores.database(settings.database_url(), settings.store_file)
    prepared = serving_models.prepared(settings, models)  # outside of the loop: whole files are read
    run_loop(_serve(settings, prepared, shared, number, sources, database, ready))


async def _serve(
    settings: Settings,
    models: Sequence[Prepared],
    shared: Shared,
    number: int,
    sources: Sources,
    database: Database,
    ready: Callable[[], object],
) -> None:
    """Engines first, since they know their versions; then the manifest, which all keys are bound to; then the rest."""
    observer = Observer(shared.board, number)
    async with AsyncExitStack() as closing:
        secrets = await _secrets(shared.keys)
        with ending_on_signals():
            opened = await serving_models.opened(models, secrets, closing)
        manifest = serving_models.manifest_of(settings, opened)
        store = closing.enter_context(stores.opened(database, settings.api_keys))
        terms = Terms(manifest_subject(manifest.digest()), settings.tls_domains, settings.tls)
        context = _tls_context() if settings.tls else None
        custodian = Custodian(
            sources.keys or shared.keys, terms, store.writer, clock=time.time, period=settings.key_period
        )
        hardware = sources.evidence.describe().hardware
        served = [model.served(is_tee=hardware) for model in opened]
        prover = Prover(
            custodian,
            observer.sink(store.writer),
            manifest=manifest.digest(),
            clock=time.time,
            model_in_text=settings.signature_model,
        )
        evidence = (manifest.document(), provenance(settings), stapled_collateral(settings))
        images = image_rules(settings)
        app = build(
            ApiParts(
                models=ModelTable(served),
                doorman=Doorman(store.keys.find if settings.auth else None),
                prover=prover,
                attestor=Attestor(custodian, sources, *evidence, meter=observer.meter),
                receipts=store.receipts,
                limits=ChatLimits(settings.max_body_bytes, settings.keep_alive),
                images=images,
                cors_origins=settings.cors_origins,
                meter=observer.meter,
                page=Page.load(sources.development_roots) if settings.page else None,
            )
        )
        house = _House(settings, custodian, store.writer, sources, served, images, context)
        await closing.enter_async_context(observer.telling(served))
        stages = Stages(start=house.start, ready=ready, end_answers=house.end_answers, close=house.close)
        await Server(app, stages, context).serve(sockets=[shared.listener])


def _tls_context() -> ssl.SSLContext:
    from confide.tls import server_context

    return server_context()


async def _secrets(keys: EphemeralKeys) -> Secrets:
    """For what tenants share in engines. Not from the platform's keys: each of those is told in all evidence."""
    salts, affinity = [await keys.key(f"confide/{use}", use) for use in ("prefix-cache", "affinity")]
    return Secrets(salts.secret, affinity.secret)


class _House:
    """What lives on the server's loop."""

    def __init__(
        self,
        settings: Settings,
        custodian: Custodian,
        writer: ReceiptWriter,
        sources: Sources,
        served: Sequence[ServedModel],
        images: ImageRules,
        context: ssl.SSLContext | None,
    ) -> None:
        self._settings = settings
        self._custodian = custodian
        self._writer = writer
        self._sources = sources
        self._served = served
        self._images = images
        self._context = context
        self._chores: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Have keys before the first request; then keep them and the store in order."""
        identity = await self._custodian.refresh()
        self._chores = [
            asyncio.create_task(_repeat("keys", self._custodian.refresh, REFRESH_SECONDS)),
            asyncio.create_task(_repeat("retention", self._prune, PRUNE_SECONDS)),
        ]
        if self._context is not None:
            self._chores += self._tls(self._context, identity.tls)

    def _tls(self, context: ssl.SSLContext, key: EllipticCurvePrivateKey) -> list[asyncio.Task[None]]:
        """Keep the certificate fresh; the key stays the same."""
        from confide.tls import ServerTls

        settings = self._settings
        ordered = settings.data_dir / "tls.pem"
        file = ordered if settings.tls_acme else settings.tls_certificate
        tls = ServerTls(context, key, domains=settings.tls_domains, certificate=file, interim=bool(settings.tls_acme))
        chores = [asyncio.create_task(_repeat("tls", tls.refresh, REFRESH_SECONDS))]
        if settings.tls_acme:
            from confide.acme import Authority, Renewal

            authority = Authority(settings.tls_acme, settings.tls_acme_contact, port=settings.tls_acme_port)
            renewal = Renewal(authority, key, settings.tls_domains, ordered)
            chores.append(asyncio.create_task(_repeat("acme", renewal.refresh, ORDER_SECONDS)))
        return chores

    async def _prune(self) -> None:
        await self._writer.prune(now=int(time.time()), keep_seconds=self._settings.receipt_days * DAY)

    async def end_answers(self) -> None:
        """End what the engines are doing; each answer ends as an error, with its receipt."""
        for model in self._served:
            await model.engine.close()

    async def close(self) -> None:
        """Stop the chores and let go of sockets."""
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self._sources.aclose()
        if self._images.fetcher is not None:
            await self._images.fetcher.aclose()


async def _repeat(what: str, chore: Callable[[], object], seconds: float) -> None:
    """Do a chore again and again; one failure is logged and doesn't end it."""
    while True:
        try:
            result = chore()
            if asyncio.iscoroutine(result):
                await result
        except Exception as error:  # noqa: BLE001 - a chore that ended for good would be noticed when keys expire
            log.error("a chore failed", extra={"what": what, "reason": _reason(error), "error": type(error).__name__})  # noqa: TRY400
        await asyncio.sleep(seconds)


def _reason(error: Exception) -> str:
    """What may be told: our own exceptions hold no content."""
    return str(error) if isinstance(error, ConfideError) else ""


def provenance(settings: Settings) -> SourceProvenance:
    """Where the code is said to come from."""
    return SourceProvenance(
        repo_url=settings.repo_url, repo_commit=settings.repo_commit, image_digest=settings.image_digest
    )


def stapled_collateral(settings: Settings) -> dict[str, Any] | None:
    """The operator's collateral for reports.

    Raises:
        ConfigError: the file can't be read, is over 4 MiB, or isn't a JSON object.
    """
    if settings.collateral is None:
        return None
    try:
        data = settings.collateral.read_bytes()
        if len(data) > MOST_COLLATERAL:
            raise ConfigError(f"{settings.collateral}: more than {MOST_COLLATERAL} bytes")
        return msgspec.json.decode(data, type=dict[str, Any])
    except OSError as error:
        raise ConfigError(f"{settings.collateral}: can't be read: {error.strerror or error}") from None
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{settings.collateral}: expected a JSON object: {error}") from None


def image_rules(settings: Settings) -> ImageRules:
    """What images may be, by the settings."""
    policy = ImagePolicy(
        max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels, allow_urls=settings.fetch_images
    )
    if not settings.fetch_images:
        return ImageRules(policy)
    from confide.api.fetch import PinnedFetcher

    return ImageRules(policy, PinnedFetcher())
