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
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from confide.wire import jcs
from confide.wire.documents import Digest, Hex32, InvalidDocument, Name, Text, plain, read, shaped

VERSION: Final = "confide-manifest/1"

ModelId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}\Z")]
FileName = Annotated[str, Meta(pattern=r"^[^/\x00-\x1f\x7f]{1,255}\Z")]
Source = Annotated[str, Meta(min_length=1, max_length=4096)]
Count = Annotated[int, Meta(ge=1, le=jcs.MOST_INT)]
Size = Annotated[int, Meta(ge=0, le=jcs.MOST_INT)]
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


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a server serves."""

    manifest_version: Literal["confide-manifest/1"]
    models: tuple[ModelEntry, ...]

    def document(self) -> bytes:
        """The canonical bytes, which the digest covers."""
        return jcs.canonical(plain(self))

    def digest(self) -> str:
        """What the keyset's subject and every receipt name: ``sha256:`` and hex."""
        return jcs.sha256(self.document())


def build(models: Iterable[ModelEntry]) -> Manifest:
    """The one manifest of these models, in whatever order they come.

    Raises:
        InvalidManifest: it couldn't be read again.
    """
    manifest = Manifest(manifest_version=VERSION, models=tuple(sorted(models, key=lambda model: model.id)))
    return _checked(plain(manifest))


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest. Its bytes needn't be canonical; the digest is of the canonical form.

    Raises:
        InvalidManifest: something is missing, unknown, of another type, twice, or not in order.
    """
    return _checked(read(data, InvalidManifest))


def _checked(value: Any) -> Manifest:
    manifest = shaped(value, Manifest, InvalidManifest)
    try:
        manifest.document()
    except jcs.InvalidJson as error:
        raise InvalidManifest(str(error)) from None
    if not manifest.models:
        raise InvalidManifest("it lists no model")
    for model in manifest.models:
        _check_files(model)
        _check_order(f"the aliases of {model.id!r}", model.aliases)
    _check_order("the models", [model.id for model in manifest.models])
    _check_names(manifest)
    return manifest


def _check_files(model: ModelEntry) -> None:
    named = [(file.role, file.name) for file in model.files]
    if len(set(named)) != len(named):
        raise InvalidManifest(f"the model {model.id!r} lists a file twice")
    if any(file.name in (".", "..") for file in model.files):
        raise InvalidManifest(f"the model {model.id!r} has a file without a name")
    roles = [file.role for file in model.files]
    weights = roles.count("weights")
    if not weights or roles[weights:] not in ([], ["projector"]):
        raise InvalidManifest(f"the files of {model.id!r} aren't weights and then at most one projector")


def _check_order(what: str, names: Sequence[str]) -> None:
    if any(one > other for one, other in pairwise(names)):
        raise InvalidManifest(f"{what} aren't in order")


def _check_names(manifest: Manifest) -> None:
    seen: set[str] = set()
    for name in (name for model in manifest.models for name in (model.id, *model.aliases)):
        if name in seen:
            raise InvalidManifest(f"two models are called {name!r}")
        seen.add(name)
