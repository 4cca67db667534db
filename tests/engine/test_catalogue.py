from __future__ import annotations

import re
from pathlib import Path

import pytest

from confide.engine.catalogue import (
    CATALOGUE,
    DEFAULT,
    CatalogueModel,
    FileSource,
    HubSource,
    Source,
    resolve,
)
from confide.errors import ModelFileError


def test_the_default_is_in_the_catalogue() -> None:
    assert resolve(DEFAULT) is CATALOGUE[DEFAULT]
    assert set(CATALOGUE) == {"smollm2-135m-instruct", "qwen2.5-coder-0.5b"}


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=str)
def test_every_entry_is_whole(model: CatalogueModel) -> None:
    digests = [model.sha256, *(wheel.sha256 for wheel in model.wheels)]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    assert len(set(digests)) == len(digests)
    assert sum(wheel.member_size for wheel in model.wheels) == model.size
    assert model.file_name.endswith(".gguf")
    assert model.licence == "Apache-2.0"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf:owner/name/file.gguf", HubSource("owner/name", None, "file.gguf")),
        ("hf:owner/name/a/b/file.gguf", HubSource("owner/name", None, "a/b/file.gguf")),
        ("hf:owner/na.me@v1.0/a/file.gguf", HubSource("owner/na.me", "v1.0", "a/file.gguf")),
        ("/models/x.gguf", FileSource(Path("/models/x.gguf"))),
        ("x.gguf", FileSource(Path("x.gguf"))),
        ("./folder", FileSource(Path("folder"))),
        ("~/x.gguf", FileSource(Path.home() / "x.gguf")),
    ],
)
def test_sources(source: str, expected: Source) -> None:
    assert resolve(source) == expected
    if isinstance(expected, HubSource):
        assert str(expected) == source


@pytest.mark.parametrize(
    "source",
    [
        "hf:",
        "hf:owner",
        "hf:owner/name",
        "hf:owner/name/",
        "hf:owner/name/file.bin",
        "hf:owner/name@/file.gguf",
        "hf:owner/name/../../file.gguf",
        "hf:/name/file.gguf",
    ],
)
def test_hub_sources_that_are_refused(source: str) -> None:
    with pytest.raises(ModelFileError, match=r"expected hf:owner/name/file\.gguf"):
        resolve(source)


def test_a_name_nearly_right() -> None:
    with pytest.raises(ModelFileError, match="did you mean smollm2-135m-instruct\\?"):
        resolve("smollm2-135m")
    with pytest.raises(ModelFileError, match="the catalogue has smollm2"):
        resolve("zzz")
