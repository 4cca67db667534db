"""Writing the few ASN.1 DER values that certificate extensions of a TEE are made of. Source: ITU-T X.690."""

from __future__ import annotations

_INTEGER, _OCTETS, _OID, _ENUMERATED, _BOOLEAN, _SEQUENCE = 0x02, 0x04, 0x06, 0x0A, 0x01, 0x30


def sequence(*values: bytes) -> bytes:
    """SEQUENCE of encoded values."""
    return _value(_SEQUENCE, b"".join(values))


def octets(data: bytes) -> bytes:
    """OCTET STRING."""
    return _value(_OCTETS, data)


def integer(number: int) -> bytes:
    """INTEGER, not negative."""
    return _value(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def enumerated(number: int) -> bytes:
    """ENUMERATED, below 128."""
    return _value(_ENUMERATED, bytes([number]))


def boolean(value: bool) -> bytes:
    """BOOLEAN."""
    return _value(_BOOLEAN, b"\xff" if value else b"\0")


def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    return _value(_OID, b"".join(map(_arc, (40 * first + second, *rest))))


def _arc(number: int) -> bytes:
    septets = [number & 0x7F]
    while number := number >> 7:
        septets.append(0x80 | number & 0x7F)
    return bytes(reversed(septets))


def _value(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
