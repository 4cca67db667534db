"""``confide proxy``: a local OpenAI endpoint in front of a service that proved itself."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from confide.cli import console, verdicts
from confide.cli.options import (
    ApiKey,
    ApiKeyFile,
    DevRoot,
    EvidenceCache,
    Model,
    Network,
    NoSeal,
    Policy,
    SelfSigned,
    ServiceName,
    ShowKey,
    Url,
)
from confide.cli.reach import Reach, open_service, reach, shown
from confide.client.proxy import serve_proxy
from confide.client.service import VerifiedService


def proxy(
    url: Url,
    host: Annotated[str, typer.Option("--host", help="Address to listen on, of this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes any free one.")] = 8787,
    policy: Policy = None,
    dev_root: DevRoot = None,
    no_seal: NoSeal = False,
    service: ServiceName = "auto",
    model: Model = None,
    self_signed: SelfSigned = False,
    network: Network = False,
    cache: EvidenceCache = None,
    api_key_file: ApiKeyFile = None,
    api_key: ApiKey = None,
    key_for_report: ShowKey = False,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FOLDER", help="Keep each answer as a bundle, prompts and answers included."),
    ] = None,
) -> None:
    """A local OpenAI endpoint in front of a service, which is checked first.

    Connections go to the attested TLS key only, requests are sealed, and every receipt is checked. When the service
    changes its keys, everything is refused until it is verified again. Exit code 1 where any proof failed.
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
        seal=not no_seal,
        key_file=api_key_file,
        api_key=api_key,
    )
    with shown(where):
        verified = open_service(where, keep=save, key_for_report=key_for_report)
    _log_to_stderr()
    code = serve_proxy(verified, host, port, on_ready=lambda base_url: _announce(where, verified, base_url))
    raise typer.Exit(verdicts.worst((code, verified.verdict.exit_code)))


def _announce(where: Reach, service: VerifiedService, base_url: str) -> None:
    verdicts.note_word(service.verdict, where.policy)
    sealing = "Requests are sealed to the workload." if service.is_sealing else "Requests go through attested TLS."
    console.note(f"{sealing} Ctrl-C ends it.")
    if service.api_key is None:
        console.note("No API key was given here: programs bring their own.")
    console.note("Point any OpenAI program at it:")
    console.say(f"export OPENAI_BASE_URL={base_url}" + ("" if service.api_key is None else " OPENAI_API_KEY=none"))


class _Lines(logging.Formatter):
    """A time, a level, a constant text and what reason there is; nothing of what was asked or answered."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        parts = [self.formatTime(record, "%H:%M:%S"), record.levelname.lower(), str(record.msg)]
        named = ("method", "status", "milliseconds", "error", "reason")
        parts += [f"{name}={getattr(record, name)}" for name in named if getattr(record, name, "") != ""]
        return console.clean(" ".join(parts))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logger = logging.getLogger("confide")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
