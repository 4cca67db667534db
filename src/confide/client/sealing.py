"""Which key requests are encrypted to, and how: end-to-end encryption of ``aci/1`` (version 2), and the older one.

The key is read from a report before that is verified, since the verdict is also about it: the checks of the report's
kind say whether it is an attested one (``Channel.sealed_to``).
"""

from __future__ import annotations

from typing import Final

from confide.errors import ConfideError
from confide.seal import aci_v2, legacy
from confide.seal.client import SealedCall
from confide.seal.errors import CannotSeal
from confide.verify.flat import read_claimed, read_shown
from confide.wire.aci import SECP256K1_SUITE, X25519_SUITE, PublicKey, parse_report
from confide.wire.documents import InvalidDocument
from confide.wire.legacy import ALGORITHMS, parse_algorithm

ACI: Final = "aci"
OLDER: Final = "vllm-proxy"
"""NEAR AI's servers share its headers, and not its ciphertexts."""
_SUITES: Final = (X25519_SUITE, SECP256K1_SUITE)
_VERSION: Final = "2"
_CHAT: Final = "/v1/chat/completions"


def offered_key(service: str, document: bytes) -> PublicKey | None:
    """The key that a report offers for encryption, the X25519 one first; None where it offers none that is known."""
    if service == ACI:
        return _of_keyset(document)
    return _of_flat_report(document) if service == OLDER else None


def _of_keyset(document: bytes) -> PublicKey | None:
    try:
        report = parse_report(document)
        offered = report.keyset().e2ee_public_keys
    except InvalidDocument:
        return None
    if _VERSION not in report.service_capabilities.supported_e2ee_versions:
        return None
    return next((key for suite in _SUITES for key in offered if key.algo == suite), None)


def _of_flat_report(document: bytes) -> PublicKey | None:
    """The key of the first attestation, which must turn out to be that of the address in the quote."""
    try:
        shown = read_shown(read_claimed(document)[0])
    except ConfideError:
        return None
    algorithm = shown.report.signing_algo
    key = shown.address if algorithm == "ed25519" else shown.key
    return None if key is None else PublicKey(key_id=algorithm, algo=algorithm, public_key=key.hex())


def seal(body: bytes, path: str, key: PublicKey, now: float) -> SealedCall:
    """Encrypt a request.

    Raises:
        CannotSeal: it has nothing to encrypt, or the endpoint has no encryption.
        BadKey: the key can't be used.
    """
    if key.algo not in ALGORITHMS:
        return aci_v2.seal_request(body, path, key.algo, key.public_key, now)
    if path != _CHAT:
        raise CannotSeal(f"Encryption is not defined for {path}.")
    return legacy.seal_request(body, parse_algorithm(key.algo), key.public_key, now)


def hashed(call: SealedCall, key: PublicKey) -> bytes:
    """The request as the service hashes it: restored in ``aci/1``, as it was sent on the older surface."""
    return call.body if key.algo in ALGORITHMS else call.restored
