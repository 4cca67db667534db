"""JSON schemas from clients: bounded, made plain for constrained decoding, and checked again on the answer.

``prepare`` takes what pydantic, zod or a person wrote and returns a schema of which the decoder enforces every
word; whatever would be left unenforced is refused with the reason. ``validator`` checks a finished answer against
the client's own schema with another library, so that a constraint lost on the way never goes unnoticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from referencing import Registry

from confide.engine.pattern import PatternError, matches
from confide.engine.schema_nodes import Nodes
from confide.engine.schema_parts import Json, Refused, Schemas
from confide.engine.schema_scalars import Node
from confide.errors import InvalidRequest

MAX_NESTING = 64
MAX_VALUES = 20_000
MAX_CHARS = 500_000
MAX_ENUM_VALUES = 2000
MAX_ENUM_CHARS = 100_000
MAX_PLAIN_NESTING = 100  # the decoder's own reader of JSON stops at 128
_SHOWN = 200

Validator = Callable[[object], str | None]


def prepare(
    schema: object,
    *,
    param: str,
    what: str,
    code: str | None = "invalid_json_schema",
    arguments: bool = False,
) -> Json:
    """Return the plain, equivalent or narrower schema; raise :class:`InvalidRequest` with the place and reason.

    ``arguments``: the schema describes the arguments of a function, which are an object whatever it says.
    """
    try:
        _require_bounds(schema)
        nodes = Nodes(Schemas(schema))
        root = nodes.build(_as_arguments(schema) if arguments else schema)
        _require_end(root, nodes.definitions)
        return _assemble(root, nodes.definitions)
    except Refused as refusal:
        where = refusal.path if len(refusal.path) <= _SHOWN else refusal.path[:_SHOWN] + "…"
        message = f"Invalid schema for {what}: at {where}: {refusal.reason}."
        raise InvalidRequest(message, param=param, code=code) from None


def _as_arguments(schema: object) -> object:
    if schema == {}:
        return {"type": "object", "properties": {}}
    return {"allOf": [{"type": "object"}, {"$ref": "#"}]}


def _assemble(root: Node, definitions: Mapping[str, Node]) -> Json:
    plain: Json = {} if isinstance(root, bool) else dict(root)
    if definitions:
        plain["$defs"] = dict(definitions)
    if max(depth for _, _, depth in _walk(plain)) > MAX_PLAIN_NESTING:
        raise Refused("$", "the schema is nested too deeply")
    return plain


def _walk(value: object) -> Iterator[tuple[str, object, int]]:
    """Every value inside a JSON value with the key it stands under and its depth, without recursion."""
    waiting: list[tuple[str, object, int]] = [("", value, 0)]
    while waiting:
        key, item, depth = waiting.pop()
        yield key, item, depth
        if isinstance(item, dict):
            waiting.extend((name, child, depth + 1) for name, child in item.items())
        elif isinstance(item, list):
            waiting.extend(("", child, depth + 1) for child in item)


def _require_bounds(schema: object) -> None:
    """Refuse before any work what is too large to work on, or not JSON."""
    chars = enum_values = enum_chars = 0
    for count, (key, value, depth) in enumerate(_walk(schema)):
        if depth > MAX_NESTING:
            raise Refused("$", f"the schema is nested more than {MAX_NESTING} levels deep")
        chars += len(key) + (len(value) if isinstance(value, str) else 0)
        if count > MAX_VALUES or chars > MAX_CHARS:
            raise Refused("$", "the schema is too large")
        _require_json(key, value)
        if key == "enum" and isinstance(value, list):
            enum_values += len(value)
            enum_chars += sum(len(item) for item in value if isinstance(item, str))
        if enum_values > MAX_ENUM_VALUES or enum_chars > MAX_ENUM_CHARS:
            raise Refused("$", f"enum lists more than {MAX_ENUM_VALUES} values or {MAX_ENUM_CHARS} characters")


def _require_json(key: str, value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise Refused("$", "NaN and Infinity are not JSON")
    for text in (key, value):
        if isinstance(text, str) and not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise Refused("$", "a string has an unpaired surrogate")


def _require_end(root: Node, definitions: Mapping[str, Node]) -> None:
    """Refuse recursion that no finite value can satisfy."""
    ends: set[str] = set()
    before = -1
    while before < len(ends):
        before = len(ends)
        ends |= {name for name, node in definitions.items() if name not in ends and _can_end(node, ends)}
    if len(ends) < len(definitions) or not _can_end(root, ends):
        raise Refused("$", "a reference to itself can't be satisfied by any finite value")


def _definition(node: Mapping[str, object]) -> str:
    return str(node["$ref"]).removeprefix("#/$defs/")


def _can_end(node: object, ends: set[str]) -> bool:
    """Whether some finite value satisfies the node, given the definitions known to have one."""
    if isinstance(node, bool):
        return node
    plain = cast("dict[str, Any]", node)
    if "$ref" in plain:
        return _definition(plain) in ends
    if "anyOf" in plain:
        return any(_can_end(option, ends) for option in plain["anyOf"])
    if plain.get("type") == "array":
        first = plain.get("prefixItems", [])
        needed = [*first, plain["items"]][: plain["minItems"]]
        return all(_can_end(item, ends) for item in needed)
    if plain.get("type") == "object":
        if plain.get("minProperties") and not plain.get("properties"):
            maps = plain.get("patternProperties", {"": plain["additionalProperties"]})
            return any(_can_end(item, ends) for item in maps.values())
        return all(_can_end(plain["properties"][name], ends) for name in plain.get("required", []))
    return True


def validator(schema: object) -> Validator:
    """A check of finished answers against the client's schema: None, or which keyword is broken.

    References are never fetched, patterns are matched in linear time, and the text quotes no answer.
    """
    own = (
        {key: value for key, value in schema.items() if key not in ("$schema", "$id")}
        if isinstance(schema, dict)
        else schema
    )
    checker = _Checker(own, registry=Registry())

    def check(value: object) -> str | None:
        try:
            error = next(checker.iter_errors(value), None)
        except RecursionError:
            return "the answer is nested too deeply to be checked"
        return None if error is None else f"the answer breaks {_place(error)}"

    return check


def _place(error: ValidationError) -> str:
    return ".".join(["$", *map(str, error.absolute_schema_path)])[:_SHOWN]


def _matches(pattern: object, text: str) -> bool:
    try:
        return isinstance(pattern, str) and matches(pattern, text)
    except PatternError:
        return False


def _check_pattern(_: Any, pattern: object, value: object, __: object) -> Iterator[ValidationError]:
    if isinstance(value, str) and not _matches(pattern, value):
        yield ValidationError("pattern")


def _check_pattern_properties(checker: Any, maps: Any, value: object, _: object) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    for pattern, schema in maps.items():
        for name in value:
            if _matches(pattern, name):
                yield from checker.descend(value[name], schema, path=name, schema_path=pattern)


def _check_additional(checker: Any, rest: object, value: object, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    named, maps = schema.get("properties", {}), schema.get("patternProperties", {})
    for name in value:
        if name not in named and not any(_matches(pattern, name) for pattern in maps):
            yield from checker.descend(value[name], rest, path=name)


_Checker = cast(Any, extend)(
    Draft202012Validator,
    {
        "pattern": _check_pattern,
        "patternProperties": _check_pattern_properties,
        "additionalProperties": _check_additional,
    },
)
