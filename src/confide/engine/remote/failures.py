"""Engines' errors as ours: OpenAI's object, and no word that an engine wrote.

An engine's message may quote the conversation, name a file of the machine or an address of the network. So it is only
looked at: where it has a form that is known, the client is told the same in words of this module, with its numbers;
else a sentence that holds nothing. Sources as in :mod:`confide.engine.remote.dialect`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from confide.engine.remote.dialect import Dialect
from confide.errors import ApiError, EngineFailed, InvalidRequest, TooManyRequests, Unavailable

LONGEST_BODY: Final = 256 * 1024
"""The most bytes of an error that are read."""

_LONGEST_MESSAGE: Final = 20_000
"""The most characters of a message that are looked at."""

_RETRY_SECONDS: Final = 5
_MOST_RETRY_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class _Complaint:
    """What an engine's error body says, of whatever shape it is."""

    message: str = ""
    type: str = ""
    code: int | None = None
    tokens: int | None = None
    context: int | None = None


def from_engine(status: int, body: bytes, dialect: Dialect, *, retry_after: str | None = None) -> ApiError:
    """The error for the client.

    Args:
        status: the engine's.
        body: the engine's, cut at :data:`LONGEST_BODY`.
        dialect: whose it is.
        retry_after: its header of that name, in seconds.
    """
    complaint = _read(body)
    if status in {429, 503}:
        return _busy(status, retry_after)
    if status in {400, 413, 422, 501}:
        return _clients(complaint)
    if status >= 500 and dialect.client_errors_500 and _CLIENTS_500.search(complaint.message):
        return _clients(complaint)
    if status in {401, 403}:
        return EngineFailed("The engine refused this server's credentials.")
    if status == 404:
        return EngineFailed("The engine does not have the model or the route that this server is configured for.")
    return EngineFailed("The engine failed.")


def from_event(data: bytes, dialect: Dialect) -> ApiError:
    """The error for an error event. Engines that have sent status 200 already tell even a wrong request this way."""
    complaint = _read(data)
    code = complaint.code if complaint.code is not None and 400 <= complaint.code <= 599 else 500
    if code == 500 and _is_too_long(complaint):
        code = 400
    return from_engine(code, data, dialect)


def _busy(status: int, retry_after: str | None) -> ApiError:
    seconds = _RETRY_SECONDS
    if retry_after is not None and re.fullmatch("[0-9]{1,4}", retry_after):
        seconds = min(max(int(retry_after), 1), _MOST_RETRY_SECONDS)
    headers = {"Retry-After": str(seconds)}
    if status == 429:
        return TooManyRequests("The engine is busy; try again later.", code="rate_limit_exceeded", headers=headers)
    return Unavailable("The engine can't take requests now; try again later.", headers=headers)


# Reading -------------------------------------------------------------------------------------------------------------

_decoder = msgspec.json.Decoder()


def _read(body: bytes) -> _Complaint:
    """Nested, flat, a string in ``error``, FastAPI's ``detail``, or no JSON at all."""
    try:
        value: Any = _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _Complaint(body[:_LONGEST_MESSAGE].decode("utf-8", "replace"))
    if isinstance(value, dict):
        value = value.get("error") or value.get("detail") or value
    if isinstance(value, dict):
        return _Complaint(
            _text(value.get("message")),
            _text(value.get("type")),
            _number(value.get("code")),
            _number(value.get("n_prompt_tokens")),
            _number(value.get("n_ctx")),
        )
    return _Complaint(_text(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        return "" if value is None else msgspec.json.encode(value)[:_LONGEST_MESSAGE].decode("utf-8", "replace")
    return value[:_LONGEST_MESSAGE]


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


# Mistakes of the client ----------------------------------------------------------------------------------------------

_CLIENTS_500: Final = re.compile(
    r"\[json\.exception|parse error|jinja|template|image input is not supported|audio input is not supported"
    r"|json_schema|grammar|schema|n_cmpl|invalid (?:type|argument|url)|failed to (?:decode|load) image|requires --jinja"
    r"|exceeds the available context|tools? param|tool_choice",
    re.IGNORECASE,
)
"""llama-server throws for most of what a client may do wrong, and any exception that it doesn't name becomes a 500."""

_TOO_LONG: Final = re.compile(
    r"maximum context length|maximum model length|longer than the model's context length"
    r"|exceeds the available context|exceeds the context length|longer than the context length|is too long"
    r"|context[_ ]length[_ ]exceeded",
    re.IGNORECASE,
)
_CONTEXT: Final = re.compile(
    r"(?:maximum context length(?: is| of)|maximum model length of|available context size \(|context length \()\s*"
    r"(\d{1,12})",
    re.IGNORECASE,
)
_TOKENS: Final = re.compile(
    r"requested a total of (\d{1,12})|contains (?:at least )?(\d{1,12}) input tokens|requested (\d{1,12}) tokens"
    r"|request \((\d{1,12}) tokens\)|input \((\d{1,12}) tokens\)|\(length (\d{1,12})\)",
    re.IGNORECASE,
)


def _is_too_long(complaint: _Complaint) -> bool:
    return complaint.type == "exceed_context_size_error" or _TOO_LONG.search(complaint.message) is not None


def _clients(complaint: _Complaint) -> InvalidRequest:
    if _is_too_long(complaint):
        return _too_long(complaint)
    for pattern, answer in _KNOWN:
        match = pattern.search(complaint.message)
        if match is not None:
            return answer(match)
    return InvalidRequest("The engine refused the request: a value in it is not one that this model can work with.")


def _too_long(complaint: _Complaint) -> InvalidRequest:
    """In the words that agents look for, to shorten the conversation and try again."""
    context = complaint.context or _first(_CONTEXT.search(complaint.message))
    tokens = complaint.tokens or _first(_TOKENS.search(complaint.message))
    limit = f"This model's maximum context length is {context} tokens. However, your" if context else "Your"
    count = f"resulted in {tokens} tokens" if tokens else "are longer than that"
    if not context:
        count = "are longer than this model's maximum context length"
    return InvalidRequest(
        f"{limit} messages {count}. Please reduce the length of the messages.",
        param="messages",
        code="context_length_exceeded",
    )


def _first(match: re.Match[str] | None) -> int | None:
    return None if match is None else next(int(group) for group in match.groups() if group is not None)


def _known(
    pattern: str, message: str, *, param: str, code: str | None = "invalid_value"
) -> tuple[re.Pattern[str], Callable[[re.Match[str]], InvalidRequest]]:
    """``message`` may hold the pattern's groups, which are numbers, as ``{0}``…"""
    return (
        re.compile(pattern, re.IGNORECASE),
        lambda match: InvalidRequest(message.format(*match.groups()), param=param, code=code),
    )


_KNOWN: Final = (
    _known(
        r"max(?:_completion|_output)?_tokens=(\d{1,12}) cannot be greater than max_model_len=(\d{1,12})",
        "Invalid 'max_tokens': integer above maximum value. Expected a value <= {1}, but got {0} instead.",
        param="max_tokens",
        code="integer_above_max_value",
    ),
    _known(
        r"n must be 1 when using greedy sampling",
        "Invalid 'n': with a temperature of 0 this model gives one choice.",
        param="n",
    ),
    _known(
        r"n_cmpl cannot be greater",
        "Invalid 'n': this model does not give as many choices at once.",
        param="n",
        code="integer_above_max_value",
    ),
    _known(
        r"top_p must be in \(0",
        "Invalid 'top_p': decimal below minimum value. Expected a value > 0.",
        param="top_p",
        code="decimal_below_min_value",
    ),
    _known(
        r"logprobs of (\d{1,9}),? which is greater than max allowed: (\d{1,9})",
        "Invalid 'top_logprobs': integer above maximum value. Expected a value <= {1}, but got {0} instead.",
        param="top_logprobs",
        code="integer_above_max_value",
    ),
    _known(
        r"logprobs is not supported with tools",
        "Invalid 'logprobs': this model does not give them for a stream with tools.",
        param="logprobs",
        code="unsupported_value",
    ),
    _known(
        r"tool[ _]choice.{0,80}requires --|requires --enable-auto-tool-choice|tools param requires"
        r"|does not support tools",
        "Unsupported parameter: 'tools' is not supported with this model.",
        param="tools",
        code="unsupported_parameter",
    ),
    _known(
        r"at most (\d{1,6}) image",
        "Invalid 'messages': at most {0} images are supported with this model.",
        param="messages",
        code="unsupported_value",
    ),
    _known(
        r"image input is not supported|is not a multimodal model|only supports text input|image inputs? (?:is|are) not"
        r"|does not support (?:image|vision)|missing data required for image input",
        "Invalid content type: 'image_url' is not supported by this model.",
        param="messages",
        code="unsupported_value",
    ),
    _known(
        r"(?:cannot identify|failed to (?:decode|load|process)) (?:the )?image|invalid image",
        "Invalid image: the engine could not read it.",
        param="messages",
        code="image_parse_error",
    ),
    _known(
        r"json[_ ]schema|grammar|guided|structured output|xgrammar|invalid schema|structural tag",
        "Invalid schema: the engine can't hold its answer to the schema that was given.",
        param="response_format",
        code="invalid_json_schema",
    ),
    _known(
        r"arguments",
        "Invalid 'messages': the arguments of an earlier call are not a JSON object.",
        param="messages",
    ),
    _known(
        r"jinja|chat template|conversation roles|template",
        "The model's chat template refused this conversation; check the order and the roles of the messages, and "
        "'chat_template_kwargs'.",
        param="messages",
    ),
    _known(
        r"(?:vocab|token).{0,40}(?:out of|outside|greater|invalid)|logit_bias",
        "Invalid 'logit_bias': a key is not a token of this model.",
        param="logit_bias",
    ),
)
