"""Chunks that differ from the one before in nothing but their text: most of a stream, and all that is fast about it.

An engine writes the same bytes around each piece of text. Once a chunk was decoded, judged and found right, what stands
before and after its text is remembered; the next bytes that begin and end with just these, and hold one JSON string in
between, are the same JSON value but for that string, so that the judgement holds for them too, and needs no decoding.
Whatever looks different is decoded and judged as ever.
"""

from __future__ import annotations

from typing import Final

import msgspec

_MARK: Final = b'"content":"'
_LONGEST: Final = 64 * 1024
_text: Final = msgspec.json.Decoder(str)
_NO_TEXT: Final = (msgspec.MsgspecError, UnicodeDecodeError)


class Lookalike:
    """What stands around the text of a chunk that was found right."""

    __slots__ = ("_after", "_before", "_between")

    def __init__(self) -> None:
        self._before = b""
        self._after = b""
        self._between = b""

    def learn(self, raw: bytes, text: str) -> None:
        """Take a chunk that passes unchanged, with the text of its only choice.

        Args:
            raw: the whole event, ``data: `` and the blank line included.
            text: what the chunk's ``content`` was decoded to, not empty.
        """
        self._before = self._after = b""
        begin = raw.find(_MARK) + len(_MARK)
        written = msgspec.json.encode(text)[1:]  # as engines write it, or it isn't found
        if begin < len(_MARK) or raw.count(_MARK) != 1 or not raw.startswith(written, begin):
            return
        self._before, self._after = raw[:begin], raw[begin + len(written) - 1 :]
        self._between = self._after + self._before

    def texts(self, data: bytes) -> list[str]:
        """The texts of these bytes, if they are whole events that differ in their text only, and each has some; else
        nothing."""
        before, after = self._before, self._after
        if not before or len(data) > _LONGEST or not (data.startswith(before) and data.endswith(after)):
            return []
        try:
            text = _text.decode(data[len(before) - 1 : 1 - len(after)])  # with the marks around it
        except _NO_TEXT:
            return self._several(data)
        return [text] if text else []

    def _several(self, data: bytes) -> list[str]:
        """The same where it isn't one event; taken apart at what stands between two texts."""
        try:
            texts = [
                _text.decode(b'"%b"' % one) for one in data[len(self._before) : -len(self._after)].split(self._between)
            ]
        except _NO_TEXT:
            return []
        return texts if all(texts) else []
