"""How each engine that we can start is started: its words, what it listens on, and which words are ours to give.

Where the words are defined: vLLM ``vllm/entrypoints/openai/cli_args.py``; SGLang ``srt/server_args.py``; llama.cpp
``common/arg.cpp`` (a host that ends in ``.sock`` is a unix socket); transformers ``cli/serve.py``. All but SGLang are
started with them by ``make test-engines``; a wrong one shows at the start, with what the engine says of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

Environment = Mapping[str, str]

_QUIET: Final = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""What is served was measured; nothing else is fetched, and nothing told to anybody."""

INHERITED: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"),
        *("CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
        *("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    }
)
"""The variables of ours that an engine gets: where programs, libraries and devices are. No key is among them."""

SECRET_NAME: Final = re.compile(r"(?i)(token|secret|password|credential|api_?key)")


@dataclass(frozen=True, slots=True)
class ChildProgram:
    """What to start. ``engine`` is a name of :data:`LAUNCHES`.

    ``name`` is what the engine shall call its model; ``command`` stands for the engine's own one, where it isn't empty;
    ``inherited`` are variables of ours, of which those named in :data:`INHERITED` go on;
    ``start_seconds`` is how long it may take until it is ready, each time.
    """

    engine: str
    weights: Path
    name: str
    projector: Path | None = None
    command: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    inherited: Mapping[str, str] = field(default_factory=dict, repr=False)
    start_seconds: float = 1800.0


@dataclass(frozen=True, slots=True)
class Launch:
    """One engine that can be started.

    Attributes:
        command: the words before all others, unless the operator has other ones.
        model: the word before the path of the weights; None where the path stands alone.
        named: the word before the name under which the engine shall serve the model; None where it can't be told.
        projector: the word before the path of a projector; None where the engine takes none.
        socket: the word before the path of a unix socket; None where the engine listens on TCP only.
        reserved: words that are ours to give, or would be published with a secret.
        environment: variables that every child of this kind gets.
    """

    command: tuple[str, ...]
    model: str | None
    named: str | None = None
    projector: str | None = None
    socket: str | None = None
    reserved: frozenset[str] = frozenset()
    environment: Environment = field(default_factory=dict)


_LISTENING: Final = frozenset({"--host", "--port", "--api-key", "--ssl-keyfile", "--ssl-certfile"})

LAUNCHES: Final[Mapping[str, Launch]] = {
    "vllm": Launch(
        ("vllm", "serve"),
        model=None,
        named="--served-model-name",
        socket="--uds",
        reserved=_LISTENING | {"--uds", "--model", "--served-model-name", "--root-path", "--enable-log-requests"},
        environment=_QUIET | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"},
    ),
    "sglang": Launch(
        ("python3", "-m", "sglang.launch_server"),
        model="--model-path",
        named="--served-model-name",
        reserved=_LISTENING
        | {
            "--model",
            "--model-path",
            "--served-model-name",
            "--admin-api-key",
            "--log-requests",
            "--crash-dump-folder",
        },
        environment=_QUIET,
    ),
    "llama-server": Launch(
        ("llama-server",),
        model="--model",
        named="--alias",
        projector="--mmproj",
        socket="--host",
        reserved=_LISTENING
        | {
            "-m",
            "--model",
            "-a",
            "--alias",
            "-mm",
            "--mmproj",
            "-mu",
            "--model-url",
            "-hf",
            "--hf-repo",
            "--api-prefix",
        }
        | {"--api-key-file", "--ssl-key-file", "--ssl-cert-file", "--log-file", "-v", "--verbose"},
    ),
    "transformers": Launch(("transformers", "serve"), model=None, reserved=_LISTENING, environment=_QUIET),
}
"""By the name that the settings have for it, which is the name of its dialect as well."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a child shall listen: a unix socket, or a TCP port on the loopback interface."""

    socket: Path | None = None
    port: int = 0

    @property
    def url(self) -> str:
        """As settings name engines that were there before."""
        return f"http://127.0.0.1:{self.port}/v1" if self.socket is None else f"unix:{self.socket}"


def words(
    engine: str,
    place: Place,
    weights: Path,
    *,
    name: str,
    command: Sequence[str] = (),
    projector: Path | None = None,
    arguments: Sequence[str] = (),
) -> list[str]:
    """The argument list. Ours come last, since the last of two counts."""
    launch = LAUNCHES[engine]
    out = list(command or launch.command)
    # `vllm serve` takes the model alone; its module, which `command` may name, takes it after --model only.
    before = "--model" if engine == "vllm" and out[-1] != "serve" else launch.model
    out += [str(weights)] if before is None else [before, str(weights)]
    out += arguments
    if projector is not None and launch.projector is not None:
        out += [launch.projector, str(projector)]
    if launch.named is not None:
        out += [launch.named, name]
    if place.socket is not None and launch.socket is not None:
        return [*out, launch.socket, str(place.socket)]
    return [*out, "--host", "127.0.0.1", "--port", str(place.port)]


def reserved_word(engine: str, arguments: Sequence[str]) -> str | None:
    """The first of the operator's words that is not theirs to give, without its value."""
    for word in arguments:
        option = word.partition("=")[0]
        if option.replace("_", "-") in LAUNCHES[engine].reserved:
            return option
    return None
