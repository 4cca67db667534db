"""Every target with some thousand damaged inputs. ``make fuzz`` does the same for hours, with feedback."""

from __future__ import annotations

import os
import random
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import damaged
from tests.fuzz.targets import Target, corpus, targets

RUNS = int(os.environ.get("CONFIDE_FUZZ_RUNS", "1500"))
ALL = [pytest.param(target, id=name) for name, target in targets().items()]


@pytest.mark.parametrize("target", ALL)
def test_seeds_are_worth_beginning_with(target: Target) -> None:
    assert any(target(seed) for seed in corpus(target)), (
        "no seed is accepted, so damage would only test the first check"
    )


@pytest.mark.parametrize("target", ALL)
def test_damaged_seeds_give_a_value_or_our_exception(target: Target) -> None:
    source = random.Random(zlib.crc32(target.name.encode()))
    seeds = corpus(target)
    for _ in range(target.runs or RUNS):
        target(damaged(source.choice(seeds), source))


@pytest.mark.parametrize("target", ALL)
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=300))
def test_any_bytes_give_a_value_or_our_exception(target: Target, data: bytes) -> None:
    target(data)
