"""Which members of an engine's JSON a client may see, as data, and the removal of all others.

A member that is null says nothing and may stay. One of the wrong type, or an entry of an unknown kind, means that the
engine gave no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from confide.engine.remote.rules import broken

Json = dict[str, Any]
Kind = Any
"""A type, several in a tuple, :class:`Each`, :class:`By`, :class:`Anything`, or a :data:`Shape`."""
Shape = Mapping[str, Kind]
"""The members that may stay, each with its kind."""


@dataclass(frozen=True, slots=True)
class Each:
    """A list whose entries have one kind."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class By:
    """An object whose kind is told by one of its members."""

    member: str
    kinds: Mapping[str, Shape]


@dataclass(frozen=True, slots=True)
class Anything:
    """A JSON value that the client itself may have given the form: arguments, a schema."""


NUMBER: Final = (int, float)
ANYTHING: Final = Anything()


def read(data: bytes) -> Json:
    """An object.

    Raises:
        EngineFailed: it is none.
    """
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise broken("something that is no JSON") from None
    if not isinstance(value, dict):
        raise broken()
    return value


def prune(node: Json, shape: Shape) -> bool:
    """Remove, in place, what the shape doesn't name; says whether there was something.

    Raises:
        EngineFailed: a member is of another type than the shape says.
    """
    pruned = False
    for name, value in list(node.items()):
        if value is None:
            continue
        kind = shape.get(name)
        if kind is None:
            del node[name]
            pruned = True
        else:
            pruned |= _prune_value(value, kind)
    return pruned


def each(change: Callable[[Any], bool], entries: Iterable[Any]) -> bool:
    """Change all of them in place; says whether one was changed."""
    changed = False
    for entry in entries:
        changed |= change(entry)
    return changed


def _prune_value(value: Any, kind: Any) -> bool:
    if isinstance(kind, Anything):
        return False
    if isinstance(kind, Each):
        return each(lambda entry: _prune_value(entry, kind.kind), _typed(value, list))
    if isinstance(kind, By):
        found = kind.kinds.get(str(_typed(value, dict).get(kind.member)))
        if found is None:
            raise broken("a part of an answer of an unknown kind")
        return prune(value, found)
    if isinstance(kind, Mapping):
        return prune(_typed(value, dict), kind)
    _typed(value, kind)
    return False


def _typed(value: Any, wanted: type | Sequence[type]) -> Any:
    kinds = (wanted,) if isinstance(wanted, type) else tuple(wanted)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise broken("an answer with a member of the wrong type")
    return value
