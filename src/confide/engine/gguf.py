"""What a GGUF file says about itself: the few values that serving and proving need, without reading the weights.

Source: the GGUF specification, version 2 and 3 (ggml-org/ggml, docs/gguf.md): a header (magic, version, tensor count,
metadata count, all little-endian), then key, type and value of each pair, then name, shape, type and offset of each
tensor. The file is the operator's, but may be damaged: every length is checked against the file's end.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from confide.errors import ModelFileError

MAGIC: Final = b"GGUF"
_SCALARS: Final = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING: Final = 8
_ARRAY: Final = 9
_MOST_KEYS: Final = 65_536
_MOST_DIMENSIONS: Final = 4
_TEMPLATE: Final = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class GgufInfo:
    """What serving needs to know.

    ``context_length`` is the length the model was trained for, in tokens; ``vocabulary`` the number of tokens;
    ``longest_token`` the most bytes that one token's text takes, which bounds how few tokens a text can be.
    """

    architecture: str
    name: str | None
    context_length: int | None
    vocabulary: int | None
    longest_token: int | None
    has_chat_template: bool


@dataclass(frozen=True, slots=True)
class GgufContents:
    """What a manifest says of a file; the digests are SHA-256 in hex.

    ``tokenizer`` is of all pairs whose key begins with ``tokenizer.``, in the order of the file, each from the first
    byte of its key's length to the last of its value, without the pair ``tokenizer.chat_template``. ``chat_template``
    is of that pair's string in UTF-8. ``file_type`` is the number in ``general.file_type``; ``tensors`` counts them
    by the number of their type; ``parts`` is of how many files the model is made.
    """

    info: GgufInfo
    tokenizer: str
    chat_template: str | None
    licence: str | None
    file_type: int | None
    tensors: Mapping[int, int]
    parts: int


def read(path: Path) -> GgufInfo:
    """Read what serving needs of a file's metadata.

    Raises:
        ModelFileError: not a GGUF file, of another version, or damaged.
    """
    with _opened(path) as reader:
        return _info(reader.metadata())


def contents(path: Path) -> GgufContents:
    """Read the metadata and the list of tensors, once, and hash what prompts are made with.

    Raises:
        ModelFileError: as :func:`read`, or a list of tensors that is damaged.
    """
    with _opened(path) as reader:
        values = reader.metadata()
        template, parts = values.get(_TEMPLATE), values.get("split.count")
        return GgufContents(
            info=_info(values),
            tokenizer=reader.tokenizer(),
            chat_template=hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None,
            licence=_text(values, "general.license"),
            file_type=_positive(values, "general.file_type", least=0),
            tensors=reader.tensors(),
            parts=parts if isinstance(parts, int) and parts > 1 else 1,
        )


@contextmanager
def _opened(path: Path) -> Iterator[_Reader]:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield _Reader(data)
    except (OSError, ValueError, OverflowError, struct.error) as error:
        raise ModelFileError(f"{path}: not a readable GGUF file: {error}") from error


def _info(values: Mapping[str, Any]) -> GgufInfo:
    architecture = str(values.get("general.architecture", ""))
    vocabulary = values.get("tokenizer.ggml.tokens")
    tokens = vocabulary if isinstance(vocabulary, _Array) else None
    return GgufInfo(
        architecture,
        _text(values, "general.name"),
        _positive(values, f"{architecture}.context_length"),
        tokens.count if tokens else None,
        tokens.longest if tokens else None,
        _TEMPLATE in values,
    )


def _text(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) else None


def _positive(values: Mapping[str, Any], key: str, least: int = 1) -> int | None:
    value = values.get(key)
    return value if isinstance(value, int) and value >= least else None


@dataclass(frozen=True, slots=True)
class _Array:
    """What is kept of an array: its number of elements and, of strings, the most bytes that one has."""

    count: int
    longest: int = 0


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0
        self._tensors = 0
        self._spans: dict[str, tuple[int, int]] = {}

    def metadata(self) -> dict[str, Any]:
        """All keys; of arrays, only their measures."""
        if self._data[:4] != MAGIC:
            raise ValueError("it does not begin with the bytes 'GGUF'")
        self._at = 4
        version, self._tensors, keys = self._scalar("<I"), self._scalar("<Q"), self._scalar("<Q")
        if version not in (2, 3):
            raise ValueError(f"version {version} is not supported (2 and 3 are)")
        if keys > _MOST_KEYS:
            raise ValueError(f"{keys} metadata keys are too many")
        return dict(self._pair() for _ in range(keys))

    def _pair(self) -> tuple[str, Any]:
        start, key = self._at, self._string()
        value = self._value(self._scalar("<I"))
        if key in self._spans:
            raise ValueError(f"the metadata key {key!r} is there twice")
        self._spans[key] = (start, self._at)
        return key, value

    def tokenizer(self) -> str:
        """The digest that :class:`GgufContents` defines; after :meth:`metadata`."""
        digest = hashlib.sha256()
        for key, (start, end) in self._spans.items():
            if key.startswith("tokenizer.") and key != _TEMPLATE:
                digest.update(self._data[start:end])
        return digest.hexdigest()

    def tensors(self) -> Counter[int]:
        """How many tensors there are of each type; after :meth:`metadata`, whose end is where their list begins."""
        return Counter(self._tensor() for _ in range(self._tensors))

    def _tensor(self) -> int:
        self._string()
        dimensions = self._scalar("<I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor has {dimensions} dimensions")
        self._at += dimensions * struct.calcsize("<Q")
        kind: int = self._scalar("<I")
        self._scalar("<Q")
        return kind

    def _scalar(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return value

    def _string(self) -> str:
        length = self._scalar("<Q")
        end = self._at + length
        if end > len(self._data):
            raise ValueError("a string runs past the end")
        text = self._data[self._at : end].decode()
        self._at = end
        return text

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._skip_array()
        if kind not in _SCALARS:
            raise ValueError(f"unknown value type {kind}")
        return self._scalar(_SCALARS[kind])

    def _skip_array(self) -> _Array:
        kind, count, longest = self._scalar("<I"), int(self._scalar("<Q")), 0
        if kind == _STRING:
            at, data, unpack = self._at, self._data, struct.Struct("<Q").unpack_from
            for _ in range(count):
                size = unpack(data, at)[0]
                longest = max(longest, size)
                at += 8 + size
            self._at = at
        elif kind in _SCALARS:
            self._at += count * struct.calcsize(_SCALARS[kind])
        else:
            raise ValueError(f"unknown array type {kind}")
        if self._at > len(self._data):
            raise ValueError("an array runs past the end")
        return _Array(count, longest)
