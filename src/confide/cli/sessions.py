"""``confide sessions``: what an aggregator verified of its upstreams, checked record by record."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
import typer

from confide.cli import console, verdicts
from confide.cli.options import (
    ApiKey,
    ApiKeyFile,
    DevRoot,
    EvidenceCache,
    Json,
    Model,
    Network,
    Policy,
    SelfSigned,
    ServiceName,
    ShowKey,
    Url,
)
from confide.cli.reach import now, open_service, reach, shown
from confide.client.service import VerifiedService
from confide.verify import session as checks
from confide.verify.context import Context
from confide.verify.fetch.base import Refused, get
from confide.verify.policy import Policy as Accepted
from confide.verify.roots import Roots
from confide.verify.session import verify_session
from confide.verify.verdict import ExitCode, Finding, Ledger, Outcome, bounded
from confide.wire.session import CLAIMS, Session

_ID: Final = re.compile(r"[0-9a-f]{64}")
_MOST: Final = 256


def sessions(
    url: Url,
    policy: Policy = None,
    dev_root: DevRoot = None,
    model: Model = None,
    service: ServiceName = "auto",
    self_signed: SelfSigned = False,
    network: Network = False,
    cache: EvidenceCache = None,
    api_key_file: ApiKeyFile = None,
    api_key: ApiKey = None,
    key_for_report: ShowKey = False,
    as_json: Json = False,
) -> None:
    """Check an aggregator, and the sessions that it has with its upstreams.

    A direct service has none: then its own verdict is all. The exit code is the worst of the verdict and of every
    session.
    """
    where = reach(
        url,
        policy=policy,
        dev_root=dev_root,
        cache=cache,
        network=network,
        self_signed=self_signed,
        service=service,
        model=model,
        key_file=api_key_file,
        api_key=api_key,
    )
    with shown(where):
        verified = open_service(where, key_for_report=key_for_report)
    verdicts.note_word(verified.verdict, where.policy)
    rows: list[_Row] = []
    if verified.established.serving == "direct":
        console.note("The service answers itself: direct, no sessions.")
    else:
        rows = _checked(verified, where.demanded(), model)
    if as_json:
        console.say_json(rows)
    elif rows:
        _show(rows)
    raise typer.Exit(verdicts.worst([verified.verdict.exit_code, *(row.exit_code for row in rows)]))


class _Row(msgspec.Struct, frozen=True):
    session_id: str
    upstream: str
    endpoint: str
    exit_code: int
    claims: dict[str, str]
    findings: tuple[Finding, ...]


def _checked(service: VerifiedService, policy: Accepted, model: str | None) -> list[_Row]:
    query = "" if model is None else f"?model={quote(model, safe='')}"
    with service.http_client() as client:
        listed = _listed(_get(client, f"/aci/sessions{query}"))
        if not listed:
            console.note("The aggregator has no session at this moment.")
        return [_row(policy, one, _get(client, f"/aci/sessions/{one}")) for one in listed]


def _get(client: httpx.Client, path: str) -> bytes:
    return get(client, f"{str(client.base_url).rstrip('/')}{path}", most=checks.MOST_BYTES).body


def _listed(body: bytes) -> list[str]:
    """The ids in the list, each once. Whatever else an entry says is not signed and not read."""
    try:
        value: Any = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Refused("the list of sessions is no JSON") from None
    entries = value.get("sessions") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise Refused("the list of sessions is not one of aci/1")
    ids = [entry.get("session_id") if isinstance(entry, dict) else None for entry in entries]
    if not all(isinstance(one, str) and _ID.fullmatch(one) for one in ids):
        raise Refused("the list of sessions names something that is no session")
    if len(ids) > _MOST:
        raise Refused(f"the list names more than {_MOST} sessions")
    return list(dict.fromkeys(map(str, ids)))


def _row(policy: Accepted, id: str, document: bytes) -> _Row:
    ledger = Ledger()
    at = now()
    session = verify_session(ledger, Context(policy, Roots(()), at), id, document, at=at)
    outcomes = {finding.outcome for finding in ledger.findings if finding.required}
    code = ExitCode.VERIFIED
    if Outcome.FAIL in outcomes:
        code = ExitCode.FAILED
    elif Outcome.NOT_CHECKED in outcomes or session is None:
        code = ExitCode.NOT_ENOUGH
    return _Row(
        session_id=id,
        upstream="" if session is None else bounded(session.upstream_name),
        endpoint="" if session is None else bounded(session.endpoint or ""),
        exit_code=code,
        claims={} if session is None else _claims(session),
        findings=tuple(ledger.findings),
    )


def _claims(session: Session) -> dict[str, str]:
    made = {name: session.claim(name) for name in CLAIMS}
    return {name: claim.status + (f" ({claim.source})" if claim.source else "") for name, claim in made.items()}


def _word(code: int) -> str:
    return {ExitCode.VERIFIED: "pass", ExitCode.FAILED: "FAIL"}.get(ExitCode(code), "not enough evidence")


def _show(rows: list[_Row]) -> None:
    shown = [(row.session_id, row.upstream, row.endpoint, _word(row.exit_code)) for row in rows]
    heads = ("session", "upstream", "endpoint", "outcome")
    verdicts.show_rows(console.stdout(), heads, shown, {"pass": "green", "FAIL": "bold red"})
    for row in rows:
        if row.exit_code:
            console.say(row.session_id)
            verdicts.show_steps(one for one in row.findings if one.outcome is not Outcome.PASS)
