"""Who a server is: its keyset, the statement that the hardware quotes, and the report that carries both.

Source: Attested Confidential Inference, ``aci/1``, sections 3 and 4. A keyset's shape is fixed, so it is read strictly.
The report around it is not signed as a whole and may carry members of other surfaces, which are left unread.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType, field

from confide.errors import InvalidRequest
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

ED25519: Final = "ed25519"
X25519_SUITE: Final = "x25519-aes-256-gcm-hkdf-sha256"
SECP256K1_SUITE: Final = "secp256k1-aes-256-gcm-hkdf-sha256"
PURPOSE: Final = "aci.report_data.v1"

_PUBLIC_KEYS: Final = {
    ED25519: re.compile(r"[0-9a-f]{64}"),
    X25519_SUITE: re.compile(r"[0-9a-f]{64}"),
    SECP256K1_SUITE: re.compile(r"04[0-9a-f]{128}"),
}
_NONCE: Final = re.compile(r"[0-9a-f]{64}")
_MANIFEST: Final = "confide-manifest:"


class InvalidKeyset(InvalidDocument):
    """No keyset of ``aci/1``."""

    kind = "keyset"


class InvalidReport(InvalidDocument):
    """No attestation report of ``aci/1``."""

    kind = "report"


# The keyset ----------------------------------------------------------------------------------------------------------


class PublicKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key with a name and a use. Keys of an unknown ``algo`` are kept and not used."""

    key_id: Name
    algo: Name
    public_key: Text


class TlsKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The key of a TLS certificate, for one host name or for every one."""

    spki_sha256: Hex32
    domain: Name | UnsetType = UNSET


class Keyset(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All public keys of a server: its identity."""

    subject: Text | None
    not_after: Seconds
    receipt_signing_keys: tuple[PublicKey, ...]
    e2ee_public_keys: tuple[PublicKey, ...]
    tls_public_keys: tuple[TlsKey, ...] | UnsetType = UNSET

    def document(self) -> bytes:
        """The canonical bytes, which the digest covers."""
        return jcs.canonical(plain(self))

    def digest(self) -> str:
        """What the statement names: ``sha256:`` and hex."""
        return jcs.sha256(self.document())

    def receipt_key(self, key_id: str) -> bytes:
        """The Ed25519 public key that signs receipts under this id.

        Raises:
            InvalidKeyset: there is none, or it is of another kind, which is refused and not guessed.
        """
        for key in self.receipt_signing_keys:
            if key.key_id == key_id and key.algo == ED25519:
                return bytes.fromhex(key.public_key)
        raise InvalidKeyset(f"no {ED25519} receipt key has the id {key_id!r}")

    def tls_keys_for(self, host: str) -> frozenset[str]:
        """The SPKI digests that this host may show."""
        listed = () if self.tls_public_keys is UNSET else self.tls_public_keys
        return frozenset(key.spki_sha256 for key in listed if key.domain is UNSET or _host(key.domain) == _host(host))


def parse_keyset(data: bytes) -> Keyset:
    """Read a keyset.

    Raises:
        InvalidKeyset: it breaks the protocol.
    """
    return keyset_from(read(data, InvalidKeyset))


def keyset_from(value: Any) -> Keyset:
    """A keyset from the JSON value of its document.

    Raises:
        InvalidKeyset: it breaks the protocol.
    """
    keyset = shaped(value, Keyset, InvalidKeyset)
    keys = (*keyset.receipt_signing_keys, *keyset.e2ee_public_keys)
    for key in keys:
        known = _PUBLIC_KEYS.get(key.algo)
        if known is not None and not known.fullmatch(key.public_key):
            raise InvalidKeyset(f"the public key {key.key_id!r} is no {key.algo} key in lower-case hex")
    for role in (keyset.receipt_signing_keys, keyset.e2ee_public_keys):
        if len({key.key_id for key in role}) != len(role):
            raise InvalidKeyset("two keys of one role have the same key_id")
    if len({key.public_key for key in keys}) != len(keys):
        raise InvalidKeyset("one key is listed twice; each key has one role")
    return keyset


def manifest_subject(manifest_digest: str) -> str:
    """The ``subject`` by which our servers bind the manifest of their models into the quote."""
    return _MANIFEST + manifest_digest


def subject_manifest(subject: str | None) -> str | None:
    """The manifest's digest in a ``subject`` that :func:`manifest_subject` made, or None."""
    if subject is None or not re.fullmatch(_MANIFEST + r"sha256:[0-9a-f]{64}", subject):
        return None
    return subject.removeprefix(_MANIFEST)


def _host(name: str) -> str:
    return name.strip().rstrip(".").lower()


# The statement -------------------------------------------------------------------------------------------------------


def check_nonce(nonce: str) -> None:
    """A client's nonce is 32 bytes in lower-case hex.

    Raises:
        InvalidRequest: this one isn't.
    """
    if not _NONCE.fullmatch(nonce):
        raise InvalidRequest("Invalid 'nonce': expected exactly 64 lower-case hexadecimal characters.", param="nonce")


def statement(keyset_digest: str, nonce: str | None) -> bytes:
    """The exact bytes that evidence commits to; None is the form without a challenge, which proves no freshness."""
    return jcs.canonical({"keyset_digest": keyset_digest, "nonce": nonce, "purpose": PURPOSE})


def report_data(keyset_digest: str, nonce: str | None) -> bytes:
    """The 32 bytes that the report shows and a GPU signs: the statement's SHA-256."""
    return hashlib.sha256(statement(keyset_digest, nonce)).digest()


def report_data_slot(keyset_digest: str, nonce: str | None) -> bytes:
    """The 64 bytes that the CPU's quote holds: the same, then zeros."""
    return report_data(keyset_digest, nonce).ljust(64, b"\0")


# The report ----------------------------------------------------------------------------------------------------------


class SourceProvenance(Struct, frozen=True, kw_only=True):
    """Where the code is said to come from. No quote binds it: it counts where a measurement confirms it."""

    repo_url: Text | None = None
    repo_commit: Text | None = None
    image_digest: Text | None = None
    image_provenance: Any = None


class Capabilities(Struct, frozen=True, kw_only=True):
    """What the server offers. A ``serving`` other than "direct" reads as "aggregator"."""

    supported_e2ee_versions: tuple[Name, ...] = ()
    serving: Name = "aggregator"


class Attestation(Struct, frozen=True, kw_only=True):
    """Evidence and what it is for."""

    tee_type: Name
    workload_keyset: Json
    report_data: Hex32
    source_provenance: SourceProvenance = SourceProvenance()
    evidence: Json = field(default_factory=dict)


class Report(Struct, frozen=True, kw_only=True):
    """An attestation report as it is served."""

    api_version: Version
    workload_keyset_digest: Digest
    attestation: Attestation
    service_capabilities: Capabilities = Capabilities()

    def document(self) -> bytes:
        """The JSON text."""
        return jcs.canonical(plain(self))

    def keyset(self) -> Keyset:
        """The keyset inside, read strictly.

        Raises:
            InvalidKeyset: it breaks the protocol.
        """
        return keyset_from(self.attestation.workload_keyset)


def build_report(
    keyset: Keyset,
    nonce: str | None,
    *,
    tee_type: str,
    evidence: Json,
    provenance: SourceProvenance,
    capabilities: Capabilities,
) -> Report:
    """The report over evidence that was made for :func:`report_data_slot` of this keyset and nonce."""
    document = keyset.document()
    digest = jcs.sha256(document)
    return Report(
        api_version=API_VERSION,
        workload_keyset_digest=digest,
        attestation=Attestation(
            tee_type=tee_type,
            workload_keyset=jcs.parse(document),
            report_data=report_data(digest, nonce).hex(),
            source_provenance=provenance,
            evidence=evidence,
        ),
        service_capabilities=capabilities,
    )


def parse_report(data: bytes) -> Report:
    """Read a report, and check that it names the keyset that it holds.

    What the caller still owes: that the evidence is genuine and holds :func:`report_data_slot` of this digest and of
    the nonce that was sent; expiry; provenance; custody; the channel.

    Raises:
        InvalidReport, InvalidKeyset: it breaks the protocol.
    """
    report = shaped(read(data, InvalidReport), Report, InvalidReport)
    if report.keyset().digest() != report.workload_keyset_digest:
        raise InvalidReport("workload_keyset_digest is not the digest of workload_keyset")
    return report
