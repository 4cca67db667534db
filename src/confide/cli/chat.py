"""``confide chat``: talk to a service that proved itself; every answer's proof is checked and shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from confide.cli import console, files, verdicts
from confide.cli.options import (
    ApiKey,
    ApiKeyFile,
    DevRoot,
    EvidenceCache,
    Model,
    Network,
    NoSeal,
    Policy,
    Save,
    SelfSigned,
    ServiceName,
    ShowKey,
    Url,
)
from confide.cli.reach import open_service, reach, shown
from confide.cli.talk import Talk

HELP = "/quit, /save FILE, /proof (of the last answer), /model [ID], /new (forget the conversation)"


def chat(
    url: Url,
    policy: Policy = None,
    dev_root: DevRoot = None,
    model: Model = None,
    once: Annotated[
        str | None, typer.Option("--once", metavar="TEXT", help="Ask this, print the answer, and end.")
    ] = None,
    save: Save = None,
    no_seal: NoSeal = False,
    service: ServiceName = "auto",
    self_signed: SelfSigned = False,
    network: Network = False,
    cache: EvidenceCache = None,
    api_key_file: ApiKeyFile = None,
    api_key: ApiKey = None,
    key_for_report: ShowKey = False,
) -> None:
    """Talk to a service that is checked first; each answer's receipt is checked too.

    Answers go to standard output, everything else to standard error; where standard input is no terminal, each line of
    it is a question. The exit code is the worst of what happened: of the verdict, and of every answer.
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
        talk = Talk(lambda keep: open_service(where, keep=keep, key_for_report=key_for_report))
        with talk:
            verdicts.note_word(talk.service.verdict, where.policy)
            talk.choose(model)
            console.note(
                f"Model: {talk.model}. " + ("Requests are sealed." if talk.service.is_sealing else "Not sealed.")
            )
            if once is not None:
                talk.ask(once)
            else:
                _converse(talk)
    if save is not None:
        talk.save(save)
    raise typer.Exit(verdicts.worst(talk.codes))


def _converse(talk: Talk) -> None:
    for line in _lines():
        word, _, rest = line.strip().partition(" ")
        if word == "/quit":
            return
        if word.startswith("/"):
            _command(talk, word, rest.strip())
        elif line.strip():
            talk.ask(line)


def _lines() -> Iterator[str]:
    """What a person types, until they end it, or what a file holds."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    import readline  # noqa: F401  (gives the prompt its editing)

    console.note(HELP)
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            console.note("")
            return


def _command(talk: Talk, word: str, rest: str) -> None:
    """One line that is no question. What goes wrong with it is said, and ends nothing."""
    try:
        if word == "/save" and rest:
            talk.save(Path(rest))
        elif word == "/proof":
            talk.show_proof()
        elif word == "/model":
            talk.choose(rest or talk.model)
            console.note(f"Model: {talk.model}")
        elif word == "/new":
            talk.forget()
        else:
            console.note(HELP)
    except files.UsageError as wrong:
        console.fail(str(wrong))
