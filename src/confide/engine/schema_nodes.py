"""One flat schema -> the plain form that the decoder enforces exactly.

The plain form has one kind of assertion per node: a type with its own keywords, ``enum``, ``anyOf`` or ``$ref``,
never side by side. Where the standard leaves room (open objects, unbounded integers, no type stated), the plain form
takes the narrower reading: whatever it allows is valid under the original schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from confide.engine.schema_parts import (
    REFUSED,
    TYPES,
    Flat,
    Json,
    Refused,
    Schemas,
    Unsatisfiable,
    canonical,
    is_reference,
    mapping_of,
    names_of,
    unwrap,
)
from confide.engine.schema_scalars import Node, check_names, count, enumeration, plain_pattern, scalar

MAX_NODES = 3000
MAX_DEPTH = 40
MAX_DEFINITIONS = 300
MAX_PROPERTIES = 500
MAX_ITEMS = 1000
MAX_ONE_OF = 60
MAX_AT_LEAST_ONE = 30
ANY_NAME = "(?s:.*)"


class Nodes:
    """Turns schemas into plain nodes; every ``$ref`` becomes one named definition."""

    def __init__(self, schemas: Schemas) -> None:
        self.schemas = schemas
        self.definitions: dict[str, Node] = {}
        self._names: dict[str, str] = {}
        self._waiting: list[tuple[str, object, str]] = []
        self._count = 0

    def build(self, schema: object) -> Node:
        """The node of ``schema``; :attr:`definitions` holds what it refers to."""
        root = self.node(schema, "$", 0)
        while self._waiting:
            name, schema, path = self._waiting.pop()
            self.definitions[name] = self.node(schema, path, 0)
        return root

    def node(self, schema: object, path: str, depth: int) -> Node:
        self._count += 1
        if self._count > MAX_NODES or depth > MAX_DEPTH:
            raise Refused(path, "the schema is too large or too deep once its parts are combined")
        self.schemas.require_progress(schema, path)
        schema = unwrap(schema)
        flat = self.schemas.flatten(schema, path)
        if isinstance(schema, dict) and is_reference(schema):
            return self._reference(schema["$ref"], path)
        if flat.groups:
            return self._alternatives(flat, depth)
        return self._assertion(flat, depth)

    def _reference(self, ref: object, path: str) -> Node:
        target, where = self.schemas.resolve(ref, path)
        if where not in self._names:
            if len(self._names) >= MAX_DEFINITIONS:
                raise Refused(path, f"more than {MAX_DEFINITIONS} definitions are referred to")
            self._names[where] = f"d{len(self._names)}"
            self._waiting.append((self._names[where], target, where))
        return {"$ref": f"#/$defs/{self._names[where]}"}

    def _alternatives(self, flat: Flat, depth: int) -> Node:
        (kind, branches), *others = flat.groups
        rest: list[object] = [{name: choice} for name, choice in others]
        if flat.keywords:
            rest.insert(0, flat.keywords)
        schemas = [{"allOf": [*rest, branch]} if rest else branch for branch in branches]
        if kind == "oneOf":
            self._require_disjoint(schemas, flat.path)
        return self._any_of([(s, f"{flat.path}.{kind}[{i}]") for i, s in enumerate(schemas)], flat.path, depth)

    def _require_disjoint(self, schemas: Sequence[object], path: str) -> None:
        if len(schemas) > MAX_ONE_OF:
            raise Refused(path, f"oneOf has more than {MAX_ONE_OF} alternatives")
        for index, one in enumerate(schemas):
            for two in schemas[:index]:
                if not self.schemas.disjoint(one, two, path):
                    raise Refused(
                        path,
                        "oneOf is supported where the alternatives exclude each other visibly; use anyOf",
                    )

    def _any_of(self, options: Sequence[tuple[object, str]], path: str, depth: int) -> Node:
        nodes = [node for schema, where in options if (node := self._optional(schema, where, depth + 1)) is not False]
        return _union(nodes, path)

    def _optional(self, schema: object, path: str, depth: int) -> Node:
        """The node, or False where nothing can satisfy the schema."""
        try:
            return self.node(schema, path, depth)
        except Unsatisfiable:
            return False

    def _assertion(self, flat: Flat, depth: int) -> Node:
        _refuse_unenforced(flat)
        choices = flat.choices()
        if choices is not None:
            return enumeration(flat, choices)
        types = flat.likely_types()
        if types == frozenset(TYPES) and not flat.keywords.keys() - {"type"}:
            return True
        makers: dict[str, Callable[[Flat, int], Node]] = {"object": self._object, "array": self._array}
        nodes: list[Node] = []
        failures: list[Unsatisfiable] = []
        for name in TYPES:
            if name in types and not (name == "integer" and "number" in types):
                try:
                    nodes.append(makers[name](flat, depth) if name in makers else scalar(name, flat))
                except Unsatisfiable as failure:
                    failures.append(failure)
        if failures and not nodes:
            raise failures[0]
        return _union(nodes, flat.path)

    def _array(self, flat: Flat, depth: int) -> Node:
        low, high = count(flat, "minItems", MAX_ITEMS) or 0, count(flat, "maxItems", MAX_ITEMS)
        _refuse_unique(flat, high)
        first = self._first_items(flat, depth)
        if False in first:
            first = first[: first.index(False)]
            high = min(len(first), high) if high is not None else len(first)
        rest = self._other_items(flat, depth, len(first), low)
        if rest is False and (high is None or high > len(first)):
            high = len(first)
        if high is not None and low > high:
            raise Unsatisfiable(flat.path, f"an array needs {low} items and may have {high}")
        node: Json = {"type": "array", "items": rest, "minItems": low}
        if first:
            node["prefixItems"] = first
        if high is not None:
            node["maxItems"] = high
        return node

    def _first_items(self, flat: Flat, depth: int) -> list[Node]:
        schemas = flat.keywords.get("prefixItems", [])
        if not isinstance(schemas, list):
            raise Refused(flat.path, "prefixItems must be a list of schemas")
        return [self._optional(s, f"{flat.path}.prefixItems[{i}]", depth + 1) for i, s in enumerate(schemas)]

    def _other_items(self, flat: Flat, depth: int, first: int, low: int) -> Node:
        default = not first or low > first
        items = flat.keywords.get("items", flat.keywords.get("unevaluatedItems", default))
        if isinstance(items, list):
            raise Refused(flat.path, "items must be one schema; tuples are prefixItems in JSON Schema 2020-12")
        return self._optional(items, f"{flat.path}.items", depth + 1)

    def _object(self, flat: Flat, depth: int) -> Node:
        flat = _with_property_names(flat, self.schemas)
        schemas, required = dict(mapping_of(flat, "properties")), names_of(flat)
        check_names([*schemas, *required], flat.path)
        if len(schemas) + len(required) > MAX_PROPERTIES * 2 or len(schemas) > MAX_PROPERTIES:
            raise Refused(flat.path, f"an object has more than {MAX_PROPERTIES} properties")
        if "patternProperties" in flat.keywords and mapping_of(flat, "patternProperties"):
            return self._map_by_pattern(flat, depth)
        rest = self._additional(flat, depth, "properties" in flat.keywords or bool(required))
        missing = _other_properties(flat, True)
        schemas.update({name: missing for name in required if name not in schemas})
        properties: dict[str, Node] = {}
        for name, schema in schemas.items():
            where = f"{flat.path}.properties.{name}"
            properties[name] = self._optional(schema, where, depth + 1)
            if properties[name] is False and name in required:
                raise Unsatisfiable(where, "a required property can't have any value")
        return _plain_object(flat, properties, list(dict.fromkeys(required)), rest)

    def _additional(self, flat: Flat, depth: int, has_names: bool) -> Node:
        """What properties beyond the named ones may hold. Unstated, an object with names is closed."""
        default = not has_names or count(flat, "minProperties", MAX_ITEMS) not in (None, 0)
        schema = _other_properties(flat, default)
        return self._optional(schema, f"{flat.path}.additionalProperties", depth + 1)

    def _map_by_pattern(self, flat: Flat, depth: int) -> Node:
        words = flat.keywords
        if mapping_of(flat, "properties") or names_of(flat) or words.get("additionalProperties", False) is not False:
            raise Refused(flat.path, "patternProperties is supported only without properties of other names")
        low, high = count(flat, "minProperties", 1) or 0, count(flat, "maxProperties", MAX_ITEMS)
        maps: dict[str, Node] = {}
        for index, (pattern, schema) in enumerate(mapping_of(flat, "patternProperties").items()):
            node = self._optional(schema, f"{flat.path}.patternProperties[{index}]", depth + 1)
            maps[plain_pattern(pattern, flat.path)] = node
        out: Json = {"type": "object", "patternProperties": maps, "additionalProperties": False}
        return out | ({"minProperties": low} if low else {}) | ({} if high is None else {"maxProperties": high})


def _other_properties(flat: Flat, default: bool) -> object:
    return flat.keywords.get("additionalProperties", flat.keywords.get("unevaluatedProperties", default))


def _union(nodes: Sequence[Node], path: str) -> Node:
    if not nodes:
        raise Unsatisfiable(path, "none of the alternatives can be satisfied")
    if True in [node for node in nodes if isinstance(node, bool)]:
        return True
    flat: list[object] = []
    for node in nodes:
        inner = node.get("anyOf") if isinstance(node, dict) else None
        flat.extend(inner if isinstance(inner, list) else [node])
    unique = list({canonical(node): node for node in flat}.values())
    only = unique[0]
    return only if len(unique) == 1 and isinstance(only, dict) else {"anyOf": unique}


def _refuse_unenforced(flat: Flat) -> None:
    words = flat.keywords
    for name in REFUSED:
        harmless = words.get(name) in ({}, []) if name.startswith("depend") else False
        if name in words and not harmless:
            raise Refused(flat.path, f"{name} is not supported")
    if words.get("not", False) in ({}, True):
        raise Unsatisfiable(flat.path, "not excludes every value")
    if words.get("not", False) is not False:
        raise Refused(flat.path, "not is not supported")


def _refuse_unique(flat: Flat, high: int | None) -> None:
    if flat.keywords.get("uniqueItems", False) is not False and (high is None or high > 1):
        raise Refused(flat.path, "uniqueItems is not supported")


def _with_property_names(flat: Flat, schemas: Schemas) -> Flat:
    """``propertyNames`` as the keywords that say the same: a list of names, or a pattern for them."""
    words = {key: value for key, value in flat.keywords.items() if key != "propertyNames"}
    if "propertyNames" not in flat.keywords:
        return flat
    names = schemas.flatten(flat.keywords["propertyNames"], f"{flat.path}.propertyNames")
    if not names.groups and names.keywords.keys() <= {"type", "format"} and "string" in names.types():
        return Flat(flat.path, words)
    if words.keys() & {"properties", "patternProperties"} or names.groups:
        raise Refused(flat.path, "propertyNames is supported only beside additionalProperties")
    value = words.pop("additionalProperties", words.pop("unevaluatedProperties", True))
    choices = names.choices()
    if choices is not None and names.keywords.keys() <= {"type", "enum", "const"}:
        listed = {name: value for name in choices if isinstance(name, str)}
        return Flat(flat.path, words | {"properties": listed, "additionalProperties": False})
    if names.keywords.keys() <= {"type", "format", "pattern"} and "required" not in words:
        return Flat(flat.path, words | {"patternProperties": {names.keywords["pattern"]: value}})
    raise Refused(flat.path, "propertyNames is supported with enum, const or pattern")


def _plain_object(flat: Flat, properties: Mapping[str, Node], required: list[str], rest: Node) -> Node:
    low, high = count(flat, "minProperties", MAX_ITEMS) or 0, count(flat, "maxProperties", MAX_ITEMS)
    possible = [name for name, node in properties.items() if node is not False]
    low = low if low > len(required) else 0
    if high is not None and rest is False and high >= len(possible):
        high = None
    if (high is not None and max(low, len(required)) > high) or (rest is False and low > len(possible)):
        raise Unsatisfiable(flat.path, "the object needs more properties than it may have")
    _refuse_counts(flat.path, low, high, len(possible) - len(required), len(required), rest)
    node: Json = {"type": "object", "additionalProperties": rest}
    if rest is False:
        node["properties"] = {name: properties[name] for name in possible}
    elif properties:
        node |= {
            "properties": dict(properties),
            "patternProperties": {ANY_NAME: rest},
            "additionalProperties": False,
        }
    node |= {"required": required} if required else {}
    return node | ({"minProperties": low} if low else {}) | ({} if high is None else {"maxProperties": high})


def _refuse_counts(path: str, low: int, high: int | None, optional: int, required: int, rest: Node) -> None:
    """The decoder counts properties only in these cases (and doesn't see a name that is given twice)."""
    if not low and high is None:
        return
    if rest is not False and optional == 0 and low <= required + 1:
        return
    one = low in (0, 1) and high in (None, 1) and required == 0
    if rest is False and one and optional <= MAX_AT_LEAST_ONE:
        return
    raise Refused(path, "minProperties and maxProperties are supported only in simple cases")
