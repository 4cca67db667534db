"""Where an engine listens: a URL, or a unix socket.

Written ``http://host:port/v1``, ``https://host/v1``, ``unix:/path`` or ``unix:/path:/v1``; the last part is the path
under which the engine has its OpenAI routes. No error repeats the address: a person who misplaces a key in it would
find it in a log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from confide.errors import ConfigError

DEFAULT_PATH: Final = "/v1"

_FORMS: Final = "expected http://HOST:PORT/v1, https://HOST/v1 or unix:/PATH"


@dataclass(frozen=True, slots=True)
class Address:
    """``base_url`` is what routes are added to, without a slash at its end; ``uds`` the socket's path, or None."""

    base_url: str
    uds: str | None = None

    @property
    def root_url(self) -> str:
        """What an engine's own routes are added to, those that aren't OpenAI's: :attr:`base_url` without ``/v1``."""
        return self.base_url.removesuffix(DEFAULT_PATH)

    @property
    def encrypted(self) -> bool:
        """Whether TLS protects the way, or there is no way: a socket stays on this machine."""
        return self.uds is not None or self.base_url.startswith("https:")


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        ConfigError: it isn't one; the text says what is wrong with it, and doesn't repeat it.
    """
    if text.startswith("unix:"):
        return _socket(text.removeprefix("unix:"))
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ConfigError(f"an engine's address is not a URL: {_FORMS}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"an engine's address has an unknown form: {_FORMS}")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("an engine's address holds a name or password; give the engine's key as 'api_key'")
    if parts.query or parts.fragment or _has_blanks(text) or port == 0:
        raise ConfigError(f"an engine's address holds more than a host, a port and a path: {_FORMS}")
    return Address(f"{parts.scheme}://{parts.netloc}{_path(parts.path)}")


def _socket(text: str) -> Address:
    path, colon, route = text.partition(":")
    if not path.startswith("/") or _has_blanks(route) or "\0" in path or (colon and not route.startswith("/")):
        raise ConfigError("an engine's socket has an unknown form: expected unix:/PATH or unix:/PATH:/v1")
    if len(path.encode("utf-8", "surrogatepass")) > _LONGEST_SOCKET:
        raise ConfigError(
            f"the path of an engine's socket is longer than {_LONGEST_SOCKET} bytes, more than Linux takes"
        )
    return Address(f"http://localhost{_path(route)}", path)


_LONGEST_SOCKET: Final = 107
"""Bytes: ``sun_path`` of unix(7) has 108, of which one ends it."""


def _path(path: str) -> str:
    return path.rstrip("/") or DEFAULT_PATH


def _has_blanks(text: str) -> bool:
    return any(character.isspace() or not character.isprintable() for character in text)
