"""Does one tenant's prompt cache serve another? Measured from outside, as a tenant who wants to know would.

A text of random words is new to everybody. One tenant asks with it (*new*), asks again (*same*), and then the other
tenant asks with it (*other*). Where *other* looks like *same*, whoever guesses a prompt can find out that it was asked.
Each round has a new text, and the tenants change places. What decides:

1. **By counts**, where the service tells ``usage.prompt_tokens_details.cached_tokens``: one *other* with :data:`LEAK`
   of the prompt more than any *new* is enough for "not isolated". Without any it is "isolated" where *same* shows that
   hits are counted (the median has at least :data:`SEEN` of the prompt more than any *new*).
2. **By times** to the first token, else. The limit lies midway between the medians of *new* and *same*. The cache can
   be seen where the median of *same* is at most :data:`FASTER` of that of *new*, and at least three quarters of *same*
   and at most one quarter of *new* are below the limit. Then: half of *other* below it is "not isolated"; no larger
   part than of *new* is "isolated".
3. Anything else is **inconclusive**: a cache that can't be seen shows nothing, and neither do counts and times that
   contradict each other.

A service with several replicas may send the tenants to different ones, where no cache of the other's can be met: a leak
is then seen in some of the rounds only, so more rounds are needed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Literal

import httpx
import msgspec

from confide.cli.files import UsageError
from confide.client.address import Address
from confide.client.pinning import plain_context
from confide.seal.events import EventReader
from confide.verify.fetch.base import Refused, Unreachable, get
from confide.verify.verdict import bounded

Kind = Literal["new", "same", "other"]
KINDS: Final[tuple[Kind, ...]] = ("new", "same", "other")
Outcome = Literal["isolated", "not isolated", "inconclusive"]

SEEN: Final = 0.5
"""Of the prompt's tokens."""
LEAK: Final = 0.1
"""Of the prompt's tokens."""
FASTER: Final = 0.7
"""Of the time for a new text."""
LEAST_ROUNDS: Final = 4
"""Fewer times than that are no sample."""

_MOST_BYTES: Final = 4 * 2**20
_MOST_EVENT: Final = 2**20
_SYLLABLES: Final = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: seconds until the first token, and the prompt's tokens and those of them that were cached.

    The counts are None where the service doesn't tell them.
    """

    seconds: float
    prompt: int | None = None
    cached: int | None = None

    @property
    def share(self) -> float | None:
        """The part of the prompt that was cached, from 0 to 1."""
        return min(1.0, self.cached / self.prompt) if self.prompt and self.cached is not None else None


Samples = Mapping[Kind, Sequence[Sample]]


# What it means --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found, what decided, and the figures in a sentence."""

    outcome: Outcome
    by: Literal["counts", "times", "nothing"]
    reason: str


def judge(samples: Samples) -> Judgement:
    """What the requests show, by the rules above. There is at least one of each kind."""
    counts, times = _by_counts(samples), _by_times(samples)
    if counts is None:
        return times
    if counts.outcome == "isolated" and times.outcome == "not isolated":
        return Judgement("inconclusive", "nothing", f"the counts say isolated, but the times don't: {times.reason}")
    return counts


def _by_counts(samples: Samples) -> Judgement | None:
    shares = {kind: [sample.share for sample in samples[kind]] for kind in KINDS}
    if any(share is None for kind in KINDS for share in shares[kind]):
        return None
    told = {kind: [share for share in shares[kind] if share is not None] for kind in KINDS}
    usual, same, other = max(told["new"]), median(told["same"]), told["other"]
    leaks = [share for share in other if share >= usual + LEAK]
    if leaks:
        return Judgement(
            "not isolated",
            "counts",
            f"in {len(leaks)} of {len(other)} rounds the other tenant was served up to {max(leaks):.0%} of the prompt "
            f"from the cache; a new prompt never more than {usual:.0%}",
        )
    if same < usual + SEEN:
        return None
    return Judgement(
        "isolated",
        "counts",
        f"the same tenant was served {same:.0%} of the prompt from the cache, the other one at most {max(other):.0%}; "
        f"a new prompt at most {usual:.0%}",
    )


def _by_times(samples: Samples) -> Judgement:
    times = {kind: [sample.seconds for sample in samples[kind]] for kind in KINDS}
    new, same = median(times["new"]), median(times["same"])
    limit = (new + same) / 2
    below = {kind: sum(one < limit for one in times[kind]) / len(times[kind]) for kind in KINDS}
    if len(times["other"]) < LEAST_ROUNDS:
        return Judgement("inconclusive", "nothing", f"by times it takes at least {LEAST_ROUNDS} rounds")
    if same > FASTER * new or below["same"] < 0.75 or below["new"] > 0.25:
        return Judgement(
            "inconclusive", "nothing", "no cache can be seen: the same tenant was not clearly served faster again"
        )
    figures = (
        f"{below['other']:.0%} of the other tenant's requests were faster than {limit * 1000:.0f} ms, "
        f"{below['same']:.0%} of the same tenant's and {below['new']:.0%} of those with a new text"
    )
    if below["other"] >= 0.5:
        return Judgement("not isolated", "times", figures)
    if below["other"] <= below["new"]:
        return Judgement("isolated", "times", figures)
    return Judgement("inconclusive", "nothing", f"{figures}; more rounds may tell")


# How it is measured ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """A service, the keys of two tenants there, and how it is asked. ``timeout`` is in seconds, for one request."""

    address: Address
    keys: tuple[str, str] = field(repr=False)
    words: int = 400
    timeout: float = 120.0

    def client(self, tenant: int) -> httpx.Client:
        """A client with one tenant's key.

        On this machine a TLS certificate is not checked; elsewhere there must be one that is good, as keys are sent.

        Raises:
            UsageError: the keys would be sent in clear over a network.
        """
        if not self.address.is_tls and not self.address.is_loopback:
            raise UsageError(f"{self.address.origin} has no TLS: the keys would be sent in clear")
        return httpx.Client(
            base_url=self.address.base_url,
            headers={"Authorization": f"Bearer {self.keys[tenant]}", "Accept-Encoding": "identity"},
            verify=plain_context(webpki=not self.address.is_loopback) if self.address.is_tls else False,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(self.timeout, connect=10.0),
        )


def first_model(target: Target) -> str:
    """The id of the first model that the service lists.

    Raises:
        Unreachable, Refused: it doesn't answer, or lists none.
    """
    with target.client(0) as client:
        found = _decoded(get(client, f"{target.address.base_url}/models", most=_MOST_BYTES).body)
    data = found.get("data")
    first = data[0] if isinstance(data, list) and data else None
    if not isinstance(first, dict) or not isinstance(first.get("id"), str):
        raise Refused(f"{target.address.host} lists no model; name one with --model")
    return str(first["id"])


def measure(
    target: Target,
    model: str,
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    tell: Callable[[int], None] = lambda number: None,
) -> dict[Kind, list[Sample]]:
    """Ask, one request after the other.

    Args:
        target: the service and the keys.
        model: its id.
        rounds: each asks twice with a new text, once each as the same and as the other tenant.
        clock: seconds.
        tell: is called with the number of each round, from 1, before it begins.

    Raises:
        Unreachable, Refused: the service doesn't answer, or says no.
        UsageError: the keys would be sent in clear over a network.
    """
    chance = random.SystemRandom()
    samples: dict[Kind, list[Sample]] = {kind: [] for kind in KINDS}
    with target.client(0) as first, target.client(1) as second:
        askers = [_Asker(client, model, target.timeout, clock) for client in (first, second)]
        for asker in askers:
            asker.ask(_conversation(chance, "yes"))  # connects, and wakes up what sleeps
        for number in range(rounds):
            tell(number + 1)
            owner, other = askers[number % 2], askers[1 - number % 2]
            text, unseen = (" ".join(_word(chance) for _ in range(target.words)) for _ in range(2))
            samples["new"] += [other.ask(_conversation(chance, unseen)), owner.ask(_conversation(chance, text))]
            samples["same"].append(owner.ask(_conversation(chance, text)))
            samples["other"].append(other.ask(_conversation(chance, text)))
    return samples


def _word(chance: random.Random) -> str:
    return "".join(chance.choices(_SYLLABLES, k=3))


def _conversation(chance: random.Random, text: str) -> list[dict[str, str]]:
    """Turns of a conversation, so that a service which keeps those at one replica does so here, and no two requests
    are the same, so that one which keeps whole answers doesn't."""
    return [
        {"role": "user", "content": f"{text}\nRemember these words."},
        {"role": "assistant", "content": "I will."},
        {"role": "user", "content": f"Say {_word(chance)}."},
    ]


@dataclass(frozen=True, slots=True)
class _Asker:
    client: httpx.Client
    model: str
    timeout: float
    clock: Callable[[], float]

    def ask(self, messages: Sequence[Mapping[str, str]]) -> Sample:
        """One request, read to its end."""
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": 2,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        host = self.client.base_url.host
        try:
            start = self.clock()
            with self.client.stream("POST", "chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    raise Refused(f"{host} answered {answer.status_code}{_complaint(answer)}")
                return self._read(answer, start)
        except httpx.HTTPError as failed:
            raise Unreachable(f"{host} can't be reached: {str(failed) or type(failed).__name__}") from failed
        except ValueError as wrong:
            raise Refused(f"{host} sent no stream of events that can be read: {wrong}") from None

    def _read(self, answer: httpx.Response, start: float) -> Sample:
        events, size, until = EventReader(_MOST_EVENT), 0, time.monotonic() + self.timeout
        first: float | None = None
        usage: dict[str, Any] = {}
        for data in answer.iter_raw():
            size += len(data)
            if size > _MOST_BYTES or time.monotonic() > until:
                raise ValueError("it doesn't end")
            for event in events.feed(data):
                chunk = {} if event.data is None or event.is_done else _decoded(event.data)
                if chunk.get("error") is not None:
                    raise Refused(f"{self.client.base_url.host} failed in the midst of an answer{_words(chunk)}")
                if first is None and _says_something(chunk):
                    first = self.clock() - start
                usage = chunk["usage"] if isinstance(chunk.get("usage"), dict) else usage
        if first is None:
            raise ValueError("it says nothing")
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        return Sample(first, _count(usage.get("prompt_tokens")), _count(cached))


def _decoded(data: bytes) -> dict[str, Any]:
    """An object; an empty one for anything else."""
    try:
        value: Any = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _says_something(chunk: Mapping[str, Any]) -> bool:
    """Whether it has text, or ends a choice. The role comes before the prompt was read, so it says nothing."""
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta")
        said = delta if isinstance(delta, dict) else {}
        if choice.get("finish_reason") or any(said.get(name) for name in ("content", "reasoning_content", "reasoning")):
            return True
    return False


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _complaint(answer: httpx.Response) -> str:
    """The message of an error, bounded."""
    body = bytearray()
    for data in answer.iter_raw():
        body += data
        if len(body) > _MOST_EVENT:
            return ""
    return _words(_decoded(bytes(body)))


def _words(body: Mapping[str, Any]) -> str:
    error = body.get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return f": {bounded(message)}" if isinstance(message, str) else ""
