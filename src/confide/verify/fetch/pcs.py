"""Intel's Provisioning Certification Service: the collateral of one quote's platform.

Source: Intel PCS API version 4 (``tcb``, ``qe/identity``, ``pckcrl``). A cache (PCCS) speaks the same API, except that
it serves the root's CRL itself and writes CRLs in hexadecimal. What is signed is taken out of the answers byte for
byte. Nothing is believed: a quote is only asked which platform it claims to be from.
"""

from __future__ import annotations

from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes

import httpx
import msgspec
from msgspec import Raw, Struct

from confide.errors import ConfideError
from confide.verify.chain import MOST_BYTES as MOST_CHAIN
from confide.verify.fetch.base import Fetched, Refused, get
from confide.verify.material import Item
from confide.verify.tdx_collateral import MOST_BYTES
from confide.verify.tdx_platform import Platform, pck_chain, platform_of
from confide.verify.verdict import CheckFailed
from confide.wire.tdx import TdxCollateral, parse_quote

PCS: Final = "https://api.trustedservices.intel.com"
ROOT_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
TCB_CHAIN: Final = "tcb-info-issuer-chain"
QE_CHAIN: Final = "sgx-enclave-identity-issuer-chain"
CRL_CHAIN: Final = "sgx-pck-crl-issuer-chain"
T = TypeVar("T", bound="_Signed")


class _Signed(Struct, frozen=True):
    signature: str


class _TcbInfo(_Signed, frozen=True):
    body: Raw = msgspec.field(name="tcbInfo")


class _QeIdentity(_Signed, frozen=True):
    body: Raw = msgspec.field(name="enclaveIdentity")


def collateral_for(client: httpx.Client, quote: bytes, *, base: str = PCS) -> Item:
    """The collateral of the platform that a TDX quote claims; ``base`` is Intel's service, or a PCCS.

    Raises:
        CheckFailed: the quote does not say which platform it is from.
        Unreachable: the service, or the place of the root's CRL, does not answer.
        Refused: it answers, and not with collateral.
    """
    platform = platform_in(quote)
    base = base.rstrip("/")
    kind = "platform" if platform.is_of_platform_ca else "processor"
    tcb = _get(client, f"{base}/tdx/certification/v4/tcb?fmspc={platform.fmspc}")
    enclave = _get(client, f"{base}/tdx/certification/v4/qe/identity")
    crl = _get(client, f"{base}/sgx/certification/v4/pckcrl?ca={kind}&encoding=der")
    root_crl = _get(client, ROOT_CRL if base == PCS else f"{base}/sgx/certification/v4/rootcacrl")
    tcb_info, qe_identity = _read(tcb, _TcbInfo), _read(enclave, _QeIdentity)
    collateral = TdxCollateral(
        pck_crl_issuer_chain=_chain(crl, CRL_CHAIN),
        root_ca_crl=_hex(root_crl.body),
        pck_crl=_hex(crl.body),
        tcb_info_issuer_chain=_chain(tcb, TCB_CHAIN),
        tcb_info=bytes(tcb_info.body).decode(),
        tcb_info_signature=tcb_info.signature,
        qe_identity_issuer_chain=_chain(enclave, QE_CHAIN),
        qe_identity=bytes(qe_identity.body).decode(),
        qe_identity_signature=qe_identity.signature,
    )
    return Item("tdx-collateral", platform.fmspc, msgspec.json.encode(collateral), "network")


def platform_in(quote: bytes) -> Platform:
    """The platform that a quote claims to be from, not checked.

    Raises:
        CheckFailed: it does not say.
    """
    try:
        chain = pck_chain(parse_quote(quote))
    except ConfideError as wrong:
        raise CheckFailed(f"the quote does not say which platform it is from: {wrong}") from None
    if len(chain) < 2:
        raise CheckFailed("the quote does not say who issued the certificate of its platform")
    return platform_of(chain)


def _get(client: httpx.Client, url: str) -> Fetched:
    return get(client, url, most=MOST_BYTES)


def _read(answer: Fetched, type: type[T]) -> T:
    try:
        answer.body.decode()
        return msgspec.json.decode(answer.body, type=type)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise Refused(f"the service of Intel's collateral sent no {type.__name__.strip('_')}") from None


def _chain(answer: Fetched, header: str) -> str:
    value = answer.headers.get(header) or answer.headers.get(f"sgx-{header}", "")
    try:
        text = unquote_to_bytes(value[:MOST_CHAIN]).decode()
    except UnicodeError:
        text = ""
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise Refused(f"the service of Intel's collateral sent no certificates in the header {header}")
    return text


def _hex(body: bytes) -> str:
    """A CRL in hexadecimal, whether it came so or as DER. The second byte of a CRL in DER is never a character."""
    try:
        return bytes.fromhex(body.decode("ascii")).hex()
    except ValueError:
        return body.hex()
