"""Keys that a thread reads: how old they may be."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from confide.errors import StoreError
from confide.store.keys import KeyRecord, KeyRing, digest_of
from confide.store.watch import WatchedKeys


class Clock:
    """Monotonic seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Store:
    """Keys of a store that can break, and counts how often it is asked."""

    def __init__(self) -> None:
        self.keys = {digest_of("k"): KeyRecord("key_1", "n", 0)}
        self.version = 1
        self.asked = 0
        self.read = 0
        self.failure: Exception | None = None

    def data_version(self) -> int:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return self.version

    def digests(self) -> dict[bytes, KeyRecord]:
        self.read += 1
        return dict(self.keys)


def soon(true: Callable[[], bool]) -> None:
    """Wait for what a thread does."""
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.001)


def asked_again(store: Store) -> None:
    """Wait until a question that begins after now was answered."""
    asked = store.asked
    soon(lambda: store.asked >= asked + 2)


def test_a_change_is_seen_and_nothing_is_read_without_one() -> None:
    store = Store()
    with WatchedKeys(store, poll=0.001) as watched:
        ring = KeyRing(watched, max_age=0)
        assert ring.find("k") is not None
        asked_again(store)
        assert store.read == 1
        store.keys.clear()
        store.version += 1
        soon(lambda: ring.find("k") is None)
        assert store.read == 2


def test_an_answer_counts_from_when_it_was_asked_for_and_not_for_long() -> None:
    store, clock = Store(), Clock()
    with WatchedKeys(store, poll=0.001, most_age=2.0, clock=clock) as watched:
        ring = KeyRing(watched, max_age=0)
        store.failure = StoreError("the store is down")
        asked_again(store)
        clock.now += 2.0
        assert ring.find("k") is not None
        clock.now += 0.1
        for _ in range(2):
            with pytest.raises(StoreError, match="the store is down"):
                ring.find("k")
        store.failure = None
        asked_again(store)
        assert ring.find("k") is not None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_broke_lets_nobody_in() -> None:
    store, clock = Store(), Clock()
    with WatchedKeys(store, poll=0.001, clock=clock) as watched:
        store.failure = RuntimeError("a bug")
        soon(lambda: not watched._thread.is_alive())
        clock.now += 2.1
        with pytest.raises(StoreError, match="for too long"):
            watched.data_version()


def test_a_store_that_is_down_at_the_start_is_told_at_once() -> None:
    store = Store()
    store.failure = StoreError("the store is down")
    with pytest.raises(StoreError, match="is down"):
        WatchedKeys(store)


def test_closing_ends_the_thread() -> None:
    store = Store()
    watched = WatchedKeys(store, poll=0.001)
    watched.close()
    watched.close()
    asked = store.asked
    time.sleep(0.02)
    assert store.asked == asked
