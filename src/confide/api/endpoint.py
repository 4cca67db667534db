"""What differs between the endpoints that :mod:`confide.api.chat` walks through: one value for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from confide.api.vision import Picture, chat_pictures
from confide.engine.base import CHAT as CHAT_PATH
from confide.engine.base import Call, Engine, Reply
from confide.errors import InvalidRequest
from confide.route.models import ServedModel
from confide.wire.conversation import check
from confide.wire.failing import OPENAI, ErrorForm
from confide.wire.openai import ChatRequest, parse_chat, refuse_unsupported


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
    refuse_unsupported(request, info.parameters, request.model)
    if (request.n or 1) > info.max_choices:
        raise InvalidRequest(
            f"Invalid 'n': integer above maximum value. Expected a value <= {info.max_choices} for the model "
            f"'{request.model}', but got {request.n} instead.",
            param="n",
            code="integer_above_max_value",
        )
    refuse_content(request, sees=info.sees)


def refuse_content(request: ChatRequest, *, sees: bool) -> None:
    """Refuse content parts that the model can't take, naming it."""
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

ENDPOINTS: Final[Sequence[Endpoint[Any]]] = (CHAT,)
"""All that take a prompt."""
