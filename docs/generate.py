"""Writes what the code itself knows, reference pages and the page's steps: ``python docs/generate.py [--check]``."""

from __future__ import annotations

import sys
import typing
from functools import partial
from pathlib import Path
from typing import get_args

import engine_table
import errors
import formats
import members
import msgspec
import steps
import steps_js

from confide.api.metric_families import FAMILIES
from confide.api.metrics import OTHER
from confide.api.seen import Outcome
from confide.cli import COMMANDS
from confide.config import PREFIX, ModelSettings, Settings
from confide.engine.base import COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES
from confide.engine.embedded import PARAMETERS
from confide.wire.openai import CORE, HARMLESS, HINTS, ChatRequest

FOLDER = Path(__file__).parent / "reference"
PROOF = Path(__file__).parent.parent / "src" / "confide" / "web" / "proof"


def chat() -> str:
    """Every member of a chat request, and what becomes of it."""
    rows = ["| member | what becomes of it |", "| --- | --- |"]
    for name in ChatRequest.__struct_fields__:
        if name in CORE or name in PARAMETERS:
            fate = "honoured"
        elif name in HINTS:
            fate = "a hint: its type is checked, it may be ignored"
        elif name in HARMLESS:
            fate = f"refused, unless it is `{msgspec.json.encode(HARMLESS[name]).decode()}`"
        else:
            fate = "refused by name (`unsupported_parameter`)"
        rows.append(f"| `{name}` | {fate} |")
    return f"""# POST /v1/chat/completions: the members of a request

What the embedded engine does with each member that is known. `null` means absent. Members that no engine knows are
ignored. Members that promise a constraint on the output are all known, so that none is ignored by accident.

{chr(10).join(rows)}

* `max_completion_tokens` wins over `max_tokens`. Where the request says nothing of sampling, llama.cpp's defaults hold.
* `n` is at most the number of slots of the model; prompt tokens count once.
* Tools are always strict. At most 8 calls are made in one answer. With a call, `finish_reason` is `tool_calls`
  (`function_call` for the deprecated `functions`), also when one tool was named.
* `response_format` holds for the answer's text; with tools, for the reply where the model makes no call.
* A stop sequence ends text and replies, never a call.
* Images: data URLs of png, jpeg, webp and gif (not animated), for models with a projector; https URLs where the
  operator set `fetch_images`.
"""


def settings() -> str:
    """Every setting."""
    return f"""# Settings

One precedence: flags, then `{PREFIX}*` variables, then `confide.toml`, then defaults. The file is `--config`, else
`{PREFIX}CONFIG`, else `confide.toml` in the current folder, if there is one. A wrong value is an error at start that
names the line, the variable or the flag.

{_table(Settings, skip={"models"}, variables=True)}

## `[[model]]`

One table for each model that is served. Without any, the default of the catalogue is. `--model [ID=]SOURCE` (can be
repeated) and `{PREFIX}MODEL` (separated by commas) replace the tables.

A table has one of `source` (a file, computed in this process), `urls` (the operator's engine) and `engine` (one that
`confide` starts). Keys that go with another of the three are refused. [Engines](../how-to/engines.md) has examples.

{_table(ModelSettings, skip=set(), variables=False)}
"""


def _table(struct: type[msgspec.Struct], *, skip: set[str], variables: bool) -> str:
    head = ["| key | variable | default | what it takes |", "| --- | --- | --- | --- |"]
    hints = typing.get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        if field.name in skip:
            continue
        variable = f"`{PREFIX}{field.name.upper()}`" if variables else "-"
        head.append(f"| `{field.name}` | {variable} | {_default(field)} | {_described(hints[field.name])} |")
    return "\n".join(head)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not msgspec.NODEFAULT:
        shown = field.default
    elif field.name in ("data_dir", "cache_dir"):
        return "the user's data folder" if field.name == "data_dir" else "the user's cache folder"
    elif field.default_factory is not msgspec.NODEFAULT:
        shown = field.default_factory()
    else:
        return "required"
    return "none" if shown is None or shown == () else f"`{str(shown).lower() if isinstance(shown, bool) else shown}`"


def _described(hint: object) -> str:
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.description:
            return meta.description
    return "text"


def metrics() -> str:
    """Every metric."""
    rows = ["| metric | kind | labels | what it counts |", "| --- | --- | --- | --- |"]
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels) or "-"
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {family.help} |")
    histograms = [family for family in FAMILIES if family.buckets]
    limits = "\n".join(f"* `{one.name}`: {', '.join(f'{limit:g}' for limit in one.buckets)}" for one in histograms)
    outcomes = ", ".join(f"`{outcome}`" for outcome in get_args(Outcome))
    return f"""# Metrics

`GET /metrics`, in the Prometheus text format, on an address of its own: nowhere, unless the setting `metrics` names
one. It is never on the address that clients use. On a loopback address it asks for no key; on any other it needs
`metrics_token_file`, a file with the word that Prometheus sends as a bearer token (`authorization: credentials_file`).
It is plain HTTP: keep it on a network that you trust with the numbers.

```yaml
scrape_configs:
  - job_name: confide
    static_configs: [{{targets: ["10.0.0.11:9464", "10.0.0.12:9464"]}}]
    authorization: {{credentials_file: /etc/prometheus/confide-token}}
```

All processes of one server (`workers`) count together, and whichever is asked tells of all. A process that is started
anew goes on where the one before was. Counters begin at 0 when the server starts.

{chr(10).join(rows)}

## Labels

* `endpoint`: the path of an endpoint that takes prompts.
* `model`: the id of a model that is served. It is empty where a request was refused before it was clear which, or names
  none: what clients write is never a label.
* `outcome`: {outcomes}.
  `refused`: what the request asks for can't be had (4xx). `unavailable`: not now (429, 503). `failed`: this server or
  the engine broke, before the answer or in its middle. `left`: the client closed the connection. `stopped`: the server
  ended.
* `code`: an error's code, or its type where it has none; those that this server knows, all else is `{OTHER}`.
* `result`: `committed`, `failed`.
* `surface`: of a report: `aci`, `older`.
* `state`: of a replica: `up`, `ejected`, `trial` (left alone before, and tried again).

Upper limits of the histograms' buckets, in seconds:

{limits}

## What they give away

No prompt, no answer, no API key or its id, no receipt, no address. But numbers add up over what happens between two
looks: on a server with one request in that time, its tokens and its duration are what changed. Whoever may read metrics
may know that much of the traffic, and no more; the network shows about the same.
"""


def commands() -> str:
    """Every command, as its own help says it."""
    parts = []
    for command in COMMANDS:
        made = command.load()
        parts.append(_command(f"confide {command.name}", made, help=command.line))
        subcommands = getattr(made, "commands", {})
        parts += [_command(f"confide {command.name} {name}", inner) for name, inner in subcommands.items()]
    return f"""# Commands

What `confide COMMAND --help` says. How they end: [exit codes](exit-codes.md). The first seven need no extra; what they
check is described in [verify](../verify.md).

{chr(10).join(parts)}"""


def _command(name: str, command: typing.Any, help: str = "") -> str:
    text = command.help or help
    shown = [one for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
    words = [_written(one) for one in shown if one.param_type_name == "argument"]
    if hasattr(command, "commands"):
        return f"## {name}\n\n{text}\n"
    usage = " ".join([name, *(["[OPTIONS]"] if len(words) < len(shown) else []), *words])
    rows = ["| argument or option | default | what it is |", "| --- | --- | --- |"]
    rows += [f"| `{_written(one)}` | {_of_option(one)} | {one.help.replace('|', chr(92) + '|')} |" for one in shown]
    table = "\n" + "\n".join(rows) + "\n" if shown else ""
    return f"## {name}\n\n`{usage}`\n\n{text}\n{table}"


def _written(option: typing.Any) -> str:
    if option.param_type_name == "argument":
        return str(option.metavar or option.name.upper())
    names = ", ".join(option.opts) + "".join(f" / {name}" for name in option.secondary_opts)
    return names if option.is_flag else f"{names} {option.metavar or option.name.upper()}"


def _of_option(option: typing.Any) -> str:
    if option.required:
        return "required"
    return "-" if option.default in (None, False, "", ()) else f"`{option.default}`"


PAGES = {
    FOLDER / "chat.md": chat,
    FOLDER / "completions.md": partial(members.page, COMPLETIONS),
    FOLDER / "embeddings.md": partial(members.page, EMBEDDINGS),
    FOLDER / "responses.md": partial(members.page, RESPONSES),
    FOLDER / "messages.md": partial(members.page, MESSAGES),
    FOLDER / "commands.md": commands,
    FOLDER / "engines.md": engine_table.page,
    FOLDER / "metrics.md": metrics,
    FOLDER / "settings.md": settings,
    FOLDER / "steps.md": steps.page,
    PROOF / "catalogue.js": steps_js.module,
    PROOF / "pinned.js": steps_js.certificates,
}
PAGES |= {FOLDER / name: page for name, page in (formats.PAGES | {"errors.md": errors.page}).items()}


def main() -> int:
    """Write the pages; with ``--check``, only say whether they are as they must be."""
    stale = [path for path, page in PAGES.items() if not _is(path, page())]
    if "--check" in sys.argv:
        return int(bool(stale))
    FOLDER.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(PAGES[path]())
    return 0


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
