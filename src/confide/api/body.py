"""Reads a request's body up to the limit, as the bytes that came."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Receive, Scope

from confide.errors import BodyTooLarge, InvalidRequest


class ClientLeft(Exception):
    """The client closed the connection."""


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers by lower-case name; of one that is repeated, the values with commas between, as HTTP has it."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


async def read_body(headers: Mapping[str, str], receive: Receive, limit: int) -> bytes:
    """The whole body.

    Raises:
        InvalidRequest: not announced as JSON.
        BodyTooLarge: more than ``limit`` bytes, announced or sent.
        ClientLeft: the client closed the connection first.
    """
    _check_media_type(headers)
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise too_large(limit)
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise too_large(limit)
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces) if len(pieces) > 1 else pieces[0]


def too_large(limit: int) -> BodyTooLarge:
    """The error for a body over the limit.

    The connection stays open: the rest of the body is read and thrown away, since closing with unread bytes resets the
    connection, and the client would see that instead of the answer.
    """
    return BodyTooLarge(f"The request body is too large: the limit is {limit} bytes.", code="request_too_large")


def _check_media_type(headers: Mapping[str, str]) -> None:
    """Only JSON: a browser sends text/plain or a form to another site without asking, and JSON never."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise InvalidRequest(
            "Unsupported content type: the request must have the header 'Content-Type: application/json'.",
            code="unsupported_content_type",
        )
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise InvalidRequest(
            "Unsupported content encoding: send the body without compression.",
            code="unsupported_content_encoding",
        )
