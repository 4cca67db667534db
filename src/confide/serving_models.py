"""From the settings of models to engines that answer, and to what the manifest says of them; part of the composition.

What only some kinds of engines need is imported where one is opened, at start: it is a third of a server's memory.

Order matters: files are read and checked before an engine gets them; engines in processes of their own are opened
before the manifest is made, since only they know their version; the embedded engine loads after it was checked.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from confide import config
from confide.config import ModelSettings, Settings
from confide.engine import files
from confide.engine import manifest as engine_manifest
from confide.engine.base import Engine, EngineInfo
from confide.engine.embeddedmodel import EmbeddedModel
from confide.engine.pull import LocalModel
from confide.engine.remote import describe
from confide.engine.remote.address import parse_address
from confide.engine.remote.describe import Measured
from confide.engine.remote.engine import RemoteEngine, RemoteModel, Timeouts
from confide.engine.remote.late import LateEngine
from confide.engine.remote.launch import LAUNCHES, ChildProgram
from confide.errors import ConfigError, OperatorError
from confide.route.models import FREE, ServedModel
from confide.route.replicas import Replica, Replicas
from confide.route.shared import common
from confide.secret import one_line
from confide.wire.manifest import Entry, Manifest

log = logging.getLogger("confide.models")

Models = Sequence[tuple[ModelSettings, LocalModel | None]]
"""What to serve; a model with an engine of its own has no file of ours."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """The same in all processes of this server: for the salts of prefix caches, and for the hashes of conversations."""

    salts: bytes
    affinity: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """A model whose engine is there, or can be loaded now. ``load`` may be called once."""

    settings: ModelSettings
    local: LocalModel | None
    entry: Entry
    load: Callable[[], Engine]

    def served(self, *, is_tee: bool) -> ServedModel:
        """As it is routed to and listed; an embedded engine loads, which takes seconds."""
        local = self.local
        return ServedModel(
            id=self.entry.id,
            engine=self.load(),
            name=self.settings.name or (local.name if local else self.entry.id),
            description=self.settings.description or (local.description if local else None) or "",
            aliases=self.settings.aliases,
            pricing=FREE | (self.settings.pricing or {}),
            is_tee=is_tee,
        )


class Prepared(Protocol):
    """A model whose files were read."""

    async def open(self, secrets: Secrets, closing: AsyncExitStack) -> Opened:
        """Have its engine, unless that is in this process and loads later."""
        ...


def prepared(settings: Settings, models: Models) -> list[Prepared]:
    """Read the files of all models, from end to end, and check those that another process will read.

    Raises:
        OperatorError: a file can't be read, or isn't the one of the manifest.
    """
    return [_prepared(settings, model, local) for model, local in models]


async def opened(models: Sequence[Prepared], secrets: Secrets, closing: AsyncExitStack) -> list[Opened]:
    """Open all engines that aren't in this process, at once.

    Args:
        models: what to serve, in this order.
        secrets: for engines that are shared by tenants.
        closing: closes what was opened.

    Raises:
        OperatorError: an engine doesn't start, or none of a model's can be reached.
    """
    opening = [asyncio.ensure_future(one.open(secrets, closing)) for one in models]
    try:
        return await asyncio.gather(*opening)
    finally:
        for one in opening:
            one.cancel()
        await asyncio.gather(*opening, return_exceptions=True)


def manifest_of(settings: Settings, models: Sequence[Opened]) -> Manifest:
    """The manifest of what is served; checked against the one that the settings name.

    Raises:
        OperatorError: a file isn't the one of that manifest, or an engine another one.
    """
    built = engine_manifest.build(model.entry for model in models)
    if settings.manifest is not None:
        engine_manifest.check(settings.manifest, built)
    return built


def _prepared(settings: Settings, model: ModelSettings, local: LocalModel | None) -> Prepared:
    if local is not None:
        return _embedded(settings, model, local)
    if model.engine is not None:
        return _child(settings, model)
    return _Attached(model, None if model.api_key_file is None else one_line(model.api_key_file, "an API key"))


# In this process -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Embedded:
    opened: Opened

    async def open(self, secrets: Secrets, closing: AsyncExitStack) -> Opened:
        """Nothing is to be done yet: the library must not read the files before the manifest was checked."""
        return self.opened


def _embedded(settings: Settings, model: ModelSettings, local: LocalModel) -> _Embedded:
    from confide.engine.embedded import EmbeddedEngine

    arguments = EmbeddedModel(
        path=local.path,
        projector=local.projector,
        slots=model.slots,
        context_length=model.context_length,
        threads=model.threads,
        max_queue=settings.max_queue,
        queue_timeout=settings.queue_timeout,
        created=int(time.time()),
    )
    source = model.source or str(local.path)
    entry = engine_manifest.describe(
        local, id=model.id or local.id, source=source, aliases=model.aliases, arguments=arguments
    )
    return _Embedded(Opened(model, local, entry, partial(EmbeddedEngine, arguments)))


# Attached ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Attached:
    model: ModelSettings
    api_key: str | None

    async def open(self, secrets: Secrets, closing: AsyncExitStack) -> Opened:
        """Open all replicas; those that are down come later, if one is up."""
        model = self.model
        for url in model.urls:
            if describe.way(url) == "http":
                log.warning("an engine is reached over a network in the clear", extra={"what": model.id})
        key = self.api_key
        opens = [partial(_open, model, url, secrets, model.dialect, model.upstream_model, key) for url in model.urls]
        info, engines = await _open_all(opens, model)
        for engine in engines:
            closing.push_async_callback(engine.close)
        entry = describe.attached(id=model.id or "", aliases=model.aliases, info=info, urls=model.urls)
        return Opened(model, None, entry, lambda: engines[0] if len(engines) == 1 else self._together(engines, secrets))

    def _together(self, engines: Sequence[Engine], secrets: Secrets) -> Replicas:
        replicas = Replicas(
            [Replica(engine, name=url) for engine, url in zip(engines, self.model.urls, strict=True)],
            secret=secrets.affinity,
            clock=time.monotonic,
            random=random.random,
        )
        replicas.start()
        return replicas


_Open = Callable[[], Awaitable[RemoteEngine]]


async def _open_all(opens: Sequence[_Open], model: ModelSettings) -> tuple[EngineInfo, list[Engine]]:
    """Every replica, and what all that are up have; where one is, those that are down are opened later.

    Raises:
        OperatorError: none is up, one can't be used as it is set up, or they aren't replicas of each other.
    """
    outcomes = await asyncio.gather(*(one() for one in opens), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, ConfigError):  # our key is refused, or the model isn't there: that won't pass by itself
            raise ConfigError(f"model {model.id}: {outcome}")
        if isinstance(outcome, BaseException) and not isinstance(outcome, OperatorError):
            raise outcome
    up = [outcome.info for outcome in outcomes if not isinstance(outcome, BaseException)]
    if not up:
        reasons = {str(outcome): None for outcome in outcomes}
        raise OperatorError(f"model {model.id}: no engine can be used: {'; '.join(reasons)}")
    info = common(up)
    engines: list[Engine] = []
    for number, (outcome, open_engine) in enumerate(zip(outcomes, opens, strict=True)):
        if not isinstance(outcome, BaseException):
            engines.append(outcome)
        else:
            log.warning("a replica is down", extra={"what": f"{model.id} replica {number}", "reason": str(outcome)})
            engines.append(LateEngine(open_engine, info))
    return info, engines


async def _open(
    model: ModelSettings, url: str, secrets: Secrets, dialect: str, upstream: str | None, api_key: str | None
) -> RemoteEngine:
    return await RemoteEngine.open(
        RemoteModel(
            address=parse_address(url),
            dialect=dialect,
            model=upstream,
            timeouts=Timeouts(
                connect=model.connect_timeout,
                first=model.first_token_timeout,
                between=model.between_tokens_timeout,
                total=model.total_timeout,
            ),
            api_key=api_key,
            salt_secret=secrets.salts,
            max_outstanding=model.max_outstanding,
            context_length=model.context_length,
            vision=model.vision,
            created=int(time.time()),
        )
    )


# Started by us -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Child:
    model: ModelSettings
    program: ChildProgram
    measured: Measured

    async def open(self, secrets: Secrets, closing: AsyncExitStack) -> Opened:
        """Start it, wait until it is ready, and ask it for its version."""
        from confide.engine.remote.child import Child

        child = Child(self.program)
        closing.push_async_callback(child.close)
        await child.start()
        program = self.program
        upstream = program.name if LAUNCHES[program.engine].named else str(program.weights)
        engine = await _open(self.model, child.url, secrets, program.engine, upstream, None)
        closing.push_async_callback(engine.close)
        return Opened(self.model, None, _entry(self, child.url, engine.info), lambda: engine)


def _entry(child: _Child, url: str, info: EngineInfo) -> Entry:
    return describe.child(
        child.program,
        child.measured,
        aliases=child.model.aliases,
        url=url,
        engine=info.engine,
        version=info.version,
    )


def _child(settings: Settings, model: ModelSettings) -> _Child:
    program = child_program(model)
    measured = describe.measure(program)
    if settings.manifest is not None:
        told = describe.child(program, measured, aliases=(), url="unix:", engine=program.engine, version="-")
        engine_manifest.check_files(settings.manifest, told)
    return _Child(model, program, measured)


def child_program(model: ModelSettings) -> ChildProgram:
    """What the settings say is to be started.

    Raises:
        ModelFileError: the folder of a llama-server has no GGUF file, or several.
    """
    assert model.engine is not None
    assert model.weights is not None
    program = ChildProgram(
        engine=model.engine,
        weights=model.weights.absolute(),
        name=model.id or "",
        projector=None if model.projector is None else Path(model.projector).expanduser().absolute(),
        command=model.command,
        arguments=model.arguments,
        environment=model.environment or {},
        inherited=config.inherited(),
        start_seconds=model.start_timeout,
    )
    if model.engine == "llama-server" and program.weights.is_dir():
        weights, projector = files.in_folder(program.weights)
        program = replace(program, weights=weights, projector=program.projector or projector)
    return program
