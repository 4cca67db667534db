"""How an endpoint tells of an error, in place of an answer and in the middle of a stream.

Sources: OpenAI API specification, schema ``Error``, and what its streams of chat completions send; both SDKs raise on
an event with ``error``. A stream that is merely cut reads as success with some clients, so that there is always one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

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
