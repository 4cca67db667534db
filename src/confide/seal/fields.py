"""Which fields are sealed, as data; everything that isn't named here is sealed too.

Source: E2EE v2 of the ACI specification, section 5. It names the generated text, the reasoning and the audio of an
answer. It has no place for tool calls, so those stay readable, as its clients expect. Whatever else an engine may put
into an answer (log probabilities, token ids, members nobody has thought of) is sealed as compact JSON under its own
path: not knowing a member is no reason to show it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

Path = tuple[str | int, ...]
"""Member names and indexes from the root of a body."""


def dotted(path: Path) -> str:
    """A path as the specification writes it."""
    return ".".join(map(str, path))


class Rule(Enum):
    """What happens to a member that isn't null."""

    PLAIN = "stays as it is"
    TEXT = "a string, sealed"
    SOME_TEXT = "a string, sealed, and left out when empty"
    JSON = "any value, sealed as compact JSON"
    REST = "sealed as compact JSON, unless it is empty"


@dataclass(frozen=True, slots=True)
class Each:
    """A list whose entries are named by their ``index`` member, or else by their place."""

    shape: Shape


Shape = Mapping[str, "Rule | Each | Shape"]


# Answers -------------------------------------------------------------------------------------------------------------


def _plain(*names: str) -> dict[str, Rule | Each | Shape]:
    return dict.fromkeys(names, Rule.PLAIN)


_TOP: Final = _plain("id", "object", "created", "model", "usage", "service_tier", "system_fingerprint", "error")
_CHOICE: Final = _plain("index", "finish_reason", "stop_reason", "matched_stop")
_SPOKEN: Final[Shape] = {
    **_plain("role", "tool_calls", "function_call"),
    "reasoning": Rule.TEXT,
    "reasoning_content": Rule.TEXT,
    "refusal": Rule.TEXT,
    "audio": {"data": Rule.TEXT, **_plain("id", "expires_at")},
}
_CHAT_CHOICE: Final[Shape] = {
    **_CHOICE,
    "message": {**_SPOKEN, "content": Rule.TEXT},
    "delta": {**_SPOKEN, "content": Rule.SOME_TEXT},
}
CHAT_ANSWER: Final[Shape] = {**_TOP, "choices": Each(_CHAT_CHOICE)}
COMPLETION_ANSWER: Final[Shape] = {**_TOP, "choices": Each({**_CHOICE, "text": Rule.TEXT})}
EMBEDDING_ANSWER: Final[Shape] = {**_TOP, "data": Each({**_plain("index", "object"), "embedding": Rule.JSON})}

DROPPED: Final = object()
"""What a visitor gives for a member that is to be left out."""

Visit = Callable[[Path, Rule, Any], Any]


def replace_fields(shape: Shape, node: dict[str, Any], visit: Visit, path: Path = ()) -> None:
    """Give the visitor every member that isn't plain or null, and put in its place what the visitor gives."""
    for name, value in list(node.items()):
        rule = shape.get(name, Rule.REST)
        if value is None or rule is Rule.PLAIN:
            continue
        new = _replaced(rule, value, visit, (*path, name))
        if new is DROPPED:
            del node[name]
        else:
            node[name] = new


def _replaced(rule: Rule | Each | Shape, value: Any, visit: Visit, path: Path) -> Any:
    if isinstance(rule, Each) and isinstance(value, list):
        return [_entry(rule.shape, place, entry, visit, path) for place, entry in enumerate(value)]
    if isinstance(rule, Mapping) and isinstance(value, dict):
        replace_fields(rule, value, visit, path)
        return value
    return visit(path, rule if isinstance(rule, Rule) else Rule.REST, value)


def _entry(shape: Shape, place: int, entry: Any, visit: Visit, path: Path) -> Any:
    if not isinstance(entry, dict):
        new = visit((*path, place), Rule.REST, entry)
        return None if new is DROPPED else new
    index = entry.get("index")
    named = index if type(index) is int and index >= 0 else place
    replace_fields(shape, entry, visit, (*path, named))
    return entry


# Requests ------------------------------------------------------------------------------------------------------------

Parts = Mapping[str, tuple[str, ...]]
TEXT_PARTS: Final[Parts] = {"text": ("text",)}
ALL_PARTS: Final[Parts] = {**TEXT_PARTS, "image_url": ("image_url", "url"), "input_audio": ("input_audio", "data")}
"""Where the content of a part is, by its type."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path whose bodies have sealed fields: the request's member that holds them, and the shape of the answer."""

    path: str
    member: str
    answer: Shape
    streams: bool = True


ENDPOINTS: Final = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/chat/completions", "messages", CHAT_ANSWER),
        Endpoint("/v1/completions", "prompt", COMPLETION_ANSWER),
        Endpoint("/v1/embeddings", "input", EMBEDDING_ANSWER, streams=False),
    )
}
