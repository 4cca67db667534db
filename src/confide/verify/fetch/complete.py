"""What a report's evidence needs and does not bring: from the cache, else from the vendors where a person allowed it.

Nothing is believed here and nothing is judged. What can't be had is left out, and the verification then says that it
is missing; why it could not be had is kept as complaints. The clock is only asked how old a file of the cache is:
vendors replace what they sign, so that a file is asked for again when it is older than :data:`DAYS`, and is used all
the same when the network does not give a newer one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import httpx

from confide.errors import ConfideError
from confide.verify.fetch import kds, nvidia, pcs
from confide.verify.fetch.base import Cache
from confide.verify.fetch.wanted import Wanted, evidence_in
from confide.verify.material import Item, Kind, Material
from confide.verify.nras import ISSUER
from confide.verify.nvidia_device import rim_ids
from confide.verify.snp_chain import KDS
from confide.verify.snp_der import parse_certificate
from confide.verify.snp_tcb import Product, certified_product
from confide.wire.snp import SnpReport, parse_report

DAYS: Final[dict[Kind, int]] = {
    "tdx-collateral": 1,
    "amd-certificate": 30,
    "amd-crl": 1,
    "nvidia-rim": 30,
    "jwks": 1,
}
"""After how many days something in the cache is asked for again."""
_DAY: Final = 86400
_STAMP: Final = "#fetched"


@dataclass(frozen=True, slots=True)
class Services:
    """Where the vendors' services are. An organisation may run its own caches of them."""

    pcs: str = pcs.PCS
    kds: str = KDS
    rims: str = nvidia.RIM_SERVICE
    nras: str = ISSUER


@dataclass(frozen=True, slots=True)
class Completed:
    """What was found, and why some of it was not: one sentence for each failed question."""

    material: Material
    complaints: tuple[str, ...]


def complete(client: httpx.Client | None, cache: Cache | None, document: bytes) -> Material:
    """The material of :func:`completed`, for those who need no reasons."""
    return completed(client, cache, document).material


def completed(
    client: httpx.Client | None,
    cache: Cache | None,
    document: bytes,
    *,
    now: int | None = None,
    nras: bool = False,
    services: Services | None = None,
) -> Completed:
    """What the evidence in a document needs beside what is stapled to it; never an error.

    Without a client only the cache is asked. ``now`` is in Unix seconds, by default the clock's; ``nras`` adds the keys
    of NVIDIA's attestation service, which tokens need.
    """
    at = int(time.time()) if now is None else now
    search = _Search(client, cache, at, services or Services())
    evidence = evidence_in(document)
    for wanted in evidence.quotes:
        search.complete_tdx(wanted) if wanted.tee == "tdx" else search.complete_snp(wanted)
    for name in dict.fromkeys(name for device in evidence.devices for name in rim_ids(device)):
        search.complete_rim(name)
    if nras:
        search.find("jwks", ISSUER, lambda asked: nvidia.nras_keys(asked, service=search.services.nras))
    return Completed(Material().plus(search.items), tuple(dict.fromkeys(search.complaints)))


@dataclass
class _Search:
    client: httpx.Client | None
    cache: Cache | None
    now: int
    services: Services
    items: list[Item] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    asked: dict[tuple[Kind, str], Item | None] = field(default_factory=dict)

    def complete_tdx(self, wanted: Wanted) -> None:
        """The collateral of the platform that a quote claims."""
        try:
            platform = pcs.platform_in(wanted.quote)
        except ConfideError:
            return
        if "tdx" not in wanted.stapled:
            key = f"{platform.fmspc}/{'platform' if platform.is_of_platform_ca else 'processor'}"
            self.find("tdx-collateral", key, lambda asked: self._collateral(asked, wanted.quote), platform.fmspc)

    def _collateral(self, client: httpx.Client, quote: bytes) -> Item:
        return pcs.collateral_for(client, quote, base=self.services.pcs)

    def complete_snp(self, wanted: Wanted) -> None:
        """The key's certificate, its issuer, and the root's revocation list."""
        try:
            report = parse_report(wanted.quote)
        except ConfideError:
            return
        base, key, leaf = self.services.kds, kds.signer(report), None
        if key == "vcek" and not wanted.stapled & {"vcek"}:
            name = f"vcek/{report.chip_id.hex()}/{report.reported_tcb.hex()}"
            leaf = self.find("amd-certificate", name, lambda asked: kds.vcek_for(asked, report, base=base)[1], "vcek")
        product = _product(leaf, report)
        if "ask" not in wanted.stapled:
            name = f"ask/{key}/{product}"
            self.find("amd-certificate", name, lambda asked: kds.issuers_for(asked, product, key, base=base)[0], "ask")
        if "crl" not in wanted.stapled:
            self.find("amd-crl", f"{key}/{product}", lambda asked: kds.crl_for(asked, product, key, base=base))

    def complete_rim(self, name: str) -> None:
        """One manifest of reference measurements."""
        self.find("nvidia-rim", name, lambda asked: nvidia.fetch_rim(asked, name, service=self.services.rims))

    def find(
        self, kind: Kind, key: str, fetch: Callable[[httpx.Client], Item | None], name: str | None = None
    ) -> Item | None:
        """One item, of the cache under ``key`` or new, asked for once; a verifier knows it by ``name``."""
        if (kind, key) not in self.asked:
            item = self._fresh(kind, key) or self._fetched(kind, key, fetch) or self._kept(kind, key)
            self.asked[kind, key] = item
            if item is not None:
                self.items.append(replace(item, key=key if name is None else name))
        return self.asked[kind, key]

    def _kept(self, kind: Kind, key: str) -> Item | None:
        return None if self.cache is None else self.cache.load(kind, key)

    def _fresh(self, kind: Kind, key: str) -> Item | None:
        """What is in the cache, if it is not too old to use without asking."""
        stamp = self._kept(kind, key + _STAMP)
        at = int(stamp.data) if stamp and len(stamp.data) <= 20 and stamp.data.isdigit() else 0
        return self._kept(kind, key) if 0 <= self.now - at <= DAYS[kind] * _DAY else None

    def _fetched(self, kind: Kind, key: str, fetch: Callable[[httpx.Client], Item | None]) -> Item | None:
        if self.client is None:
            return None
        try:
            item = fetch(self.client)
        except ConfideError as failed:
            self.complaints.append(str(failed))
            return None
        if item is not None and self.cache is not None:
            self.cache.keep(replace(item, key=key))
            self.cache.keep(Item(kind, key + _STAMP, str(self.now).encode()))
        return item


def _product(leaf: Item | None, report: SnpReport) -> Product:
    """The product line, as the certificate says, or the report."""
    if leaf is not None:
        try:
            return certified_product(parse_certificate(leaf.data, "the certificate"))
        except ConfideError:
            pass
    return kds.products(report)[0]
