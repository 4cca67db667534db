"""``confide verify``: one verdict over what a service shows now, every step of it."""

from __future__ import annotations

import typer

from confide.cli import console, files, verdicts
from confide.cli.options import (
    ApiKey,
    ApiKeyFile,
    Collateral,
    DevRoot,
    EvidenceCache,
    Json,
    Model,
    Network,
    Policy,
    Save,
    SelfSigned,
    ServiceName,
    ShowKey,
    Timeout,
    Url,
)
from confide.cli.reach import judge, look, reach


def verify(
    url: Url,
    policy: Policy = None,
    dev_root: DevRoot = None,
    service: ServiceName = "auto",
    model: Model = None,
    self_signed: SelfSigned = False,
    network: Network = False,
    cache: EvidenceCache = None,
    collateral: Collateral = None,
    api_key_file: ApiKeyFile = None,
    api_key: ApiKey = None,
    key_for_report: ShowKey = False,
    timeout: Timeout = 60.0,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Ask a service for its evidence and check it, step by step.

    A fresh nonce is sent, and the TLS key of the very connection that the report comes over is looked at. Without
    --policy every step is shown, but nothing says which workload is accepted, so that the exit code is 2.
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
    bundle = look(where, collateral, key_for_report=key_for_report, timeout=timeout)
    if save is not None:
        files.write(save, bundle.encode())
    verdict = judge(where, bundle, where.judged_by)
    if as_json:
        console.say_json(verdicts.as_builtins(verdict, where.policy))
    else:
        verdicts.show(verdict, where.policy)
    raise typer.Exit(verdicts.exit_code(verdict, where.policy))
