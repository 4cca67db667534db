"""One question in flight per key, time limits, and what cancellation may and may not touch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from confide.attest.base import Description, Evidence, EvidenceFailed, GpuAnswer, GpuUnavailable
from confide.attest.shared import Blocking, SharedEvidence, SharedGpu, SingleFlight, within

DATA = bytes(64)


class Slow:
    """A source that counts its work and answers when it is told to."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.closed = False
        self.go = asyncio.Event()

    async def quote(self, report_data: bytes) -> Evidence:
        self.started += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Evidence("tdx", b"quote", report_data)

    async def evidence(self, nonce: bytes) -> GpuAnswer:
        await self.quote(nonce)
        return ()

    def describe(self) -> Description:
        return Description("tdx", "dstack", hardware=True, text="")

    async def aclose(self) -> None:
        self.closed = True


def run(test: Callable[[Slow], Awaitable[None]]) -> None:
    """Run a test with a slow source in a loop of its own."""

    async def main() -> None:
        await test(Slow())
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


async def turns() -> None:
    """Let everything that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_same_question_is_asked_once() -> None:
    async def test(slow: Slow) -> None:
        shared = SharedEvidence(slow)
        asked = [asyncio.create_task(shared.quote(DATA)) for _ in range(100)]
        await turns()
        slow.go.set()
        answers = await asyncio.gather(*asked)
        assert slow.started == 1
        assert all(answer is answers[0] for answer in answers)

    run(test)


def test_nothing_is_kept_after_an_answer() -> None:
    async def test(slow: Slow) -> None:
        shared = SharedEvidence(slow)
        slow.go.set()
        await shared.quote(DATA)
        await shared.quote(DATA)
        assert slow.started == 2

    run(test)


def test_other_questions_are_others() -> None:
    async def test(slow: Slow) -> None:
        shared = SharedEvidence(slow)
        slow.go.set()
        first, second = await asyncio.gather(shared.quote(DATA), shared.quote(b"\x01" * 64))
        assert (first.report_data, second.report_data) == (DATA, b"\x01" * 64)
        assert slow.started == 2

    run(test)


def test_who_leaves_leaves_the_others_alone() -> None:
    async def test(slow: Slow) -> None:
        shared = SharedEvidence(slow)
        first, second = (asyncio.create_task(shared.quote(DATA)) for _ in range(2))
        await turns()
        first.cancel()
        await turns()
        assert first.cancelled()
        slow.go.set()
        assert (await second).quote == b"quote"
        assert slow.cancelled == 0

    run(test)


def test_the_last_one_to_leave_ends_the_work() -> None:
    async def test(slow: Slow) -> None:
        shared = SharedEvidence(slow)
        asked = [asyncio.create_task(shared.quote(DATA)) for _ in range(3)]
        await turns()
        for task in asked:
            task.cancel()
        await turns()
        assert slow.cancelled == 1
        slow.go.set()
        assert (await shared.quote(DATA)).quote == b"quote"

    run(test)


def test_a_failure_reaches_everybody_and_is_not_kept() -> None:
    async def test(slow: Slow) -> None:
        flights: SingleFlight[None] = SingleFlight()
        calls = 0

        async def fail() -> None:
            nonlocal calls
            calls += 1
            await turns()
            raise EvidenceFailed("broken")

        results = await asyncio.gather(*(flights.run(b"k", fail) for _ in range(3)), return_exceptions=True)
        assert [str(result) for result in results] == ["broken"] * 3
        assert calls == 1
        with pytest.raises(EvidenceFailed):
            await flights.run(b"k", fail)
        assert calls == 2

    run(test)


def test_a_source_that_takes_too_long() -> None:
    async def test(slow: Slow) -> None:
        with pytest.raises(EvidenceFailed, match=r"a quote of this machine took longer than 0\.01 seconds"):
            await SharedEvidence(slow, 0.01).quote(DATA)
        assert slow.cancelled == 1

    run(test)


def test_gpus_that_take_too_long_are_unavailable() -> None:
    async def test(slow: Slow) -> None:
        shared = SharedGpu(slow, 0.01)
        answers = list(await asyncio.gather(shared.evidence(bytes(32)), shared.evidence(bytes(32))))
        assert answers == [GpuUnavailable("evidence of the GPUs took longer than 0.01 seconds")] * 2
        assert slow.started == 1
        slow.go.set()
        assert await shared.evidence(bytes(32)) == ()

    run(test)


def test_describing_and_closing_go_through() -> None:
    async def test(slow: Slow) -> None:
        assert SharedEvidence(slow).describe().source == "dstack"
        await SharedEvidence(slow).aclose()
        assert slow.closed
        slow.closed = False
        await SharedGpu(slow).aclose()
        assert slow.closed

    run(test)


def test_a_limit_lets_other_errors_through() -> None:
    async def main() -> None:
        with pytest.raises(KeyError):
            async with within(5, "it"):
                raise KeyError

    asyncio.run(main())


def test_a_blocking_call_runs_to_its_end_without_its_caller() -> None:
    async def main() -> None:
        go, ended = threading.Event(), threading.Event()
        blocking = Blocking("test")

        def call() -> None:
            go.wait(10)
            ended.set()

        task = asyncio.create_task(blocking.run(call))
        await asyncio.sleep(0.05)
        never = asyncio.create_task(blocking.run(lambda: pytest.fail("a call that was dropped ran")))
        await turns()
        for each in (task, never):
            each.cancel()
        await asyncio.gather(task, never, return_exceptions=True)
        go.set()
        assert await asyncio.to_thread(ended.wait, 10)
        assert await blocking.run(lambda: 7) == 7
        blocking.close()

    asyncio.run(main())
