"""GGUF metadata from tiny files written here by the specification, whole and damaged in every way."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from confide.engine.gguf import GgufInfo, read
from confide.errors import ModelFileError

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, content: Any) -> bytes:
    if kind == STRING:
        return string(content)
    if kind == ARRAY:
        element, items = content
        return struct.pack("<IQ", element, len(items)) + b"".join(value(element, item) for item in items)
    return struct.pack("<" + FORMS[kind], content)


def pair(key: str, kind: int, content: Any) -> bytes:
    return string(key) + struct.pack("<I", kind) + value(kind, content)


def gguf(*pairs: bytes, version: int = 3, keys: int | None = None, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, 0, len(pairs) if keys is None else keys) + b"".join(pairs)


PAIRS = (
    pair("general.architecture", STRING, "llama"),
    pair("general.name", STRING, "Tïny"),
    pair("llama.context_length", U32, 4096),
    pair("llama.rope.freq_base", F32, 10000.0),
    pair("tokenizer.ggml.tokens", ARRAY, (STRING, ["<s>", "", "a", "é"])),
    pair("tokenizer.ggml.scores", ARRAY, (F32, [0.0, 1.0, 2.0])),
    pair("tokenizer.ggml.add_bos_token", BOOL, True),
    pair("tokenizer.chat_template", STRING, "{{ messages }}"),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def of(path: Path, raw: bytes) -> GgufInfo:
    path.write_bytes(raw)
    return read(path)


@pytest.mark.parametrize("version", [2, 3])
def test_what_a_file_says(path: Path, version: int) -> None:
    assert of(path, gguf(*PAIRS, version=version) + b"\0" * 100) == GgufInfo("llama", "Tïny", 4096, 4, 3, True)


def test_what_a_file_does_not_say(path: Path) -> None:
    assert of(path, gguf()) == GgufInfo("", None, None, None, None, False)
    assert of(path, gguf(pair("general.architecture", STRING, "other"), *PAIRS[1:3])).context_length is None


@pytest.mark.parametrize("kind", FORMS)
def test_every_kind_of_number_is_passed_over(path: Path, kind: int) -> None:
    one, many = pair("x", kind, 1), pair("y", ARRAY, (kind, [1, 0, 1]))
    assert of(path, gguf(one, many, *PAIRS)).vocabulary == 4


@pytest.mark.parametrize(
    ("key", "kind", "content"),
    [
        ("general.name", U32, 1),
        ("llama.context_length", STRING, "long"),
        ("llama.context_length", F32, 4096.0),
        ("tokenizer.ggml.tokens", STRING, "one"),
    ],
)
def test_a_value_of_another_kind_is_as_good_as_none(path: Path, key: str, kind: int, content: Any) -> None:
    info = of(path, gguf(PAIRS[0], pair(key, kind, content)))
    assert (info.name, info.context_length, info.vocabulary) == (None, None, None)


WHOLE = gguf(*PAIRS)


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_file_that_was_cut_anywhere(path: Path, length: int) -> None:
    with pytest.raises(ModelFileError, match="not a readable GGUF file"):
        of(path, WHOLE[:length])


FAR = 2**64 - 1

DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a readable GGUF file"),
    "something else": (b"PK\3\4" + bytes(60), "does not begin with"),
    "the older format": (b"lmgg" + bytes(60), "does not begin with"),
    "the other byte order": (gguf(*PAIRS, version=3 << 24), "version 50331648 is not supported"),
    "version 1": (gguf(*PAIRS, version=1), "version 1 is not supported"),
    "version 4": (gguf(*PAIRS, version=4), "version 4 is not supported"),
    "more keys than there are": (gguf(*PAIRS, keys=9), "not a readable GGUF file"),
    "a flood of keys": (gguf(keys=FAR), "are too many"),
    "a key without end": (gguf(struct.pack("<Q", FAR), keys=1), "past the end"),
    "a key of half the address space": (gguf(struct.pack("<Q", 2**63), keys=1), "past the end"),
    "a key that is no UTF-8": (gguf(string(b"\xff\xfe") + bytes(8), keys=1), "not a readable GGUF file"),
    "an unknown kind": (gguf(string("x") + struct.pack("<I", 13)), "unknown value type 13"),
    "an array of arrays": (gguf(string("x") + struct.pack("<IIQ", ARRAY, ARRAY, 1)), "unknown array type 9"),
    "an array without end": (gguf(string("x") + struct.pack("<IIQ", ARRAY, U32, FAR)), "past the end"),
    "strings without end": (gguf(string("x") + struct.pack("<IIQQ", ARRAY, STRING, 1, FAR)), "past the end"),
    "strings past the address space": (
        gguf(string("x") + struct.pack("<IIQQ", ARRAY, STRING, 2, FAR) + bytes(20)),
        "not a readable GGUF file",
    ),
    "a flood of strings": (gguf(string("x") + struct.pack("<IIQ", ARRAY, STRING, FAR)), "not a readable"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_each_way_of_being_damaged(path: Path, name: str) -> None:
    raw, message = DAMAGED[name]
    with pytest.raises(ModelFileError, match=message) as caught:
        of(path, raw)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(ModelFileError, match="No such file"):
        read(path)
    with pytest.raises(ModelFileError):
        read(path.parent)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 9), st.binary(max_size=9))
def test_no_damage_raises_anything_else(path: Path, at: int, gone: int, put: bytes) -> None:
    try:
        of(path, WHOLE[:at] + put + WHOLE[at + gone :])
    except ModelFileError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
