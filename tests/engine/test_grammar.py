"""Grammars for the engine: what they allow, and that what the engine would drop or lose is refused beforehand."""

from __future__ import annotations

import json
import threading
import time
from importlib.metadata import version

import pytest

from confide.engine import grammar
from confide.engine.decoder import END, Decoder, DecoderError
from confide.engine.grammar import CALL, FREE, REPLY, ToolSpec, check, json_object, json_schema, tool_calls
from confide.engine.schema import prepare
from confide.errors import InvalidRequest

WEATHER = ToolSpec(
    "get_weather", prepare({"properties": {"city": {"type": "string"}}, "required": ["city"]}, param="p", what="w")
)
PING = ToolSpec("ping", None)
IN_PARIS = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
PINGED = '{"name": "ping", "arguments": {}}'

ALLOWED: list[tuple[str, str, list[str], list[str]]] = [
    ("any object", json_object(), ["{}", '{"a": [1, null]}'], ["[]", "1", "", "{ }", '{"a":1}', "{} "]),
    (
        "separators",
        json_schema({"type": "array", "items": {"type": "null"}, "minItems": 2}),
        ["[null, null]"],
        ["[null,null]", "[null]"],
    ),
    (
        "forced call",
        tool_calls([WEATHER, PING], text=None, max_calls=1),
        [f"{CALL}[{IN_PARIS}]", f"{CALL}[{PINGED}]"],
        ["", "hello", f"{CALL}[]", f"{REPLY}hello", f"{CALL}[{PINGED}, {PINGED}]", f"{CALL}{PINGED}", f"[{PINGED}]"],
    ),
    (
        "wrong calls",
        tool_calls([WEATHER, PING], text=None, max_calls=3),
        [f"{CALL}[{PINGED}, {IN_PARIS}, {PINGED}]"],
        [
            f'{CALL}[{{"name": "other", "arguments": {{}}}}]',
            f'{CALL}[{{"name": "ping", "arguments": {{"city": "Paris"}}}}]',
            f'{CALL}[{{"name": "get_weather", "arguments": {{}}}}]',
            f'{CALL}[{{"name": "get_weather", "arguments": {{"city": 1}}}}]',
            f'{CALL}[{{"arguments": {{}}, "name": "ping"}}]',
            f"{CALL}[{PINGED}, {PINGED}, {PINGED}, {PINGED}]",
            f"{CALL}[{PINGED}] and more",
        ],
    ),
    (
        "call or text",
        tool_calls([PING], text=FREE, max_calls=2),
        [f"{CALL}[{PINGED}]", f"{REPLY}hi", f"{REPLY}two\nlines \u2028 é", f"{REPLY}{CALL}[]"],
        ["hi", REPLY, f"{CALL}hi"],
    ),
    (
        "call or JSON",
        tool_calls([PING], text={"enum": [1, "x"]}, max_calls=2),
        [f"{CALL}[{PINGED}]", f"{REPLY}1", f'{REPLY}"x"'],
        [f"{REPLY}hi", f"{REPLY}2", "1"],
    ),
]


@pytest.mark.parametrize(("text", "good", "bad"), [row[1:] for row in ALLOWED], ids=[row[0] for row in ALLOWED])
def test_texts_allowed_and_not(text: str, good: list[str], bad: list[str]) -> None:
    check(text)
    decoder = Decoder(text)
    assert [one for one in good if not decoder.accepts(one.encode())] == []
    assert [one for one in bad if decoder.accepts(one.encode())] == []


def test_a_client_can_not_style_the_grammar() -> None:
    assert '"lenient"' not in json_schema(prepare({"x-guidance": {"lenient": True}}, param="p", what="w"))


HEAD = "%llguidance {}\n"
LARGE = {"type": "number", "minimum": 0.12345, "maximum": 7919.98765}

REFUSED: list[tuple[str, str, str]] = [
    ("empty", "", "A schema of this request can't be enforced: it does not compile."),
    ("no such rule", f"{HEAD}start: other\n", "A schema of this request can't be enforced: it does not compile."),
    ("not closed", f'{HEAD}start: "a\n', "A schema of this request can't be enforced: it does not compile."),
    (
        "what the engine's version lacks",
        json_schema({"type": "string", "format": "uri"}),
        "A schema of this request can't be enforced: Unknown format: uri.",
    ),
    (
        "what is not enforced",
        json_schema({"type": "array", "uniqueItems": True}),
        'A schema of this request can\'t be enforced: Unimplemented keys: ["uniqueItems"].',
    ),
    ("too long", HEAD + "x" * 1_100_000, "The schemas of this request are too large together."),
    (
        "grows while it is followed",
        json_schema({"type": "string", "pattern": "^(.{1,5}|.{7,11}|.{13,17}){1,30}$"}),
        "The schemas of this request are too complex to be enforced while the answer is written.",
    ),
    (
        "too many optional properties",
        json_schema(prepare({"properties": {f"p{i}": {} for i in range(400)}}, param="p", what="w")),
        "The schemas of this request are too complex to be enforced while the answer is written.",
    ),
    (
        "too many symbols",
        json_schema(
            {
                "anyOf": [
                    {"type": "array", "items": {"maximum": i, "type": "integer"}, "maxItems": 1000} for i in range(300)
                ]
            }
        ),
        "A schema of this request can't be enforced: grammar size (number of symbols) too big "
        "(limit for this grammar: 250000).",
    ),
    (
        "too many numbers",
        json_schema({"type": "object", "properties": {f"p{i}": LARGE | {"minimum": i / 7} for i in range(3000)}}),
        "A schema of this request can't be enforced: initial lexer configuration (grammar) too big "
        "(limit for this grammar: 500000).",
    ),
]


@pytest.mark.parametrize(("text", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_with_the_reason_within_a_second(text: str, reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(InvalidRequest) as caught:
        check(text, param="response_format", code="invalid_json_schema")
    assert time.monotonic() - started < 1.5
    assert (caught.value.message, caught.value.param, caught.value.code) == (
        reason,
        "response_format",
        "invalid_json_schema",
    )


def node(**words: object) -> dict[str, object]:
    return dict(words)


HOSTILE: list[tuple[str, object]] = [
    (
        "nested arrays",
        node(type="array", maxItems=1000, items=node(type="array", maxItems=1000, items=node(type="array"))),
    ),
    (
        "ambiguous objects",
        node(anyOf=[node(properties={"a": node(type="string", maxLength=9 + i)}) for i in range(400)]),
    ),
    ("overlapping strings", node(anyOf=[node(type="string", minLength=i, maxLength=i + 500) for i in range(500)])),
    ("patterns with many states", node(anyOf=[node(type="string", pattern=f"^.*a.{{{i + 9}}}$") for i in range(100)])),
    ("optional letters", node(type="string", pattern="^" + "(a?)" * 60 + "a" * 60 + "$")),
    ("stars of stars", node(type="string", pattern="^((a*)*b)*$")),
    ("a long constant", node(enum=["x" * 99_000])),
    ("many constants", node(enum=[f"value {i}" for i in range(2000)])),
    ("every JSON value", node()),
    ("many tools' worth of numbers", node(properties={f"p{i}": LARGE | {"minimum": i / 7} for i in range(500)})),
    ("pattern and length", node(type="string", pattern="^(a|b)*a(a|b){20}", minLength=5000)),
]


@pytest.mark.parametrize("schema", [row[1] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_hostile_schemas_are_judged_within_a_second(schema: object) -> None:
    check(json_object())  # the made-up vocabulary is built once
    started = time.monotonic()
    try:
        check(json_schema(prepare(schema, param="p", what="w")))
    except InvalidRequest as refusal:
        assert refusal.status == 400  # noqa: PT017 - either verdict will do, in time
    assert time.monotonic() - started < 1


def test_128_tools_compile_in_time() -> None:
    tools = [ToolSpec(f"tool_{index}", WEATHER.parameters) for index in range(128)]
    started = time.monotonic()
    check(tool_calls(tools, text=FREE, max_calls=128))
    assert time.monotonic() - started < 1


def test_a_verdict_is_remembered() -> None:
    text = json_schema({"type": "object", "properties": {f"p{i}": LARGE | {"minimum": i / 3} for i in range(150)}})
    check(text)
    started = time.monotonic()
    check(text)
    assert time.monotonic() - started < 0.01


def test_the_decoder_is_of_the_version_that_the_engine_embeds() -> None:
    """xllamacpp 2026.10.11549 is built with llguidance 1.0.1; a later one allows what that one drops in silence."""
    assert version("llguidance") == "1.0.1"


def test_old_verdicts_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = grammar._Verdicts()
    monkeypatch.setattr(grammar, "_REMEMBERED", 2)
    for index in range(4):
        assert verdicts.get(json_schema({"enum": [index]})) is None
    assert len(verdicts._known) == 2


def test_checks_from_many_threads() -> None:
    texts = [json_schema({"enum": [f"thread {index % 4}"]}) for index in range(16)]
    threads = [threading.Thread(target=check, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(grammar._verdicts.get(text) is None for text in texts)


def test_a_walk_offers_what_may_come_next() -> None:
    walk = Decoder(json_schema({"enum": [True]})).walk()
    assert walk.allowed() == [ord("t")]
    for byte in b"true":
        walk.take(byte)
    assert walk.allowed() == [END]


def test_a_walk_refuses_what_is_not_allowed() -> None:
    walk = Decoder(json_schema({"enum": [True]})).walk()
    with pytest.raises(DecoderError, match="doesn't satisfy the grammar"):
        walk.take(ord("f"))


def test_what_follows_the_prefix_is_json() -> None:
    assert json.loads(f"[{IN_PARIS}]")[0]["name"] == WEATHER.name
