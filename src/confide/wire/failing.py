"""How an endpoint tells of an error, in place of an answer and in the middle of a stream.

Sources: OpenAI API specification, schemas ``Error`` and ``ResponseErrorEvent``, and what its streams of chat
completions send; both SDKs raise on an event with ``error``. A stream that is merely cut reads as success with some
clients, so that there is always one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from confide.errors import ApiError
from confide.wire.answers import error_body, error_event
from confide.wire.sse import DONE


@dataclass(frozen=True, slots=True)
class ErrorForm:
    """``body`` writes an error in place of an answer, ``event`` one in a stream; ``end`` ends a stream that failed."""

    body: Callable[[ApiError], bytes]
    event: Callable[[ApiError], bytes]
    end: bytes = b""


OPENAI: Final = ErrorForm(error_body, error_event, DONE)
"""``{"error": {"message", "type", "param", "code"}}``, in streams too, and then ``[DONE]``."""


def _responses_event(error: ApiError) -> bytes:
    """The event of the specification, with the object on which both SDKs raise in ``error``."""
    told = {"type": "error", "code": error.code, "message": error.message, "param": error.param, "sequence_number": 0}
    return b"event: error\ndata: " + msgspec.json.encode(told | error.body()) + b"\n\n"


RESPONSES: Final = ErrorForm(error_body, _responses_event)
"""The same, but for streams: an event ``error``, which is also their end."""
