"""Walking through the sealed fields of a request: both ways, in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confide.seal import jsontext
from confide.seal.errors import BadBlob, CannotSeal
from confide.seal.fields import Parts, Path

OpenText = Callable[[Path, str], str]
SealText = Callable[[Path, str], str]


# The server's way ----------------------------------------------------------------------------------------------------


def open_fields(member: str, body: dict[str, Any], parts: Parts, open_text: OpenText) -> int:
    """Open every field in place, and say how many there were. A listed field that isn't sealed is an error.

    Raises:
        BadBlob: a field that can't be opened, or holds something that isn't a string.
        BadJson: an opened array that is too wide.
    """
    if member != "messages":
        return _open_strings(member, body, open_text)
    messages = body.get("messages")
    opened = 0
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            opened += _open_content(message, ("messages", index, "content"), parts, open_text)
    return opened


def _open_strings(member: str, body: dict[str, Any], open_text: OpenText) -> int:
    value = body.get(member)
    if isinstance(value, str):
        body[member] = open_text((member,), value)
        return 1
    entries = value if isinstance(value, list) else []
    sealed = [place for place, entry in enumerate(entries) if isinstance(entry, str)]
    for place in sealed:
        entries[place] = open_text((member, place), entries[place])
    return len(sealed)


def _open_content(message: dict[str, Any], path: Path, parts: Parts, open_text: OpenText) -> int:
    content = message.get("content")
    if isinstance(content, str):
        text = open_text(path, content)
        array = jsontext.array_in(text)
        message["content"] = text if array is None else array
        return 1
    return sum(
        _open_part(part, (*path, place), parts, open_text)
        for place, part in enumerate(content if isinstance(content, list) else ())
        if isinstance(part, dict)
    )


def _open_part(part: dict[str, Any], path: Path, parts: Parts, open_text: OpenText) -> int:
    kind = part.get("type")
    names = parts.get(kind) if isinstance(kind, str) else None
    if names is None:
        return 0
    holder: Any = part
    for name in names[:-1]:
        holder = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(holder, dict) or not isinstance(holder.get(names[-1]), str):
        raise BadBlob("not a string")
    holder[names[-1]] = open_text((*path, *names), holder[names[-1]])
    return 1


# The client's way ----------------------------------------------------------------------------------------------------


def seal_fields(member: str, body: dict[str, Any], seal_text: SealText) -> dict[str, Any]:
    """A copy with every field sealed, contents as a whole so that not even the kinds of their parts show.

    Where a string is the JSON of an array, the receiver would restore an array; so ``body`` itself is changed to say
    the same as a list with one text part. Afterwards it is what the receiver restores.

    Raises:
        CannotSeal: no content, or content that would stay readable.
    """
    sealed = dict(body)
    value = body.get(member)
    if member == "messages" and isinstance(value, list):
        sealed[member] = [_seal_message(message, index, seal_text) for index, message in enumerate(value)]
        done = sealed[member] != value
    elif isinstance(value, list):
        sealed[member] = [_seal_entry(entry, (member, place), seal_text) for place, entry in enumerate(value)]
        done = bool(value)
    elif done := member != "messages" and isinstance(value, str):
        sealed[member] = seal_text((member,), value)
    if not done:
        raise CannotSeal(f"The request has no {member} that can be encrypted.")
    return sealed


def _seal_entry(entry: object, path: Path, seal_text: SealText) -> str:
    if not isinstance(entry, str):
        raise CannotSeal("Token ids can't be encrypted; send the text.")
    return seal_text(path, entry)


def _seal_message(message: Any, index: int, seal_text: SealText) -> Any:
    if not isinstance(message, dict) or message.get("content") is None:
        return message
    if isinstance(message["content"], str) and jsontext.array_in(message["content"]) is not None:
        message["content"] = [{"type": "text", "text": message["content"]}]
    content = message["content"]
    if not isinstance(content, str | list):
        raise CannotSeal(f"messages[{index}].content is neither a string nor a list.")
    text = content if isinstance(content, str) else jsontext.encode(content).decode()
    return {**message, "content": seal_text(("messages", index, "content"), text)}
