"""What a JSON schema says, ``$ref`` and ``allOf`` resolved: one flat set of keywords, and the choices beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from urllib.parse import unquote

MAX_PARTS = 64
MAX_DISJOINT_DEPTH = 6
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
STRINGS = ("minLength", "maxLength", "pattern", "format")
ARRAYS = ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains", "unevaluatedItems")
OBJECTS = (
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "unevaluatedProperties",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
)
REFUSED = (
    "$dynamicRef",
    "$recursiveRef",
    "if",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "contains",
)
KEYWORDS = frozenset(
    (*NUMERIC, *STRINGS, *ARRAYS, *OBJECTS, *REFUSED, "type", "enum", "const", "not"),
)
_JOINS = ("$ref", "allOf", "anyOf", "oneOf", "if")
_LARGEST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_SMALLEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")

Json = dict[str, object]


class Refused(Exception):
    """The schema can't be honoured: where, and why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"at {path}: {reason}")
        self.path = path
        self.reason = reason


class Unsatisfiable(Refused):
    """No value at all can satisfy the schema here; an alternative or an optional property may be left out."""


@dataclass
class Flat:
    """Assertions that hold together, and groups of alternatives of which each group must hold too."""

    path: str
    keywords: Json = field(default_factory=dict)
    groups: list[tuple[str, list[object]]] = field(default_factory=list)

    def types(self) -> frozenset[str]:
        """The types that the schema admits."""
        stated = self.keywords.get("type", TYPES)
        names = [stated] if isinstance(stated, str) else stated
        if not isinstance(names, list | tuple) or not names or any(name not in TYPES for name in names):
            raise Refused(self.path, "type must be one of the seven names, or a list of them")
        return frozenset(names) | ({"integer"} if "number" in names else set())

    def likely_types(self) -> frozenset[str]:
        """As :meth:`types`; where none is stated, only those that other keywords speak of."""
        if "type" in self.keywords:
            return self.types()
        spoken = {
            name
            for name, words in (
                ("object", OBJECTS),
                ("array", ARRAYS),
                ("string", STRINGS),
                ("number", NUMERIC),
            )
            if any(word in self.keywords for word in words)
        }
        return frozenset(spoken | ({"integer"} if "number" in spoken else set())) or self.types()

    def choices(self) -> list[object] | None:
        """The values of ``enum`` and ``const`` together; None where neither is given."""
        values = self.keywords.get("enum")
        if values is not None and not isinstance(values, list):
            raise Refused(self.path, "enum must be a list")
        if "const" not in self.keywords:
            return values
        const = self.keywords["const"]
        return [const] if values is None or canonical(const) in map(canonical, values) else []


def canonical(value: object) -> str:
    """A text that is equal for JSON values that are equal (1 and 1.0 are; 1 and true are not)."""
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value


class Schemas:
    """Everything reachable from one root schema."""

    def __init__(self, root: object) -> None:
        self.root = root
        self._known: dict[int, tuple[object, Flat]] = {}
        self._sound: dict[int, object] = {}

    def resolve(self, ref: object, path: str) -> tuple[object, str]:
        """The schema that a local reference names, and its location."""
        if not isinstance(ref, str):
            raise Refused(path, "$ref must be a string")
        if ref != "#" and not ref.startswith("#/"):
            raise Refused(path, "only references inside the schema itself (#/…) are followed")
        target = self.root
        for step in ref.split("/")[1:]:
            target = _child(target, step, path)
        if not isinstance(target, dict | bool):
            raise Refused(path, "$ref names something that is not a schema")
        return target, "$" + ref[1:].replace("/", ".")

    def flatten(self, schema: object, path: str) -> Flat:
        """Resolve ``$ref`` and ``allOf``; choices stay as groups."""
        parts: list[Flat] = []
        self._collect(schema, path, parts, frozenset())
        return reduce(_merge, parts, Flat(path))

    def require_progress(self, schema: object, path: str) -> None:
        """Refuse a schema that comes back to itself without having gone into a property or an item."""
        waiting = [(schema, False)]
        open_ids: set[int] = set()
        while waiting:
            item, finished = waiting.pop()
            if finished:
                open_ids.discard(id(item))
                self._sound[id(item)] = item  # holding it keeps its id its own
            elif id(item) in open_ids:
                raise Refused(path, "$ref leads back to itself")
            elif isinstance(item, dict) and id(item) not in self._sound:
                open_ids.add(id(item))
                waiting.append((item, True))
                waiting.extend((part, False) for part in self._in_place(item, path))

    def _in_place(self, schema: Json, path: str) -> list[object]:
        """The schemas that speak of the same value."""
        parts = [self.resolve(schema["$ref"], path)[0]] if "$ref" in schema else []
        return parts + [part for name in ("allOf", "anyOf", "oneOf") for part in branches_of(schema, name, path)]

    def _flatten_once(self, schema: object, path: str) -> Flat:
        """As :meth:`flatten`, remembered: each alternative is compared with all the others."""
        if id(schema) not in self._known:
            self._known[id(schema)] = (schema, self.flatten(schema, path))  # holding it keeps its id its own
        return self._known[id(schema)][1]

    def _collect(self, schema: object, path: str, parts: list[Flat], seen: frozenset[str]) -> None:
        if schema is True:
            return
        if schema is False:
            raise Unsatisfiable(path, "the schema is false")
        if not isinstance(schema, dict):
            raise Refused(path, "a schema must be an object or a boolean")
        if len(parts) >= MAX_PARTS:
            raise Refused(path, f"more than {MAX_PARTS} schemas are combined")
        parts.append(_own(schema, path))
        self._follow(schema, path, parts, seen)

    def _follow(self, schema: Json, path: str, parts: list[Flat], seen: frozenset[str]) -> None:
        if "$ref" in schema:
            target, where = self.resolve(schema["$ref"], path)
            if where in seen:
                raise Refused(path, "$ref leads back to itself")
            self._collect(target, where, parts, seen | {where})
        for index, branch in enumerate(branches_of(schema, "allOf", path)):
            self._collect(branch, f"{path}.allOf[{index}]", parts, seen)

    def disjoint(self, first: object, second: object, path: str, depth: int = 0) -> bool:
        """Whether no value can satisfy both; False where that can't be shown."""
        if depth > MAX_DISJOINT_DEPTH:
            return False
        try:
            one, two = self._flatten_once(first, path), self._flatten_once(second, path)
        except Unsatisfiable:
            return True
        for _, branches in one.groups:
            if all(self.disjoint(_both(one, branch), second, path, depth + 1) for branch in branches):
                return True
        for _, branches in two.groups:
            if all(self.disjoint(first, _both(two, branch), path, depth + 1) for branch in branches):
                return True
        return self._apart(one, two, path, depth)

    def _apart(self, one: Flat, two: Flat, path: str, depth: int) -> bool:
        shared = (one.likely_types() & two.types()) | (two.likely_types() & one.types())
        if not shared:
            return True
        left, right = one.choices(), two.choices()
        if left is not None and right is not None:
            return not {canonical(value) for value in left} & {canonical(value) for value in right}
        if left is not None or right is not None:
            values, other = (left, two) if left is not None else (right, one)
            return all(type_of(value) not in other.types() for value in values or [])
        return shared == {"object"} and self._objects_apart(one, two, path, depth)

    def _objects_apart(self, one: Flat, two: Flat, path: str, depth: int) -> bool:
        mine, theirs = mapping_of(one, "properties"), mapping_of(two, "properties")
        for owner, name in [(one, key) for key in names_of(two)] + [(two, key) for key in names_of(one)]:
            closed = owner.keywords.get("additionalProperties") is False
            if closed and name not in mapping_of(owner, "properties") and "patternProperties" not in owner.keywords:
                return True
            if name in mine and name in theirs and self.disjoint(mine[name], theirs[name], path, depth + 1):
                return True
        return False


def _both(flat: Flat, branch: object) -> Json:
    return {"allOf": [flat.keywords, branch]}


def _child(target: object, step: str, path: str) -> object:
    name = unquote(step).replace("~1", "/").replace("~0", "~")
    if isinstance(target, dict) and name in target:
        return target[name]
    if isinstance(target, list) and name.isascii() and name.isdigit() and int(name) < len(target):
        return target[int(name)]
    raise Refused(path, "$ref names nothing in the schema")


def _own(schema: Json, path: str) -> Flat:
    """The keywords of one schema object, without annotations; its choices as groups."""
    if "if" in schema and ("then" in schema or "else" in schema):
        raise Refused(path, "if, then and else are not supported")
    if path != "$" and isinstance(schema.get("$id"), str):
        raise Refused(path, "a nested $id is not supported")
    keywords = {key: value for key, value in schema.items() if key in KEYWORDS}
    flat = Flat(path, keywords)
    for name in ("anyOf", "oneOf"):
        if name in schema:
            flat.groups.append((name, branches_of(schema, name, path)))
    return flat


def unwrap(schema: object) -> object:
    """A schema without a wrapper that only holds one other (``{"allOf": [...]}`` around a reference)."""
    while isinstance(schema, dict):
        said = [key for key in schema if key in KEYWORDS or key in _JOINS]
        inner = schema[said[0]] if said in (["allOf"], ["anyOf"], ["oneOf"]) else None
        if not isinstance(inner, list) or len(inner) != 1:
            break
        schema = inner[0]
    return schema


def is_reference(schema: object) -> bool:
    """Whether nothing but annotations stands beside ``$ref``."""
    return isinstance(schema, dict) and [key for key in schema if key in KEYWORDS or key in _JOINS] == ["$ref"]


def branches_of(schema: Json, name: str, path: str) -> list[object]:
    """The schemas under ``anyOf``, ``oneOf`` or ``allOf``."""
    if name not in schema:
        return []
    branches = schema[name]
    if not isinstance(branches, list) or not branches:
        raise Refused(path, f"{name} must be a list with at least one schema")
    return branches


def mapping_of(flat: Flat, name: str) -> Mapping[str, object]:
    """The schemas by name under ``properties`` or ``patternProperties``."""
    found = flat.keywords.get(name, {})
    if not isinstance(found, dict):
        raise Refused(flat.path, f"{name} must be an object")
    return found


def names_of(flat: Flat) -> list[str]:
    """The names under ``required``."""
    found = flat.keywords.get("required", [])
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise Refused(flat.path, "required must be a list of strings")
    return found


def type_of(value: object) -> str:
    """The narrowest JSON type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) or value.is_integer() else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _merge(one: Flat, two: Flat) -> Flat:
    """Both sets of assertions at once."""
    if not one.keywords or not two.keywords:
        return Flat(one.path, one.keywords or two.keywords, one.groups + two.groups)
    merged = dict(one.keywords)
    for key in two.keywords:
        merged[key] = _merge_keyword(key, one, two) if key in one.keywords else two.keywords[key]
    _cross_items(one, two)
    _cross_properties(one, two, merged)
    return Flat(one.path, merged, one.groups + two.groups)


def _merge_keyword(key: str, one: Flat, two: Flat) -> object:
    left, right = one.keywords[key], two.keywords[key]
    if canonical(left) == canonical(right) or key == "format":
        return left
    if key == "type":
        return sorted(one.types() & two.types()) or _never(one.path, "no type satisfies all of allOf")
    if key in _LARGEST or key in _SMALLEST:
        return _bound(key, left, right, one.path)
    if key == "required":
        return list(dict.fromkeys([*names_of(one), *names_of(two)]))
    if key in ("enum", "const"):
        return _common(key, one, two)
    if key == "properties":
        return _merge_properties(mapping_of(one, key), mapping_of(two, key))
    if key in ("items", "additionalProperties"):
        return {"allOf": [left, right]}
    raise Refused(two.path, f"{key} is given twice in schemas that must hold together")


def _never(path: str, reason: str) -> object:
    raise Unsatisfiable(path, reason)


def _bound(key: str, left: object, right: object, path: str) -> object:
    numbers = [side for side in (left, right) if isinstance(side, int | float) and not isinstance(side, bool)]
    if len(numbers) < 2:
        raise Refused(path, f"{key} must be a number")
    return max(numbers) if key in _LARGEST else min(numbers)


def _common(key: str, one: Flat, two: Flat) -> object:
    if key == "const":
        return _never(one.path, "const is given twice with different values")
    right = {canonical(value) for value in two.choices() or []}
    return [value for value in one.choices() or [] if canonical(value) in right]


def _merge_properties(left: Mapping[str, object], right: Mapping[str, object]) -> Json:
    merged = {**left, **right}
    for name in left.keys() & right.keys():
        merged[name] = left[name] if left[name] == right[name] else {"allOf": [left[name], right[name]]}
    return merged


def _cross_items(one: Flat, two: Flat) -> None:
    for side, other in ((one, two), (two, one)):
        if "prefixItems" in side.keywords and {"items", "prefixItems"} & other.keywords.keys():
            raise Refused(side.path, "prefixItems can't be combined with other items by allOf")
        if "unevaluatedItems" in side.keywords and any(word in other.keywords for word in ARRAYS):
            raise Refused(side.path, "unevaluatedItems can't be combined by allOf")


def _cross_properties(one: Flat, two: Flat, merged: Json) -> None:
    """A property that only one side names must fit the other side's ``additionalProperties`` too."""
    properties = dict(mapping_of(Flat(one.path, merged), "properties"))
    for side, other in ((one, two), (two, one)):
        if not {"patternProperties", "unevaluatedProperties"}.isdisjoint(side.keywords) and _about_objects(other):
            raise Refused(side.path, "patternProperties and unevaluatedProperties can't be combined by allOf")
        rest = side.keywords.get("additionalProperties", True)
        for name in mapping_of(other, "properties").keys() - mapping_of(side, "properties").keys():
            if rest is not True:
                properties[name] = False if rest is False else {"allOf": [properties[name], rest]}
    if properties:
        merged["properties"] = properties


def _about_objects(flat: Flat) -> bool:
    return any(word in flat.keywords for word in OBJECTS if word != "required")
