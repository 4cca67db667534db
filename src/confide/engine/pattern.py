"""Regular expressions of JSON schemas, rewritten into the subset that the constrained decoder takes.

The language accepted is the part that ECMA-262, Python and the decoder read alike. Where they differ (``\\D``,
``\\W``, ``\\S``, ``.``) the rewritten pattern is the narrower reading, so that every string it allows matches under
all three.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

from confide.engine.decoder import Decoder

MAX_CHARS = 2048
MAX_SIZE = 3000
MAX_GROUPS = 64
MAX_REPEAT = 1000

_OUTSIDE = {
    "d": "[0-9]",
    "w": "[0-9A-Za-z_]",
    "s": r"[ \t\n\r\x0b\x0c]",
    "D": r"[^\p{Nd}]",
    "W": r"[^\p{L}\p{M}\p{N}\p{Pc}]",
    "S": r"[^\p{Z}\p{C}]",
}
_INSIDE = {
    "d": "0-9",
    "w": "0-9A-Za-z_",
    "s": r" \t\n\r\x0b\x0c",
    "D": r"\P{Nd}",
    "W": r"[^\p{L}\p{M}\p{N}\p{Pc}]",
    "S": r"[^\p{Z}\p{C}]",
}
_INSIDE_NEGATED = {"d": r"\p{Nd}", "w": r"\p{L}\p{M}\p{N}\p{Pc}", "s": r"\p{Z}\p{C}"}
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_DOT = r"[^\n\r\x{2028}\x{2029}]"
_QUANTIFIER = re.compile(r"\*|\+|\?|\{(\d{1,6})(?:(,)(\d{1,6})?)?\}")
_GROUP = re.compile(r"\((?:\?:|\?P?<[A-Za-z_]\w{0,63}>)?(?!\?)", re.ASCII)
_PROPERTY = re.compile(r"[pP]\{[A-Za-z_=]{1,40}\}")

# Patterns with look-around that a widespread generator emits, and a narrower form without.
_KNOWN = {
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$": (
        r"^[A-Za-z0-9_+\-]+(?:\.[A-Za-z0-9_+\-]+)*@(?:[A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
    ),
}


class PatternError(ValueError):
    """The pattern can't be honoured; the text says why, as the end of a sentence."""


@lru_cache(maxsize=256)
def translate(pattern: str) -> str:
    """Return the decoder's form of ``pattern``, as unanchored as it was; raise :class:`PatternError`."""
    pattern = _KNOWN.get(pattern, pattern)
    if len(pattern) > MAX_CHARS:
        raise PatternError(f"the pattern is longer than {MAX_CHARS} characters")
    reader = _Reader(pattern)
    out, _ = reader.alternatives()
    if reader.at < len(pattern):
        raise PatternError("the pattern has an unbalanced ')'")
    return out


class _Reader:
    """One pass over a pattern. Each method returns the rewritten text and its size after repetition."""

    def __init__(self, pattern: str) -> None:
        self.text = pattern
        self.at = 0
        self.groups = 0

    def alternatives(self) -> tuple[str, int]:
        branches = [self.sequence()]
        while self.peek() == "|":
            self.at += 1
            branches.append(self.sequence())
        return "|".join(text for text, _ in branches), self.bounded(sum(size for _, size in branches))

    def sequence(self) -> tuple[str, int]:
        texts: list[str] = []
        total = 0
        while self.peek() not in ("", "|", ")"):
            text, size = self.repeated()
            texts.append(text)
            total = self.bounded(total + size)
        return "".join(texts), total

    def repeated(self) -> tuple[str, int]:
        if _QUANTIFIER.match(self.text, self.at):
            raise PatternError("the pattern repeats nothing")
        text, size = self.atom()
        found = _QUANTIFIER.match(self.text, self.at)
        if found is None:
            return text, size
        if text in ("^", "$"):
            raise PatternError("the pattern repeats an anchor")
        self.at = found.end()
        times, suffix = _times(found)
        if self.peek() == "?":
            self.at += 1
        if self.peek() == "+" or _QUANTIFIER.match(self.text, self.at):
            raise PatternError("the pattern repeats a repetition")
        return text + suffix, self.bounded(max(size, 1) * times)

    def atom(self) -> tuple[str, int]:
        char = self.peek()
        if char == "(":
            return self.group()
        if char == "[":
            return self.char_class(), 1
        self.at += 1
        if char in "^$":
            return char, 0
        if char == ".":
            return _DOT, 1
        if char == "\\":
            return self.escape(_OUTSIDE), 1
        return _literal(char), 1

    def group(self) -> tuple[str, int]:
        opening = _GROUP.match(self.text, self.at)
        if opening is None:
            raise PatternError("the pattern uses look-around, flags or another kind of group that is not supported")
        self.groups += 1
        if self.groups > MAX_GROUPS:
            raise PatternError(f"the pattern has more than {MAX_GROUPS} groups")
        self.at = opening.end()
        text, size = self.alternatives()
        if self.peek() != ")":
            raise PatternError("the pattern has an unbalanced '('")
        self.at += 1
        return f"(?:{text})", size

    def char_class(self) -> str:
        self.at += 1
        negated = self.peek() == "^"
        self.at += negated
        if self.peek() == "]":
            raise PatternError("the pattern has an empty character class")
        shorthands = _INSIDE_NEGATED if negated else _INSIDE
        items: list[str] = []
        while self.peek() != "]":
            items.append(self.class_item(shorthands))
        self.at += 1
        return f"[{'^' if negated else ''}{''.join(items)}]"

    def class_item(self, shorthands: dict[str, str]) -> str:
        low = self.class_char(shorthands)
        if self.text[self.at : self.at + 1] != "-" or self.text[self.at + 1 : self.at + 2] in ("]", ""):
            return low
        self.at += 1
        high = self.class_char(shorthands)
        if not (_is_char(low) and _is_char(high)) or _code(low) > _code(high):
            raise PatternError("the pattern has a bad range in a character class")
        return f"{low}-{high}"

    def class_char(self, shorthands: dict[str, str]) -> str:
        char = self.peek()
        if char == "":
            raise PatternError("the pattern has an unbalanced '['")
        self.at += 1
        if char == "\\":
            return self.escape(shorthands)
        return _literal(char)

    def escape(self, shorthands: dict[str, str]) -> str:
        char = self.peek()
        self.at += 1
        if char in shorthands:
            return shorthands[char]
        if char in ("x", "u"):
            return self.hexadecimal(2 if char == "x" else 4)
        if char in ("p", "P"):
            return self.unicode_property()
        if char in _CONTROL and not (char == "0" and self.peek().isdigit()):
            return _literal(_CONTROL[char])
        if char == "" or char.isalnum():
            raise PatternError(f"the pattern uses \\{char or ' at its end'}, which is not supported")
        return _literal(char)

    def hexadecimal(self, digits: int) -> str:
        text = self.text[self.at : self.at + digits]
        if not re.fullmatch(f"[0-9A-Fa-f]{{{digits}}}", text) or 0xD800 <= int(text, 16) <= 0xDFFF:
            raise PatternError("the pattern has a bad hexadecimal escape")
        self.at += digits
        return _literal(chr(int(text, 16)))

    def unicode_property(self) -> str:
        found = _PROPERTY.match(self.text, self.at - 1)
        if found is None:
            raise PatternError("the pattern has a bad \\p{…}")
        self.at = found.end()
        return "\\" + found.group()

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def bounded(self, size: int) -> int:
        if size > MAX_SIZE:
            raise PatternError("the pattern is too large once its repetitions are written out")
        return size


def _times(found: re.Match[str]) -> tuple[int, str]:
    """How often the longest form repeats, and the quantifier in the decoder's form."""
    if found.group(1) is None:
        return 1, found.group()
    low = int(found.group(1))
    high = int(found.group(3)) if found.group(3) else low
    if high < low:
        raise PatternError("the pattern has a repetition whose maximum is below its minimum")
    if max(low, high) > MAX_REPEAT:
        raise PatternError(f"the pattern repeats more than {MAX_REPEAT} times")
    return max(low, high, 1), found.group()


def _literal(char: str) -> str:
    if char.isascii() and char.isalnum():
        return char
    if 0xD800 <= ord(char) <= 0xDFFF:
        raise PatternError("the pattern has an unpaired surrogate")
    return f"\\x{{{ord(char):x}}}"


def _is_char(text: str) -> bool:
    return len(text) == 1 or text.startswith("\\x{")


def _code(text: str) -> int:
    return ord(text) if len(text) == 1 else int(text[3:-1], 16)


def string_grammar(translated: str) -> str:
    """A grammar of the JSON strings that a translated pattern allows."""
    return "%llguidance {}\nstart: %json " + json.dumps({"type": "string", "pattern": translated})


def matches(pattern: str, text: str) -> bool:
    """Whether ``text`` matches, in time linear in its length (Python's own matcher is not)."""
    quoted = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    return _decoder(translate(pattern)).accepts(quoted.encode("utf-8", "surrogatepass"))


@lru_cache(maxsize=64)
def _decoder(translated: str) -> Decoder:
    return Decoder(string_grammar(translated))
