"""What the tests of sealing share."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import Any

from tests.seal.opinion import CHAT, NOW, SERVICE, K, X
from tests.seal.vectors import FOLDER

from confide.seal import aci_v2, legacy
from confide.seal.client import ResponseOpener, SealedCall
from confide.seal.headers import Offer, negotiate
from confide.seal.service import OpenedRequest
from confide.seal.terms import ServiceKey

OFFER = Offer(
    aci=tuple(aci_v2.service_key(algo, bytes.fromhex(SERVICE[algo])) for algo in (X, K)),
    legacy=(
        legacy.service_key("ecdsa", bytes.fromhex(SERVICE["ecdsa"])),
        legacy.service_key("ed25519", bytes.fromhex(SERVICE["ed25519"])),
    ),
)
KEYS: dict[str, ServiceKey] = {key.suite.name: key for key in (*OFFER.aci, *OFFER.legacy)}
PROTOCOLS = [(X, "2"), (K, "2"), ("ecdsa", "1"), ("ecdsa", "2"), ("ed25519", "1"), ("ed25519", "2")]
"""Every suite and version that is spoken."""


class Marks:
    """A memory of replays, in a dictionary."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def add(self, nonce: str, expires: int) -> bool:
        new = nonce not in self.seen
        self.seen.setdefault(nonce, expires)
        return new


def load(name: str) -> list[dict[str, Any]]:
    """The vectors of a file, of which there are some."""
    vectors = json.loads((FOLDER / name).read_text())
    assert vectors
    return list(vectors)


def call(body: object, algo: str, version: str, path: str = CHAT) -> SealedCall:
    """A request sealed by our client."""
    text = json.dumps(body).encode()
    public = KEYS[algo].identity.hex()
    if algo in (X, K):
        return aci_v2.seal_request(text, path, algo, public, NOW)
    assert algo in ("ecdsa", "ed25519")
    return legacy.seal_request(text, algo, public, NOW, version="1" if version == "1" else "2")  # type: ignore[arg-type]


def receive(sealed: SealedCall, path: str = CHAT) -> OpenedRequest:
    """The same request, opened by our server."""
    session = negotiate(sealed.headers.items(), OFFER, path, NOW)
    assert session is not None
    return session.open(sealed.body).claim(Marks())


def exchange(algo: str, version: str, path: str = CHAT, body: object = None) -> tuple[OpenedRequest, ResponseOpener]:
    """A request, as the server has it and as its client waits for the answer."""
    sealed = call(body or {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}, algo, version, path)
    return receive(sealed, path), sealed.opener


def counting() -> Callable[[int], bytes]:
    """Bytes that are different every time, and the same in every run."""
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size)


def pieces(data: bytes, size: int) -> list[bytes]:
    """The data in pieces of one size, 0 for all of it in one."""
    return [data] if not size else [data[at : at + size] for at in range(0, len(data), size)]
