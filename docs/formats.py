"""The pages of policies, claims, bundles and receipts: every member of the code's own types, with words for each.

A member without words here, or words for a member that is gone, stops the build.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from confide.verify import bundle, claims, material, policy, saved
from confide.wire import receipt

POLICY: Final = {
    "version": "1",
    "name": "what verdicts call it",
    "trust": "`first use`: a program wrote it and nobody has read it; every verdict says so",
    "roots": "whose pinned roots are accepted; required",
    "unsafe_any_workload": "accept every workload on genuine hardware; without it something must name the workload",
    "tdx.statuses": "the statuses of Intel's TCB that are accepted",
    "tdx.advisories": "the Intel advisories that are tolerated; any other is refused",
    "tdx.grace_days": "how long ago the patches of an accepted status that begins with OutOfDate may be from",
    "tdx.minimum_evaluation_number": "the least number of Intel's TCB evaluation, so that old collateral isn't enough",
    "tdx.dynamic_platform": "accept a platform that can change its configuration (clouds do)",
    "tdx.cached_keys": "accept a platform whose keys Intel's registration service keeps (clouds do)",
    "tdx.smt": "accept sibling threads",
    "tdx.perfmon": "accept a TD that counts performance events, which leak",
    "tdx.measurements": "the TDs that are accepted; one entry must match in every register that it names",
    "tdx.measurements.mr_td": "the firmware that the TD began with",
    "tdx.measurements.mr_seam": "the TDX module",
    "tdx.measurements.mr_config_id": "what the host configured, such as dstack's application",
    "tdx.measurements.rtmr0": "firmware configuration and ACPI tables",
    "tdx.measurements.rtmr1": "kernel",
    "tdx.measurements.rtmr2": "kernel command line and initial file system",
    "tdx.measurements.rtmr3": "what the OS measured at run time, such as dstack's compose file",
    "tdx.measurements.note": "for people",
    "snp.vlek": "accept reports signed by a key that the cloud loaded, which names no chip",
    "snp.smt": "accept sibling threads",
    "snp.migration_agent": "accept a guest that a migration agent may move",
    "snp.most_privileged_only": "the report must be of privilege level 0",
    "snp.minimum_tcb": "the least security versions, of the reported, committed, current and launch TCB alike",
    "snp.minimum_tcb.fmc": "of the FMC (Turin)",
    "snp.minimum_tcb.bootloader": "of the boot loader",
    "snp.minimum_tcb.tee": "of the TEE's firmware",
    "snp.minimum_tcb.snp": "of the SNP firmware",
    "snp.minimum_tcb.microcode": "of the microcode",
    "snp.measurements": "the guests that are accepted; every member that an entry names must be equal",
    "snp.measurements.measurement": "the launch measurement; required",
    "snp.measurements.host_data": "what the host bound at launch",
    "snp.measurements.id_key_digest": "the digest of the key that signed the guest's identity",
    "snp.measurements.note": "for people",
    "dstack.compose_hashes": "SHA-256 of accepted app-compose documents",
    "dstack.os_images": "digests of accepted OS images",
    "dstack.app_ids": "accepted application ids",
    "dstack.key_providers": "the KMS: its CA as measured, or its secp256k1 root key, which makes custody required",
    "gpu.required": "evidence of GPUs must be there and pass",
    "gpu.count": "how many GPUs exactly",
    "gpu.switches": "how many NVSwitches exactly",
    "gpu.architectures": "accepted ones, such as `HOPPER`",
    "gpu.drivers": "accepted driver versions",
    "gpu.measurements": "they must equal NVIDIA's reference values; without it only genuineness is shown",
    "gpu.nras": "a token of NVIDIA's attestation service must be there and pass as well",
    "models.manifests": "digests of accepted model manifests",
    "provenance.repositories": "accepted `repo_url` values",
    "provenance.commits": "accepted `repo_commit` values",
    "provenance.images": "accepted image digests; the measured compose file may run no other",
    "keys.custody": "a KMS's signatures over the private keys' release must be there and pass",
    "keys.longest_days": "how far in the future a keyset may end",
    "keys.subjects": "accepted subjects of the keyset; any, where there are none",
    "channel.require": "the TLS key is in the keyset (`tls`), requests are sealed (`sealed`), `both`, or `either`",
    "receipts.rewritten": "tolerate a request that was forwarded with other bytes, as for engines behind HTTP",
    "sessions.required": "an aggregator's answers must cite verified sessions with their upstreams",
    "sessions.claims": "claims that these sessions must carry, and whose word is accepted; as `claims`",
    "age.report_days": "how old saved evidence may be when it is audited",
    "claims": "claims that the service must satisfy, and whose word is accepted for each",
}

BUNDLE: Final = {
    "confide_bundle": "1: the version of this format",
    "captured_at": "when the report was fetched, Unix seconds; what dates are compared with in an audit",
    "report": "the attestation report, byte for byte",
    "url": "where it was fetched",
    "service": "which adapter reads it; empty or `aci` for this project's servers",
    "nonce": "the nonce that the client sent, hex",
    "channel": "how the service was talked to, as the client saw it",
    "channel.host": "the host's name",
    "channel.tls_spki_sha256": "hex SHA-256 of the public key of the certificate that was shown; null without TLS",
    "channel.sealed_to": "hex public key that requests were encrypted to; null where they were not",
    "manifest": "the model manifest, byte for byte",
    "material": "what vendors signed: collateral, certificates, CRLs, reference values, tokens",
    "material.kind": "which kind",
    "material.key": "what it is for: an FMSPC, a RIM id, …",
    "material.data": "the artefact as it came",
    "material.source": "where it came from; an audit says `bundle` in any case",
    "exchanges": "requests and answers",
    "exchanges.id": "the answer's id",
    "exchanges.sealed": "whether the request was encrypted end to end",
    "exchanges.model": "the model that was asked for",
    "exchanges.request": "the bytes that the receipt hashes",
    "exchanges.response": "the answer's bytes as they came off the wire",
    "exchanges.receipt": "the receipt of `aci/1`",
    "exchanges.signature": "the signature of the older surface",
    "exchanges.sessions": "the session documents that the receipt cites, by id",
}

RECEIPT: Final = {
    "api_version": "`aci/1`",
    "receipt_id": "its id, as `X-Receipt-Id` names it",
    "chat_id": "the answer's `id`; null where there was no answer",
    "model": "the model that was asked for, if it is one of the server's; else null",
    "workload_keyset_digest": "the keyset that the signing key is in",
    "endpoint": "the path",
    "method": "the method",
    "served_at": "when the request was read, Unix seconds",
    "event_log": "the events, in order",
    "key_id": "which key of the keyset signed",
    "signature": "Ed25519 over the canonical JSON (RFC 8785) of all other members, hex",
}

EVENTS: Final = {
    "request.received": {"body_hash": "of the request's body: as it came, or as its protection restored it"},
    "request.forwarded": {"body_hash": "of the bytes that an engine in another process was sent"},
    "upstream.verified": {
        "result": "`verified` or `failed`",
        "required": "whether the answer depended on it",
        "model_id": "the upstream's model",
        "session_id": "the session that established it",
        "reason": "why there is none",
        "upstream_name": "the operator's name for the upstream",
    },
    "response.returned": {"body_hash": "of the answer's body as it was written, framing of a stream included"},
    "response.aborted": {"reason": "why the answer ended early"},
    "model.manifest": {"digest": "of the manifest of the models that the server runs"},
}

SOURCES: Final = {
    "hardware_proven": "a vendor's signature over the evidence itself says so",
    "verifier_derived": "this verification compared proven values with the policy's",
    "provider_asserted": "the provider says so; nothing here shows it",
    "operator_asserted": "the operator says so; nothing here shows it",
}


# Policies ------------------------------------------------------------------------------------------------------------


def policies() -> str:
    """Every member of a policy."""
    _same("docs/formats.py, POLICY", [path for path, _, _ in _members(policy.Policy)], POLICY)
    top, tables = _split(policy.Policy, POLICY)
    sections = [f"## `[{name}]`\n\n{said}\n\n{_TABLE}\n{chr(10).join(rows)}\n" for name, said, rows in tables]
    return f"""# Policies

What one relying party accepts: a TOML file for `--policy`, or `confide.Policy` in Python. `confide policy init URL -o
policy.toml` writes one from what a service shows now, `confide policy check FILE` says in words what one accepts.
Unknown members are errors. A policy must name a root and a workload: measurements, compose hashes, OS images, manifests
or image digests. What is never acceptable (a guest that can be debugged, evidence for another nonce) is no option.

```toml
name = "acme"
roots = ["intel", "nvidia"]

[[tdx.measurements]]
mr_td = "{"ab" * 48}"

[gpu]
required = true
measurements = true

[claims]
tee_attested = ["hardware_proven"]
```

{_TABLE}
{chr(10).join(top)}

{chr(10).join(sections)}"""


_TABLE: Final = "| member | default | what it says |\n| --- | --- | --- |"


def _split(struct: type[Struct], words: Mapping[str, str]) -> tuple[list[str], list[tuple[str, str, list[str]]]]:
    top, tables = [], []
    for field in msgspec.structs.fields(struct):
        part = _struct_in(field.type)
        if part is None:
            top.append(f"| `{field.name}` | {_default(field)} | {words[field.name]}{_choices(field.type)} |")
            continue
        inner = [(path, one) for path, one, _ in _members(part)]
        rows = [
            f"| `{path}` | {_default(one)} | {words[f'{field.name}.{path}']}{_choices(one.type)} |"
            for path, one in inner
        ]
        tables.append((field.name, inspect.cleandoc(part.__doc__ or "").replace("``", "`"), rows))
    return top, tables


def _members(struct: type[Any], prefix: str = "") -> Iterator[tuple[str, Any, type[Any]]]:
    """``(dotted path, field, struct it is in)``, depth first; a part without words of its own comes by its members."""
    for field in msgspec.structs.fields(struct):
        part = _struct_in(field.type)
        if part is None or prefix or _repeats(field.type):
            yield f"{prefix}{field.name}", field, struct
        if part is not None:
            yield from _members(part, f"{prefix}{field.name}.")


def _struct_in(hint: Any) -> type[Struct] | None:
    if isinstance(hint, type) and issubclass(hint, Struct):
        return hint
    return next((found for inner in typing.get_args(hint) if (found := _struct_in(inner))), None)


def _repeats(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def _default(field: Any) -> str:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return "required"
    if value is None or value in ((), {}, ""):
        return "none"
    if isinstance(value, Struct):
        return "as below"
    text = msgspec.json.encode(value).decode()
    return f"`{text}`"


def _choices(hint: Any) -> str:
    """The words that a member may be, where they are few and not said otherwise."""
    if typing.get_origin(hint) is dict:
        return " ([names and sources](claims.md))"
    found = [word for word in _literals(hint) if isinstance(word, str)]
    return f". Of: {', '.join(f'`{word}`' for word in found)}" if found else ""


def _literals(hint: Any) -> Iterator[object]:
    for inner in typing.get_args(hint):
        if typing.get_origin(hint) is typing.Literal:
            yield inner
        else:
            yield from _literals(inner)


# Claims --------------------------------------------------------------------------------------------------------------


def the_claims() -> str:
    """Every claim, and every source of one."""
    _same("docs/formats.py, SOURCES", list(typing.get_args(policy.ClaimSource)), SOURCES)
    rows = [f"| `{step.title}` | `{step.id}` | {step.proves} |" for step in claims.CLAIMS.steps]
    sources = [f"| `{name}` | {said} |" for name, said in SOURCES.items()]
    return f"""# Claims

What a verdict says in the terms of ACI `aci/1`, section 8.3. Claims are derived from the steps that were made, never
from what a service says of itself. Each is `asserted`, `refuted` (a step that it rests on failed) or `unknown` (one
could not be made), with a source and a reason. Under a development root every claim is `unknown`: behind it stands no
hardware.

| claim | step | what it says |
| --- | --- | --- |
{chr(10).join(rows)}

A policy demands claims, and says whose word it accepts, in its table `[claims]`; for an aggregator's upstreams in
`[sessions.claims]`. A claim that is demanded and refuted, or from another source, fails; one that is unknown is
missing.

| source | whose word |
| --- | --- |
{chr(10).join(sources)}
"""


# Bundles -------------------------------------------------------------------------------------------------------------


def bundles() -> str:
    """Every member of a bundle."""
    found = ["confide_bundle", *_bundle_paths()]
    _same("docs/formats.py, BUNDLE", found, BUNDLE)
    rows = [f"| `{path}` | {BUNDLE[path]} |" for path in found]
    kinds = ", ".join(f"`{kind}`" for kind in typing.get_args(material.Kind))
    return f"""# Bundles

One JSON file that holds everything a verdict needs: `confide chat --save FILE`, `confide proxy --save FOLDER`,
`confide verify --save FILE` and the library write it, `confide audit` reads it, without a network. Bytes are in
base64. Members that have their default are left out; unknown members are errors. At most {bundle.MOST_BYTES >> 20} MiB
and {bundle.MOST_EXCHANGES} exchanges.

Nothing in a bundle is believed for being in it: signatures and hashes decide. What only the writer can know are the
nonce, the channel and the time. A bundle holds prompts and answers, so it is as confidential as they are.

| member | what it is |
| --- | --- |
{chr(10).join(rows)}

Kinds of material: {kinds}.
"""


def _bundle_paths() -> Iterator[str]:
    parts: dict[str, Any] = {"channel": saved.Channel, "material": material.Item, "exchanges": bundle.Exchange}
    for name in bundle.Bundle.__struct_fields__:
        yield name
        part = parts.get(name)
        names = () if part is None else getattr(part, "__struct_fields__", None) or tuple(part.__dataclass_fields__)
        yield from (f"{name}.{inner}" for inner in names)


# Receipts ------------------------------------------------------------------------------------------------------------


def receipts() -> str:
    """Every member of a receipt, and every event."""
    _same("docs/formats.py, RECEIPT", list(receipt._Document.__struct_fields__), RECEIPT)  # noqa: SLF001
    kinds = {kind.__struct_config__.tag: kind for kind in typing.get_args(receipt._Known)}  # noqa: SLF001
    _same("docs/formats.py, EVENTS", list(kinds), EVENTS)
    rows = [f"| `{name}` | {said} |" for name, said in RECEIPT.items()]
    events = []
    for tag, kind in kinds.items():
        _same(f"docs/formats.py, EVENTS, {tag}", list(kind.__struct_fields__), EVENTS[tag])
        hints = {field.name: field.type for field in msgspec.structs.fields(kind)}
        events += [f"| `{tag}` | `{name}` | {said}{_reasons(tag, hints[name])} |" for name, said in EVENTS[tag].items()]
    return f"""# Receipts

What the server says, under a signature, about one request: `GET /v1/aci/receipts/{{id}}`, by the id in `X-Receipt-Id`
or by the answer's id, with the API key that asked. There is one for each request whose body was read as what its
endpoint takes: answered, refused, failed in mid-stream, or left by the client. It is stored before the last byte of the
answer leaves, and kept for `receipt_days`. Source: ACI `aci/1`, section 7.

| member | what it is |
| --- | --- |
{chr(10).join(rows)}

## Events

| event | member | what it is |
| --- | --- | --- |
{chr(10).join(events)}

`request.received` comes first and once, `response.returned` once. `request.forwarded` is there where another engine
computed the answer, and differs from `request.received` by what the server put in or translated. `upstream.verified` is
written by aggregators, which this server is not; its verifier reads it. An event of a type that isn't known means
nothing and stays under the signature.
"""


def _reasons(tag: str, hint: Any) -> str:
    return _choices(hint) if tag == "response.aborted" else ""


def _same(where: str, found: list[str], described: Mapping[str, object]) -> None:
    if missing := [name for name in found if name not in described]:
        raise RuntimeError(f"{where} has no words for {', '.join(missing)}")
    if gone := [name for name in described if name not in found]:
        raise RuntimeError(f"{where} describes {', '.join(gone)}, which are gone")


PAGES: Final = {"bundles.md": bundles, "claims.md": the_claims, "policy.md": policies, "receipts.md": receipts}
