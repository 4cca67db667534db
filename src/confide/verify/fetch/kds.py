"""AMD's Key Distribution Service: the VCEK of a chip and its TCB, the issuers' certificates, and revocation lists.

Source: AMD publication 57230 (VCEK certificate and KDS interface). A VCEK is asked for by the chip and the reported
TCB; Turin has an FMC in its TCB and names a chip by 8 bytes. VLEKs are given to cloud providers only. The service
limits how often it is asked, so what it gives is kept by the caller.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

import httpx

from confide.verify.fetch.base import Refused, get
from confide.verify.material import Item
from confide.verify.snp_chain import KDS
from confide.verify.snp_der import MOST_CERTIFICATE, MOST_CRL
from confide.verify.snp_tcb import HWID_SIZES, KeyName, Product, read, reported_product
from confide.verify.verdict import CheckFailed
from confide.wire.snp import SnpReport, parse_report

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]{1,16384})-----END CERTIFICATE-----")
_PARAMETERS: Final = {"fmc": "fmcSPL", "bootloader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL"}


def certificates_for(client: httpx.Client, report: bytes, *, base: str = KDS) -> list[Item]:
    """Everything that the service has for a report: the VCEK (none for a VLEK), ASK or ASVK, ARK, and the CRL.

    Raises:
        MalformedEvidence, Unreachable, Refused.
    """
    parsed = parse_report(report)
    key, product = signer(parsed), products(parsed)[0]
    leaf: list[Item] = []
    if key == "vcek":
        product, item = vcek_for(client, parsed, base=base)
        leaf.append(item)
    issuers = issuers_for(client, product, key, base=base)
    return [*leaf, *issuers, crl_for(client, product, key, base=base)]


def vcek_for(client: httpx.Client, report: SnpReport, *, base: str = KDS) -> tuple[Product, Item]:
    """The VCEK certificate of a report's chip and reported TCB, and the product line that has it.

    Raises:
        Unreachable: no answer.
        Refused: no product line that the report may be of has it.
    """
    refused: Refused | None = None
    for product in products(report):
        try:
            answer = get(client, vcek_url(product, report, base=base), most=MOST_CERTIFICATE)
        except Refused as failed:
            refused = failed
        else:
            return product, Item("amd-certificate", "vcek", answer.body, "network")
    raise refused or Refused("AMD's KDS has no certificate for a processor that is not known here")


def issuers_for(client: httpx.Client, product: Product, key: KeyName, *, base: str = KDS) -> list[Item]:
    """The certificates of ASK (or ASVK) and ARK, as ``ask`` and ``ark``.

    Raises:
        Unreachable: no answer.
        Refused: something else than two certificates.
    """
    answer = get(client, f"{base}/{key}/v1/{product}/cert_chain", most=4 * MOST_CERTIFICATE)
    ders = _pem(answer.body)
    if len(ders) != 2:
        raise Refused(f"{httpx.URL(base).host} sent {len(ders)} certificates for {product}, expected two")
    return [Item("amd-certificate", name, der, "network") for name, der in zip(("ask", "ark"), ders, strict=True)]


def crl_for(client: httpx.Client, product: Product, key: KeyName, *, base: str = KDS) -> Item:
    """The revocation list of a product line's ARK.

    Raises:
        Unreachable, Refused.
    """
    answer = get(client, f"{base}/{key}/v1/{product}/crl", most=MOST_CRL)
    return Item("amd-crl", f"{key}/{product}", answer.body, "network")


def vcek_url(product: Product, report: SnpReport, *, base: str = KDS) -> str:
    """Where the VCEK certificate of a report is, if its processor is of this line. Only hex and numbers go in."""
    hwid = report.chip_id[: HWID_SIZES[product]].hex()
    tcb = read(product, report.reported_tcb)
    query = "&".join(f"{name}={tcb[part]:02}" for part, name in _PARAMETERS.items() if part in tcb)
    return f"{base}/vcek/v1/{product}/{hwid}?{query}"


def signer(report: SnpReport) -> KeyName:
    """The kind of key that a report says signed it."""
    return "vlek" if report.key_info >> 2 & 7 else "vcek"


def products(report: SnpReport) -> tuple[Product, ...]:
    """The product lines that a report may be of: by its CPUID, or, before version 3, by the length of its CHIP_ID."""
    try:
        known = reported_product(report)
    except CheckFailed:
        return ("Turin", "Genoa", "Milan")
    if known is not None:
        return (known,)
    return ("Milan", "Genoa") if any(report.chip_id[HWID_SIZES["Turin"] :]) else ("Turin", "Milan", "Genoa")


def _pem(text: bytes) -> list[bytes]:
    try:
        return [base64.b64decode(body.translate(None, b" \t\r\n"), validate=True) for body in _PEM.findall(text)]
    except binascii.Error:
        return []
