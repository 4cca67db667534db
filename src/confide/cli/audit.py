"""``confide audit``: verdicts over files, without a network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from confide.cli import audit_find, files, verdicts
from confide.cli.audit_find import Others
from confide.cli.audit_tell import screen, tell_json, tell_many, tell_one
from confide.cli.audit_work import Audited, Case, Shown, Work, audited
from confide.cli.options import Collateral, DevRoot, Json, Policy, ServiceName
from confide.cli.reach import now, read_roots
from confide.errors import ConfideError
from confide.verify import audit as auditing
from confide.verify import bundle as bundles
from confide.verify.bundle import Exchange
from confide.verify.material import Material
from confide.verify.policy import read_policy
from confide.verify.receipt import MOST_SESSIONS
from confide.verify.saved import Channel
from confide.verify.verdict import ExitCode
from confide.wire import jcs

_LOOSE: Final = "Loose files"
_MOST_JOBS: Final = 256


_Paths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[FILE]...",
        help="Bundles: files, *.jsonl files with one on each line, or folders with such files at any depth.",
        show_default=False,
    ),
]
_Steps = Annotated[
    bool, typer.Option("--steps", help="Show every step of every bundle, not only those that did not pass.")
]
_Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", metavar="N", min=1, max=_MOST_JOBS, help="How many processes audit; by default one for each core."
    ),
]


def _file(name: str, help: str) -> Any:
    return typer.Option(f"--{name}", metavar="FILE", help=help, rich_help_panel=_LOOSE)


def audit(
    paths: _Paths = None,
    policy: Policy = None,
    dev_root: DevRoot = None,
    collateral: Collateral = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="What dates are compared with: Unix seconds, or ISO 8601."),
    ] = None,
    at_now: Annotated[bool, typer.Option("--now", help="Compare dates with the clock of this machine.")] = False,
    report: Annotated[Path | None, _file("report", "An attestation report, in place of a bundle.")] = None,
    nonce: Annotated[
        str | None,
        typer.Option("--nonce", metavar="HEX", help="The nonce that was sent for it.", rich_help_panel=_LOOSE),
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="NAME", help="The host that was asked.", rich_help_panel=_LOOSE)
    ] = None,
    spki: Annotated[
        str | None,
        typer.Option("--spki", metavar="HEX", help="SHA-256 of the TLS key that it showed.", rich_help_panel=_LOOSE),
    ] = None,
    sealed_to: Annotated[
        str | None,
        typer.Option("--sealed-to", metavar="HEX", help="The key that requests go to.", rich_help_panel=_LOOSE),
    ] = None,
    manifest: Annotated[Path | None, _file("manifest", "The manifest of models.")] = None,
    receipt: Annotated[Path | None, _file("receipt", "A receipt.")] = None,
    signature: Annotated[Path | None, _file("signature", "A signature of the older surface.")] = None,
    request: Annotated[Path | None, _file("request", "The bytes of the request's body.")] = None,
    response: Annotated[Path | None, _file("response", "The bytes of the answer's body.")] = None,
    session: Annotated[
        list[Path] | None,
        typer.Option("--session", metavar="FILE", help="A session that the receipt cites.", rich_help_panel=_LOOSE),
    ] = None,
    service: ServiceName = "auto",
    steps: _Steps = False,
    jobs: _Jobs = None,
    as_json: Json = False,
) -> None:
    """Check saved evidence, receipts and answers again. Never uses a network.

    Dates are compared with the time of capture that each bundle states: what was good then. --now asks whether it
    still is. The exit code is the worst of all: 1 before 2, then 5, 3 and 0. What can't be read counts as 2, and the
    rest is audited all the same.
    """
    loose = [manifest, receipt, signature, request, response, *(session or ()), nonce, host, spki, sealed_to]
    if bool(paths) == (report is not None):
        raise files.UsageError("give bundles or folders, or one report with --report")
    if report is None and any(one is not None for one in loose):
        raise files.UsageError("receipts, bytes, nonces and channels go with --report; a bundle has its own")
    case = Case(
        policy=None if policy is None else read_policy(policy),
        development=read_roots(dev_root),
        material=Material(files.material(collateral or ())),
        at=_time(at, at_now=at_now),
    )
    if report is None:
        shown: Shown = "json" if as_json else "steps" if steps else "problems"
        raise typer.Exit(_audited(paths or (), replace(case, shown=shown), jobs or _cores()))
    if case.at is None:
        raise files.UsageError("loose files say no time: give --at TIME (when they were fetched) or --now")
    parts = auditing.audit_parts(
        files.read(report, bundles.MOST_BYTES),
        captured_at=case.at,
        nonce=nonce,
        channel=_channel(host, spki, sealed_to),
        manifest=_optional(manifest),
        exchange=_exchange(receipt, signature, request, response, session or ()),
        service="" if service == "auto" else service,
    )
    raise typer.Exit(_tell_one(Work(case).judged(str(report), parts), case, Others(), as_json=as_json))


def _audited(paths: Sequence[Path], case: Case, jobs: int) -> ExitCode:
    """Audit all bundles in these files and folders; the worst exit code."""
    others = Others()
    found = audit_find.bundles(audit_find.files(paths, others))
    first = [*islice(found, 2)]
    is_one, as_json = len(first) == 1, case.shown == "json"
    if is_one and not as_json:
        case = replace(case, shown="steps")
    outcomes = audited(chain(first, found), case, jobs)
    if is_one:
        return _tell_one(next(outcomes), case, others, as_json=as_json)
    with screen(lambda: _size(paths), above=case.shown == "problems") as to:
        watched = to.watched(outcomes)
        if as_json:
            return verdicts.worst(tell_json(watched, case.policy, others))
        return verdicts.worst(tell_many(watched, case.policy, others, to, every_step=case.shown == "steps"))


def _tell_one(one: Audited, case: Case, others: Others, *, as_json: bool) -> ExitCode:
    codes = tell_json([one], case.policy, others) if as_json else tell_one(one, case.policy)
    return verdicts.worst(codes)


def _size(paths: Sequence[Path]) -> int:
    """How many bytes there are to audit."""
    return sum(file.size for file in audit_find.files(paths, Others()))


def _cores() -> int:
    """How many cores this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _MOST_JOBS)


# What is judged ------------------------------------------------------------------------------------------------------


def _time(at: str | None, *, at_now: bool) -> int | None:
    """The time that a person gave, in Unix seconds."""
    if at_now:
        if at is not None:
            raise files.UsageError("--at and --now contradict each other")
        return now()
    if at is None:
        return None
    try:
        return int(at) if at.isascii() and at.isdigit() and len(at) < 12 else _iso(at)
    except (ValueError, OverflowError):
        raise files.UsageError(f"--at {at!r}: expected Unix seconds or ISO 8601, as in 2026-11-22T10:00:00Z") from None


def _iso(text: str) -> int:
    found = datetime.fromisoformat(text)
    return max(0, int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()))


def _channel(host: str | None, spki: str | None, sealed_to: str | None) -> Channel | None:
    if host is None and (spki or sealed_to):
        raise files.UsageError("--spki and --sealed-to need --host: keys count for a host")
    return None if host is None else Channel(host, spki, sealed_to)


def _optional(path: Path | None) -> bytes | None:
    return None if path is None else files.read(path, bundles.MOST_BYTES)


def _exchange(
    receipt: Path | None, signature: Path | None, request: Path | None, response: Path | None, sessions: Sequence[Path]
) -> Exchange | None:
    if not (receipt or signature or request or response or sessions):
        return None
    documents = [files.read(path) for path in sessions]
    if len(documents) > MOST_SESSIONS:
        raise files.UsageError(f"at most {MOST_SESSIONS} sessions can be given")
    return Exchange(
        id="the answer",
        request=_optional(request),
        response=_optional(response),
        receipt=_optional(receipt),
        signature=_optional(signature),
        sessions={_session_id(document): document for document in documents},
    )


def _session_id(document: bytes) -> str:
    try:
        return jcs.digest(jcs.parse(document)).removeprefix("sha256:")
    except ConfideError as wrong:
        raise files.UsageError(f"--session: {wrong}") from None
