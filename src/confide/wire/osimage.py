"""dstack's measurement document: what an OS image of dstack 0.6 or later puts into a TD's registers when it boots.

Source: the public dstack repository, ``dstack-types`` (``TdxOsImageMeasurement``, version 3) and ``dstack-mr``. The
image's checksum file names every file of the image, its SHA-256 names the image, and ``measurement.tdx.cbor``, which it
lists, holds the digests that firmware, kernel, command line and initial RAM disk leave in MRTD, RTMR1 and RTMR2. RTMR0
depends on the virtual machine and is not in it.

The document is CBOR (RFC 8949) of maps, texts, byte strings and small numbers. Only those are read: no tags, no
indefinite lengths, nothing that a decoder would have to act on.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from confide.wire.binary import MalformedEvidence, Reader
from confide.wire.eventlog import DIGEST_SIZE, extend

MEASUREMENT_FILE: Final = "measurement.tdx.cbor"
VERSION: Final = 3
MOST_BYTES: Final = 64 * 1024
"""How long either part may be; real ones have a few hundred bytes."""
_MOST_DEPTH: Final = 4
_MOST_MEMBERS: Final = 32
_UNSIGNED, _BYTES, _TEXT, _MAP = 0, 2, 3, 5
_KERNEL_EVENTS: Final = (
    b"Calling EFI Application from Boot Option",
    bytes(4),
    b"Exit Boot Services Invocation",
    b"Exit Boot Services Returned with Success",
)
"""What the firmware measures into RTMR1 after the kernel."""


@dataclass(frozen=True, slots=True)
class OsImage:
    """What a TD that booted this image holds. The hypervisor's way of adding pages decides which MRTD it is.

    ``image_hash`` is the SHA-256 of the checksum file.
    """

    image_hash: bytes
    mr_td: tuple[bytes, bytes]
    rtmr1: bytes
    rtmr2: bytes


def parse_image(document: Mapping[str, Any]) -> OsImage:
    """The image behind ``{"checksum_file", "measurement"}``, both in base64.

    Raises:
        MalformedEvidence: a part is missing or malformed, or the checksum file doesn't list this measurement.
    """
    checksums = _part(document, "checksum_file")
    measurement = _part(document, "measurement")
    if _listed(checksums) != hashlib.sha256(measurement).digest():
        raise MalformedEvidence(f"OS image: the checksum file lists another {MEASUREMENT_FILE}")
    return _image(hashlib.sha256(checksums).digest(), parse_cbor(measurement))


def parse_cbor(data: bytes) -> Any:
    """A value of maps with text keys, texts, byte strings and unsigned numbers.

    Raises:
        MalformedEvidence: there is anything else in it, or after it, or a key twice.
    """
    reader = Reader(data, "OS image, the measurement")
    value = _item(reader, 0)
    reader.end()
    return value


def _part(document: Mapping[str, Any], name: str) -> bytes:
    text = document.get(name)
    if not isinstance(text, str) or len(text) > 2 * MOST_BYTES:
        raise MalformedEvidence(f"OS image: {name} is not a text of up to {2 * MOST_BYTES} characters")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedEvidence(f"OS image: {name} is not base64") from None


def _listed(checksums: bytes) -> bytes:
    """The digest that the lines ``<SHA-256 in hex>  <file>`` give for the measurement, which must be one."""
    try:
        lines = [line.split() for line in checksums.decode().splitlines()]
        found = [line[0] for line in lines if len(line) == 2 and line[1] == MEASUREMENT_FILE]
        (digest,) = [bytes.fromhex(text) for text in found]
    except ValueError:
        raise MalformedEvidence(f"OS image: the checksum file doesn't list {MEASUREMENT_FILE} once") from None
    return digest


def _image(image_hash: bytes, value: Any) -> OsImage:
    version = value.get("version") if isinstance(value, dict) else None
    if version != VERSION:
        raise MalformedEvidence(f"OS image: the measurement has version {version!r}; {VERSION} is known")
    image, mr_td = _member(value, "image"), _member(_member(value, "tdvf"), "mrtd")
    kernel = [_digest(image, "kernel_authenticode"), *(hashlib.sha384(what).digest() for what in _KERNEL_EVENTS)]
    return OsImage(
        image_hash,
        (_digest(mr_td, "single_pass"), _digest(mr_td, "two_pass")),
        _measured(*kernel),
        _measured(_digest(image, "cmdline_sha384"), _digest(image, "initrd_sha384")),
    )


def _measured(*digests: bytes) -> bytes:
    register = bytes(DIGEST_SIZE)
    for digest in digests:
        register = extend(register, digest)
    return register


def _member(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    inner = value.get(name)
    if not isinstance(inner, dict):
        raise MalformedEvidence(f"OS image: the measurement has no map {name!r}")
    return inner


def _digest(value: Mapping[str, Any], name: str) -> bytes:
    digest = value.get(name)
    if not isinstance(digest, bytes) or len(digest) != DIGEST_SIZE:
        raise MalformedEvidence(f"OS image: {name!r} is not {DIGEST_SIZE} bytes")
    return digest


def _item(reader: Reader, depth: int) -> Any:
    """One data item: its major type in the upper three bits, then its number or length."""
    kind, size = divmod(reader.take(1, "an item")[0], 32)
    if 24 <= size <= 27:
        size = int.from_bytes(reader.take(1 << (size - 24), "a length"), "big")
    elif size > 27:
        raise reader.wrong("an item of indefinite length")
    if kind == _UNSIGNED:
        return size
    if kind == _BYTES:
        return reader.take(size, "a byte string")
    if kind == _TEXT:
        return _text(reader, size)
    if kind == _MAP and size <= _MOST_MEMBERS and depth < _MOST_DEPTH:
        return _map(reader, size, depth + 1)
    raise reader.wrong(f"an item of type {kind}; flat maps, texts, bytes and unsigned numbers are read")


def _text(reader: Reader, size: int) -> str:
    try:
        return reader.take(size, "a text").decode()
    except UnicodeDecodeError:
        raise reader.wrong("a text that is not UTF-8") from None


def _map(reader: Reader, size: int, depth: int) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for _ in range(size):
        name = _item(reader, depth)
        if not isinstance(name, str) or name in members:
            raise reader.wrong("a map with a key twice, or one that is no text")
        members[name] = _item(reader, depth)
    return members
