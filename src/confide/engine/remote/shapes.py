"""What an engine's answer may look like: twice, once as it should be, and once as it can be read.

The first of each pair is lenient: unknown members are ignored, and most may be missing or null. The second, ``Right…``,
takes exactly what a client shall see: members that this server passes on and no others, with OpenAI's types. What
decodes as a ``Right…`` needs no mending but for what one chunk can't say about itself.

Members with the type None are those that engines add to each answer and fill only when asked, which they never are.
``stop_reason`` (vLLM) and ``matched_stop`` (SGLang) are passed on: they say which stop sequence ended the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from confide.wire.answers import LEAST_LOGPROB, FinishReason, Usage

Count = Annotated[int, Meta(ge=0, le=2**53)]
Place = Annotated[int, Meta(ge=0, le=1023)]
Stop = int | str | None

LONGEST_EVENT: Final = 8 * 1024 * 1024
"""Bytes. The longest that are known hold the arguments of a call whole, or twenty alternatives for many tokens."""

LONGEST_BODY: Final = 64 * 1024 * 1024
"""Bytes of an answer that isn't streamed."""


# Log probabilities ---------------------------------------------------------------------------------------------------


class Alternative(Struct):
    """A token that might have been."""

    token: str
    logprob: float | None = None
    bytes: list[int] | None = None


class Token(Alternative):
    """A token that was."""

    top_logprobs: Sequence[Alternative] = []


class Logprobs(Struct):
    """Of one delta, or of a message."""

    content: Sequence[Token] | None = None
    refusal: Any = None


class RightAlternative(Alternative, forbid_unknown_fields=True, kw_only=True):
    logprob: Annotated[float, Meta(ge=LEAST_LOGPROB)]
    bytes: list[int] | None


class RightToken(Token, forbid_unknown_fields=True, kw_only=True):
    logprob: Annotated[float, Meta(ge=LEAST_LOGPROB)]
    bytes: list[int] | None
    top_logprobs: Sequence[RightAlternative]


class RightLogprobs(Logprobs, forbid_unknown_fields=True):
    content: Sequence[RightToken] | None = None
    refusal: None = None


# Calls ---------------------------------------------------------------------------------------------------------------


class CalledFunction(Struct):
    """A name, and arguments as JSON text; some give the object itself."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class Call(Struct):
    """A call, or a piece of one."""

    index: Place | None = None
    id: str | None = None
    type: str | None = None
    function: CalledFunction | None = None


class RightFunction(CalledFunction, forbid_unknown_fields=True):
    arguments: str | None = None


class RightCall(Call, forbid_unknown_fields=True, kw_only=True):
    index: Place
    function: RightFunction
    type: Literal["function"] | None = None


# Usage ---------------------------------------------------------------------------------------------------------------


class PromptDetails(Struct):
    """Of ``usage``."""

    cached_tokens: Count | None = None


class CompletionDetails(Struct):
    """Of ``usage``."""

    reasoning_tokens: Count | None = None


class Spent(Struct):
    """``usage``."""

    prompt_tokens: Count = 0
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    reasoning_tokens: Count | None = None

    @property
    def value(self) -> Usage:
        """As this server counts."""
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        reasoning = completion.reasoning_tokens if completion else None
        return Usage(
            self.prompt_tokens,
            self.completion_tokens or 0,
            (prompt.cached_tokens if prompt else None) or 0,
            reasoning or self.reasoning_tokens or 0,
        )

    @property
    def adds_up(self) -> bool:
        """Whether the total is one."""
        return self.total_tokens == self.prompt_tokens + (self.completion_tokens or 0)


class RightPromptDetails(PromptDetails, forbid_unknown_fields=True):
    cached_tokens: Count = 0
    audio_tokens: Count = 0
    text_tokens: Count = 0
    image_tokens: Count = 0
    cache_write_tokens: Count = 0


class RightCompletionDetails(CompletionDetails, forbid_unknown_fields=True):
    reasoning_tokens: Count = 0
    audio_tokens: Count = 0
    text_tokens: Count = 0
    accepted_prediction_tokens: Count = 0
    rejected_prediction_tokens: Count = 0


class RightSpent(Spent, forbid_unknown_fields=True, kw_only=True):
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: RightPromptDetails | None = None
    completion_tokens_details: RightCompletionDetails | None = None
    reasoning_tokens: None = None


# Chunks --------------------------------------------------------------------------------------------------------------


class Delta(Struct):
    """What a choice has more."""

    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: Sequence[Call] | None = None


class AnyChoice(Struct):
    """What a choice of a chunk and one of a whole answer have in common."""

    index: Place = 0
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: Stop = None
    matched_stop: Stop = None


class Choice(AnyChoice):
    """One choice of a chunk."""

    delta: Delta | None = None


class AnyAnswer(Struct):
    """What a chunk and a whole answer have in common. ``error`` is there where something failed."""

    id: str | None = None
    object: str | None = None
    created: float | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None
    usage: Spent | None = None
    error: Any = None


class Chunk(AnyAnswer):
    """One event of a stream; SGLang has its ``error`` flat, too."""

    choices: Sequence[Choice] | None = None


class RightDelta(Delta, forbid_unknown_fields=True):
    role: Literal["assistant"] | None = None
    tool_calls: Sequence[RightCall] | None = None
    function_call: None = None
    audio: None = None


class RightChoice(Choice, forbid_unknown_fields=True, kw_only=True):
    index: Place
    delta: RightDelta
    logprobs: RightLogprobs | None = None
    finish_reason: FinishReason | None
    token_ids: None = None
    routed_experts: None = None


class RightChunk(Chunk, forbid_unknown_fields=True, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"]
    created: Count
    model: str
    choices: Sequence[RightChoice]
    usage: RightSpent | None = None
    error: None = None
    prompt_token_ids: None = None
    prompt_text: None = None
    metrics: None = None


# Whole answers -------------------------------------------------------------------------------------------------------


class AnswerMessage(Delta):
    """What a choice says, all of it."""


class AnswerChoice(AnyChoice):
    """One choice of an answer."""

    message: AnswerMessage | None = None


class Body(AnyAnswer):
    """An answer that isn't streamed."""

    choices: Sequence[AnswerChoice] | None = None


class RightWholeFunction(CalledFunction, forbid_unknown_fields=True, kw_only=True):
    name: str
    arguments: Annotated[str, Meta(min_length=1)]


class RightWholeCall(Call, forbid_unknown_fields=True, kw_only=True):
    id: Annotated[str, Meta(min_length=1)]
    type: Literal["function"]
    function: RightWholeFunction
    index: None = None


class RightMessage(AnswerMessage, forbid_unknown_fields=True, kw_only=True):
    role: Literal["assistant"]
    content: str | None
    tool_calls: Annotated[Sequence[RightWholeCall], Meta(min_length=1)] | None = None
    annotations: list[Any] | None = None
    function_call: None = None
    audio: None = None


class RightAnswerChoice(AnswerChoice, forbid_unknown_fields=True, kw_only=True):
    index: Place
    message: RightMessage
    logprobs: RightLogprobs | None
    finish_reason: FinishReason
    token_ids: None = None
    routed_experts: None = None


class RightBody(Body, forbid_unknown_fields=True, kw_only=True):
    id: str
    object: Literal["chat.completion"]
    created: Count
    model: str
    choices: Sequence[RightAnswerChoice]
    usage: RightSpent
    error: None = None
    prompt_logprobs: None = None
    prompt_token_ids: None = None
    prompt_text: None = None
    kv_transfer_params: None = None
    ec_transfer_params: None = None
    metrics: None = None
