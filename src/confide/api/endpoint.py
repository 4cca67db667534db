"""What differs between the endpoints that :mod:`confide.api.chat` walks through: one value for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

from confide.api.vision import Picture, chat_pictures
from confide.engine.base import CHAT as CHAT_PATH
from confide.engine.base import COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES, Call, Engine, EngineInfo, Reply
from confide.errors import InvalidRequest
from confide.route.models import ServedModel
from confide.wire import failing, messages, responses, texts, vectors
from confide.wire.conversation import check
from confide.wire.failing import OPENAI, ErrorForm
from confide.wire.members import refuse_all_but
from confide.wire.messages import MessagesRequest
from confide.wire.openai import ChatRequest, PlainChat, parse_chat, refuse_unsupported
from confide.wire.responses import ResponsesRequest
from confide.wire.texts import CompletionRequest
from confide.wire.vectors import EmbeddingRequest


class Asked(Protocol):
    """What the walk itself reads of a request."""

    @property
    def model(self) -> str:
        """A model's name, or what the client takes for one."""
        ...

    @property
    def stream(self) -> bool | None:
        """Whether the answer comes as events."""
        ...


R = TypeVar("R", bound=Asked)


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[R]):
    """One endpoint.

    Attributes:
        path: of its URL; receipts name it, and :mod:`confide.seal.fields` says by it what is sealed.
        prefix: how the ids of its answers begin.
        parse: makes the request of its bytes; raises InvalidRequest where their shape is wrong.
        check: raises InvalidRequest for a request that contradicts itself.
        refuse: the same for what the model can't honour; names the member.
        pictures: the images in the request.
        start: gives the request to the engine, which accepts or refuses.
        errors: how it tells of an error.
        key_header: where a key may stand beside ``Authorization``.
    """

    path: str
    prefix: str
    parse: Callable[[bytes], R]
    check: Callable[[R], None]
    refuse: Callable[[R, ServedModel], None]
    pictures: Callable[[R], Sequence[Picture]]
    start: Callable[[Engine, Call[R]], Awaitable[Reply]]
    errors: ErrorForm = OPENAI
    key_header: str | None = None


# Chat completions ----------------------------------------------------------------------------------------------------


def refuse_what_the_model_lacks(request: ChatRequest, model: ServedModel) -> None:
    """Refuse by name what can't be honoured, rather than ignore it.

    Raises:
        InvalidRequest: naming the member.
    """
    info = model.engine.info
    refuse_unsupported(request, info.parameters)
    refuse_choices(request, info)
    refuse_content(request, sees=info.sees)


def refuse_choices(request: ChatRequest | CompletionRequest, info: EngineInfo) -> None:
    """Refuse more choices than the model gives at once."""
    if (request.n or 1) > info.max_choices:
        raise InvalidRequest(
            f"Invalid 'n': integer above maximum value. Expected a value <= {info.max_choices} for the model "
            f"'{request.model}', but got {request.n} instead.",
            param="n",
            code="integer_above_max_value",
        )


def refuse_content(request: ChatRequest, *, sees: bool) -> None:
    """Refuse content parts that the model can't take, naming it."""
    if isinstance(request, PlainChat):
        return
    known = {"text", "refusal"} | ({"image_url"} if sees else set())
    for index, message in enumerate(request.messages):
        for position, part in enumerate(message.content if isinstance(message.content, list) else ()):
            kind = str(part.__struct_config__.tag)
            if kind not in known:
                raise InvalidRequest(
                    f"Invalid content type: '{kind}' is not supported by the model '{request.model}'.",
                    param=f"messages[{index}].content[{position}].type",
                    code="unsupported_value",
                )


CHAT: Final = Endpoint(
    path=CHAT_PATH,
    prefix="chatcmpl-",
    parse=parse_chat,
    check=check,
    refuse=refuse_what_the_model_lacks,
    pictures=chat_pictures,
    start=lambda engine, call: engine.chat(call),
)


# Texts and vectors ---------------------------------------------------------------------------------------------------


def refuse_texts(request: CompletionRequest, model: ServedModel) -> None:
    """The same for completions of texts; ``best_of`` that is ``n`` picks the best of no more than are wanted."""
    info = model.engine.info
    harmless = texts.HARMLESS | {"best_of": request.n or 1}
    refuse_all_but(request, texts.CORE | texts.HINTS | info.also[COMPLETIONS], harmless)
    refuse_choices(request, info)
    if request.choices > info.max_choices:
        raise InvalidRequest(
            f"Invalid 'prompt': the model '{request.model}' gives {info.max_choices} choices at once, and "
            f"{request.choices} were asked for.",
            param="prompt",
            code="array_above_max_length",
        )


def refuse_vectors(request: EmbeddingRequest, model: ServedModel) -> None:
    """The same for embeddings."""
    allowed = vectors.CORE | vectors.HINTS | model.engine.info.also[EMBEDDINGS]
    refuse_all_but(request, allowed, vectors.HARMLESS)


def infer(engine: Engine, call: Call[Any]) -> Awaitable[Reply]:
    """Give the engine a request that isn't for chat completions."""
    return engine.infer(call)


def no_pictures(request: object) -> Sequence[Picture]:
    """Such requests have none."""
    return ()


TEXTS: Final = Endpoint(
    path=COMPLETIONS,
    prefix="cmpl-",
    parse=texts.parse_completion,
    check=texts.check_completion,
    refuse=refuse_texts,
    pictures=no_pictures,
    start=infer,
)
VECTORS: Final = Endpoint(
    path=EMBEDDINGS,
    prefix="embd-",
    parse=vectors.parse_embedding,
    check=vectors.check_embedding,
    refuse=refuse_vectors,
    pictures=no_pictures,
    start=infer,
)


# Responses and messages ----------------------------------------------------------------------------------------------


def refuse_response(request: ResponsesRequest, model: ServedModel) -> None:
    """The same for responses."""
    info = model.engine.info
    allowed = responses.CORE | responses.HINTS | info.also[RESPONSES]
    refuse_all_but(request, allowed, responses.HARMLESS)
    for part, where in request.parts:
        _refuse_part(part, where, request.model, sees=info.sees)


def refuse_message(request: MessagesRequest, model: ServedModel) -> None:
    """The same for messages."""
    info = model.engine.info
    allowed = messages.CORE | messages.HINTS | info.also[MESSAGES]
    refuse_all_but(request, allowed, messages.HARMLESS)
    for block, where in request.blocks:
        _refuse_part(block, where, request.model, sees=info.sees)


def _refuse_part(part: Any, where: str, model: str, *, sees: bool) -> None:
    image = isinstance(part, responses.InputImage | messages.Picture)
    if isinstance(part, responses.InputFile) or (image and not sees):
        kind = str(part.__struct_config__.tag)
        raise InvalidRequest(
            f"Invalid content type: '{kind}' is not supported by the model '{model}'.",
            param=f"{where}.type",
            code="unsupported_value",
        )


def response_pictures(request: ResponsesRequest) -> list[Picture]:
    """The images in the inputs."""
    return [
        Picture(part.image_url, f"{where}.image_url", partial(setattr, part, "image_url"), among="input")
        for part, where in request.parts
        if isinstance(part, responses.InputImage)
    ]


def message_pictures(request: MessagesRequest) -> list[Picture]:
    """The images in the messages."""
    return [
        Picture(_url_of(block.source), f"{where}.source", partial(_put, block))
        for block, where in request.blocks
        if isinstance(block, messages.Picture)
    ]


def _url_of(source: messages.Base64Source | messages.UrlSource) -> str:
    if isinstance(source, messages.UrlSource):
        return source.url
    return f"data:{source.media_type};base64,{source.data}"


def _put(block: messages.Picture, url: str) -> None:
    head, _, data = url.partition(";base64,")
    media_type: Any = head.removeprefix("data:")
    block.source = messages.Base64Source(media_type, data)


RESPONSE: Final = Endpoint(
    path=RESPONSES,
    prefix="resp_",
    parse=responses.parse_response,
    check=responses.check_response,
    refuse=refuse_response,
    pictures=response_pictures,
    start=infer,
    errors=failing.RESPONSES,
)
MESSAGE: Final = Endpoint(
    path=MESSAGES,
    prefix="msg_",
    parse=messages.parse_message,
    check=messages.check_message,
    refuse=refuse_message,
    pictures=message_pictures,
    start=infer,
    errors=messages.ANTHROPIC,
    key_header="x-api-key",
)

ENDPOINTS: Final[Sequence[Endpoint[Any]]] = (CHAT, TEXTS, VECTORS, RESPONSE, MESSAGE)
"""All that take a prompt."""
