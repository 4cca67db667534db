from __future__ import annotations

import pytest

from confide.engine.remote.dialect import DIALECTS, Dialect, named, owned
from confide.errors import ConfigError
from confide.wire.openai import HARMLESS, HINTS, ChatRequest

ALL = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))

IGNORED_BY_VLLM = {"guided_json", "guided_regex", "guided_choice", "guided_grammar"}
"""Removed in vLLM: it answers 200 and constrains nothing."""


@ALL
def test_only_members_of_requests_are_honoured(dialect: Dialect) -> None:
    assert dialect.parameters <= set(ChatRequest.__struct_fields__)
    assert not dialect.parameters & HINTS
    assert dialect.sent <= set(ChatRequest.__struct_fields__)


@ALL
def test_no_engine_is_sent_what_is_ours_or_reaches_into_other_requests(dialect: Dialect) -> None:
    names = {"provider", "user", "metadata", "safety_identifier", "prompt_cache_key", "functions", "function_call"}
    assert not dialect.sent & (names | {"return_token_ids", "prompt_logprobs", "chat_template", "logits_processors"})


@ALL
def test_limits_on_tokens_are_honoured_under_both_names(dialect: Dialect) -> None:
    assert {"max_tokens", "max_completion_tokens"} <= dialect.parameters


@ALL
def test_it_is_found_by_name(dialect: Dialect) -> None:
    assert named(dialect.name) is dialect
    assert all(owned(owner) is dialect for owner in dialect.owners)


def test_members_that_are_ignored_by_the_engine_are_not_honoured() -> None:
    assert not DIALECTS["vllm"].parameters & IGNORED_BY_VLLM
    assert not DIALECTS["ollama"].parameters & {"logit_bias", "top_k"}
    assert not DIALECTS["transformers"].parameters & {"response_format", "presence_penalty", "logprobs"}


def test_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match="known are auto, vllm, sglang, llama-server, ollama, transformers, openai"):
        named("gpt")
    assert owned("somebody") is None


def test_who_can_keep_caches_apart() -> None:
    apart = {name for name, dialect in DIALECTS.items() if dialect.separates_caches}
    assert apart == {"vllm", "sglang", "llama-server"}


def test_values_that_ask_for_nothing_are_known() -> None:
    """They are let through by the route, and dropped here where the engine doesn't have the member."""
    assert HARMLESS.keys() <= set(ChatRequest.__struct_fields__)
