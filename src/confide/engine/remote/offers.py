"""What engines answer beside chat completions, and what they may be sent there, as data.

As in :mod:`confide.engine.remote.dialect`: an engine gets no member that isn't named here. Where an engine can't keep
the caches of tenants apart on one of its paths, that path is offered only where caches are shared anyway.

Sources, read 2026-11: vLLM 0.32.0 ``entrypoints/openai/{completion,responses}``, ``entrypoints/anthropic``,
``entrypoints/pooling/embed``; SGLang ``srt/entrypoints/openai/protocol.py``; llama.cpp ``tools/server/server-chat.cpp``
and ``server-task.cpp``, and what build 11549 did when tried; Ollama ``openai/openai.go``, commit fb30760.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from confide.engine.base import COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES
from confide.engine.remote.dialect import Dialect


@dataclass(frozen=True, slots=True)
class Offer:
    """What an engine takes on one path.

    Attributes:
        members: those of a request that it honours; they alone are sent, beside ``model``, ``stream`` and the input.
        several: whether one answer may have several choices, for several prompts or for ``n``.
        tokens: whether lists of token ids are taken in place of text.
        one_call: whether several calls of tools in one answer can be ruled out.
        separates: whether the way in which the engine keeps prefix caches apart works on this path, too.
    """

    members: frozenset[str]
    several: bool = True
    tokens: bool = True
    separates: bool = True
    one_call: bool = False


_SAMPLING: Final = frozenset({"temperature", "top_p", "seed", "max_tokens", "stop"})
_PENALTIES: Final = frozenset({"presence_penalty", "frequency_penalty"})
_TEXT: Final = _SAMPLING | _PENALTIES | {"n", "logprobs", "logit_bias"}
_RESPONSE: Final = frozenset(
    {"instructions", "max_output_tokens", "temperature", "top_p", "tools", "tool_choice", "parallel_tool_calls"}
    | {"text", "reasoning"}
)
_MESSAGE: Final = frozenset(
    {"max_tokens", "system", "stop_sequences", "temperature", "top_p", "top_k", "tools", "tool_choice", "thinking"}
)

_VLLM: Final = {
    COMPLETIONS: Offer(
        _TEXT
        | {"echo", "top_k", "min_p", "repetition_penalty", "ignore_eos", "min_tokens", "stop_token_ids", "bad_words"}
        | {"allowed_token_ids", "include_stop_str_in_output", "add_special_tokens", "skip_special_tokens"}
        | {"response_format", "structured_outputs", "truncate_prompt_tokens"}
    ),
    EMBEDDINGS: Offer(frozenset({"dimensions", "truncate_prompt_tokens", "add_special_tokens"})),
    RESPONSES: Offer(
        _RESPONSE
        | {"top_logprobs", "include", "truncation", "top_k", "min_p", "seed", "stop", "repetition_penalty"}
        | _PENALTIES
        | {"chat_template_kwargs"}
    ),
    MESSAGES: Offer(_MESSAGE | {"output_config", "chat_template_kwargs"}, one_call=True),
}
_SGLANG: Final = {
    COMPLETIONS: Offer(
        _TEXT
        | {"echo", "top_k", "min_p", "repetition_penalty", "ignore_eos", "min_tokens", "stop_token_ids"}
        | {"skip_special_tokens", "response_format", "regex", "ebnf"}
    ),
    EMBEDDINGS: Offer(frozenset({"dimensions"}), separates=False),
    MESSAGES: Offer(_MESSAGE - {"thinking"}, separates=False),
}
_LLAMA: Final = {
    COMPLETIONS: Offer(
        _TEXT - {"n"} | {"top_k", "min_p", "typical_p", "repetition_penalty", "repeat_penalty", "ignore_eos"},
        several=False,
    ),
    EMBEDDINGS: Offer(frozenset()),
    MESSAGES: Offer(_MESSAGE - {"thinking"} | {"chat_template_kwargs"}, separates=False),
}
_OLLAMA: Final = {
    COMPLETIONS: Offer(_SAMPLING | _PENALTIES | {"suffix"}, several=False, tokens=False),
    EMBEDDINGS: Offer(frozenset({"dimensions"}), tokens=False),
}
_OPENAI: Final = {
    COMPLETIONS: Offer(_TEXT | {"echo", "suffix"}),
    EMBEDDINGS: Offer(frozenset({"dimensions"})),
    RESPONSES: Offer(_RESPONSE | {"top_logprobs", "include", "truncation"}),
    MESSAGES: Offer(_MESSAGE, one_call=True),
}

OFFERS: Final[Mapping[str, Mapping[str, Offer]]] = MappingProxyType(
    {"vllm": _VLLM, "sglang": _SGLANG, "llama-server": _LLAMA, "ollama": _OLLAMA, "transformers": {}, "openai": _OPENAI}
)
"""By the names of the dialects, and then by path."""


def offer(dialect: Dialect, path: str) -> Offer:
    """What an engine takes on a path that it answers."""
    return OFFERS[dialect.name][path]
