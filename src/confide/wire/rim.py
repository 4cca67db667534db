"""NVIDIA's reference integrity manifests (RIMs): SWID tags in XML with one enveloped signature.

Source: ISO/IEC 19770-2:2015 (SWID tag); TCG Reference Integrity Manifest Information Model 1.01; W3C XML Signature 1.1
and Canonical XML 1.1, of which only the one profile is read that NVIDIA signs with. Well-formed only: nothing here
says that a signature is good. The values come from the very tree whose canonical form is given for digesting, so that
no second document can hide in one file (signature wrapping).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from lxml import etree

from confide.wire.binary import MalformedEvidence

MOST_BYTES: Final = 1 << 20
DIGEST_SIZE: Final = 48
SIGNATURE_SIZE: Final = 96

_SWID: Final = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_DSIG: Final = "{http://www.w3.org/2000/09/xmldsig#}"
_XML: Final = "{http://www.w3.org/XML/1998/namespace}"
_HASH: Final = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_C14N: Final = {"Algorithm": "http://www.w3.org/2006/12/xml-c14n11"}
_ENVELOPED: Final = {"Algorithm": "http://www.w3.org/2000/09/xmldsig#enveloped-signature"}
_ECDSA: Final = {"Algorithm": "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"}
_SHA384: Final = {"Algorithm": "http://www.w3.org/2001/04/xmldsig-more#sha384"}

_MOST_TAGS: Final = 8192
_LONGEST_TAG: Final = 16 * 1024
_MOST_ATTRIBUTES: Final = 160
_MOST_NAMESPACES: Final = 16
_MOST_RESOURCES: Final = 256
_MOST_ALTERNATIVES: Final = 128
_MOST_CERTIFICATES: Final = 8
_DECLARATION: Final = re.compile(
    r"""<\?xml version=["']1\.0["']( encoding=["'](?i:utf-8)["'])?( standalone="no")?\s*\?>"""
)
_NUMBER: Final = re.compile(r"[0-9]{1,3}")
_HEX: Final = re.compile(r"[0-9a-fA-F]{96}")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a measurement may be: its index from 0, and the values of which one must be there."""

    index: int
    values: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Rim:
    """One manifest. ``references`` are the active ones; ``version`` is that of the driver or VBIOS it describes.

    ``digest`` is claimed for the SHA-384 of ``covered``, the canonical document without its signature; ``signature``
    (r and s) for ECDSA P-384 over ``signed``, which names that digest; ``certificates`` are DER, the signer's first.
    """

    name: str
    version: str
    product: str
    edition: str
    references: tuple[Reference, ...]
    covered: bytes
    digest: bytes
    signed: bytes
    signature: bytes
    certificates: tuple[bytes, ...]


def parse_rim(data: bytes) -> Rim:
    """The manifest in these bytes.

    Raises:
        MalformedEvidence: it is none, or is signed in another way than NVIDIA's.
    """
    root = _tree(_text(data))
    signature = _find_signature(root)
    info, value, key_info = _exactly(signature, {}, "SignedInfo", "SignatureValue", "KeyInfo")
    signed = _canonical(info)  # while it is in its place: namespaces of the root belong to it
    _detach(root, signature)
    meta = _only(root, "Meta")
    return Rim(
        name=_attribute(root, "name"),
        version=_attribute(meta, "colloquialVersion"),
        product=_attribute(meta, "product"),
        edition=_attribute(meta, "edition"),
        references=_references(_only(root, "Payload")),
        covered=_canonical(root),
        digest=_digest(info),
        signed=signed,
        signature=_base64(value, SIGNATURE_SIZE),
        certificates=_certificates(key_info),
    )


def _text(data: bytes) -> str:
    """The XML as text, after bounds that make parsing linear. Without ``<!`` there is no DTD, entity or comment."""
    if len(data) > MOST_BYTES:
        raise _wrong(f"longer than {MOST_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _wrong("not UTF-8") from None
    if declared := _DECLARATION.match(text):
        text = text[declared.end() :]
    if "<!" in text or "<?" in text:
        raise _wrong("it has a DTD, a comment, a CDATA section or a processing instruction")
    tags = text.split("<")
    if len(tags) > _MOST_TAGS or any(len(tag) > _LONGEST_TAG for tag in tags):
        raise _wrong(f"it has more than {_MOST_TAGS} tags, or one longer than {_LONGEST_TAG} characters")
    return text


def _canonical(element: Any) -> bytes:
    """Canonical XML. What is well-formed may have none: relative names of namespaces are ruled out."""
    try:
        written: bytes = etree.tostring(element, method="c14n")
    except etree.LxmlError as failed:
        raise _wrong(f"it has no canonical form ({failed})") from None
    return written


def _tree(text: str) -> Any:
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, collect_ids=False, encoding="utf-8"
    )
    try:
        root = etree.fromstring(text.encode(), parser)
    except (etree.LxmlError, ValueError) as failed:
        raise _wrong(f"not XML ({failed})") from None
    if root.tag != f"{_SWID}SoftwareIdentity":
        raise _wrong("not a SWID tag")
    for element in root.iter():
        if len(element.attrib) > _MOST_ATTRIBUTES or len(element.nsmap) > _MOST_NAMESPACES:
            raise _wrong("an element has too many attributes or namespaces")
        # xml:base and its like are where Canonical XML 1.1 differs from 1.0, which is what lxml writes
        if any(name.startswith(_XML) for name in element.attrib):
            raise _wrong("it has an attribute of the xml namespace")
    return root


def _find_signature(root: Any) -> Any:
    signatures = list(root.iter(f"{_DSIG}Signature"))
    if len(signatures) != 1 or signatures[0].getparent() is not root:
        raise _wrong(f"found {len(signatures)} signatures, expected one directly below the root")
    return signatures[0]


def _detach(root: Any, signature: Any) -> None:
    """Take the signature out, as the enveloped-signature transform does: what follows it stays."""
    before = signature.getprevious()
    if before is None:
        raise _wrong("nothing is before the signature")
    before.tail = (before.tail or "") + (signature.tail or "")
    root.remove(signature)


def _digest(info: Any) -> bytes:
    """The digest that is signed, where everything about it is as expected."""
    canonicalization, method, reference = _exactly(info, {}, "CanonicalizationMethod", "SignatureMethod", "Reference")
    _exactly(canonicalization, _C14N)
    _exactly(method, _ECDSA)
    transforms, digest_method, digest_value = _exactly(
        reference, {"URI": ""}, "Transforms", "DigestMethod", "DigestValue"
    )
    enveloped, canonical = _exactly(transforms, {}, "Transform", "Transform")
    _exactly(enveloped, _ENVELOPED)
    _exactly(canonical, _C14N)
    _exactly(digest_method, _SHA384)
    return _base64(digest_value, DIGEST_SIZE)


def _certificates(key_info: Any) -> tuple[bytes, ...]:
    (data,) = _exactly(key_info, {}, "X509Data")
    count = len(data)
    if not 1 <= count <= _MOST_CERTIFICATES:
        raise _wrong(f"it has {count} certificates, expected 1 to {_MOST_CERTIFICATES}")
    found = tuple(_base64(item) for item in _exactly(data, {}, *["X509Certificate"] * count))
    if len(set(found)) != count:
        raise _wrong("it has a certificate twice")
    return found


def _references(payload: Any) -> tuple[Reference, ...]:
    if len(payload) > _MOST_RESOURCES:
        raise _wrong(f"more than {_MOST_RESOURCES} resources")
    found: dict[int, Reference | None] = {}
    for resource in payload:
        index = _number(resource, "index")
        if resource.tag != f"{_SWID}Resource" or resource.get("type") != "Measurement" or len(resource):
            raise _wrong(f"resource {index} is no measurement")
        if index in found:
            raise _wrong(f"two measurements have index {index}")
        found[index] = _reference(resource, index)
    return tuple(reference for reference in found.values() if reference is not None)


def _reference(resource: Any, index: int) -> Reference | None:
    count = _number(resource, "alternatives")
    names = [f"{_HASH}{number}" for number in range(count)]
    if not 1 <= count <= _MOST_ALTERNATIVES or {n for n in resource.attrib if n.startswith(_HASH)} != set(names):
        raise _wrong(f"measurement {index} does not have the alternatives that it announces")
    values = [str(resource.get(name)) for name in names]
    if not all(_HEX.fullmatch(value) for value in values):
        raise _wrong(f"a value of measurement {index} is not {DIGEST_SIZE} bytes in hexadecimal")
    active = _attribute(resource, "active")
    if active not in ("True", "False"):
        raise _wrong(f"measurement {index} is neither active nor not")
    return Reference(index, tuple(bytes.fromhex(value) for value in values)) if active == "True" else None


def _only(root: Any, name: str) -> Any:
    found = root.findall(f"{_SWID}{name}")
    if len(found) != 1:
        raise _wrong(f"found {len(found)} elements {name}, expected one")
    return found[0]


def _exactly(element: Any, attributes: Mapping[str, str], *children: str) -> list[Any]:
    """The children of an element of the signature that has these attributes and children, and no others."""
    name = etree.QName(element).localname
    if dict(element.attrib) != attributes:
        raise _wrong(f"{name}: found {dict(element.attrib)}, expected {dict(attributes)}")
    found = list(element)
    if [child.tag for child in found] != [f"{_DSIG}{child}" for child in children]:
        raise _wrong(f"{name}: expected {', '.join(children) or 'nothing'} in it")
    return found


def _attribute(element: Any, name: str) -> str:
    value = element.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 128:
        raise _wrong(f"{etree.QName(element).localname} has no {name}, or a long one")
    return value


def _number(element: Any, name: str) -> int:
    value = _attribute(element, name)
    if not _NUMBER.fullmatch(value):
        raise _wrong(f"{name} is no small number")
    return int(value)


def _base64(element: Any, size: int | None = None) -> bytes:
    _exactly(element, {})
    try:
        data = base64.b64decode("".join((element.text or "").split()), validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(f"{etree.QName(element).localname} is not base64") from None
    if size is not None and len(data) != size:
        raise _wrong(f"{etree.QName(element).localname} is {len(data)} bytes long, expected {size}")
    return data


def _wrong(reason: str) -> MalformedEvidence:
    return MalformedEvidence(f"RIM: {reason}")
