"""What an engine says of itself: which it is, its version, its model, how much it takes, and whether it sees.

All of it is the engine's word, and none of it is a proof. Sources as in :mod:`confide.engine.remote.dialect`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from confide.engine.base import COMPLETIONS, EMBEDDINGS
from confide.engine.remote.channel import Channel
from confide.engine.remote.dialect import AUTO, DIALECTS, OLLAMA, OPENAI, TRANSFORMERS, Dialect, named, owned
from confide.engine.remote.offers import OFFERS
from confide.errors import ApiError, ConfigError, OperatorError

Json = dict[str, Any]

_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:-]{0,63}")
_UNKNOWN: Final = "unknown"
_NO_ROUTE: Final = frozenset({401, 403, 404, 405, 501})
"""llama.cpp answers 501 where it was started for the other kind of model."""
_MOST_TOKENS: Final = 2**31 - 1
_SGLANG_ROUTER: Final = "local"
"""Who owns models, by the word of SGLang's router; SGLang itself says ``sglang``."""
_ANY_NAME: Final = frozenset({"llama-server", "transformers"})
"""These answer under any name, or under the names of models that they have yet to load."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe found. None stands for what the engine doesn't say; ``context_length`` is in tokens.

    ``tools`` is whether the model's chat template tells the model of tools: else the engine would drop them in silence.
    ``embeds`` is whether the model gives embeddings and nothing else; ``paths`` are of the endpoints beside chat
    completions that the engine answers.
    """

    dialect: Dialect
    model: str
    version: str
    context_length: int | None = None
    sees: bool | None = None
    tools: bool | None = None
    max_choices: int | None = None
    embeds: bool | None = None
    chats: bool = True
    paths: frozenset[str] = frozenset()


async def probe(channel: Channel, *, dialect: str, model: str | None) -> Found:
    """Ask an engine about itself.

    Args:
        channel: the way to it.
        dialect: its name, or ``auto``.
        model: what it calls its model; None where it has only one.

    Raises:
        OperatorError: it can't be reached, or doesn't answer as an engine does.
        ConfigError: it refuses our key, doesn't have the model, or has several and none was named.
    """
    wanted = None if dialect == AUTO else named(dialect)
    entries = await _models(channel)
    unlisted = model is not None and all(entry.get("id") != model for entry in entries)
    if wanted is None and unlisted and await _is_transformers(channel):
        wanted = TRANSFORMERS
    entry = _choose(entries, model, wanted)
    spoken = wanted or await _recognise(channel, entry)
    name = model if model is not None else str(entry.get("id"))
    found = Found(spoken, name, await _version(channel, spoken))
    detailed = await _DETAILS[spoken.name](channel, found, entry)
    return await _with_paths(channel, detailed)


async def _models(channel: Channel) -> list[Json]:
    try:
        status, body = await channel.get("/models")
    except (ApiError, TimeoutError):
        raise OperatorError("an engine can't be reached, or does not answer; see its address in the settings") from None
    if status in {401, 403}:
        raise ConfigError("an engine refuses the API key that the settings give for it")
    if status == 500 and await _is_transformers(channel):
        return []  # it lists what is in the hub's cache, and fails where there is no such folder
    entries = _object(body).get("data") if status == 200 else None
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if status != 200 or not isinstance(entries, list):
        raise OperatorError("an engine does not list its models; its address should end in /v1")
    return found


def _choose(entries: list[Json], model: str | None, dialect: Dialect | None) -> Json:
    if model is not None:
        fitting = [entry for entry in entries if entry.get("id") == model]
        if not fitting and (dialect is None or dialect.name not in _ANY_NAME):
            # Whose it is may still be seen from another one.
            if entries and owned(str(entries[0].get("owned_by"))) is DIALECTS["llama-server"]:
                return entries[0]
            raise ConfigError("an engine does not have the model that the settings name for it")
        return fitting[0] if fitting else {}
    bases = [entry for entry in entries if entry.get("parent") is None]
    if len(bases) != 1 or not isinstance(bases[0].get("id"), str):
        raise ConfigError(f"an engine has {len(bases)} models; the settings must name the one to use")
    return bases[0]


async def _recognise(channel: Channel, entry: Json) -> Dialect:
    """By the owner that it gives, or by a route that only one has."""
    known = owned(str(entry.get("owned_by")))
    if known is not None:
        return known
    if "version" in await _page(channel, "/api/version"):
        return OLLAMA
    return TRANSFORMERS if await _is_transformers(channel) else OPENAI


async def _is_transformers(channel: Channel) -> bool:
    routes = (await _page(channel, "/openapi.json")).get("paths")
    return isinstance(routes, dict) and "/load_model" in routes


async def _version(channel: Channel, dialect: Dialect) -> str:
    if dialect.version is None:
        return _UNKNOWN
    path, member = dialect.version
    version = (await _page(channel, path)).get(member)
    return version if isinstance(version, str) and _VERSION.fullmatch(version) else _UNKNOWN


async def _page(channel: Channel, path: str) -> Json:
    """A page beside ``/v1``; empty where there is none."""
    try:
        status, body = await channel.get(path, beside=True)
    except (ApiError, TimeoutError):
        return {}
    return _object(body) if status == 200 else {}


def _object(body: bytes) -> Json:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


async def _with_paths(channel: Channel, found: Found) -> Found:
    """Which paths it answers: an empty request is refused where there is one, and unknown where there is none.

    A model has either chat completions or embeddings, but for engines of which neither is known.
    """
    known = OFFERS[found.dialect.name]
    paths = frozenset([path for path in known if await _answers(channel, path)])
    if found.embeds is not None:
        paths -= known.keys() - {EMBEDDINGS} if found.embeds else {EMBEDDINGS}
    embeds = found.embeds or (bool(found.dialect.owners) and EMBEDDINGS in paths and COMPLETIONS not in paths)
    return replace(found, paths=paths, chats=not embeds)


async def _answers(channel: Channel, path: str) -> bool:
    try:
        status, _ = await channel.ask(path, b"{}")
    except (ApiError, TimeoutError):
        return False
    return status not in _NO_ROUTE


# What is particular to each ------------------------------------------------------------------------------------------


async def _from_entry(channel: Channel, found: Found, entry: Json) -> Found:
    """vLLM, and others that say it beside the model's name. None of them says whether it sees."""
    names = ("max_model_len", "context_length", "context_window")
    return _with(found, context_length=_first(entry, names))


async def _sglang(channel: Channel, found: Found, entry: Json) -> Found:
    """Not its router, which writes requests anew without the salt that keeps tenants' caches apart (0.3.2)."""
    if entry.get("owned_by") == _SGLANG_ROUTER:
        raise ConfigError(
            "SGLang's router answers there, and not SGLang: it drops what keeps tenants' prompt caches apart, so set "
            'dialect = "openai", and see that the engines behind it have no prompt cache'
        )
    info = await _page(channel, "/model_info") or await _page(channel, "/get_model_info")
    sees = _flag(info, "has_image_understanding")
    generates = _flag(info, "is_generation")
    embeds = None if generates is None else not generates
    return _with(found, context_length=_first(entry, ("max_model_len",)), sees=sees, embeds=embeds)


async def _llama(channel: Channel, found: Found, entry: Json) -> Found:
    """A slot's context, which is less than what the model was trained for, and a choice per slot."""
    props = await _page(channel, "/props")
    settings = props.get("default_generation_settings")
    return _with(
        found,
        context_length=_first(settings, ("n_ctx",)) if isinstance(settings, dict) else None,
        sees=_flag(props.get("modalities"), "vision"),
        tools=_flag(props.get("chat_template_caps"), "supports_tools"),
        max_choices=_first(props, ("total_slots",)),
    )


async def _ollama(channel: Channel, found: Found, entry: Json) -> Found:
    """Its model's own limit; what it grants is a setting of its own, which it tells only of loaded models."""
    try:
        status, body = await channel.ask("/api/show", msgspec.json.encode({"model": found.model}))
    except (ApiError, TimeoutError):
        return found
    shown = _object(body) if status == 200 else {}
    info, capabilities = shown.get("model_info"), shown.get("capabilities")
    lengths = [name for name in info if name.endswith(".context_length")] if isinstance(info, dict) else []
    granted = await _granted(channel, found.model)
    return _with(
        found,
        context_length=granted or (_first(info, tuple(lengths)) if isinstance(info, dict) else None),
        sees="vision" in capabilities if isinstance(capabilities, list) else None,
        tools="tools" in capabilities if isinstance(capabilities, list) else None,
        embeds="completion" not in capabilities if isinstance(capabilities, list) else None,
    )


async def _granted(channel: Channel, model: str) -> int | None:
    loaded = (await _page(channel, "/api/ps")).get("models")
    for one in loaded if isinstance(loaded, list) else ():
        if isinstance(one, dict) and model in {one.get("name"), one.get("model")}:
            return _first(one, ("context_length",))
    return None


def _with(found: Found, **more: Any) -> Found:
    return replace(found, **more)


def _flag(value: Any, name: str) -> bool | None:
    flag = value.get(name) if isinstance(value, dict) else None
    return flag if isinstance(flag, bool) else None


def _first(value: Json, names: tuple[str, ...]) -> int | None:
    """The first of the members that is a number of tokens or choices."""
    for name in names:
        number = value.get(name)
        if isinstance(number, int) and not isinstance(number, bool) and 0 < number <= _MOST_TOKENS:
            return number
    return None


_DETAILS: Final[dict[str, Callable[[Channel, Found, Json], Awaitable[Found]]]] = {
    "vllm": _from_entry,
    "sglang": _sglang,
    "llama-server": _llama,
    "ollama": _ollama,
    "transformers": _from_entry,
    "openai": _from_entry,
}
