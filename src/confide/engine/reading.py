"""What decoded text means: free text, JSON under a schema, or calls read back from it.

Text that was decoded under a constraint is validated when it is complete: the promise
doesn't rest on one library alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec

from confide.engine.prompt import Plan
from confide.engine.schema import validator
from confide.engine.stops import StopFilter
from confide.engine.toolcalls import ToolCallReader, broken
from confide.wire.answers import CallArguments, CallStarted, Delta, FinishReason, TextDelta


class Reading:
    """Free text, which the engine itself ends at stop sequences: nothing to read into it."""

    stopped = False
    """A stop sequence was met: generating more is of no use."""

    def __init__(self, planned: Plan, index: int, stops: Sequence[str]) -> None:
        self.plan = planned
        self.index = index
        self.stops = StopFilter(stops)

    def feed(self, text: str, logprobs: tuple[dict[str, Any], ...] | None) -> list[Delta]:
        """What more decoded text means."""
        return [TextDelta(self.index, text, logprobs)]

    def finish(self, reason: FinishReason) -> tuple[list[Delta], FinishReason]:
        """What was held back, and why the choice ended, once decoding has ended.

        Raises:
            EngineFailed: a complete answer breaks its constraint.
        """
        return [], reason


class JsonReading(Reading):
    """JSON under a schema, validated when complete."""

    def __init__(self, planned: Plan, index: int, stops: Sequence[str]) -> None:
        super().__init__(planned, index, stops)
        self._text: list[str] = []

    def feed(self, text: str, logprobs: tuple[dict[str, Any], ...] | None) -> list[Delta]:
        return self._show(self.stops.feed(text), logprobs)

    def _show(self, text: str, logprobs: tuple[dict[str, Any], ...] | None) -> list[Delta]:
        self.stopped = self.stops.hit
        self._text.append(text)
        return [TextDelta(self.index, text, logprobs)] if text else []

    def finish(self, reason: FinishReason) -> tuple[list[Delta], FinishReason]:
        rest = self._show(self.stops.rest(), None)
        if reason == "stop" and not self.stopped:
            _validate("".join(self._text), self.plan.schema)
        return rest, reason


class CallReading(JsonReading):
    """Calls or a reply, both validated when complete."""

    def __init__(self, planned: Plan, index: int, stops: Sequence[str]) -> None:
        super().__init__(planned, index, stops)
        self._reader = ToolCallReader(index, lambda: f"call_{secrets.token_hex(12)}")
        self._calls: list[tuple[str, list[str]]] = []

    def feed(self, text: str, logprobs: tuple[dict[str, Any], ...] | None) -> list[Delta]:
        out: list[Delta] = []
        for delta in self._reader.feed(text, logprobs):
            if isinstance(delta, TextDelta):
                out.extend(super().feed(delta.text, delta.logprobs))
                continue
            if isinstance(delta, CallStarted):
                self._calls.append((delta.name, []))
            elif isinstance(delta, CallArguments):
                self._calls[-1][1].append(delta.text)
            out.append(delta)
        return out

    def finish(self, reason: FinishReason) -> tuple[list[Delta], FinishReason]:
        if self._reader.replying:
            if not self.plan.may_reply:
                raise broken()
            return super().finish(reason)
        if reason != "stop":
            return [], reason
        self._reader.close()
        functions = {tool.function.name: tool.function for tool in self.plan.tools}
        for name, arguments in self._calls:
            if name not in functions:
                raise broken()
            _validate("".join(arguments), functions[name].parameters or {"type": "object"})
        return [], "tool_calls"


def reading(planned: Plan, index: int, stops: Sequence[str]) -> Reading:
    kinds = {"text": Reading, "json": JsonReading, "calls": CallReading}
    return kinds[planned.form](planned, index, stops)


def _validate(text: str, schema: dict[str, Any] | bool | None) -> None:
    """None stands for free text, which nothing can break."""
    if schema is None:
        return
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise broken() from None
    if validator(schema)(value) is not None:
        raise broken()
