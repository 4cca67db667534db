"""The constrained decoder, driven from Python over single bytes.

The engine embeds the same library; its Python package must be of the same version, or it
would accept what the engine drops. Nothing is built when the module is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

END = 256


class _Bytes:
    """A vocabulary of 256 bytes and an end mark, in the shape that the library's wrapper asks for."""

    eos_token_id = END
    bos_token_id = None
    special_token_ids: Sequence[int] = (END,)
    tokens: Sequence[bytes] = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@cache
def _tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=END + 1, slices=[])


class DecoderError(ValueError):
    """The grammar doesn't compile, or is too complex to follow."""


class Decoder:
    """A compiled grammar that can be asked, byte by byte, what may come next."""

    def __init__(self, grammar: str, limits: LLParserLimits | None = None) -> None:
        self._start = LLMatcher(_tokenizer(), grammar, log_level=0, limits=limits)
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
        """The bytes that may come next; :data:`END` is among them where the text may end."""
        mask = self._matcher.compute_logit_bias()
        if self._matcher.is_error():
            raise DecoderError(self._matcher.get_error())
        return [token for token in range(END + 1) if mask[token]]

    def take(self, byte: int) -> None:
        """Append one byte that :meth:`allowed` listed."""
        if not self._matcher.consume_token(byte):
            raise DecoderError(self._matcher.get_error())
