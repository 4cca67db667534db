"""What the requests of all endpoints have in common: decoding a body once, and refusing members by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import compress, repeat
from operator import is_not
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from confide.errors import ApiError, InvalidRequest
from confide.wire.complaints import explain

S = TypeVar("S", bound=Struct)


class EngineMembers(Struct, kw_only=True):
    """What open engines add to requests for text."""

    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    stop_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    use_beam_search: bool | None = None
    prompt_logprobs: int | None = None
    return_token_ids: bool | None = None
    logits_processors: Any = None

    # Constraints on the output. Ignoring one would break a promise.
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    structural_tag: Any = None
    grammar: Any = None
    json_schema: Any = None
    regex: Any = None
    ebnf: Any = None


MOST_VALUES: Final = 1_000_000
"""The most brackets, braces and commas in a body. Each may become an object of 60 bytes out of one or two, so that
32 MiB of ``[],`` would fill a gigabyte and hold everybody up for seconds."""
_FEW: Final = 256


def decode(
    decoder: msgspec.json.Decoder[S], body: bytes, *, needs: str, plain: msgspec.json.Decoder[S] | None = None
) -> S:
    """Decode a request body, once.

    Args:
        decoder: of the request's type.
        body: the JSON text in UTF-8, as it was read.
        needs: the members that it must have, as a phrase.
        plain: of a narrower type, that most requests are of.

    Raises:
        InvalidRequest: with OpenAI's words, ``param`` as a dotted path and its ``code``.
    """
    if len(body) > MOST_VALUES and sum(_count(body, mark) for mark in (b"[", b"{", b",")) > MOST_VALUES:
        raise InvalidRequest(f"The JSON body of your request has more than {MOST_VALUES} values.")
    try:
        if not body.isascii():
            body.decode()  # the decoder doesn't look into the strings that it skips
        if plain is not None:
            with suppress(msgspec.ValidationError):
                return plain.decode(body)
        return decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise explain(error, body, needs=needs) from None


def _count(body: bytes, mark: bytes) -> int:
    """How often a mark stands in the body. To look for a few is much faster than to count them: one at a time."""
    found, at = 0, -1
    while found < _FEW:
        at = body.find(mark, at + 1)
        if at < 0:
            return found
        found += 1
    return body.count(mark)


def given(request: Struct) -> list[str]:
    """The names of the members that the request sets to something, in the order of the schema."""
    values = msgspec.structs.astuple(request)
    return list(compress(request.__struct_fields__, map(is_not, values, repeat(None))))


def refuse_all_but(
    request: Any, allowed: Collection[str], harmless: Mapping[str, object], *, where: str = "with the model"
) -> None:
    """Refuse, by name, each member that can't be honoured.

    Args:
        request: with a ``model``.
        allowed: the members that can.
        harmless: values that ask for what happens anyway, by the member's name.
        where: stands before the model's name.

    Raises:
        InvalidRequest: ``unsupported_parameter``, with the member as ``param``.
    """
    for name in given(request):
        if name not in allowed and harmless.get(name, _NEVER) != getattr(request, name):
            raise InvalidRequest(
                f"Unsupported parameter: '{name}' is not supported {where} '{request.model}'.",
                param=name,
                code="unsupported_parameter",
            )


_NEVER: Final = object()


@lru_cache(256)  # engines are few, and each request asks for the same
def together(ours: frozenset[str], theirs: frozenset[str]) -> frozenset[str]:
    """What a server honours by itself, and what an engine does."""
    return ours | theirs


def check_provider(provider: Mapping[str, Any] | None) -> None:
    """Serving constraints of ACI (section 5.3). The model runs here, so that it is served verified in any case.

    Raises:
        ApiError: 412 where upstream sessions are demanded, 400 for an unknown constraint.
    """
    for name, value in (provider or {}).items():
        param = f"provider.{name}"
        if name == "aci_verified" and isinstance(value, bool):
            continue
        if name == "aci_session_ids":
            raise ApiError(
                "None of the sessions can serve: this server runs the model itself and has no upstream sessions.",
                status=412,
                type="session_not_accepted",
                param=param,
            )
        if name.startswith("aci_"):
            raise InvalidRequest(f"Invalid '{param[:100]}': unknown constraint, or of a wrong type.", param=param[:100])


def check_stops(stops: Collection[str], *, param: str = "stop") -> None:
    """Refuse stop sequences that can't be any.

    Raises:
        InvalidRequest: empty, or longer than 1024 characters.
    """
    if "" in stops:
        raise InvalidRequest(
            f"Invalid '{param}': an empty string can't be a stop sequence.", param=param, code="invalid_value"
        )
    if any(len(stop) > 1024 for stop in stops):
        raise InvalidRequest(
            f"Invalid '{param}': string too long. Expected strings of at most 1024 characters.",
            param=param,
            code="string_above_max_length",
        )


def check_bias(bias: Mapping[str, float] | None) -> None:
    """Refuse keys that aren't token ids.

    Raises:
        InvalidRequest: one isn't.
    """
    for key in bias or ():
        if not (key.isascii() and key.isdigit() and len(key) <= 9):
            raise InvalidRequest(
                "Invalid key in 'logit_bias': expected token ids, written as strings of digits.",
                param="logit_bias",
                code="invalid_value",
            )


def check_stream_options(request: Any) -> None:
    """Refuse options of a stream that isn't asked for.

    Raises:
        InvalidRequest: naming them.
    """
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
        )


_TEMPLATE_OWN: Final = frozenset(
    {"messages", "tools", "functions", "documents", "add_generation_prompt", "bos_token", "eos_token"}
)
"""Variables of a chat template that come from the request's other members or from the model."""


def check_template(kwargs: Mapping[str, Any] | None) -> None:
    """Refuse variables of the chat template that aren't the caller's.

    Raises:
        InvalidRequest: naming one.
    """
    for key in kwargs or ():
        if key in _TEMPLATE_OWN:
            raise InvalidRequest(
                f"Invalid 'chat_template_kwargs': '{key}' is not the caller's to set.",
                param=f"chat_template_kwargs.{key}",
                code="unsupported_value",
            )
