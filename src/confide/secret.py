"""Secrets in settings: shown nowhere by accident, and files that hold one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from confide.errors import ConfigError

_LONGEST: Final = 4096


class Secret:
    """A text that no ``repr``, log line or error shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "Secret(…)"

    def reveal(self) -> str:
        """The text."""
        return self._text


def one_line(path: Path, what: str) -> str:
    """The word that a file holds.

    Args:
        path: the file.
        what: what it should be, for the error.

    Raises:
        ConfigError: the file can't be read, or doesn't hold one word of at most 4096 letters.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(_LONGEST + 1).decode("ascii").strip()
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        text = ""
    if not text or len(text) > _LONGEST or not text.isprintable() or " " in text:
        raise ConfigError(f"{path}: expected {what}, one line of ASCII")
    return text
