"""One exception tree for the whole package.

Two branches: :class:`ApiError` is what an HTTP client is told (status, and OpenAI's error object of four keys);
:class:`OperatorError` is what the person at the command line is told (one sentence, one exit code).
"""

from __future__ import annotations

from collections.abc import Mapping


class ConfideError(Exception):
    """Root of every exception that this package raises on purpose."""


class OperatorError(ConfideError):
    """Something that the person who runs the command must change; the text says what."""

    exit_code = 1


class ConfigError(OperatorError):
    """A setting is missing, unknown or out of range; the text names the file, line or variable."""

    exit_code = 2


class ModelFileError(OperatorError):
    """A model file is missing, unreadable, of an unknown format, or not the bytes that were pinned."""


class StoreError(OperatorError):
    """The store can't be opened, read or written."""


class ApiError(ConfideError):
    """An answer with a status of 400 or more and OpenAI's error object.

    Source: the OpenAI API specification, schema ``Error``: ``message``, ``type``, ``param`` and ``code`` are all
    required; ``param`` and ``code`` may be null. ``message`` never holds a prompt, a completion or a secret.
    """

    status = 500
    type = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.headers: dict[str, str] = dict(headers or {})
        if status is not None:
            self.status = status
        if type is not None:
            self.type = type

    def body(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's error object."""
        return {
            "error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code},
        }


class InvalidRequest(ApiError):
    """400: the request is malformed, or asks for what cannot be honoured."""

    status = 400
    type = "invalid_request_error"


class Unauthorized(ApiError):
    """401: no API key, or not one of ours."""

    status = 401
    type = "invalid_request_error"


class NotFound(ApiError):
    """404: no such model or path."""

    status = 404
    type = "invalid_request_error"


class BodyTooLarge(ApiError):
    """413: more bytes than the limit."""

    status = 413
    type = "invalid_request_error"


class TooManyRequests(ApiError):
    """429: the queue of this server is full; ``Retry-After`` says when to come back."""

    status = 429
    type = "requests"


class EngineFailed(ApiError):
    """502: the engine broke or gave an answer that breaks the contract that was asked for."""

    status = 502


class Unavailable(ApiError):
    """503: not now; ``Retry-After`` says when to come back."""

    status = 503
