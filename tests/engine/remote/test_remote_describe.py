"""What a manifest says of models whose engines are processes of their own, and the refusal of other ones."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.engine.test_gguf import PAIRS, STRING, U32, pair
from tests.engine.test_model_manifest import split, whole

from confide.engine import manifest
from confide.engine.base import EngineInfo
from confide.engine.remote import describe
from confide.engine.remote.child import ChildProgram
from confide.errors import ConfigError, ModelFileError
from confide.wire.manifest import NOT_MEASURED, RemoteEntry


def hexed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(data: bytes) -> str:
    return f"sha256:{hexed(data)}"


def tensors(**dtypes: str) -> bytes:
    header = {name: {"dtype": dtype, "shape": [1], "data_offsets": [0, 2]} for name, dtype in dtypes.items()}
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(2)


FILES: dict[str, bytes] = {
    "config.json": b'{"architectures": ["QwenForCausalLM"], "max_position_embeddings": 32768}',
    "model-00001-of-00002.safetensors": tensors(a="BF16", b="BF16"),
    "model-00002-of-00002.safetensors": tensors(c="F32"),
    "tokenizer.json": b'{"model": {}}',
    "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
    "1_Pooling/config.json": b"{}",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path / "qwen", FILES)


def filled(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def entry(weights: Path, **members: Any) -> RemoteEntry:
    program = ChildProgram(engine="vllm", weights=weights, name="org/qwen", **members)
    return described(program)


def described(program: ChildProgram) -> RemoteEntry:
    measured = describe.measure(program)
    return describe.child(program, measured, aliases=("z", "a"), url="unix:/s", engine="vLLM", version="0.32.0")


def test_a_child_and_all_its_files(folder: Path) -> None:
    told = entry(folder, arguments=("--max-model-len", "4096"), environment={"VLLM_X": "1"})
    built = manifest.build([told])
    assert built.manifest_version == "confide-manifest/2"
    assert json.loads(built.document())["models"][0] == {
        "runs": "child",
        "id": "org/qwen",
        "files": [
            {"name": name, "role": "weights", "sha256": hexed(data), "size": len(data)}
            for name, data in sorted(FILES.items())
        ],
        "tokenizer": digest(FILES["tokenizer.json"]),
        "chat_template": digest(b"{{ messages }}"),
        "architecture": "QwenForCausalLM",
        "quantisation": {"file_type": None, "tensors": {"BF16": 2, "F32": 1}},
        "context_length": 32768,
        "engine": {
            "name": "vLLM",
            "version": "0.32.0",
            "arguments": ["--max-model-len", "4096"],
            "environment": {"VLLM_X": "1"},
        },
        "reached": ["unix"],
        "source": "file",
        "licence": None,
        "aliases": ["a", "z"],
    }


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"chat_template.jinja": b"{{ jinja }}"}, b"{{ jinja }}"),
        ({"tokenizer_config.json": b"{}"}, None),
        ({"tokenizer_config.json": b'{"chat_template": 3}'}, None),
        (
            {"tokenizer_config.json": b'{"chat_template": [{"name": "rag"}, {"name": "default", "template": "d"}]}'},
            b"d",
        ),
        ({"tokenizer_config.json": b'{"chat_template": [3, {"name": "rag", "template": "r"}]}'}, None),
    ],
)
def test_the_template(folder: Path, more: dict[str, bytes], expected: bytes | None) -> None:
    told = entry(filled(folder, more)).chat_template
    assert told == (None if expected is None else digest(expected))


@pytest.mark.parametrize(
    ("config", "member", "expected"),
    [
        (b'{"architectures": []}', "architecture", None),
        (b'{"architectures": ["a\\nb"]}', "architecture", None),
        (b'{"architectures": 3}', "architecture", None),
        (b'{"text_config": {"max_position_embeddings": 7}}', "context_length", 7),
        (b'{"max_position_embeddings": -1}', "context_length", None),
        (b'{"max_position_embeddings": 1e99}', "context_length", None),
    ],
)
def test_what_a_configuration_says(folder: Path, config: bytes, member: str, expected: object) -> None:
    assert getattr(entry(filled(folder, {"config.json": config})), member) == expected


def test_how_it_is_quantised(folder: Path) -> None:
    filled(folder, {"config.json": b'{"quantization_config": {"quant_method": "awq"}}'})
    told = entry(folder).quantisation
    assert told is not None
    assert (told.file_type, told.tensors) == ("awq", {"BF16": 2, "F32": 1})


def test_a_folder_with_next_to_nothing(tmp_path: Path) -> None:
    told = entry(filled(tmp_path / "w", {"tokenizer.model": b"t", "pytorch_model.bin": b"x"}))
    assert (told.tokenizer, told.chat_template, told.architecture, told.quantisation) == (
        digest(b"t"),
        None,
        None,
        None,
    )
    manifest.build([told])


def test_files_that_begin_with_a_dot_are_left_out_and_links_to_files_are_followed(folder: Path, tmp_path: Path) -> None:
    before = entry(folder)
    filled(folder, {".cache/huggingface/x.lock": b"1", ".gitattributes": b"2"})
    assert entry(folder) == before
    blob = tmp_path / "blob"
    (folder / "tokenizer.json").rename(blob)
    (folder / "tokenizer.json").symlink_to(blob)
    assert entry(folder) == before


def test_files_that_the_words_name(folder: Path, tmp_path: Path) -> None:
    more = filled(tmp_path / "more", {"chat.jinja": b"t", "adapter/a.safetensors": b"l", "adapter/x/b.json": b"{}"})
    told = entry(
        folder,
        arguments=("--chat-template", f"{more}/chat.jinja", f"--lora={more}/adapter", "--seed", "1", "/no/such", "."),
    )
    assert [(file.name, file.sha256) for file in told.files if file.role == "argument"] == [
        ("adapter/a.safetensors", hexed(b"l")),
        ("adapter/x/b.json", hexed(b"{}")),
        ("chat.jinja", hexed(b"t")),
    ]


def test_a_gguf_file_in_parts_and_its_projector(tmp_path: Path) -> None:
    projector = tmp_path / "mmproj.gguf"
    projector.write_bytes(b"GGUF")
    told = entry(split(tmp_path, 2), projector=projector)
    assert [(file.role, file.name) for file in told.files] == [
        ("weights", "big-00001-of-00002.gguf"),
        ("weights", "big-00002-of-00002.gguf"),
        ("projector", "mmproj.gguf"),
    ]
    assert (told.architecture, told.context_length) == ("llama", 4096)
    assert told.tokenizer == digest(b"".join(PAIRS[4:7]))
    assert told.quantisation is not None
    assert told.quantisation.tensors == {"Q4_1": 4, "F32": 2}


def test_a_gguf_file_says_its_licence(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(whole(*PAIRS, pair("general.file_type", U32, 3), pair("general.license", STRING, "mit")))
    assert entry(path).licence == "mit"


def _linked(folder: Path) -> None:
    (folder / "more").symlink_to(folder.parent)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda folder: [path.unlink() for path in folder.rglob("*") if path.is_file()], "the folder has no file"),
    "a link to a folder": (_linked, "a link to a folder can't be measured"),
    "a link to nothing": (lambda folder: (folder / "x").symlink_to("nothing"), "expected a file"),
    "a pipe": (lambda folder: os.mkfifo(folder / "x"), "expected a file"),
    "no JSON": (lambda folder: filled(folder, {"config.json": b"{"}), "config.json: not JSON"),
    "JSON of another kind": (lambda folder: filled(folder, {"config.json": b"[]"}), "expected a JSON object"),
    "deep JSON": (lambda folder: filled(folder, {"config.json": b"[" * 100_000}), "config.json: not JSON"),
    "no safetensors": (lambda folder: filled(folder, {"x.safetensors": b"\xff" * 9}), "not a safetensors file"),
    "half a header": (lambda folder: filled(folder, {"x.safetensors": tensors(a="F32")[:20]}), "not JSON"),
    "not there": (lambda folder: folder.rename(folder.with_name("gone")), "No such file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_measured(folder: Path, name: str) -> None:
    change, message = WRONG[name]
    change(folder)
    with pytest.raises(ModelFileError, match=message):
        entry(folder)


# Attached ------------------------------------------------------------------------------------------------------------


def test_an_attached_engine_and_what_is_not_known_of_it() -> None:
    info = EngineInfo("vLLM", "0.32.0\n\x1b[2J", 1, 1, frozenset())
    told = describe.attached(id="m", aliases=("b", "a"), info=info, urls=["http://10.0.0.5:8001/v1", "unix:/run/s"])
    assert (told.runs, told.files, told.source) == ("attached", (), NOT_MEASURED)
    assert (told.engine.name, told.engine.version) == ("vLLM", "0.32.0[2J")
    assert told.reached == ("http", "unix")
    assert manifest.build([told]).manifest_version == "confide-manifest/2"


@pytest.mark.parametrize("said", ["", "\n", "x" * 1000])
def test_an_engine_that_says_odd_things_of_itself(said: str) -> None:
    info = EngineInfo(said, said, 1, 1, frozenset())
    manifest.build([describe.attached(id="m", aliases=(), info=info, urls=["unix:/s"])])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("unix:/run/vllm.sock", "unix"),
        ("https://engine.example/v1", "https"),
        ("https://127.0.0.1/v1", "https"),
        ("http://127.0.0.1:8001/v1", "loopback"),
        ("http://[::1]:8001/v1", "loopback"),
        ("http://localhost:8001/v1", "loopback"),
        ("http://10.0.0.5:8001/v1", "http"),
        ("http://localhost.example/v1", "http"),
    ],
)
def test_ways(url: str, expected: str) -> None:
    assert describe.way(url) == expected


# Checking ------------------------------------------------------------------------------------------------------------


def test_the_manifest_itself_passes(folder: Path) -> None:
    built = manifest.build([entry(folder)])
    manifest.check_bytes(built.document(), built)


Changed = Callable[[Path, ChildProgram], ChildProgram]


def _other_weights(folder: Path, program: ChildProgram) -> ChildProgram:
    filled(folder, {"model-00002-of-00002.safetensors": tensors(c="F16")})
    return program


def _one_more(folder: Path, program: ChildProgram) -> ChildProgram:
    filled(folder, {"modeling.py": b"import os"})
    return program


DIFFERENT: dict[str, tuple[Changed, type[Exception], str]] = {
    "weights": (_other_weights, ModelFileError, r"file model-00002-of-00002\.safetensors\.sha256: expected"),
    "one more file": (_one_more, ModelFileError, r"files: expected .* got .*weights modeling\.py"),
    "words": (
        lambda _, program: replace(program, arguments=("--seed", "2")),
        ConfigError,
        r'engine\.arguments: expected \["--seed","1"\], got \["--seed","2"\]',
    ),
    "variables": (
        lambda _, program: replace(program, environment={"A": "1"}),
        ConfigError,
        r'engine\.environment\.A: expected none, got "1"',
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_each_difference_is_told(folder: Path, tmp_path: Path, name: str) -> None:
    change, error, message = DIFFERENT[name]
    program = ChildProgram(engine="vllm", weights=folder, name="org/qwen", arguments=("--seed", "1"))
    given = tmp_path / "given.json"
    given.write_bytes(manifest.build([described(program)]).document())
    other = described(change(folder, program))
    with pytest.raises(error, match=message):
        manifest.check(given, manifest.build([other]))
    if error is ModelFileError:  # before the engine reads them
        with pytest.raises(error, match=message):
            manifest.check_files(given, other)
    else:
        manifest.check_files(given, other)


def test_another_way_to_run(folder: Path, tmp_path: Path) -> None:
    info = EngineInfo("vLLM", "1", 1, 1, frozenset())
    attached = manifest.build([describe.attached(id="org/qwen", aliases=(), info=info, urls=["unix:/s"])])
    child = manifest.build([entry(folder)])
    for expected, got, kinds in ((attached, child, "attached.*child"), (child, attached, "child.*attached")):
        with pytest.raises(ConfigError, match=f"runs: expected .{kinds}"):
            manifest.check_bytes(expected.document(), got)


def test_a_model_that_is_not_listed(folder: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.json"
    given.write_bytes(manifest.build([entry(folder)]).document())
    other = described(ChildProgram(engine="vllm", weights=folder, name="other"))
    with pytest.raises(ConfigError, match="model other: served, but not expected; expected org/qwen"):
        manifest.check_files(given, other)
