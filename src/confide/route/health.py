"""Whether a replica gets requests: up, ejected for a while, or on trial. No I/O: the time and the chance are arguments.

::

    up --- failures in a row ---> ejected --- time is over, probe or not ---> trial --- it answers ---> up
                                     ^----------------- it fails ---------------'

What an attempt shows counts only where the replica has not been ejected since it began: of a hundred requests that fail
together the last few eject nobody again, and an answer that was begun before an ejection does not end it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from confide.errors import ConfigError

State = Literal["up", "ejected", "trial"]
Clock = Callable[[], float]
"""Seconds that never go back, as ``time.monotonic``."""
Chance = Callable[[], float]
"""From 0 to below 1, as ``random.random``."""

_MOST_DOUBLINGS = 64  # keeps the power finite


@dataclass(frozen=True, slots=True)
class ReplicaPolicy:
    """How replicas are chosen, given up and taken back. All times are in seconds.

    Args:
        margin: a conversation stays where its start is cached while that replica has no more than so many requests more
            than the one that has fewest.
        attempts: the most replicas that one request is tried on.
        retry_within: no attempt after the first begins later than this after the request came.
        failures: in a row, after which a replica is ejected.
        first_ejection: how long the first ejection lasts; each further one is twice as long.
        longest_ejection: the most that doubling leads to.
        jitter: ejections, and the time between two rounds of probes, are longer by up to this part, by chance, so that
            servers which lost a replica together don't come back to it together.
        probe_every: between two rounds of probes.
        probe_timeout: a probe that has no answer by then has failed.
    """

    margin: int = 8
    attempts: int = 3
    retry_within: float = 30.0
    failures: int = 3
    first_ejection: float = 1.0
    longest_ejection: float = 60.0
    jitter: float = 0.5
    probe_every: float = 5.0
    probe_timeout: float = 3.0

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: naming it.
        """
        least = {"margin": 0, "attempts": 1, "retry_within": 0, "failures": 1, "jitter": 0}
        for name, smallest in least.items():
            if not smallest <= getattr(self, name) < math.inf:
                raise ConfigError(f"replicas: {name} must be a number from {smallest} on")
        for name in ("first_ejection", "probe_every", "probe_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"replicas: {name} must be more than 0 seconds")
        if not self.first_ejection <= self.longest_ejection < math.inf:
            raise ConfigError("replicas: longest_ejection must not be shorter than first_ejection")


class Health:
    """What is known about one replica.

    Args:
        policy: the limits.
        clock: see :data:`Clock`.
        chance: see :data:`Chance`.
        probed: whether a probe decides if an ejection may end; else its time alone does.
    """

    def __init__(self, policy: ReplicaPolicy, clock: Clock, chance: Chance, *, probed: bool) -> None:
        self.probed = probed
        self.ejections = 0
        """Until now; attempts are known by it, see ``era``."""
        self._policy = policy
        self._clock = clock
        self._chance = chance
        self._state: State = "up"
        self._failures = 0  # in a row
        self._doublings = 0  # since the last whole answer
        self._until = 0.0

    @property
    def state(self) -> State:
        """How it stands now."""
        if self._state == "ejected" and not self.probed and self.wait <= 0:
            self._state = "trial"
        return self._state

    @property
    def wait(self) -> float:
        """Seconds until an ejection may end; 0 where there is none, or its time is over."""
        return max(0.0, self._until - self._clock()) if self._state == "ejected" else 0.0

    def accepted(self, era: int) -> None:
        """It began to answer: a trial is over, but one failure is enough now to eject it again.

        Args:
            era: the value of :attr:`ejections` when the attempt began.
        """
        if era == self.ejections and self._state == "trial":
            self._state = "up"
            self._failures = self._policy.failures - 1

    def answered(self, era: int) -> None:
        """It answered to the end: what was before is forgotten."""
        if era == self.ejections and self._state == "up":
            self._failures = self._doublings = 0

    def failed(self, era: int) -> bool:
        """An attempt failed, or a probe of a replica that is not ejected; whether that has ejected it."""
        if era != self.ejections or self.state == "ejected":
            return False
        self._failures += 1
        if self._state == "up" and self._failures < self._policy.failures:
            return False
        self._state = "ejected"
        self.ejections += 1
        self._back_off()
        return True

    def probe_passed(self) -> bool:
        """It says that it is well; whether that has ended an ejection. Of one that is up it says nothing new."""
        if self._state != "ejected" or self.wait > 0:
            return False
        self._state = "trial"
        return True

    def probe_failed(self, era: int) -> bool:
        """It doesn't say that it is well: an ejection goes on for longer; else it is a failure like any other."""
        if self._state == "ejected" and era == self.ejections and self.wait <= 0:
            self._back_off()
            return False
        return self.failed(era)

    def _back_off(self) -> None:
        policy = self._policy
        doubled = policy.first_ejection * 2.0 ** min(self._doublings, _MOST_DOUBLINGS)
        self._until = self._clock() + min(doubled, policy.longest_ejection) * (1 + policy.jitter * self._chance())
        self._doublings += 1
