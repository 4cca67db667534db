"""What a manifest says of a model whose engine is a process of its own: :class:`~confide.wire.manifest.RemoteEntry`.

Of an engine that we start, the files that it is given are read from end to end before it starts. Of one that was there
before us, nothing is measured, and the entry says so. What a caller owes is as for :mod:`confide.engine.manifest`: the
files must stay as they are.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from confide.engine import files, gguf
from confide.engine.base import EngineInfo
from confide.engine.manifest import FILE, gguf_parts, gguf_quantisation, prefixed
from confide.engine.remote.launch import ChildProgram
from confide.errors import ModelFileError
from confide.wire.manifest import NOT_MEASURED, MeasuredFile, Program, Quantisation, RemoteEntry, Way

Role = Literal["weights", "projector", "argument"]

_MOST_FILES: Final = 10_000
_MOST_JSON: Final = 64 * 1024 * 1024
_MOST_HEADER: Final = 100_000_000
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
_DECODER: Final = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Measured:
    """What was read of the files of a child; as the members of the entry."""

    files: tuple[MeasuredFile, ...]
    tokenizer: str | None = None
    chat_template: str | None = None
    architecture: str | None = None
    quantisation: Quantisation | None = None
    context_length: int | None = None
    licence: str | None = None


# Entries -------------------------------------------------------------------------------------------------------------


def attached(*, id: str, aliases: Sequence[str], info: EngineInfo, urls: Iterable[str]) -> RemoteEntry:
    """The entry of a model of engines that were there before us.

    Args:
        id: the id it is served under.
        aliases: other ids it answers to.
        info: what they say of themselves.
        urls: how all of them are reached, as in the settings.
    """
    return RemoteEntry(
        runs="attached",
        id=id,
        files=(),
        tokenizer=None,
        chat_template=None,
        architecture=None,
        quantisation=None,
        context_length=None,
        engine=Program(
            name=_reported(info.engine),
            version=_reported(info.version),
            arguments=(),
            environment={},
        ),
        reached=tuple(sorted({way(url) for url in urls})),
        source=NOT_MEASURED,
        licence=None,
        aliases=tuple(sorted(aliases)),
    )


def child(
    program: ChildProgram, measured: Measured, *, aliases: Sequence[str], url: str, engine: str, version: str
) -> RemoteEntry:
    """The entry of a model of an engine that we started.

    Args:
        program: what was started.
        measured: what was read of its files before.
        aliases: other ids it answers to.
        url: where it listens.
        engine: what it says that it is.
        version: as it reports it.
    """
    return RemoteEntry(
        runs="child",
        id=program.name,
        files=measured.files,
        tokenizer=measured.tokenizer,
        chat_template=measured.chat_template,
        architecture=measured.architecture,
        quantisation=measured.quantisation,
        context_length=measured.context_length,
        engine=Program(
            name=_reported(engine),
            version=_reported(version),
            arguments=program.arguments,
            environment=dict(program.environment),
        ),
        reached=(way(url),),
        source=FILE,
        licence=measured.licence,
        aliases=tuple(sorted(aliases)),
    )


def way(url: str) -> Way:
    """How bytes reach an engine."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return "unix"
    if parts.scheme == "https":
        return "https"
    host = parts.hostname or ""
    try:
        near = ipaddress.ip_address(host).is_loopback
    except ValueError:
        near = host == "localhost"
    return "loopback" if near else "http"


def _reported(text: str) -> str:
    """What an engine says of itself: a line of at most 256 characters."""
    return "".join(char for char in text if char.isprintable())[:256] or "unknown"


# Files ---------------------------------------------------------------------------------------------------------------


def measure(program: ChildProgram) -> Measured:
    """Read every file that a child is given, once, from end to end.

    Raises:
        ModelFileError: a file can't be read, isn't one that can be described, or can't be measured for what it is: a
            link to a folder, something that is neither file nor folder, more than 10,000 files.
    """
    listed: dict[tuple[str, str], MeasuredFile] = {}
    contents = _contents(program.weights)
    for role, path, name in _given(program, contents):
        listed.setdefault((role, name), _file(path, role, name))
    order: list[Role] = ["weights", "projector", "argument"]
    told = sorted(listed.values(), key=lambda file: (order.index(file.role), file.name))
    if isinstance(contents, gguf.GgufContents):
        return _of_gguf(contents, program.weights, tuple(told))
    return _of_folder(program.weights, tuple(told))


def _contents(weights: Path) -> gguf.GgufContents | None:
    """Of a GGUF file; None for a folder."""
    with files.readable(weights):
        if weights.is_dir():
            return None
        return gguf.contents(weights)


def _given(program: ChildProgram, contents: gguf.GgufContents | None) -> Iterator[tuple[Role, Path, str]]:
    weights = program.weights
    if contents is None:
        yield from (("weights", path, name) for path, name in _below(weights))
    else:
        yield from (("weights", path, path.name) for path in gguf_parts(weights, contents.parts))
    if program.projector is not None:
        yield "projector", program.projector, program.projector.name
    for word in program.arguments:
        path = Path(word.partition("=")[2] if word.startswith("-") else word)
        if path.is_dir() and str(path) != ".":
            yield from (("argument", below, f"{path.name}/{name}") for below, name in _below(path))
        elif path.is_file():
            yield "argument", path, path.name


def _below(folder: Path) -> Iterator[tuple[Path, str]]:
    """All files of a folder and their names in it, but for those that begin with a dot. Links to files are followed."""
    count = 0
    with files.readable(folder):
        for place, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in (*folders, *names):
                if (path := Path(place) / name).is_symlink() and path.is_dir():
                    raise ModelFileError(f"{path}: a link to a folder can't be measured")
            for name in sorted(name for name in names if not name.startswith(".")):
                path = Path(place) / name
                if not path.is_file():
                    raise ModelFileError(f"{path}: expected a file")
                count += 1
                if count > _MOST_FILES:
                    raise ModelFileError(f"{folder}: more than {_MOST_FILES} files")
                yield path, path.relative_to(folder).as_posix()


def _raise(error: OSError) -> None:
    raise error


def _file(path: Path, role: Role, name: str) -> MeasuredFile:
    with files.readable(path), path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return MeasuredFile(name=name, role=role, sha256=digest, size=stream.tell())


def _of_gguf(contents: gguf.GgufContents, path: Path, listed: tuple[MeasuredFile, ...]) -> Measured:
    return Measured(
        listed,
        tokenizer=prefixed(contents.tokenizer),
        chat_template=None if contents.chat_template is None else prefixed(contents.chat_template),
        architecture=contents.info.architecture,
        quantisation=gguf_quantisation(contents, gguf_parts(path, contents.parts)[1:]),
        context_length=contents.info.context_length,
        licence=contents.licence,
    )


# A folder of safetensors ---------------------------------------------------------------------------------------------


def _of_folder(folder: Path, listed: tuple[MeasuredFile, ...]) -> Measured:
    if not listed:
        raise ModelFileError(f"{folder}: the folder has no file")
    hashes = {file.name: prefixed(file.sha256) for file in listed if file.role == "weights"}
    config = _json(folder, "config.json", hashes)
    text = config.get("text_config")
    length = config.get("max_position_embeddings") or (text if isinstance(text, dict) else {}).get(
        "max_position_embeddings"
    )
    architectures = config.get("architectures")
    return Measured(
        listed,
        tokenizer=hashes.get("tokenizer.json") or hashes.get("tokenizer.model"),
        chat_template=hashes.get("chat_template.jinja") or _template(_json(folder, "tokenizer_config.json", hashes)),
        architecture=_named(architectures[0] if isinstance(architectures, list) and architectures else None),
        quantisation=_stored(folder, config, [name for name in hashes if name.endswith(".safetensors")]),
        context_length=length if isinstance(length, int) and 0 < length < 2**53 else None,
    )


def _json(folder: Path, name: str, listed: Iterable[str]) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no such file."""
    if name not in listed:
        return {}
    path = folder / name
    with files.readable(path):
        if path.stat().st_size > _MOST_JSON:
            raise ModelFileError(f"{path}: more than {_MOST_JSON} bytes")
        return _decoded(path, path.read_bytes())


def _decoded(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise ModelFileError(f"{path}: not JSON") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: expected a JSON object")
    return value


def _template(config: dict[str, Any]) -> str | None:
    given = config.get("chat_template")
    if isinstance(given, list):
        named = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
        given = named.get("default")
    if not isinstance(given, str):
        return None
    return prefixed(hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest())


def _named(value: object) -> str | None:
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def _stored(folder: Path, config: dict[str, Any], names: Sequence[str]) -> Quantisation | None:
    """The tensors of all files by their type. Source: the safetensors format (a length, a JSON header, the tensors)."""
    tensors: Counter[str] = Counter()
    for name in names:
        for key, tensor in _header(folder / name).items():
            dtype = tensor.get("dtype") if isinstance(tensor, dict) else None
            if key != "__metadata__":
                tensors[_named(dtype) or "unknown"] += 1
    method = config.get("quantization_config")
    told = _named(method.get("quant_method")) if isinstance(method, dict) else None
    return Quantisation(file_type=told, tensors=dict(tensors)) if names or told else None


def _header(path: Path) -> dict[str, Any]:
    with files.readable(path), path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > _MOST_HEADER:
            raise ModelFileError(f"{path}: not a safetensors file")
        return _decoded(path, stream.read(length))
