"""dstack's event log: real ones replay to the registers of their quotes, and a forged payload does not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.wire import eventlog, tdx
from confide.wire.binary import MalformedEvidence
from confide.wire.eventlog import RUNTIME_EVENT, Event

VECTORS = Path(__file__).parent.parent / "vectors" / "evidence" / "dstack"
REAL = sorted(VECTORS.glob("getquote_*.json"))
boot_events = st.builds(
    Event,
    st.integers(0, 3),
    st.integers(0, 2**32 - 1).filter(lambda kind: kind != RUNTIME_EVENT),
    st.binary(min_size=48, max_size=48),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(max_size=50),
)
runtime_events = st.builds(
    Event,
    st.integers(0, 3),
    st.just(RUNTIME_EVENT),
    st.none() | st.binary(min_size=48, max_size=48),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(max_size=50),
    st.sampled_from([1, 2]),
)
logs = st.lists(boot_events | runtime_events).map(tuple)


def read(path: Path) -> tuple[tdx.Quote, tuple[Event, ...]]:
    """The quote and the log of a recorded answer."""
    answer = json.loads(path.read_text())
    return tdx.parse_quote(bytes.fromhex(answer["quote"])), eventlog.parse_events(answer["event_log"])


def test_there_are_vectors() -> None:
    assert len(REAL) == 2


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_logs_replay(path: Path) -> None:
    quote, events = read(path)
    assert eventlog.replay(events) == quote.report.rtmrs


def test_newer_logs_have_no_digests_for_runtime_events() -> None:
    _, older = read(VECTORS / "getquote_0_5.json")
    _, newer = read(VECTORS / "getquote_0_6.json")
    assert all(event.digest for event in older)
    assert [event.digest for event in newer if event.is_runtime] == [None] * 9


def test_a_forged_payload_does_not_replay_although_its_digest_does() -> None:
    quote, events = read(VECTORS / "getquote_0_5.json")
    forged = tuple(replace(event, payload=bytes(32)) if event.event == "compose-hash" else event for event in events)
    assert eventlog.replay(forged)[3] != quote.report.rtmr3
    assert eventlog.replay(forged)[:3] == quote.report.rtmrs[:3]


@pytest.mark.parametrize("position", [0, 5, 20, 27])
def test_a_missing_event_does_not_replay(position: int) -> None:
    quote, events = read(VECTORS / "getquote_0_5.json")
    assert eventlog.replay(events[:position] + events[position + 1 :]) != quote.report.rtmrs


def test_digests_of_both_versions() -> None:
    older = hashlib.sha384(b"\x01\0\0\x08:app-id:\xab").digest()
    newer = hashlib.sha384(b'{"name":"app-id","payload":"ab","type":134217729}').digest()
    assert eventlog.runtime_digest("app-id", b"\xab") == older
    assert eventlog.runtime_digest("app-id", b"\xab", 2) == newer


@given(logs)
def test_a_log_is_read_as_it_was_written(events: tuple[Event, ...]) -> None:
    assert eventlog.parse_events(eventlog.build_events(events)) == events


def test_unknown_members_are_ignored() -> None:
    (event,) = eventlog.parse_events(
        json.dumps([{"imr": 3, "event_type": RUNTIME_EVENT, "event": "x", "version": 2, "preimage": "00", "more": {}}])
    )
    assert event == Event(3, RUNTIME_EVENT, None, "x", b"", 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '[{"imr":0}]',
        '[{"imr":4,"event_type":1,"digest":"' + "00" * 48 + '"}]',
        '[{"imr":-1,"event_type":1,"digest":"' + "00" * 48 + '"}]',
        '[{"imr":0,"event_type":1,"digest":"' + "00" * 32 + '"}]',
        '[{"imr":0,"event_type":1,"digest":"' + "zz" * 48 + '"}]',
        '[{"imr":0,"event_type":1,"digest":"00 00"}]',
        '[{"imr":0,"event_type":1}]',
        '[{"imr":0,"event_type":1,"digest":""}]',
        '[{"imr":3,"event_type":134217729,"event_payload":"0"}]',
        '[{"imr":3,"event_type":134217729,"version":3}]',
        '[{"imr":3,"event_type":134217729,"event":"\\ud800"}]',
        "[" * 100_000,
    ],
)
def test_logs_that_are_none(text: str) -> None:
    with pytest.raises(MalformedEvidence, match="event log"):
        eventlog.parse_events(text)


@given(st.text())
def test_any_text_gives_a_log_or_the_exception(text: str) -> None:
    try:
        eventlog.parse_events(text)
    except MalformedEvidence:
        return
