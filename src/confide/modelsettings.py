"""One ``[[model]]`` table: its keys, and which of them go together.

A model has one of three keys that say what computes: ``source`` (a file; the engine is in this process), ``urls`` (the
operator's engine, one or several replicas of it) or ``engine`` (one that this server starts).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from confide.engine.remote.address import parse_address
from confide.engine.remote.launch import LAUNCHES, SECRET_NAME, reserved_word
from confide.errors import ConfigError

ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")

Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=1, le=64, description="an integer from 1 to 64")]
_PublicId = Annotated[str, Meta(pattern=rf"^{ID.pattern}$")]
_Decimal = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?$")]
_Priced = Annotated[str, Meta(pattern=r"^(prompt|completion)$")]
_Tokens = Annotated[int, Meta(ge=256, le=2**24)]
_Threads = Annotated[int, Meta(ge=1, le=1024)]
_Url = Annotated[str, Meta(min_length=1, max_length=2048)]
_Word = Annotated[str, Meta(pattern=r"^[^\x00]{1,4096}\Z")]
_Words = Annotated[tuple[_Word, ...], Meta(max_length=256)]
_Variable = Annotated[str, Meta(pattern=r"^[A-Z_][A-Z0-9_]{0,127}\Z")]
_Value = Annotated[str, Meta(pattern=r"^[^\x00]{0,4096}\Z")]
_Wait = Annotated[float, Meta(gt=0, le=86400)]

SECONDS: Final = "seconds, more than 0, up to 86400"


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One ``[[model]]`` table. After it was checked, ``id`` is set, and one of ``source``, ``urls`` and ``engine``."""

    source: Annotated[
        Text | None, Meta(description="a catalogue name, a GGUF file, a folder, or hf:owner/name/file.gguf")
    ] = None
    urls: Annotated[
        tuple[_Url, ...],
        Meta(
            max_length=64,
            description='a list of engines that are there: "http://host:port/v1", "https://…/v1", "unix:/path.sock"',
        ),
    ] = ()
    engine: Annotated[
        Literal["vllm", "sglang", "llama-server", "transformers"] | None,
        Meta(description="an engine to start: vllm, sglang, llama-server, or transformers"),
    ] = None
    id: Annotated[_PublicId | None, Meta(description="a public id of 1 to 128 of A-Z a-z 0-9 . _ : / @ -")] = None
    name: Annotated[str | None, Meta(description="a string")] = None
    description: Annotated[str | None, Meta(description="a string")] = None
    pricing: Annotated[
        dict[_Priced, _Decimal] | None,
        Meta(description='a table of prompt and completion, USD per token, as strings like "0.0000004"'),
    ] = None
    aliases: Annotated[tuple[_PublicId, ...], Meta(description="a list of public ids")] = ()
    context_length: Annotated[_Tokens | None, Meta(description="a number of tokens from 256 to 2^24")] = None
    # With source:
    projector: Annotated[
        Text | None, Meta(description="the path of an mmproj GGUF file, with source or llama-server")
    ] = None
    slots: Count = 4
    threads: Annotated[_Threads | None, Meta(description="an integer from 1 to 1024")] = None
    # With urls:
    dialect: Annotated[
        Literal["auto", "vllm", "sglang", "llama-server", "ollama", "transformers", "openai"],
        Meta(description="auto, vllm, sglang, llama-server, ollama, transformers, or openai (any other), with urls"),
    ] = "auto"
    upstream_model: Annotated[
        Text | None, Meta(description="what the engine calls the model, where it has several, with urls")
    ] = None
    api_key_file: Annotated[
        Path | None, Meta(description="the path of a file that holds the engine's API key, with urls")
    ] = None
    # With engine:
    weights: Annotated[Path | None, Meta(description="the path of a folder of safetensors, or of a GGUF file")] = None
    arguments: Annotated[_Words, Meta(description="a list of words for the engine; they are published")] = ()
    command: Annotated[_Words, Meta(description="a list of words that starts the engine, if not by its own name")] = ()
    environment: Annotated[
        dict[_Variable, _Value] | None,
        Meta(description="a table of variables for the engine; they are published"),
    ] = None
    start_timeout: Annotated[_Wait, Meta(description=SECONDS)] = 1800.0
    # With urls or engine:
    vision: Annotated[
        bool | None, Meta(description="whether the model takes images: true or false, if the engine can't tell")
    ] = None
    max_outstanding: Annotated[
        int, Meta(ge=1, le=100_000, description="the most requests under way at one engine, from 1 to 100000")
    ] = 256
    connect_timeout: Annotated[_Wait, Meta(description=SECONDS)] = 5.0
    first_token_timeout: Annotated[_Wait, Meta(description=SECONDS)] = 300.0
    between_tokens_timeout: Annotated[_Wait, Meta(description=SECONDS)] = 60.0
    total_timeout: Annotated[_Wait, Meta(description=SECONDS)] = 3600.0


HEADS: Final = ("source", "urls", "engine")
_ONLY_WITH: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(("slots", "threads"), frozenset({"source"})),
    **dict.fromkeys(("dialect", "upstream_model", "api_key_file"), frozenset({"urls"})),
    **dict.fromkeys(("weights", "arguments", "command", "environment", "start_timeout"), frozenset({"engine"})),
    **dict.fromkeys(("vision", "max_outstanding", "connect_timeout"), frozenset({"urls", "engine"})),
    **dict.fromkeys(("first_token_timeout", "between_tokens_timeout", "total_timeout"), frozenset({"urls", "engine"})),
    "projector": frozenset({"source", "engine"}),
}

Complaint = tuple[str | None, str]
"""The key that is wrong, None for the table as a whole, and what is wrong with it."""


def complaint(given: Collection[str], values: Mapping[str, Any]) -> Complaint | None:
    """What is wrong with keys that are right one by one.

    Args:
        given: the keys of the table.
        values: what they hold, converted.
    """
    heads = [key for key in HEADS if key in given]
    if not heads:
        return None, "a [[model]] table needs source, urls or engine"
    if len(heads) > 1:
        return heads[1], f"{heads[0]} is set as well; a model has one of source, urls and engine"
    for key in given:
        if heads[0] not in (fitting := _ONLY_WITH.get(key, frozenset(HEADS))):
            return key, f"has a meaning only with {' or '.join(head for head in HEADS if head in fitting)}"
    return _WRONG[heads[0]](values)


def _wrong_source(values: Mapping[str, Any]) -> Complaint | None:
    return None


def _wrong_urls(values: Mapping[str, Any]) -> Complaint | None:
    urls = values["urls"]
    if not urls:
        return "urls", "expected at least one"
    try:
        addresses = {parse_address(url) for url in urls}
    except ConfigError as error:
        return "urls", str(error)
    if len(addresses) != len(urls):
        return "urls", "one of them is there twice"
    if not values.get("id") and not ID.fullmatch(values.get("upstream_model", "")):
        return None, "a [[model]] table with urls needs id"
    return None


def _wrong_engine(values: Mapping[str, Any]) -> Complaint | None:
    engine = values["engine"]
    if "weights" not in values:
        return None, "a [[model]] table with engine needs weights, the path of what it shall serve"
    if "projector" in values and LAUNCHES[engine].projector is None:
        return "projector", f"{engine} takes none"
    if word := reserved_word(engine, values.get("arguments", ())):
        return "arguments", f"{word} is not for the settings: it is given by confide, or would tell a secret"
    for name in values.get("environment") or ():
        if name.startswith("CONFIDE_") or SECRET_NAME.search(name):
            return "environment", f"{name} can't be given: variables of an engine are published in the manifest"
    return None


_WRONG: Final = {"source": _wrong_source, "urls": _wrong_urls, "engine": _wrong_engine}


def derived_id(values: Mapping[str, Any]) -> str:
    """The id where none is given: the catalogue's or the engine's name as it is, or the last part of a path."""
    if "urls" in values:
        return str(values["upstream_model"])
    source = str(values.get("source") or values["weights"])
    last = source.removeprefix("hf:").rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9._:@-]", "-", last).lstrip("._:@-")[:128] or "model"
