"""Answers of APIs whose streams are named events: what a client may see of them passes, byte for byte where it can.

An event is read, and pruned to the members that are known of its type; those that weren't changed pass as they came. An
event of an unknown type is left out. The head of the answer (its id and the model's name) is this server's. The event
that ends the stream is kept back, for whoever commits the receipt first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from confide.engine.base import Call
from confide.engine.remote import failures
from confide.engine.remote.dialect import Dialect
from confide.engine.remote.events import EventsMender, framed
from confide.engine.remote.pruning import Json, Shape, prune, read
from confide.engine.remote.rules import broken
from confide.engine.remote.shapes import LONGEST_BODY
from confide.errors import EngineFailed
from confide.seal.events import Event
from confide.wire.answers import Usage

_MOST_TOKENS: Final = 2**53


@dataclass(frozen=True, slots=True)
class Api:
    """What such an API's answers look like.

    Attributes:
        events: the types that may pass, and what of each.
        head: the member of an event that has the answer's head; the first event has one.
        begins: the type of the first event.
        ends: the types that end a stream; the answer is complete.
        fails: those that tell of an error.
        whole: what may pass of an answer in one piece.
        check: raises EngineFailed for an answer, or an event, that says that the answer isn't complete.
        retype: gives an event the type that it should have had, and says whether it had another.
    """

    events: Mapping[str, Shape]
    head: str
    begins: str
    ends: frozenset[str]
    fails: frozenset[str]
    whole: Shape
    check: Callable[[Json], None]
    retype: Callable[[Json], bool] = lambda event: False


class ApiMender(EventsMender):
    """Mends one stream."""

    last: bytes = b""

    def __init__(self, call: Call[Any], dialect: Dialect, api: Api) -> None:
        super().__init__(dialect)
        self._call = call
        self._api = api
        self._started = False

    @property
    def _complete(self) -> bool:
        return self.done

    def _event(self, found: Event, data: bytes, out: list[bytes]) -> bool:
        api, answer = self._api, read(data)
        kind = answer.get("type")
        if kind in api.fails or answer.get("error") is not None:
            raise self._told(data)
        if not isinstance(kind, str) or kind not in api.events:
            return False
        changed = prune(answer, api.events[kind])
        head = answer.get(api.head)
        if not self._started and (kind != api.begins or head is None):
            raise broken("a stream without its beginning")
        self._started = True
        if head is not None:
            changed |= own_head(head, self._call)
        self._spent = spent(answer, head) or self._spent
        api.check(answer)
        if api.retype(answer):
            changed, kind = True, answer["type"]
        raw = found.raw if not changed and framed(found, data, kind.encode()) else None
        frame = raw or b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(answer))
        if kind in api.ends:
            self.last = frame
            return True
        out.append(frame)
        return False


def mend_whole(call: Call[Any], dialect: Dialect, body: bytes, api: Api) -> tuple[bytes, Usage]:
    """The answer for the client, and its tokens. One that is right already is returned as it is.

    Raises:
        ApiError: the engine tells of an error under the status 200; EngineFailed: it gave no complete answer.
    """
    answer = read_whole(body, dialect)
    changed = prune(answer, api.whole)
    api.check({api.head: answer})
    changed |= own_head(answer, call)
    return (msgspec.json.encode(answer) if changed else body), spent(answer) or Usage()


def read_whole(body: bytes, dialect: Dialect) -> Json:
    """An answer in one piece.

    Raises:
        ApiError: the engine tells of an error under the status 200; EngineFailed: it is no object, or too long.
    """
    if len(body) > LONGEST_BODY:
        raise broken("an answer that is too long")
    answer = read(body)
    if answer.get("error") is not None or "error" in (answer.get("type"), answer.get("object")):
        raise failures.from_event(body, dialect)
    return answer


def own_head(head: Json, call: Call[Any]) -> bool:
    """The id and the model's name as this server gives them; says whether they weren't."""
    own = {"id": call.id, "model": call.model}
    if own.items() <= head.items():
        return False
    head.update(own)
    return True


def spent(*places: Json | None) -> Usage | None:
    """The tokens that one of the objects tells of."""
    for place in places:
        told = (place or {}).get("usage")
        if isinstance(told, dict):
            read_in, thought = told.get("input_tokens_details") or {}, told.get("output_tokens_details") or {}
            cached = read_in.get("cached_tokens") or told.get("cache_read_input_tokens")
            # Anthropic counts what came from the cache, or went there, beside the input.
            beside = [told.get(f"cache_{way}_input_tokens") or 0 for way in ("read", "creation")]
            prompt = (told.get("input_tokens") or 0) + sum(beside)
            counts = [prompt, told.get("output_tokens"), cached, thought.get("reasoning_tokens")]
            return Usage(*(_count(number) for number in counts))
    return None


def _count(number: int | None) -> int:
    if number is not None and not 0 <= number <= _MOST_TOKENS:
        raise EngineFailed("The engine gave a count of tokens that is none.")
    return number or 0
