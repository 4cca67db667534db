"""What is served, described from the bytes on disk; and the refusal of anything else."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf as reference
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from tests.engine.test_gguf import ARRAY, BOOL, F32, PAIRS, STRING, U16, U32, gguf, pair, string

from confide.engine import ggmltypes
from confide.engine.embedded import EmbeddedEngine, EmbeddedModel
from confide.engine.gguf import contents
from confide.engine.llama import BATCH
from confide.engine.manifest import _version, build, check, check_bytes, describe
from confide.engine.pull import LocalModel
from confide.errors import ConfigError, ModelFileError, OperatorError
from confide.wire.manifest import Manifest, ModelEntry, parse_manifest


def tensor(name: str, kind: int, *shape: int) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)


TENSORS = (tensor("a", 3, 32, 2), tensor("b", 3, 32), tensor("c", 0))


def whole(*pairs: bytes, tensors: tuple[bytes, ...] = TENSORS, weights: bytes = bytes(64)) -> bytes:
    head = gguf(*pairs)
    return head[:8] + struct.pack("<Q", len(tensors)) + head[16:] + b"".join(tensors) + weights


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(whole(*PAIRS, pair("general.file_type", U32, 3), pair("general.license", STRING, "mit")))
    return path


def entry(path: Path, **members: Any) -> ModelEntry:
    model = EmbeddedModel(
        path, **{name: members.pop(name) for name in ("projector", "slots", "threads") & members.keys()}
    )
    local = LocalModel("tiny", path, model.projector, None, members.pop("licence", None), "Tiny", None)
    asked: dict[str, Any] = {"id": "tiny", "source": str(path), "aliases": (), "arguments": model, **members}
    return describe(local, **asked)


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


# Building ------------------------------------------------------------------------------------------------------------


def test_a_whole_entry(path: Path, tmp_path: Path) -> None:
    projector = tmp_path / "mmproj.gguf"
    projector.write_bytes(b"GGUF and more")
    told = build([entry(path, projector=projector, aliases=("z", "a"), slots=2, threads=3)])
    assert json.loads(told.document())["models"] == [
        {
            "id": "tiny",
            "files": [
                {
                    "name": "tiny.gguf",
                    "role": "weights",
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "size": path.stat().st_size,
                },
                {
                    "name": "mmproj.gguf",
                    "role": "projector",
                    "sha256": hashlib.sha256(b"GGUF and more").hexdigest(),
                    "size": 13,
                },
            ],
            "tokenizer": sha256(b"".join(PAIRS[4:7])),
            "chat_template": sha256(b"{{ messages }}"),
            "architecture": "llama",
            "quantisation": {"file_type": "MOSTLY_Q4_1", "tensors": {"Q4_1": 2, "F32": 1}},
            "context_length": 4096,
            "engine": {
                "name": "llama.cpp (xllamacpp)",
                "version": metadata.version("xllamacpp"),
                "arguments": {
                    "slots": 2,
                    "context_length": 4096,
                    "batch": BATCH,
                    "threads": 3,
                    "kv_unified": False,
                    "prefill_assistant": False,
                },
            },
            "source": "file",
            "licence": "mit",
            "aliases": ["a", "z"],
        }
    ]


def test_what_is_not_set_is_written_down(path: Path) -> None:
    told = entry(path).engine.arguments
    assert (told["slots"], told["threads"]) == (4, os.cpu_count())


@pytest.mark.parametrize(
    ("asked", "trained", "served"), [(None, 4096, 4096), (None, 32768, 8192), (16384, 32768, 16384), (9999, None, 8192)]
)
def test_the_context_that_is_served(path: Path, asked: int | None, trained: int | None, served: int) -> None:
    length = [] if trained is None else [pair("llama.context_length", U32, trained)]
    path.write_bytes(whole(PAIRS[0], *length))
    told = entry(path, arguments=EmbeddedModel(path, context_length=asked))
    assert (told.context_length, told.engine.arguments["context_length"]) == (trained, served)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("smollm2-135m-instruct", "catalogue:smollm2-135m-instruct"),
        ("hf:owner/name@0123abc/x.gguf", "hf:owner/name@0123abc/x.gguf"),
        ("/home/somebody/models/x.gguf", "file"),
        ("./models", "file"),
    ],
)
def test_sources_tell_no_path(path: Path, source: str, told: str) -> None:
    assert entry(path, source=source).source == told


def test_the_catalogue_knows_the_licence_better(path: Path) -> None:
    assert entry(path, licence="Apache-2.0").licence == "Apache-2.0"


def changed(path: Path, *pairs: bytes, **other: Any) -> ModelEntry:
    path.write_bytes(whole(*pairs, **other))
    return entry(path)


def test_the_tokenizer_is_all_pairs_of_its_name_but_the_template(path: Path) -> None:
    one = changed(path, *PAIRS)
    same = changed(path, PAIRS[7], *PAIRS[4:7], PAIRS[0], pair("other.tokens", BOOL, True), weights=b"")
    assert same.tokenizer == one.tokenizer
    assert same.files[0].sha256 != one.files[0].sha256
    others = [
        changed(path, *PAIRS[:4], PAIRS[5], PAIRS[4], *PAIRS[6:]),
        changed(path, *PAIRS[:6], pair("tokenizer.ggml.add_bos_token", BOOL, False)),
        changed(path, *PAIRS[:6], pair("tokenizer.ggml.add_eos_token", BOOL, True)),
        changed(path, *PAIRS[:5], pair("tokenizer.ggml.scores", ARRAY, (F32, [0.0, 1.0, 2.5])), *PAIRS[6:]),
        changed(path, *PAIRS, pair("tokenizer.ggml.bos_token_id", U32, 1)),
        changed(path, *PAIRS, pair("tokenizer.chat_template.tool_use", STRING, "{{ tools }}")),
        changed(path, *PAIRS, pair("tokenizer.huggingface.json", STRING, "{}")),
        changed(path, PAIRS[0]),
    ]
    assert len({one.tokenizer, *(other.tokenizer for other in others)}) == 1 + len(others)


def test_the_template_is_its_text(path: Path) -> None:
    template = pair("tokenizer.chat_template", STRING, "{{ 'é' }}")
    assert changed(path, *PAIRS[:7], template).chat_template == sha256("{{ 'é' }}".encode())
    assert changed(path, *PAIRS[:7]).chat_template is None
    assert changed(path, *PAIRS[:7], template).tokenizer == changed(path, *PAIRS).tokenizer


def test_types_without_a_name_are_told_in_digits(path: Path) -> None:
    told = changed(path, *PAIRS, pair("general.file_type", U32, 777), tensors=(*TENSORS, tensor("d", 99, 1)))
    assert told.quantisation.file_type == "777"
    assert told.quantisation.tensors == {"Q4_1": 2, "F32": 1, "99": 1}
    assert changed(path, *PAIRS).quantisation.file_type is None


def test_names_are_the_ones_that_others_use() -> None:
    assert {int(each): each.name for each in reference.GGMLQuantizationType} == ggmltypes.TENSOR_TYPES
    assert {int(each): each.name for each in reference.LlamaFileType} == ggmltypes.FILE_TYPES


def split(folder: Path, count: int, *missing: int) -> Path:
    for number in set(range(1, count + 1)) - set(missing):
        pairs = (*PAIRS, pair("split.count", U16, count)) if number == 1 else (pair("split.count", U16, count),)
        (folder / f"big-{number:05}-of-{count:05}.gguf").write_bytes(whole(*pairs, weights=bytes([number])))
    return folder / f"big-00001-of-{count:05}.gguf"


def test_a_model_in_parts_is_all_of_them(tmp_path: Path) -> None:
    told = entry(split(tmp_path, 3))
    assert [file.name for file in told.files] == [f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert len({file.sha256 for file in told.files}) == 3
    assert told.quantisation.tensors == {"Q4_1": 6, "F32": 3}


def test_a_part_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"big-00002-of-00003\.gguf: .*No such file"):
        entry(split(tmp_path, 3, 2))


@pytest.mark.parametrize("name", ["renamed.gguf", "big-00002-of-00002.gguf", "big-00001-of-00003.gguf"])
def test_parts_by_another_name(tmp_path: Path, name: str) -> None:
    path = split(tmp_path, 2).rename(tmp_path / name)
    with pytest.raises(ModelFileError, match=r"the model is in 2 files; expected the first, named …-00001-of-00002"):
        entry(path)


DAMAGED: dict[str, tuple[bytes, str]] = {
    "no GGUF": (b"PK\3\4" + bytes(60), "does not begin with"),
    "tensors without end": (gguf(*PAIRS)[:8] + struct.pack("<Q", 2**63) + gguf(*PAIRS)[16:], "not a readable"),
    "a tensor cut off": (whole(*PAIRS, tensors=(tensor("a", 3, 32)[:-1],), weights=b""), "not a readable"),
    "a tensor of five dimensions": (whole(*PAIRS, tensors=(tensor("a", 3, *[1] * 5),)), "a tensor has 5 dimensions"),
    "a key twice": (whole(*PAIRS, PAIRS[7]), "'tokenizer.chat_template' is there twice"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file(path: Path, name: str) -> None:
    raw, message = DAMAGED[name]
    path.write_bytes(raw)
    with pytest.raises(ModelFileError, match=message) as caught:
        entry(path)
    assert str(path) in str(caught.value)


LISTED = whole(*PAIRS, weights=b"")


@pytest.mark.parametrize("length", range(len(gguf(*PAIRS)), len(LISTED)))
def test_a_list_of_tensors_that_was_cut_anywhere(path: Path, length: int) -> None:
    path.write_bytes(LISTED[:length])
    with pytest.raises(ModelFileError, match="not a readable GGUF file"):
        contents(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(LISTED) - 1), st.integers(0, 9), st.binary(max_size=9))
def test_no_damage_raises_anything_else(path: Path, at: int, gone: int, put: bytes) -> None:
    path.write_bytes(LISTED[:at] + put + LISTED[at + gone :])
    try:
        described = build([entry(path)])
    except ModelFileError:
        return
    assert parse_manifest(described.document()) == described


def test_a_file_that_is_not_there(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"gone\.gguf: .*No such file"):
        entry(tmp_path / "gone.gguf")
    with pytest.raises(ModelFileError, match=r"gone\.gguf: .*No such file"):
        entry(path, projector=tmp_path / "gone.gguf")


def test_names_that_no_manifest_can_hold(path: Path) -> None:
    for name in ("a\nb.gguf", os.fsdecode(b"\xff.gguf")):
        with pytest.raises(ModelFileError, match="what is served can't be described"):
            build([entry(path.rename(path.with_name(name)), source="./x")])
        path.with_name(name).rename(path)


# Checking ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def built(path: Path) -> Manifest:
    projector = path.with_name("mmproj.gguf")
    projector.write_bytes(b"GGUF")
    return build([entry(path, id="b", projector=projector, aliases=["bee"]), entry(path, id="a")])


def test_the_manifest_itself_passes(built: Manifest, tmp_path: Path) -> None:
    given = tmp_path / "manifest.json"
    given.write_bytes(json.dumps(json.loads(built.document()), indent=2).encode())
    check(given, built)
    check_bytes(built.document(), built)


HEX = "0" * 64
Change = tuple[tuple[str | int, ...], Any, type[OperatorError], str]

DIFFERENCES: dict[str, Change] = {
    "a hash": (("files", 0, "sha256"), HEX, ModelFileError, f'file tiny.gguf.sha256: expected "{HEX}", got "'),
    "a size": (("files", 0, "size"), 1, ModelFileError, "file tiny.gguf.size: expected 1, got "),
    "the projector": (("files", 1, "sha256"), HEX, ModelFileError, "file mmproj.gguf.sha256: expected "),
    "a name": (("files", 0, "name"), "x", ModelFileError, 'files: expected ["weights x",'),
    "a tokenizer": (("tokenizer",), f"sha256:{HEX}", ModelFileError, "tokenizer: expected "),
    "a template": (("chat_template",), None, ModelFileError, 'chat_template: expected none, got "sha256:'),
    "an architecture": (("architecture",), "gpt2", ModelFileError, 'architecture: expected "gpt2", got "llama"'),
    "a file type": (
        ("quantisation", "file_type"),
        "MOSTLY_F16",
        ModelFileError,
        'quantisation.file_type: expected "MOSTLY_F16", got "MOSTLY_Q4_1"',
    ),
    "a type of tensors more": (("quantisation", "tensors", "F16"), 1, ModelFileError, "F16: expected 1, got none"),
    "a number of tensors": (("quantisation", "tensors", "F32"), 2, ModelFileError, "F32: expected 2, got 1"),
    "a context": (("context_length",), None, ModelFileError, "context_length: expected none, got 4096"),
    "an engine": (("engine", "name"), "vllm", ConfigError, 'engine.name: expected "vllm", got "llama.cpp'),
    "a version": (("engine", "version"), "0", ConfigError, 'engine.version: expected "0", got '),
    "slots": (("engine", "arguments", "slots"), 9, ConfigError, "engine.arguments.slots: expected 9, got 4"),
    "one kind for another": (
        ("engine", "arguments", "kv_unified"),
        0,
        ConfigError,
        "engine.arguments.kv_unified: expected 0, got false",
    ),
    "an argument more": (
        ("engine", "arguments", "seed"),
        1,
        ConfigError,
        "engine.arguments.seed: expected 1, got none",
    ),
    "a source": (("source",), "catalogue:x", ConfigError, 'source: expected "catalogue:x", got "file"'),
    "a licence": (("licence",), None, ConfigError, 'licence: expected none, got "mit"'),
    "an alias": (("aliases",), [], ConfigError, 'aliases: expected [], got ["bee"]'),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_each_difference_is_told(built: Manifest, name: str) -> None:
    steps, value, error, message = DIFFERENCES[name]
    whole = json.loads(built.document())
    place: Any = whole["models"][1]
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = value
    with pytest.raises(error) as caught:
        check_bytes(json.dumps(whole).encode(), built, where="m.json")
    assert str(caught.value).startswith("m.json: model b: ")
    assert message in str(caught.value)


def test_files_more_and_less(built: Manifest) -> None:
    first, second = built.models
    bare = structs.replace(built, models=(first, structs.replace(second, files=second.files[:1])))
    with pytest.raises(ModelFileError, match=r'model b: files: expected \["weights tiny.gguf"\], got \[.*projector'):
        check_bytes(bare.document(), built)
    with pytest.raises(ModelFileError, match=r'got \["weights tiny.gguf"\]'):
        check_bytes(built.document(), bare)


def test_models_more_and_less(built: Manifest) -> None:
    one = build(built.models[:1])
    with pytest.raises(ConfigError, match="model b: expected, but not served; got a"):
        check_bytes(built.document(), one)
    with pytest.raises(ConfigError, match="model b: served, but not expected; expected a"):
        check_bytes(one.document(), built)


def test_the_files_are_told_before_what_follows_from_them(path: Path, built: Manifest) -> None:
    path.write_bytes(whole(*PAIRS[:6]))
    with pytest.raises(ModelFileError, match=r"model a: file tiny\.gguf\.sha256"):
        check_bytes(built.document(), build([entry(path, id="a"), built.models[1]]))


def test_one_flipped_bit_is_refused(path: Path) -> None:
    given = build([entry(path)]).document()
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ModelFileError, match=r"file tiny\.gguf\.sha256: expected"):
        check_bytes(given, build([entry(path)]))


NOT_GIVEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "not there": (lambda path: None, "can't be read: No such file"),
    "a folder": (lambda path: path.mkdir(), "can't be read"),
    "empty": (lambda path: path.touch(), "invalid manifest: not JSON"),
    "something else": (lambda path: path.write_text("[]"), "invalid manifest: "),
    "of another version": (
        lambda path: path.write_text('{"manifest_version": "confide-manifest/3", "models": []}'),
        "manifest_version",
    ),
}


@pytest.mark.parametrize("name", NOT_GIVEN)
def test_no_manifest_to_check_by(built: Manifest, tmp_path: Path, name: str) -> None:
    make, message = NOT_GIVEN[name]
    make(tmp_path / "given.json")
    with pytest.raises(ConfigError, match=message) as caught:
        check(tmp_path / "given.json", built)
    assert str(tmp_path / "given.json") in str(caught.value)


# The engine ----------------------------------------------------------------------------------------------------------


class Library:
    """Stands in for llama.cpp's library: keeps the parameters that it is given."""

    __version__ = metadata.version("xllamacpp")

    def __init__(self) -> None:
        self.given = SimpleNamespace()

    def CommonParams(self) -> SimpleNamespace:  # noqa: N802
        parts = ("model", "mmproj", "cpuparams", "cpuparams_batch")
        self.given = SimpleNamespace(**{part: SimpleNamespace() for part in parts})
        return self.given

    def Server(self, params: SimpleNamespace) -> object:  # noqa: N802
        assert params is self.given
        return object()


@pytest.mark.parametrize("chosen", [{}, {"slots": 2, "threads": 3, "context_length": 512}, {"context_length": 99999}])
def test_what_is_told_is_what_the_engine_is_given(
    path: Path, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, int]
) -> None:
    library = Library()
    monkeypatch.setitem(sys.modules, "xllamacpp", library)
    model = EmbeddedModel(path, projector=path, **chosen)
    told = entry(path, arguments=model)
    engine, given = EmbeddedEngine(model), library.given
    assert (told.engine.name, told.engine.version) == (engine.info.engine, engine.info.version)
    assert told.engine.arguments["context_length"] == engine.info.context_length
    assert told.engine.arguments == {
        "slots": given.n_parallel,
        "context_length": given.n_ctx // given.n_parallel,
        "batch": given.n_batch,
        "threads": given.cpuparams.n_threads,
        "kv_unified": given.kv_unified,
        "prefill_assistant": given.prefill_assistant,
    }
    assert (given.n_ubatch, given.cpuparams_batch.n_threads) == (given.n_batch, given.cpuparams.n_threads)
    assert (given.model.path, given.mmproj.path) == (str(path), str(path))
    asyncio.run(engine.close())


def test_the_version_is_the_librarys() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import xllamacpp; print(xllamacpp.__version__)"], capture_output=True, text=True
    )
    assert told.stdout.strip() == metadata.version("xllamacpp")


def test_no_library() -> None:
    with pytest.raises(ModelFileError, match="embedded engine is not installed"):
        _version("no-such-library-as-this")


# The real model ------------------------------------------------------------------------------------------------------


def test_the_real_model(smollm2: LocalModel) -> None:
    model = EmbeddedModel(smollm2.path, slots=1, threads=2, context_length=512)
    told = describe(smollm2, id=smollm2.id, source=smollm2.id, aliases=(), arguments=model)
    assert (told.files[0].sha256, told.files[0].size) == (smollm2.sha256, smollm2.path.stat().st_size)
    assert told.quantisation.tensors == {"Q4_1": 210, "F32": 61, "Q8_0": 1}
    assert (told.quantisation.file_type, told.architecture, told.licence) == ("MOSTLY_Q4_1", "llama", "Apache-2.0")
    assert (told.source, told.context_length) == ("catalogue:smollm2-135m-instruct", 8192)
    assert (told.tokenizer, told.chat_template) == by_the_reference(smollm2.path)


def by_the_reference(path: Path) -> tuple[str, str]:
    """The two digests by the definition in :mod:`confide.wire.manifest`, read with llama.cpp's own package."""
    tokenizer, template = hashlib.sha256(), ""
    for field in reference.GGUFReader(path).fields.values():
        if field.name == "tokenizer.chat_template":
            template = field.contents()
        elif field.name.startswith("tokenizer."):
            for part in field.parts:
                tokenizer.update(part.tobytes())
    return f"sha256:{tokenizer.hexdigest()}", sha256(template.encode())
