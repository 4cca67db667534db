"""AMD's certificates and revocation lists, from DER to values. Strict, bounded, and only what their chains use.

Why not the X.509 parser of ``cryptography``: every VCEK and VLEK has the serial number 0, as AMD specifies. RFC 5280
forbids that; ``cryptography`` warns when it loads such a certificate (not when its serial is read) and will refuse it
one day. So the few fields are read here, and ``cryptography`` gets keys, signatures and the bytes that they cover.

Source: ITU-T X.690 (DER), RFC 5280, sections 4.1 and 5.1; RFC 4055, section 3.1 (RSASSA-PSS parameters).
Well-formed only; who signed what is for :mod:`confide.verify.snp_chain`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from confide.verify.verdict import CheckFailed

MOST_CERTIFICATE: Final = 8 * 1024
MOST_CRL: Final = 1 << 20
COMMON_NAME: Final = "2.5.4.3"
BASIC_CONSTRAINTS: Final = "2.5.29.19"
KEY_USAGE: Final = "2.5.29.15"
_UNDERSTOOD: Final = frozenset({BASIC_CONSTRAINTS, KEY_USAGE})

_BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
_BIT_STRING: Final = 0x03
_OCTET_STRING: Final = 0x04
_OID: Final = 0x06
_UTF8_STRING: Final = 0x0C
_PRINTABLE_STRING: Final = 0x13
IA5_STRING: Final = 0x16
_UTC_TIME: Final = 0x17
_TIME: Final = 0x18
_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_VERSION: Final = 0xA0
_CRL_EXTENSIONS: Final = 0xA0
_EXTENSIONS: Final = 0xA3

_SHA384: Final = bytes.fromhex("300d06096086480165030402020500")
_PSS_PARAMETERS: Final = (
    b"\xa0\x0f" + _SHA384 + b"\xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08" + _SHA384
) + b"\xa2\x03\x02\x01\x30"
_PSS_OID: Final = bytes.fromhex("06092a864886f70d01010a")
_ALGORITHMS: Final = tuple(
    _PSS_OID + b"\x30" + bytes([len(parameters)]) + parameters
    for parameters in (_PSS_PARAMETERS, _PSS_PARAMETERS + b"\xa3\x03\x02\x01\x01")
)
"""RSASSA-PSS with SHA-384, MGF1 with SHA-384 and a salt of 48 bytes. AMD writes the default trailer field out in some
certificates, which DER doesn't allow, and leaves it out in others."""


class Der:
    """A cursor over consecutive DER elements. ``what`` names them in errors."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    def element(self, tag: int) -> bytes:
        """The next element, whole, which must have this tag."""
        start = self._at
        self.take(tag)
        return self._data[start : self._at]

    def take(self, tag: int) -> bytes:
        """The content of the next element, which must have this tag."""
        if self.next_tag() != tag:
            raise self.wrong(f"no element with tag {tag:#04x}")
        size, start = self._size(self._at + 1)
        if start + size > len(self._data):
            raise self.wrong("an element is cut off")
        self._at = start + size
        return self._data[start : self._at]

    def inside(self, tag: int) -> Der:
        """A cursor over the elements in the next one."""
        return Der(self.take(tag), self._what)

    def optional(self, tag: int) -> bytes | None:
        """The content of the next element if it has this tag."""
        return self.take(tag) if self.next_tag() == tag else None

    def next_tag(self) -> int | None:
        """The tag of the next element, None at the end."""
        return self._data[self._at] if self._at < len(self._data) else None

    def end(self) -> None:
        """Nothing may be left."""
        if self.next_tag() is not None:
            raise self.wrong("something follows")

    def wrong(self, reason: str) -> CheckFailed:
        """The exception for what was just read."""
        return CheckFailed(f"{self._what} can't be read: {reason} at byte {self._at}")

    def integer(self) -> int:
        """The next element as a number of at most 32 bytes."""
        content = self.take(INTEGER)
        padded = len(content) > 1 and content[0] in (0, 0xFF) and content[0] >> 7 == content[1] >> 7
        if not 1 <= len(content) <= 32 or padded:
            raise self.wrong("a malformed number")
        return int.from_bytes(content, "big", signed=True)

    def oid(self) -> str:
        """The next element as a dotted object identifier."""
        content = self.take(_OID)
        if not 1 <= len(content) <= 32 or content[-1] & 0x80:
            raise self.wrong("a malformed object identifier")
        arcs, arc = [], 0
        for byte in content:
            arc = arc << 7 | byte & 0x7F
            if not byte & 0x80:
                arcs.append(arc)
                arc = 0
        first = min(arcs[0] // 40, 2)
        return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))

    def time(self) -> datetime:
        """The next element as a time, which ends in ``Z`` and has seconds."""
        tag = self.next_tag()
        text = self.take(_UTC_TIME if tag == _UTC_TIME else _TIME)
        if not re.fullmatch(rb"[0-9]{12}Z" if tag == _UTC_TIME else rb"[0-9]{14}Z", text):
            raise self.wrong("a malformed time")
        century = (b"19" if text >= b"50" else b"20") if tag == _UTC_TIME else b""
        try:
            return datetime.strptime((century + text).decode(), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            raise self.wrong("a malformed time") from None

    def true(self) -> bool:
        """Whether the next element says so. DER leaves out what is false by default."""
        said = self.optional(_BOOLEAN)
        if said not in (None, b"\xff"):
            raise self.wrong("a malformed truth value")
        return said is not None

    def bits(self) -> bytes:
        """The next element as a string of whole bytes of bits."""
        content = self.take(_BIT_STRING)
        if content[:1] != b"\0":
            raise self.wrong("a string of bits that are no bytes")
        return content[1:]

    def _size(self, at: int) -> tuple[int, int]:
        """The size of the content that begins after the length at ``at``, and where it begins."""
        first = self._data[at] if at < len(self._data) else 0xFF
        if first < 0x80:
            return first, at + 1
        length = self._data[at + 1 : at + 1 + (first & 0x7F)]
        size = int.from_bytes(length, "big")
        if not 1 <= len(length) <= 4 or len(length) != first & 0x7F or size < 0x80 or not length[0]:
            raise self.wrong("a malformed length")
        return size, at + 1 + len(length)


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension of a certificate: the bytes inside its octet string."""

    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that is signed with RSASSA-PSS and SHA-384. Names and the key stay DER, and compare as bytes."""

    tbs: bytes
    serial: int
    issuer: bytes
    subject: bytes
    not_before: datetime
    not_after: datetime
    key: bytes
    """SubjectPublicKeyInfo."""
    extensions: Mapping[str, Extension]
    """By dotted object identifier."""
    signature: bytes

    def is_ca(self, below: int) -> bool:
        """Whether it may issue certificates, with ``below`` CAs between it and the leaf, by both extensions."""
        constraints = self.extensions.get(BASIC_CONSTRAINTS)
        if constraints is None:
            return False
        inner = Der(constraints.value, "basic constraints").inside(_SEQUENCE)
        ca, longest = inner.true(), inner.integer() if inner.next_tag() == INTEGER else below
        inner.end()
        return ca and below <= longest and self._may(0x04)

    def signs_crls(self) -> bool:
        """Whether its key may sign revocation lists."""
        return self._may(0x02)

    def _may(self, bit: int) -> bool:
        usage = self.extensions.get(KEY_USAGE)
        if usage is None:
            return False
        bits = Der(usage.value, "key usage").take(_BIT_STRING)
        return len(bits) > 1 and bool(bits[1] & bit)


@dataclass(frozen=True, slots=True)
class Crl:
    """A revocation list that is signed with RSASSA-PSS and SHA-384."""

    tbs: bytes
    issuer: bytes
    this_update: datetime
    next_update: datetime
    revoked: frozenset[int]
    """Serial numbers."""
    signature: bytes


def parse_certificate(der: bytes, what: str) -> Certificate:
    """The certificate in these bytes.

    Raises:
        CheckFailed: there is none, it is longer than :data:`MOST_CERTIFICATE`, has another signature algorithm, or a
            critical extension that is not known here.
    """
    tbs, algorithm, signature = _signed(der, MOST_CERTIFICATE, what)
    fields = Der(tbs, what).inside(_SEQUENCE)
    if fields.take(_VERSION) != b"\x02\x01\x02":
        raise CheckFailed(f"{what} is no certificate of X.509 version 3")
    serial = fields.integer()
    _check_same(fields, algorithm, what)
    issuer = fields.element(_SEQUENCE)
    validity = fields.inside(_SEQUENCE)
    first, last = validity.time(), validity.time()
    validity.end()
    subject, key = fields.element(_SEQUENCE), fields.element(_SEQUENCE)
    extensions = _extensions(fields.inside(_EXTENSIONS), what)
    fields.end()
    return Certificate(tbs, serial, issuer, subject, first, last, key, extensions, signature)


def parse_crl(der: bytes, what: str) -> Crl:
    """The revocation list in these bytes. An entry counts by its serial number, whatever its extensions say.

    Raises:
        CheckFailed: there is none, it is longer than :data:`MOST_CRL`, has another signature algorithm, no date of the
            next one, or a critical extension, which would say that the list is not complete.
    """
    tbs, algorithm, signature = _signed(der, MOST_CRL, what)
    fields = Der(tbs, what).inside(_SEQUENCE)
    if fields.integer() != 1:
        raise CheckFailed(f"{what} is no list of version 2")
    _check_same(fields, algorithm, what)
    issuer = fields.element(_SEQUENCE)
    this_update, next_update = fields.time(), fields.time()
    entries, revoked = Der(fields.optional(_SEQUENCE) or b"", what), set()
    while entries.next_tag() is not None:
        revoked.add(entries.inside(_SEQUENCE).integer())
    if fields.next_tag() is not None:
        _extensions(fields.inside(_CRL_EXTENSIONS), what)
    fields.end()
    return Crl(tbs, issuer, this_update, next_update, frozenset(revoked), signature)


def common_name(name: bytes) -> str:
    """The common name in the DER of a name, empty if it has none.

    Raises:
        CheckFailed: it is no name.
    """
    found = ""
    sets = Der(name, "a name").inside(_SEQUENCE)
    while sets.next_tag() is not None:
        pair = sets.inside(_SET).inside(_SEQUENCE)
        if pair.oid() == COMMON_NAME:
            tag = pair.next_tag()
            found = pair.take(_UTF8_STRING if tag == _UTF8_STRING else _PRINTABLE_STRING).decode("utf-8", "replace")
    return found


def _signed(der: bytes, most: int, what: str) -> tuple[bytes, bytes, bytes]:
    """What is signed, how, and the signature, in the three-part form that certificates and lists share."""
    if len(der) > most:
        raise CheckFailed(f"{what} is longer than {most} bytes")
    whole = Der(der, what)
    parts = whole.inside(_SEQUENCE)
    whole.end()
    tbs, algorithm, signature = parts.element(_SEQUENCE), parts.take(_SEQUENCE), parts.bits()
    parts.end()
    if algorithm not in _ALGORITHMS:
        raise CheckFailed(f"{what} is not signed with RSASSA-PSS, SHA-384 and a salt of 48 bytes")
    return tbs, algorithm, signature


def _check_same(fields: Der, algorithm: bytes, what: str) -> None:
    if fields.take(_SEQUENCE) != algorithm:
        raise CheckFailed(f"{what} names two signature algorithms")


def _extensions(outer: Der, what: str) -> dict[str, Extension]:
    found: dict[str, Extension] = {}
    listed = outer.inside(_SEQUENCE)
    outer.end()
    while listed.next_tag() is not None:
        one = listed.inside(_SEQUENCE)
        oid = one.oid()
        critical = one.true()
        value = one.take(_OCTET_STRING)
        one.end()
        if oid in found:
            raise CheckFailed(f"{what} has the extension {oid} twice")
        if critical and oid not in _UNDERSTOOD:
            raise CheckFailed(f"{what} has a critical extension that is not known here ({oid})")
        found[oid] = Extension(critical, value)
    return found
