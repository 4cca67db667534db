"""Schema nodes without parts: constants, strings and numbers, as the decoder enforces them exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jsonschema import Draft202012Validator

from confide.engine.pattern import PatternError, translate
from confide.engine.schema_parts import Flat, Json, Refused, Unsatisfiable, canonical

MAX_LENGTH = 20_000
MAX_MULTIPLE = 1000
SAFE = 2**53 - 1
FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"))
_SCALAR = (
    "type",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
)
_NUDGE = 1e-9  # how far a bound moves where the decoder can't tell "above" from "at least"

Node = Json | bool


def enumeration(flat: Flat, choices: Sequence[object]) -> Node:
    """The values of ``enum`` and ``const`` that the keywords beside them allow."""
    others = flat.keywords.keys() - {"enum", "const", "format", "not"}
    spoken_for = {name for name in others if name in _SCALAR}
    if others - spoken_for and any(isinstance(value, str | list | dict) for value in choices):
        raise Refused(flat.path, f"enum or const beside {min(others - spoken_for)} is not supported")
    _check_scalars(flat)
    keeps = Draft202012Validator({name: flat.keywords[name] for name in spoken_for})
    kept = {canonical(value): value for value in choices if keeps.is_valid(value)}
    if not kept:
        raise Unsatisfiable(flat.path, "no value of enum or const is allowed")
    return {"enum": [_value(value, flat.path) for value in kept.values()]}


def _check_scalars(flat: Flat) -> None:
    flat.types()
    _step(flat)
    for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        _limit(flat, name)
    for name in ("minLength", "maxLength"):
        count(flat, name, MAX_LENGTH)


def _value(value: object, path: str) -> object:
    """A constant as the decoder writes it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) > SAFE:
            raise Refused(path, "a number is beyond 2**53 - 1, where JSON readers disagree")
        return int(value) if isinstance(value, int) or value.is_integer() else value
    if isinstance(value, list):
        return [_value(item, path) for item in value]
    if isinstance(value, dict):
        check_names(list(value), path)
        return {key: _value(item, path) for key, item in value.items()}
    return value


def scalar(name: str, flat: Flat) -> Node:
    """The node of one type that has no parts."""
    if name in ("null", "boolean"):
        return {"type": name}
    if name == "string":
        return _string(flat)
    whole = name == "integer" or flat.keywords.get("multipleOf") is not None
    return _integer(flat) if whole else _number(flat)


def _string(flat: Flat) -> Node:
    low, high = count(flat, "minLength", MAX_LENGTH) or 0, count(flat, "maxLength", MAX_LENGTH)
    if high is not None and low > high:
        raise Unsatisfiable(flat.path, f"a string needs {low} characters and may have {high}")
    node: Json = {"type": "string"}
    if low:
        node["minLength"] = low
    if high is not None:
        node["maxLength"] = high
    if "pattern" in flat.keywords:
        node["pattern"] = plain_pattern(flat.keywords["pattern"], flat.path)
    elif len(node) == 1 and flat.keywords.get("format") in FORMATS:
        node["format"] = flat.keywords["format"]
    return node


def plain_pattern(pattern: object, path: str) -> str:
    """A pattern in the decoder's form."""
    if not isinstance(pattern, str):
        raise Refused(path, "pattern must be a string")
    try:
        return translate(pattern)
    except PatternError as error:
        raise Refused(path, str(error)) from None


def _limit(flat: Flat, name: str) -> float | int | None:
    value = flat.keywords.get(name)
    if value is None and name not in flat.keywords:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused(flat.path, f"{name} must be a number")
    if abs(value) > SAFE:
        raise Refused(flat.path, f"{name} is beyond 2**53 - 1, where JSON readers disagree")
    return value or 0


def _integer(flat: Flat) -> Node:
    lows = [-SAFE, *(math.ceil(v) for v in [_limit(flat, "minimum")] if v is not None)]
    lows += [math.floor(v) + 1 for v in [_limit(flat, "exclusiveMinimum")] if v is not None]
    highs = [SAFE, *(math.floor(v) for v in [_limit(flat, "maximum")] if v is not None)]
    highs += [math.ceil(v) - 1 for v in [_limit(flat, "exclusiveMaximum")] if v is not None]
    low, high, step = max(lows), min(highs), _step(flat)
    if step is not None:
        low = max(low, 0)  # the decoder knows multiples of digits only, not of a minus sign
    if low > high or (step is not None and -(-low // step) * step > high):
        raise Unsatisfiable(flat.path, "no number is within the bounds")
    return {"type": "integer", "minimum": low, "maximum": high} | ({} if step is None else {"multipleOf": step})


def _step(flat: Flat) -> int | None:
    step = _limit(flat, "multipleOf")
    if step is None:
        return None
    if step <= 0 or step != int(step) or step > MAX_MULTIPLE:
        raise Refused(flat.path, f"multipleOf is supported for whole numbers from 1 to {MAX_MULTIPLE}")
    return int(step) if step != 1 else None


def _number(flat: Flat) -> Node:
    low, above = _tighter(_limit(flat, "minimum"), _limit(flat, "exclusiveMinimum"), largest=True)
    high, below = _tighter(_limit(flat, "maximum"), _limit(flat, "exclusiveMaximum"), largest=False)
    if low is not None and high is not None:
        if low > high or (low == high and (above or below)):
            raise Unsatisfiable(flat.path, "no number is within the bounds")
        if int(low) == int(high) and high - low < _NUDGE * 4 and (above or below):
            raise Refused(flat.path, "the bounds are too close together")
        low, above = (low + _NUDGE, False) if above and low == int(low) == int(high) else (low, above)
        high, below = (high - _NUDGE, False) if below and high == int(high) == int(low) else (high, below)
    node: Json = {"type": "number"}
    if low is not None:
        node["exclusiveMinimum" if above else "minimum"] = low
    if high is not None:
        node["exclusiveMaximum" if below else "maximum"] = high
    return node


def _tighter(inclusive: float | None, exclusive: float | None, *, largest: bool) -> tuple[float | int | None, bool]:
    if inclusive is None or exclusive is None:
        return (inclusive, False) if exclusive is None else (exclusive, True)
    strict = exclusive >= inclusive if largest else exclusive <= inclusive
    return (exclusive, True) if strict else (inclusive, False)


def count(flat: Flat, name: str, most: int) -> int | None:
    """A keyword that counts; None where it is absent."""
    value = flat.keywords.get(name)
    if value is None and name not in flat.keywords:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != value // 1:
        raise Refused(flat.path, f"{name} must be a whole number, zero or more")
    if value > most:
        raise Refused(flat.path, f"{name} is more than {most}")
    return int(value)


def check_names(names: Sequence[str], path: str) -> None:
    """Refuse property names that JSON can spell in several ways."""
    for name in names:
        if any(ord(char) < 0x20 or ord(char) == 0x7F for char in name):
            raise Refused(path, "a property name has a control character")
