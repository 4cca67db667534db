"""Schemas of clients: what is refused and why, what is made plain, and that no random answer breaks its schema."""

from __future__ import annotations

import json
import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tests.engine import schemas

from confide.engine import grammar
from confide.engine.decoder import Decoder
from confide.engine.pattern import PatternError, matches, translate
from confide.engine.schema import prepare, validator
from confide.errors import InvalidRequest

Json = dict[str, object]


def ready(schema: object) -> Json:
    return prepare(schema, param="response_format", what="response_format 'x'")


def closed(**properties: object) -> Json:
    names = list(properties)
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def nested(depth: int) -> object:
    schema: object = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


A_REF, B_REF = {"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}

REFUSED: list[tuple[str, object, str]] = [
    ("not a schema: list", [], "at $: a schema must be an object or a boolean"),
    ("not a schema: text", "object", "at $: a schema must be an object or a boolean"),
    ("not a schema: null", None, "at $: a schema must be an object or a boolean"),
    ("not a schema inside", {"properties": {"a": 1}}, "at $.properties.a: a schema must be an object or a boolean"),
    ("false", False, "at $: the schema is false"),
    ("not anything", {"not": {}}, "at $: not excludes every value"),
    ("not", {"not": {"type": "null"}}, "at $: not is not supported"),
    ("unknown type", {"type": "text"}, "at $: type must be one of the seven names, or a list of them"),
    ("no type", {"type": []}, "at $: type must be one of the seven names, or a list of them"),
    ("type is a number", {"type": 3}, "at $: type must be one of the seven names, or a list of them"),
    ("empty enum", {"enum": []}, "at $: no value of enum or const is allowed"),
    ("enum is a text", {"enum": "ab"}, "at $: enum must be a list"),
    ("enum against type", {"type": "integer", "enum": ["a", 1.5]}, "at $: no value of enum or const is allowed"),
    ("const against enum", {"const": 1, "enum": [2, True]}, "at $: no value of enum or const is allowed"),
    ("enum beside pattern", {"enum": ["a"], "pattern": "a"}, "at $: enum or const beside pattern is not supported"),
    ("huge constant", {"const": 2**53}, "at $: a number is beyond 2**53 - 1, where JSON readers disagree"),
    ("bounds crossed", {"type": "integer", "minimum": 5, "maximum": 4}, "at $: no number is within the bounds"),
    ("no whole number", {"type": "integer", "minimum": 0.1, "maximum": 0.9}, "at $: no number is within the bounds"),
    (
        "bounds exclude all",
        {"type": "number", "exclusiveMinimum": 1, "maximum": 1},
        "at $: no number is within the bounds",
    ),
    ("bound is a bool", {"type": "number", "exclusiveMinimum": True}, "at $: exclusiveMinimum must be a number"),
    ("bound is a text", {"type": "integer", "minimum": "1"}, "at $: minimum must be a number"),
    (
        "huge bound",
        {"type": "number", "maximum": 1e300},
        "at $: maximum is beyond 2**53 - 1, where JSON readers disagree",
    ),
    (
        "fractional multiple",
        {"type": "number", "multipleOf": 0.01},
        "at $: multipleOf is supported for whole numbers from 1 to 1000",
    ),
    (
        "multiple of zero",
        {"type": "integer", "multipleOf": 0},
        "at $: multipleOf is supported for whole numbers from 1 to 1000",
    ),
    (
        "no multiple",
        {"type": "integer", "multipleOf": 10, "minimum": 1, "maximum": 9},
        "at $: no number is within the bounds",
    ),
    (
        "lengths crossed",
        {"type": "string", "minLength": 3, "maxLength": 2},
        "at $: a string needs 3 characters and may have 2",
    ),
    ("negative length", {"type": "string", "minLength": -1}, "at $: minLength must be a whole number, zero or more"),
    ("huge length", {"type": "string", "maxLength": 10**9}, "at $: maxLength is more than 20000"),
    ("pattern is a number", {"type": "string", "pattern": 1}, "at $: pattern must be a string"),
    ("long pattern", {"pattern": "a" * 3000}, "at $: the pattern is longer than 2048 characters"),
    (
        "repetition of repetition",
        {"pattern": "(a{1000}){1000}"},
        "at $: the pattern is too large once its repetitions are written out",
    ),
    (
        "look-ahead",
        {"pattern": "(?=a)a"},
        "at $: the pattern uses look-around, flags or another kind of group that is not supported",
    ),
    ("items crossed", {"type": "array", "minItems": 3, "maxItems": 2}, "at $: an array needs 3 items and may have 2"),
    ("huge maxItems", {"type": "array", "maxItems": 100_000}, "at $: maxItems is more than 1000"),
    ("huge minItems", {"type": "array", "minItems": 100_000}, "at $: minItems is more than 1000"),
    ("items never", {"type": "array", "items": False, "minItems": 1}, "at $: an array needs 1 items and may have 0"),
    (
        "tuple of drafts before",
        {"type": "array", "items": [{}]},
        "at $: items must be one schema; tuples are prefixItems in JSON Schema 2020-12",
    ),
    ("prefixItems", {"prefixItems": {}}, "at $: prefixItems must be a list of schemas"),
    ("uniqueItems", {"type": "array", "uniqueItems": True}, "at $: uniqueItems is not supported"),
    ("contains", {"type": "array", "contains": {"type": "null"}}, "at $: contains is not supported"),
    (
        "property never",
        {"properties": {"a": False}, "required": ["a"]},
        "at $.properties.a: a required property can't have any value",
    ),
    (
        "required but closed",
        {"properties": {}, "required": ["a"], "additionalProperties": False},
        "at $.properties.a: a required property can't have any value",
    ),
    ("required is a text", {"required": "a"}, "at $: required must be a list of strings"),
    ("properties is a list", {"properties": []}, "at $: properties must be an object"),
    ("control character", {"properties": {"a\b": {}}}, "at $: a property name has a control character"),
    (
        "too few properties",
        {"properties": {"a": {}}, "minProperties": 2, "additionalProperties": False},
        "at $: the object needs more properties than it may have",
    ),
    (
        "counted properties",
        {"type": "object", "minProperties": 2},
        "at $: minProperties and maxProperties are supported only in simple cases",
    ),
    (
        "patternProperties beside properties",
        {"properties": {"a": {}}, "patternProperties": {"b": {}}},
        "at $: patternProperties is supported only without properties of other names",
    ),
    ("if", {"if": {}, "then": {}}, "at $: if, then and else are not supported"),
    ("dependentRequired", {"dependentRequired": {"a": ["b"]}}, "at $: dependentRequired is not supported"),
    (
        "propertyNames",
        {"propertyNames": {"minLength": 2}, "type": "object"},
        "at $: propertyNames is supported with enum, const or pattern",
    ),
    (
        "remote $ref",
        {"$ref": "https://example.com/s"},
        "at $: only references inside the schema itself (#/…) are followed",
    ),
    ("file $ref", {"$ref": "file:///etc/passwd"}, "at $: only references inside the schema itself (#/…) are followed"),
    ("anchor", {"$ref": "#node"}, "at $: only references inside the schema itself (#/…) are followed"),
    ("$ref is a number", {"$ref": 1}, "at $: $ref must be a string"),
    ("dangling $ref", A_REF, "at $: $ref names nothing in the schema"),
    ("$ref to a text", {"$ref": "#/title", "title": "x"}, "at $: $ref names something that is not a schema"),
    ("$ref to itself", {"$ref": "#"}, "at $: $ref leads back to itself"),
    ("$ref in a circle", {"$defs": {"a": B_REF, "b": A_REF}, "$ref": "#/$defs/a"}, "$ref leads back to itself"),
    ("circle through anyOf", {"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "at $: $ref leads back to itself"),
    ("dynamic", {"$dynamicRef": "#a"}, "at $: $dynamicRef is not supported"),
    ("nested $id", {"properties": {"a": {"$id": "b"}}}, "at $.properties.a: a nested $id is not supported"),
    (
        "recursion without end",
        closed(n={"$ref": "#"}),
        "at $: a reference to itself can't be satisfied by any finite value",
    ),
    (
        "required but unevaluated",
        {"required": ["a"], "unevaluatedProperties": False},
        "at $.properties.a: a required property can't have any value",
    ),
    ("oneOf through a circle", {"oneOf": [{"$ref": "#"}, False]}, "at $: $ref leads back to itself"),
    ("enum twice", {"allOf": [{"enum": [1]}, {"enum": [2]}]}, "at $: no value of enum or const is allowed"),
    (
        "const twice",
        {"allOf": [{"const": 1}, {"const": 2}]},
        "at $: const is given twice with different values",
    ),
    (
        "tuple beside items",
        {"allOf": [{"prefixItems": [{}]}, {"items": {"type": "null"}}]},
        "at $: prefixItems can't be combined with other items by allOf",
    ),
    (
        "unevaluatedItems in a part",
        {"allOf": [{"unevaluatedItems": False}, {"prefixItems": [{}]}]},
        "at $: unevaluatedItems can't be combined by allOf",
    ),
    (
        "patternProperties in a part",
        {"allOf": [{"patternProperties": {"a": {}}}, {"properties": {"b": {}}}]},
        "at $: patternProperties and unevaluatedProperties can't be combined by allOf",
    ),
    (
        "bound is a text in a part",
        {"allOf": [{"minimum": "1"}, {"minimum": 2}]},
        "at $: minimum must be a number",
    ),
    ("too many parts", {"allOf": [{"minimum": 0}] * 70}, "more than 64 schemas are combined"),
    ("$ref through a list", {"$ref": "#/anyOf/5", "anyOf": [{}]}, "at $: $ref names nothing in the schema"),
    (
        "oneOf of open objects",
        {"oneOf": [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}]},
        "at $: oneOf is supported where the alternatives exclude each other visibly; use anyOf",
    ),
    (
        "oneOf of overlapping constants",
        {"oneOf": [{"enum": [1, 2]}, {"enum": [2.0, 3]}]},
        "at $: oneOf is supported where the alternatives exclude each other visibly; use anyOf",
    ),
    (
        "oneOf of a constant and its type",
        {"oneOf": [{"const": "a"}, {"type": "string"}]},
        "at $: oneOf is supported where the alternatives exclude each other visibly; use anyOf",
    ),
    (
        "tuple in definitions not used",
        {"items": {"enum": ["a"], "items": {}}},
        "at $.items: enum or const beside items is not supported",
    ),
    ("empty anyOf", {"anyOf": []}, "at $: anyOf must be a list with at least one schema"),
    ("anyOf of nothing", {"anyOf": [False, {"enum": []}]}, "at $: none of the alternatives can be satisfied"),
    (
        "oneOf that overlaps",
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        "at $: oneOf is supported where the alternatives exclude each other visibly; use anyOf",
    ),
    (
        "oneOf without types",
        {"oneOf": [{"minLength": 2}, {"minimum": 2}]},
        "at $: oneOf is supported where the alternatives exclude each other visibly; use anyOf",
    ),
    ("oneOf too wide", {"oneOf": [{"const": i} for i in range(99)]}, "at $: oneOf has more than 60 alternatives"),
    ("allOf of types", {"allOf": [{"type": "string"}, {"type": "null"}]}, "at $: no type satisfies all of allOf"),
    (
        "allOf of patterns",
        {"allOf": [{"pattern": "a"}, {"pattern": "b"}]},
        "at $.allOf[1]: pattern is given twice in schemas that must hold together",
    ),
    ("deep", nested(20_000), "at $: the schema is nested more than 64 levels deep"),
    ("wide", {"properties": {f"p{i}": {} for i in range(501)}}, "at $: an object has more than 500 properties"),
    ("many values", {"description": [0] * 30_000}, "at $: the schema is too large"),
    ("long texts", {"description": "x" * 600_000}, "at $: the schema is too large"),
    ("large enum", {"enum": list(range(5000))}, "at $: enum lists more than 2000 values or 100000 characters"),
    ("long enum", {"enum": ["x" * 100_001]}, "at $: enum lists more than 2000 values or 100000 characters"),
    (
        "alternatives multiplied",
        {"allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for j in range(9)]} for i in range(9)]},
        "the schema is too large or too deep once its parts are combined",
    ),
    ("NaN", {"const": float("nan")}, "at $: NaN and Infinity are not JSON"),
    ("half a surrogate", {"const": "\ud800"}, "at $: a string has an unpaired surrogate"),
]


@pytest.mark.parametrize(("schema", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_with_the_reason_within_a_second(schema: object, reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(InvalidRequest) as caught:
        ready(schema)
    assert caught.value.message.startswith("Invalid schema for response_format 'x': at $")
    assert caught.value.message.endswith(f"{reason}.")
    assert (caught.value.param, caught.value.code, caught.value.status) == (
        "response_format",
        "invalid_json_schema",
        400,
    )
    assert time.monotonic() - started < 1


INT: Json = {"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1}

PLAIN: list[tuple[str, object, object]] = [
    ("anything", {}, {}),
    ("true", True, {}),
    ("annotations", {"title": "T", "default": 1, "x-guidance": {"lenient": True}, "type": "null"}, {"type": "null"}),
    (
        "a property named as an annotation",
        closed(title={"type": "null", "title": "x"}),
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {"title": {"type": "null"}},
            "required": ["title"],
        },
    ),
    ("integer", {"type": "integer"}, INT),
    ("whole multiple", {"type": "number", "multipleOf": 1.0}, INT),
    ("nullable", {"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
    ("no type stated", {"minLength": 2}, {"type": "string", "minLength": 2}),
    ("format kept", {"type": "string", "format": "date"}, {"type": "string", "format": "date"}),
    ("format unknown to the engine", {"type": "string", "format": "uri"}, {"type": "string"}),
    ("format beside pattern", {"format": "date", "pattern": "^a$"}, {"type": "string", "pattern": "^a$"}),
    ("const and enum", {"const": 1.0, "enum": [1, 2]}, {"enum": [1]}),
    ("equal values once", {"enum": [1, 1.0, True, "1"]}, {"enum": [1.0, True, "1"]}),
    ("enum filtered by type", {"type": "string", "enum": ["a", None]}, {"enum": ["a"]}),
    (
        "open map",
        {"type": "object", "additionalProperties": {"type": "null"}},
        {"type": "object", "additionalProperties": {"type": "null"}},
    ),
    (
        "open object",
        {"properties": {"a": {"type": "null"}}, "additionalProperties": True},
        {
            "type": "object",
            "properties": {"a": {"type": "null"}},
            "patternProperties": {"(?s:.*)": True},
            "additionalProperties": False,
        },
    ),
    (
        "optional that can't be",
        {"properties": {"a": False}},
        {"type": "object", "additionalProperties": False, "properties": {}},
    ),
    (
        "names from a list",
        {"type": "object", "propertyNames": {"enum": ["a"]}, "additionalProperties": {"type": "null"}},
        {"type": "object", "additionalProperties": False, "properties": {"a": {"type": "null"}}},
    ),
    (
        "names that are strings",
        {"type": "object", "propertyNames": {"type": "string"}},
        {"type": "object", "additionalProperties": True},
    ),
    (
        "allOf",
        {"allOf": [{"type": "integer", "minimum": 1}, {"maximum": 3}]},
        {"type": "integer", "minimum": 1, "maximum": 3},
    ),
    (
        "oneOf by type",
        {"oneOf": [{"type": "null"}, {"type": "boolean"}]},
        {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    ),
    (
        "reference with annotations",
        {"allOf": [{"$ref": "#/definitions/a"}], "title": "T", "definitions": {"a": {"type": "null"}}},
        {"$ref": "#/$defs/d0", "$defs": {"d0": {"type": "null"}}},
    ),
    (
        "escaped pointer",
        {"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"type": "null"}}},
        {"$ref": "#/$defs/d0", "$defs": {"d0": {"type": "null"}}},
    ),
    (
        "oneOf by constants",
        {"oneOf": [{"enum": [1, "a"]}, {"const": "b"}, {"type": "boolean"}]},
        {"anyOf": [{"enum": [1, "a"]}, {"enum": ["b"]}, {"type": "boolean"}]},
    ),
    (
        "oneOf inside oneOf",
        {"oneOf": [{"anyOf": [{"const": 1}, {"const": 2}]}, {"anyOf": [{"const": 3}, False]}]},
        {"anyOf": [{"enum": [1]}, {"enum": [2]}, {"enum": [3]}]},
    ),
    (
        "items of both parts",
        {"allOf": [{"items": {"type": "integer", "minimum": 1}}, {"items": {"maximum": 2}}]},
        {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 2}, "minItems": 0},
    ),
    (
        "properties of both parts",
        {
            "allOf": [
                {"properties": {"a": {"type": "integer", "minimum": 1}}, "additionalProperties": {"type": "null"}},
                {"properties": {"a": {"maximum": 2}, "b": True}, "additionalProperties": False},
            ],
        },
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {"a": {"type": "integer", "minimum": 1, "maximum": 2}, "b": {"type": "null"}},
        },
    ),
    ("enum and const of parts", {"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3]}, {"const": 3}]}, {"enum": [3]}),
    (
        "required of parts",
        {"allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "null"}}, "required": ["a"]}]},
        {"type": "object", "additionalProperties": False, "properties": {"a": {"type": "null"}}, "required": ["a"]},
    ),
    (
        "tuple",
        {"prefixItems": [{"type": "null"}]},
        {"type": "array", "prefixItems": [{"type": "null"}], "items": False, "minItems": 0, "maxItems": 1},
    ),
]


@pytest.mark.parametrize(("schema", "plain"), [row[1:] for row in PLAIN], ids=[row[0] for row in PLAIN])
def test_plain_form(schema: object, plain: object) -> None:
    assert ready(schema) == plain
    grammar.check(grammar.json_schema(ready(schema)))


CAT, DOG = closed(kind={"const": "cat"}), closed(kind={"const": "dog"}, age={"type": "integer"})

ANSWERS: list[tuple[str, object, list[str], list[str]]] = [
    (
        "exclusive whole bound",
        {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
        ["0.5", "0.1"],
        ["0", "0.0", "0.51"],
    ),
    (
        "negative side",
        {"type": "number", "minimum": -0.5, "exclusiveMaximum": 0},
        ["-0.5"],
        ["0", "-0", "-0.0", "-0.6"],
    ),
    (
        "extra name in disguise",
        {"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "boolean"}},
        ['{"b": true}'],
        ['{"a": true}', '{"\\u0061": true}', '{"b": 1}'],
    ),
    (
        "union by reference",
        {"$defs": {"c": CAT, "d": DOG}, "oneOf": [{"$ref": "#/$defs/c"}, {"$ref": "#/$defs/d"}]},
        ['{"kind": "cat"}', '{"kind": "dog", "age": 1}'],
        ['{"kind": "dog"}'],
    ),
    (
        "closed after allOf",
        {
            "allOf": [
                {"properties": {"a": {"type": "null"}}, "required": ["a"]},
                {"properties": {"b": {"type": "null"}}},
            ]
        },
        ['{"a": null}', '{"a": null, "b": null}'],
        ["{}", '{"a": null, "c": null}'],
    ),
    (
        "closed inside allOf",
        {"allOf": [CAT, {"properties": {"b": {"type": "null"}}}]},
        ['{"kind": "cat"}'],
        ['{"kind": "cat", "b": null}'],
    ),
    (
        "closed alternatives",
        {"oneOf": [closed(a={}), closed(b={})]},
        ['{"a": 1}', '{"b": 1}'],
        ["{}", '{"a": 1, "b": 1}'],
    ),
    (
        "either required",
        {
            "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        },
        ['{"a": null}', '{"b": null}', '{"a": null, "b": null}'],
        ["{}"],
    ),
    ("multiples", {"type": "integer", "multipleOf": 7, "maximum": 21}, ["0", "14", "21"], ["13", "28", "-7"]),
    ("characters, not bytes", {"type": "string", "maxLength": 2}, ['"😀é"'], ['"😀éx"']),
    (
        "at least one",
        {
            "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
            "minProperties": 1,
            "additionalProperties": False,
        },
        ['{"a": null}', '{"b": null}'],
        ["{}"],
    ),
    (
        "map by pattern",
        {"type": "object", "patternProperties": {"^[a-z]$": {"type": "null"}}, "additionalProperties": False},
        ["{}", '{"q": null}'],
        ['{"Q": null}', '{"q": 1}'],
    ),
    (
        "constant object",
        {"const": {"a": [1, "x"], "b": None}},
        ['{"a": [1, "x"], "b": null}'],
        ["{}", '{"a": [1, "x"]}'],
    ),
]


@pytest.mark.parametrize(("schema", "good", "bad"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS])
def test_answers_allowed_and_not(schema: object, good: list[str], bad: list[str]) -> None:
    decoder = Decoder(grammar.json_schema(ready(schema)))
    assert [text for text in good if not decoder.accepts(text.encode())] == []
    assert [text for text in bad if decoder.accepts(text.encode())] == []
    assert [text for text in good if not Draft202012Validator(schema).is_valid(json.loads(text))] == []


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({}, "{}", '{"a": 1}'),
        ({"properties": {"a": True}}, '{"a": 1}', "[]"),
        ({"$ref": "#/$defs/x", "$defs": {"x": CAT}}, '{"kind": "cat"}', "{}"),
    ],
)
def test_arguments_are_an_object(schema: object, good: str, bad: str) -> None:
    plain = prepare(schema, param="tools[0].function.parameters", what="function 'f'", arguments=True)
    decoder = Decoder(grammar.json_schema(plain))
    assert decoder.accepts(good.encode())
    assert not decoder.accepts(bad.encode())


def test_arguments_that_are_no_object() -> None:
    with pytest.raises(
        InvalidRequest, match=r"^Invalid schema for function 'f': at \$: no type satisfies all of allOf\.$"
    ):
        prepare({"type": "string"}, param="tools", what="function 'f'", code=None, arguments=True)


@pytest.mark.parametrize("seed", range(150))
def test_every_random_answer_validates(seed: int) -> None:
    check_one(seed)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(min_value=1000))
def test_every_random_answer_validates_for_any_seed(seed: int) -> None:
    check_one(seed)


def check_one(seed: int) -> None:
    rng = random.Random(seed)
    schema = schemas.schema(rng)
    text = grammar.json_schema(ready(schema))
    grammar.check(text)
    answer = schemas.answer(text, rng)
    if answer is not None:
        value = json.loads(answer)
        assert [error.message for error in Draft202012Validator(schema).iter_errors(value)] == []
        assert validator(schema)(value) is None


def test_tangled_schemas_are_refused_or_kept() -> None:
    answers = sum(check_tangled(seed) for seed in range(600))
    assert answers > 100


def check_tangled(seed: int) -> bool:
    schema = schemas.tangled(random.Random(seed))
    try:
        text = grammar.json_schema(ready(schema))
        grammar.check(text)
    except InvalidRequest:
        return False
    answer = schemas.answer(text, random.Random(seed))
    value = None if answer is None else json.loads(answer)
    assert answer is None or [error.message for error in Draft202012Validator(schema).iter_errors(value)] == [], seed
    return answer is not None


def test_the_generator_repeats_itself() -> None:
    assert schemas.schema(random.Random(7)) == schemas.schema(random.Random(7))


VALIDATED: list[tuple[object, object, str | None]] = [
    ({"type": "integer"}, 1, None),
    ({"type": "integer"}, "1", "the answer breaks $.type"),
    (closed(a={"type": "null"}), {"a": 1}, "the answer breaks $.properties.a.type"),
    (closed(a={"type": "null"}), {"a": None, "secret": 1}, "the answer breaks $.additionalProperties"),
    ({"pattern": r"^(?:\w+\s?)*$"}, "a" * 5000 + "!", "the answer breaks $.pattern"),
    ({"pattern": r"^\p{L}+$"}, "é", None),
    ({"pattern": "("}, "é", "the answer breaks $.pattern"),
    ({"patternProperties": {"^a": {"type": "null"}}}, {"ab": 1}, "the answer breaks $.patternProperties.^a.type"),
    ({"patternProperties": {"^a": {}}, "additionalProperties": False}, {"ab": 1}, None),
    (
        {"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": 3},
        3,
        "the answer breaks $.exclusiveMinimum",
    ),
    (False, 1, "the answer breaks $"),
]


@pytest.mark.parametrize(("schema", "value", "verdict"), VALIDATED)
def test_validator(schema: object, value: object, verdict: str | None) -> None:
    assert validator(schema)(value) == verdict


def test_validator_of_an_answer_without_bottom() -> None:
    value: object = []
    for _ in range(5000):
        value = [value]
    schema = {"type": "array", "items": {"$ref": "#"}}
    assert validator(schema)(value) == "the answer is nested too deeply to be checked"


PATTERNS: list[tuple[str, list[str], list[str]]] = [
    ("foo", ["foo", "xfoox"], ["fo"]),
    ("^a|b$", ["ax", "xb"], ["xa"]),
    (r"^\d\w\s$", ["1_ ", "1a\t"], ["١a ", "1é "]),
    (r"^\D$", ["x"], ["1", "١"]),
    (r"^\W$", ["-"], ["a", "é", "_"]),
    (r"^\S$", ["a"], [" ", "\u00a0"]),
    (r"^[^\d\s]$", ["a"], ["1", "١", " "]),
    (r"^[\w.-]+$", ["a.b-c"], ["a b"]),
    (r"^[a\-z]$", ["a", "-", "z"], ["b"]),
    (r"^[&&\[\]~]+$", ["&[]~"], ["a"]),
    (r"^\u00e9\x41\/$", ["éA/"], ["eA/"]),
    (r"^a{2,3}?$", ["aa", "aaa"], ["a", "aaaa"]),
    (r"^(?<year>\d{4})$", ["2026"], ["226"]),
    (r"^(?P<year>\d{4})$", ["2026"], ["226"]),
    ("^.$", ["a", "😀"], ["\n", "\r", "\u2028", ""]),
    ("^{x}$", ["{x}"], ["x"]),
    (r'^"\\$', ['"\\'], ['"']),
    ("^\x7f?a$", ["a", "\x7fa"], ["\x7f"]),
]


@pytest.mark.parametrize(("pattern", "good", "bad"), PATTERNS)
def test_patterns(pattern: str, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not matches(pattern, text)] == []
    assert [text for text in bad if matches(pattern, text)] == []


BAD_PATTERNS = [
    ("(", "the pattern has an unbalanced '('"),
    ("a)", "the pattern has an unbalanced ')'"),
    ("[a", "the pattern has an unbalanced '['"),
    ("[]", "the pattern has an empty character class"),
    ("[^]", "the pattern has an empty character class"),
    ("[z-a]", "the pattern has a bad range in a character class"),
    (r"[\d-z]", "the pattern has a bad range in a character class"),
    ("*a", "the pattern repeats nothing"),
    ("a|+", "the pattern repeats nothing"),
    ("a**", "the pattern repeats a repetition"),
    ("a++", "the pattern repeats a repetition"),
    ("^*", "the pattern repeats an anchor"),
    ("a{3,2}", "the pattern has a repetition whose maximum is below its minimum"),
    ("a{1001}", "the pattern repeats more than 1000 times"),
    ("(?!a)", "the pattern uses look-around, flags or another kind of group that is not supported"),
    ("(?<=a)b", "the pattern uses look-around, flags or another kind of group that is not supported"),
    ("(?i)a", "the pattern uses look-around, flags or another kind of group that is not supported"),
    (r"\bfoo", "the pattern uses \\b, which is not supported"),
    (r"(a)\1", "the pattern uses \\1, which is not supported"),
    (r"\Z", "the pattern uses \\Z, which is not supported"),
    (r"\u{61}", "the pattern has a bad hexadecimal escape"),
    (r"\ud800", "the pattern has a bad hexadecimal escape"),
    (r"\p{", "the pattern has a bad \\p{…}"),
    ("a\\", "the pattern uses \\ at its end, which is not supported"),
    ("(" * 65 + ")" * 65, "the pattern has more than 64 groups"),
    ("((a{100}){100}){100}", "the pattern is too large once its repetitions are written out"),
]


@pytest.mark.parametrize(("pattern", "reason"), BAD_PATTERNS)
def test_patterns_refused(pattern: str, reason: str) -> None:
    with pytest.raises(PatternError) as caught:
        translate(pattern)
    assert str(caught.value) == reason
