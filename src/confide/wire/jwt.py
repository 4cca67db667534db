"""JSON Web Tokens in compact form: text to values. Well-formed only; who signed is for others to check.

Source: RFC 7515, sections 3 and 7.1; RFC 7519. Header and claims are read as strictly as our own documents, so that no
two readers can understand a token differently.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

from confide.wire import jcs
from confide.wire.binary import MalformedEvidence

MOST_CHARACTERS: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Jwt:
    """A token: its text, what its header and claims say, the bytes that are signed, and the signature."""

    text: str
    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


def parse_jwt(text: str, what: str = "token") -> Jwt:
    """The token in this text.

    Raises:
        MalformedEvidence: it is none, or a long one.
    """
    if len(text) > MOST_CHARACTERS:
        raise MalformedEvidence(f"{what} is longer than {MOST_CHARACTERS} characters")
    parts = text.split(".")
    if len(parts) != 3:
        raise MalformedEvidence(f"{what} has {len(parts)} parts, expected 3")
    header, claims, signature = (unbase64url(part, what) for part in parts)
    signed = f"{parts[0]}.{parts[1]}".encode()
    return Jwt(text, _members(header, what), _members(claims, what), signed, signature)


def unbase64url(text: str, what: str) -> bytes:
    """Bytes from base64url without padding, in its one spelling (RFC 7515, section 2).

    Raises:
        MalformedEvidence: it is something else.
    """
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise MalformedEvidence(f"{what} is not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text.encode():
        raise MalformedEvidence(f"{what} is not base64url in its one spelling")
    return data


def _members(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = jcs.parse(data)
    except jcs.InvalidJson as wrong:
        raise MalformedEvidence(f"{what}: {wrong}") from None
    if not isinstance(value, dict):
        raise MalformedEvidence(f"{what} holds no JSON object")
    return value
