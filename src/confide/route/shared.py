"""What can be promised of several engines that serve one model, whichever of them answers."""

from __future__ import annotations

from collections.abc import Sequence

from confide.engine.base import EngineInfo
from confide.errors import ConfigError


def common(infos: Sequence[EngineInfo]) -> EngineInfo:
    """What can be promised whichever replica answers.

    Raises:
        ConfigError: there is none, or they differ in engine or version, or have no modality in common.
    """
    if not infos:
        raise ConfigError("replicas: a model needs at least one engine")
    first = infos[0]
    for what in ("engine", "version"):
        found = sorted({getattr(info, what) for info in infos})
        if len(found) > 1:
            raise ConfigError(f"replicas: those of one model differ in {what}: {', '.join(map(_short, found))}")
    return EngineInfo(
        engine=first.engine,
        version=first.version,
        context_length=min(info.context_length for info in infos),
        max_output_length=min(info.max_output_length for info in infos),
        parameters=frozenset.intersection(*(info.parameters for info in infos)),
        input_modalities=_shared("input", [info.input_modalities for info in infos]),
        output_modalities=_shared("output", [info.output_modalities for info in infos]),
        max_choices=min(info.max_choices for info in infos),
        created=min(info.created for info in infos),
        chats=all(info.chats for info in infos),
        also={
            path: frozenset.intersection(*(info.also[path] for info in infos))
            for path in first.also
            if all(path in info.also for info in infos)
        },
    )


def _shared(which: str, modalities: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    shared = tuple(one for one in modalities[0] if all(one in others for others in modalities))
    if not shared:
        raise ConfigError(f"replicas: those of one model have no {which} modality in common")
    return shared


def _short(text: str) -> str:
    """What an engine says of itself, as it may stand in an error: bounded, in visible characters."""
    return repr(text[:64])
