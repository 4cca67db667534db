"""Keys of a store that is reached over a network: a thread reads them, so that no request waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from confide.errors import StoreError
from confide.store.base import Closing
from confide.store.keys import KeyRecord, Keys

POLL_SECONDS: Final = 0.5
MOST_AGE: Final = 2.0
"""How long, in seconds, a key may still be taken after it was revoked elsewhere, whatever happens to the store."""


class WatchedKeys(Closing):
    """As the store of keys itself, but from memory.

    Args:
        store: asked at once, and then by a thread until :meth:`close`.
        poll: seconds between two questions.
        most_age: seconds after which an answer counts for nothing.
        clock: monotonic seconds.

    Raises:
        StoreError: the store can't be used.
    """

    def __init__(
        self,
        store: Keys,
        *,
        poll: float = POLL_SECONDS,
        most_age: float = MOST_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._poll = poll
        self._most_age = most_age
        self._clock = clock
        self._as_of = clock()
        self._version = store.data_version()
        self._digests = store.digests()
        self._reason = "the keys were not read for too long"
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="confide-keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; the store stays open."""
        self._ending.set()
        self._thread.join()

    def data_version(self) -> int:
        """What the store has said last.

        Raises:
            StoreError: that was too long ago.
        """
        if self._clock() - self._as_of > self._most_age:
            raise StoreError(self._reason)
        return self._version

    def digests(self) -> dict[bytes, KeyRecord]:
        """The active keys, by digest, at least as new as the version that was told."""
        return self._digests

    def _watch(self) -> None:
        while not self._ending.wait(self._poll):
            asked = self._clock()
            try:
                version = self._store.data_version()
                if version != self._version:
                    self._digests = self._store.digests()
                    self._version = version
                self._as_of = asked
            except StoreError as failed:
                self._reason = str(failed)
