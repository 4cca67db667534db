"""The calls of one choice in a stream, so that clients can put their pieces together.

Each call is at a place of its own, dense from 0. Its first piece has its id, its type, its name and arguments that may
be empty; later ones have arguments alone: the official Python SDK concatenates whatever comes twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from confide.engine.base import ChatCall
from confide.engine.remote.rules import MOST_CALLS, arguments_text, broken, call_id
from confide.engine.remote.shapes import Call, CalledFunction, Delta


@dataclass(slots=True)
class _Begun:
    """A call under way: its place, and what the engine calls its place and itself."""

    position: int
    id: str
    their_index: int | None
    their_id: str | None
    waiting: list[str] = field(default_factory=list)
    """Arguments that came before the name."""
    announced: bool = False
    empty: bool = True


class CallsMender:
    """Mends the calls of one choice, delta by delta."""

    def __init__(self, call: ChatCall, index: int) -> None:
        self._call = call
        self._index = index
        self._calls: list[_Begun] = []

    @property
    def any(self) -> bool:
        """Whether there is a call."""
        return bool(self._calls)

    def mend(self, delta: Delta) -> bool:
        """Mend the calls of a delta in their place; says whether something changed.

        Raises:
            EngineFailed: too many, or a piece of none.
        """
        kept: list[Call] = []
        changed = not delta.tool_calls
        for piece in delta.tool_calls or ():
            changed |= self._mend_one(piece, kept)
        delta.tool_calls = kept or None
        return changed

    def complete(self, delta: Delta) -> bool:
        """The choice ends: calls without arguments get an empty object; says whether there are such.

        Raises:
            EngineFailed: a call without a name.
        """
        if not all(begun.announced for begun in self._calls):
            raise broken("a call without a name")
        empty = [begun for begun in self._calls if begun.empty]
        if empty:
            rest = [Call(index=begun.position, function=CalledFunction(arguments="{}")) for begun in empty]
            delta.tool_calls = [*(delta.tool_calls or ()), *rest]
        return bool(empty)

    def _mend_one(self, piece: Call, kept: list[Call]) -> bool:
        function = piece.function or CalledFunction()
        text = arguments_text(function.arguments)
        begun = self._find(piece, function) or self._begin(piece)
        begun.empty = begun.empty and not text
        if begun.announced:
            right = (piece.index, piece.id, function.name) == (begun.position, None, None)
            right = right and isinstance(function.arguments, str)
            kept.append(piece if right else Call(index=begun.position, function=CalledFunction(arguments=text)))
            return not right
        if not function.name:
            begun.waiting.append(text)
            return True
        begun.announced = True
        whole = "".join([*begun.waiting, text])
        right = (piece.index, piece.id, piece.type) == (begun.position, begun.id, "function")
        right = right and whole == function.arguments
        named = CalledFunction(name=function.name, arguments=whole)
        kept.append(Call(index=begun.position, id=begun.id, type="function", function=named))
        return not right

    def _find(self, piece: Call, function: CalledFunction) -> _Begun | None:
        """The call that a piece belongs to; None for a new one."""
        fitting = [begun for begun in self._calls if piece.index is None or begun.their_index == piece.index]
        if not fitting:
            return None
        if piece.id and function.name:  # some give every call the same place
            return next((begun for begun in fitting if begun.their_id == piece.id), None)
        if piece.index is None and (piece.id or function.name):
            return next((begun for begun in fitting if piece.id and begun.their_id == piece.id), None)
        return fitting[-1]

    def _begin(self, piece: Call) -> _Begun:
        position = len(self._calls)
        if position >= MOST_CALLS:
            raise broken("more calls than can be meant")
        taken = {begun.id for begun in self._calls}
        new = piece.id if piece.id and piece.id not in taken else call_id(self._call, self._index, position)
        begun = _Begun(position, new, piece.index, piece.id or None)
        self._calls.append(begun)
        return begun
