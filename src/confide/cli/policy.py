"""``confide policy``: write down what a service shows now, or say in words what a file accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from confide.cli import console, files, verdicts
from confide.cli.explain import explain
from confide.cli.options import (
    ApiKey,
    ApiKeyFile,
    Collateral,
    DevRoot,
    EvidenceCache,
    Json,
    Model,
    Network,
    SelfSigned,
    ServiceName,
    ShowKey,
    Timeout,
    Url,
)
from confide.cli.reach import Reach, judge, look, reach
from confide.verify.bundle import Bundle
from confide.verify.firstuse import accepting_anything, advisories_in, policy_from
from confide.verify.policy import Policy, parse_policy, read_policy
from confide.verify.verdict import ExitCode, Verdict, bounded

app = typer.Typer(
    help="Policies: write down what a service shows now, or explain a file.", no_args_is_help=True, add_completion=False
)


@app.command("init")
def init(
    url: Url,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write it. Default: the terminal.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    name: Annotated[str, typer.Option("--name", help="What to call the policy. Default: the service's host.")] = "",
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
) -> None:
    """Write a policy that accepts what a service shows now: trusted on first use, until a person has read it.

    Every check is made that does not need a policy; where one fails, nothing is written. Exit code 0, or 3 where the
    evidence rests on a development root.
    """
    if output is not None and output.exists() and not force:
        raise files.UsageError(f"{output} is there already; --force replaces it")
    where = reach(
        url,
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
    verdict = _genuine(where, bundle)
    text = policy_from(verdict, name=name, now=verdicts.moment(verdict.at))
    code = _accepts_its_origin(where, bundle, parse_policy(text, "the new policy"))
    _write(text, output)
    raise typer.Exit(code)


def _genuine(where: Reach, bundle: Bundle) -> Verdict:
    """The verdict where everything is accepted that a policy may accept; advisories are seen first, then tolerated."""
    verdict = judge(where, bundle, accepting_anything())
    if advisories := advisories_in(verdict.facts):
        verdict = judge(where, bundle, accepting_anything(advisories))
    _stop_unless_good(verdict, accepting_anything(), "Nothing was written: what failed is no matter of policy.")
    return verdict


def _accepts_its_origin(where: Reach, bundle: Bundle, policy: Policy) -> int:
    """The exit code under the new policy, which must accept what it was made from."""
    verdict = judge(where, bundle, policy)
    _stop_unless_good(
        verdict, policy, "Nothing was written: this program can't make a policy that accepts this service."
    )
    return verdict.exit_code


def _stop_unless_good(verdict: Verdict, policy: Policy, sentence: str) -> None:
    if verdict.exit_code not in (ExitCode.VERIFIED, ExitCode.DEVELOPMENT):
        verdicts.show_problems(verdict, policy)
        console.fail(sentence)
        raise typer.Exit(verdict.exit_code)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text, nl=False)
        return
    files.write(output, text.encode())
    console.note(f"Wrote {output}. It is trusted on first use: read it, compare its values, then mark it as reviewed.")


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Say in words what a policy accepts. Exit code 2 where it can't be used."""
    policy = read_policy(file)
    if as_json:
        console.say_json({"digest": policy.digest(), "policy": policy})
        return
    for subject, said in explain(policy):
        console.say(f"{subject:<16} {bounded(said)}")
