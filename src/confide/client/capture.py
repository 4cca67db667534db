"""A service's evidence as it shows it now: for a verdict, or for whoever saves it. Nothing here says it is good.

Nothing of an application is sent: a request for the report, one for the manifest, and no key unless that was asked for.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from confide.client.address import Address
from confide.client.errors import Misused, NoReport
from confide.client.pinning import plain_context, shown_key
from confide.client.sealing import ACI, offered_key
from confide.verify.bundle import Bundle
from confide.verify.fetch.base import Cache, Refused, Unreachable
from confide.verify.fetch.complete import complete
from confide.verify.material import Material
from confide.verify.roots import Root
from confide.verify.saved import Channel, SavedReport
from confide.verify.services import ADAPTERS, named
from confide.verify.services.base import Adapter
from confide.wire.aci import Keyset, PublicKey, parse_report, subject_manifest
from confide.wire.documents import InvalidDocument

TIMEOUT: Final = httpx.Timeout(60.0, connect=15.0)
"""Seconds. A report takes a quote, and a machine with eight GPUs needs a while for it."""
MOST_REPORT: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """How to verify. ``seal`` None seals where the service can; ``report_key`` is an API key that is shown to the
    service before it is verified, for those that hand out no report without one."""

    seal: bool | None = True
    development: tuple[Root, ...] = ()
    webpki: bool = True
    ca_file: Path | None = None
    network: bool = False
    cache: Cache | None = None
    service: str | None = None
    model: str | None = None
    report_key: str | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """What a service showed for a fresh nonce, over which channel, and what its evidence needs beside it."""

    adapter: Adapter
    saved: SavedReport
    seal_key: PublicKey | None
    material: Material


@dataclass(frozen=True, slots=True)
class _Shown:
    """An answer with status 200, and the TLS key of its connection."""

    body: bytes
    tls_key: str | None


def look(address: Address, options: Options, timeout: float | None = None) -> Look:
    """Ask a service for its report.

    1. A connection, and a nonce that nobody else knows.
    2. The report for that nonce; the TLS key of the very connection that it came over.
    3. The manifest of models, where the keyset's subject names one.
    4. What the evidence needs and does not bring: from the cache, or from the vendors where that is allowed.

    Args:
        address: of the service.
        options: how to ask.
        timeout: how long to wait for each piece, in seconds.

    Raises:
        Unreachable, Refused: it gave no answer, or not with a report.
        NoReport: a report of a kind that is not known here.
        Misused: the options contradict what the service offers.
    """
    with _client(address, options, timeout) as client:  # 1
        adapter, shown, nonce = _report(client, options)  # 2
        seal_key = _seal_key(adapter, shown.body, options)
        manifest = _manifest(client, adapter, shown.body)  # 3
    channel = Channel(address.host, shown.tls_key, None if seal_key is None else seal_key.public_key)
    saved = SavedReport(shown.body, nonce, channel, manifest)
    return Look(adapter, saved, seal_key, _material(saved, options))  # 4


def capture(address: Address, options: Options, clock: Callable[[], float], timeout: float | None = None) -> Bundle:
    """What :func:`look` saw as a bundle, for whoever judges and saves it. ``clock`` is Unix time.

    Raises:
        The same.
    """
    seen = look(address, options, timeout)
    return Bundle(
        captured_at=int(clock()),
        url=address.base_url,
        service=seen.adapter.name,
        report=seen.saved.document,
        nonce=seen.saved.nonce,
        channel=seen.saved.channel,
        manifest=seen.saved.manifest,
        material=seen.material.items,
    )


# The connection ------------------------------------------------------------------------------------------------------


def _client(address: Address, options: Options, timeout: float | None) -> httpx.Client:
    if not address.is_tls and not address.is_loopback and options.seal is not True:
        raise Misused(f"{address.origin} has no TLS: only a service on this machine, or seal=True, can do without")
    context = plain_context(webpki=options.webpki, ca_file=options.ca_file) if address.is_tls else False
    patience = TIMEOUT if timeout is None else httpx.Timeout(timeout)
    return httpx.Client(
        base_url=address.origin, verify=context, trust_env=False, follow_redirects=False, timeout=patience
    )


def _get(client: httpx.Client, path: str, key: str | None = None) -> _Shown:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    host = client.base_url.host
    try:
        with client.stream("GET", path, headers=headers) as response:
            if response.status_code != 200:
                raise Refused(f"{host} answered {response.status_code} to GET {path.partition('?')[0]}")
            key_shown = shown_key(response)  # while the connection is surely there
            if key_shown is None and response.url.scheme == "https":
                raise Unreachable(f"{host} closed its connection too early")
            body = bytearray()
            for piece in response.iter_raw():
                body += piece
                if len(body) > MOST_REPORT:
                    raise Refused(f"{host} sent more than {MOST_REPORT} bytes to GET {path.partition('?')[0]}")
            return _Shown(bytes(body), key_shown)
    except httpx.HTTPError as failed:
        raise Unreachable(f"{host} can't be reached: {failed or type(failed).__name__}") from failed


def _report(client: httpx.Client, options: Options) -> tuple[Adapter, _Shown, str]:
    """The report, in the format that was named, or the first that the service speaks."""
    adapters = ADAPTERS if options.service is None else (named(options.service),)
    refused: Refused | None = None
    for adapter in adapters:
        nonce = secrets.token_bytes(32).hex()
        try:
            shown = _get(client, adapter.path(nonce, options.model), options.report_key)
        except Refused as refusal:
            refused = refused or refusal
            continue
        if adapter.recognises(shown.body):
            return adapter, shown, nonce
    if refused is not None:
        raise refused
    known = ", ".join(adapter.name for adapter in adapters)
    raise NoReport(f"{client.base_url.host} shows no report of a known kind ({known})")


def _manifest(client: httpx.Client, adapter: Adapter, document: bytes) -> bytes | None:
    """The manifest that the keyset names. One that can't be had is left to the policy to miss."""
    keyset = _keyset(document)
    if adapter.name != ACI or keyset is None or subject_manifest(keyset.subject) is None:
        return None
    with contextlib.suppress(Refused):
        return _get(client, "/v1/aci/manifest").body
    return None


def _material(saved: SavedReport, options: Options) -> Material:
    if not options.network:
        return complete(None, options.cache, saved.document)
    with httpx.Client(trust_env=False, follow_redirects=False, timeout=TIMEOUT) as vendors:
        return complete(vendors, options.cache, saved.document)


def _keyset(document: bytes) -> Keyset | None:
    """The keyset that a report claims, before anything is verified; None where it is no report of ``aci/1``."""
    try:
        return parse_report(document).keyset()
    except InvalidDocument:
        return None


def _seal_key(adapter: Adapter, document: bytes, options: Options) -> PublicKey | None:
    """The key to encrypt to, if the report turns out to be good.

    Raises:
        Misused: encryption was asked for, and the service offers none that is known here.
    """
    if options.seal is False:
        return None
    key = offered_key(adapter.name, document)
    if options.seal is True and key is None:
        raise Misused(f"{adapter.name}: the service offers no end-to-end encryption that is known here; try seal=False")
    return key
