"""Manifests: one document for one set of models, and every other one refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from confide.wire import aci
from confide.wire.documents import Json
from confide.wire.manifest import (
    NOT_MEASURED,
    InvalidManifest,
    Manifest,
    ModelEntry,
    RemoteEntry,
    build,
    parse_manifest,
)

HEX = "0123456789abcdef" * 4
WEIGHTS = {"name": "tiny.gguf", "role": "weights", "sha256": HEX, "size": 98_362_432}
PROJECTOR = {"name": "mmproj-tiny.gguf", "role": "projector", "sha256": HEX[::-1], "size": 1}


def model(id: str = "tiny", **members: Any) -> Json:
    return {
        "id": id,
        "files": [WEIGHTS, PROJECTOR],
        "tokenizer": f"sha256:{HEX}",
        "chat_template": f"sha256:{HEX}",
        "architecture": "llama",
        "quantisation": {"file_type": "MOSTLY_Q4_1", "tensors": {"F32": 61, "Q4_1": 211}},
        "context_length": 8192,
        "engine": {
            "name": "an engine",
            "version": "1.0",
            "arguments": {"slots": 4, "prefill_assistant": False, "dtype": "auto"},
        },
        "source": "catalogue:tiny",
        "licence": "Apache-2.0",
        "aliases": [],
        **members,
    }


TOKENIZER = {"name": "sub/tokenizer.json", "role": "weights", "sha256": HEX, "size": 5}
SHARD = {"name": "model.safetensors", "role": "weights", "sha256": HEX, "size": 9}
TEMPLATE = {"name": "chat.jinja", "role": "argument", "sha256": HEX, "size": 1}


def child(id: str = "big", **members: Any) -> Json:
    return {
        **model(id),
        "runs": "child",
        "files": [SHARD, TOKENIZER, PROJECTOR, TEMPLATE],
        "engine": {
            "name": "vllm",
            "version": "0.32.0",
            "arguments": ["--chat-template", "/srv/chat.jinja", ""],
            "environment": {"VLLM_X": "1"},
        },
        "reached": ["unix"],
        "source": "file",
        **members,
    }


def attached(id: str = "far", **members: Any) -> Json:
    return {
        **child(id),
        "runs": "attached",
        "files": [],
        **dict.fromkeys(("tokenizer", "chat_template", "architecture", "quantisation", "context_length", "licence")),
        "engine": {"name": "vllm", "version": "0.32.0", "arguments": [], "environment": {}},
        "reached": ["http", "unix"],
        "source": NOT_MEASURED,
        **members,
    }


def second(*models: Json, **members: Any) -> Json:
    return {"manifest_version": "confide-manifest/2", "models": list(models or [child()]), **members}


def document(*models: Json, **members: Any) -> Json:
    return {"manifest_version": "confide-manifest/1", "models": list(models or [model()]), **members}


def parsed(value: Any) -> Manifest:
    return parse_manifest(json.dumps(value).encode())


ACCEPTED: dict[str, Json] = {
    "one model": document(),
    "two models": document(model("a", aliases=["B", "c"]), model("b", aliases=["d"])),
    "without a projector": document(model(files=[WEIGHTS])),
    "weights in parts": document(model(files=[WEIGHTS, {**WEIGHTS, "name": "more.gguf"}, PROJECTOR])),
    "a projector of the same name": document(model(files=[WEIGHTS, {**PROJECTOR, "name": "tiny.gguf"}])),
    "an empty file": document(model(files=[{**WEIGHTS, "size": 0}])),
    "what isn't known": document(model(chat_template=None, context_length=None, licence=None)),
    "no file type": document(model(quantisation={"file_type": None, "tensors": {}})),
    "no arguments": document(model(engine={"name": "e", "version": "1", "arguments": {}})),
    "a child": second(),
    "an attached engine": second(attached()),
    "all kinds": second(child("a"), attached("b", aliases=["x"]), model("c")),
    "a child of which nothing is read": second(
        child(**dict.fromkeys(("tokenizer", "chat_template", "architecture", "quantisation", "context_length")))
    ),
    "a child with one file": second(child(files=[SHARD])),
    "a file in folders": second(child(files=[{**SHARD, "name": "a/b/c d"}])),
    "engines everywhere": second(attached(reached=["http", "https", "loopback", "unix"])),
    "a name in another script": document(model(files=[{**WEIGHTS, "name": "模型 1.gguf"}])),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    manifest = parsed(ACCEPTED[name])
    assert json.loads(manifest.document()) == ACCEPTED[name]
    assert parse_manifest(manifest.document()) == manifest
    assert build(manifest.models) == manifest


def test_the_digest_is_of_the_canonical_bytes() -> None:
    value = document()
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    manifest = parse_manifest(json.dumps(value, indent=3).encode())
    assert manifest.document() == canonical
    assert manifest.digest() == "sha256:" + hashlib.sha256(canonical).hexdigest()
    assert aci.subject_manifest(aci.manifest_subject(manifest.digest())) == manifest.digest()


def test_the_order_of_the_models_is_nobodys_choice() -> None:
    first, second = parsed(document(model("a"), model("b"))).models
    assert build([second, first]).document() == build([first, second]).document()


def entry(**members: Any) -> ModelEntry:
    return replace(parsed(document()).models[0], **members)


@pytest.mark.parametrize(
    ("models", "reason"),
    [
        ([], "no model"),
        ([entry(), entry()], "two models are called 'tiny'"),
        ([entry(architecture="")], "architecture"),
        ([entry(context_length=2**60)], "context_length"),
        ([entry(licence="\udcff")], "lone surrogate"),
        ([entry(aliases=("b", "a"))], "aren't in order"),
    ],
)
def test_what_could_not_be_read_is_not_built(models: list[ModelEntry], reason: str) -> None:
    with pytest.raises(InvalidManifest, match=reason):
        build(models)


Change = Callable[[Json], object]


def put(value: Any, *path: str | int) -> Change:
    def change(whole: Any) -> None:
        for step in path[:-1]:
            whole = whole[step]
        whole[path[-1]] = value

    return change


def without(*path: str | int) -> Change:
    def change(whole: Any) -> None:
        for step in path[:-1]:
            whole = whole[step]
        del whole[path[-1]]

    return change


def of_model(value: Any, *path: str | int) -> Change:
    return put(value, "models", 0, *path)


REFUSED: dict[str, tuple[Change, str]] = {
    "another version": (put("confide-manifest/3", "manifest_version"), "manifest_version"),
    "a later version than needed": (put("confide-manifest/2", "manifest_version"), "a model with an engine of its own"),
    "no version": (without("manifest_version"), "manifest_version"),
    "no models": (without("models"), "models"),
    "an empty list of models": (put([], "models"), "lists no model"),
    "models by id": (put({}, "models"), "models"),
    "a member of nobody's": (put(1, "note"), "unknown field `note`"),
    "a member of nobody's in a model": (of_model(1, "note"), "unknown field `note`"),
    "a member of nobody's in a file": (of_model(1, "files", 0, "path"), "unknown field `path`"),
    "a member of nobody's in the engine": (of_model("x", "engine", "host"), "unknown field `host`"),
    "a member of nobody's in the quantisation": (of_model(4, "quantisation", "bits"), "unknown field `bits`"),
    **{f"without {member}": (without("models", 0, member), f"`{member}`") for member in model()},
    **{f"a file without {member}": (without("models", 0, "files", 0, member), f"`{member}`") for member in WEIGHTS},
    "an empty id": (of_model("", "id"), "id"),
    "an id that ends its line": (of_model("tiny\n", "id"), "id"),
    "an id too long": (of_model("x" * 129, "id"), "id"),
    "an alias that is no id": (of_model(["a b"], "aliases"), "aliases"),
    "its own alias": (of_model(["tiny"], "aliases"), "two models are called 'tiny'"),
    "an alias twice": (of_model(["a", "a"], "aliases"), "two models are called 'a'"),
    "aliases not in order": (of_model(["b", "a"], "aliases"), "the aliases of 'tiny' aren't in order"),
    "a model twice": (put([model(), model()], "models"), "two models are called 'tiny'"),
    "models not in order": (put([model("b"), model("a")], "models"), "the models aren't in order"),
    "an alias of another model's name": (put([model("a", aliases=["b"]), model("b")], "models"), "are called 'b'"),
    "no files": (of_model([], "files"), "aren't weights"),
    "a projector only": (of_model([PROJECTOR], "files"), "aren't weights"),
    "the projector first": (of_model([PROJECTOR, WEIGHTS], "files"), "aren't weights"),
    "two projectors": (of_model([WEIGHTS, PROJECTOR, {**PROJECTOR, "name": "x"}], "files"), "at most one projector"),
    "a file twice": (of_model([WEIGHTS, WEIGHTS], "files"), "lists a file twice"),
    "another role": (of_model("adapter", "files", 0, "role"), "role"),
    "a path": (of_model("models/tiny.gguf", "files", 0, "name"), "name"),
    "the folder above": (of_model("..", "files", 0, "name"), "a file without a name"),
    "a file name with a control character": (of_model("a\x1b[2J", "files", 0, "name"), "name"),
    "a file name that ends its line": (of_model("a\n", "files", 0, "name"), "name"),
    "an empty file name": (of_model("", "files", 0, "name"), "name"),
    "half a hash": (of_model(HEX[:32], "files", 0, "sha256"), "sha256"),
    "a hash in capitals": (of_model(HEX.upper(), "files", 0, "sha256"), "sha256"),
    "a hash with its name": (of_model(f"sha256:{HEX}", "files", 0, "sha256"), "sha256"),
    "a size below nothing": (of_model(-1, "files", 0, "size"), "size"),
    "a size in words": (of_model("1", "files", 0, "size"), "size"),
    "a size with a fraction": (of_model(1.5, "files", 0, "size"), "size"),
    "a digest without its name": (of_model(HEX, "tokenizer"), "tokenizer"),
    "no digest of the tokenizer": (of_model(None, "tokenizer"), "tokenizer"),
    "a digest of another kind": (of_model(f"sha512:{HEX}", "chat_template"), "chat_template"),
    "an empty architecture": (of_model("", "architecture"), "architecture"),
    "no context": (of_model(0, "context_length"), "context_length"),
    "a type of no tensors": (of_model({"F32": 0}, "quantisation", "tensors"), "tensors"),
    "a type without a name": (of_model({"": 1}, "quantisation", "tensors"), "tensors"),
    "an argument with a fraction": (of_model(0.5, "engine", "arguments", "temperature"), "arguments"),
    "an argument that is a list": (of_model([1], "engine", "arguments", "gpus"), "arguments"),
    "an argument that is null": (of_model(None, "engine", "arguments", "seed"), "arguments"),
    "an engine without a version": (of_model("", "engine", "version"), "version"),
    "an empty source": (of_model("", "source"), "source"),
    "a licence of a whole book": (of_model("x" * 4097, "licence"), "licence"),
    "a lone surrogate": (of_model("\ud800", "source"), "lone surrogate"),
}


REFUSED_CHILDREN: dict[str, tuple[Change, str]] = {
    "an earlier version than needed": (put("confide-manifest/1", "manifest_version"), "models[0]"),
    "no models": (put([], "models"), "lists no model"),
    "a model that is a text": (put(["x"], "models"), "models"),
    "a member of nobody's": (put(1, "note"), "unknown field `note`"),
    "a member of nobody's in a model": (of_model(1, "note"), "unknown field `note`"),
    "a member of nobody's in the engine": (of_model(1, "engine", "note"), "unknown field `note`"),
    "another way to run": (of_model("embedded", "runs"), "runs"),
    "no way to run": (of_model(None, "runs"), "runs"),
    **{
        f"without {member}": (without("models", 0, member), "" if member == "runs" else f"`{member}`")
        for member in child()
    },
    "an attached engine that lists files": (of_model("attached", "runs"), "nothing was measured"),
    "no files": (of_model([], "files"), "aren't weights"),
    "files not in order": (of_model([TOKENIZER, SHARD], "files"), "aren't weights"),
    "roles not in order": (of_model([SHARD, TEMPLATE, PROJECTOR], "files"), "aren't weights"),
    "no weights": (of_model([PROJECTOR], "files"), "aren't weights"),
    "two projectors": (of_model([SHARD, PROJECTOR, {**PROJECTOR, "name": "x"}], "files"), "aren't weights"),
    "a file twice": (of_model([SHARD, SHARD], "files"), "lists a file twice"),
    "a path from the root": (of_model("/etc/passwd", "files", 0, "name"), "name"),
    "a path that ends in nothing": (of_model("a/", "files", 0, "name"), "name"),
    "an empty folder's name": (of_model("a//b", "files", 0, "name"), "name"),
    "a way out": (of_model("../model", "files", 0, "name"), "a file without a name"),
    "a way back": (of_model("a/../model", "files", 0, "name"), "a file without a name"),
    "a file of another role": (of_model("tokenizer", "files", 0, "role"), "role"),
    "arguments by name": (of_model({"slots": 4}, "engine", "arguments"), "arguments"),
    "an argument that is a number": (of_model([4], "engine", "arguments"), "arguments"),
    "a variable that is a number": (of_model({"A": 1}, "engine", "environment"), "environment"),
    "no way to the engine": (of_model([], "reached"), "aren't each told once"),
    "a way twice": (of_model(["unix", "unix"], "reached"), "aren't each told once"),
    "ways not in order": (of_model(["unix", "http"], "reached"), "aren't each told once"),
    "a way that isn't known": (of_model(["carrier pigeon"], "reached"), "reached"),
    "a lone surrogate": (of_model(["\ud800"], "engine", "arguments"), "lone surrogate"),
    "an alias of its own": (of_model(["big"], "aliases"), "two models are called 'big'"),
}


@pytest.mark.parametrize("name", REFUSED_CHILDREN)
def test_refused_in_the_second_version(name: str) -> None:
    change, reason = REFUSED_CHILDREN[name]
    value = deepcopy(second())
    change(value)
    with pytest.raises(InvalidManifest) as caught:
        parsed(value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("files", [SHARD]),
        ("tokenizer", f"sha256:{HEX}"),
        ("chat_template", f"sha256:{HEX}"),
        ("architecture", "llama"),
        ("quantisation", {"file_type": None, "tensors": {}}),
        ("context_length", 1),
        ("licence", "mit"),
        ("source", "file"),
    ],
)
def test_nothing_is_said_of_an_attached_engine_that_nobody_saw(member: str, value: Any) -> None:
    with pytest.raises(InvalidManifest, match="of an attached engine"):
        parsed(second(attached(**{member: value})))


def test_a_version_is_not_anybodys_choice() -> None:
    embedded, started = parsed(document()).models[0], parsed(second()).models[0]
    assert isinstance(started, RemoteEntry)
    assert build([embedded]).manifest_version == "confide-manifest/1"
    assert build([started, embedded]).manifest_version == "confide-manifest/2"
    assert json.loads(build([started, embedded]).document())["models"][1] == model()


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    change, reason = REFUSED[name]
    value = deepcopy(document())
    change(value)
    with pytest.raises(InvalidManifest) as caught:
        parsed(value)
    assert reason in str(caught.value)
    assert str(caught.value).startswith("invalid manifest: ")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b'{"manifest_version":"confide-manifest/1","models":[]',
        b'{"models":[],"models":[]}',
        json.dumps(document()).encode("utf-16"),
        json.dumps(document()).encode() + b"x",
        b"[" * 100_000,
    ],
)
def test_what_is_no_document(data: bytes) -> None:
    with pytest.raises(InvalidManifest):
        parse_manifest(data)


def test_more_is_refused_than_accepted() -> None:
    assert len(REFUSED) + len(REFUSED_CHILDREN) > 5 * len(ACCEPTED)


WHOLE = parsed(document()).document()
ENGINES = parsed(second(child("a"), attached("b"), model("c"))).document()


@given(st.sampled_from([WHOLE, ENGINES]), st.integers(0, len(ENGINES) - 1), st.integers(0, 9), st.binary(max_size=9))
def test_no_damage_raises_anything_else(whole: bytes, at: int, gone: int, new: bytes) -> None:
    damaged = whole[:at] + new + whole[at + gone :]
    try:
        manifest = parse_manifest(damaged)
    except InvalidManifest:
        return
    assert parse_manifest(manifest.document()) == manifest
