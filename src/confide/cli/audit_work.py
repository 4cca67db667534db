"""Audits of many bundles, in several processes where that is worth it. The outcomes come in the order of the bundles.

A process is given a few bundles at a time and no more before it has answered, and what waits for its turn is bounded,
so that memory does not grow with the number of bundles. A process that dies is an error; no bundle is left out.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Literal

from msgspec import structs

from confide.cli import files, verdicts
from confide.cli.audit_find import Found
from confide.errors import ConfideError, OperatorError
from confide.verify import bundle as bundles
from confide.verify.audit import Auditor
from confide.verify.bundle import Bundle
from confide.verify.firstuse import accepting_anything
from confide.verify.material import Material
from confide.verify.policy import Policy
from confide.verify.roots import Root
from confide.verify.verdict import ExitCode, Verdict

TOGETHER: Final = 32
"""How many bundles a process is given at once, if they are small. So few are not worth a second process."""
_TOGETHER_BYTES: Final = 4 << 20
_AHEAD: Final = 4
"""How many times as many as there are processes may have been given out and not been shown."""

Shown = Literal["steps", "problems", "json"]


class AuditStopped(OperatorError):
    """Not every bundle was audited, so that there is no verdict over all of them."""


@dataclass(frozen=True, slots=True)
class Case:
    """What every bundle of one command is judged with. ``at`` is in Unix seconds; None is each bundle's own time.

    ``shown`` is what is kept of the verdicts: all steps, those that did not pass, or their JSON.
    """

    policy: Policy | None
    development: tuple[Root, ...]
    material: Material
    at: int | None
    shown: Shown = "steps"


@dataclass(frozen=True, slots=True)
class Audited:
    """What became of one bundle: a verdict, or an error that left nothing to judge."""

    name: str
    code: int
    verdict: Verdict | None = None
    json: str = ""
    problem: str = ""
    captured_at: int | None = None
    size: int = 0


# One process ---------------------------------------------------------------------------------------------------------


class Work:
    """Audits bundles one after the other."""

    def __init__(self, case: Case) -> None:
        self._case = case
        policy = case.policy or accepting_anything()
        self._auditor = Auditor(policy, development=case.development, material=case.material)

    def all(self, found: Iterable[Found]) -> list[Audited]:
        """What becomes of the bundles that were found."""
        return [self._kept(self._audited(one), one.size) for one in found]

    def judged(self, name: str, bundle: Bundle) -> Audited:
        """The verdict over a bundle."""
        at = bundle.captured_at if self._case.at is None else self._case.at
        try:
            verdict = self._auditor.audit(bundle, now=at)
        except ConfideError as wrong:
            return _failed(name, wrong)
        code = verdicts.exit_code(verdict, self._case.policy)
        return Audited(name, code, verdict, captured_at=bundle.captured_at)

    def _audited(self, found: Found) -> Audited:
        try:
            bundle = _bundle(found)
        except ConfideError as wrong:
            return _failed(found.name, wrong)
        return self.judged(found.name, bundle)

    def _kept(self, one: Audited, size: int) -> Audited:
        """What is shown of it, which may have to go to another process."""
        verdict, text = one.verdict, ""
        if self._case.shown == "json":
            verdict, text = None, as_json(one, self._case.policy)
        elif self._case.shown == "problems" and verdict is not None:
            verdict = structs.replace(verdict, findings=verdict.problems(), claims={}, facts={})
        return replace(one, verdict=verdict, json=text, size=size)


def as_json(one: Audited, policy: Policy | None) -> str:
    """What became of a bundle, as JSON on one line, in ASCII."""
    value: dict[str, Any] = {"file": one.name, "exit_code": one.code, "problem": one.problem or None}
    if one.verdict is not None:
        value["verdict"] = verdicts.as_builtins(one.verdict, policy)
    return json.dumps(value)


def _bundle(found: Found) -> Bundle:
    if found.problem:
        raise files.UsageError(found.problem)
    data = files.read(found.path, bundles.MOST_BYTES, start=found.start, length=found.length, name=found.name)
    try:
        return bundles.parse_bundle(data)
    except bundles.BundleError as wrong:
        hint = "; an attestation report goes with --report" if b"workload_keyset" in data else ""
        raise files.UsageError(f"{found.name}: {wrong}{hint}") from None


def _failed(name: str, wrong: ConfideError) -> Audited:
    return Audited(name, int(getattr(wrong, "exit_code", ExitCode.FAILED)), problem=str(wrong))


# Several -------------------------------------------------------------------------------------------------------------


def audited(found: Iterable[Found], case: Case, jobs: int) -> Iterator[Audited]:
    """What becomes of all bundles, in their order.

    Raises:
        AuditStopped: a process ended before its bundles were audited.
    """
    batches = _batches(found)
    first = [*islice(batches, 2)]
    together = chain(first, batches)
    if jobs > 1 and len(first) > 1:
        yield from chain.from_iterable(_shared(together, case, jobs))
    else:
        work = Work(case)
        for batch in together:
            yield from work.all(batch)


def _batches(found: Iterable[Found]) -> Iterator[list[Found]]:
    batch: list[Found] = []
    for one in found:
        batch.append(one)
        if len(batch) == TOGETHER or sum(each.size for each in batch) >= _TOGETHER_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _shared(batches: Iterable[list[Found]], case: Case, jobs: int) -> Iterator[list[Audited]]:
    """The outcomes of each batch, in their order, from processes that live as long as this iterator."""
    numbered = enumerate(batches)
    busy: dict[Connection, int] = {}
    done: dict[int, list[Audited]] = {}
    idle: list[Connection] = []
    given = shown = 0
    with _starting(case) as start:
        while True:
            while given - shown < jobs * _AHEAD and len(busy) < jobs and (batch := next(numbered, None)):
                pipe = idle.pop() if idle else start()
                _give(pipe, batch[1])
                busy[pipe], given = batch[0], given + 1
            if not busy:
                return
            ready = wait(list(busy))
            for pipe in [one for one in busy if one in ready]:
                done[busy.pop(pipe)] = _taken(pipe)
                idle.append(pipe)
            while shown in done:
                yield done.pop(shown)
                shown += 1


@contextmanager
def _starting(case: Case) -> Iterator[Callable[[], Connection]]:
    """Starts a process at each call, and gives its pipe. They end with this block, whatever they are doing.

    They are started while the terminal's interrupt is ignored, which they inherit: it is for this process alone.
    """
    context = multiprocessing.get_context("spawn")
    with ExitStack() as ending:

        def start() -> Connection:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, case), name="confide-audit", daemon=True)
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                process.start()
            finally:
                signal.signal(signal.SIGINT, before)
            ending.callback(process.join)
            ending.callback(process.terminate)
            theirs.close()
            return ours

        yield start


def _work(pipe: Connection, case: Case) -> None:
    """A process: answers each batch, until the other side is gone."""
    work = Work(case)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            pipe.send(work.all(pipe.recv()))


def _give(pipe: Connection, batch: Sequence[Found]) -> None:
    try:
        pipe.send(batch)
    except (BrokenPipeError, ConnectionResetError):
        raise _died() from None


def _taken(pipe: Connection) -> list[Audited]:
    try:
        answer: list[Audited] = pipe.recv()
    except (EOFError, ConnectionResetError):
        raise _died() from None
    return answer


def _died() -> AuditStopped:
    return AuditStopped(
        "a process that audits ended before it had answered; it was killed, or had too little memory (--jobs 1 needs "
        "less). What is above is not all"
    )
