"""``confide audit``: verdicts over files, without a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from confide.cli import console, files, verdicts
from confide.cli.options import Collateral, DevRoot, Json, Policy, ServiceName
from confide.cli.reach import now, read_roots
from confide.errors import ConfideError
from confide.verify import audit as auditing
from confide.verify import bundle as bundles
from confide.verify.bundle import Bundle, Exchange
from confide.verify.firstuse import accepting_anything
from confide.verify.material import Material
from confide.verify.policy import Policy as Accepted
from confide.verify.policy import read_policy
from confide.verify.receipt import MOST_SESSIONS
from confide.verify.roots import Root
from confide.verify.saved import Channel
from confide.verify.verdict import ExitCode, Verdict
from confide.wire import jcs

_MOST_FILES = 10_000
_LOOSE = "Loose files"


@dataclass(frozen=True, slots=True)
class _Case:
    """What every bundle of one command is judged with. ``at`` is in Unix seconds; None is each bundle's own time."""

    policy: Accepted | None
    development: tuple[Root, ...]
    material: Material
    at: int | None


@dataclass(frozen=True, slots=True)
class _Audited:
    """What became of one file: a verdict, or an error that left nothing to judge."""

    name: str
    code: int
    verdict: Verdict | None = None
    problem: str = ""
    captured_at: int | None = None


def _file(name: str, help: str) -> Any:
    return typer.Option(f"--{name}", metavar="FILE", help=help, rich_help_panel=_LOOSE)


def audit(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Bundles, or folders whose *.json files are.", show_default=False),
    ] = None,
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
    as_json: Json = False,
) -> None:
    """Check saved evidence, receipts and answers again. Never uses a network.

    Dates are compared with the time of capture that each bundle states: what was good then. --now asks whether it
    still is. The exit code is the worst of all: 1 before 2, then 5, 3 and 0.
    """
    loose = [manifest, receipt, signature, request, response, *(session or ()), nonce, host, spki, sealed_to]
    if bool(paths) == (report is not None):
        raise files.UsageError("give bundles or folders, or one report with --report")
    if report is None and any(one is not None for one in loose):
        raise files.UsageError("receipts, bytes, nonces and channels go with --report; a bundle has its own")
    case = _Case(
        policy=None if policy is None else read_policy(policy),
        development=read_roots(dev_root),
        material=Material(files.material(collateral or ())),
        at=_time(at, at_now=at_now),
    )
    if report is None:
        found = [_audited(path, case) for path in _files(paths or ())]
    else:
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
        found = [_judged(str(report), parts, case)]
    _tell(found, case.policy, as_json=as_json)
    raise typer.Exit(verdicts.worst(one.code for one in found))


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


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    count = 0
    for path in paths:
        inside = sorted(one for one in path.glob("*.json") if one.is_file()) if path.is_dir() else [path]
        if not inside:
            raise files.UsageError(f"the folder {path} holds no *.json file")
        count += len(inside)
        if count > _MOST_FILES:
            raise files.UsageError(f"these are more than {_MOST_FILES} files")
        yield from inside


def _audited(path: Path, case: _Case) -> _Audited:
    try:
        bundle = _bundle(path)
    except ConfideError as wrong:
        return _failed(str(path), wrong)
    return _judged(str(path), bundle, case)


def _bundle(path: Path) -> Bundle:
    data = files.read(path, bundles.MOST_BYTES)
    try:
        return bundles.parse_bundle(data)
    except bundles.BundleError as wrong:
        hint = "; an attestation report goes with --report" if b"workload_keyset" in data else ""
        raise files.UsageError(f"{path}: {wrong}{hint}") from None


def _judged(name: str, bundle: Bundle, case: _Case) -> _Audited:
    try:
        verdict = auditing.audit(
            bundle,
            case.policy or accepting_anything(),
            now=bundle.captured_at if case.at is None else case.at,
            development=case.development,
            material=case.material,
        )
    except ConfideError as wrong:
        return _failed(name, wrong)
    return _Audited(name, verdicts.exit_code(verdict, case.policy), verdict, captured_at=bundle.captured_at)


def _failed(name: str, wrong: ConfideError) -> _Audited:
    return _Audited(name, int(getattr(wrong, "exit_code", ExitCode.FAILED)), problem=str(wrong))


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


# What is said --------------------------------------------------------------------------------------------------------


def _tell(found: Sequence[_Audited], policy: Accepted | None, *, as_json: bool) -> None:
    if as_json:
        audits = [
            {"file": one.name, "exit_code": one.code, "problem": one.problem or None}
            | ({"verdict": verdicts.as_builtins(one.verdict, policy)} if one.verdict else {})
            for one in found
        ]
        console.say_json({"exit_code": verdicts.worst(one.code for one in found), "audits": audits})
        return
    for one in found:
        if len(found) > 1:
            console.say(one.name, "bold")
        if one.verdict is None:
            console.fail(one.problem)
        else:
            verdicts.show(one.verdict, policy)
            if one.captured_at == one.verdict.at:
                console.say("Dates were compared with the time that the bundle states; --now compares with the clock.")
    if len(found) > 1:
        _count(found)


def _count(found: Sequence[_Audited]) -> None:
    codes = [one.code for one in found]
    said = ", ".join(
        f"{codes.count(code)} with exit code {code.value}" for code in verdicts.WORST_FIRST if code in codes
    )
    console.say(f"{len(found)} files: {said}")
