"""Which encryption a request asks for, if any: decided from its headers alone, before a byte of the body is read.

The order of the steps:

1. No header of any generation: the request isn't encrypted.
2. The endpoint has sealed fields, or the request is refused.
3. Headers of a variant that isn't spoken here: refused, rather than half understood.
4. ``X-Signing-Algo``: the older protocol (:mod:`confide.seal.legacy`). Otherwise ACI's (:mod:`confide.seal.aci_v2`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from confide.seal import aci_v2, legacy
from confide.seal.errors import InvalidVersion, UnsupportedEndpoint
from confide.seal.fields import ENDPOINTS
from confide.seal.service import Session
from confide.seal.terms import ServiceKey

FOREIGN: Final = ("x-encryption-version", "x-encrypt-all-fields")
"""What clients of NEAR's proxy send. It shares headers with the older protocol, but not its ciphertexts."""

KNOWN: Final = frozenset({*aci_v2.HEADERS, *legacy.KEY_HEADERS, *FOREIGN})


@dataclass(frozen=True, slots=True)
class Offer:
    """What this service decrypts: with which keys, and which versions of the older protocol."""

    aci: tuple[ServiceKey, ...] = ()
    legacy: tuple[ServiceKey, ...] = ()
    legacy_versions: frozenset[str] = frozenset({"1", "2"})


def negotiate(headers: Iterable[tuple[str, str]], offer: Offer, path: str, now: float) -> Session | None:
    """Check everything that the headers say about encryption.

    Args:
        headers: names, in any case, and values. A name that comes twice gets both values, as HTTP has it, so that it
            fails where only one makes sense.
        offer: what this service decrypts.
        path: the endpoint.
        now: Unix time.

    Returns:
        What opens the body, or None when the request isn't encrypted.

    Raises:
        SealError: what is wrong.
    """
    found = _collect(headers)
    if not found:
        return None
    if path not in ENDPOINTS:
        raise UnsupportedEndpoint
    if any(name in found for name in FOREIGN):
        raise InvalidVersion("X-Encryption-Version and X-Encrypt-All-Fields are not supported here.")
    if "x-signing-algo" in found:
        if not offer.legacy:
            raise InvalidVersion
        return legacy.accept(found, offer.legacy, offer.legacy_versions, ENDPOINTS[path], now)
    if not offer.aci:
        raise InvalidVersion
    return aci_v2.accept(found, offer.aci, ENDPOINTS[path], now)


def _collect(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in KNOWN:
            found[lower] = f"{found[lower]}, {value}" if lower in found else value
    return found
