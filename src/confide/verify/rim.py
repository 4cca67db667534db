"""Whether reference measurements are NVIDIA's, and whether a device measured what they say.

A manifest is material: whoever brings it, NVIDIA's signature makes it count. Of several under one id the first that
passes is used. One whose certificates are not valid at the time says nothing any more, as if it were not at hand; one
that is forged, or made for another device or version, fails. Revocation of its signer is not asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from confide.verify.chain import check_chain, check_readable, guarded, read_der
from confide.verify.context import Context
from confide.verify.roots import Root
from confide.verify.verdict import CheckFailed, Ledger, NotChecked, Steps
from confide.wire.rim import Rim, parse_rim

RIM: Final = Steps.of(
    "rim",
    "Reference measurements of NVIDIA",
    "TCG Reference Integrity Manifest Information Model 1.01; W3C XML Signature 1.1; NVIDIA RIM service",
    ("format", "The manifest is a SWID tag with one signature over the whole document and nothing beside it."),
    ("digest", "The values are the ones whose digest is signed."),
    ("signature", "The signer's key signed that digest."),
    ("certificate chain", "NVIDIA certified the signer for reference values. Revocation is not asked."),
    ("dates", "The signer's certificates are valid at the time of verification."),
    ("version", "The manifest describes this chip with this version of the driver or VBIOS."),
)
MOST_CANDIDATES: Final = 4
_NVDEC0_INDEX: Final = 35
_HALF: Final = 48


@dataclass(frozen=True, slots=True)
class Wanted:
    """The manifest that a device asks for: its id at NVIDIA's service, and what must be written in it."""

    id: str
    version: str
    products: tuple[str, ...]
    edition: str


def find_rim(ledger: Ledger, context: Context, wanted: Wanted) -> Rim | None:
    """The first manifest at hand for this id that passes; None where none does. The ledger gets the findings about
    the one that passed, or about the first; none where none is at hand."""
    first: Ledger | None = None
    for item in context.material.of("nvidia-rim", wanted.id)[:MOST_CANDIDATES]:
        own = Ledger()
        rim = verify_rim(own, context, item.data, wanted)
        if rim is not None:
            _adopt(ledger, own)
            return rim
        first = first or own
    if first is not None:
        _adopt(ledger, first)
    return None


def verify_rim(ledger: Ledger, context: Context, data: bytes, wanted: Wanted) -> Rim | None:
    """The manifest in these bytes, if it is NVIDIA's and the wanted one; the ledger says why not."""
    good: list[Rim] = []
    with ledger.group(RIM, wanted.id) as checks:
        rim = checks.need(1, lambda: parse_rim(data))
        checks.need(2, lambda: _check_digest(rim))
        path = checks.need(3, lambda: _check_signature(rim))
        root = checks.need(4, lambda: _check_path(path, context), lambda found: f"up to {found.name}")
        checks.need(5, lambda: _check_dates(path, root, context))
        ledger.trusted(root)
        checks.need(6, lambda: _check_wanted(rim, wanted), f"{rim.edition} {rim.product} {rim.version}")
        good.append(rim)
    return good[0] if good else None


def check_measurements(runtime: Mapping[int, bytes], rims: Sequence[Rim], *, nvdec0_off: bool) -> int:
    """Compare what a device measured (by index from 1) with every active reference (from 0); how many there were.

    Measurement 35 means nothing while NVDEC0 is off. Source: NVIDIA nvtrust, the rules of its local verifier.

    Raises:
        CheckFailed: which indices differ or are missing, or that two manifests describe the same one.
    """
    indices = [reference.index for rim in rims for reference in rim.references]
    if len(set(indices)) != len(indices):
        raise CheckFailed("the manifests of driver and VBIOS both describe one measurement")
    compared = [
        reference
        for rim in rims
        for reference in rim.references
        if not (reference.index == _NVDEC0_INDEX and nvdec0_off)
    ]
    if not compared:
        raise CheckFailed("the manifests have no active reference")
    wrong = sorted(one.index for one in compared if runtime.get(one.index + 1) not in one.values)
    if wrong:
        places = ", ".join(map(str, wrong))
        raise CheckFailed(f"{len(wrong)} of {len(compared)} measurements differ from NVIDIA's (index {places})")
    return len(compared)


def _adopt(ledger: Ledger, own: Ledger) -> None:
    ledger.findings += own.findings
    for anchor in own.anchors:
        ledger.trusted(anchor)


def _check_digest(rim: Rim) -> None:
    found = hashlib.sha384(rim.covered).hexdigest()
    if found != rim.digest.hex():
        raise CheckFailed(f"found the digest {found}, expected {rim.digest.hex()}: the values were changed")


def _check_signature(rim: Rim) -> tuple[x509.Certificate, ...]:
    path = tuple(read_der(der, "the RIM's certificate") for der in rim.certificates)
    for one in path:
        check_readable(one, "a certificate of the RIM")
    key = guarded("the RIM signer's key", path[0].public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise CheckFailed("the RIM signer's key is not of P-384")
    r, s = (int.from_bytes(part, "big") for part in (rim.signature[:_HALF], rim.signature[_HALF:]))
    try:
        key.verify(encode_dss_signature(r, s), rim.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise CheckFailed("the signature is not by the RIM's first certificate") from None
    return path


def _check_path(path: Sequence[x509.Certificate], context: Context) -> Root:
    """The chain at the time, or, so that age is told apart from forgery, at a time when all of it was valid."""
    first, last = _window(path)
    time = min(max(context.time, first), last)
    return check_chain(path, context.roots.for_use("rim"), time, "the RIM's certificate chain")


def _check_dates(path: Sequence[x509.Certificate], root: Root, context: Context) -> None:
    first, last = _window([*path, root.certificate])
    if not first <= context.time <= last:
        raise NotChecked(
            f"signed by certificates valid from {first:%Y-%m-%d} to {last:%Y-%m-%d}, and the time is "
            f"{context.time:%Y-%m-%d}: NVIDIA no longer, or not yet, stands behind these values",
            required=context.policy.gpu.measurements,
        )


def _window(path: Sequence[x509.Certificate]) -> tuple[datetime, datetime]:
    return guarded(
        "the RIM's certificates",
        lambda: (max(one.not_valid_before_utc for one in path), min(one.not_valid_after_utc for one in path)),
    )


def _check_wanted(rim: Rim, wanted: Wanted) -> None:
    found = (rim.edition, rim.product, rim.version)
    fits = rim.edition == wanted.edition and rim.product in wanted.products
    if not fits or rim.version.casefold() != wanted.version.casefold():
        products = " or ".join(wanted.products)
        raise CheckFailed(f"found {' '.join(found)}, expected {wanted.edition} {products} {wanted.version}")
