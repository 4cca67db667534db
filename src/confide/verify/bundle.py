"""One file that holds everything a verdict needs: a report, the nonce, the channel, vendors' material, and exchanges.

It is JSON with bytes in base64, written by who talks to a service (``confide chat --save``, the proxy, the library)
and read by an auditor without a network. Nothing in it is believed for being in it: signatures and hashes decide. The
exceptions are what only the writer can know: the nonce that it sent, the channel that it saw, and the time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from confide.errors import OperatorError
from confide.verify.material import MOST_ITEMS, Item, Material
from confide.verify.receipt import MOST_SESSIONS
from confide.verify.saved import Channel, SavedReport
from confide.wire.documents import Hex32, Seconds, Text

MOST_BYTES: Final = 64 << 20
MOST_EXCHANGES: Final = 10_000


class BundleError(OperatorError):
    """A file that is no bundle; the text says what is wrong with it."""

    exit_code = 2


class Exchange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One request and its answer, with what the service signed about them.

    ``request`` has the bytes that the receipt hashes: those that were sent, or for a sealed request those that its
    protection restores. ``response`` has the bytes as they came off the wire. ``receipt`` is the document of
    ``aci/1``, ``signature`` the answer of the older surface, ``sessions`` the documents that the receipt cites, by id.
    """

    id: Text = ""
    sealed: bool = False
    model: Text | None = None
    request: bytes | None = None
    response: bytes | None = None
    receipt: bytes | None = None
    signature: bytes | None = None
    sessions: Annotated[dict[Hex32, bytes], Meta(max_length=MOST_SESSIONS)] = {}


class Bundle(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Evidence as it was saved. ``captured_at`` is when the report was fetched, in Unix seconds.

    ``service`` names the adapter that reads the report ("aci" where it is empty and the report says no other).
    """

    captured_at: Seconds
    report: bytes
    url: Text = ""
    service: Annotated[str, Meta(max_length=64)] = ""
    nonce: Annotated[str, Meta(max_length=256)] | None = None
    channel: Channel | None = None
    manifest: bytes | None = None
    material: Annotated[tuple[Item, ...], Meta(max_length=MOST_ITEMS)] = ()
    exchanges: Annotated[tuple[Exchange, ...], Meta(max_length=MOST_EXCHANGES)] = ()

    def saved(self) -> SavedReport:
        """What the client held when it fetched the report."""
        return SavedReport(
            document=self.report,
            nonce=self.nonce,
            channel=self.channel,
            manifest=self.manifest,
            captured_at=self.captured_at,
        )

    def items(self) -> Material:
        """The vendors' material, which says that it came from here."""
        return Material(tuple(replace(item, source="bundle") for item in self.material))

    def encode(self) -> bytes:
        """The file's bytes.

        Raises:
            BundleError: it could not be read again, as it is too long.
        """
        members = {name: getattr(self, name) for name in self.__struct_fields__}
        data = msgspec.json.encode(_File(confide_bundle=1, **members))
        _check_size(data)
        return data


class _File(Bundle, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    confide_bundle: Literal[1]


def parse_bundle(data: bytes) -> Bundle:
    """Read a bundle.

    Raises:
        BundleError: it is too long, of another version, or has members that are missing, unknown or of another type.
    """
    _check_size(data)
    try:
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as wrong:
        raise BundleError(f"this is no bundle of version 1: {wrong}") from None
    return Bundle(**{name: getattr(file, name) for name in Bundle.__struct_fields__})


def _check_size(data: bytes) -> None:
    if len(data) > MOST_BYTES:
        raise BundleError(f"a bundle of {len(data)} bytes is too long; at most {MOST_BYTES} are read")
