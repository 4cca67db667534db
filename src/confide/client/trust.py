"""What is trusted at this moment, shared by every client of one service: read by all, changed in one place."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import httpx

from confide.client.address import Address
from confide.client.errors import KeysetChanged, Lapsed, MustVerifyAgain, ProofFailed
from confide.verify.bundle import Exchange
from confide.verify.context import Context
from confide.verify.saved import Established, SavedReport
from confide.verify.verdict import Finding, Verdict
from confide.wire.aci import PublicKey
from confide.wire.receipt import Receipt

KEYSET_HEADER: Final = "x-aci-keyset-digest"
_RETRY_HEADER: Final = "x-stainless-retry-count"
"""What OpenAI's SDKs send; older ones retry after every exception."""
_MOST_FAILURES: Final = 256
_MOST_SESSIONS: Final = 32


@dataclass(frozen=True, slots=True)
class Standing:
    """One verification and what follows from it. ``seal_key`` is what requests are encrypted to, None where they are
    not; ``context`` has the time of the verification."""

    address: Address
    service: str
    saved: SavedReport
    context: Context
    verdict: Verdict
    established: Established
    seal_key: PublicKey | None

    @property
    def tls_keys(self) -> frozenset[str]:
        """The keys that the service's host may show; none where TLS does not end in the workload."""
        keyset = self.established.keyset
        if keyset is not None:
            return keyset.tls_keys_for(self.address.host)
        spki = None if self.saved.channel is None else self.saved.channel.tls_spki_sha256
        return frozenset() if spki is None or not self._has_attested(spki) else frozenset({spki})

    def _has_attested(self, spki: str) -> bool:
        """On the older surface: whether the evidence binds the key that was seen. Where nothing is sealed it does, or
        the verdict would not be good."""
        listed = self.verdict.facts.get("attestations", ())
        return self.seal_key is None or any(one.get("tls_key") == spki for one in listed)

    def at(self, now: float) -> Context:
        """The context of a later check."""
        return replace(self.context, now=int(now))


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer whose proof was found good. ``receipt`` is None on the older surface."""

    id: str
    model: str | None
    sealed: bool
    receipt: Receipt | None
    findings: tuple[Finding, ...]


Keep = Callable[[Exchange], None]
OnReceipt = Callable[[Checked], None]


class Trust:
    """The current standing, until something shows that it counts no longer. Safe to use from several threads."""

    def __init__(self, standing: Standing, *, clock: Callable[[], float] = time.time, keep: Keep | None = None) -> None:
        self.clock: Final = clock
        self.keep: Final = keep
        self.on_receipt: OnReceipt | None = None
        self._lock = threading.Lock()
        self._standing = standing
        self._ended: MustVerifyAgain | None = None
        self._failures: OrderedDict[str, ProofFailed] = OrderedDict()
        self._sessions: OrderedDict[str, bytes] = OrderedDict()

    @property
    def latest(self) -> Standing:
        """The last verification, whether it still counts or not."""
        with self._lock:
            return self._standing

    def current(self) -> Standing:
        """What may be relied on now.

        Raises:
            MustVerifyAgain: nothing.
        """
        with self._lock:
            keyset = self._standing.established.keyset
            if self._ended is None and keyset is not None and self.clock() >= keyset.not_after:
                self._ended = Lapsed(keyset.not_after)
            if self._ended is not None:
                raise self._ended.with_traceback(None)
            return self._standing

    def renew(self, standing: Standing) -> None:
        """Go on from a new verification."""
        with self._lock:
            self._standing = standing
            self._ended = None

    def saw(self, standing: Standing, headers: httpx.Headers) -> None:
        """Compare the keyset that an answer names with the one that its request relied on.

        Raises:
            KeysetChanged: it is another; from now on everything is refused.
        """
        expected, found = standing.established.keyset_digest, headers.get(KEYSET_HEADER)
        if found is None or expected is None or found == expected:
            return
        changed = KeysetChanged(found, expected)
        with self._lock:
            if self._standing is standing:
                self._ended = self._ended or changed
        raise changed

    # Failures --------------------------------------------------------------------------------------------------------

    def failed(self, body_digest: str, failure: ProofFailed) -> None:
        """Remember that the answer to a body had no good proof."""
        with self._lock:
            self._failures[body_digest] = failure
            while len(self._failures) > _MOST_FAILURES:
                self._failures.popitem(last=False)

    def refuse_repetition(self, body_digest: str, headers: httpx.Headers) -> None:
        """A program that sends a prompt again by itself, after its answer had no good proof, is told the failure again.

        Raises:
            ProofFailed: of the first time.
        """
        if headers.get(_RETRY_HEADER, "0") == "0":
            return
        with self._lock:
            failure = self._failures.get(body_digest)
        if failure is not None:
            raise failure.with_traceback(None)

    # Sessions --------------------------------------------------------------------------------------------------------

    def session(self, id: str) -> bytes | None:
        """A session's document that was fetched before; its id is its digest, so it can't be another one."""
        with self._lock:
            return self._sessions.get(id)

    def keep_session(self, id: str, document: bytes) -> None:
        """Keep one for the receipts to come."""
        with self._lock:
            self._sessions[id] = document
            while len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
