"""``/v1/embeddings`` with an engine: the request in its dialect, and its answer in the format that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from confide.engine.base import EMBEDDINGS, Call
from confide.engine.remote.dialect import Dialect
from confide.engine.remote.events import EventsMender
from confide.engine.remote.offers import offer
from confide.engine.remote.passing import read_whole
from confide.engine.remote.request import add_ids
from confide.engine.remote.rules import broken
from confide.engine.remote.service import Service
from confide.engine.remote.shapes import Spent
from confide.errors import InvalidRequest
from confide.seal.events import Event
from confide.wire.answers import Usage
from confide.wire.vectors import EmbeddingRequest, packed, unpacked

_raw: Final = msgspec.json.Decoder(dict[str, Raw])
_MOST_NUMBERS: Final = 2**20


class _Vector(Struct):
    """One entry of ``data``."""

    embedding: list[float] | str
    index: int


class _Answer(Struct):
    """The whole of it."""

    data: Sequence[_Vector] = []
    usage: Spent | None = None


def prepare(call: Call[EmbeddingRequest], dialect: Dialect, *, model: str, salt: str | None) -> bytes:
    """The body for the engine. See :class:`~confide.engine.remote.service.Prepare`."""
    request, taken = call.request, offer(dialect, EMBEDDINGS)
    if not taken.tokens and not isinstance(request.inputs[0], str):
        raise InvalidRequest(
            f"Invalid 'input': the engine of the model '{request.model}' takes text, not tokens.",
            param="input",
            code="unsupported_value",
        )
    written = _raw.decode(call.body)
    sent = taken.members | {"encoding_format"}
    members: dict[str, Any] = {
        name: value for name, value in written.items() if name in sent and bytes(value) != b"null"
    }
    members |= {"model": model, "input": written["input"]}
    add_ids(members, call.id, dialect, salt, prefix="embd-", choices=len(request.inputs))
    return msgspec.json.encode(members)


def mend_whole(call: Call[EmbeddingRequest], dialect: Dialect, body: bytes) -> tuple[bytes, Usage]:
    """The answer for the client, and its tokens.

    Raises:
        ApiError: the engine tells of an error under the status 200; EngineFailed: it gave no complete answer.
    """
    try:
        answer = msgspec.convert(read_whole(body, dialect), _Answer)
    except msgspec.ValidationError:
        raise broken() from None
    found = sorted(answer.data, key=lambda one: one.index)
    if [one.index for one in found] != list(range(len(call.request.inputs))):
        raise broken("other vectors than were asked for")
    wanted = call.request.encoding_format or "float"
    data = [{"object": "embedding", "index": one.index, "embedding": _as(wanted, one.embedding)} for one in found]
    usage = answer.usage.value if answer.usage is not None else Usage()
    spent = {"prompt_tokens": usage.prompt, "total_tokens": usage.prompt}
    written = {"object": "list", "id": call.id, "model": call.model, "data": data, "usage": spent}
    return msgspec.json.encode(written), usage


def _as(wanted: str, embedding: list[float] | str) -> list[float] | str:
    """One vector in the format that was asked for, read in any case: an engine isn't trusted to give one."""
    try:
        numbers = unpacked(embedding) if isinstance(embedding, str) else embedding
        text = embedding if isinstance(embedding, str) else packed(numbers)
    except (ValueError, OverflowError):
        raise broken("a vector that is none") from None
    if not 0 < len(numbers) <= _MOST_NUMBERS:
        raise broken("a vector that is none")
    return numbers if wanted == "float" else text


class _NoStream(EventsMender):
    """There are none here."""

    @property
    def _complete(self) -> bool:
        return False

    def _event(self, found: Event, data: bytes, out: list[bytes]) -> bool:
        raise broken("a stream that nobody asked for")


VECTORS: Final = Service("/embeddings", prepare, lambda call, dialect: _NoStream(dialect), mend_whole, "input")
"""How embeddings are asked for."""
