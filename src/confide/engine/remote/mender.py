"""An engine's stream as the client shall see it: bytes in, events out.

A chunk that is right already passes byte for byte. What isn't is mended and written anew: another id or model name,
members that a client has no use for, a role in every chunk or none, choices out of order, calls without ids, finish
reasons that don't agree with the answer, usage where nobody asked or in a place of its own. What can't be mended is a
failure: an engine is never trusted to send JSON, to end, or to be brief.

Source of what "right" means: OpenAI API specification 2.3.0, ``CreateChatCompletionStreamResponse``, and the order of
chunks on which both official SDKs insist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from confide.engine.base import ChatCall
from confide.engine.remote.calls import CallsMender
from confide.engine.remote.dialect import Dialect
from confide.engine.remote.events import EventsMender
from confide.engine.remote.rules import broken, choices_of, finish_reason, is_legacy, logprobs_json, trim_logprobs
from confide.engine.remote.shapes import Choice, Chunk, Delta, RightChunk, Spent
from confide.engine.remote.whole import mend_whole
from confide.seal.events import Event
from confide.wire.answers import Usage
from confide.wire.lookalike import Lookalike
from confide.wire.sse import event

__all__ = ["StreamMender", "mend_whole"]

_right: Final = msgspec.json.Decoder(RightChunk)
_lenient: Final = msgspec.json.Decoder(Chunk)
_UNREADABLE: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
_OBJECT: Final = "chat.completion.chunk"


@dataclass(slots=True)
class _State:
    """What was seen of one choice."""

    calls: CallsMender
    started: bool = False
    finish: bytes | None = None
    """The event that ended it."""


@dataclass(slots=True)
class _Counted:
    """Usage until now."""

    told: Usage | None = None
    chunks: int = 0
    pieces: int = 0
    sent: bool = False

    def add(self, spent: Spent, *, summed: bool) -> None:
        """Take what the engine tells; of several choices the last, or their sum."""
        value = spent.value
        if summed and self.told is not None and self.chunks:
            value = Usage(
                max(value.prompt, self.told.prompt),
                value.completion + self.told.completion,
                max(value.cached, self.told.cached),
                value.reasoning + self.told.reasoning,
            )
        self.told = value


@dataclass(slots=True)
class _Piece:
    """One event under work: its bytes, where they may pass, and what is made of it."""

    event: Event
    chunk: Chunk
    raw: bytes | None
    out: list[bytes] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)


class StreamMender(EventsMender):
    """Mends one stream. No I/O: bytes in, whole events for the client out, without ``[DONE]``."""

    __slots__ = ("_call", "_created", "_legacy", "_lookalike", "_plain", "_states", "_usage", "_usage_wanted")

    def __init__(self, call: ChatCall, dialect: Dialect) -> None:
        super().__init__(dialect)
        self._call = call
        self._lookalike = Lookalike()
        self._legacy = is_legacy(call)
        self._states = [_State(CallsMender(call, index)) for index in range(choices_of(call))]
        self._usage = _Counted()
        options = call.request.stream_options
        self._usage_wanted = options is not None and bool(options.include_usage)
        self._created: int | None = None
        self._plain = False  # the last event was a piece of text that passed, and the next may be one

    @property
    def id(self) -> str:
        """What every chunk is called."""
        return self._call.id

    @property
    def usage(self) -> Usage:
        """Tokens until now: as the engine told, or the number of its pieces while it hasn't."""
        return self._usage.told or Usage(completion=self._usage.pieces)

    def feed(self, data: bytes) -> list[bytes]:
        """As the frame does; what looks like the last chunk needs no look into it."""
        if self._plain and (alike := self._lookalike.texts(data)):
            self._usage.pieces += len(alike)
            return [data] if len(alike) == 1 else [one + b"\n\n" for one in data[:-2].split(b"\n\n")]
        self._plain = False
        out = super().feed(data)
        self._plain &= not (self.done or self._reader.pending or self._failure)
        return out

    def passes(self, write: Callable[[bytes], bool], data: bytes) -> bool:
        """What looks like the last chunk."""
        alike = self._lookalike.texts(data) if self._plain else ()
        if not alike or not write(data):
            return False
        self._usage.pieces += len(alike)
        return True

    @property
    def _complete(self) -> bool:
        return all(state.finish is not None for state in self._states)

    # Events ----------------------------------------------------------------------------------------------------------

    def _event(self, found: Event, data: bytes, out: list[bytes]) -> bool:
        """Take one event; says whether it was the last, after which nothing is the client's."""
        self._plain = False
        if found.is_done:
            return True
        piece = _read(found)
        if piece.chunk.error is not None or piece.chunk.object == "error":
            raise self._told(data)
        self._mend(piece)
        self._look(piece)
        out.extend(piece.out)
        return False

    def _look(self, piece: _Piece) -> None:
        """Learn what pieces of text look like, from one that passes as it is."""
        if piece.raw is None or piece.chunk.usage is not None or len(piece.choices) != 1 or len(self._states) != 1:
            return
        (choice,) = piece.choices
        delta = choice.delta or Delta()
        if delta.content and choice.finish_reason is None and choice.logprobs is None and not _says_more(delta):
            self._lookalike.learn(piece.raw, delta.content)
            self._plain = True

    def _mend(self, piece: _Piece) -> None:
        chunk = piece.chunk
        same_time = self._same_time(chunk)
        if chunk.id != self._call.id or chunk.model != self._call.model or not same_time:
            piece.raw = None
        for choice in chunk.choices or ():
            self._choice(choice, piece)
        told = chunk.usage
        if told is not None:
            self._count(told, chunk)
        if chunk.choices:
            if told is not None:
                piece.raw = None  # usage has its own chunk
            self._write(piece)
        self._write_usage(piece)

    def _same_time(self, chunk: Chunk) -> bool:
        if self._created is None:
            self._created = int(chunk.created) if chunk.created and chunk.created > 0 else self._call.created
        return chunk.created == self._created

    # Choices ---------------------------------------------------------------------------------------------------------

    def _choice(self, choice: Choice, piece: _Piece) -> None:
        """Mend a choice in its place. Where it was changed, its bytes can't pass."""
        if choice.index >= len(self._states):
            raise broken("more choices than were asked for")
        state = self._states[choice.index]
        delta = choice.delta = choice.delta or Delta()
        if state.finish is not None:
            if not _is_empty(delta) and state.finish != piece.event.data:
                raise broken("more of a choice that it had ended")
            piece.raw = None
            return
        self._start_before(choice.index, piece)
        changed = self._role(delta, state)
        changed |= _reasoning(delta)
        if delta.tool_calls is not None:
            changed |= state.calls.mend(delta)
        changed |= self._logprobs(choice)
        self._usage.pieces += not _is_empty(delta)
        if choice.finish_reason is not None:
            changed |= self._finish(choice, delta, state)
            state.finish = piece.event.data or b""
        if changed or (self._legacy and delta.tool_calls):
            piece.raw = None
        piece.choices.append(choice)

    def _start_before(self, index: int, piece: _Piece) -> None:
        """Choices must appear in order: the Python SDK breaks on choice 1 before choice 0."""
        for earlier, state in enumerate(self._states[:index]):
            if not state.started:
                state.started = True
                piece.out.append(self._chunk(piece.chunk, [Choice(index=earlier, delta=Delta(role="assistant"))]))

    def _role(self, delta: Delta, state: _State) -> bool:
        """Said once, first: the SDK's helper concatenates it, or misses it."""
        wanted = None if state.started else "assistant"
        state.started = True
        if delta.role == wanted:
            return False
        delta.role = wanted
        return True

    def _logprobs(self, choice: Choice) -> bool:
        if choice.logprobs is None:
            return False
        if not self._call.request.logprobs:
            choice.logprobs = None
            return True
        return trim_logprobs(choice.logprobs, self._call.request.top_logprobs or 0)

    def _finish(self, choice: Choice, delta: Delta, state: _State) -> bool:
        given = choice.finish_reason
        reason = finish_reason(given, calls=state.calls.any, legacy=self._legacy)
        choice.finish_reason = reason
        return (reason != "length" and state.calls.complete(delta)) or reason != given

    # Usage -----------------------------------------------------------------------------------------------------------

    def _count(self, spent: Spent, chunk: Chunk) -> None:
        """The engine's numbers. Those beside choices aren't final where a chunk of their own is to follow."""
        self._usage.add(spent, summed=self._dialect.usage_per_choice and not chunk.choices)
        if not chunk.choices or not self._dialect.stream_options:
            self._usage.chunks += 1

    def _write_usage(self, piece: _Piece) -> None:
        counted = self._usage
        expected = len(self._states) if self._dialect.usage_per_choice else 1
        if not self._usage_wanted or counted.sent or counted.chunks < expected or not self._complete:
            return
        counted.sent = True
        assert counted.told is not None
        spent = piece.chunk.usage
        if piece.raw is not None and not piece.chunk.choices and counted.chunks == 1 and spent and spent.adds_up:
            piece.out.append(piece.raw)
            return
        piece.out.append(self._chunk(piece.chunk, [], counted.told))

    # Writing ---------------------------------------------------------------------------------------------------------

    def _write(self, piece: _Piece) -> None:
        if piece.raw is not None:
            piece.out.append(piece.raw)
            return
        kept = [choice for choice in piece.choices if _says_something(choice)]
        if kept:
            piece.out.append(self._chunk(piece.chunk, kept))

    def _chunk(self, chunk: Chunk, choices: list[Choice], usage: Usage | None = None) -> bytes:
        head: dict[str, Any] = {
            "id": self._call.id,
            "object": _OBJECT,
            "created": self._created,
            "model": self._call.model,
        }
        for name in ("system_fingerprint", "service_tier"):
            if getattr(chunk, name) is not None:
                head[name] = getattr(chunk, name)
        head["choices"] = [self._choice_json(choice) for choice in choices]
        if usage is not None:
            head["usage"] = usage.as_json()
        return event(msgspec.json.encode(head))

    def _choice_json(self, choice: Choice) -> dict[str, Any]:
        written: dict[str, Any] = {
            "index": choice.index,
            "delta": self._delta_json(choice.delta or Delta()),
            "logprobs": logprobs_json(choice.logprobs),
            "finish_reason": choice.finish_reason,
        }
        for name in ("stop_reason", "matched_stop"):
            if getattr(choice, name) is not None:
                written[name] = getattr(choice, name)
        return written

    def _delta_json(self, delta: Delta) -> dict[str, Any]:
        written: dict[str, Any] = {}
        if delta.role is not None:
            written = {"role": delta.role, "content": ""}
        for name in ("content", "refusal"):
            if getattr(delta, name) is not None:
                written[name] = getattr(delta, name)
        if delta.reasoning:
            written |= {"reasoning": delta.reasoning, "reasoning_content": delta.reasoning}
        calls = [_call_json(call) for call in delta.tool_calls or ()]
        if calls and self._legacy:
            written |= {"function_call": function} if (function := _only(calls)) else {}
        elif calls:
            written["tool_calls"] = calls
        return written


def _read(found: Event) -> _Piece:
    """The chunk that an event carries, and its bytes where they are written as OpenAI writes them."""
    data = found.data or b""
    try:
        chunk: Chunk = _right.decode(data)
    except _UNREADABLE:
        pass
    else:
        # A lone CR would end the line for others that read events; between JSON's values it may stand.
        framed = found.raw.startswith(b"data: ") and len(found.raw) == len(data) + 8 and b"\r" not in found.raw
        return _Piece(found, chunk, found.raw if framed and not found.others else None)
    try:
        return _Piece(found, _lenient.decode(data), None)
    except _UNREADABLE:
        raise broken("an event that is no part of an answer") from None


def _is_empty(delta: Delta) -> bool:
    return not (delta.content or delta.refusal or delta.reasoning or delta.reasoning_content or delta.tool_calls)


def _says_more(delta: Delta) -> bool:
    return bool(delta.role or delta.refusal or delta.reasoning or delta.reasoning_content or delta.tool_calls)


def _says_something(choice: Choice) -> bool:
    delta = choice.delta or Delta()
    return bool(delta.role or choice.finish_reason or choice.logprobs) or not _is_empty(delta)


def _reasoning(delta: Delta) -> bool:
    """Under both names that clients look for, as the embedded engine writes it."""
    text = delta.reasoning or delta.reasoning_content
    if not text or delta.reasoning == delta.reasoning_content:
        return False
    delta.reasoning = delta.reasoning_content = text
    return True


def _call_json(call: Any) -> dict[str, Any]:
    function = {"name": call.function.name} if call.function.name is not None else {}
    start = {"id": call.id, "type": "function"} if call.id is not None else {}
    return {"index": call.index, **start, "function": {**function, "arguments": call.function.arguments or ""}}


def _only(calls: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The deprecated form has room for the first call."""
    pieces = [call["function"] for call in calls if call["index"] == 0]
    if not pieces:
        return None
    joined: dict[str, Any] = {**pieces[0], "arguments": "".join(piece["arguments"] for piece in pieces)}
    return joined
