"""Canonical JSON (RFC 8785): one byte string for one value, so that a digest or a signature covers the value.

:func:`parse` is as strict as :func:`canonical`: what it returns can always be written, and two readers can't
understand it differently (I-JSON, RFC 7493: no duplicate names, no lone surrogates, no integer beyond 2^53 - 1). The
one thing that can be written and not read is a float that is an integer beyond 2^53 - 1; no document of ours has any.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Any, Final, NoReturn

from confide.errors import ConfideError

MOST_INT: Final = 2**53 - 1
MOST_DEPTH: Final = 64
"""How deep values may nest; our own documents need five levels."""
_MOST_INT_DIGITS: Final = len(str(-MOST_INT))


class InvalidJson(ConfideError):
    """Bytes that aren't JSON, or a value that RFC 8785 can't write; the text says which rule is broken."""


def canonical(value: Any) -> bytes:
    """The one spelling of a value: members ordered, no whitespace, numbers as ECMAScript writes them.

    Args:
        value: None, bool, int, finite float, str, list, tuple, or dict with str keys.

    Raises:
        InvalidJson: there is something else in it.
    """
    return _utf8(_text(value, 0))


def digest(value: Any) -> str:
    """``sha256:`` and the hex SHA-256 of a value's canonical bytes."""
    return sha256(canonical(value))


def sha256(data: bytes) -> str:
    """``sha256:`` and the hex SHA-256 of bytes, as digest fields have it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def parse(data: bytes) -> Any:
    """Read JSON in UTF-8 that has one meaning only.

    Raises:
        InvalidJson: it is malformed, or any two readers might differ about it.
    """
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_members,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except UnicodeDecodeError as error:
        raise InvalidJson(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InvalidJson(f"not JSON at character {error.pos}: {error.msg}") from None
    except RecursionError:
        raise _too_deep() from None
    canonical(value)
    return value


def _text(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, dict):
        inner = _deeper(depth)
        return "{" + ",".join([f"{encode_basestring(k)}:{_text(value[k], inner)}" for k in _ordered(value)]) + "}"
    if isinstance(value, (list, tuple)):
        inner = _deeper(depth)
        return "[" + ",".join([_text(item, inner) for item in value]) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return _number(value)
    raise InvalidJson(f"a {type(value).__name__} is no JSON value")


def _ordered(members: dict[Any, Any]) -> Sequence[str]:
    """The names in the order of their UTF-16 code units, which is that of code points for all but a few scripts."""
    if not all(isinstance(name, str) for name in members):
        raise InvalidJson("a member name must be a string")
    names: list[str] = sorted(members)
    if names and not all(name.isascii() for name in names):
        names.sort(key=lambda name: name.encode("utf-16-be", "surrogatepass"))
    return names


def _number(value: int | float) -> str:
    if isinstance(value, float):
        return _ecmascript(value)
    if not -MOST_INT <= value <= MOST_INT:
        raise InvalidJson("an integer is beyond 2^53 - 1")
    return str(int(value))


def _ecmascript(value: float) -> str:
    """ECMA-262, Number::toString: the shortest digits that read back as the same double, which ``repr`` gives too."""
    if value != value or value in (float("inf"), float("-inf")):
        raise InvalidJson("a number isn't finite")
    if value == 0:
        return "0"
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    return ("-" if value < 0 else "") + _placed(digits, point)


def _placed(digits: str, point: int) -> str:
    """The digits with the decimal point after the first ``point`` of them."""
    if len(digits) <= point <= 21:
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{rest}e{point - 1:+d}"


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidJson("a string has a lone surrogate") from None


def _deeper(depth: int) -> int:
    if depth >= MOST_DEPTH:
        raise _too_deep()
    return depth + 1


def _too_deep() -> InvalidJson:
    return InvalidJson(f"values nest deeper than {MOST_DEPTH} levels")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidJson("an object has two members of one name")
    return members


def _integer(text: str) -> int:
    if len(text) > _MOST_INT_DIGITS:
        raise InvalidJson("an integer is beyond 2^53 - 1")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise InvalidJson("a number isn't finite")
    return value


def _constant(_: str) -> NoReturn:
    raise InvalidJson("a number isn't finite")
