"""What a GGUF file says about itself: the few metadata values that serving needs, without reading the weights.

Source: the GGUF specification, version 2 and 3 (ggml-org/ggml, docs/gguf.md): a header (magic, version, tensor count,
metadata count, all little-endian), then key, type and value. The file is the operator's, but may be damaged: every
length is checked against the file's end.
"""

from __future__ import annotations

import mmap
import struct
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


def read(path: Path) -> GgufInfo:
    """Read a file's metadata.

    Raises:
        ModelFileError: not a GGUF file, of another version, or damaged.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            values = _Reader(data).metadata()
    except (OSError, ValueError, OverflowError, struct.error) as error:
        raise ModelFileError(f"{path}: not a readable GGUF file: {error}") from error
    architecture = str(values.get("general.architecture", ""))
    name, length = values.get("general.name"), values.get(f"{architecture}.context_length")
    vocabulary = values.get("tokenizer.ggml.tokens")
    tokens = vocabulary if isinstance(vocabulary, _Array) else None
    return GgufInfo(
        architecture,
        name if isinstance(name, str) else None,
        length if isinstance(length, int) and length > 0 else None,
        tokens.count if tokens else None,
        tokens.longest if tokens else None,
        "tokenizer.chat_template" in values,
    )


@dataclass(frozen=True, slots=True)
class _Array:
    """What is kept of an array: its number of elements and, of strings, the most bytes that one has."""

    count: int
    longest: int = 0


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def metadata(self) -> dict[str, Any]:
        """All keys; of arrays, only their measures."""
        if self._data[:4] != MAGIC:
            raise ValueError("it does not begin with the bytes 'GGUF'")
        self._at = 4
        version, _tensors, keys = self._scalar("<I"), self._scalar("<Q"), self._scalar("<Q")
        if version not in (2, 3):
            raise ValueError(f"version {version} is not supported (2 and 3 are)")
        if keys > _MOST_KEYS:
            raise ValueError(f"{keys} metadata keys are too many")
        return {self._string(): self._value(self._scalar("<I")) for _ in range(keys)}

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
