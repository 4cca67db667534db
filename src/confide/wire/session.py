"""An attested session: the saved proof of one verification of an upstream, named by its own digest.

Source: Attested Confidential Inference, ``aci/1``, section 8. The record is read strictly, except where the protocol
leaves room: ``identity``, claims of other names, and kinds of channel that aren't known here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Final, Literal

from msgspec import UNSET, Struct, UnsetType

from confide.wire import jcs
from confide.wire.documents import (
    API_VERSION,
    Digest,
    Hex32,
    InvalidDocument,
    Json,
    Name,
    Seconds,
    Text,
    Version,
    plain,
    read,
    shaped,
)

CLAIMS: Final = (
    "tee_attested",
    "gpu_attested",
    "tcb_up_to_date",
    "os_known_good",
    "serving_software_known_good",
    "model_weights_provenance",
)
_STATUSES: Final = frozenset({"asserted", "refuted"})
_SOURCES: Final = frozenset({"hardware_proven", "verifier_derived", "provider_asserted", "operator_asserted"})
_DATA_URI: Final = re.compile(r"data:[A-Za-z0-9!#$&^_.+/;=\"' -]+;base64,([A-Za-z0-9+/]*={0,2})")


class InvalidSession(InvalidDocument):
    """No attested session of ``aci/1``."""

    kind = "session"


class Claim(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was proven about an upstream, and by whom; a status or source that isn't known reads as "unknown"."""

    status: Name
    source: Name | UnsetType = UNSET
    reason: Text | UnsetType = UNSET


UNKNOWN: Final = Claim(status="unknown")


class TlsBinding(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tls_spki_sha256"
):
    """The upstream was reached under this TLS key."""

    origin: Text
    spki_sha256: Hex32


class E2eeBinding(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="e2ee_public_key_sha256"
):
    """What was sent to the upstream was encrypted to this key."""

    provider: Text
    algorithm: Name
    public_key_sha256: Hex32
    key_id: Name | UnsetType = UNSET


Binding = TlsBinding | E2eeBinding
_BINDINGS: Final[dict[str, type[Binding]]] = {
    "tls_spki_sha256": TlsBinding,
    "e2ee_public_key_sha256": E2eeBinding,
}


class Evidence(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bytes that the verifier consumed, in a data URI, and their digest."""

    digest: Digest
    data: str


class Session(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record. Make it with :func:`build_session`, read it with :func:`parse_session`."""

    api_version: Version
    upstream_name: Name
    endpoint: Text | None
    verifier_id: Name
    established_at: Seconds
    expires_at: Seconds
    channel_binding: tuple[Json, ...]
    claims: Json
    evidence: Evidence
    identity: Json | UnsetType = UNSET

    def document(self) -> bytes:
        """The canonical bytes, which the id covers."""
        return jcs.canonical(plain(self))

    def id(self) -> str:
        """The content address: bare hex."""
        return hashlib.sha256(self.document()).hexdigest()

    def claim(self, name: str) -> Claim:
        """One of :data:`CLAIMS`; what isn't there, or says what isn't known here, is unknown."""
        claim = shaped(self.claims[name], Claim, InvalidSession) if name in self.claims else UNKNOWN
        if claim.status not in _STATUSES or claim.source is UNSET or claim.source not in _SOURCES:
            return UNKNOWN
        return claim

    def bindings(self) -> tuple[Binding, ...]:
        """The channels that can be enforced; unknown kinds can't."""
        known = [(_BINDINGS.get(str(value.get("type"))), value) for value in self.channel_binding]
        return tuple(shaped(value, kind, InvalidSession) for kind, value in known if kind is not None)

    def evidence_bytes(self) -> bytes:
        """What the verifier consumed.

        Raises:
            InvalidSession: ``evidence.data`` is no data URI, or not what ``evidence.digest`` names.
        """
        match = _DATA_URI.fullmatch(self.evidence.data)
        if match is None:
            raise InvalidSession("evidence.data is no base64 data URI")
        try:
            data = base64.b64decode(match[1], validate=True)
        except binascii.Error as error:
            raise InvalidSession(f"evidence.data: {error}") from None
        if jcs.sha256(data) != self.evidence.digest:
            raise InvalidSession("evidence.data does not hash to evidence.digest")
        return data


def build_session(
    *,
    upstream_name: str,
    endpoint: str | None,
    verifier_id: str,
    period: tuple[int, int],
    bindings: tuple[Binding, ...],
    claims: dict[str, Claim],
    evidence: bytes,
    evidence_type: Literal["application/json", "application/octet-stream", "text/plain"] = "application/json",
    extra: Json | None = None,
    identity: Json | None = None,
) -> Session:
    """A record of what a verifier found; claims that it doesn't make are written as unknown.

    Raises:
        InvalidSession: the parts don't make a valid record.
    """
    said: Json = {name: plain(claims.get(name, UNKNOWN)) for name in CLAIMS}
    session = Session(
        api_version=API_VERSION,
        upstream_name=upstream_name,
        endpoint=endpoint,
        verifier_id=verifier_id,
        established_at=period[0],
        expires_at=period[1],
        channel_binding=tuple(plain(binding) for binding in bindings),
        claims=said if extra is None else said | {"extra": extra},
        evidence=Evidence(
            digest=jcs.sha256(evidence), data=f"data:{evidence_type};base64,{base64.b64encode(evidence).decode()}"
        ),
        identity=UNSET if identity is None else identity,
    )
    return parse_session(session.document())


def parse_session(data: bytes) -> Session:
    """Read a record, and check its evidence against its own digest.

    What the caller still owes: that :meth:`Session.id` is the id that was asked for, that claims and bindings satisfy
    the policy, and for a deep audit the evidence itself.

    Raises:
        InvalidSession: it breaks the protocol.
    """
    session = shaped(read(data, InvalidSession), Session, InvalidSession)
    if session.expires_at <= session.established_at:
        raise InvalidSession("expires_at is not after established_at")
    for name in CLAIMS:
        _check_claim(session, name)
    session.bindings()
    session.evidence_bytes()
    return session


def _check_claim(session: Session, name: str) -> None:
    """A claim has a source exactly when it says something."""
    if name not in session.claims:
        return
    claim = shaped(session.claims[name], Claim, InvalidSession)
    if claim.status == "unknown" and (claim.source is not UNSET or claim.reason is not UNSET):
        raise InvalidSession(f"the claim {name} is unknown and has a source or a reason")
    if claim.status in _STATUSES and claim.source is UNSET:
        raise InvalidSession(f"the claim {name} has no source")
