"""``POST /v1/completions``: the body of the request, and the answer's shape.

Source: OpenAI API specification 2.3.0, schemas ``CreateCompletionRequest`` and ``CreateCompletionResponse``, with the
members that vLLM, SGLang and llama.cpp add. As for chat completions, ``null`` means absent, unknown members are
ignored, and those that promise a constraint are all known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from confide.errors import InvalidRequest
from confide.wire.answers import LEAST_LOGPROB, Usage
from confide.wire.members import (
    EngineMembers,
    check_bias,
    check_provider,
    check_stops,
    check_stream_options,
    decode,
)
from confide.wire.openai import Int64, Json, Penalty, Positive, ResponseFormat, StreamOptions

DEFAULT_TOKENS: Final = 16
"""What is generated where ``max_tokens`` isn't given."""

MOST_CHOICES: Final = 128
"""Prompts times ``n``."""

Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class CompletionRequest(EngineMembers):
    """One request for completions of texts, decoded."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    prompt: str | Annotated[list[str | Token | list[Token]], Meta(min_length=1)]

    suffix: str | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=MOST_CHOICES)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=MOST_CHOICES)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1024)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    seed: Int64 | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # Hints.
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Json | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None

    provider: Json | None = None

    # What open engines add.
    add_special_tokens: bool | None = None
    skip_special_tokens: bool | None = None
    truncate_prompt_tokens: Positive | None = None
    prompt_embeds: Any = None
    response_format: ResponseFormat | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each text or list of token ids that is to be continued."""
        given: Any = self.prompt
        return [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)

    @property
    def opening(self) -> list[str]:
        """Its start, by which a replica whose cache has it is found."""
        return [str(self.prompts[0])]

    @property
    def choices(self) -> int:
        """How many choices the answer has: ``n`` for each prompt."""
        return len(self.prompts) * (self.n or 1)

    @property
    def stops(self) -> list[str]:
        """``stop`` as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def limit(self) -> int:
        """The most tokens to generate for each choice."""
        return DEFAULT_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with a chunk that tells it."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


CORE: Final = frozenset({"model", "prompt", "stream", "stream_options", "provider"})
HINTS: Final = frozenset({"user", "safety_identifier", "metadata", "store", "service_tier", "prompt_cache_key"})
HARMLESS: Final[dict[str, object]] = {
    "echo": False,
    "suffix": "",
    "best_of": 1,
    "min_tokens": 0,
    "ignore_eos": False,
    "stop_token_ids": [],
    "bad_words": [],
    "include_stop_str_in_output": False,
    "add_special_tokens": True,
    "skip_special_tokens": True,
    "use_beam_search": False,
    "return_token_ids": False,
}
"""Values that ask for what happens anyway."""

_decoder = msgspec.json.Decoder(CompletionRequest)


def parse_completion(body: bytes) -> CompletionRequest:
    """Decode a request body, once.

    Raises:
        InvalidRequest: as :func:`confide.wire.members.decode`.
    """
    return decode(_decoder, body, needs="'model' and 'prompt'")


def check_completion(request: CompletionRequest) -> None:
    """Refuse what is well-formed but contradicts itself.

    Raises:
        InvalidRequest: naming the member.
    """
    check_stream_options(request)
    check_stops(request.stops)
    check_bias(request.logit_bias)
    check_provider(request.provider)
    check_inputs(request.prompt, "prompt")
    if request.best_of is not None and request.best_of < (request.n or 1):
        raise InvalidRequest("Invalid 'best_of': it must not be less than 'n'.", param="best_of", code="invalid_value")
    if request.choices > MOST_CHOICES:
        raise InvalidRequest(
            f"Invalid 'prompt': {request.choices} choices were asked for, and there may be {MOST_CHOICES}.",
            param="prompt",
            code="array_above_max_length",
        )


def check_inputs(value: Any, param: str) -> None:
    """Refuse a list that mixes texts and tokens, and one with nothing in it. ``value`` has the type of ``prompt``.

    Raises:
        InvalidRequest: naming the member.
    """
    if value == "":
        _refuse_empty(param, "string")
    entries = [] if isinstance(value, str) else value
    if any(type(entry) is not type(entries[0]) for entry in entries):
        raise InvalidRequest(
            f"Invalid '{param}': expected a string, or an array of strings, of tokens, or of arrays of tokens.",
            param=param,
            code="invalid_type",
        )
    for place, entry in enumerate(entries):
        if entry in ("", []):
            _refuse_empty(f"{param}[{place}]", "string" if entry == "" else "array")


def _refuse_empty(param: str, kind: str) -> None:
    article = "an" if kind == "array" else "a"
    raise InvalidRequest(
        f"Invalid '{param}': empty {kind}. Expected {article} {kind} with minimum length 1.",
        param=param,
        code=f"empty_{kind}",
    )


# Answers -------------------------------------------------------------------------------------------------------------


class Logprobs:
    """Log probabilities of one choice in the form of this endpoint, made of those that chat completions have.

    Args:
        top: how many alternatives are shown.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._offset = 0

    def skip(self, text: str) -> None:
        """The text begins with something that has none."""
        self._offset += len(text)

    def write(self, tokens: Sequence[dict[str, Any]]) -> Json:
        """``tokens``: of ``logprobs.content``."""
        out: Json = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
        for token in tokens:
            out["text_offset"].append(self._offset)
            out["tokens"].append(token["token"])
            out["token_logprobs"].append(_bounded(token.get("logprob")))
            shown = token.get("top_logprobs", ())[: self._top]
            out["top_logprobs"].append({one["token"]: _bounded(one.get("logprob")) for one in shown})
            self._offset += len(token["token"])
        return out


def _bounded(logprob: float | None) -> float:
    return LEAST_LOGPROB if logprob is None else max(logprob, LEAST_LOGPROB)


def choice(index: int, text: str, *, logprobs: Json | None = None, finish: str | None = None) -> Json:
    """One choice, of a chunk or of a whole answer."""
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def answer(head: Json, choices: Sequence[Json], usage: Usage | None) -> bytes:
    """The JSON text of a chunk or of a whole answer. ``head`` has its ``id``, ``created`` and ``model``."""
    return msgspec.json.encode(
        {
            "id": head["id"],
            "object": "text_completion",
            "created": head["created"],
            "model": head["model"],
            **({"system_fingerprint": head["system_fingerprint"]} if head.get("system_fingerprint") else {}),
            "choices": choices,
            "usage": None if usage is None else usage.as_json(),
        }
    )
