"""Manifests: the real ones are read, all that is not exactly NVIDIA's profile is refused, and nothing is slow."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.verify.nvidia_maker import Publisher, measurement, rim_text

from confide.wire.binary import MalformedEvidence
from confide.wire.rim import MOST_BYTES, parse_rim

VECTORS = Path(__file__).parent.parent / "vectors" / "evidence" / "nvidia" / "rims"
REAL = {path.stem: path.read_bytes() for path in sorted(VECTORS.glob("*.xml"))}
ALTERED = {"driver_535_altered", "vbios_96.00.5E.00.01_altered"}
DSIG = "http://www.w3.org/2000/09/xmldsig#"
PUBLISHER = Publisher()
GOOD = PUBLISHER.rim().decode()
SIGNATURE = GOOD[GOOD.index("<ds:Signature ") : GOOD.index("</ds:Signature>") + len("</ds:Signature>")]
INFO = SIGNATURE[SIGNATURE.index("<ds:SignedInfo>") : SIGNATURE.index("</ds:SignedInfo>") + len("</ds:SignedInfo>")]
CERTIFICATE = "<ds:X509Certificate>AAAA</ds:X509Certificate>"


def test_there_are_vectors() -> None:
    assert len(REAL) == 9


@pytest.mark.parametrize("name", REAL)
def test_real_manifest_is_read(name: str) -> None:
    rim = parse_rim(REAL[name])
    assert rim.references
    assert all(len(value) == 48 for reference in rim.references for value in reference.values)
    assert len(rim.certificates) in (2, 4)
    digest = hashlib.sha384(rim.covered).digest()
    # of the two altered samples NVIDIA signed one again
    assert (digest == rim.digest) is (name != "driver_535_altered")


def test_fields_of_a_real_manifest() -> None:
    rim = parse_rim(REAL["driver_550.144.03"])
    assert (rim.name, rim.version, rim.product, rim.edition) == ("GH100", "550.144.03", "GH100", "GPU")
    assert [reference.index for reference in rim.references] == [7, *range(21, 41)]


def test_own_manifest_is_read() -> None:
    rim = parse_rim(GOOD.encode())
    assert hashlib.sha384(rim.covered).digest() == rim.digest
    assert [(one.index, one.values) for one in rim.references] == [(n, (measurement(n + 1),)) for n in (7, 21, 35)]


@pytest.mark.parametrize(
    "head",
    ['<?xml version="1.0"?>', '<?xml version="1.0" encoding="UTF-8"?>\n', "<?xml version='1.0' encoding='utf-8' ?>"],
)
def test_declaration_does_not_change_what_is_signed(head: str) -> None:
    assert parse_rim((head + GOOD).encode()) == parse_rim(GOOD.encode())


def swap(old: str, new: str, count: int = 1) -> bytes:
    assert old in GOOD
    return GOOD.replace(old, new, count).encode()


BAD: dict[str, bytes] = {
    "empty": b"",
    "no XML": b"hello",
    "not UTF-8": GOOD.encode("utf-16"),
    "another encoding": ('<?xml version="1.0" encoding="UTF-7"?>' + GOOD).encode(),
    "too long": GOOD.encode() + b" " * MOST_BYTES,
    "something after": (GOOD + "<x/>").encode(),
    "another root": swap("SoftwareIdentity", "SoftwareIdentities", 2),
    "no namespace": swap(' xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd"', ""),
    "DTD": b'<!DOCTYPE SoftwareIdentity [<!ENTITY a "b">]>' + GOOD.encode(),
    "external entity": b'<!DOCTYPE s [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + swap('name="test"', 'name="&a;"'),
    "entity": swap('name="test"', 'name="&a;"'),
    "comment": swap("<Payload>", "<!-- --><Payload>"),
    "comment in a digest": swap("</ds:DigestValue>", "<!-- --></ds:DigestValue>"),
    "CDATA": swap("<Payload>", "<![CDATA[]]><Payload>"),
    "processing instruction": swap("<Payload>", "<?a b?><Payload>"),
    "xml:base": swap("<Payload>", '<Payload xml:base="a">'),
    "xml:id": swap("<Payload>", '<Payload xml:id="a">'),
    "no signature": GOOD.replace(SIGNATURE, "").encode(),
    "two signatures": GOOD.replace(SIGNATURE, SIGNATURE * 2).encode(),
    "signature deeper": GOOD.replace(SIGNATURE, f"<Link>{SIGNATURE}</Link>").encode(),
    "signature in the signature": swap("</ds:KeyInfo>", f"</ds:KeyInfo><ds:Object>{SIGNATURE}</ds:Object>"),
    "document in the signature": swap("</ds:KeyInfo>", "</ds:KeyInfo><ds:Object><Payload/></ds:Object>"),
    "signature around the document": f"<ds:Signature xmlns:ds='{DSIG}'>{GOOD}</ds:Signature>".encode(),
    "signature first": GOOD.replace(SIGNATURE, "").replace('<Entity name="test" role="tagCreator"/>', "").replace(
        "<Meta", f"{SIGNATURE}<Meta"
    ).encode(),
    "two infos": GOOD.replace(INFO, INFO * 2).encode(),
    "no info": GOOD.replace(INFO, "").encode(),
    "Id": swap("<ds:SignedInfo>", '<ds:SignedInfo Id="a">'),
    "reference by id": swap('URI=""', 'URI="#tag"'),
    "no URI": swap(' URI=""', ""),
    "reference with a type": swap('URI=""', 'URI="" Type="a"'),
    "two references": swap("</ds:Reference>", '</ds:Reference><ds:Reference URI=""/>'),
    "no transforms": swap(GOOD[GOOD.index("<ds:Transforms>") : GOOD.index("<ds:DigestMethod")], ""),
    "XPath transform": swap(
        "</ds:Transforms>", '<ds:Transform Algorithm="http://www.w3.org/TR/1999/REC-xpath-19991116"/></ds:Transforms>'
    ),
    "XSLT": swap("2000/09/xmldsig#enveloped-signature", "TR/1999/REC-xslt-19991116"),
    "one transform twice": swap("2006/12/xml-c14n11", "2000/09/xmldsig#enveloped-signature", 2),
    "other canonical form": swap("2006/12/xml-c14n11", "2001/10/xml-exc-c14n#"),
    "parameters": swap('xml-c14n11"/>', 'xml-c14n11"><ds:a/></ds:CanonicalizationMethod>'),
    "HMAC": swap("2001/04/xmldsig-more#ecdsa-sha384", "2000/09/xmldsig#hmac-sha1"),
    "SHA-1": swap("2001/04/xmldsig-more#sha384", "2000/09/xmldsig#sha1"),
    "short digest": swap("<ds:DigestValue>", "<ds:DigestValue>AAAA"),
    "digest is no base64": swap("<ds:DigestValue>", "<ds:DigestValue>*"),
    "short signature": swap("<ds:SignatureValue>", "<ds:SignatureValue>AAAA"),
    "element in the signature value": swap("<ds:SignatureValue>", "<ds:SignatureValue><ds:a/>"),
    "no certificate": GOOD[: GOOD.index("<ds:X509Certificate>")].encode()
    + GOOD[GOOD.rindex("</ds:X509Certificate>") + 21 :].encode(),
    "nine certificates": swap("<ds:X509Certificate>", CERTIFICATE * 9 + "<ds:X509Certificate>"),
    "a certificate twice": swap("<ds:X509Certificate>", CERTIFICATE * 2 + "<ds:X509Certificate>"),
    "key value": swap("<ds:KeyInfo>", "<ds:KeyInfo><ds:KeyValue/>"),
    "no Meta": swap("<Meta ", "<Mete "),
    "two Metas": swap("<Meta ", '<Meta colloquialVersion="a"/><Meta '),
    "two Payloads": swap("<Payload>", "<Payload/><Payload>"),
    "no version": swap(' colloquialVersion="580.95.05"', ""),
    "long version": swap('colloquialVersion="580.95.05"', f'colloquialVersion="{"1" * 200}"'),
    "index twice": swap('index="21"', 'index="7"'),
    "index twice, one not active": swap('index="63"', 'index="7"'),
    "negative index": swap('index="21"', 'index="-1"'),
    "index with a plus": swap('index="21"', 'index="+1"'),
    "no index": swap('index="21" ', ""),
    "neither active nor not": swap('active="True"', 'active="true"'),
    "more alternatives announced": swap('alternatives="1"', 'alternatives="2"'),
    "no alternatives": swap('alternatives="1"', 'alternatives="0"'),
    "an alternative that is not announced": swap("ns2:Hash0=", f'ns2:Hash1="{"0" * 96}" ns2:Hash0='),
    "short hash": swap('ns2:Hash0="', 'ns2:Hash0="00'),
    "hash is not hexadecimal": swap(measurement(8).hex(), "z" * 96),
    "hash of another namespace": swap("xmlenc#sha384", "xmlenc#sha512"),
    "resource of another type": swap('type="Measurement"', 'type="Opaque"'),
    "no resource": swap("<Payload>", "<Payload><Process/>"),
    "something in a resource": swap('size="48"/>', 'size="48"><Payload/></Resource>'),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_anything_else_is_refused(name: str) -> None:
    with pytest.raises(MalformedEvidence, match="RIM: "):
        parse_rim(BAD[name])


def test_the_base_of_all_that_is_good() -> None:
    parse_rim(rim_text().replace("@SIGNATURE@", SIGNATURE).encode())


HOSTILE = {
    "deep": b"<a>" * 100_000,
    "many elements": b"<a/>" * 200_000,
    "wide": b"<a " + b" ".join(b'a%d=""' % n for n in range(100_000)) + b"/>",
    "namespaces": b"<a " + b" ".join(b'xmlns:a%d="b"' % n for n in range(60_000)) + b"/>",
    "laughs": b'<!DOCTYPE a [<!ENTITY b "b">' + b'<!ENTITY c "&b;&b;">' * 1000 + b"]><a>&c;</a>",
    "text": b"<a>" + b"x" * 900_000 + b"</a>",
    "wide and good": swap("<Meta ", "<Meta " + " ".join(f'a{n}="{n}"' for n in range(1000)) + " "),
    "namespaces and good": swap("<Meta ", "<Meta " + " ".join(f'xmlns:a{n}="{n}"' for n in range(500)) + " "),
    "deep and good": swap("<Payload>", "<Link>" * 250 + "</Link>" * 250 + "<Payload>"),
    "many resources": swap(
        "<Payload>", "<Payload>" + "".join(f'<Resource type="Measurement" index="{n}"/>' for n in range(1000))
    ),
    "references": swap('name="test"', f'name="{"&#97;" * 2000}"'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_is_no_surprise(name: str) -> None:
    with contextlib.suppress(MalformedEvidence):
        assert parse_rim(HOSTILE[name]).references


@pytest.mark.parametrize("element", ["<SoftwareIdentity ", "<ds:SignedInfo"])
def test_what_has_no_canonical_form_is_refused(element: str) -> None:
    """A namespace with a relative name, which Canonical XML rules out."""
    with pytest.raises(MalformedEvidence, match="canonical"):
        parse_rim(GOOD.replace(element, f'{element.rstrip()} xmlns:relative="x" ', 1).encode())


@given(st.binary(max_size=200))
def test_every_input_gives_a_value_or_one_exception(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        parse_rim(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 20), st.binary(max_size=20))
def test_every_splice_gives_a_value_or_one_exception(at: int, cut: int, insert: bytes) -> None:
    data = GOOD.encode()
    with contextlib.suppress(MalformedEvidence):
        parse_rim(data[:at] + insert + data[at + cut :])
