"""Which replica a conversation prefers: the one whose prefix cache has its start.

All turns of one conversation start alike, so what counts is its start: the tools, and the messages up to the first of
the user, of both a bounded number of bytes. The tenant counts too, as caches are not shared between tenants. The hash
is keyed: nobody outside can choose prompts that all fall on one replica, or tell from where a prompt fell what it was.

Source of the choice: rendezvous hashing (Thaler and Ravishankar, 1998): each replica has a score for each conversation
and the highest wins, so that a replica which comes or goes moves no conversation between the others.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from confide.engine.base import Call
from confide.wire.openai import ChatRequest, ImagePart, Message, RefusalPart, TextPart, UserMessage

MOST_BYTES: Final = 16 * 1024
"""Of the start, and as many of the tools. Conversations that differ only after it prefer the same replica."""

_PURPOSE: Final = b"confide/affinity/1"
_LENGTH: Final = 4


def affinity_key(secret: bytes, call: Call[Any]) -> bytes:
    """32 bytes that stand for the conversation and the tenant of a request, or for a text and its tenant."""
    made = hmac.new(secret, _PURPOSE, hashlib.sha256)
    for field in (_utf8(call.tenant), *_bounded(_tools(call.request)), b"", *_bounded(_start(call.request))):
        made.update(len(field).to_bytes(_LENGTH, "big") + field)
    return made.digest()


def ranking(key: bytes, names: Sequence[str]) -> list[int]:
    """The indices of the replicas, the preferred one first.

    Args:
        key: of :func:`affinity_key`.
        names: distinct, and the same after a restart and in every process that serves beside this one.
    """
    scores = [hmac.digest(key, _utf8(name), hashlib.sha256) for name in names]
    return sorted(range(len(names)), key=scores.__getitem__, reverse=True)


def _start(request: Any) -> Iterator[str]:
    """Where conversations begin; other requests have it in one piece (:attr:`opening`)."""
    if not isinstance(request, ChatRequest):
        yield str(type(request).__name__)
        yield from request.opening
        return
    for message in request.messages:
        yield str(message.__struct_config__.tag)
        yield from _texts(message)
        if isinstance(message, UserMessage):
            return


def _texts(message: Message) -> Iterator[str]:
    content = message.content
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        if isinstance(part, TextPart):
            yield part.text
        elif isinstance(part, ImagePart):
            yield part.image_url.url
        elif isinstance(part, RefusalPart):
            yield part.refusal


def _tools(request: Any) -> Iterator[str]:
    for tool in [*(getattr(request, "tools", None) or ()), *(getattr(request, "functions", None) or ())]:
        yield msgspec.json.encode(tool).decode()


def _bounded(texts: Iterable[str]) -> Iterator[bytes]:
    """The first :data:`MOST_BYTES` of the texts, lengths included; of a longer text no more than that is encoded."""
    left = MOST_BYTES
    for text in texts:
        field = _utf8(text[:left])[:left]
        yield field
        left -= _LENGTH + len(field)
        if left <= 0:
            return


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
