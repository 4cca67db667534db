"""Tokens of NVIDIA's Remote Attestation Service (NRAS), which compares evidence with reference measurements itself.

An answer is a detached EAT bundle: one token with the overall result, and one for each GPU, whose digests the first
one names. What it proves rests on NVIDIA's service and on its published keys, which no pinned root stands behind; so
keys that came along with the evidence count for nothing, and no anchor is added to the verdict.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from confide.errors import ConfideError
from confide.verify.context import Context
from confide.verify.verdict import CheckFailed, Ledger, NotChecked, Steps
from confide.wire import jcs
from confide.wire.binary import MalformedEvidence
from confide.wire.jwt import Jwt, parse_jwt, unbase64url

NRAS: Final = Steps.of(
    "nras",
    "NVIDIA's attestation service",
    "RFC 9711 (EAT) and detached EAT bundles of RATS; RFC 7515 (JWS); NVIDIA attestation claims guide",
    ("format", "The answer is one overall token and one token for each GPU."),
    ("signature", "Each token is signed (ES384) by a key that NVIDIA's service publishes."),
    ("issuer", "Each token was issued by NVIDIA's service."),
    ("dates", "Each token is valid at the time of verification."),
    ("nonce", "NVIDIA judged evidence over this verification's nonce."),
    ("digests", "The tokens of the GPUs are exactly the ones that the overall token is about."),
    ("verdict", "NVIDIA found released firmware and driver, secure boot on and debugging off, on each GPU."),
    ("devices", "NVIDIA judged the same GPUs whose evidence is here, and all of them."),
)
ISSUER: Final = "https://nras.attestation.nvidia.com"
MOST_BYTES: Final = 1 << 20
MOST_DEVICES: Final = 128
SKEW: Final = 60
"""How many seconds NVIDIA's clock may be ahead of ours."""

_MOST_KEYS: Final = 256
_KEY_SOURCES: Final = frozenset({"given", "cache", "network"})
_GPU: Final = re.compile(r"GPU-[0-9]{1,3}")
_SHA256: Final = ("SHA-256", "SHA256")
_OVERALL: Final = "x-nvidia-overall-att-result"
_WANTED: Final[dict[str, object]] = {"measres": "success", "secboot": True, "dbgstat": "disabled"}
_SIZE: Final = 48


@dataclass(frozen=True, slots=True)
class Bundle:
    """An answer of the service: the overall token, and that of each GPU by its name."""

    overall: Jwt
    gpus: Mapping[str, Jwt]

    def each(self, check: Callable[[str, Jwt], None]) -> None:
        """Check every token by its name."""
        check("the overall token", self.overall)
        for name, token in self.gpus.items():
            check(name, token)


def verify_nras(
    ledger: Ledger,
    context: Context,
    token: bytes | None,
    nonce: bytes,
    *,
    devices: int | None = None,
    ueids: Collection[str] | None = None,
    subject: str = "",
) -> None:
    """Judge the service's JSON answer over ``nonce`` (32 bytes); None where there is none.

    ``devices`` is how many GPUs there are, ``ueids`` who they are (:attr:`confide.verify.nvidia.GpuDevice.ueid`).
    """
    with ledger.group(NRAS, subject) as checks:
        bundle = checks.need(1, lambda: _parse(token, context), lambda it: f"tokens of {len(it.gpus)} GPUs")
        checks.need(2, lambda: _check_signatures(bundle, context))
        checks.check(3, lambda: bundle.each(_check_issuer))
        checks.check(4, lambda: bundle.each(lambda name, it: _check_dates(name, it, context.now)))
        checks.check(5, lambda: bundle.each(lambda name, it: _check_nonce(name, it, nonce)))
        checks.check(6, lambda: _check_digests(bundle))
        checks.check(7, lambda: _check_verdict(bundle))
        checks.check(8, lambda: _check_devices(bundle, devices, ueids, context))
        ledger.facts["nras"] = [_fact(name, it) for name, it in bundle.gpus.items()]


def _parse(token: bytes | None, context: Context) -> Bundle:
    if token is None:
        raise NotChecked("there is no token of NVIDIA's service", required=context.policy.gpu.nras)
    if len(token) > MOST_BYTES:
        raise MalformedEvidence(f"the answer is longer than {MOST_BYTES} bytes")
    match jcs.parse(token):
        case [["JWT", str(overall)], dict(gpus)] if 1 <= len(gpus) <= MOST_DEVICES:
            for name, text in gpus.items():
                if not _GPU.fullmatch(name) or not isinstance(text, str):
                    raise MalformedEvidence(f"the answer has {name!r}, which is no token of a GPU")
            tokens = {name: parse_jwt(text, f"the token of {name}") for name, text in gpus.items()}
            return Bundle(parse_jwt(overall, "the overall token"), tokens)
    raise MalformedEvidence("the answer is no overall token with those of its GPUs")


def _check_signatures(bundle: Bundle, context: Context) -> str:
    sets = [item for item in context.material.of("jwks") if item.source in _KEY_SOURCES]
    if not sets:
        reason = "the keys of NVIDIA's service are not at hand; those that come along with evidence are not used"
        raise NotChecked(reason, required=context.policy.gpu.nras)
    keys: dict[str, ec.EllipticCurvePublicKey] = {}

    def check(name: str, token: Jwt) -> None:
        kid = _key_id(name, token)
        if kid not in keys:
            found = [key for item in sets for key in _keys_of(item.data, kid)[:1]]
            if not found:
                reason = f"the key {kid!r} of {name} is in no set of keys at hand"
                raise NotChecked(reason, required=context.policy.gpu.nras)
            keys[kid] = _public_key(found[0])
        _check_signature(name, token, keys[kid])

    bundle.each(check)
    return f"by {', '.join(keys)}"


def _key_id(name: str, token: Jwt) -> str:
    algorithm, kid = token.header.get("alg"), token.header.get("kid")
    if algorithm != "ES384":
        raise CheckFailed(f"{name}: found the algorithm {algorithm!r}, expected 'ES384'")
    if not isinstance(kid, str) or "crit" in token.header:
        raise CheckFailed(f"{name}: the header names no key, or has critical members")
    return kid


def _keys_of(data: bytes, kid: str) -> list[dict[str, Any]]:
    """The keys of this id in a JSON Web Key Set (RFC 7517); one at most."""
    try:
        value = jcs.parse(data)
    except ConfideError as wrong:
        raise CheckFailed(f"the set of keys can't be read: {wrong}") from None
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list) or len(keys) > _MOST_KEYS:
        raise CheckFailed("the set of keys can't be read")
    found = [key for key in keys if isinstance(key, dict) and key.get("kid") == kid]
    if len(found) > 1:
        raise CheckFailed(f"the set of keys has {len(found)} keys {kid!r}, expected one")
    return found


def _public_key(key: dict[str, Any]) -> ec.EllipticCurvePublicKey:
    kind = (key.get("kty"), key.get("crv"), key.get("alg", "ES384"), key.get("use", "sig"))
    if kind != ("EC", "P-384", "ES384", "sig"):
        raise CheckFailed(f"found a key of the kind {kind}, expected EC P-384 for signatures")
    x, y = (unbase64url(str(key.get(name)), f"coordinate {name}") for name in ("x", "y"))
    if len(x) != _SIZE or len(y) != _SIZE:
        raise CheckFailed("a coordinate of the key has another length than 48 bytes")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), b"\x04" + x + y)
    except ValueError:
        raise CheckFailed("the key is no point of P-384") from None


def _check_signature(name: str, token: Jwt, key: ec.EllipticCurvePublicKey) -> None:
    if len(token.signature) != 2 * _SIZE:
        raise CheckFailed(f"{name}: found a signature of {len(token.signature)} bytes, expected {2 * _SIZE}")
    r, s = (int.from_bytes(part, "big") for part in (token.signature[:_SIZE], token.signature[_SIZE:]))
    try:
        key.verify(encode_dss_signature(r, s), token.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise CheckFailed(f"{name} is not signed by the key it names") from None


def _check_issuer(name: str, token: Jwt) -> None:
    if token.claims.get("iss") != ISSUER:
        raise CheckFailed(f"{name}: found the issuer {token.claims.get('iss')!r}, expected {ISSUER!r}")


def _check_dates(name: str, token: Jwt, now: int) -> None:
    expires, issued = _seconds(name, token, "exp"), _seconds(name, token, "iat")
    begins = _seconds(name, token, "nbf") if "nbf" in token.claims else issued
    if not max(begins, issued) - SKEW <= now < expires:
        raise CheckFailed(f"{name} is valid from {max(begins, issued)} to {expires}, and the time is {now}")


def _seconds(name: str, token: Jwt, claim: str) -> int:
    value = token.claims.get(claim)
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckFailed(f"{name} has no time {claim}")
    return value


def _check_nonce(name: str, token: Jwt, nonce: bytes) -> None:
    if token.claims.get("eat_nonce") != nonce.hex():
        raise CheckFailed(f"{name}: found the nonce {token.claims.get('eat_nonce')!r}, expected {nonce.hex()!r}")


def _check_digests(bundle: Bundle) -> None:
    named = bundle.overall.claims.get("submods")
    if not isinstance(named, dict) or set(named) != set(bundle.gpus):
        about = sorted(named) if isinstance(named, dict) else named
        raise CheckFailed(f"found tokens of {sorted(bundle.gpus)}, expected those of {about}")
    for name, token in bundle.gpus.items():
        found = hashlib.sha256(token.text.encode()).hexdigest()
        match named[name]:
            case ["DIGEST", [algorithm, digest]] if algorithm in _SHA256 and digest == found:
                continue
        raise CheckFailed(f"{name}: found a token of the digest {found}, expected {named[name]!r}")


def _check_verdict(bundle: Bundle) -> None:
    wrong = []
    if bundle.overall.claims.get(_OVERALL) is not True:
        wrong.append(f"found the overall result {bundle.overall.claims.get(_OVERALL)!r}, expected True")
    for name, token in bundle.gpus.items():
        for claim, expected in _WANTED.items():
            found = token.claims.get(claim)
            if type(found) is not type(expected) or found != expected:
                wrong.append(f"{name}: found {claim} {found!r}, expected {expected!r}")
    if wrong:
        raise CheckFailed("; ".join(wrong))


def _check_devices(bundle: Bundle, devices: int | None, ueids: Collection[str] | None, context: Context) -> str:
    names = [token.claims.get("ueid") for token in bundle.gpus.values()]
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise CheckFailed(f"found the GPUs {names}, expected as many different ones as there are tokens")
    if devices is None and ueids is None:
        raise NotChecked("how many GPUs there are is not known here", required=context.policy.gpu.nras)
    expected = len(ueids or ()) if devices is None else devices
    if len(names) != expected:
        raise CheckFailed(f"found tokens of {len(names)} GPUs, expected {expected}")
    if ueids is not None and set(names) != set(ueids):
        raise CheckFailed(f"found tokens of the GPUs {sorted(map(str, names))}, expected {sorted(ueids)}")
    return f"{len(names)} GPUs"


def _fact(name: str, token: Jwt) -> dict[str, str]:
    """What a token says about one GPU, as far as it is text."""
    claims = ("ueid", "hwmodel", "x-nvidia-gpu-driver-version", "x-nvidia-gpu-vbios-version")
    return {"name": name} | {claim: str(token.claims.get(claim, ""))[:128] for claim in claims}
