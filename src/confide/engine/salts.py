"""What keeps one tenant's cached prompts from another: a salt that an engine mixes into the hashes of its prefix cache.

Source: vLLM and SGLang, request member ``cache_salt``: prompts share cached blocks only where their salts are equal, so
nobody can find out by timing what somebody else has asked. A client could guess a salt that it may choose, or one that
is derived without a key; ours are neither.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

SHORTEST_SECRET: Final = 16
"""Bytes; fewer could be tried out by whoever knows one tenant and its salt."""

_PURPOSE: Final = b"confide/cache-salt/1\0"


def cache_salt(secret: bytes, tenant: str) -> str:
    """The salt of one tenant.

    Args:
        secret: known to this server only, and the same for all replicas of it that share engines.
        tenant: whose caches may be shared with the request, as :class:`~confide.engine.base.ChatCall` has it.

    Returns:
        43 characters of the URL-safe base64 alphabet (RFC 4648, section 5) without padding. vLLM 0.32 takes up to 128,
        and none of ``@``, ``/``, ``\\`` and NUL.

    Raises:
        ValueError: the secret is shorter than :data:`SHORTEST_SECRET`.
    """
    if len(secret) < SHORTEST_SECRET:
        raise ValueError(f"a secret of at least {SHORTEST_SECRET} bytes")
    digest = hmac.digest(secret, _PURPOSE + tenant.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
