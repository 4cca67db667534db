"""Several engines that serve one model, as one engine.

A request goes to the replica whose cache has the start of its conversation (:mod:`confide.route.affinity`), unless that
one is much busier than another; then to the least busy one. While nothing of an answer has been seen, a failure that
says nothing about the request sends it to another replica; afterwards it never does, since what the client has read
can't be taken back. Who fails again and again is left alone for a while (:mod:`confide.route.health`).

A request that breaks engines is tried on a few of them only, and one failure ejects none that was well before.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from confide.engine.base import Call, ChatCall, Engine, EngineInfo, Reply, go_straight, last_event
from confide.errors import ApiError, ConfigError, EngineFailed, TooManyRequests, Unavailable
from confide.route.affinity import affinity_key, ranking
from confide.route.health import Chance, Clock, Health, ReplicaPolicy, State
from confide.route.shared import common
from confide.wire.answers import Usage

log = logging.getLogger(__name__)

SHORTEST_SECRET: Final = 16
"""Bytes."""

_RETRIED: Final = (EngineFailed, Unavailable, TooManyRequests)
_BROKEN: Final = (EngineFailed, Unavailable)
Ask = Callable[[Engine], Awaitable[Reply]]
_TELLING: Final = (TooManyRequests, Unavailable, EngineFailed)
"""Which of several failures the client is told: the one that gives most hope."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One engine and its name, which is its own and stays the same: its address, for instance. It is told to nobody.

    An engine that has a coroutine method ``healthy() -> bool`` is probed with it.
    """

    engine: Engine
    name: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What may be told of one replica: nothing of any request, and no address. ``number`` counts from 0."""

    number: int
    state: State
    outstanding: int
    accepted: int
    failures: int
    ejections: int


class Replicas:
    """:class:`~confide.engine.base.Engine` over several. For use from one event loop."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        *,
        secret: bytes,
        policy: ReplicaPolicy | None = None,
        clock: Clock,
        random: Chance,
    ) -> None:
        """Take them over; :meth:`close` closes them.

        Args:
            replicas: at least one. They serve the same weights: that is the operator's promise, and the manifest's to
                prove.
            secret: for the hashes of conversations; the same in all processes that share the engines.
            policy: how they are chosen, given up and taken back.
            clock: ``time.monotonic``, but for tests.
            random: ``random.random``, but for tests.

        Raises:
            ConfigError: there are none, two have one name, or they differ in what one model has once.
        """
        self._policy = policy or ReplicaPolicy()
        self._policy.check()
        if len(secret) < SHORTEST_SECRET:
            raise ConfigError(f"replicas: the secret must have at least {SHORTEST_SECRET} bytes")
        self._names = [replica.name for replica in replicas]
        if len(set(self._names)) != len(self._names):
            raise ConfigError("replicas: two of one model have the same address")
        self._info = common([replica.engine.info for replica in replicas])
        self._members = [_Member(number, one, self._policy, clock, random) for number, one in enumerate(replicas)]
        self._secret = secret
        self._clock = clock
        self._random = random
        self._prober: asyncio.Task[None] | None = None
        self._closed = False
        self.retries = 0
        """Attempts beyond the first of a request, until now."""

    @property
    def info(self) -> EngineInfo:
        """What all of them have."""
        return self._info

    async def chat(self, call: ChatCall) -> Reply:
        """Find a replica that accepts the request.

        Raises:
            ApiError: as the replica said; of several that failed, what gives most hope.
            Unavailable: none is up (503 with ``Retry-After``), or this is closed.
        """
        return await self._first(call, lambda engine: engine.chat(call))

    async def infer(self, call: Call[Any]) -> Reply:
        """The same for a request of another endpoint."""
        return await self._first(call, lambda engine: engine.infer(call))

    async def _first(self, call: Call[Any], ask: Ask) -> Reply:
        ranks = ranking(affinity_key(self._secret, call), self._names)
        until = self._clock() + self._policy.retry_within
        failures: list[ApiError] = []
        tried: set[int] = set()
        while not failures or (len(tried) < self._policy.attempts and self._clock() < until):
            member = self._choose(ranks, tried)
            if member is None:
                break
            self.retries += bool(failures)
            tried.add(member.number)
            try:
                return await member.attempt(ask)
            except _RETRIED as failure:
                failures.append(failure)
        raise min(failures, key=_hope) if failures else self._nobody()

    def _choose(self, ranks: Sequence[int], tried: set[int]) -> _Member | None:
        """The preferred one if it isn't much busier than another, else the least busy one, preferred ones first."""
        ready = [self._members[index] for index in ranks if index not in tried]
        ready = [] if self._closed else _taking_requests(ready)
        if not ready:
            return None
        least = min(ready, key=lambda member: member.outstanding)
        return ready[0] if ready[0].outstanding <= least.outstanding + self._policy.margin else least

    def _nobody(self) -> Unavailable:
        if self._closed:
            return Unavailable("The server is stopping. Please try again shortly.", headers={"Retry-After": "5"})
        wait = max(1, math.ceil(min(member.health.wait for member in self._members)))
        return Unavailable("The model is not available now. Please try again.", headers={"Retry-After": str(wait)})

    @property
    def outstanding(self) -> int:
        """Requests under way at all of them."""
        return sum(member.outstanding for member in self._members)

    def snapshot(self) -> tuple[ReplicaState, ...]:
        """How the replicas stand, in their order; for logs and metrics."""
        return tuple(member.told() for member in self._members)

    # Health ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to probe, in the running loop. Engines with ``healthy()`` come back from an ejection only so."""
        if self._prober is None and not self._closed:
            self._prober = asyncio.create_task(self._probe_for_ever())

    async def _probe_for_ever(self) -> None:
        tick = min(self._policy.first_ejection, self._policy.probe_every)
        while True:
            await asyncio.sleep(tick * (1 + self._policy.jitter * self._random()))
            await self.probe()

    async def probe(self) -> None:
        """One round: those whose ejection may end, and those that were not asked for a while, all at once."""
        await asyncio.gather(*(member.probe() for member in self._members if member.probe_is_due))

    async def close(self) -> None:
        """Stop probing and close every engine. Safe to call twice; what one engine raises doesn't save the others."""
        if self._closed:
            return
        self._closed = True
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
        closed = await asyncio.gather(*(member.engine.close() for member in self._members), return_exceptions=True)
        for outcome in closed:
            if isinstance(outcome, BaseException):
                raise outcome


def _hope(failure: ApiError) -> int:
    return next(place for place, kind in enumerate(_TELLING) if isinstance(failure, kind))


def _taking_requests(members: Sequence[_Member]) -> list[_Member]:
    """Those that are up, and those on trial that nobody is trying: one request is enough to find out.

    Where there are none, those on trial that passed a probe take all: better than to turn everybody away.
    """
    ready = [one for one in members if one.health.state == "up" or (one.on_trial and not one.is_tried)]
    return ready or [one for one in members if one.on_trial and one.health.probed]


class _Member:
    """One replica, what it has to do and how it does."""

    def __init__(self, number: int, replica: Replica, policy: ReplicaPolicy, clock: Clock, random: Chance) -> None:
        self.number = number
        self.engine = replica.engine
        self.under_way: set[_Attempt] = set()
        self.accepted = 0
        self.failures = 0
        self._policy = policy
        self._clock = clock
        self._healthy: Callable[[], Awaitable[bool]] | None = getattr(replica.engine, "healthy", None)
        self._asked = clock()
        self.health = Health(policy, clock, random, probed=self._healthy is not None)

    @property
    def outstanding(self) -> int:
        return len(self.under_way)

    @property
    def on_trial(self) -> bool:
        return self.health.state == "trial"

    @property
    def is_tried(self) -> bool:
        """Whether a request is under way that began after the last ejection; older ones may hang for long."""
        return any(attempt.era == self.health.ejections for attempt in self.under_way)

    def told(self) -> ReplicaState:
        return ReplicaState(
            self.number, self.health.state, self.outstanding, self.accepted, self.failures, self.health.ejections
        )

    async def attempt(self, ask: Ask) -> Reply:
        """Count it from here on, until it is refused, cancelled, or its reply ends or is closed."""
        attempt = _Attempt(self)
        with ExitStack() as unless_accepted:
            unless_accepted.callback(attempt.release)
            try:
                reply = await ask(self.engine)
            except ApiError as error:
                attempt.refused(error)
                raise
            unless_accepted.pop_all()
        attempt.accepted()
        return _CountedReply(reply, attempt)

    # Probes ----------------------------------------------------------------------------------------------------------

    @property
    def probe_is_due(self) -> bool:
        if self._healthy is None:
            return False
        if self.health.state == "ejected":
            return self.health.wait <= 0
        return self._clock() - self._asked >= self._policy.probe_every

    async def probe(self) -> None:
        era, self._asked = self.health.ejections, self._clock()
        if await self._is_well():
            if self.health.probe_passed():
                self._log("a replica is back")
        elif self.health.probe_failed(era):
            self._log("a replica was ejected", "probe")

    async def _is_well(self) -> bool:
        """Whatever a probe raises means that it failed: it must not end the probing of the others."""
        assert self._healthy is not None
        asked = asyncio.ensure_future(self._healthy())
        try:
            await asyncio.wait({asked}, timeout=self._policy.probe_timeout)
        finally:
            asked.cancel()
        (outcome,) = await asyncio.gather(asked, return_exceptions=True)
        return outcome is True

    def failed(self, era: int, reason: str) -> None:
        self.failures += 1
        if self.health.failed(era):
            self._log("a replica was ejected", reason)

    def _log(self, text: str, reason: str = "") -> None:
        log.warning(text, extra={"what": f"replica {self.number}"} | ({"reason": reason} if reason else {}))


class _Attempt:
    """One request at one replica, counted until it is over."""

    def __init__(self, member: _Member) -> None:
        self._member = member
        self.era = member.health.ejections
        member.under_way.add(self)

    def release(self) -> None:
        """It is over, however. Safe to call again."""
        self._member.under_way.discard(self)

    def accepted(self) -> None:
        self._member.accepted += 1
        self._member.health.accepted(self.era)

    def answered(self) -> None:
        self._member.health.answered(self.era)
        self.release()

    def refused(self, error: ApiError) -> None:
        """Before the answer or in its midst. To say what is wrong with a request, or that there is no room, takes an
        engine that works."""
        if isinstance(error, _BROKEN):
            self._member.failed(self.era, type(error).__name__)
        else:
            self._member.health.accepted(self.era)
        self.release()


class _CountedReply:
    """:class:`~confide.engine.base.Reply` of a replica, which says how it ended."""

    def __init__(self, reply: Reply, attempt: _Attempt) -> None:
        self._reply = reply
        self._attempt = attempt
        self._pieces: AsyncIterator[bytes] | None = None

    @property
    def usage(self) -> Usage:
        return self._reply.usage

    @property
    def forwarded(self) -> str | None:
        """Digest of the bytes that were sent to the engine, where it tells."""
        told: str | None = getattr(self._reply, "forwarded", None)
        return told

    @property
    def last(self) -> bytes:
        """The event that ends its stream."""
        return last_event(self._reply)

    def straight(self, write: Callable[[bytes], bool]) -> None:
        """A shorter way for its events."""
        go_straight(self._reply, write)

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._pieces = aiter(self._reply)
        return self

    async def __anext__(self) -> bytes:
        assert self._pieces is not None
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            self._attempt.answered()
            raise
        except ApiError as error:
            self._attempt.refused(error)
            raise

    async def aclose(self) -> None:
        try:
            await self._reply.aclose()
        finally:
            self._attempt.release()
