"""Who asks: bearer keys, or nobody in particular on a loopback server without them."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from confide.errors import ApiError, Unauthorized


class Key(Protocol):
    """An API key that is known."""

    @property
    def id(self) -> str:
        """Public, stable, free of secrets."""
        ...

    @property
    def require_e2ee(self) -> bool:
        """Whether it takes sealed requests only."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``tenant``: whose caches may be used; ``owner``: who may fetch the receipt, None for anybody."""

    tenant: str
    owner: str | None
    require_e2ee: bool = False


FindKey = Callable[[str], Key | None]

_LOOPBACK_HOST: Final = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True, slots=True)
class _Bearer:
    id: str = "token"
    require_e2ee: bool = False


class Token:
    """One secret in place of a table of keys."""

    def __init__(self, token: str) -> None:
        self._digest = hashlib.sha256(token.encode()).digest()

    def find(self, presented: str) -> Key | None:
        """Whoever presents it is let in."""
        digest = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).digest()
        return _Bearer() if hmac.compare_digest(digest, self._digest) else None


class Doorman:
    """Says whose request it is. ``find`` None means that keys are off."""

    def __init__(self, find: FindKey | None) -> None:
        self._find = find

    def caller(self, headers: Mapping[str, str], key_header: str | None = None) -> Caller:
        """Who bears the key of this request.

        Args:
            headers: of the request.
            key_header: where the key may stand as it is, if there is no ``Authorization``.

        Raises:
            Unauthorized: no key, or not one of ours.
        """
        if self._find is None:
            self._check_host(headers)
            return Caller("local", None)
        presented = _presented(headers, key_header)
        if not presented:
            raise Unauthorized(
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
                headers=_CHALLENGE,
            )
        key = self._find(presented)
        if key is None:
            raise Unauthorized("Incorrect API key provided.", code="invalid_api_key", headers=_CHALLENGE)
        return Caller(key.id, key.id, key.require_e2ee)

    @staticmethod
    def _check_host(headers: Mapping[str, str]) -> None:
        """Without keys, a web page whose name was re-bound to 127.0.0.1 must not get in."""
        if not _LOOPBACK_HOST.fullmatch(headers.get("host", "localhost")):
            raise ApiError(
                "This server runs without API keys and answers only to requests for localhost.",
                status=403,
                type="invalid_request_error",
            )


def _presented(headers: Mapping[str, str], key_header: str | None) -> str:
    """The key, or an empty text."""
    authorization = headers.get("authorization")
    if authorization is None and key_header is not None:
        return headers.get(key_header, "").strip()
    scheme, _, presented = (authorization or "").partition(" ")
    return presented.strip() if scheme.lower() == "bearer" else ""
