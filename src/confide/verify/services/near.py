"""NEAR AI: a model's own server (inference-proxy), and the gateway that shows its own attestation beside its models'.

Source: nearai/inference-proxy at a9082da (``src/types.rs``, ``src/attestation.rs``), nearai/cloud-api at 54b4a7c
(``crates/api/src/routes/attestation/report.rs``, ``crates/services/src/attestation/report.rs``) and what
nearai/nearai-cloud-verifier at 9629242 (``py/model_verifier.py``) says of the deployment log.

Every attestation is a flat report with :data:`confide.verify.legacy.LEGACY` as its steps, and all of them are for the
client's nonce. The gateway signs with Ed25519 and the models with ECDSA unless one algorithm is asked for. Entries of
other networks (Chutes) have no signing address and are refused as no flat report.

A model's TD runs a compose manager, which starts containers later on: the measured compose file does not say which.
What says it is the manager's log, whose hash a second quote of the same TD holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import Struct

from confide.verify.context import Context
from confide.verify.evidence import MOST_QUOTE
from confide.verify.flat import Claimed, bounded_list, read_claimed, read_object, read_shown, subject_of
from confide.verify.legacy import verify_attestations
from confide.verify.saved import Established, SavedReport
from confide.verify.services.base import marks, query
from confide.verify.summary import stands
from confide.verify.tdx import verify_tdx
from confide.verify.verdict import CheckFailed, Ledger, NotChecked, Steps, bounded
from confide.wire import jcs, legacy
from confide.wire.binary import from_hex
from confide.wire.documents import Hex32
from confide.wire.tdx import TdReport, parse_quote

NEAR: Final = Steps.of(
    "near",
    "NEAR AI report",
    "nearai/cloud-api, AttestationResponse; nearai/nearai-cloud-verifier, compose manager",
    ("layers", "It is the report of a model's server, or a gateway's with those of the models behind it."),
    ("models", "The machines behind the gateway are attested too, where requests are decrypted and answered."),
    ("one model", "All machines say that they serve the same model."),
    ("deployment log", "The same TD quoted its log of deployments for our nonce; it tells which containers were run."),
)
MOST_ACTIONS: Final = 4096
_MOST_SHOWN: Final = 64
_SAME: Final = ("mr_td", "mr_config_id", "rtmr0", "rtmr1", "rtmr2", "rtmr3")


class _Manager(Struct, frozen=True):
    """What a compose manager shows of itself."""

    actions: list[dict[str, Any]]
    actions_hash: Hex32
    quote: str


@dataclass(frozen=True, slots=True)
class _Layers:
    """The attestations of a document: a gateway's where it has one, then those of the models' machines."""

    gateway: Claimed | None
    machines: tuple[Claimed, ...]

    @property
    def claimed(self) -> tuple[Claimed, ...]:
        return self.machines if self.gateway is None else (self.gateway, *self.machines)


class Near:
    """Reports of NEAR AI, direct and through its gateway."""

    name = "near"

    def path(self, nonce: str, model: str | None = None) -> str:
        """Where a service shows its report: with the TLS key in it, and one algorithm for both layers."""
        return query(
            "/v1/attestation/report",
            model=model,
            nonce=nonce,
            signing_algo="ecdsa",
            include_tls_fingerprint="true",
        )

    def recognises(self, document: bytes) -> bool:
        """Whether it has the gateway's layers, or is a flat report that names its model."""
        found = marks(document)
        is_layered = found.has("gateway_attestation") or found.has("model_attestations")
        return is_layered or found.has("model_name", "signing_address", "intel_quote")

    def verify(self, ledger: Ledger, context: Context, saved: SavedReport) -> Established | None:
        """Check every layer, and that what was deployed behind the compose files is told truly."""
        layers: _Layers | None = None
        with ledger.group(NEAR) as checks:
            read = checks.need(1, lambda: _read(saved.document), _said)
            layers = read
            checks.check(2, lambda: _check_machines(context, read))
            checks.check(3, lambda: _check_model(ledger, read))
            checks.check(4, lambda: _check_logs(ledger, context, saved, read))
        return None if layers is None else verify_attestations(ledger, context, saved, layers.claimed)


def _read(document: bytes) -> _Layers:
    value = read_object(document)
    if "gateway_attestation" not in value and "model_attestations" not in value:
        return _Layers(None, read_claimed(document))
    gateway = value.get("gateway_attestation")
    if not isinstance(gateway, dict):
        raise CheckFailed("found models without the gateway that shows them")
    listed = bounded_list(value.get("model_attestations", []), "model_attestations")
    machines = tuple(Claimed(one, subject_of(one, number)) for number, one in enumerate(listed, 1))
    return _Layers(Claimed(gateway, f"gateway {subject_of(gateway, 0)}", has_gpus=False), machines)


def _said(layers: _Layers) -> str:
    machines = f"{len(layers.machines)} machines"
    return machines if layers.gateway is None else f"a gateway and {machines}"


def _check_machines(context: Context, layers: _Layers) -> None:
    if not layers.machines:
        reason = "the gateway shows no machine behind it, to which requests go on"
        raise NotChecked(reason, required=context.policy.sessions.required)


def _check_model(ledger: Ledger, layers: _Layers) -> str:
    values = (claim.value.get("model_name") if isinstance(claim.value, dict) else None for claim in layers.machines)
    names = sorted({bounded(name) for name in values if isinstance(name, str)})
    ledger.facts["near"] = {"models": names, "deployments": {}}
    if len(names) > 1:
        raise CheckFailed(f"found machines for {', '.join(names)}, expected one model")
    if not names:
        raise NotChecked("no machine says which model it serves", required=False)
    return f"{names[0]}, as the server says"


# The log of deployments ----------------------------------------------------------------------------------------------


def _check_logs(ledger: Ledger, context: Context, saved: SavedReport, layers: _Layers) -> str:
    logs = [(claim, log) for claim in layers.machines if (log := _log(claim)) is not None]
    for claim, log in logs:
        ledger.facts["near"]["deployments"][claim.subject] = _check_log(ledger, context, saved, claim, log)
    if len(logs) < len(layers.machines) or not logs:
        raise NotChecked(f"{len(logs)} of {len(layers.machines)} machines show their log", required=False)
    return f"{len(logs)} logs"


def _log(claim: Claimed) -> Any:
    """The member, which a server may have put in a text; None where there is none."""
    value = claim.value.get("compose_manager_attestation") if isinstance(claim.value, dict) else None
    return jcs.parse(value.encode()) if isinstance(value, str) else value


def _check_log(
    ledger: Ledger, context: Context, saved: SavedReport, claim: Claimed, value: Any
) -> list[dict[str, str]]:
    """Check that the TD of an attestation quoted exactly this log for our nonce; the last entries of it."""
    try:
        log = msgspec.convert(value, _Manager)
    except msgspec.ValidationError as error:
        raise CheckFailed(f"no log of a compose manager: {error}") from None
    if len(log.actions) > MOST_ACTIONS or len(log.quote) > 2 * MOST_QUOTE:
        raise CheckFailed(f"found {len(log.actions)} actions; at most {MOST_ACTIONS} are read")
    if log.actions_hash not in _hashes(log.actions):
        raise CheckFailed(f"actions_hash is {log.actions_hash}, expected {' or '.join(_hashes(log.actions))}")
    td = _quoted(ledger, context, from_hex(log.quote, "the compose manager's quote"), claim.subject)
    own = read_shown(claim).parsed().report
    other = [name for name in _SAME if getattr(td, name) != getattr(own, name)]
    if other:
        raise CheckFailed(f"found the log of another TD: {', '.join(other)} differ from those of {claim.subject}")
    if saved.nonce is None:
        raise NotChecked("the verifier sent no nonce, so that this log may be old", required=False)
    expected = bytes.fromhex(log.actions_hash) + legacy.parse_nonce(saved.nonce)
    if td.report_data != expected:
        raise CheckFailed(f"the quote commits to {td.report_data.hex()}, expected {expected.hex()}")
    return [_shown(action) for action in log.actions[-_MOST_SHOWN:]]


def _quoted(ledger: Ledger, context: Context, quote: bytes, subject: str) -> TdReport:
    before = len(ledger.findings)
    verify_tdx(ledger, context, quote, subject=f"{subject} compose manager")
    stands(ledger.findings[before:], "the compose manager's quote")
    return parse_quote(quote).report


def _hashes(actions: list[dict[str, Any]]) -> tuple[str, str]:
    """SHA-256 of the log with its members in order of their names, and as older managers wrote it: as they came."""
    spellings = (jcs.canonical(actions), msgspec.json.encode(actions))
    first, second = (hashlib.sha256(spelling).hexdigest() for spelling in spellings)
    return first, second


def _shown(action: Mapping[str, Any]) -> dict[str, str]:
    members = ("timestamp", "action", "tag", "commit", "file", "file_sha256", "image")
    return {name: bounded(action[name]) for name in members if isinstance(action.get(name), str)}
