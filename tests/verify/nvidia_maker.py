"""Makes NVIDIA's side: devices with their chains and evidence, manifests, service tokens, all below roots of our own.

Structurally real, so that one field at a time can be wrong in a way that real hardware can't give.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier
from lxml import etree

from confide.attest import der
from confide.verify.roots import Root, Use
from confide.wire import nvgpu

NOW = 1_780_000_000
TIME = datetime.fromtimestamp(NOW, UTC)
NONCE = hashlib.sha256(b"a nonce of the tests").digest()
DRIVER = "580.95.05"
VBIOS = "96.00.CF.00.02"
DRIVER_RIM = f"NV_GPU_DRIVER_GH100_{DRIVER}"
VBIOS_RIM = "NV_GPU_VBIOS_G520_0200_885_9600CF0002"
SWITCH_RIM = "NV_SWITCH_BIOS_5612_0002_890_9610550001"
_SHA384 = der.oid("2.16.840.1.101.3.4.2.2")
_COMPOSITE = ObjectIdentifier("2.23.133.5.4.1")
_TCB_INFO = ObjectIdentifier("2.23.133.5.4.1.1")


@dataclass(frozen=True)
class Signer:
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def sign(self, data: bytes) -> bytes:
        return raw_signature(self.key, data)


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def issue(
    name: str,
    issuer: Signer | None = None,
    *,
    ca: bool = True,
    extension: x509.UnrecognizedExtension | None = None,
    curve: ec.EllipticCurve | None = None,
    digest: hashes.HashAlgorithm | None = None,
    days: int = 3650,
    subject: x509.Name | None = None,
) -> Signer:
    """A new key with a certificate of this common name; it signs itself where no issuer is given."""
    key = ec.generate_private_key(curve or ec.SECP384R1())
    subject = subject or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(TIME - timedelta(days=30))
        .not_valid_after(TIME + timedelta(days=days))
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return Signer(key, builder.sign(issuer.key if issuer else key, digest or hashes.SHA384()))


def root_of(signer: Signer, use: Use) -> Root:
    der_ = signer.certificate.public_bytes(Encoding.DER)
    return Root(f"root of the tests for {use}", "nvidia", use, der_, development=True)


def measurement(index: int) -> bytes:
    return hashlib.sha384(b"measurement %d" % index).digest()


# Devices -------------------------------------------------------------------------------------------------------------


def composite_id(device: Signer, fwid: bytes) -> x509.UnrecognizedExtension:
    """TCG DICE: CompositeDeviceID, as on Hopper."""
    key = device.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    value = der.sequence(der.integer(1), key, der.sequence(_SHA384, der.octets(fwid)))
    return x509.UnrecognizedExtension(_COMPOSITE, value)


def tcb_info(fwid: bytes) -> x509.UnrecognizedExtension:
    """TCG DICE: DiceTcbInfo, as on Blackwell."""
    ids = der.sequence(_SHA384, der.octets(fwid)) + der.sequence(_SHA384, der.octets(bytes(48)))
    body = b"\x80\x06NVIDIA" + bytes([0xA6, len(ids)]) + ids + b"\x89\x01\0"
    return x509.UnrecognizedExtension(_TCB_INFO, der.sequence(body))


class Factory:
    """Everything above single devices, made once."""

    def __init__(self) -> None:
        self.root = issue("TEST Device Identity CA")
        self.identity = issue("TEST GH100 Identity", self.root)
        self.provisioners: dict[str, Signer] = {}

    @property
    def trusted(self) -> Root:
        return root_of(self.root, "gpu")

    def device(self, chip: str = "GH100", *, fwid: bytes | None = None, **options: Any) -> Device:
        if chip not in self.provisioners:
            self.provisioners[chip] = issue(f"NVIDIA {chip} Provisioner ICA 1", self.identity)
        provisioner = self.provisioners[chip]
        device = issue(f"{chip} A01 GSP BROM", provisioner, **options.pop("device", {}))
        value = fwid or hashlib.sha384(b"firmware").digest()
        extension = tcb_info(value) if chip.startswith("GB") else composite_id(device, value)
        leaf = issue(f"{chip} A01 GSP FMC LF", device, ca=False, extension=extension, **options.pop("leaf", {}))
        return Device(chip, leaf, (leaf, device, provisioner, self.identity, self.root), value, **options)


@dataclass(frozen=True)
class Device:
    """One device; ``fields`` and ``measurements`` are what it reports."""

    chip: str
    key: Signer
    chain: tuple[Signer, ...]
    fwid: bytes
    mode: int | None = 0
    fields: Mapping[int, bytes | None] = field(default_factory=dict)
    measurements: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def pem(self) -> bytes:
        return b"".join(one.certificate.public_bytes(Encoding.PEM) for one in self.chain)

    def exchange(self, nonce: bytes = NONCE, **changes: Any) -> bytes:
        values = {index: measurement(index) for index in range(1, 32 if self.chip.startswith("LS") else 65)}
        blocks = tuple(nvgpu.Measurement(index, 1, value) for index, value in (values | self.measurements).items())
        unsigned = nvgpu.Measurements(nonce, blocks, bytes(32), self._opaque(), **changes)
        signed = unsigned.signed()
        return signed + self.key.sign(signed)

    def evidence(self, nonce: bytes = NONCE, *, arch: str | None = None, **changes: Any) -> nvgpu.GpuEvidence:
        claimed = {"GH": "HOPPER", "GB": "BLACKWELL", "LS": "LS10"}[self.chip[:2]] if arch is None else arch
        return nvgpu.GpuEvidence(claimed, self.pem, self.exchange(nonce, **changes))

    def _opaque(self) -> tuple[nvgpu.OpaqueField, ...]:
        is_switch = self.chip.startswith("LS")
        gpu: dict[int, bytes | None] = {
            nvgpu.DRIVER_VERSION: DRIVER.encode() + b"\0",
            nvgpu.VBIOS_VERSION: bytes.fromhex("00cf009602000000"),
            nvgpu.NVDEC0_STATUS: b"\x55",
            nvgpu.CHIP_SKU: b"885\0\0\0",
            nvgpu.PROJECT: b"G520\0",
            nvgpu.PROJECT_SKU: b"0200\0",
            nvgpu.FWID: self.fwid,
            nvgpu.FEATURE_FLAG: None if self.mode is None else self.mode.to_bytes(2, "little"),
        }
        switch: dict[int, bytes | None] = {nvgpu.VBIOS_VERSION: b"96.10.55.00.01", 22: pdi(0)}
        members = (switch if is_switch else gpu) | dict(self.fields)
        return tuple(nvgpu.OpaqueField(kind, value) for kind, value in members.items() if value is not None)


def pdi(number: int) -> bytes:
    """The identifier of a switch as the switch itself writes it."""
    return hashlib.sha256(b"switch %d" % number).digest()[:8]


def links(numbers: Sequence[int]) -> bytes:
    """The links of a GPU: identifiers in reverse, some of them twice, one link off."""
    return b"".join(pdi(number)[::-1] for number in (*numbers, *numbers)) + bytes(8)


# Manifests -----------------------------------------------------------------------------------------------------------


class Publisher:
    """Signs manifests."""

    def __init__(self, *, days: int = 700) -> None:
        self.root = issue("TEST CoRIM signing Root CA")
        self.middle = issue("TEST Reference Value GH100 CA", self.root)
        self.signer = issue("TEST L4 Signer", self.middle, ca=False, days=days)

    @property
    def trusted(self) -> Root:
        return root_of(self.root, "rim")

    def rim(
        self,
        version: str = DRIVER,
        indices: Sequence[int] = (7, 21, 35),
        *,
        product: str = "GH100",
        edition: str = "GPU",
        values: Mapping[int, Sequence[bytes]] | None = None,
    ) -> bytes:
        """A manifest whose active references are what devices of :class:`Factory` measure, unless values are given."""
        return self.sign(rim_text(version, indices, product, edition, values or {}))

    def sign(self, text: str, certificates: Sequence[Signer] | None = None) -> bytes:
        """The text with an enveloped signature over everything else in it, in place of ``@SIGNATURE@``."""
        bare = etree.fromstring(text.replace("@SIGNATURE@", "").encode())
        digest = base64.b64encode(hashlib.sha384(etree.tostring(bare, method="c14n")).digest()).decode()
        chain = certificates or (self.signer, self.middle, self.root)
        certs = "".join(
            f"<ds:X509Certificate>{_b64(one.certificate.public_bytes(Encoding.DER))}</ds:X509Certificate>"
            for one in chain
        )
        unsigned = text.replace("@SIGNATURE@", _SIGNATURE.format(digest=digest, value="", certs=certs))
        info = etree.fromstring(unsigned.encode()).find(f".//{{{_DS}}}SignedInfo")
        value = _b64(self.signer.sign(etree.tostring(info, method="c14n")))
        return text.replace("@SIGNATURE@", _SIGNATURE.format(digest=digest, value=value, certs=certs)).encode()


_DS = "http://www.w3.org/2000/09/xmldsig#"
_SIGNATURE = (
    f'<ds:Signature xmlns:ds="{_DS}"><ds:SignedInfo>'
    '<ds:CanonicalizationMethod Algorithm="http://www.w3.org/2006/12/xml-c14n11"/>'
    '<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"/>'
    '<ds:Reference URI=""><ds:Transforms>'
    '<ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>'
    '<ds:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"/></ds:Transforms>'
    '<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"/>'
    "<ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
    "<ds:SignatureValue>{value}</ds:SignatureValue>"
    "<ds:KeyInfo><ds:X509Data>{certs}</ds:X509Data></ds:KeyInfo></ds:Signature>"
)


def rim_text(
    version: str = DRIVER,
    indices: Sequence[int] = (7, 21, 35),
    product: str = "GH100",
    edition: str = "GPU",
    values: Mapping[int, Sequence[bytes]] | None = None,
) -> str:
    """A manifest with ``@SIGNATURE@`` where its signature goes."""
    resources = "".join(_resource(index, (values or {}).get(index, [measurement(index + 1)])) for index in indices)
    resources += _resource(63, [bytes(48)], active=False)
    return (
        '<SoftwareIdentity xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" '
        'xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384" '
        f'name="{product}" tagId="tag" version="1.0">\n'
        '<Entity name="test" role="tagCreator"/>'
        f'<Meta colloquialVersion="{version}" edition="{edition}" product="{product}"/>'
        f"<Payload>{resources}</Payload>\n@SIGNATURE@\n</SoftwareIdentity>"
    )


def _resource(index: int, values: Sequence[bytes], *, active: bool = True) -> str:
    digests = " ".join(f'ns2:Hash{place}="{value.hex()}"' for place, value in enumerate(values))
    return (
        f'<Resource type="Measurement" index="{index}" active="{active}" alternatives="{len(values)}" {digests} '
        f'name="Measurement_{index}" size="48"/>'
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# The attestation service ---------------------------------------------------------------------------------------------

KID = "nv-eat-kid-test-0001"
UEIDS = ("457723480349051719100670602112458195243836813799", "457723480349051719100670602112458195243836813800")


class Service:
    """Signs answers as NVIDIA's service does."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP384R1())

    def jwk(self, **changes: Any) -> dict[str, Any]:
        numbers = self.key.public_key().public_numbers()
        x, y = (_url(number.to_bytes(48, "big")) for number in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": "P-384", "alg": "ES384", "use": "sig", "kid": KID, "x": x, "y": y} | changes

    def jwks(self, *keys: dict[str, Any]) -> bytes:
        return json.dumps({"keys": list(keys or [self.jwk()])}).encode()

    def token(self, claims: Mapping[str, Any], **header: Any) -> str:
        head = {"kid": KID, "alg": "ES384"} | header
        text = f"{_url(json.dumps(head).encode())}.{_url(json.dumps(claims).encode())}"
        return f"{text}.{_url(raw_signature(self.key, text.encode()))}"

    def gpu(self, number: int = 0, **changes: Any) -> str:
        claims = common() | {
            "ueid": UEIDS[number],
            "hwmodel": "GH100 A01 GSP BROM",
            "measres": "success",
            "secboot": True,
            "dbgstat": "disabled",
            "x-nvidia-gpu-driver-version": DRIVER,
            "x-nvidia-gpu-vbios-version": VBIOS,
            "x-nvidia-mismatch-measurement-records": None,
        }
        return self.token(claims | changes)

    def overall(self, gpus: Mapping[str, str], **changes: Any) -> str:
        submods = {
            name: ["DIGEST", ["SHA-256", hashlib.sha256(text.encode()).hexdigest()]] for name, text in gpus.items()
        }
        claims = common() | {"x-nvidia-overall-att-result": True, "x-nvidia-ver": "3.0", "submods": submods}
        return self.token(claims | changes)

    def answer(self, gpus: Mapping[str, str] | None = None, **changes: Any) -> bytes:
        tokens = gpus or {"GPU-0": self.gpu(0), "GPU-1": self.gpu(1)}
        return json.dumps([["JWT", self.overall(tokens, **changes)], dict(tokens)]).encode()


def common() -> dict[str, Any]:
    return {
        "iss": "https://nras.attestation.nvidia.com",
        "sub": "NVIDIA-PLATFORM-ATTESTATION",
        "iat": NOW - 10,
        "nbf": NOW - 10,
        "exp": NOW + 3590,
        "eat_nonce": NONCE.hex(),
    }


def _url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
