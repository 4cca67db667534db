"""Grammars for the engine's constrained decoder, and the proof that each one compiles.

The engine drops a grammar that it can't compile and answers with free text, without saying so. Therefore nothing
is handed over that :func:`check` has not compiled and followed for some steps, under limits tighter than the
engine's.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llguidance import LLParserLimits

from confide.engine.decoder import END, Decoder, DecoderError
from confide.errors import InvalidRequest

CALL = "Call: "
REPLY = "Reply: "
FREE = "free"
ITEM_SEPARATOR = ", "
KEY_SEPARATOR = ": "

MAX_GRAMMAR_CHARS = 1_000_000
_HEAD = "%llguidance {}\n"
_STYLE = {
    "whitespace_flexible": False,
    "item_separator": ITEM_SEPARATOR,
    "key_separator": KEY_SEPARATOR,
}
_NO_ARGUMENTS: Mapping[str, object] = {"type": "object", "properties": {}, "additionalProperties": False}
_ANY_TEXT = "/(?s:.+)/"
_WALKS, _STEPS, _SECONDS = 2, 24, 0.25
_REMEMBERED = 512


@dataclass(frozen=True)
class ToolSpec:
    """One function that the model may call; ``parameters`` is a prepared schema, None for no arguments."""

    name: str
    parameters: Mapping[str, object] | None


def json_object() -> str:
    """Any JSON object."""
    return json_schema({"type": "object"})


def json_schema(prepared: Mapping[str, object]) -> str:
    """One JSON value under a prepared schema."""
    return f"{_HEAD}start: {_json(prepared)}\n"


def tool_calls(
    tools: Sequence[ToolSpec],
    *,
    text: str | Mapping[str, object] | None,
    max_calls: int,
) -> str:
    """``Call: `` and a JSON array of 1 to ``max_calls`` calls; or, where ``text`` is given, ``Reply: `` and a text.

    ``text`` is :data:`FREE` for any text, or a prepared schema for JSON.
    """
    lines = [f"start: {'calls' if text is None else 'calls | reply'}"]
    if text is not None:
        lines.append(f"reply: {_quoted(REPLY)} {_ANY_TEXT if isinstance(text, str) else _json(text)}")
    more = f" ({_quoted(ITEM_SEPARATOR)} call){{0,{max_calls - 1}}}" if max_calls > 1 else ""
    lines.append(f"calls: {_quoted(CALL + '[')} call{more} {_quoted(']')}")
    lines.append("call: " + " | ".join(f"call_{index}" for index in range(len(tools))))
    lines += [f"call_{index}: {_call(tool)}" for index, tool in enumerate(tools)]
    return _HEAD + "\n".join(lines) + "\n"


def _call(tool: ToolSpec) -> str:
    name = json.dumps(tool.name)
    opening = f'{{"name"{KEY_SEPARATOR}{name}{ITEM_SEPARATOR}"arguments"{KEY_SEPARATOR}'
    schema = _NO_ARGUMENTS if tool.parameters is None else tool.parameters
    return f"{_quoted(opening)} {_json(schema)} {_quoted('}')}"


def _quoted(text: str) -> str:
    return json.dumps(text)


def _json(prepared: Mapping[str, object]) -> str:
    return "%json " + json.dumps({**prepared, "x-guidance": _STYLE})


def check(grammar: str, *, param: str | None = None, code: str | None = None) -> None:
    """Prove that the engine will follow this grammar; raise :class:`InvalidRequest` where it would not."""
    reason = _verdicts.get(grammar)
    if reason is not None:
        raise InvalidRequest(reason, param=param, code=code)


def _judge(grammar: str) -> str | None:
    """None, or one sentence that says why the grammar is refused."""
    if len(grammar) > MAX_GRAMMAR_CHARS:
        return "The schemas of this request are too large together."
    try:
        decoder = Decoder(grammar, _limits(), wide=True)
    except DecoderError as error:
        return _sentence(str(error))
    try:
        _rehearse(decoder)
    except DecoderError:
        return "The schemas of this request are too complex to be enforced while the answer is written."
    return None


def _limits() -> LLParserLimits:
    """Half of what the engine allows itself, so that what passes here has room there."""
    return LLParserLimits(
        max_items_in_row=1000,
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        step_max_items=25_000,
        max_lexer_states=100_000,
        max_grammar_size=250_000,
    )


def _rehearse(decoder: Decoder) -> None:
    """Follow the grammar along some random answers: most explosions happen within the first steps."""
    deadline = time.monotonic() + _SECONDS
    for seed in range(_WALKS):
        choose, walk = random.Random(seed), decoder.walk()  # noqa: S311 - no secret depends on it
        for _ in range(_STEPS):
            options = [token for token in walk.allowed() if token != END]
            if not options or time.monotonic() > deadline:
                break
            walk.take(choose.choice(options))


def _sentence(error: str) -> str:
    """The library's reason on one line, without the grammar that it repeats."""
    line = error.splitlines()[0] if error else "unknown"
    reason = line.partition("failed to compile JSON schema:")[2].strip() or "it does not compile"
    return f"A schema of this request can't be enforced: {reason[:300]}."


class _Verdicts:
    """The latest verdicts, by digest; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, str | None] = OrderedDict()

    def get(self, grammar: str) -> str | None:
        key = hashlib.sha256(grammar.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        verdict = _judge(grammar)
        with self._lock:
            self._known[key] = verdict
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return verdict


_verdicts = _Verdicts()
