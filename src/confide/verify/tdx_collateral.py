"""What Intel says about a platform: TCB info, QE identity and revocation lists, and where the platform stands in them.

Source: Intel PCS API version 4 (TCB info, enclave identity, CRLs); Intel SGX PCK Certificate and CRL Profile.
Signatures, issuers, dates and revocation are checked here; then dcap-qvl checks all of it a second time, and finds
the TCB level. It is given the certificates that were checked here and no others: it would take a PCK chain from
the collateral in place of the quote's, leave the issuer chain of the PCK CRL unread, and let any certificate
under the root sign TCB info.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Final, TypeVar

import dcap_qvl
import msgspec
from cryptography import x509
from msgspec import Meta, Struct, field

from confide.errors import ConfideError
from confide.verify.chain import check_chain, guarded
from confide.verify.context import Context
from confide.verify.material import Item, Material, Source
from confide.verify.roots import Root
from confide.verify.tdx_platform import (
    SGX_EXTENSION,
    Platform,
    common_name,
    is_signed,
    p256_key,
    pem,
    read_chain,
    with_root,
)
from confide.verify.verdict import CheckFailed
from confide.wire.binary import from_hex
from confide.wire.tdx import Quote, TdxCollateral, build_quote, parse_collateral

T = TypeVar("T")
Chain = tuple[x509.Certificate, ...]
MOST_ITEMS: Final = 8
MOST_BYTES: Final = 1 << 20
"""Real collateral is 16 KB; what grows is the list of revoked platforms."""
_Time = Annotated[datetime, Meta(tz=True)]


class _Signed(Struct, frozen=True, rename="camel"):
    """What TCB info and QE identity have in common."""

    id: str
    issue_date: _Time
    next_update: _Time
    tcb_evaluation_data_number: int


class _TcbInfo(_Signed, frozen=True, rename="camel"):
    fmspc: str
    pce_id: str


class _Tcb(Struct, frozen=True):
    status: str
    advisory_ids: tuple[str, ...]
    eval_data_number: int


class _Level(Struct, frozen=True):
    status: str = field(name="tcbStatus")
    date: _Time = field(name="tcbDate")


class _PlatformClaims(Struct, frozen=True):
    tcb_level: _Level


class _EnclaveClaims(Struct, frozen=True):
    tcb_level: _Level
    tcb_eval_data_number: int


class _Claims(Struct, frozen=True):
    """What dcap-qvl found, as far as it is used. The platform's level has that of the TDX module merged in."""

    tcb: _Tcb
    platform: _PlatformClaims
    qe: _EnclaveClaims


@dataclass(frozen=True, slots=True)
class Candidate:
    """Collateral that says that it is for this platform. Nothing in it is believed yet."""

    source: Source
    text: TdxCollateral
    tcb_info: _TcbInfo
    qe_identity: _Signed


@dataclass(frozen=True, slots=True)
class Genuine:
    """Collateral that is signed under the quote's root and in date."""

    candidate: Candidate
    chains: tuple[Chain, Chain, Chain]
    """The issuers of PCK CRL, TCB info and QE identity, with the root."""
    crls: tuple[x509.CertificateRevocationList, x509.CertificateRevocationList]
    """Of the root and of the PCK's CA."""
    expires: datetime
    """When the first part of it goes out of date."""

    @property
    def age_key(self) -> tuple[int, datetime, datetime]:
        """What is greater for newer collateral."""
        info = self.candidate.tcb_info
        return info.tcb_evaluation_data_number, info.issue_date, self.crls[1].last_update_utc


@dataclass(frozen=True, slots=True)
class Level:
    """The TCB level of one part of a machine."""

    what: str
    status: str
    date: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """How Intel judges the whole: the worst status, all advisories, the smaller evaluation number."""

    status: str
    advisories: tuple[str, ...]
    evaluation_number: int
    levels: tuple[Level, ...]
    expires: datetime


# What is at hand -----------------------------------------------------------------------------------------------------


def candidates(material: Material, platform: Platform) -> tuple[list[Candidate], str]:
    """The collateral for this platform, of the first :data:`MOST_ITEMS` items, and why the others are not."""
    found, reasons = [], [f"no collateral for FMSPC {platform.fmspc} is at hand"]
    for item in material.of("tdx-collateral")[:MOST_ITEMS]:
        try:
            found.append(_candidate(item, platform))
        except ConfideError as wrong:
            reasons.append(f"{item.source}: {wrong}")
    return found, "; ".join(reasons)


def _candidate(item: Item, platform: Platform) -> Candidate:
    if len(item.data) > MOST_BYTES:
        raise CheckFailed(f"longer than {MOST_BYTES} bytes")
    text = parse_collateral(item.data)
    info = _read(text.tcb_info, _TcbInfo, "TCB info")
    found = (info.id, info.fmspc.upper(), info.pce_id.upper())
    expected = ("TDX", platform.fmspc, platform.pce_id)
    if found != expected:
        raise CheckFailed(f"TCB info is for {' '.join(found)[:80]}, and this is {' '.join(expected)}")
    return Candidate(item.source, text, info, _read(text.qe_identity, _Signed, "QE identity"))


def _read(text: str, type: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(text, type=type)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise CheckFailed(f"{what} is not of the known shape") from None


# Whether it is genuine -----------------------------------------------------------------------------------------------


def genuine(found: Sequence[Candidate], platform: Platform, root: Root, context: Context) -> list[Genuine]:
    """The collateral that is signed under the same root and in date, the newest first.

    Raises:
        CheckFailed: none is.
    """
    good, wrong = [], []
    for candidate in found:
        try:
            good.append(_genuine(candidate, platform, root, context))
        except CheckFailed as failed:
            wrong.append(f"{candidate.source}: {failed}")
    if not good:
        raise CheckFailed("; ".join(wrong))
    return sorted(good, key=lambda one: one.age_key, reverse=True)


def _genuine(candidate: Candidate, platform: Platform, root: Root, context: Context) -> Genuine:
    text, now = candidate.text, context.time
    tcb_chain = _signer(text.tcb_info_issuer_chain, root, now, "the issuer chain of TCB info")
    qe_chain = _signer(text.qe_identity_issuer_chain, root, now, "the issuer chain of QE identity")
    crl_chain = _crl_issuer(text.pck_crl_issuer_chain, platform, root, now)
    _check_signed(tcb_chain[0], text.tcb_info, text.tcb_info_signature, "TCB info")
    _check_signed(qe_chain[0], text.qe_identity, text.qe_identity_signature, "QE identity")
    root_crl = _crl(text.root_ca_crl, platform.chain[2], now, "the CRL of the root")
    pck_crl = _crl(text.pck_crl, platform.chain[1], now, "the PCK CRL")
    if candidate.qe_identity.id != "TD_QE":
        raise CheckFailed(f"found an identity of {candidate.qe_identity.id[:40]!r}, expected 'TD_QE'")
    for signed, what in ((candidate.tcb_info, "TCB info"), (candidate.qe_identity, "QE identity")):
        _check_dates(signed.issue_date, signed.next_update, now, what)
    ends = [candidate.tcb_info.next_update, candidate.qe_identity.next_update]
    ends += [crl.next_update_utc for crl in (root_crl, pck_crl) if crl.next_update_utc]
    return Genuine(candidate, (crl_chain, tcb_chain, qe_chain), (root_crl, pck_crl), min(ends))


def _signer(text: str, root: Root, now: datetime, what: str) -> Chain:
    """The chain of Intel's TCB signing certificate: directly under the root, no CA, no platform.

    Without this a platform could judge itself: its own certificate ends at the same root.
    """
    whole = _chain(text, root, now, what)
    extensions = guarded(what, lambda: whole[0].extensions)
    is_platform = any(extension.oid == SGX_EXTENSION for extension in extensions)
    is_ca = any(isinstance(e.value, x509.BasicConstraints) and e.value.ca for e in extensions)
    if len(whole) != 2 or is_platform or is_ca or "TCB Signing" not in common_name(whole[0]):
        raise CheckFailed(f"{what} is not that of a TCB signing certificate right under the root")
    return whole


def _crl_issuer(text: str, platform: Platform, root: Root, now: datetime) -> Chain:
    what = "the issuer chain of the PCK CRL"
    whole = _chain(text, root, now, what)
    if whole[0] != platform.chain[1]:
        raise CheckFailed(f"{what} starts with another CA than the PCK certificate's")
    return whole


def _chain(text: str, root: Root, now: datetime, what: str) -> Chain:
    chain = read_chain(text.encode(errors="replace"), what)
    return with_root(chain, check_chain(chain, (root,), now, what))


def _check_signed(signer: x509.Certificate, text: str, signature: str, what: str) -> None:
    """The signature is over the exact text, never over what was read from it."""
    key = p256_key(signer, f"the signer of {what}")
    if not is_signed(key, _hex(signature, f"the signature of {what}"), text.encode(errors="replace")):
        raise CheckFailed(f"{what} is not signed by its issuer")


def _crl(text: str, issuer: x509.Certificate, now: datetime, what: str) -> x509.CertificateRevocationList:
    data = _hex(text, what)
    crl = guarded(what, lambda: x509.load_der_x509_crl(data))
    key = p256_key(issuer, f"the issuer of {what}")
    if not guarded(what, lambda: crl.issuer == issuer.subject and crl.is_signature_valid(key)):
        raise CheckFailed(f"{what} is not signed by its issuer")
    if any(extension.critical for extension in guarded(what, lambda: crl.extensions)):
        raise CheckFailed(f"{what} covers only a part of what was revoked")
    _check_dates(crl.last_update_utc, crl.next_update_utc, now, what)
    return crl


def _check_dates(first: datetime, last: datetime | None, now: datetime, what: str) -> None:
    if last is None:
        raise CheckFailed(f"{what} does not say when it ends")
    if not first <= now < last:
        raise CheckFailed(f"{what} counts from {first:%Y-%m-%d} to {last:%Y-%m-%d}, and the time is {now:%Y-%m-%d}")


def _hex(text: str, what: str) -> bytes:
    try:
        return from_hex(text, what)
    except ConfideError as wrong:
        raise CheckFailed(str(wrong)) from None


# Where the platform stands -------------------------------------------------------------------------------------------


def stand(quote: Quote, platform: Platform, root: Root, good: Sequence[Genuine], now: int) -> Standing:
    """Where a platform stands by the newest collateral; no list at hand may have revoked it.

    Raises:
        CheckFailed: it, its CA or a signer was revoked, or dcap-qvl refuses the whole.
    """
    for one in good:
        _check_revocation(one, platform)
    newest = good[0]
    try:
        verifier = dcap_qvl.QuoteVerifier(root.der)
        policy = dcap_qvl.QuotePolicy.claims_only(now)
        claims = verifier.verify_with_policy(_as_walked(quote, platform), _as_checked(newest), now, policy)
        return _standing(msgspec.json.decode(claims.to_json(), type=_Claims), newest)
    except (ValueError, OverflowError, msgspec.MsgspecError) as refused:
        raise CheckFailed(f"dcap-qvl refuses it: {refused}") from None


def _check_revocation(one: Genuine, platform: Platform) -> None:
    root_crl, pck_crl = one.crls
    for certificate in (platform.chain[1], *(chain[0] for chain in one.chains)):
        if root_crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise CheckFailed(f"{common_name(certificate)!r} was revoked by the root")
    if pck_crl.get_revoked_certificate_by_serial_number(platform.chain[0].serial_number) is not None:
        raise CheckFailed("the PCK certificate was revoked by its CA")


def _as_walked(quote: Quote, platform: Platform) -> bytes:
    """The quote with the certificates that were walked in place of the text they came in, and without padding."""
    signature = replace(quote.signature, certification=pem(platform.chain))
    return build_quote(replace(quote, signature=signature, padding=0))


def _as_checked(one: Genuine) -> dcap_qvl.QuoteCollateralV3:
    text = one.candidate.text
    crl_chain, tcb_chain, qe_chain = (pem(chain).decode() for chain in one.chains)
    return dcap_qvl.QuoteCollateralV3(
        pck_crl_issuer_chain=crl_chain,
        root_ca_crl=_hex(text.root_ca_crl, "the CRL of the root"),
        pck_crl=_hex(text.pck_crl, "the PCK CRL"),
        tcb_info_issuer_chain=tcb_chain,
        tcb_info=text.tcb_info,
        tcb_info_signature=_hex(text.tcb_info_signature, "the signature of TCB info"),
        qe_identity_issuer_chain=qe_chain,
        qe_identity=text.qe_identity,
        qe_identity_signature=_hex(text.qe_identity_signature, "the signature of QE identity"),
    )


def _standing(claims: _Claims, newest: Genuine) -> Standing:
    platform, enclave = claims.platform.tcb_level, claims.qe.tcb_level
    levels = (
        Level("platform or its TDX module", platform.status, platform.date),
        Level("quoting enclave", enclave.status, enclave.date),
    )
    number = min(claims.tcb.eval_data_number, claims.qe.tcb_eval_data_number)
    return Standing(claims.tcb.status, claims.tcb.advisory_ids, number, levels, newest.expires)
