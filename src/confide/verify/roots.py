"""Trust anchors: the vendors' roots that this package pins, and a development root that a person may name.

The certificates lie in ``pinned/``; their digests are repeated here, so that a changed file is noticed. Nothing that
a report says can add a root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from confide.errors import OperatorError

Vendor = Literal["intel", "amd", "nvidia"]
Use = Literal["tdx", "snp", "gpu", "rim"]
_MOST_BYTES: Final = 64 * 1024


class RootsError(OperatorError):
    """A file that should hold roots does not."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Root:
    """A self-signed certificate that chains may end at. ``use`` says for what."""

    name: str
    vendor: Vendor
    use: Use
    der: bytes
    development: bool = False

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate."""
        return x509.load_der_x509_certificate(self.der)


_PINNED: Final[tuple[tuple[str, Vendor, Use, str, str], ...]] = (
    (
        "Intel SGX Root CA",
        "intel",
        "tdx",
        "intel-sgx-root.der",
        "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3",
    ),
    (
        "AMD ARK-Milan",
        "amd",
        "snp",
        "amd-ark-milan.der",
        "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    ),
    (
        "AMD ARK-Genoa",
        "amd",
        "snp",
        "amd-ark-genoa.der",
        "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    ),
    (
        "AMD ARK-Turin",
        "amd",
        "snp",
        "amd-ark-turin.der",
        "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    ),
    (
        "NVIDIA Device Identity CA",
        "nvidia",
        "gpu",
        "nvidia-device-identity-ca.der",
        "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48",
    ),
    (
        "NVIDIA CoRIM signing Root CA",
        "nvidia",
        "rim",
        "nvidia-corim-root-ca.der",
        "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1",
    ),
)


@cache
def pinned() -> tuple[Root, ...]:
    """The vendors' roots.

    Raises:
        RootsError: a file of this package was changed.
    """
    return tuple(_load(*entry) for entry in _PINNED)


def _load(name: str, vendor: Vendor, use: Use, file: str, digest: str) -> Root:
    der = files(__package__).joinpath("pinned", file).read_bytes()
    if hashlib.sha256(der).hexdigest() != digest:
        raise RootsError(f"the pinned root {name!r} of this installation was changed; install the package again")
    return Root(name, vendor, use, der)


def development(pem: bytes) -> tuple[Root, ...]:
    """The roots in the file that a development installation wrote: P-256 for quotes, P-384 for GPU evidence.

    Raises:
        RootsError: it holds something else.
    """
    if len(pem) > _MOST_BYTES:
        raise RootsError("the file of development roots is too long to be one")
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        return tuple(_development(certificate) for certificate in certificates)
    except ValueError:
        raise RootsError("the file of development roots holds no PEM certificates") from None


def read_development(path: Path) -> tuple[Root, ...]:
    """The development roots in a file.

    Raises:
        RootsError: it cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as file:
            return development(file.read(_MOST_BYTES + 1))
    except OSError as failed:
        raise RootsError(f"the development root {path} can't be read: {failed.strerror}") from failed


def _development(certificate: x509.Certificate) -> Root:
    key = certificate.public_key()
    der = certificate.public_bytes(Encoding.DER)
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return Root("development root for quotes", "intel", "tdx", der, development=True)
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp384r1":
        return Root("development root for GPUs", "nvidia", "gpu", der, development=True)
    raise RootsError("a development root has a P-256 or a P-384 key")


@dataclass(frozen=True, slots=True)
class Roots:
    """The roots that one verification accepts."""

    accepted: tuple[Root, ...]

    @classmethod
    def of(cls, vendors: Iterable[Vendor], extra: Iterable[Root] = ()) -> Roots:
        """The pinned roots of these vendors, and development roots that a person named."""
        wanted = frozenset(vendors)
        return cls((*(root for root in pinned() if root.vendor in wanted), *extra))

    def for_use(self, use: Use) -> tuple[Root, ...]:
        """Those that this kind of evidence may end at."""
        return tuple(root for root in self.accepted if root.use == use)
