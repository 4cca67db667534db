"""The manifest: exactly which models a server runs, so that a quote, which names its digest, is about them too.

Its digest is SHA-256 over the document's canonical bytes (RFC 8785). What is hashed inside it:

* ``files[].sha256``: the whole file. A projector is what turns images into what the weights read.
* ``tokenizer``: of the first GGUF file of the weights, every metadata pair whose key begins with ``tokenizer.``, in the
  order of the file, without the pair ``tokenizer.chat_template``. Of each pair, the bytes as they lie in the file, from
  the first of the key's length to the last of the value, one after the other.
* ``chat_template``: the UTF-8 bytes of the string ``tokenizer.chat_template`` of the same file, without its length;
  null where there is none. Templates by other names count for ``tokenizer``.

What else is read from the files: ``architecture`` is ``general.architecture``; ``context_length`` is
``<architecture>.context_length``, the tokens that the model was trained for; ``quantisation.file_type`` names the
number in ``general.file_type`` (llama.cpp's ``llama_ftype``, without ``LLAMA_FTYPE_``), which only describes;
``quantisation.tensors`` counts the tensors of the weights by their type (``ggml_type``, without ``GGML_TYPE_``), which
is how they are stored. A number without a name is in digits. What the engine made of all that is in ``engine``.

One set of models has one document: models are in the order of their ids, aliases in their own, and the weights come
before the projector.

Versions. A document in which every model is of the embedded engine is ``confide-manifest/1``, byte for byte as before
there were other engines, so that digests which somebody has accepted go on meaning what they meant. A document with at
least one model of an engine in a process of its own is ``confide-manifest/2``, and only such a one is: a reader that
knows version 1 alone refuses it, rather than take an engine that nobody measured for one that was. In version 2 a model
of the embedded engine looks as in version 1; one with the member ``runs`` is a :class:`RemoteEntry`:

* ``attached``: the operator's engine, which was there before us. It was not measured: ``files``, ``arguments`` and
  ``environment`` are empty, what would be read from files is null, ``source`` says so in words, and the engine's name
  and version are what it says of itself.
* ``child``: an engine that this server started. ``arguments`` are the operator's words for it and ``environment`` the
  operator's variables, both as they are. ``files`` are, with role ``weights``, all files of the folder (or the one
  file, or the parts of it) that the engine was given as its model, but for those with a name that begins with a dot;
  then the ``projector``; then, with role ``argument``, each file that a word names, or all files of a folder that it
  names. They were hashed before the engine was started. The engine's program is not among them: of that only the name,
  the version that it reports and, in a TEE, the measured image speak.
* ``reached``: the ways to the engine, in order. ``http`` means that prompts leave this machine in the clear.

Of a child's GGUF file everything is as in version 1. Of a folder of safetensors: ``tokenizer`` is of the file
``tokenizer.json``, else of ``tokenizer.model``; ``chat_template`` of the file ``chat_template.jinja``, else of the
UTF-8 bytes of the string ``chat_template`` in ``tokenizer_config.json`` (of a list of templates, the one that is named
``default``); ``architecture`` is the first of ``architectures`` in ``config.json``, ``context_length`` its
``max_position_embeddings``, ``quantisation.file_type`` its ``quantization_config.quant_method``, and
``quantisation.tensors`` counts the tensors by their ``dtype``. What is not there is null.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from confide.wire import jcs
from confide.wire.documents import Digest, Hex32, InvalidDocument, Name, Text, plain, read, shaped

VERSION: Final = "confide-manifest/1"
WITH_ENGINES: Final = "confide-manifest/2"
NOT_MEASURED: Final = "the operator's engine; its weights are not measured here"
"""The source of every model of an attached engine."""

ModelId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}\Z")]
FileName = Annotated[str, Meta(pattern=r"^[^/\x00-\x1f\x7f]{1,255}\Z")]
FilePath = Annotated[str, Meta(pattern=r"^[^/\x00-\x1f\x7f]{1,255}(/[^/\x00-\x1f\x7f]{1,255}){0,15}\Z")]
Source = Annotated[str, Meta(min_length=1, max_length=4096)]
Count = Annotated[int, Meta(ge=1, le=jcs.MOST_INT)]
Size = Annotated[int, Meta(ge=0, le=jcs.MOST_INT)]
Way = Literal["http", "https", "loopback", "unix"]
Argument = bool | Annotated[int, Meta(ge=-jcs.MOST_INT, le=jcs.MOST_INT)] | Text


class InvalidManifest(InvalidDocument):
    """No manifest of models."""

    kind = "manifest"


class ModelFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file, by the last part of its path; ``size`` is in bytes."""

    name: FileName
    role: Literal["weights", "projector"]
    sha256: Hex32
    size: Size


class Quantisation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the weights are stored."""

    file_type: Name | None
    tensors: dict[Name, Count]


class Engine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What computes, and every argument of it that may change an answer."""

    name: Name
    version: Name
    arguments: dict[Name, Argument]


class ModelEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One served model. ``licence`` is told by the catalogue or the file, not checked."""

    id: ModelId
    files: tuple[ModelFile, ...]
    tokenizer: Digest
    chat_template: Digest | None
    architecture: Name
    quantisation: Quantisation
    context_length: Count | None
    engine: Engine
    source: Source
    licence: Text | None
    aliases: tuple[ModelId, ...]


class MeasuredFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file that an engine was started with, by its path inside the folder that was named; ``size`` is in bytes."""

    name: FilePath
    role: Literal["weights", "projector", "argument"]
    sha256: Hex32
    size: Size


class Program(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An engine in a process of its own, and what the operator told it."""

    name: Name
    version: Name
    arguments: tuple[Text, ...]
    environment: dict[Name, Text]


class RemoteEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One served model of an engine in a process of its own."""

    runs: Literal["attached", "child"]
    id: ModelId
    files: tuple[MeasuredFile, ...]
    tokenizer: Digest | None
    chat_template: Digest | None
    architecture: Name | None
    quantisation: Quantisation | None
    context_length: Count | None
    engine: Program
    reached: tuple[Way, ...]
    source: Source
    licence: Text | None
    aliases: tuple[ModelId, ...]


Entry = ModelEntry | RemoteEntry


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a server serves."""

    manifest_version: Literal["confide-manifest/1", "confide-manifest/2"]
    models: tuple[Entry, ...]

    def document(self) -> bytes:
        """The canonical bytes, which the digest covers."""
        return jcs.canonical(plain(self))

    def digest(self) -> str:
        """What the keyset's subject and every receipt name: ``sha256:`` and hex."""
        return jcs.sha256(self.document())


class _First(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document of version 1."""

    manifest_version: Literal["confide-manifest/1"]
    models: tuple[ModelEntry, ...]


class _Second(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document of version 2, its models not yet told apart."""

    manifest_version: Literal["confide-manifest/1", "confide-manifest/2"]
    models: tuple[dict[str, Any], ...]


def build(models: Iterable[Entry]) -> Manifest:
    """The one manifest of these models, in whatever order they come.

    Raises:
        InvalidManifest: it couldn't be read again.
    """
    listed = tuple(sorted(models, key=lambda model: model.id))
    version = WITH_ENGINES if any(isinstance(model, RemoteEntry) for model in listed) else VERSION
    return _checked({"manifest_version": version, "models": [plain(model) for model in listed]})


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest. Its bytes needn't be canonical; the digest is of the canonical form.

    Raises:
        InvalidManifest: something is missing, unknown, of another type, twice, or not in order.
    """
    return _checked(read(data, InvalidManifest))


def _checked(value: Any) -> Manifest:
    manifest = _shaped(value)
    try:
        manifest.document()
    except jcs.InvalidJson as error:
        raise InvalidManifest(str(error)) from None
    if not manifest.models:
        raise InvalidManifest("it lists no model")
    for model in manifest.models:
        if isinstance(model, RemoteEntry):
            _check_remote(model)
        else:
            _check_files(model)
        _check_order(f"the aliases of {model.id!r}", model.aliases)
    _check_order("the models", [model.id for model in manifest.models])
    _check_names(manifest)
    return manifest


def _shaped(value: Any) -> Manifest:
    if not isinstance(value, dict) or value.get("manifest_version") != WITH_ENGINES:
        first = shaped(value, _First, InvalidManifest)
        return Manifest(manifest_version=VERSION, models=first.models)
    second = shaped(value, _Second, InvalidManifest)
    models: list[Entry] = [
        shaped(model, RemoteEntry, InvalidManifest) if "runs" in model else shaped(model, ModelEntry, InvalidManifest)
        for model in second.models
    ]
    if models and not any(isinstance(model, RemoteEntry) for model in models):
        raise InvalidManifest(f"a document of version 2 has a model with an engine of its own; else it is {VERSION}")
    return Manifest(manifest_version=WITH_ENGINES, models=tuple(models))


def _check_listed(model: Entry) -> None:
    named = [(file.role, file.name) for file in model.files]
    if len(set(named)) != len(named):
        raise InvalidManifest(f"the model {model.id!r} lists a file twice")
    if any(part in (".", "..") for file in model.files for part in file.name.split("/")):
        raise InvalidManifest(f"the model {model.id!r} has a file without a name")


def _check_files(model: ModelEntry) -> None:
    _check_listed(model)
    roles = [file.role for file in model.files]
    weights = roles.count("weights")
    if not weights or roles[weights:] not in ([], ["projector"]):
        raise InvalidManifest(f"the files of {model.id!r} aren't weights and then at most one projector")


def _check_remote(model: RemoteEntry) -> None:
    _check_listed(model)
    if not model.reached or list(model.reached) != sorted(set(model.reached)):
        raise InvalidManifest(f"the ways to the engine of {model.id!r} aren't each told once and in order")
    if model.runs == "attached":
        _check_attached(model)
        return
    roles = ["weights", "projector", "argument"]
    order = [(roles.index(file.role), file.name) for file in model.files]
    if order != sorted(order) or [number for number, _ in order].count(1) > 1 or not order or order[0][0] != 0:
        raise InvalidManifest(f"the files of {model.id!r} aren't weights, at most one projector and others, in order")


def _check_attached(model: RemoteEntry) -> None:
    """Nothing is said of what nobody here has seen."""
    told = (model.files, model.engine.arguments, model.engine.environment)
    read = (model.tokenizer, model.chat_template, model.architecture, model.quantisation, model.context_length)
    if any(told) or any(value is not None for value in (*read, model.licence)):
        raise InvalidManifest(f"the model {model.id!r} is of an attached engine, of which nothing was measured")
    if model.source != NOT_MEASURED:
        raise InvalidManifest(f"the source of {model.id!r}, of an attached engine, must be {NOT_MEASURED!r}")


def _check_order(what: str, names: Sequence[str]) -> None:
    if any(one > other for one, other in pairwise(names)):
        raise InvalidManifest(f"{what} aren't in order")


def _check_names(manifest: Manifest) -> None:
    seen: set[str] = set()
    for name in (name for model in manifest.models for name in (model.id, *model.aliases)):
        if name in seen:
            raise InvalidManifest(f"two models are called {name!r}")
        seen.add(name)
