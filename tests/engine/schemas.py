"""JSON schemas by seed, and random answers under a grammar: the same two for the decoder alone and a real model."""

from __future__ import annotations

import random
from collections.abc import Callable

from confide.engine.decoder import END, Decoder

Json = dict[str, object]
MAX_BYTES = 4000

PATTERNS = (
    "^[A-Z]{2}-[0-9]{3}$",
    "^(red|green|blue)$",
    r"^\d{4}-\d{2}$",
    "^[a-f0-9]{4,8}$",
    r"^\w+@\w+\.(com|org)$",
    r"^[^\s,]{1,12}$",
    "^(a|b)*c$",
    "foo",
    r"^\D{1,3}\W?\S$",
    "^.{1,4}$",
)
FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "hostname", "duration", "uri", "color")
NAMES = ("name", "title", "id", "tags", "größe", "a b", "kind", "$ref", "description", "value", "x-y", "enum", 'q"t')
WORDS = ("red", "", "naïve", "line\nbreak", 'quo"te', "back\\slash", "😀", "a/b", "\u007f", "tab\t", "null", "0")


def schema(rng: random.Random) -> Json:
    """One schema of the kind that clients send: mostly an object, bounded in depth and in the length of answers."""
    maker = _Maker(rng)
    root: Json = maker.object_(0) if rng.random() < 0.8 else maker.any_of_all(0)
    if maker.definitions:
        root["$defs"] = maker.definitions
    if rng.random() < 0.3:
        root |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Root", "x-note": {"a": 1}}
    return root


class _Maker:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.definitions: Json = {}

    def any_of_all(self, depth: int) -> Json:
        leaves = (self.string, self.integer, self.number, self.boolean, self.null, self.enum, self.const)
        branches = (self.object_, self.array, self.tuple_, self.any_of, self.one_of, self.all_of, self.map_, self.tree)
        chosen: Callable[[int], Json] = self.rng.choice(leaves if depth >= 3 else (*leaves, *branches, *branches))
        made = chosen(depth)
        if self.rng.random() < 0.15:
            made |= {"description": "words", "default": None, "examples": [1]}
        return made if self.rng.random() < 0.85 or depth >= 3 else self.named(made)

    def named(self, made: Json) -> Json:
        name = f"D{len(self.definitions)}"
        self.definitions[name] = made
        return {"$ref": f"#/$defs/{name}"}

    def string(self, _: int) -> Json:
        made: Json = {"type": "string"}
        kind = self.rng.randrange(4)
        if kind == 0:
            made["pattern"] = self.rng.choice(PATTERNS)
        elif kind == 1:
            made["format"] = self.rng.choice(FORMATS)
        elif kind == 2:
            made |= {"minLength": self.rng.randrange(4), "maxLength": self.rng.randint(4, 12)}
        return made

    def _bounds(self, low: float, high: float, step: float) -> Json:
        made: Json = {}
        if self.rng.random() < 0.6:
            made[self.rng.choice(("minimum", "exclusiveMinimum"))] = low
        if self.rng.random() < 0.6:
            made[self.rng.choice(("maximum", "exclusiveMaximum"))] = max(high, low + step)
        return made

    def integer(self, _: int) -> Json:
        made = self._bounds(self.rng.randint(-120, 50), self.rng.randint(0, 1200), 9)
        return {"type": "integer"} | made | ({"multipleOf": 3} if self.rng.random() < 0.2 else {})

    def number(self, _: int) -> Json:
        low = round(self.rng.uniform(-3, 3), self.rng.randrange(4))
        return {"type": "number"} | self._bounds(low, round(self.rng.uniform(-3, 30), self.rng.randrange(4)), 0.25)

    def boolean(self, _: int) -> Json:
        return {"type": "boolean"}

    def null(self, _: int) -> Json:
        return {"type": "null"}

    def value(self) -> object:
        return self.rng.choice((*WORDS, True, False, None, 0, 1, -7, 2.5, 1.0, [], [1, "a"], {"k": [None]}))

    def enum(self, _: int) -> Json:
        if self.rng.random() < 0.5:
            return {"type": "string", "enum": self.rng.sample(WORDS, 3)}
        return {"enum": [self.value() for _ in range(self.rng.randint(1, 4))]}

    def const(self, _: int) -> Json:
        return {"const": self.value()}

    def object_(self, depth: int) -> Json:
        names = self.rng.sample(NAMES, self.rng.randrange(5))
        made: Json = {"type": "object", "properties": {name: self.any_of_all(depth + 1) for name in names}}
        made["required"] = [name for name in names if self.rng.random() < 0.6]
        choice = self.rng.randrange(4)
        if choice == 0:
            made["additionalProperties"] = False
        elif choice == 1 and depth < 2:
            made["additionalProperties"] = self.any_of_all(3)
        return made

    def map_(self, depth: int) -> Json:
        made: Json = {"type": "object", "additionalProperties": self.any_of_all(depth + 1)}
        kind = self.rng.randrange(4)
        if kind == 0:
            made["propertyNames"] = {"enum": ["one", "two", "three"]}
        elif kind == 1:
            made["propertyNames"] = {"type": "string", "pattern": "^[a-z]{1,3}$"}
        elif kind == 2:
            made |= {"minProperties": 1, "maxProperties": 3}
        return made

    def array(self, depth: int) -> Json:
        low = self.rng.randrange(3)
        return {"type": "array", "items": self.any_of_all(depth + 1), "minItems": low, "maxItems": low + 2}

    def tuple_(self, depth: int) -> Json:
        first = [self.any_of_all(depth + 1) for _ in range(self.rng.randint(1, 3))]
        made: Json = {"type": "array", "prefixItems": first, "items": self.rng.choice((False, {"type": "boolean"}))}
        return made | ({"minItems": len(first)} if self.rng.random() < 0.6 else {})

    def any_of(self, depth: int) -> Json:
        if self.rng.random() < 0.4:
            return {"type": ["integer", "string", "null"], "maxLength": 5, "minimum": 3}
        return {"anyOf": [self.any_of_all(depth + 1), {"type": "null"}]}

    def one_of(self, depth: int) -> Json:
        kinds = [
            self.named(
                {
                    "type": "object",
                    "properties": {"kind": {"const": kind}, "value": self.any_of_all(depth + 1)},
                    "required": ["kind"],
                }
            )
            for kind in ("cat", "dog")
        ]
        return {"oneOf": [*kinds, {"type": "string", "maxLength": 3}], "discriminator": {"propertyName": "kind"}}

    def all_of(self, depth: int) -> Json:
        base = self.named({"type": "object", "properties": {"base": self.any_of_all(depth + 1)}, "required": ["base"]})
        return {"allOf": [base, {"properties": {"more": {"type": "integer"}, "base": True}}]}

    def tree(self, _: int) -> Json:
        name = f"D{len(self.definitions)}"
        ref: Json = {"$ref": f"#/$defs/{name}"}
        kids = self.rng.choice(({"type": "array", "items": ref, "maxItems": 2}, {"anyOf": [ref, {"type": "null"}]}))
        self.definitions[name] = {
            "type": "object",
            "properties": {"label": {"type": "string", "maxLength": 4}, "next": kids},
            "required": ["next"],
        }
        return dict(ref)


def tangled(rng: random.Random) -> Json:
    """One schema of keywords side by side in every combination; many of them can only be refused."""
    root = _tangled(rng, 0)
    return root | {"$defs": {name: _tangled(rng, 1) for name in "xyz"}}


def _tangled(rng: random.Random, depth: int) -> Json:
    makers = (_tangled_object, _tangled_array, _tangled_leaf)
    made = _tangled_leaf(rng, depth) if depth >= 3 else rng.choice(makers)(rng, depth)
    for word in ("allOf", "anyOf", "oneOf"):
        if depth < 3 and rng.random() < 0.22:
            made[word] = [_tangled(rng, depth + 1) for _ in range(rng.randint(1, 3))]
    if depth < 3 and rng.random() < 0.2:
        made["$ref"] = "#/$defs/" + rng.choice("xyz")
    return made | ({"not": rng.choice(({}, False, {"type": "null"}))} if rng.random() < 0.02 else {})


def _tangled_leaf(rng: random.Random, _: int) -> Json:
    kind: object = rng.choice(("null", "integer", "number", "boolean", "string", ["string", "null", "integer"]))
    bounds: list[Json] = [{"minimum": rng.randint(-3, 3)}, {"maximum": rng.uniform(0, 9)}, {"exclusiveMinimum": 0}]
    lengths: list[Json] = [{"minLength": 1}, {"maxLength": 3}, {"multipleOf": 2}, {}]
    values: list[Json] = [{"const": rng.choice(("a", 1, True, None))}, {"enum": rng.sample(("a", "b", 1, 2, None), 3)}]
    return dict(rng.choice([{"type": kind}, {"type": kind}, *bounds, *lengths, *values]))


def _some(rng: random.Random, chances: dict[str, tuple[float, Callable[[], object]]]) -> Json:
    return {word: make() for word, (chance, make) in chances.items() if rng.random() < chance}


def _tangled_object(rng: random.Random, depth: int) -> Json:
    def properties() -> Json:
        return {name: _tangled(rng, depth + 1) for name in rng.sample("abck", rng.randint(0, 3))}

    return _some(
        rng,
        {
            "type": (0.6, lambda: rng.choice(("object", ["object", "null"]))),
            "properties": (0.8, properties),
            "required": (0.5, lambda: rng.sample("abck", rng.randint(0, 2))),
            "additionalProperties": (0.4, lambda: rng.choice((False, True, {"type": "integer"}))),
            "unevaluatedProperties": (0.08, lambda: False),
            "minProperties": (0.1, lambda: rng.randint(0, 2)),
            "maxProperties": (0.1, lambda: rng.randint(0, 3)),
            "patternProperties": (0.1, lambda: {rng.choice(("^a", "b", ".")): _tangled(rng, 3)}),
            "propertyNames": (0.1, lambda: rng.choice(({"enum": ["a", "b"]}, {"pattern": "^[ab]$"}, {"const": "k"}))),
        },
    )


def _tangled_array(rng: random.Random, depth: int) -> Json:
    return _some(
        rng,
        {
            "type": (0.7, lambda: "array"),
            "items": (0.6, lambda: _tangled(rng, depth + 1)),
            "prefixItems": (0.4, lambda: [_tangled(rng, depth + 1) for _ in range(rng.randint(1, 2))]),
            "minItems": (0.5, lambda: rng.randint(0, 3)),
            "maxItems": (0.7, lambda: rng.randint(0, 3)),
            "unevaluatedItems": (0.1, lambda: rng.choice((False, {"type": "null"}))),
            "uniqueItems": (0.05, lambda: True),
        },
    )


def answer(grammar: str, rng: random.Random) -> bytes | None:
    """A random complete answer under the grammar; None where it grows past :data:`MAX_BYTES`."""
    walk = Decoder(grammar).walk()
    text = bytearray()
    while len(text) < MAX_BYTES:
        allowed = walk.allowed()
        if allowed in ([END], []):
            return bytes(text)
        if END in allowed and rng.random() < 0.3:
            return bytes(text)
        byte = _choose([option for option in allowed if option != END], text, rng)
        walk.take(byte)
        text.append(byte)
    return None


def _choose(options: list[int], text: bytearray, rng: random.Random) -> int:
    """Mostly what closes something, so that answers end; otherwise anything."""
    closing = [byte for byte in options if byte in b'"]}']
    if closing and rng.random() < min(0.9, 0.25 + len(text) / 400):
        return rng.choice(closing)
    plain = [byte for byte in options if 0x20 <= byte < 0x7F]
    return rng.choice(plain if plain and rng.random() < 0.8 else options)
