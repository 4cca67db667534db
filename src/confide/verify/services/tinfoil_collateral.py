"""What Tinfoil staples to its documents, as items for a verifier: captured answers of Intel's and AMD's services.

Source: tinfoilsh/tinfoil-go at 558dddc (``document/collateral``) and 933174d (``verifier/envelope/envelope.go``); Intel
PCS API version 4. Entries are not bound to the quote and need not be: vendors signed what is in them. One that can't be
used is left out, so that a verifier says that it is missing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final
from urllib.parse import unquote, urlsplit

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Meta, Struct

from confide.verify.chain import read_pem
from confide.verify.material import Item
from confide.verify.verdict import CheckFailed
from confide.wire.tdx import TdxCollateral

_ROLE: Final = "endorsement"
_FORMATS: Final = "https://tinfoil.sh/collateral/"


class Entry(Struct, frozen=True):
    """One record. ``data`` is read by its ``format``."""

    id: str
    role: str
    format: str
    data: msgspec.Raw
    subjects: tuple[str, ...] = ()


class _Vcek(Struct, frozen=True):
    vcek_der_base64: str
    cert_chain_pem: str


class _Crl(Struct, frozen=True):
    crl_der_base64: str


class _Answer(Struct, frozen=True):
    url: str
    headers: dict[str, list[str]]
    body_base64: str


class _Answers(Struct, frozen=True):
    responses: Annotated[tuple[_Answer, ...], Meta(max_length=32)]


class _TcbInfo(Struct, frozen=True):
    tcb_info: msgspec.Raw = msgspec.field(name="tcbInfo")
    signature: str = ""


class _QeIdentity(Struct, frozen=True):
    qe_identity: msgspec.Raw = msgspec.field(name="enclaveIdentity")
    signature: str = ""


def stapled(entries: Iterable[Entry]) -> Iterator[Item]:
    """The items in the entries for the CPU."""
    for entry in entries:
        if entry.role == _ROLE and "cpu" in entry.subjects:
            try:
                yield from _items(entry.format.removeprefix(_FORMATS), bytes(entry.data))
            except (msgspec.MsgspecError, UnicodeError, RecursionError, binascii.Error, ValueError, CheckFailed):
                continue


def _items(kind: str, data: bytes) -> list[Item]:
    if kind == "amd-vcek/v1":
        vcek = msgspec.json.decode(data, type=_Vcek)
        issuers = read_pem(vcek.cert_chain_pem.encode(), "the chain of the VCEK")
        certificates = [issuer.public_bytes(Encoding.DER) for issuer in issuers]
        own = Item("amd-certificate", "vcek", _base64(vcek.vcek_der_base64), "stapled")
        return [own, *(Item("amd-certificate", "", der, "stapled") for der in certificates)]
    if kind == "amd-crl/v1":
        return [Item("amd-crl", "", _base64(msgspec.json.decode(data, type=_Crl).crl_der_base64), "stapled")]
    if kind == "intel-pcs/v1":
        return _collateral(msgspec.json.decode(data, type=_Answers).responses)
    return []


def _collateral(answers: Iterable[_Answer]) -> list[Item]:
    """One collateral out of the four answers that it takes; none where one is not there."""
    members: dict[str, str] = {}
    for answer in answers:
        members |= _members(answer)
    if set(members) != set(TdxCollateral.__struct_fields__):
        return []
    return [Item("tdx-collateral", "", msgspec.json.encode(TdxCollateral(**members)), "stapled")]


def _members(answer: _Answer) -> dict[str, str]:
    """What one answer gives: signed texts byte for byte, CRLs in hex, chains out of the headers."""
    path, body = urlsplit(answer.url).path, _base64(answer.body_base64)
    if path.endswith("/tcb"):
        tcb = msgspec.json.decode(body, type=_TcbInfo)
        chain = _chain(answer, "tcb-info-issuer-chain")
        return {
            "tcb_info": bytes(tcb.tcb_info).decode(),
            "tcb_info_signature": tcb.signature,
            "tcb_info_issuer_chain": chain,
        }
    if path.endswith("/qe/identity"):
        qe = msgspec.json.decode(body, type=_QeIdentity)
        chain = _chain(answer, "sgx-enclave-identity-issuer-chain")
        return {
            "qe_identity": bytes(qe.qe_identity).decode(),
            "qe_identity_signature": qe.signature,
            "qe_identity_issuer_chain": chain,
        }
    if path.endswith("/pckcrl"):
        return {"pck_crl": body.hex(), "pck_crl_issuer_chain": _chain(answer, "sgx-pck-crl-issuer-chain")}
    if path.endswith("/IntelSGXRootCA.der"):
        return {"root_ca_crl": body.hex()}
    return {}


def _chain(answer: _Answer, name: str) -> str:
    found: list[Any] = [values for header, values in answer.headers.items() if header.lower() == name]
    if len(found) != 1 or len(found[0]) != 1:
        raise CheckFailed(f"the answer has no header {name}")
    return unquote(found[0][0])


def _base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
