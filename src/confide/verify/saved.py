"""What a client holds when it verifies: the report as it came, the nonce that it sent, the channel that it saw."""

from __future__ import annotations

from dataclasses import dataclass

from confide.wire.aci import Keyset
from confide.wire.legacy import Algorithm
from confide.wire.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Channel:
    """How a service is talked to, as the client itself saw it.

    ``tls_spki_sha256`` is the hex SHA-256 of the SubjectPublicKeyInfo of the certificate that the server showed, None
    without TLS; ``sealed_to`` the hex public key that requests are encrypted to, None where they are not.
    """

    host: str
    tls_spki_sha256: str | None = None
    sealed_to: str | None = None


@dataclass(frozen=True, slots=True)
class SavedReport:
    """A report of any service, byte for byte. ``nonce`` is the one that the client sent, in hex, None if it sent none.

    ``captured_at`` is when it was fetched (Unix seconds), where that is not now.
    """

    document: bytes
    nonce: str | None
    channel: Channel | None = None
    manifest: bytes | None = None
    captured_at: int | None = None


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs answers on the older surface: an address that a quote holds."""

    algorithm: Algorithm
    address: bytes


@dataclass(frozen=True, slots=True)
class Established:
    """Whose signatures count from now on, if the verdict over the same ledger is good.

    An ``aci/1`` service has a keyset with its digest; a service of the older surface has signers.
    """

    keyset: Keyset | None = None
    keyset_digest: str | None = None
    signers: tuple[Signer, ...] = ()
    manifest: Manifest | None = None
    e2ee_versions: tuple[str, ...] = ()
    serving: str = "direct"
