"""A conversation as an engine takes it. What it takes anyway keeps its bytes."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from confide.engine.remote.dialect import Dialect
from confide.wire.openai import ChatRequest, ImagePart, Message, PlainChat

Json = dict[str, Any]

_decoder = msgspec.json.Decoder(list[Json])
_REASONING: Final = ("reasoning", "reasoning_content")


def conversation(raw: Raw, request: ChatRequest, dialect: Dialect) -> Raw | list[Json]:
    """The value of ``messages`` for the engine.

    Args:
        raw: as the client wrote it.
        request: the same, read, with its images loaded.
        dialect: who shall read it.
    """
    if isinstance(request, PlainChat):
        return raw
    written = _decoder.decode(raw)
    calls = _LegacyCalls()
    mended = [
        _message(message, parsed, dialect, calls) for message, parsed in zip(written, request.messages, strict=True)
    ]
    if all(new is old for new, old in zip(mended, written, strict=True)):
        return raw
    return mended


class _LegacyCalls:
    """Ids for the deprecated calls, which have none: a function's message answers the last call."""

    def __init__(self) -> None:
        self._made = 0

    def new(self) -> str:
        self._made += 1
        return self.last

    @property
    def last(self) -> str:
        return f"call_{self._made}"


def _message(written: Json, parsed: Message, dialect: Dialect, calls: _LegacyCalls) -> Json:
    """The message itself where it can stay, else another."""
    new = {name: value for name, value in written.items() if value is not None}
    if written.get("role") == "developer" and not dialect.developer:
        new["role"] = "system"
    if isinstance(written.get("content"), list):
        new["content"] = _parts(written["content"], parsed, dialect)
    _mend_reasoning(new, dialect)
    if new.get("role") == "assistant":
        _mend_assistant(new, calls)
    elif new.get("role") == "function":
        new = {"role": "tool", "tool_call_id": calls.last, "content": new.get("content", "")}
    return written if new == written else new


def _mend_reasoning(new: Json, dialect: Dialect) -> None:
    """Earlier reasoning under the name that the engine reads, once."""
    given = [name for name in _REASONING if name in new]
    if not given or (dialect.reasoning is None and len(given) == 1):
        return
    text = new[given[0]]
    for name in given:
        del new[name]
    new[dialect.reasoning or given[0]] = text


def _mend_assistant(new: Json, calls: _LegacyCalls) -> None:
    if "function_call" in new:
        call = new.pop("function_call")
        new["tool_calls"] = [{"id": calls.new(), "type": "function", "function": call}]
    if not new.get("tool_calls"):
        new.pop("tool_calls", None)
        new.setdefault("content", new.get("refusal", ""))
        return
    new.setdefault("content", None)
    new["tool_calls"] = [_call(call) for call in new["tool_calls"]]


def _call(call: Json) -> Json:
    """Engines decode the arguments of earlier calls, and an empty string isn't JSON."""
    function = call["function"]
    if function.get("arguments"):
        return call
    return call | {"function": function | {"arguments": "{}"}}


# Parts ---------------------------------------------------------------------------------------------------------------


def _parts(written: list[Json], parsed: Message, dialect: Dialect) -> list[Json] | str:
    content: Any = parsed.content
    parts = [_part(old, new, dialect) for old, new in zip(written, content, strict=True)]
    if not dialect.joined_text or any(part.get("type") != "text" for part in parts):
        return parts
    return ("\n" if written and parsed.__struct_config__.tag == "user" else "").join(part["text"] for part in parts)


def _part(written: Json, parsed: Any, dialect: Dialect) -> Json:
    if isinstance(parsed, ImagePart):
        # Built anew: what else the client put there, an id of a cached image for instance, isn't the engine's to see.
        detail = {"detail": parsed.image_url.detail} if parsed.image_url.detail else {}
        return {"type": "image_url", "image_url": {"url": parsed.image_url.url, **detail}}
    if written.get("type") == "refusal" and not dialect.refusal_parts:
        return {"type": "text", "text": written["refusal"]}
    return written
