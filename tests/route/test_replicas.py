"""Several engines as one: who gets a request, who gets it next, who is left alone, and that every count is right."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import Coroutine
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.engine.base import COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES, Call
from confide.errors import (
    ApiError,
    ConfigError,
    EngineFailed,
    InvalidRequest,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from confide.route.affinity import affinity_key, ranking
from confide.route.health import ReplicaPolicy
from confide.route.replicas import Replica, Replicas
from confide.route.shared import common
from confide.wire.messages import parse_message
from confide.wire.responses import parse_response
from confide.wire.texts import parse_completion
from confide.wire.vectors import parse_embedding
from tests.route.fakes import INFO, SECRET, FakeEngine, FakeReply, ProbedEngine, World, broken, chat, turns

BUSY = TooManyRequests("Full.", headers={"Retry-After": "1"})
DOWN = Unavailable("Loading.", headers={"Retry-After": "9"})


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await work

    asyncio.run(bounded())


def preferring(number: int, of: int = 2, start: int = 0) -> str:
    """A text whose conversation prefers that replica."""
    names = [f"http://10.0.0.{index}:8000" for index in range(of)]
    return next(
        text
        for text in (f"conversation {index}" for index in range(start, start + 1000))
        if ranking(affinity_key(SECRET, chat(text)), names)[0] == number
    )


# Who gets it ----------------------------------------------------------------------------------------------------------


def test_a_conversation_stays_where_it_began() -> None:
    async def work() -> None:
        world = World(*(FakeEngine() for _ in range(4)))
        for turn in range(5):
            more = [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}] * turn
            assert await world.whole(chat(more=more)) == b"ab"
        assert sorted(world.calls) == [0, 0, 0, 5]

    run(work())


def other(path: str, text: str) -> Call[Any]:
    """A request of another endpoint, that begins so."""
    bodies: dict[str, tuple[Any, dict[str, Any]]] = {
        COMPLETIONS: (parse_completion, {"prompt": text}),
        EMBEDDINGS: (parse_embedding, {"input": text}),
        RESPONSES: (parse_response, {"input": [{"role": "user", "content": text}]}),
        MESSAGES: (parse_message, {"messages": [{"role": "user", "content": text}], "max_tokens": 1}),
    }
    parse, members = bodies[path]
    body = json.dumps({"model": "m"} | members).encode()
    return Call("id", 1, "m", "key_1", parse(body), body)


@pytest.mark.parametrize("path", [COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES])
def test_requests_of_other_endpoints_go_where_their_start_is(path: str) -> None:
    async def work() -> None:
        world = World(*(FakeEngine() for _ in range(4)))
        for _ in range(5):
            assert [piece async for piece in await world.replicas.infer(other(path, "one"))] == [b"a", b"b"]
        assert sorted(world.calls) == [0, 0, 0, 5]
        for number in range(100):
            [piece async for piece in await world.replicas.infer(other(path, f"text {number}"))]
        assert min(world.calls) > 5

    run(work())


def test_another_replica_is_asked_on_other_endpoints_too() -> None:
    async def work() -> None:
        world = World(FakeEngine(EngineFailed("x")), FakeEngine(EngineFailed("x"), FakeReply()))
        for engine in world.engines:
            engine.script = engine.script[:1]
        world.engines[1].script = []
        for number in range(20):
            reply = await world.replicas.infer(other(RESPONSES, f"text {number}"))
            assert [piece async for piece in reply] == [b"a", b"b"]
        assert world.replicas.retries == 1

    run(work())


def test_only_what_all_offer_is_offered() -> None:
    wide = replace(INFO, also={COMPLETIONS: frozenset({"n", "echo"}), EMBEDDINGS: frozenset()})
    narrow = replace(INFO, also={COMPLETIONS: frozenset({"n", "stop"}), RESPONSES: frozenset()})
    assert common([wide, narrow]).also == {COMPLETIONS: frozenset({"n"})}
    assert common([wide, replace(wide, chats=False)]).endpoints == {COMPLETIONS, EMBEDDINGS}


def test_conversations_and_tenants_spread() -> None:
    async def work() -> None:
        world = World(*(FakeEngine() for _ in range(4)))
        for number in range(200):
            await world.whole(chat(f"conversation {number}"))
        assert min(world.calls) > 30
        for number in range(200):
            await world.whole(chat("one prompt for all", tenant=f"key_{number}"))
        assert min(world.calls) > 60

    run(work())


def test_the_preferred_one_is_left_when_it_is_busier_by_more_than_the_margin() -> None:
    async def work() -> None:
        world = World(FakeEngine(), FakeEngine(), margin=3)
        call = chat(preferring(1))
        seen = []
        for _ in range(10):
            await world.replicas.chat(call)
            seen.append(tuple(world.outstanding))
        # It gets one more than the margin ahead, and from then on the other one fills up behind it.
        assert seen[:6] == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 4), (1, 5)]
        assert all(busy - idle <= 4 for idle, busy in seen)

    run(work())


def test_without_a_margin_the_least_busy_one_is_taken() -> None:
    async def work() -> None:
        world = World(*(FakeEngine() for _ in range(5)), margin=0)
        for number in range(1, 11):
            await world.replicas.chat(chat("one prompt"))
            assert max(world.outstanding) - min(world.outstanding) <= 1
            assert sum(world.outstanding) == number

    run(work())


def test_a_herd_that_comes_at_once_spreads() -> None:
    """Each counts from the moment it is sent, not from when it is accepted."""

    async def work() -> None:
        engines = [FakeEngine(*[None] * 100) for _ in range(4)]
        world = World(*engines, margin=2)
        tasks = [asyncio.create_task(world.whole(chat("one prompt"))) for _ in range(100)]
        await turns()
        assert sum(world.outstanding) == 100
        assert max(world.outstanding) - min(world.outstanding) <= 3
        for engine in engines:
            engine.go.set()
        assert await asyncio.gather(*tasks) == [b"ab"] * 100
        assert world.outstanding == [0, 0, 0, 0]

    run(work())


# Another one ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [broken(), BUSY, DOWN], ids=lambda failure: type(failure).__name__)
def test_before_the_first_byte_another_one_is_asked(failure: ApiError) -> None:
    async def work() -> None:
        world = World(FakeEngine(failure), FakeEngine())
        call = chat(preferring(0))
        assert await world.whole(call) == b"ab"
        assert world.calls == [1, 1]
        assert world.engines[1].calls == [call]
        assert world.outstanding == [0, 0]
        assert world.replicas.retries == 1

    run(work())


@pytest.mark.parametrize("failure", [InvalidRequest("No."), NotFound("No."), RuntimeError("no")], ids=repr)
def test_what_is_wrong_with_the_request_stays_wrong(failure: Exception) -> None:
    async def work() -> None:
        world = World(FakeEngine(failure), FakeEngine(), failures=1)
        with pytest.raises(type(failure)) as caught:
            await world.whole(chat(preferring(0)))
        assert caught.value is failure
        assert world.calls == [1, 0]
        assert world.outstanding == [0, 0]
        assert world.states == ["up", "up"]

    run(work())


def test_after_the_first_byte_never() -> None:
    async def work() -> None:
        world = World(FakeEngine(FakeReply([b"a", broken()])), FakeEngine())
        reply = await world.replicas.chat(chat(preferring(0)))
        pieces = aiter(reply)
        assert await anext(pieces) == b"a"
        with pytest.raises(EngineFailed):
            await anext(pieces)
        await reply.aclose()
        assert world.calls == [1, 0]
        assert world.outstanding == [0, 0]

    run(work())


def test_each_is_asked_once_and_not_more_than_a_few() -> None:
    async def work() -> None:
        for replicas, attempts, asked in ((2, 5, 2), (5, 3, 3), (5, 1, 1)):
            world = World(*(FakeEngine(broken(), broken()) for _ in range(replicas)), attempts=attempts)
            with pytest.raises(EngineFailed):
                await world.whole()
            assert sum(world.calls) == asked
            assert max(world.calls) == 1
            assert sum(world.outstanding) == 0

    run(work())


def test_no_attempt_begins_when_the_client_has_waited_long_enough() -> None:
    async def work() -> None:
        slow, other = FakeEngine(None, broken()), FakeEngine()
        world = World(slow, other, retry_within=30)
        task = asyncio.create_task(world.whole(chat(preferring(0))))
        await turns()
        world.clock.now += 30
        slow.go.set()
        with pytest.raises(EngineFailed):
            await task
        assert world.calls == [1, 0]

    run(work())


@pytest.mark.parametrize(
    ("first", "second", "told"), [(broken(), BUSY, BUSY), (DOWN, broken(), DOWN), (BUSY, DOWN, BUSY)]
)
def test_the_client_is_told_what_gives_most_hope(first: ApiError, second: ApiError, told: ApiError) -> None:
    async def work() -> None:
        world = World(FakeEngine(first), FakeEngine(second))
        with pytest.raises(ApiError) as caught:
            await world.whole(chat(preferring(0)))
        assert caught.value is told

    run(work())


# A client that leaves -------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_while_a_second_one_is_asked() -> None:
    async def work() -> None:
        waiting = FakeEngine(None)
        world = World(FakeEngine(broken()), waiting)
        task = asyncio.create_task(world.whole(chat(preferring(0))))
        await turns()
        assert world.outstanding == [0, 1]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waiting.cancelled == 1
        assert world.outstanding == [0, 0]
        assert world.states == ["up", "up"]

    run(work())


def test_a_client_that_leaves_in_the_midst() -> None:
    async def work() -> None:
        reply = FakeReply([b"a", None])
        world = World(FakeEngine(reply))
        task = asyncio.create_task(world.whole())
        await turns()
        assert world.outstanding == [1]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reply.closed == 1
        assert world.outstanding == [0]

    run(work())


def test_a_reply_that_is_closed_twice_or_never_read_counts_once() -> None:
    async def work() -> None:
        world = World(FakeEngine())
        reply = await world.replicas.chat(chat())
        await reply.aclose()
        await reply.aclose()
        assert world.outstanding == [0]
        assert await world.whole() == b"ab"
        assert world.outstanding == [0]

    run(work())


def test_a_reply_whose_close_fails_is_over_all_the_same() -> None:
    class Bad(FakeReply):
        async def aclose(self) -> None:
            raise RuntimeError("no")

    async def work() -> None:
        world = World(FakeEngine(Bad([None])))
        reply = await world.replicas.chat(chat())
        with pytest.raises(RuntimeError):
            await reply.aclose()
        assert world.outstanding == [0]

    run(work())


def test_what_an_answer_says_of_itself_is_passed_on() -> None:
    async def work() -> None:
        plain = FakeReply()
        del plain.forwarded
        world = World(FakeEngine(FakeReply(), plain))
        first, second = [await world.replicas.chat(chat()) for _ in range(2)]
        assert first.usage == FakeReply().usage
        assert (getattr(first, "forwarded", 0), getattr(second, "forwarded", 0)) == ("sha256:00", None)

    run(work())


# Ejection and return --------------------------------------------------------------------------------------------------


async def fail(world: World, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ApiError):
            await world.whole()


def test_failures_in_a_row_eject() -> None:
    async def work() -> None:
        good = FakeReply()
        world = World(FakeEngine(broken(), DOWN, good, broken(), broken(), broken()), failures=3)
        await fail(world, 2)
        assert await world.whole() == b"ab"
        await fail(world, 2)
        assert world.states == ["up"]
        await fail(world, 1)
        assert world.states == ["ejected"]
        told = world.replicas.snapshot()[0]
        assert (told.accepted, told.failures, told.ejections, told.outstanding) == (1, 5, 1, 0)

    run(work())


def test_what_fails_in_the_midst_counts_too() -> None:
    async def work() -> None:
        world = World(FakeEngine(*(FakeReply([b"a", broken()]) for _ in range(3))), failures=3)
        await fail(world, 3)
        assert world.states == ["ejected"]

    run(work())


def test_to_be_full_or_to_refuse_is_not_to_be_broken() -> None:
    async def work() -> None:
        world = World(FakeEngine(*[BUSY] * 5, *[InvalidRequest("No.")] * 5), failures=1)
        await fail(world, 10)
        assert world.states == ["up"]

    run(work())


def test_an_ejected_one_gets_nothing_and_the_others_all() -> None:
    async def work() -> None:
        world = World(FakeEngine(broken()), FakeEngine(), failures=1)
        text = preferring(0)
        for _ in range(5):
            assert await world.whole(chat(text)) == b"ab"
        assert world.calls == [1, 5]
        assert world.states == ["ejected", "up"]

    run(work())


def test_all_ejected() -> None:
    async def work() -> None:
        world = World(FakeEngine(broken()), FakeEngine(broken()), failures=1, first_ejection=4.5)
        await fail(world, 1)
        assert world.states == ["ejected", "ejected"]
        world.clock.now += 1
        with pytest.raises(Unavailable) as caught:
            await world.whole()
        assert caught.value.status == 503
        assert caught.value.headers == {"Retry-After": "4"}  # 3.5, rounded up
        assert world.calls == [1, 1]

    run(work())


def test_ejections_become_longer_and_a_whole_answer_ends_that() -> None:
    async def work() -> None:
        world = World(FakeEngine(*[broken()] * 5, FakeReply(), broken()), failures=1, first_ejection=1, chance=0.5)
        lengths = []
        for number in range(7):
            if number == 5:
                assert await world.whole() == b"ab"
                continue
            await fail(world, 1)
            with pytest.raises(Unavailable):
                await world.whole()
            start = world.clock.now
            while world.states == ["ejected"]:
                world.clock.now += 0.25
            lengths.append(world.clock.now - start)
        assert lengths == [1.25, 2.5, 5, 10, 20, 1.25]  # jitter: a quarter, half of its half

    run(work())


def test_no_ejection_is_longer_than_the_longest() -> None:
    async def work() -> None:
        world = World(FakeEngine(*[broken()] * 100), failures=1, first_ejection=1, longest_ejection=60)
        for _ in range(100):
            await fail(world, 1)
            world.clock.now += 60
            assert world.states == ["trial"]

    run(work())


def test_a_failing_herd_ejects_once() -> None:
    async def work() -> None:
        engine = FakeEngine(*[None] * 50)
        world = World(engine, failures=3, first_ejection=1)
        tasks = [asyncio.create_task(world.whole()) for _ in range(50)]
        await turns()
        engine.script = [broken()] * 50
        engine.go.set()
        assert {type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)} == {EngineFailed}
        told = world.replicas.snapshot()[0]
        assert (told.state, told.ejections, told.failures, told.outstanding) == ("ejected", 1, 50, 0)
        world.clock.now += 1
        assert world.states == ["trial"]

    run(work())


def test_a_herd_at_the_end_of_an_ejection_sends_one() -> None:
    """Half open: one request is enough to find out, and the others are told when to come back."""

    async def work() -> None:
        engine = FakeEngine(broken(), None)
        world = World(engine, failures=1, first_ejection=1)
        await fail(world, 1)
        world.clock.now += 1
        tasks = [asyncio.create_task(world.whole()) for _ in range(20)]
        await turns()
        assert world.outstanding == [1]
        engine.go.set()
        outcomes = Counter(type(one) for one in await asyncio.gather(*tasks, return_exceptions=True))
        assert outcomes == {bytes: 1, Unavailable: 19}
        assert world.states == ["up"]
        assert len(engine.calls) == 2

    run(work())


def test_a_herd_finds_the_others_while_one_is_tried() -> None:
    async def work() -> None:
        trying = FakeEngine(broken(), None)
        world = World(trying, FakeEngine(), failures=1, first_ejection=1)
        text = preferring(0)
        await world.whole(chat(text))
        world.clock.now += 1
        tasks = [asyncio.create_task(world.whole(chat(text))) for _ in range(20)]
        await turns()
        assert world.calls == [2, 20]  # 1 + 1 and 1 + 19
        trying.go.set()
        assert await asyncio.gather(*tasks) == [b"ab"] * 20
        assert world.states == ["up", "up"]

    run(work())


def test_a_trial_that_fails_ejects_for_longer() -> None:
    async def work() -> None:
        world = World(FakeEngine(*[broken()] * 4), failures=3, first_ejection=1)
        await fail(world, 3)
        world.clock.now += 1
        await fail(world, 1)
        world.clock.now += 1
        assert world.states == ["ejected"]
        world.clock.now += 1
        assert world.states == ["trial"]

    run(work())


def test_a_trial_whose_client_leaves_shows_nothing() -> None:
    async def work() -> None:
        world = World(FakeEngine(broken(), None), failures=1, first_ejection=1)
        await fail(world, 1)
        world.clock.now += 1
        task = asyncio.create_task(world.whole())
        await turns()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (world.states, world.outstanding) == (["trial"], [0])
        world.engines[0].script.clear()
        assert await world.whole() == b"ab"
        assert world.states == ["up"]

    run(work())


def test_after_a_trial_one_failure_is_enough() -> None:
    async def work() -> None:
        world = World(FakeEngine(*[broken()] * 3, FakeReply([b"a", broken()])), failures=3, first_ejection=1)
        await fail(world, 3)
        world.clock.now += 1
        await fail(world, 1)
        assert world.states == ["ejected"]

    run(work())


def test_what_began_before_an_ejection_changes_nothing_after_it() -> None:
    async def work() -> None:
        old = [FakeReply([None, b"z"]), FakeReply([None, broken()])]
        world = World(FakeEngine(*old, broken()), failures=1, first_ejection=1)
        answers = [asyncio.create_task(world.whole()) for _ in old]
        await turns()
        await fail(world, 1)
        old[0].go.set()
        assert await answers[0] == b"z"
        assert world.states == ["ejected"]
        world.clock.now += 1
        assert await world.whole() == b"ab"
        old[1].go.set()
        with pytest.raises(EngineFailed):
            await answers[1]
        assert world.states == ["up"]
        assert world.outstanding == [0]

    run(work())


@pytest.mark.parametrize("answer", [BUSY, InvalidRequest("No.")], ids=repr)
def test_a_refusal_ends_a_trial_too(answer: ApiError) -> None:
    """It takes an engine that works to say so."""

    async def work() -> None:
        world = World(FakeEngine(broken(), answer), failures=1, first_ejection=1)
        await fail(world, 1)
        world.clock.now += 1
        await fail(world, 1)
        assert world.states == ["up"]

    run(work())


def test_an_old_request_that_is_accepted_late_ends_no_trial() -> None:
    async def work() -> None:
        engine = FakeEngine(None, broken())
        world = World(engine, failures=1, first_ejection=1)
        old = asyncio.create_task(world.whole())
        await turns()
        await fail(world, 1)
        world.clock.now += 1
        assert world.states == ["trial"]
        engine.go.set()
        assert await old == b"ab"
        assert world.states == ["trial"]

    run(work())


def test_an_old_answer_that_ends_late_forgives_nothing() -> None:
    async def work() -> None:
        old = FakeReply([None, b"z"])
        trial = FakeReply([b"a", None, b"b"])
        world = World(FakeEngine(old, *[broken()] * 2, trial, broken()), failures=2, first_ejection=1)
        long = asyncio.create_task(world.whole())
        await turns()
        await fail(world, 2)
        world.clock.now += 1
        trying = asyncio.create_task(world.whole())
        await turns()
        assert world.states == ["up"]
        old.go.set()
        assert await long == b"z"
        await fail(world, 1)
        assert world.states == ["ejected"]
        trial.go.set()
        assert await trying == b"ab"

    run(work())


# Probes ---------------------------------------------------------------------------------------------------------------


def test_one_that_can_be_asked_comes_back_by_its_probe_only() -> None:
    async def work() -> None:
        engine = ProbedEngine(broken())
        world = World(engine, failures=1, first_ejection=1, probe_every=5)
        await fail(world, 1)
        engine.well = False
        await world.replicas.probe()
        assert engine.probes == 0  # not yet
        world.clock.now += 1
        await world.replicas.probe()
        world.clock.now += 1
        await world.replicas.probe()
        assert engine.probes == 1  # the failed probe has doubled the wait
        world.clock.now += 1
        engine.well = True
        assert world.states == ["ejected"]
        await world.replicas.probe()
        assert world.states == ["trial"]
        assert await world.whole() == b"ab"
        assert world.states == ["up"]
        assert world.replicas.snapshot()[0].ejections == 1

    run(work())


@pytest.mark.parametrize("well", [False, Unavailable("no"), RuntimeError("no"), None], ids=repr)
def test_probes_find_one_that_broke_before_requests_do(well: bool | BaseException | None) -> None:
    async def work() -> None:
        engine, other = ProbedEngine(), ProbedEngine()
        engine.well = well
        world = World(engine, other, FakeEngine(), failures=3, probe_every=5, probe_timeout=0.01)
        for number in range(3):
            assert world.states[0] == "up", number
            world.clock.now += 5
            await world.replicas.probe()
            await world.replicas.probe()  # those that were just asked aren't asked again
        assert world.states == ["ejected", "up", "up"]
        assert (engine.probes, other.probes) == (3, 3)

    run(work())


def test_a_probe_that_passes_too_late_shortens_no_ejection() -> None:
    async def work() -> None:
        engine = ProbedEngine(broken())
        engine.slow = asyncio.Event()
        world = World(engine, failures=1, first_ejection=1, probe_every=5)
        world.clock.now += 5
        asked = asyncio.create_task(world.replicas.probe())
        await engine.probed.wait()
        await fail(world, 1)
        engine.slow.set()
        await asked
        assert world.states == ["ejected"]

    run(work())


def test_a_probe_that_passes_forgives_no_failed_requests() -> None:
    async def work() -> None:
        world = World(ProbedEngine(*[broken()] * 3), failures=3, probe_every=5)
        for _ in range(3):
            await fail(world, 1)
            world.clock.now += 5
            await world.replicas.probe()
        assert world.replicas.snapshot()[0].ejections == 1

    run(work())


def test_one_that_comes_back_alone_by_its_probe_takes_all() -> None:
    async def work() -> None:
        engine = ProbedEngine(broken(), *[None] * 5)
        world = World(engine, failures=1, first_ejection=1)
        await fail(world, 1)
        world.clock.now += 1
        await world.replicas.probe()
        tasks = [asyncio.create_task(world.whole()) for _ in range(5)]
        await turns()
        assert world.outstanding == [5]
        engine.go.set()
        assert await asyncio.gather(*tasks) == [b"ab"] * 5

    run(work())


def test_the_background_task_brings_one_back_and_ends_with_the_rest() -> None:
    async def work() -> None:
        engine = ProbedEngine(broken())
        world = World(engine, failures=1, first_ejection=0.001, probe_every=1)
        await fail(world, 1)
        world.clock.now += 1
        world.replicas.start()
        world.replicas.start()
        await engine.probed.wait()
        await turns()
        assert world.states == ["trial"]
        await world.replicas.close()
        await world.replicas.close()
        assert engine.closed == 1
        assert len(asyncio.all_tasks()) == 1
        world.replicas.start()
        assert len(asyncio.all_tasks()) == 1

    run(work())


def test_a_probe_under_way_does_not_hold_up_the_end() -> None:
    async def work() -> None:
        engine = ProbedEngine()
        engine.well = None
        world = World(engine, first_ejection=0.001, probe_every=0.001, probe_timeout=1000)
        world.clock.now += 1
        world.replicas.start()
        await engine.probed.wait()
        await world.replicas.close()
        await turns()
        assert len(asyncio.all_tasks()) == 1

    run(work())


# The end, and what is told --------------------------------------------------------------------------------------------


def test_closing_closes_all_whatever_one_raises() -> None:
    class Bad(FakeEngine):
        async def close(self) -> None:
            raise RuntimeError("no")

    async def work() -> None:
        world = World(Bad(), FakeEngine(), FakeEngine())
        with pytest.raises(RuntimeError):
            await world.replicas.close()
        assert [engine.closed for engine in world.engines] == [0, 1, 1]
        with pytest.raises(Unavailable, match="stopping"):
            await world.whole()
        assert world.calls == [0, 0, 0]

    run(work())


def test_nothing_that_is_told_names_an_address_or_a_text(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        engine = ProbedEngine(broken())
        world = World(engine, FakeEngine(), failures=1, first_ejection=1)
        await world.whole(chat(preferring(0)))
        world.clock.now += 1
        await world.replicas.probe()
        engine.well = False
        world.clock.now += 5
        await world.replicas.probe()
        everything = repr(world.replicas.snapshot()) + json.dumps([asdict(one) for one in world.replicas.snapshot()])
        everything += "".join(repr(record.__dict__) for record in caplog.records)
        assert [record.message for record in caplog.records if record.name.startswith("confide")] == [
            "a replica was ejected",
            "a replica is back",
            "a replica was ejected",
        ]
        assert "10.0.0" not in everything
        assert "conversation" not in everything
        assert "10.0.0" not in repr(Replica(engine, "http://10.0.0.1"))

    caplog.set_level(logging.DEBUG)
    run(work())


# What all have --------------------------------------------------------------------------------------------------------


def test_what_is_promised_is_what_all_have() -> None:
    other = replace(
        INFO,
        context_length=4096,
        max_output_length=9999,
        parameters=frozenset({"n", "seed"}),
        input_modalities=("image", "text"),
        max_choices=2,
        created=1_780_000_000,
    )
    seeing = replace(INFO, input_modalities=("text", "image"))
    assert common([seeing, other]) == replace(
        other, max_output_length=4096, parameters=frozenset({"n"}), input_modalities=("text", "image")
    )
    assert common([INFO, seeing]).input_modalities == ("text",)
    assert World(FakeEngine(), FakeEngine(info=other)).replicas.info.context_length == 4096


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(INFO, engine="sglang"), "differ in engine: 'sglang', 'vllm'"),
        (replace(INFO, version="0.33.0\x1b[2J" + "x" * 99), r"differ in version: '0.32.0', '0.33.0\\x1b"),
        (replace(INFO, input_modalities=("audio",)), "no input modality in common"),
        (replace(INFO, output_modalities=("audio",)), "no output modality in common"),
    ],
)
def test_what_differs_is_named_but_not_where(other: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        World(FakeEngine(), FakeEngine(info=other))
    assert "10.0.0" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_what_makes_no_replicas() -> None:
    def made(*names: str, secret: bytes = SECRET, **policy: Any) -> None:
        Replicas(
            [Replica(FakeEngine(), name) for name in names],
            secret=secret,
            policy=ReplicaPolicy(**policy),
            clock=lambda: 0.0,
            random=lambda: 0.0,
        )

    made("a", "b")
    with pytest.raises(ConfigError, match="at least one"):
        made()
    with pytest.raises(ConfigError, match="the same address"):
        made("secret-host", "secret-host")
    with pytest.raises(ConfigError, match="at least 16 bytes"):
        made("a", secret=b"short")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("margin", -1), ("attempts", 0), ("failures", 0), ("jitter", -0.1), ("retry_within", -1)),
        *(("first_ejection", 0), ("first_ejection", 61), ("longest_ejection", float("inf")), ("probe_every", 0)),
        *(("probe_timeout", float("nan")), ("jitter", float("inf")), ("retry_within", float("nan"))),
    ],
)
def test_a_policy_that_makes_no_sense(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match="replicas: "):
        World(FakeEngine(), **{name: value})


# Whatever happens -----------------------------------------------------------------------------------------------------

STEP = st.sampled_from(["reply", "broken", "busy", "down", "invalid", "bug", "wait", "midway", "endless"])
MOVE = st.sampled_from(["ask", "ask", "ask", "leave", "go", "time", "probe", "yield"])


def _step(name: str) -> FakeReply | BaseException | None:
    made: dict[str, FakeReply | BaseException | None] = {
        "reply": FakeReply(),
        "broken": broken(),
        "busy": BUSY,
        "down": DOWN,
        "invalid": InvalidRequest("No."),
        "bug": RuntimeError("no"),
        "wait": None,
        "midway": FakeReply([b"a", broken()]),
        "endless": FakeReply([b"a", None, b"b"]),
    }
    return made[name]


@settings(max_examples=200, deadline=None)
@given(
    scripts=st.lists(st.lists(STEP, max_size=8), min_size=1, max_size=4),
    moves=st.lists(MOVE, max_size=40),
    seed=st.integers(0, 2**32),
    failures=st.integers(1, 3),
    margin=st.integers(0, 3),
)
def test_counts_are_never_negative_and_end_at_zero(
    scripts: list[list[str]], moves: list[str], seed: int, failures: int, margin: int
) -> None:
    async def work() -> None:
        engines = [
            (ProbedEngine if number % 2 else FakeEngine)(*map(_step, script)) for number, script in enumerate(scripts)
        ]
        world = World(*engines, failures=failures, margin=margin)
        chance = random.Random(seed)
        tasks: list[asyncio.Task[bytes]] = []
        for move in moves:
            if move == "ask":
                tasks.append(asyncio.create_task(world.whole(chat(f"conversation {chance.randrange(5)}"))))
            elif move == "leave" and tasks:
                chance.choice(tasks).cancel()
            elif move == "go":
                chance.choice(engines).go.set()
            elif move == "time":
                world.clock.now += chance.choice([0.5, 1, 5, 60])
            elif move == "probe":
                for engine in engines:
                    engine.__dict__["well"] = chance.random() < 0.5
                await world.replicas.probe()
            await turns(chance.randrange(4))
            assert min(world.outstanding) >= 0
            assert sum(world.outstanding) <= sum(not task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome in (b"ab", b"a") or isinstance(outcome, BaseException)
        assert set(world.outstanding) == {0}
        await world.replicas.close()

    run(work())
