"""``POST /v1/embeddings``: the body of the request, and the answer's shape.

Source: OpenAI API specification 2.3.0, schemas ``CreateEmbeddingRequest`` and ``CreateEmbeddingResponse``; base64 is of
little-endian floats of 32 bits, as the official SDKs read it (they ask for it where the caller names no format).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta, Struct

from confide.wire.members import check_provider, decode
from confide.wire.openai import Json, Positive
from confide.wire.texts import Token, check_inputs

Vector = Sequence[float]


class EmbeddingRequest(Struct):
    """One request for embeddings, decoded."""

    stream: ClassVar[None] = None
    """There is no such thing here."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: str | Annotated[list[str | Token | list[Token]], Meta(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=2**20)] | None = None

    # Hints.
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Json | None = None

    provider: Json | None = None

    # What open engines add.
    truncate_prompt_tokens: Positive | None = None
    add_special_tokens: bool | None = None
    messages: Any = None
    task: Any = None
    normalize: Any = None

    @property
    def inputs(self) -> list[str | list[int]]:
        """Each text or list of token ids."""
        given: Any = self.input
        return [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)

    @property
    def opening(self) -> list[str]:
        """Its start, by which a replica whose cache has it is found."""
        return [str(self.inputs[0])]


CORE: Final = frozenset({"model", "input", "encoding_format", "provider"})
HINTS: Final = frozenset({"user", "safety_identifier", "metadata"})
HARMLESS: Final[dict[str, object]] = {"add_special_tokens": True}

_decoder = msgspec.json.Decoder(EmbeddingRequest)


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """Decode a request body, once.

    Raises:
        InvalidRequest: as :func:`confide.wire.members.decode`.
    """
    return decode(_decoder, body, needs="'model' and 'input'")


def check_embedding(request: EmbeddingRequest) -> None:
    """Refuse what is well-formed but contradicts itself.

    Raises:
        InvalidRequest: naming the member.
    """
    check_provider(request.provider)
    check_inputs(request.input, "input")


# Answers -------------------------------------------------------------------------------------------------------------


def unpacked(text: str) -> list[float]:
    """The vector in a base64 text.

    Raises:
        ValueError: there is none.
    """
    data = base64.b64decode(text, validate=True)
    if not data or len(data) % 4:
        raise ValueError("no floats")
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def packed(vector: Vector) -> str:
    """A vector as base64.

    Raises:
        OverflowError: a number that no float of 32 bits can be.
    """
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
