"""What client and server have agreed on for one request, whichever version of the protocol it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from confide.seal.curves import Curve, PrivateKey, Randomness
from confide.seal.ecies import Sealer, Suite
from confide.seal.fields import Endpoint, Parts, Path

WINDOW: Final = 300
"""How many seconds a timestamp may differ from this machine's clock; both generations say the same."""

NOT_APPLIED: Final = {"X-E2EE-Applied": "false"}
"""The response headers of a request that isn't encrypted."""


@dataclass(frozen=True, slots=True)
class Head:
    """The members of an answer, or of one chunk, that its fields are bound to."""

    id: str
    model: str


class Binding(Protocol):
    """The associated data of every field: what it can't be moved away from."""

    def allows(self, model: str) -> bool:
        """Whether fields can be bound to a model of this name."""
        ...

    def request(self, model: str, path: Path) -> bytes | None:
        """For a field of the request."""
        ...

    def response(self, model: str, head: Head, path: Path) -> bytes | None:
        """For a field of the answer; ``model`` is the request's."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """A version of the protocol, applied to one request.

    ``new_key_per_field``: a key pair seals one field only. ``hashes_wire``: the request that receipts and signatures
    hash is the encrypted one, as it was read, and not the restored one.
    """

    version: str
    algo: str
    suite: Suite
    endpoint: Endpoint
    binding: Binding
    parts: Parts
    new_key_per_field: bool
    hashes_wire: bool

    @property
    def response_headers(self) -> dict[str, str]:
        """What the answer says about its encryption."""
        return {"X-E2EE-Applied": "true", "X-E2EE-Version": self.version, "X-E2EE-Algo": self.algo}


class KeyPairs:
    """The new key pairs that seal one message: one for each field, or one for all of them."""

    def __init__(self, terms: Terms, recipient: bytes, random: Randomness) -> None:
        self._terms = terms
        self._recipient = recipient
        self._random = random
        self._kept: Sealer | None = None

    def next(self) -> Sealer:
        """What seals the next field.

        Raises:
            BadKey: nothing can be sealed for this recipient.
        """
        if self._kept is None or self._terms.new_key_per_field:
            self._kept = Sealer(self._terms.suite, self._recipient, self._random)
        return self._kept


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """A key of this service that clients encrypt to; ``identity`` is how :meth:`Curve.read` reads it in a header."""

    suite: Suite
    private: PrivateKey
    identity: bytes

    @property
    def curve(self) -> Curve:
        """Where it lies."""
        return self.suite.curve


# Replays -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplayMark:
    """What must be remembered of a request until ``expires`` (Unix seconds), so that it is answered once."""

    nonce: str
    expires: int


class ReplayMarks(Protocol):
    """The memory for that; shared by all replicas that share a key."""

    def add(self, nonce: str, expires: int) -> bool:
        """Remember; whether it was new. One of two callers at the same time gets True.

        Raises:
            Exception: the memory isn't there. Then nothing is known about the request, and it fails.
        """
        ...
