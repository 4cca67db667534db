"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file. Default: confide.toml, if there is one."),
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", metavar="FOLDER", help="Where the API keys are kept.")]
CacheDir = Annotated[Path | None, typer.Option("--cache-dir", metavar="FOLDER", help="Where fetched models are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Tee = Annotated[
    str | None,
    typer.Option(help="Where evidence comes from: auto, dstack, tdx, sev-snp, or dev. Default: auto."),
]

# Those that check a service ------------------------------------------------------------------------------------------

API_KEY_VARIABLE = "CONFIDE_API_KEY"
"""Where a key for a service is read from. ``OPENAI_API_KEY`` is not: it would go to whoever has the URL."""


def _never_in_arguments(context: typer.Context, value: str | None) -> str | None:
    source = context.get_parameter_source("api_key")
    if value is not None and source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter(
            f"arguments can be read by others on this machine: use --api-key-file or {API_KEY_VARIABLE}"
        )
    return value or None


Url = Annotated[
    str, typer.Argument(metavar="URL", help="Where the service is, with or without /v1.", show_default=False)
]
Policy = Annotated[
    Path | None, typer.Option("--policy", metavar="FILE", help="What is accepted. Make one with `confide policy init`.")
]
DevRoot = Annotated[
    Path | None,
    typer.Option(
        "--insecure-dev-root",
        metavar="FILE",
        help="Accept this root of development evidence too, which proves nothing about hardware.",
    ),
]
EvidenceCache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="FOLDER", help="Read and keep what vendors publish (collateral, RIMs) here."),
]
Network = Annotated[
    bool,
    typer.Option("--network/--offline", help="Whether vendors may be asked for what the evidence lacks."),
]
SelfSigned = Annotated[
    bool,
    typer.Option(
        "--self-signed",
        help="Take a TLS certificate that no authority signed: its key must be in the evidence all the same.",
    ),
]
ServiceName = Annotated[
    Literal["auto", "aci", "vllm-proxy", "near", "tinfoil"],
    typer.Option(
        "--service", metavar="KIND", help="How the service proves itself: auto, aci, vllm-proxy, near, or tinfoil."
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="ID", help="Which model, where the report or the conversation needs one."),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file", metavar="FILE", help=f"Holds the API key. Without it {API_KEY_VARIABLE} does, if it is set."
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar=API_KEY_VARIABLE,
        hidden=True,
        show_default=False,
        show_envvar=False,
        callback=_never_in_arguments,
    ),
]
Save = Annotated[
    Path | None, typer.Option("--save", metavar="FILE", help="Write a bundle that `confide audit` checks again.")
]
Collateral = Annotated[
    list[Path] | None,
    typer.Option(
        "--collateral",
        metavar="FILE",
        help="What vendors publish: TDX collateral, AMD certificates and CRLs, RIMs, keys of NRAS. Repeatable.",
    ),
]
ShowKey = Annotated[
    bool,
    typer.Option("--key-for-report", help="Show the API key to the service before it is verified; some demand it."),
]
Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="How long to wait for a silent service.")
]
NoSeal = Annotated[
    bool, typer.Option("--no-seal", help="Don't encrypt requests end to end; then only the attested TLS key protects.")
]
