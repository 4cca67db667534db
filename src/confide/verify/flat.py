"""One attestation of the older surface as its document shows it: its members in their shapes, and what they commit to.

Servers differ: ``tcb_info`` is an object or a text, ``event_log`` a text or a list, a secp256k1 key has its prefix or
not, and a gateway of ``aci/1`` nests the evidence. Everything here is well-formedness; nothing is believed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from confide.verify.demands import Gpus
from confide.verify.evidence import MOST_GPUS, MOST_QUOTE
from confide.verify.verdict import CheckFailed, bounded
from confide.wire import jcs, legacy, secp256k1
from confide.wire.binary import MalformedEvidence, from_hex
from confide.wire.legacy import FlatReport, InvalidLegacy
from confide.wire.nvgpu import parse_payload
from confide.wire.tdx import Quote, parse_quote

MOST_BYTES: Final = 8 << 20
MOST_ATTESTATIONS: Final = 64
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")
_LAYOUTS: Final = {"ecdsa": "a 20-byte address, padded", "ed25519": "a 32-byte Ed25519 key"}


@dataclass(frozen=True, slots=True)
class Claimed:
    """One attestation in a document: its JSON value, what to call it, and whether such a machine has GPUs at all."""

    value: Any
    subject: str
    has_gpus: bool = True

    @property
    def attestation_type(self) -> str | None:
        """What a gateway calls evidence that it passes on from elsewhere; None for this surface's own."""
        kind = self.value.get("attestation_type") if isinstance(self.value, dict) else None
        return kind if isinstance(kind, str) else None


@dataclass(frozen=True, slots=True)
class Layout:
    """What the first half of the quote's report data is, and the TLS key (SHA-256 of its SPKI, hex) that it binds."""

    name: str
    tls: str | None = None


@dataclass(frozen=True, slots=True)
class Dstack:
    """What the attestation shows of dstack's, as texts; ``info`` as it came."""

    event_log: str | None
    app_compose: str | None
    vm_config: str | Mapping[str, Any] | None
    info: Mapping[str, Any] | None


class _More(Struct, frozen=True):
    """Members that some servers add."""

    model_name: str | None = None
    report_data: str | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """A flat report that was read. ``key`` is None where the report shows none."""

    claim: Claimed
    report: FlatReport
    address: bytes
    quote: bytes
    key: bytes | None
    tls: str | None
    model: str | None
    report_data: bytes | None
    evidence: Mapping[str, Any]

    def parsed(self) -> Quote:
        """The quote, unverified.

        Raises:
            MalformedEvidence: it is none.
        """
        return parse_quote(self.quote)

    def check_key(self) -> str:
        """Check that the public key is that of the address.

        Raises:
            CheckFailed: it is another's.
        """
        if self.key is None:
            if self.report.signing_algo == "ed25519":
                return "the address is the key"
            return "the report shows no public key; one is recognised by its address"
        if not self.holds(self.key.hex()):
            raise CheckFailed(f"signing_public_key is {self.key.hex()}, which is not that of {self.address.hex()}")
        return self.key.hex()

    def holds(self, key: str) -> bool:
        """Whether a public key in hex is the one of the address: by its hash, or because it is the address."""
        if len(key) > 2 * 65:
            return False
        try:
            raw = from_hex(key, "the key")
            if self.report.signing_algo == "ecdsa":
                return legacy.ethereum_address(secp256k1.decode(raw)) == self.address
        except MalformedEvidence:
            return False
        return raw == self.address

    def gpus(self, nonce: bytes) -> Gpus:
        """The GPUs in ``nvidia_payload``, which must be for this nonce.

        Raises:
            CheckFailed, MalformedEvidence: it is none, for another nonce, or too long.
        """
        text = self.report.nvidia_payload
        if text is UNSET or not text:
            return Gpus(unavailable="the report has no nvidia_payload")
        payload = parse_payload(text if isinstance(text, str) else msgspec.json.encode(text))
        if payload.nonce != nonce:
            raise CheckFailed(f"nvidia_payload is for the nonce {payload.nonce.hex()}, expected {nonce.hex()}")
        if len(payload.gpus) > MOST_GPUS:
            raise CheckFailed(f"nvidia_payload has {len(payload.gpus)} devices; at most {MOST_GPUS} are read")
        return Gpus(payload.gpus, unavailable=None if payload.gpus else "the list in nvidia_payload is empty")

    def dstack(self) -> Dstack:
        """What the report shows of dstack's; a member that is not of the right type is not there."""
        info = None if self.report.info is UNSET else self.report.info
        tcb_info = _object((info or {}).get("tcb_info"))
        logs = (self.report.event_log, tcb_info.get("event_log"), self.evidence.get("event_log"))
        configs = (self.report.vm_config, (info or {}).get("vm_config"), self.evidence.get("vm_config"))
        composes = (tcb_info.get("app_compose"), self.evidence.get("app_compose"))
        return Dstack(
            event_log=next((_text(log) for log in logs if log and isinstance(log, (str, list))), None),
            app_compose=next((text for text in composes if text and isinstance(text, str)), None),
            vm_config=next((config for config in configs if config and isinstance(config, (str, dict))), None),
            info=info or None,
        )


def read_claimed(document: bytes) -> tuple[Claimed, ...]:
    """The attestations in a document: the one that it is, and the others in its list.

    Raises:
        InvalidLegacy: it is no JSON object, or its list is none or too long.
    """
    value = read_object(document)
    others = value.get("all_attestations")
    listed = bounded_list([] if others is None else others, "all_attestations")
    values = [{name: member for name, member in value.items() if name != "all_attestations"}]
    values += [other for other in listed if other != values[0]]
    own = [Claimed(one, subject_of(one, number)) for number, one in enumerate(values)]
    return tuple(_once(own))


def _once(claimed: list[Claimed]) -> list[Claimed]:
    """Without repetition: the list repeats the attestation around it, which may have more members."""
    kept: list[Claimed] = []
    reports: list[FlatReport | None] = []
    for claim in claimed:
        try:
            report = msgspec.convert(claim.value, FlatReport)
        except msgspec.ValidationError:
            report = None
        if report is None or report not in reports:
            kept.append(claim)
            reports.append(report)
    return kept


def read_object(document: bytes) -> dict[str, Any]:
    """The JSON object of a report.

    Raises:
        InvalidLegacy: it is too long, malformed, or something else.
    """
    if len(document) > MOST_BYTES:
        raise InvalidLegacy(f"the report has {len(document)} bytes; at most {MOST_BYTES} are read")
    try:
        value = jcs.parse(document)
    except jcs.InvalidJson as error:
        raise InvalidLegacy(f"the report: {error}") from None
    if not isinstance(value, dict):
        raise InvalidLegacy("the report is no JSON object")
    return value


def bounded_list(value: Any, name: str) -> list[Any]:
    """A member that is a list of attestations.

    Raises:
        InvalidLegacy: it is none, or too long.
    """
    if not isinstance(value, list):
        raise InvalidLegacy(f"{name} is no list")
    if len(value) > MOST_ATTESTATIONS:
        raise InvalidLegacy(f"{name} has {len(value)} entries; at most {MOST_ATTESTATIONS} are read")
    return value


def subject_of(value: Any, number: int) -> str:
    """What to call an attestation in findings: its address, or its place where it has none."""
    address = value.get("signing_address") if isinstance(value, dict) else None
    if isinstance(address, str) and 0 < len(address) <= 66:
        return bounded(address)
    return f"attestation {number}"


def read_shown(claim: Claimed) -> Shown:
    """The members of one attestation.

    Raises:
        InvalidLegacy, MalformedEvidence, CheckFailed: one that is needed is missing, or is not of its shape.
    """
    if claim.attestation_type is not None:
        raise InvalidLegacy(f"an attestation of the type {claim.attestation_type!r} is not one of this surface")
    try:
        report, more = msgspec.convert(claim.value, FlatReport), msgspec.convert(claim.value, _More)
    except msgspec.ValidationError as error:
        raise InvalidLegacy(f"no flat report: {error}") from None
    return Shown(
        claim=claim,
        report=report,
        address=legacy.parse_address(report.signing_algo, report.signing_address),
        quote=_quote(report),
        key=_key(report.signing_public_key),
        tls=_fingerprint(report.tls_cert_fingerprint),
        model=more.model_name,
        report_data=from_hex(more.report_data, "report_data") if more.report_data else None,
        evidence=_object(_object(claim.value.get("attestation")).get("evidence")),
    )


def layout_of(shown: Shown, report_data: bytes, seen_tls: str | None) -> Layout:
    """How the report data binds the address: with the TLS key that the report names, if it names one.

    Where it names none, the key that was seen is tried as well.

    Raises:
        CheckFailed: it doesn't.
    """
    tls = shown.tls or seen_tls
    who = report_data[:32]
    if tls is not None and who == hashlib.sha256(shown.address + bytes.fromhex(tls)).digest():
        return Layout("the SHA-256 of an address and a TLS key", tls)
    if shown.tls is not None:
        raise CheckFailed(f"the quote commits to {who.hex()}, expected the hash of its address and the TLS key {tls}")
    expected = legacy.report_data(shown.address, b"")
    if who != expected:
        raise CheckFailed(f"the quote commits to {who.hex()}, expected {expected.hex()} or its hash with a TLS key")
    return Layout(_LAYOUTS[shown.report.signing_algo])


def _quote(report: FlatReport) -> bytes:
    text = report.intel_quote
    if not 0 < len(text) <= 2 * MOST_QUOTE:
        raise InvalidLegacy(f"intel_quote is not 1 to {MOST_QUOTE} bytes in hex")
    quote = from_hex(text, "intel_quote")
    if report.quote is not UNSET and report.quote.lower() != text.lower():
        raise InvalidLegacy("quote and intel_quote are not the same")
    return quote


def _key(text: str | UnsetType) -> bytes | None:
    """A public key; that of secp256k1 may come with its prefix 04, and as a point of the curve at least."""
    if text is UNSET or text == "":
        return None
    if len(text) > 2 * 65:
        raise InvalidLegacy("signing_public_key is too long to be one")
    return from_hex(text, "signing_public_key")


def _fingerprint(text: str | UnsetType) -> str | None:
    if text is UNSET or text == "":
        return None
    if not _DIGEST.fullmatch(text):
        raise InvalidLegacy("tls_cert_fingerprint is no SHA-256 in hex")
    return text.lower()


def _object(value: Any) -> Mapping[str, Any]:
    """An object, or the object in a text."""
    if isinstance(value, str) and value:
        try:
            value = jcs.parse(value.encode())
        except jcs.InvalidJson:
            return {}
    return value if isinstance(value, dict) else {}


def _text(log: str | list[Any]) -> str:
    return log if isinstance(log, str) else msgspec.json.encode(log).decode()
