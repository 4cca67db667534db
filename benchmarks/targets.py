"""What is measured: programs that are started, pinned to a core, looked at from outside, and ended."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks import upstream
from benchmarks.load import Target

GATEWAY_CORE: Final = frozenset({0})
LOAD_CORE: Final = frozenset({1})
START_SECONDS: Final = 60
_ROOT: Final = Path(__file__).resolve().parent.parent

_NGINX: Final = """daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
error_log stderr crit;
pid {folder}/nginx.pid;
events {{ worker_connections {files}; }}
http {{
    access_log off;
    client_max_body_size 64m;
    client_body_buffer_size 2m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream engine {{
        server 127.0.0.1:{upstream};
        keepalive 1024;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        keepalive_requests 100000000;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""


def files_allowed() -> int:
    """How many files a process may open here; the limit is raised as far as it goes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pin(cores: frozenset[int]) -> None:
    """Keep this process, and what it starts from now on, on some cores, where the machine has them."""
    have = os.cpu_count() or 1
    if have > max(GATEWAY_CORE | LOAD_CORE):
        os.sched_setaffinity(0, cores)


# Accounts ------------------------------------------------------------------------------------------------------------


def tree(root: int) -> list[int]:
    """A process and its descendants."""
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def cpu_seconds(root: int) -> float:
    """What a process tree has used: the scheduler's account of its threads, in nanoseconds."""
    return sum(int(task.read_text().split()[0]) for pid in tree(root) for task in _tasks(pid)) / 1e9


def _tasks(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").glob("*/schedstat"))


def busy_seconds() -> float:
    """What all cores of the machine have worked since it started, for whomever, or were kept from by its host."""
    user, nice, system, _idle, _waiting, *rest = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def resident(root: int) -> float:
    """Megabytes of memory of a process tree."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in tree(root))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def sync_seconds(folder: Path, times: int = 50) -> list[float]:
    """How long it takes to have 4 KB on the disk, again and again."""
    taken = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(times):
            begun = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - begun)
    return taken


# Programs ------------------------------------------------------------------------------------------------------------


@dataclass
class Gateway(Target):
    """One that is measured; ``pid`` is the root of its processes, 0 for the upstream itself."""

    pid: int = 0

    def cpu(self) -> float:
        """Seconds used until now."""
        return cpu_seconds(self.pid) if self.pid else 0.0


@contextmanager
def program(command: Sequence[str], log: Path, cores: frozenset[int] | None, **more: str) -> Iterator[int]:
    """Run a program for as long as the context lasts, on these cores; gives its process id."""
    before = os.sched_getaffinity(0)
    if cores is None:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    else:
        pin(cores)
    try:
        with log.open("wb") as out:
            process = subprocess.Popen(command, cwd=_ROOT, env=os.environ | more, stdout=out, stderr=subprocess.STDOUT)
    finally:
        os.sched_setaffinity(0, before)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(ready: Callable[[], bool], log: Path) -> None:
    """Wait until a program answers.

    Raises:
        RuntimeError: it doesn't, with what it said.
    """
    until = time.monotonic() + START_SECONDS
    while not ready():
        if time.monotonic() > until:
            raise RuntimeError(f"a program did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.05)


def listening(port: int) -> bool:
    """Whether somebody takes connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def engine(folder: Path) -> Iterator[Gateway]:
    """The upstream; asked directly, it is what latency is measured against."""
    port, log = free_port(), folder / "upstream.log"
    with program([sys.executable, "-m", "benchmarks.upstream", str(port)], log, LOAD_CORE):
        wait_for(lambda: listening(port), log)
        yield Gateway("direct", port)


@contextmanager
def floor(folder: Path, upstream_port: int) -> Iterator[Gateway]:
    """The yardstick."""
    port, log, key = free_port(), folder / "floor.log", "sk-floor-0123456789abcdef0123456789abcdef"
    command = [sys.executable, "-m", "benchmarks.floor", str(port), str(upstream_port), key]
    with program(command, log, GATEWAY_CORE) as pid:
        wait_for(lambda: listening(port), log)
        yield Gateway("floor", port, key, pid=pid)


@contextmanager
def nginx(folder: Path, upstream_port: int) -> Iterator[Gateway]:
    """nginx without buffering, which proves nothing."""
    port, log = free_port(), folder / "nginx.log"
    settings = folder / "nginx.conf"
    settings.write_text(
        _NGINX.format(folder=folder, upstream=upstream_port, port=port, files=min(files_allowed(), 20_000))
    )
    command = [shutil.which("nginx") or "nginx", "-p", str(folder), "-c", str(settings)]
    with program(command, log, GATEWAY_CORE) as pid:
        wait_for(lambda: listening(port), log)
        yield Gateway("nginx", port, pid=pid)


@contextmanager
def confide(
    folder: Path,
    upstream_port: int,
    *,
    name: str = "confide",
    serve: Sequence[str] = (sys.executable, "-m", "benchmarks.lasting"),
    workers: int = 1,
    cores: frozenset[int] | None = GATEWAY_CORE,
    **env: str,
) -> Iterator[Gateway]:
    """Our server, attached to the upstream, with keys, and a store in a folder of its own."""
    folder = folder / name
    folder.mkdir()
    port, log, data = free_port(), folder / "log", {"CONFIDE_DATA_DIR": str(folder / "data"), **env}
    keys = [*serve, "keys", "create", "bench"]
    made = subprocess.run(keys, cwd=_ROOT, env=os.environ | data, capture_output=True, text=True, check=True)
    key = next(word for word in made.stdout.split() if word.startswith("sk-"))
    settings = folder / "confide.toml"
    settings.write_text(
        f'[[model]]\nid = "{upstream.MODEL}"\nurls = ["http://127.0.0.1:{upstream_port}/v1"]\ndialect = "vllm"\n'
        "max_outstanding = 100000\n"
    )
    command = [*serve, "serve", "--tee", "dev", "--config", str(settings), "--port", str(port)]
    with program([*command, "--workers", str(workers)], log, cores, **data) as pid:
        wait_for(lambda: "Serving " in log.read_text(), log)
        yield Gateway(name, port, key, _seal_keys(port), pid)


def _seal_keys(port: int) -> dict[str, str]:
    """The public keys that requests can be sealed for."""
    url = f"http://127.0.0.1:{port}/v1"
    with httpx.Client(timeout=30) as client:
        report: dict[str, Any] = client.get(f"{url}/aci/attestation", params={"nonce": "0" * 64}).json()
        older = client.get(f"{url}/attestation/report", params={"nonce": "0" * 64, "signing_algo": "ed25519"}).json()
    keys = report["attestation"]["workload_keyset"]["e2ee_public_keys"]
    return {key["algo"]: key["public_key"] for key in keys} | {"older": older["signing_public_key"]}


def stored_digests(target: Target, receipt: str) -> tuple[str, str]:
    """What a receipt says of the request and the response, hex."""
    url = f"http://127.0.0.1:{target.port}/v1/aci/receipts/{receipt}"
    events = httpx.get(url, headers={"Authorization": f"Bearer {target.key}"}, timeout=10).json()["event_log"]
    told = {event["type"]: event.get("body_hash", "").removeprefix("sha256:") for event in events}
    return told["request.received"], told["response.returned"]


def has_nginx() -> bool:
    """Whether it is installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") is not None
