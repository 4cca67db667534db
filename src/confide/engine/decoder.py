"""The constrained decoder, driven from Python over single bytes.

The engine embeds the same library; its Python package must be of the same version, or it
would accept what the engine drops. Nothing is built when the module is imported.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cache

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

END = 256


class _Vocabulary:
    """256 bytes, an end mark and further tokens, in the shape that the library's wrapper asks for."""

    eos_token_id = END
    bos_token_id = None
    special_token_ids: Sequence[int] = (END,)

    def __init__(self, more: Sequence[bytes] = ()) -> None:
        self.tokens: Sequence[bytes] = (*(bytes([byte]) for byte in range(256)), b"<end>", *more)

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def _made_up_tokens() -> Iterator[bytes]:
    """Tokens that explore a grammar as widely as a real vocabulary does."""
    printable = [chr(code) for code in range(0x20, 0x7F)]
    yield from ((one + two).encode() for one in printable for two in printable)
    yield from (f"{number:03}".encode() for number in range(1000))
    yield from (chr(code).encode() for code in (*range(0xA0, 0x250), *range(0x400, 0x480), *range(0x4E00, 0x4F00)))
    rng = random.Random(1)  # noqa: S311 - no secret depends on it
    for length in (*range(3, 12), 16, 24, 32):
        for _ in range(600):
            yield (
                rng.choice(("", " ")) + "".join(rng.choices("etaoinshrdlucmfwyp" * 3 + "ABCx_09.-", k=length))
            ).encode()


@cache
def _tokenizer(wide: bool) -> LLTokenizer:
    vocabulary = _Vocabulary(list(dict.fromkeys(_made_up_tokens())) if wide else ())
    return LLTokenizer(TokenizerWrapper(vocabulary), n_vocab=len(vocabulary.tokens), slices=None if wide else [])


class DecoderError(ValueError):
    """The grammar doesn't compile, or is too complex to follow."""


class Decoder:
    """A compiled grammar that can be asked, token by token, what may come next.

    A token is a byte; with ``wide`` it may also be one of many made-up words, as with a real vocabulary.
    """

    def __init__(self, grammar: str, limits: LLParserLimits | None = None, *, wide: bool = False) -> None:
        self._start = LLMatcher(_tokenizer(wide), grammar, log_level=0, limits=limits)
        self._raise_if_broken(self._start)

    def accepts(self, text: bytes) -> bool:
        """Whether the grammar allows exactly this text."""
        matcher = self._start.deep_copy()
        done = matcher.try_consume_tokens(list(text))
        self._raise_if_broken(matcher)
        return done == len(text) and matcher.is_accepting()

    def walk(self) -> Walk:
        """A walk from the start."""
        return Walk(self._start.deep_copy())

    @staticmethod
    def _raise_if_broken(matcher: LLMatcher) -> None:
        if matcher.is_error():
            raise DecoderError(matcher.get_error())


class Walk:
    """One text in the making."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self) -> list[int]:
        """The tokens that may come next; :data:`END` is among them where the text may end."""
        mask = self._matcher.compute_logit_bias()
        if self._matcher.is_error():
            raise DecoderError(self._matcher.get_error())
        return [token for token, bias in enumerate(mask) if bias]

    def take(self, token: int) -> None:
        """Append one token that :meth:`allowed` listed."""
        if not self._matcher.consume_token(token):
            raise DecoderError(self._matcher.get_error())
