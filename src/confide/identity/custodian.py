"""Which identity is in use when: a new one in every epoch, the one before still honoured until it expires.

Epochs are counted from the Unix epoch, so that all workers and replicas with the same key source have the same keyset
at the same time without talking to each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from confide.identity.identity import Identity, Terms
from confide.identity.roles import KeySource

DAY: Final = 24 * 3600
DEFAULT_PERIOD: Final = 7 * DAY
MOST_PERIOD: Final = 90 * DAY
LEAST_PERIOD: Final = 60


class KeysetArchive(Protocol):
    """Where keysets stay retrievable for those who check old receipts."""

    async def keep_keyset(self, digest: str, document: bytes, not_after: int) -> None:
        """Keep a keyset; keeping it twice is fine."""
        ...


class Custodian:
    """Holds the current identity and, until they expire, the ones before. Start with :meth:`refresh`.

    Args:
        source: where keys come from.
        terms: what every keyset says besides its keys.
        archive: where a keyset is kept before anything is signed under it.
        clock: Unix time.
        period: seconds after which the keys change. A keyset expires two periods after its epoch began.
    """

    def __init__(
        self,
        source: KeySource,
        terms: Terms,
        archive: KeysetArchive,
        *,
        clock: Callable[[], float],
        period: int = DEFAULT_PERIOD,
    ) -> None:
        if not LEAST_PERIOD <= period <= MOST_PERIOD:
            raise ValueError(f"keys change every {LEAST_PERIOD} to {MOST_PERIOD} seconds, not every {period}")
        self._source = source
        self._terms = terms
        self._archive = archive
        self._clock = clock
        self._period = period
        self._identities: tuple[Identity, ...] = ()

    async def refresh(self) -> Identity:
        """Change to the identity of now, if it isn't in use yet. Call it at the start and then every few seconds.

        Raises:
            BadSecret: the source gave something that is no key.
            Exception: what the source or the archive raises. The identity before stays in use.
        """
        now = self._clock()
        epoch = int(now // self._period)
        if not self._identities or self._identities[0].epoch != epoch:
            new = await self._create(epoch)
            self._identities = (new, *(old for old in self._identities if old.epoch != epoch))
        self._identities = tuple(one for one in self._identities if one.keyset.not_after > now)
        return self.current

    async def _create(self, epoch: int) -> Identity:
        not_after = (epoch + 2) * self._period
        new = await Identity.create(self._source, self._terms, epoch=epoch, not_after=not_after)
        await self._archive.keep_keyset(new.digest, new.document, not_after)
        return new

    async def of_epoch(self, epoch: int) -> Identity:
        """The identity of an epoch, which may be over: for what belongs to it. It is neither attested nor kept.

        Raises:
            Exception: what the source raises.
        """
        for identity in self._identities:
            if identity.epoch == epoch:
                return identity
        return await Identity.create(self._source, self._terms, epoch=epoch, not_after=(epoch + 2) * self._period)

    @property
    def current(self) -> Identity:
        """The identity that signs and is attested."""
        return self._identities[0]

    @property
    def honoured(self) -> tuple[Identity, ...]:
        """Every identity whose encryption keys clients may still use; the current one first."""
        return self._identities
