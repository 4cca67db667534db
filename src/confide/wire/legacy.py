"""The surface that came before ``aci/1``: signed hashes of a request and a response, and a flat attestation report.

Source: the servers vllm-proxy (Dstack-TEE) and inference-proxy (NEAR AI), and the clients that check what they say.
``signature text`` is ``request:response`` in hex, or ``model:request:response``; it is signed twice, as an Ethereum
personal message and with Ed25519.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final, Literal, get_args

import msgspec
from Crypto.Hash import keccak
from msgspec import UNSET, Struct, UnsetType

from confide.errors import ApiError, ConfideError, InvalidRequest, NotFound
from confide.wire import jcs

Algorithm = Literal["ecdsa", "ed25519"]
MOST_ATTESTATIONS: Final = 64
ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_NONCE: Final = re.compile(r"[0-9a-fA-F]*")
_SIGNATURES: Final = {"ecdsa": re.compile(r"0x[0-9a-fA-F]{130}"), "ed25519": re.compile(r"[0-9a-fA-F]{128}")}
_ADDRESSES: Final = {"ecdsa": re.compile(r"0x[0-9a-fA-F]{40}"), "ed25519": re.compile(r"[0-9a-fA-F]{64}")}


class InvalidLegacy(ConfideError):
    """A text, signature, address or report that isn't one of this surface."""


# What is signed ------------------------------------------------------------------------------------------------------


class SignatureText(Struct, frozen=True):
    """The hashes of one exchange, hex; ``model`` only where the server signs it too."""

    request_hash: str
    response_hash: str
    model: str | None = None

    def __str__(self) -> str:
        hashes = f"{self.request_hash}:{self.response_hash}"
        return hashes if self.model is None else f"{self.model}:{hashes}"


def parse_text(text: str) -> SignatureText:
    """Read a signature text from the right, since a model's name may hold colons.

    Raises:
        InvalidLegacy: it doesn't end with two SHA-256 in lower-case hex.
    """
    *model, request, response = text.rsplit(":", 2) if ":" in text else ("", "")
    if not (_HASH.fullmatch(request) and _HASH.fullmatch(response)):
        raise InvalidLegacy("the signed text doesn't end with two SHA-256 in lower-case hex")
    if model == [""]:
        raise InvalidLegacy("the signed text names an empty model")
    return SignatureText(request, response, model[0] if model else None)


def keccak256(data: bytes) -> bytes:
    """Ethereum's hash: Keccak with the padding that it had before it became SHA-3."""
    return keccak.new(digest_bits=256, data=data).digest()


def message_hash(text: str) -> bytes:
    """What ECDSA signs: the hash of a personal message (EIP-191, version 0x45)."""
    data = text.encode()
    return keccak256(b"\x19Ethereum Signed Message:\n%d" % len(data) + data)


def ethereum_address(public_key: bytes) -> bytes:
    """The 20 bytes of an address, from the 64 bytes x and y of a secp256k1 key."""
    if len(public_key) != 64:
        raise InvalidLegacy("a secp256k1 public key is 64 bytes here: x and y without a prefix")
    return keccak256(public_key)[-20:]


def checksummed(address: bytes) -> str:
    """An address as people read it: capital letters say whether it was mistyped (EIP-55)."""
    digits = address.hex()
    marks = keccak256(digits.encode()).hex()
    return "0x" + "".join([c.upper() if int(mark, 16) >= 8 else c for c, mark in zip(digits, marks, strict=False)])


def parse_address(algorithm: Algorithm, text: str) -> bytes:
    """The bytes of a signing address: 20 of an Ethereum address, in any case, or the 32 of an Ed25519 key.

    Raises:
        InvalidLegacy: it is neither.
    """
    if not _ADDRESSES[algorithm].fullmatch(text):
        raise InvalidLegacy(f"no {algorithm} signing address")
    return bytes.fromhex(text.removeprefix("0x"))


def parse_signature(algorithm: Algorithm, text: str) -> bytes:
    """The bytes of a signature: r, s and v (27 or 28) of ECDSA, or 64 bytes of Ed25519.

    Raises:
        InvalidLegacy: it is neither.
    """
    if not _SIGNATURES[algorithm].fullmatch(text):
        raise InvalidLegacy(f"no {algorithm} signature")
    signature = bytes.fromhex(text.removeprefix("0x"))
    if algorithm == "ecdsa" and signature[64] not in (27, 28):
        raise InvalidLegacy("the v of an ecdsa signature is 27 or 28")
    return signature


# The answer of GET /v1/signature/{id} ---------------------------------------------------------------------------------


class Signed(Struct, frozen=True, kw_only=True):
    """One signature over the text, as clients get it."""

    signature: str
    signing_address: str


class Proof(Struct, frozen=True, kw_only=True):
    """Both signatures over one text."""

    text: str
    ecdsa: Signed
    ed25519: Signed

    def encode(self) -> bytes:
        """What is stored."""
        return msgspec.json.encode(self)

    def body(self, algorithm: Algorithm) -> dict[str, str]:
        """The answer for one algorithm."""
        signed = self.ecdsa if algorithm == "ecdsa" else self.ed25519
        return {
            "text": self.text,
            "signature": signed.signature,
            "signing_address": signed.signing_address,
            "signing_algo": algorithm,
        }


class Deferred(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stands for a proof that can still be made, with the keys of an epoch."""

    epoch: int

    def encode(self) -> bytes:
        """What is stored."""
        return msgspec.json.encode(self)


def decode_proof(data: bytes) -> Proof | Deferred:
    """What :meth:`Proof.encode` or :meth:`Deferred.encode` stored.

    Raises:
        InvalidLegacy: something else was stored.
    """
    try:
        if data.startswith(b'{"epoch"'):
            return msgspec.json.decode(data, type=Deferred)
        return msgspec.json.decode(data, type=Proof)
    except msgspec.MsgspecError:
        raise InvalidLegacy("the stored signatures can't be read") from None


# The report ----------------------------------------------------------------------------------------------------------


def report_data(address: bytes, nonce: bytes, spki_sha256: bytes | None = None) -> bytes:
    """The 64 bytes in the CPU's quote: who signs, padded, then the nonce.

    With the digest of a TLS key, the first half is the SHA-256 of both, which binds the connection too.
    """
    who = address.ljust(32, b"\0") if spki_sha256 is None else hashlib.sha256(address + spki_sha256).digest()
    return who + nonce


class FlatReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An attestation report of this surface. Peers differ in what is text and what is JSON; see :meth:`member`."""

    signing_address: str
    signing_algo: Algorithm
    intel_quote: str
    request_nonce: str | UnsetType = UNSET
    quote: str | UnsetType = UNSET
    signing_public_key: str | UnsetType = UNSET
    tls_cert_fingerprint: str | UnsetType = UNSET
    nvidia_payload: str | dict[str, Any] | UnsetType = UNSET
    event_log: str | list[Any] | UnsetType = UNSET
    vm_config: str | dict[str, Any] | UnsetType = UNSET
    info: dict[str, Any] | UnsetType = UNSET

    def member(self, name: Literal["nvidia_payload", "event_log", "vm_config"]) -> Any:
        """A member that may be JSON or JSON in a string, read; None where it is absent or an empty string.

        Raises:
            InvalidLegacy: it is a string that isn't JSON.
        """
        value = getattr(self, name)
        if value is UNSET or value == "":
            return None
        return _parsed(name, value.encode()) if isinstance(value, str) else value

    def body(self) -> dict[str, Any]:
        """The answer: the report, and the list that holds the same report once."""
        members: dict[str, Any] = msgspec.to_builtins(self)
        return {**members, "all_attestations": [members]}


def nvidia_payload(nonce: str, devices: list[dict[str, str]], arch: str) -> str:
    """GPU evidence in the form that NVIDIA's service takes; no devices make an empty list, never something canned.

    Args:
        nonce: 64 hex digits, the same that the devices signed.
        devices: each with ``certificate``, ``evidence`` (base64) and ``arch``.
        arch: what NVML says, "HOPPER" or "BLACKWELL".
    """
    return msgspec.json.encode({"nonce": nonce, "evidence_list": devices, "arch": arch}).decode()


def parse_flat_report(data: bytes) -> tuple[FlatReport, ...]:
    """Read a report: itself and the others in its list, without repetition.

    What the caller still owes: every check. Each report stands for itself, and its own quote must hold
    :func:`report_data` of its own address and of the nonce that was sent, not of the one that it repeats.

    Raises:
        InvalidLegacy: it is no report, or one in its list isn't.
    """
    value = _parsed("the report", data)
    others = value.get("all_attestations") if isinstance(value, dict) else None
    if others is not None and not isinstance(others, list):
        raise InvalidLegacy("all_attestations is no list")
    if len(others or ()) > MOST_ATTESTATIONS:
        raise InvalidLegacy(f"all_attestations has more than {MOST_ATTESTATIONS} entries")
    reports: list[FlatReport] = []
    for one in (value, *(others or ())):
        report = _flat(one)
        if report not in reports:
            reports.append(report)
    return tuple(reports)


def _flat(value: Any) -> FlatReport:
    try:
        report = msgspec.convert(value, FlatReport)
    except msgspec.ValidationError as error:
        raise InvalidLegacy(f"no flat report: {error}") from None
    parse_address(report.signing_algo, report.signing_address)
    return report


def _parsed(what: str, data: bytes) -> Any:
    try:
        return jcs.parse(data)
    except jcs.InvalidJson as error:
        raise InvalidLegacy(f"{what}: {error}") from None


# What clients ask for, and the errors they get ------------------------------------------------------------------------


def parse_algorithm(text: str | None) -> Algorithm:
    """The query member ``signing_algo``; ECDSA where there is none.

    Raises:
        InvalidRequest: 400, in the words that clients of this surface know.
    """
    for algorithm in ALGORITHMS:
        if text is None or text == algorithm:
            return algorithm
    raise InvalidRequest("Invalid signing algorithm. Must be 'ed25519' or 'ecdsa'", type="invalid_signing_algo")


def parse_nonce(text: str) -> bytes:
    """The query member ``nonce``: 32 bytes in hex of either case.

    Raises:
        InvalidRequest: 400, in the words that clients of this surface know.
    """
    if not _NONCE.fullmatch(text) or len(text) % 2:
        raise InvalidRequest("Nonce must be hex-encoded", param="nonce")
    if len(text) != 64:
        raise InvalidRequest("Nonce must be 32 bytes", param="nonce")
    return bytes.fromhex(text)


def same_address(left: str, right: str) -> bool:
    """Whether two addresses are the same; their letters' case means nothing."""
    return left.lower() == right.lower()


def unknown_chat() -> ApiError:
    """404 of ``GET /v1/signature/{id}``."""
    return NotFound("Chat id not found or expired", type="not_found")


def unknown_address() -> ApiError:
    """404 of ``GET /v1/attestation/report`` when it is asked for another server's address."""
    return NotFound("Signing address not found on this server", type="not_found")
