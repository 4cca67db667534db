"""What is about to be served, described from the bytes on disk; and the refusal when another thing was expected.

Nothing here needs the engine's library, so a file that isn't the expected one is refused before that library reads it.

What the caller still owes: that the files stay as they are. They are hashed once, at start, and the engine maps them;
whoever can write to the disk afterwards can change what is computed. A TEE needs a disk whose integrity it protects.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from confide.engine import files, gguf, llama
from confide.engine.catalogue import CatalogueModel, HubSource, resolve
from confide.engine.embeddedmodel import EmbeddedModel
from confide.engine.ggmltypes import FILE_TYPES, TENSOR_TYPES, named
from confide.engine.gguf import GgufContents
from confide.engine.pull import LocalModel
from confide.errors import ConfigError, ModelFileError
from confide.wire import jcs, manifest
from confide.wire.documents import plain
from confide.wire.manifest import (
    Argument,
    Engine,
    Entry,
    InvalidManifest,
    Manifest,
    ModelEntry,
    ModelFile,
    Quantisation,
    parse_manifest,
)

ENGINE: Final = "llama.cpp (xllamacpp)"
FILE: Final = "file"
"""The source of a model that the operator put there; its path is nobody's business."""

_LIBRARY: Final = "xllamacpp"
_UNTOLD_CONTEXT: Final = 8192
_FIRST_PART: Final = re.compile(r"(?P<stem>.+)-00001-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)
EMBEDDED: Final = "embedded"
_ANYTHING: Final = re.compile("")
_OF_FILES: Final = re.compile(r"(file|files|tokenizer|chat_template|architecture|quantisation|context_length)\b")


# Building ------------------------------------------------------------------------------------------------------------


def describe(
    local: LocalModel, *, id: str, source: str, aliases: Sequence[str], arguments: EmbeddedModel
) -> ModelEntry:
    """The entry of a model of the embedded engine; reads each of its files once from end to end.

    Args:
        local: what was found, for its licence.
        id: the id it is served under.
        source: as in the settings.
        aliases: other ids it answers to.
        arguments: which files are loaded, and how. Where ``threads`` is None, the number of cores is written down,
            so that a manifest of another machine may differ.

    Raises:
        ModelFileError: a file can't be read, or isn't one that can be described.
    """
    first = gguf.contents(arguments.path)
    parts = gguf_parts(arguments.path, first.parts)
    projectors = [] if arguments.projector is None else [arguments.projector]
    return ModelEntry(
        id=id,
        files=(*(_file(path, "weights") for path in parts), *(_file(path, "projector") for path in projectors)),
        tokenizer=prefixed(first.tokenizer),
        chat_template=None if first.chat_template is None else prefixed(first.chat_template),
        architecture=first.info.architecture,
        quantisation=gguf_quantisation(first, parts[1:]),
        context_length=first.info.context_length,
        engine=Engine(name=ENGINE, version=_version(), arguments=_arguments(arguments, first.info.context_length)),
        source=_public(source),
        licence=local.licence or first.licence,
        aliases=tuple(sorted(aliases)),
    )


def build(models: Iterable[Entry]) -> Manifest:
    """The manifest of everything that is served.

    Raises:
        ModelFileError: a file or what it says of itself can't be put in a manifest.
    """
    try:
        return manifest.build(models)
    except InvalidManifest as error:
        raise ModelFileError(f"what is served can't be described: {error.reason}") from None


def _file(path: Path, role: Literal["weights", "projector"]) -> ModelFile:
    with files.readable(path), path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return ModelFile(name=path.name, role=role, sha256=digest, size=stream.tell())


def gguf_parts(path: Path, count: int) -> list[Path]:
    """The files of a model: llama.cpp finds the others of a split model by the name of its first.

    Raises:
        ModelFileError: the file isn't named as the first of so many.
    """
    if count == 1:
        return [path]
    match = _FIRST_PART.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise ModelFileError(
            f"{path}: the model is in {count} files; expected the first, named …-00001-of-{count:05}.gguf"
        )
    return [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]


def gguf_quantisation(first: GgufContents, others: Iterable[Path]) -> Quantisation:
    """How the tensors of all parts are stored."""
    tensors: Counter[str] = Counter()
    for counts in (first.tensors, *(gguf.contents(path).tensors for path in others)):
        for number, count in counts.items():
            tensors[named(number, TENSOR_TYPES)] += count
    file_type = None if first.file_type is None else named(first.file_type, FILE_TYPES)
    return Quantisation(file_type=file_type, tensors=dict(tensors))


def _arguments(model: EmbeddedModel, trained: int | None) -> dict[str, Argument]:
    """What :class:`~confide.engine.llama.LlamaServer` is given and an answer may depend on."""
    trained = trained or _UNTOLD_CONTEXT
    return {
        "slots": model.slots,
        "context_length": min(model.context_length or _UNTOLD_CONTEXT, trained),
        "batch": llama.BATCH,
        "threads": model.threads or os.cpu_count() or 1,
        "kv_unified": False,
        "prefill_assistant": False,
    }


def _version(library: str = _LIBRARY) -> str:
    """The library's, without loading it."""
    from importlib import metadata

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        raise ModelFileError("The embedded engine is not installed: pip install 'confide[local]'") from None


def _public(source: str) -> str:
    match resolve(source):
        case CatalogueModel(id=id):
            return f"catalogue:{id}"
        case HubSource() as hub:
            return str(hub)
        case _:
            return FILE


def prefixed(hexed: str) -> str:
    """A SHA-256 in hex, as documents write digests."""
    return f"sha256:{hexed}"


# Checking ------------------------------------------------------------------------------------------------------------


def check(path: Path, built: Manifest) -> None:
    """Refuse to serve anything but what the manifest in a file lists.

    Raises:
        ModelFileError: a model's files are others.
        ConfigError: the file can't be read or holds no manifest; other models, another engine or other arguments.
    """
    check_bytes(_bytes_of(path), built, where=str(path))


def check_bytes(given: bytes, built: Manifest, *, where: str = "the manifest") -> None:
    """As :func:`check`, of bytes. Returns exactly when the digests are equal.

    Raises:
        ModelFileError, ConfigError: the first difference, by model and member, with both values.
    """
    expected = _parsed(given, where)
    _check_ids(expected, built, where)
    for want, got in zip(expected.models, built.models, strict=True):
        _check_entry(want, got, where)


def check_files(path: Path, entry: Entry) -> None:
    """Refuse the files of one model before an engine reads them; the rest of its entry may not be known yet.

    Raises:
        ModelFileError: its files are others than the manifest in a file lists.
        ConfigError: the file can't be read or holds no manifest, or doesn't list the model.
    """
    expected = _parsed(_bytes_of(path), str(path))
    want = next((model for model in expected.models if model.id == entry.id), None)
    if want is None:
        others = ", ".join(model.id for model in expected.models)
        raise ConfigError(f"{path}: model {entry.id}: served, but not expected; expected {others}")
    _check_entry(want, entry, str(path), only=_OF_FILES)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as failed:
        raise ConfigError(f"{path}: can't be read: {failed.strerror or failed}") from None


def _parsed(given: bytes, where: str) -> Manifest:
    try:
        return parse_manifest(given)
    except InvalidManifest as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_entry(want: Entry, got: Entry, where: str, only: re.Pattern[str] = _ANYTHING) -> None:
    for member, wanted, found in _model_differences(want, got):
        if only.match(member):
            refusal = ModelFileError if _OF_FILES.match(member) else ConfigError
            raise refusal(f"{where}: model {want.id}: {member}: expected {_shown(wanted)}, got {_shown(found)}")


def _check_ids(expected: Manifest, built: Manifest, where: str) -> None:
    want, got = ([model.id for model in each.models] for each in (expected, built))
    for missing in want:
        if missing not in got:
            raise ConfigError(f"{where}: model {missing}: expected, but not served; got {', '.join(got)}")
    for extra in got:
        if extra not in want:
            raise ConfigError(f"{where}: model {extra}: served, but not expected; expected {', '.join(want)}")


Difference = tuple[str, Any, Any]


def _model_differences(want: Entry, got: Entry) -> Iterator[Difference]:
    wanted, found = plain(want), plain(got)
    runs = [each.pop("runs", EMBEDDED) for each in (wanted, found)]
    yield from _differences("runs", *runs)
    yield from _file_differences(wanted.pop("files"), found.pop("files"))
    for member in {**wanted, **found}:
        yield from _differences(member, wanted.get(member), found.get(member))


def _file_differences(want: list[dict[str, Any]], got: list[dict[str, Any]]) -> Iterator[Difference]:
    names = [[(file["role"], file["name"]) for file in each] for each in (want, got)]
    yield from _differences("files", *([f"{role} {name}" for role, name in each] for each in names))
    for wanted, found in zip(want, got, strict=False):
        yield from _differences(f"file {wanted['name']}", wanted, found)


def _differences(member: str, want: Any, got: Any) -> Iterator[Difference]:
    if isinstance(want, dict) and isinstance(got, dict):
        for key in {**want, **got}:
            yield from _differences(f"{member}.{key}", want.get(key), got.get(key))
    elif jcs.canonical(want) != jcs.canonical(got):  # unlike ==, tells true from 1
        yield member, want, got


def _shown(value: Any) -> str:
    return "none" if value is None else jcs.canonical(value).decode()
