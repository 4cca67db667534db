"""Whose key signed an SEV-SNP report: VCEK <- ASK <- ARK or VLEK <- ASVK <- ARK, up to an accepted root.

Source: AMD publication 57230 (VCEK certificate and KDS interface); RFC 5280, section 6.1, as far as it is used here.
Roots and their signing keys are RSA with 4096 bits and sign with RSASSA-PSS and SHA-384; the keys of reports are P-384.
That is demanded of every root: a root is pinned by its bytes, so the size adds nothing for AMD's own, but a development
root with a weaker key is not what it stands for. ASK and ASVK of the known products come with this package, in
``pinned/``; they are signed by the pinned roots, so they are a convenience and no trust anchors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from confide.verify.context import Context
from confide.verify.roots import Root, RootsError
from confide.verify.snp_der import Certificate, common_name, parse_certificate, parse_crl
from confide.verify.snp_tcb import KeyName, Product, product_of
from confide.verify.verdict import CheckFailed, NotChecked

MOST_CANDIDATES: Final = 8
KDS: Final = "https://kdsintf.amd.com"
_P384_KEY: Final = bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200")
_P384_KEY_SIZE: Final = 120
_RSA_BITS: Final = 4096
_SHA384: Final = hashes.SHA384()
_PADDING: Final = padding.PSS(padding.MGF1(_SHA384), 48)
_PREFIXES: Final[dict[KeyName, str]] = {"vcek": "SEV-", "vlek": "SEV-VLEK-"}
_PINNED: Final = {
    "amd-ask-milan.der": "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
    "amd-asvk-milan.der": "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
    "amd-ask-genoa.der": "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
    "amd-asvk-genoa.der": "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
    "amd-ask-turin.der": "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
    "amd-asvk-turin.der": "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
}


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that is good in every signature and date. ``product`` is the one whose keys these are."""

    key: KeyName
    leaf: Certificate
    issuer: Certificate
    anchor: Certificate
    root: Root
    product: Product

    def signed(self, signature: bytes, message: bytes) -> bool:
        """Whether the key of reports made this ECDSA signature (DER) with SHA-384."""
        return leaf_signed(self.leaf, signature, message)


@cache
def pinned_issuers() -> tuple[Certificate, ...]:
    """The ASK and ASVK certificates of the known products.

    Raises:
        RootsError: a file of this package was changed.
    """
    return tuple(parse_certificate(der, file) for file, der in pinned_issuer_files().items())


def pinned_issuer_files() -> dict[str, bytes]:
    """The same in DER, by the names of their files.

    Raises:
        RootsError: a file of this package was changed.
    """
    return {file: _pinned(file, digest) for file, digest in _PINNED.items()}


def _pinned(file: str, digest: str) -> bytes:
    der = files(__package__).joinpath("pinned", file).read_bytes()
    if hashlib.sha256(der).hexdigest() != digest:
        raise RootsError(f"the pinned certificate {file!r} of this installation was changed; install the package again")
    return der


def find_chain(context: Context, key: KeyName, is_signer: Callable[[Certificate], bool]) -> Chain:
    """The chain of the key that signed, from the certificates at hand.

    Where several certificates are at hand, those whose key signed are tried in their order; where none signed, the
    first one, so that the signature is what fails.

    Raises:
        NotChecked: there is no certificate for such a key.
        CheckFailed: there is one, and it can't be read, or its chain is not good.
    """
    leaves = _leaves(context, key)
    signers = [leaf for leaf in leaves if is_signer(leaf)]
    first: CheckFailed | None = None
    for leaf in signers or leaves[:1]:
        try:
            return _chain(context, key, leaf)
        except CheckFailed as wrong:
            first = first or wrong
    raise first or NotChecked(_missing(key))


def leaf_signed(leaf: Certificate, signature: bytes, message: bytes) -> bool:
    """Whether the P-384 key of a certificate made this ECDSA signature (DER) with SHA-384."""
    if len(leaf.key) != _P384_KEY_SIZE or not leaf.key.startswith(_P384_KEY):
        return False
    try:
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), leaf.key[len(_P384_KEY) :])
        point.verify(signature, message, ec.ECDSA(_SHA384))
    except (ValueError, InvalidSignature):
        return False
    return True


def check_revocation(context: Context, chain: Chain) -> str:
    """That a current list of the root doesn't name the chain's certificates. An outdated list says nothing good, but
    what it revokes stays revoked.

    Raises:
        NotChecked: no current list of this root is at hand. Not required: AMD replaces keys by TCB versions.
        CheckFailed: revoked, or a list at hand can't be read or has a wrong signature.
    """
    current, outdated = False, ""
    for item in context.material.of("amd-crl")[:MOST_CANDIDATES]:
        crl = parse_crl(item.data, "the revocation list")
        if crl.issuer != chain.anchor.subject:
            continue
        if not chain.anchor.signs_crls() or not _rsa_signed(chain.anchor, crl.signature, crl.tbs):
            raise CheckFailed(f"the revocation list is not signed by {chain.root.name}")
        for name, one in (("ARK", chain.anchor), ("issuer", chain.issuer), (chain.key.upper(), chain.leaf)):
            if one.serial in crl.revoked:
                raise CheckFailed(
                    f"the {name} certificate (serial number {one.serial}) was revoked by {chain.root.name}"
                )
        if crl.this_update <= context.time <= crl.next_update:
            current = True
        else:
            outdated = f"the one at hand is for {crl.this_update:%Y-%m-%d} to {crl.next_update:%Y-%m-%d}"
    if not current:
        where = f"{KDS}/{chain.key}/v1/{chain.product}/crl"
        why = outdated or "none is at hand"
        raise NotChecked(f"whether AMD revoked the chain needs a current list from {where}; {why}", required=False)
    return f"not revoked by {chain.root.name}"


def _missing(key: KeyName) -> str:
    if key == "vlek":
        return "no VLEK certificate is at hand; only the cloud provider that loaded the key has it (host's table)"
    return f"no VCEK certificate is at hand; AMD's KDS ({KDS}) has it: allow the network, or staple it to the report"


def _leaves(context: Context, key: KeyName) -> list[Certificate]:
    """The certificates at hand for such a key. One that can't be read counts only if there is no other."""
    named, unnamed = context.material.of("amd-certificate", key), context.material.of("amd-certificate", "")
    found: list[Certificate] = []
    first: CheckFailed | None = None
    for item in named[:MOST_CANDIDATES]:
        try:
            found.append(parse_certificate(item.data, f"the {key.upper()} certificate"))
        except CheckFailed as wrong:
            first = first or wrong
    found += [one for one in _readable(item.data for item in unnamed) if common_name(one.subject) == _subject(key)]
    if not found and first:
        raise first
    return found


def _readable(ders: Iterator[bytes]) -> Iterator[Certificate]:
    for _, der in zip(range(MOST_CANDIDATES), ders, strict=False):
        try:
            certificate = parse_certificate(der, "a certificate")
            common_name(certificate.subject)
        except CheckFailed:
            continue
        yield certificate


def _subject(key: KeyName) -> str:
    return f"SEV-{key.upper()}"


def _chain(context: Context, key: KeyName, leaf: Certificate) -> Chain:
    what = key.upper()
    if common_name(leaf.subject) != _subject(key):
        raise CheckFailed(f"found a certificate for {common_name(leaf.subject)!r}, expected {_subject(key)!r}")
    if len(leaf.key) != _P384_KEY_SIZE or not leaf.key.startswith(_P384_KEY):
        raise CheckFailed(f"the key of the {what} certificate is not on P-384")
    issuer, anchor, root = _issuer(context, leaf)
    if not _rsa_signed(issuer, leaf.signature, leaf.tbs):
        raise CheckFailed(f"the {what} certificate is not signed by {common_name(issuer.subject)}")
    for one, below in ((issuer, 0), (anchor, 1)):
        if not one.is_ca(below):
            raise CheckFailed(f"the certificate of {common_name(one.subject)} may not issue certificates")
    for one in (leaf, issuer, anchor):
        _check_dates(one, context)
    return Chain(key, leaf, issuer, anchor, root, _issued_product(key, issuer, anchor))


def _issuer(context: Context, leaf: Certificate) -> tuple[Certificate, Certificate, Root]:
    """The issuer of a leaf, and the accepted root that signed it."""
    given = (item.data for name in ("ask", "") for item in context.material.of("amd-certificate", name))
    issuers = [one for one in (*pinned_issuers(), *_readable(given)) if one.subject == leaf.issuer]
    roots = context.roots.for_use("snp")
    anchors = [(parse_certificate(root.der, root.name), root) for root in roots]
    for issuer in issuers:
        for anchor, root in anchors:
            if issuer.issuer == anchor.subject and _rsa_signed(anchor, issuer.signature, issuer.tbs):
                return issuer, anchor, root
    raise CheckFailed(
        f"the certificate's issuer {common_name(leaf.issuer)!r} is not signed by an accepted root "
        f"(accepted: {', '.join(root.name for root in roots) or 'none'})"
    )


def _rsa_signed(issuer: Certificate, signature: bytes, message: bytes) -> bool:
    """Whether the issuer's key made this signature; only called with a root, or with what a root signed."""
    try:
        key = load_der_public_key(issuer.key)
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _RSA_BITS:
            return False
        key.verify(signature, message, _PADDING, _SHA384)
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        return False
    return True


def _check_dates(certificate: Certificate, context: Context) -> None:
    first, last = certificate.not_before, certificate.not_after
    if not first <= context.time <= last:
        raise CheckFailed(
            f"the certificate of {common_name(certificate.subject)} is valid from {first:%Y-%m-%d} to {last:%Y-%m-%d}, "
            f"and the time is {context.time:%Y-%m-%d}"
        )


def _issued_product(key: KeyName, issuer: Certificate, anchor: Certificate) -> Product:
    """The product line whose ASK (for a VCEK) or ASVK (for a VLEK) this issuer is, by both names."""
    name, prefix = common_name(issuer.subject), _PREFIXES[key]
    line = name.removeprefix(prefix)
    if not name.startswith(prefix) or common_name(anchor.subject) != f"ARK-{line}":
        raise CheckFailed(
            f"found the issuers {name!r} and {common_name(anchor.subject)!r}, which don't make a {key} chain"
        )
    return product_of(line)
