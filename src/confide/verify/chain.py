"""Certificate chains of attestation keys, checked against pinned roots. No name matching, no network, no trust store.

Source: RFC 5280, section 6.1, as far as these chains use it: each certificate is issued by the next, all are valid at
the given time, issuers are CAs within their path length that may sign certificates, and the last is a pinned root or
issued by one. Revocation is for the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from confide.verify.roots import Root
from confide.verify.verdict import CheckFailed

T = TypeVar("T")
MOST_BYTES: Final = 128 * 1024
MOST_CERTIFICATES: Final = 10
_FOREIGN: Final = (
    *(ValueError, TypeError, KeyError, IndexError, OverflowError, Warning),
    *(UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)
"""What cryptography raises, lazily too, on certificates that are none."""
_UNDERSTOOD: Final = frozenset({x509.BasicConstraints.oid, x509.KeyUsage.oid, x509.ExtendedKeyUsage.oid})


def guarded(what: str, call: Callable[[], T]) -> T:
    """Let a foreign parser read hostile certificates: whatever it raises is a failed check, warnings that a program
    turned into errors included.

    Raises:
        CheckFailed: it could not be read.
    """
    try:
        return call()
    except _FOREIGN:
        raise CheckFailed(f"{what} can't be read") from None


def read_pem(data: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """The certificates in a PEM text; what stands between them is not looked at.

    Raises:
        CheckFailed: none, too many, or one that can't be read.
    """
    if len(data) > MOST_BYTES:
        raise CheckFailed(f"{what} is longer than {MOST_BYTES} bytes")
    if data.count(b"-----BEGIN CERTIFICATE-----") > MOST_CERTIFICATES:
        raise CheckFailed(f"{what} has more than {MOST_CERTIFICATES} certificates")
    return tuple(guarded(what, lambda: x509.load_pem_x509_certificates(data)))


def read_der(data: bytes, what: str) -> x509.Certificate:
    """The certificate in these bytes.

    Raises:
        CheckFailed: there is none.
    """
    if len(data) > MOST_BYTES:
        raise CheckFailed(f"{what} is longer than {MOST_BYTES} bytes")
    return guarded(what, lambda: x509.load_der_x509_certificate(data))


def check_chain(path: Sequence[x509.Certificate], roots: Iterable[Root], time: datetime, what: str) -> Root:
    """Walk from the leaf (first) to a root, which may be left out at the end; the root that it ends at.

    Raises:
        CheckFailed: which certificate is wrong, and how.
    """
    if not 1 <= len(path) <= MOST_CERTIFICATES:
        raise CheckFailed(f"{what} has {len(path)} certificates; 1 to {MOST_CERTIFICATES} can be one chain")
    root = _root_of(path[-1], roots, what)
    anchor = root.certificate
    whole = list(path) if _der(path[-1]) == root.der else [*path, anchor]
    for place, certificate in enumerate(whole):
        check_readable(certificate, f"{what}, certificate {place}")
        _check_dates(certificate, time, f"{what}, certificate {place}")
        _check_critical(certificate, f"{what}, certificate {place}")
        if place:
            _check_issuer(certificate, place - 1, f"{what}, certificate {place}")
            _check_issued(whole[place - 1], certificate, f"{what}, certificate {place - 1}")
    return root


def _root_of(last: x509.Certificate, roots: Iterable[Root], what: str) -> Root:
    candidates = tuple(roots)
    for root in candidates:
        if _der(last) == root.der:
            return root
    for root in candidates:
        if guarded(what, lambda: last.issuer) == root.certificate.subject and _is_issued(last, root.certificate):
            return root
    names = ", ".join(root.name for root in candidates) or "none"
    raise CheckFailed(f"{what} ends at no accepted root (accepted: {names})")


def check_readable(certificate: x509.Certificate, what: str) -> None:
    """All extensions can be read and none is there twice (RFC 5280, section 4.2); the signature is whole bytes.

    Raises:
        CheckFailed: it is not so.
    """
    guarded(what, lambda: certificate.extensions)
    # the parser lets a bit string have unused bits, so that one signature would have several spellings
    if not _der(certificate).endswith(b"\0" + certificate.signature):
        raise CheckFailed(f"{what} has a signature that is not whole bytes")


def _check_dates(certificate: x509.Certificate, time: datetime, what: str) -> None:
    first, last = guarded(what, lambda: (certificate.not_valid_before_utc, certificate.not_valid_after_utc))
    if not first <= time <= last:
        raise CheckFailed(f"{what} is valid from {first:%Y-%m-%d} to {last:%Y-%m-%d}, and the time is {time:%Y-%m-%d}")


def _check_critical(certificate: x509.Certificate, what: str) -> None:
    for extension in guarded(what, lambda: certificate.extensions):
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise CheckFailed(f"{what} has a critical extension that is not known here ({extension.oid.dotted_string})")


def _check_issuer(certificate: x509.Certificate, below: int, what: str) -> None:
    """A CA, with ``below`` CAs between it and the leaf at most as its path length says."""
    extensions = guarded(what, lambda: certificate.extensions)
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        raise CheckFailed(f"{what} is no CA") from None
    if not constraints.ca:
        raise CheckFailed(f"{what} is no CA")
    if constraints.path_length is not None and constraints.path_length < below:
        raise CheckFailed(f"{what} allows {constraints.path_length} CAs below it, and {below} are there")
    for extension in extensions:
        if isinstance(extension.value, x509.KeyUsage) and not extension.value.key_cert_sign:
            raise CheckFailed(f"{what} may not sign certificates")


def _check_issued(certificate: x509.Certificate, issuer: x509.Certificate, what: str) -> None:
    if not _is_issued(certificate, issuer):
        raise CheckFailed(f"{what} is not signed by the next one")


def _is_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, Warning):
        return False
    return True


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
