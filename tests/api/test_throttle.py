"""The turns of clients that ask for reports."""

from __future__ import annotations

import pytest

from confide.api.attestation import Throttle
from confide.errors import TooManyRequests


def test_each_client_has_its_own_turns() -> None:
    now = [0.0]
    throttle = Throttle(rate=2, burst=3, most=2, clock=lambda: now[0])
    for _ in range(3):
        throttle.take("a")
    with pytest.raises(TooManyRequests):
        throttle.take("a")
    throttle.take("b")
    now[0] = 0.5
    throttle.take("a")
    with pytest.raises(TooManyRequests) as refused:
        throttle.take("a")
    assert refused.value.headers["Retry-After"] == "1"


def test_refused_turns_cost_nothing_and_clients_are_forgotten_beyond_a_number() -> None:
    now = [0.0]
    throttle = Throttle(rate=1, burst=1, most=2, clock=lambda: now[0])
    throttle.take("a")
    for _ in range(50):
        with pytest.raises(TooManyRequests):
            throttle.take("a")
    now[0] = 1.0
    throttle.take("a")
    throttle.take("b")
    throttle.take("c")
    throttle.take("a")  # forgotten, so that it begins anew
