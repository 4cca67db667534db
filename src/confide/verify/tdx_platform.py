"""The machine behind a TDX quote: its certificate, its quoting enclave, and the key that signs TD reports.

Source: Intel SGX PCK Certificate and CRL Profile, section 1.3.5 (the extension that describes the platform); Intel
TDX DCAP Quoting Library API, appendix 3 (who signs what in a quote). No collateral is needed for anything here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import dcap_qvl
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from confide.verify.chain import check_chain, guarded, read_pem
from confide.verify.context import Context
from confide.verify.roots import Root
from confide.verify.verdict import CheckFailed
from confide.wire.tdx import PCK_CHAIN, Quote

SGX_EXTENSION: Final = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
AUTH_DATA_SIZE: Final = 32
_QE_DEBUG: Final = 0x02
_FLAGS: Final = {"dynamic_platform": "7.1", "cached_keys": "7.2", "smt": "7.3"}


@dataclass(frozen=True, slots=True)
class Platform:
    """What the PCK certificate says about a machine. Hexadecimal in capitals, as Intel's services write it.

    A flag is None where the certificate does not say, as those of the older processor CA.
    """

    chain: tuple[x509.Certificate, ...]
    """The PCK certificate, its CA, the root."""
    fmspc: str
    pce_id: str
    ppid: str
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt: bool | None

    @property
    def is_of_platform_ca(self) -> bool:
        """Whether the CA for platforms of several packages issued it, and not that for single processors."""
        return "Platform" in common_name(self.chain[1])


def walk(quote: Quote, context: Context) -> tuple[Platform, Root]:
    """The platform of a quote, and the accepted root that vouches for it at the context's time.

    Raises:
        CheckFailed: the chain ends elsewhere, is not of the right shape, or some certificate is wrong.
    """
    path = pck_chain(quote)
    root = check_chain(path, context.roots.for_use("tdx"), context.time, "the PCK chain")
    whole = with_root(path, root)
    if len(whole) != 3:
        raise CheckFailed(f"found {len(whole)} certificates in the PCK chain, expected PCK, CA and root")
    return platform_of(whole), root


def pck_chain(quote: Quote) -> tuple[x509.Certificate, ...]:
    """The certificates inside a quote, not checked.

    Raises:
        CheckFailed: it holds something else.
    """
    kind = quote.signature.certification_type
    if kind != PCK_CHAIN:
        raise CheckFailed(f"found certification data of type {kind}, expected {PCK_CHAIN} (PCK certificate chain)")
    return read_chain(quote.signature.certification, "the PCK chain")


def read_chain(text: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """The certificates in a PEM text that holds nothing else: whitespace, and NULs at its end, are all that is free.

    Raises:
        CheckFailed: it holds something else, or nothing.
    """
    chain = read_pem(text, what)
    if _dense(text.rstrip(b"\0")) != _dense(pem(chain)):
        raise CheckFailed(f"{what} has text that belongs to no certificate")
    return chain


def pem(chain: Iterable[x509.Certificate]) -> bytes:
    """Certificates as one PEM text."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


def with_root(path: Sequence[x509.Certificate], root: Root) -> tuple[x509.Certificate, ...]:
    """A path that ends with its root, whether it came with it or without."""
    anchor = root.certificate
    return tuple(path) if path[-1] == anchor else (*path, anchor)


def platform_of(chain: tuple[x509.Certificate, ...]) -> Platform:
    """What the first certificate of a chain says about its machine.

    Raises:
        CheckFailed: it does not describe one.
    """
    try:
        found = dcap_qvl.parse_pck_extension_from_pem(pem(chain[:1]))
        values = {name: found.get_value(f"{SGX_EXTENSION.dotted_string}.{arc}") for name, arc in _FLAGS.items()}
    except ValueError:
        raise CheckFailed("the first certificate has no readable SGX extension, and so is no PCK certificate") from None
    flags = {name: None if value is None else any(value) for name, value in values.items()}
    fmspc, pce_id = found.fmspc.hex().upper(), found.pce_id.hex().upper()
    return Platform(chain=chain, fmspc=fmspc, pce_id=pce_id, ppid=found.ppid.hex(), **flags)


def check_enclave(quote: Quote, platform: Platform) -> None:
    """The platform vouches for the quoting enclave, and the enclave's report for the attestation key.

    Raises:
        CheckFailed: one of the two does not hold, or the enclave can be debugged.
    """
    signature = quote.signature
    report = signature.qe_report
    key = p256_key(platform.chain[0], "the PCK certificate")
    if not is_signed(key, signature.qe_report_signature, report.build()):
        raise CheckFailed("the report of the quoting enclave is not signed by the PCK key")
    if len(signature.qe_auth_data) != AUTH_DATA_SIZE:
        raise CheckFailed(f"found {len(signature.qe_auth_data)} bytes of QE authentication data, expected 32")
    bound = hashlib.sha256(signature.attestation_key + signature.qe_auth_data).digest().ljust(64, b"\0")
    if report.report_data != bound:
        raise CheckFailed("the report of the quoting enclave is about another attestation key")
    if report.attributes[0] & _QE_DEBUG:
        raise CheckFailed("the quoting enclave runs in debug mode, so its keys are not its own")


def check_signature(quote: Quote) -> None:
    """The attestation key signed header and body.

    Raises:
        CheckFailed: it did not.
    """
    x, y = (int.from_bytes(quote.signature.attestation_key[at : at + 32], "big") for at in (0, 32))
    key = guarded("the attestation key", lambda: ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key())
    if not is_signed(key, quote.signature.signature, quote.signed()):
        raise CheckFailed("header and TD report are not signed by the attestation key")


def p256_key(certificate: x509.Certificate, what: str) -> ec.EllipticCurvePublicKey:
    """The key of a certificate.

    Raises:
        CheckFailed: it is of another kind.
    """
    key = guarded(what, certificate.public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CheckFailed(f"{what} has no P-256 key")
    return key


def is_signed(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    """Whether these 64 bytes, r and s, are this key's ECDSA signature with SHA-256."""
    if len(signature) != 64:
        return False
    encoded = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    try:
        key.verify(encoded, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def common_name(certificate: x509.Certificate) -> str:
    """The common name of a certificate's subject; empty where there is none.

    Raises:
        CheckFailed: the subject can't be read.
    """
    subject = guarded("a certificate's subject", lambda: certificate.subject)
    names = subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _dense(text: bytes) -> bytes:
    return b"".join(text.split())
