"""Writes each folder's docker-compose.yaml, with its confide.toml inside: ``python deploy/dstack/write.py [--check]``.

dstack measures one file. So the settings of the server are in it, and not in a file beside it that could be changed.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Final, NamedTuple

FOLDER: Final = Path(__file__).parent
ZEROS: Final = "0" * 64


class Engine(NamedTuple):
    """A service beside the server. ``alone``: it has no network at all; else it shares the server's loopback."""

    name: str
    image: str
    words: tuple[str, ...]
    alone: bool = True
    gpus: bool = True


def vllm(*words: str, start: str = "") -> Engine:
    """vLLM 0.32 on a socket in a shared volume. It leaves its socket behind; only who has the volume can reach it."""
    image = "registry.example.com/vllm-ray" if start else "docker.io/vllm/vllm-openai"
    shell = f'rm -f /run/engine/vllm.sock && {start}umask 0 && exec vllm serve "$$@"'
    ours = ("--served-model-name", "acme/chat", "--uds", "/run/engine/vllm.sock", "--disable-uvicorn-access-log")
    return Engine("vllm", image, ("sh", "-c", shell, "vllm", "/models/chat", *ours, *words))


RAY: Final = (
    "ray start --head --node-ip-address=127.0.0.1 --include-dashboard=false --disable-usage-stats"
    " --temp-dir=/tmp/ray && "
)
"""One Ray cluster of one machine, which nothing outside of the container can reach."""


def sglang(number: int, gpus: int, *words: str) -> Engine:
    """SGLang 0.5.23 on a port of the loopback interface: it has no sockets."""
    first = number * gpus
    devices = ",".join(map(str, range(first, first + gpus)))
    start = f'CUDA_VISIBLE_DEVICES={devices} exec python3 -m sglang.launch_server "$$@"'
    where = ("--host", "127.0.0.1", "--port", str(30001 + number))
    model = ("--model-path", "/models/chat", "--served-model-name", "acme/chat", "--tp-size", str(gpus))
    command = ("sh", "-c", start, "sglang", *model, *where, *words)
    return Engine(f"sglang-{number}", "docker.io/lmsysorg/sglang", command, alone=False)


ROUTER: Final = Engine(
    "router",
    "docker.io/lmsysorg/sglang",
    (
        *("python3", "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", "30000"),
        *("--worker-urls", "http://127.0.0.1:30001", "http://127.0.0.1:30002", "--policy", "cache_aware"),
        *("--disable-retries", "--prometheus-host", "127.0.0.1", "--log-level", "warn"),
    ),
    alone=False,
    gpus=False,
)

VARIANTS: Final[dict[str, tuple[Engine, ...]]] = {
    "embedded": (),
    "vllm-tensor": (vllm("--tensor-parallel-size", "8"),),
    "vllm-pipeline-ray": (
        vllm(
            *("--tensor-parallel-size", "4", "--pipeline-parallel-size", "2", "--distributed-executor-backend", "ray"),
            start=RAY,
        ),
    ),
    "vllm-data-ray": (
        vllm(
            *("--tensor-parallel-size", "2", "--data-parallel-size", "4", "--data-parallel-size-local", "4"),
            *("--data-parallel-backend", "ray"),
            start=RAY,
        ),
    ),
    "sglang-replicas": (sglang(0, 4), sglang(1, 4)),
    "sglang-router": (sglang(0, 4, "--disable-radix-cache"), sglang(1, 4, "--disable-radix-cache"), ROUTER),
}
"""Folders, and what runs beside the server in each. The numbers are for one machine with eight GPUs."""


def compose(name: str) -> str:
    """The compose file of a folder."""
    engines = VARIANTS[name]
    is_shared = any(not engine.alone for engine in engines)
    mounts = ["data:/var/lib/confide", "cache:/var/cache/confide"]
    mounts += ["engine:/run/engine"] if engines and not is_shared else []
    volumes = [mount.partition(":")[0] for mount in mounts] + (["models"] if engines else [])
    services = [_server(mounts, is_shared=is_shared, gpus=bool(engines))]
    services += [_LOOPBACK] if is_shared else []
    services += [_weights(engines[0])] if engines else []
    services += [_engine(engine) for engine in engines]
    return f"""{_HEAD}services:
{chr(10).join(services)}
configs:
  settings:
    content: |
{textwrap.indent((FOLDER / name / "confide.toml").read_text(), " " * 6).rstrip()}
{_WEIGHTS if engines else ""}
volumes:
{chr(10).join(f"  {volume}: {{}}" for volume in volumes)}
"""


_HEAD: Final = """\
# Written by deploy/dstack/write.py. dstack takes this file as it is, inside app-compose.json: docs/how-to/dstack.md.
# Every image is named by its digest, because this file is what is measured, and a tag could be moved. The digests of
# zeros are placeholders that no registry has: put in those of the images that you reviewed.
"""

_HARD: Final = """\
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    ulimits: {core: 0}
"""

_PORTS: Final = """    ports: ["8443:8443"]  # TLS ends in the server; nothing else is published
"""

_LOOPBACK: Final = f"""\
  # Holds the network interfaces that server and engines share, so that each of them can be restarted.
  loopback:
    image: registry.example.com/confide@sha256:{ZEROS}
    user: "10001:10001"
    read_only: true
    restart: unless-stopped
    entrypoint: [sleep, infinity]
{_HARD}{_PORTS}"""

_WEIGHTS: Final = """\
  # SHA-256 and path of each file of the model, as sha256sum writes them. It is measured with this file.
  weights:
    content: |
      0000000000000000000000000000000000000000000000000000000000000000  chat/model.safetensors
"""


def _server(mounts: list[str], *, is_shared: bool, gpus: bool) -> str:
    """The server. It needs the GPUs' management library, for their evidence."""
    network = '    network_mode: "service:loopback"\n' if is_shared else _PORTS
    return f"""\
  confide:
    image: registry.example.com/confide@sha256:{ZEROS}
    user: "10001:10001"
    read_only: true
    restart: unless-stopped  # it ends while no engine answers, and is started again
    stop_grace_period: 60s
{_HARD}{network}    volumes:
      - /var/run/dstack.sock:/var/run/dstack.sock
{_list(mounts)}
    tmpfs: ["/tmp:size=64m,mode=1777"]
    configs:
      - {{source: settings, target: /etc/confide/confide.toml}}
{_gpus("gpu, utility") if gpus else ""}"""


def _weights(engine: Engine) -> str:
    """Fetches the model, and lets engines start only if it is the one that was measured."""
    return f"""\
  fetch:
    image: {engine.image}@sha256:{ZEROS}
    entrypoint: []
    command: [hf, download, ACME/CHAT, --revision, COMMIT, --local-dir, /models/chat]
    volumes: ["models:/models"]
{_HARD}
  weights:
    image: registry.example.com/confide@sha256:{ZEROS}
    depends_on:
      fetch: {{condition: service_completed_successfully}}
    network_mode: none
    read_only: true
    working_dir: /models
    entrypoint: [sha256sum, --check, --strict, /etc/confide/weights.sha256]
    command: []
    volumes: ["models:/models:ro"]
    configs:
      - {{source: weights, target: /etc/confide/weights.sha256}}
{_HARD}"""


def _engine(engine: Engine) -> str:
    network = "none" if engine.alone else "service:loopback"
    mounts = ["engine:/run/engine"] * engine.alone + ["models:/models:ro"]
    words = "\n".join(f"      - {_quoted(word)}" for word in engine.words)
    return f"""\
  {engine.name}:
    image: {engine.image}@sha256:{ZEROS}
    depends_on:
      weights: {{condition: service_completed_successfully}}
    network_mode: "{network}"
    shm_size: 16g
    restart: unless-stopped
{_HARD}    logging: {{driver: none}}  # engines print prompts when they fail
    environment:
      HF_HUB_OFFLINE: "1"
      VLLM_NO_USAGE_STATS: "1"
      VLLM_HOST_IP: 127.0.0.1
      NCCL_SOCKET_IFNAME: lo
      GLOO_SOCKET_IFNAME: lo
    volumes:
{_list(mounts)}
    entrypoint: []
    command:
{words}
{_gpus("gpu") if engine.gpus else ""}"""


def _gpus(capabilities: str) -> str:
    return f"""    deploy:
      resources:
        reservations:
          devices:
            - {{driver: nvidia, count: all, capabilities: [{capabilities}]}}
"""


def _list(items: list[str]) -> str:
    return "\n".join(f"      - {item}" for item in items)


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


def main() -> int:
    """Write the files; with ``--check``, only say whether they are as they must be."""
    files = {FOLDER / name / "docker-compose.yaml": compose(name) for name in VARIANTS}
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        return int(bool(stale))
    for path in stale:
        path.write_text(files[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
