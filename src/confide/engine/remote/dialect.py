"""What differs between engines that speak the OpenAI API, as data.

A row of :data:`DIALECTS` says what an engine may be sent, how it wants it, and what of its answers needs mending.
A client's member that isn't in a row is refused by name (``parameters``) or, where it is only a hint or unknown to this
server, left out: an engine gets nothing that isn't named here, since many of their members reach into other requests
(slots, sessions, adapters, transfers of caches).

Sources, read 2026-11:

* vLLM 0.32.0: ``entrypoints/openai/chat_completion/{protocol,serving}.py``, ``entrypoints/serve``;
* SGLang 0.5.23: ``srt/entrypoints/openai/{protocol,serving_chat,serving_base}.py``, ``http_server.py``;
* llama.cpp: ``tools/server/server-{common,task,context}.cpp``, and what builds 11434 and 11549 did when tried;
* Ollama: ``openai/openai.go``, ``middleware/openai.go``, ``server/routes.go``, commit fb30760 of 2026-08-21;
* transformers 5.19.0 and 5.23.0: ``cli/serving/{chat_completion,server,utils}.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from confide.errors import ConfigError
from confide.wire.openai import CORE

ToolMode = Literal["none", "auto", "required", "named"]

_SAMPLING: Final = frozenset({"temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "n"})
TOOLS: Final = frozenset({"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"})
"""What only a model that is told of tools can honour."""

_COMMON: Final = (
    _SAMPLING
    | TOOLS
    | {"stop", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format"}
)
_ALL_MODES: Final[frozenset[ToolMode]] = frozenset({"none", "auto", "required", "named"})
_EFFORTS: Final = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Dialect:
    """One engine's way with the OpenAI API.

    Attributes:
        name: what the configuration calls it; ``engine`` is what people call it.
        owners: values of ``owned_by`` in its ``/v1/models``, which tell it apart.
        version: the path, beside ``/v1``, and the member where it tells its version.
        health: the path, beside ``/v1``, of its cheapest route.
        parameters: the members of a chat request that it honours; they alone are sent.
        max_choices: the most that ``n`` may be, unless the engine itself tells a number.
        developer: whether it knows the role ``developer``; others get ``system``.
        token_limit: the only name that it knows for the limit; None where it knows both.
        renamed: members that it calls otherwise.
        efforts: values of ``reasoning_effort`` that it takes; the hint is left out otherwise.
        request_id: the member for an id that it repeats in its answer; ``id_prefix`` is what it puts before it.
        id_per_choice: whether several choices get an id each, made of it, which is then of no use.
        cache_salt: the member for what separates prefix caches.
        unsalted: what is added where caches must be separate and it knows no salt: it then reuses none at all.
        tool_modes: the kinds of ``tool_choice`` that it honours. Without ``none`` it gets no tools in its place.
        one_call: whether ``parallel_tool_calls: false`` is honoured.
        strict_tools: whether it constrains the arguments only of tools that say ``strict``.
        strict_schema: whether a schema that says ``strict: false`` may go unconstrained.
        refusal_parts: whether it takes content parts of the type ``refusal``; others get them as text.
        joined_text: whether text in parts must be one string.
        reasoning: the name for earlier reasoning in messages; None where it takes either name.
        least_top_logprobs: with less than this many asked, it gives none at all.
        stream_options: whether it takes them; without, usage comes in the chunk that finishes the answer.
        usage_per_choice: whether each choice has its usage, so that they must be added up.
        computes_to_the_end: whether it goes on with a whole answer for which nobody waits any more; a stream it stops.
        client_errors_500: whether mistakes of the client come with status 500.
    """

    name: str
    engine: str
    owners: frozenset[str] = frozenset()
    version: tuple[str, str] | None = None
    health: str = "/health"
    parameters: frozenset[str] = _COMMON
    max_choices: int = 128
    developer: bool = False
    token_limit: str | None = None
    renamed: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    efforts: frozenset[str] = frozenset()
    request_id: str | None = None
    id_prefix: str = ""
    id_per_choice: bool = False
    cache_salt: str | None = None
    unsalted: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    tool_modes: frozenset[ToolMode] = _ALL_MODES
    one_call: bool = True
    strict_tools: bool = False
    strict_schema: bool = False
    refusal_parts: bool = False
    joined_text: bool = False
    reasoning: str | None = None
    least_top_logprobs: int = 0
    stream_options: bool = True
    usage_per_choice: bool = False
    computes_to_the_end: bool = False
    client_errors_500: bool = False
    sent: frozenset[str] = field(init=False, repr=False)
    """The members that may be sent, under the names that clients use."""

    def __post_init__(self) -> None:
        hints = {"reasoning_effort"} if self.efforts else set()
        sent = (self.parameters | hints | CORE) - {"provider", "functions", "function_call"}
        object.__setattr__(self, "sent", sent)

    def gathers(self, choices: int) -> bool:
        """Whether a whole answer is put together from a stream: theirs lacks usage, or can't be stopped."""
        return self.computes_to_the_end or (self.usage_per_choice and choices > 1)

    @property
    def separates_caches(self) -> bool:
        """Whether one tenant's prefix cache can be kept from another's."""
        return self.cache_salt is not None or bool(self.unsalted)


VLLM: Final = Dialect(
    name="vllm",
    engine="vLLM",
    owners=frozenset({"vllm"}),
    version=("/version", "version"),
    parameters=_COMMON
    | {"top_k", "min_p", "repetition_penalty", "ignore_eos", "min_tokens", "stop_token_ids", "bad_words"}
    | {"allowed_token_ids", "include_stop_str_in_output", "chat_template_kwargs", "add_generation_prompt"}
    | {"continue_final_message", "documents", "thinking_token_budget", "structured_outputs"},
    efforts=_EFFORTS,
    request_id="request_id",
    id_prefix="chatcmpl-",
    cache_salt="cache_salt",
    strict_tools=True,
    refusal_parts=True,
)

SGLANG: Final = Dialect(
    name="sglang",
    engine="SGLang",
    owners=frozenset({"sglang"}),
    version=("/server_info", "version"),
    parameters=_COMMON
    | {"top_k", "min_p", "repetition_penalty", "ignore_eos", "min_tokens", "stop_token_ids", "chat_template_kwargs"}
    | {"continue_final_message", "regex", "ebnf"},
    efforts=_EFFORTS | {"ultra"},
    request_id="rid",
    id_per_choice=True,
    cache_salt="cache_salt",
    strict_tools=True,
    strict_schema=True,
    reasoning="reasoning_content",
)

LLAMA_SERVER: Final = Dialect(
    name="llama-server",
    engine="llama.cpp (llama-server)",
    owners=frozenset({"llamacpp"}),
    version=("/props", "build_info"),
    parameters=_COMMON
    | {"top_k", "min_p", "typical_p", "repetition_penalty", "repeat_penalty", "ignore_eos", "chat_template_kwargs"}
    | {"grammar", "json_schema"},
    max_choices=1,
    token_limit="max_tokens",  # noqa: S106 - no secret
    renamed=MappingProxyType({"repetition_penalty": "repeat_penalty"}),
    unsalted=MappingProxyType({"cache_prompt": False}),
    tool_modes=frozenset({"none", "auto"}),  # its grammar for "required" lets free text come first
    reasoning="reasoning_content",
    least_top_logprobs=1,
    usage_per_choice=True,
    computes_to_the_end=True,  # it looks for who has left now and then only
    client_errors_500=True,
)

OLLAMA: Final = Dialect(
    name="ollama",
    engine="Ollama",
    owners=frozenset({"library"}),
    version=("/api/version", "version"),
    health="/api/version",
    parameters=_SAMPLING
    | TOOLS
    | {"stop", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "response_format"},
    max_choices=1,
    token_limit="max_tokens",  # noqa: S106 - no secret
    tool_modes=frozenset({"auto"}),
    one_call=False,
    joined_text=True,  # it makes a message of each part
    reasoning="reasoning",
)

TRANSFORMERS: Final = Dialect(
    name="transformers",
    engine="transformers serve",
    # Not "stop", which stays in its text, nor "frequency_penalty", which becomes a repetition penalty.
    parameters=_SAMPLING | TOOLS | {"logit_bias", "chat_template_kwargs"},
    max_choices=1,
    token_limit="max_tokens",  # noqa: S106 - no secret; 5.19 refuses the other name
    tool_modes=frozenset({"auto"}),
    one_call=False,
    reasoning="reasoning_content",
    stream_options=False,
    computes_to_the_end=True,
)

OPENAI: Final = Dialect(
    name="openai",
    engine="OpenAI-compatible",
    health="/v1/models",
    developer=True,
    efforts=_EFFORTS,
    refusal_parts=True,
)

DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {one.name: one for one in (VLLM, SGLANG, LLAMA_SERVER, OLLAMA, TRANSFORMERS, OPENAI)}
)
"""By the name that the configuration uses."""

AUTO: Final = "auto"
"""Stands for: find out."""


def named(name: str) -> Dialect:
    """The dialect of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in DIALECTS:
        raise ConfigError(f"unknown engine dialect {name[:32]!r}; known are {', '.join([AUTO, *DIALECTS])}")
    return DIALECTS[name]


def owned(owner: str) -> Dialect | None:
    """The dialect of the engine that calls itself so in ``/v1/models``."""
    return next((one for one in DIALECTS.values() if owner in one.owners), None)
