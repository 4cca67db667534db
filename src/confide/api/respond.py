"""Writes whole answers over ASGI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from starlette.types import Send

from confide.errors import ApiError, Unavailable
from confide.wire.failing import OPENAI, ErrorForm

JSON = b"application/json"

Field: TypeAlias = tuple[bytes, bytes]
"""A header as it is written, its name in lower case."""


def fields_of(headers: Mapping[str, str]) -> list[Field]:
    """Headers as they are written."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def send_bytes(
    send: Send,
    body: bytes,
    *,
    status: int = 200,
    media_type: bytes = JSON,
    fields: Iterable[Field] = (),
) -> None:
    """One complete answer; ``fields`` stand beside its type and its length."""
    fields = [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), *fields]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: ApiError, form: ErrorForm = OPENAI) -> None:
    """An error with its status."""
    await send_bytes(send, form.body(error), status=error.status, fields=fields_of(error.headers))


def store_down() -> ApiError:
    """What a client is told when the store can't be asked: nothing is assumed in its place."""
    return Unavailable("The server can't reach its store. Please try again later.", headers={"Retry-After": "5"})


def internal_error() -> ApiError:
    """What a client is told when this server has a bug: that it has one, and nothing else."""
    return ApiError("The server had an error while processing your request. Sorry about that!")
