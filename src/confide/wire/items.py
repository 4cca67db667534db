"""Lists whose entries are decoded one by one, each by the kind that it names; and refusing those of other kinds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from confide.errors import InvalidRequest
from confide.wire.complaints import explain

Json = dict[str, Any]


def convert(value: Any, kind: Any, where: str) -> Any:
    """A value of a type.

    Args:
        value: as it was decoded without one.
        kind: the type.
        where: its member, as a dotted path.

    Raises:
        InvalidRequest: it isn't one; ``param`` says which member of it.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        placed = re.sub(r" - at (key in )?`\$", lambda at: f" - at {at[1] or ''}`$.{where}", text, count=1)
        if placed == text:
            placed = f"{text} - at `$.{where}`"
        raise explain(msgspec.ValidationError(placed), b"") from None


def kind_of(entry: Json, kinds: Mapping[str, Any], where: str, *, default: str | None = None) -> Any:
    """The type of an entry, by its ``type``.

    Raises:
        InvalidRequest: it is of a kind that isn't taken.
    """
    name = entry.get("type", default)
    if not isinstance(name, str) or name not in kinds:
        shown = f": '{name}'" if isinstance(name, str) and len(name) <= 40 else ""
        supported = ", ".join(f"'{kind}'" for kind in kinds)
        raise InvalidRequest(
            f"Invalid value{shown}. Supported values are: {supported}.", param=f"{where}.type", code="unsupported_value"
        )
    return kinds[name]
