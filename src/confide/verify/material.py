"""What vendors sign and a verifier needs beside the evidence: collateral, certificates, CRLs, RIMs, tokens, keys.

Signatures and dates make the carrier irrelevant, so an item may be stapled to a report, lie in a bundle or a cache, or
come from the network; ``source`` says which, and verification says it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["tdx-collateral", "amd-certificate", "amd-crl", "nvidia-rim", "nras-token", "jwks", "dstack-image"]
Source = Literal["stapled", "bundle", "cache", "network", "given"]
MOST_ITEMS: Final = 128
MOST_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """One signed artefact as it came. ``key`` says what it is for, in the words of its kind (an FMSPC, a RIM id)."""

    kind: Kind
    key: str
    data: bytes
    source: Source = "given"


@dataclass(frozen=True, slots=True)
class Material:
    """Everything at hand, in the order in which it is tried. More than :data:`MOST_ITEMS` are not looked at."""

    items: tuple[Item, ...] = ()

    def plus(self, items: Iterable[Item]) -> Material:
        """The same with more, which are tried later."""
        return Material((*self.items, *items)[:MOST_ITEMS])

    def of(self, kind: Kind, key: str | None = None) -> tuple[Item, ...]:
        """The items of a kind that are not too long, for one key or all of them."""
        return tuple(
            item
            for item in self.items
            if item.kind == kind and key in (None, item.key) and len(item.data) <= MOST_BYTES
        )
