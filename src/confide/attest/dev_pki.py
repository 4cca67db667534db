"""The development PKI: keys and certificates that stand where Intel's and NVIDIA's stand, made once per installation.

DEVELOPMENT - NOT HARDWARE. Nothing that these keys sign says anything about a machine. They are never shipped and in
no trust store; a verifier accepts their two roots only where a person names the file that holds them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from confide.attest import der
from confide.errors import OperatorError

DIRECTORY: Final = "dev-pki"
ROOTS_FILE: Final = "development-roots.pem"
ORGANIZATION: Final = "LOCAL DEVELOPMENT - NOT INTEL, NOT NVIDIA - NOT HARDWARE"
FMSPC: Final = bytes.fromhex("00DE70000000")
PCE_ID: Final = bytes(2)
CPU_SVN: Final = bytes([3, 3, 2, 2, 4, 1, 0, 5]) + bytes(8)
PCE_SVN: Final = 11
GPU_FWID: Final = hashlib.sha384(b"development GPU firmware, not hardware").digest()
GPU_CHIP: Final = "GH100"
_SGX: Final = "1.2.840.113741.1.13.1"
_FWID_OID: Final = x509.ObjectIdentifier("2.23.133.5.4.1")
_LIFETIME: Final = timedelta(days=3650)
_SEED: Final = "key-seed.bin"
_README: Final = """DEVELOPMENT - NOT HARDWARE

Keys of a development PKI that `confide` made on this machine. What they sign looks like the evidence of a TEE and
proves nothing. Remove this directory to get new ones.
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key and the certificate of its public key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True, repr=False)
class Pki:
    """Everything that issues development evidence."""

    tdx_root: Identity
    pck_ca: Identity
    tcb_signing: Identity
    pck: Identity
    attestation: Identity
    gpu: Identity
    gpu_issuers: tuple[x509.Certificate, ...]
    """The GPU's certificate chain after its own: from its issuer to the root."""
    seed: bytes
    """What development keys are derived from."""

    @property
    def roots(self) -> tuple[x509.Certificate, x509.Certificate]:
        """The two roots: of quotes (P-256), and of GPU evidence (P-384)."""
        return self.tdx_root.certificate, self.gpu_issuers[-1]

    def roots_pem(self) -> bytes:
        """The two roots in one file's text, for ``--insecure-dev-root``."""
        return pem(self.roots)

    def export_roots(self, path: Path) -> None:
        """Write the two roots to a file."""
        path.write_bytes(self.roots_pem())


def pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """Certificates one after the other."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def open_pki(data_dir: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Pki:
    """The PKI of this installation, made if there is none."""
    directory = data_dir / DIRECTORY
    try:
        if not directory.exists():
            _install(create_pki(now()), directory)
        return load_pki(directory)
    except OSError as failed:
        raise OperatorError(f"the development PKI in {directory} can't be used: {failed.strerror}") from failed


def create_pki(now: datetime) -> Pki:
    """A new PKI, in memory."""
    root = _issue("DEVELOPMENT TDX Root CA - NOT HARDWARE", now, ec.SECP256R1(), path_length=1)
    pck_ca = _issue("DEVELOPMENT PCK Platform CA - NOT HARDWARE", now, ec.SECP256R1(), root, path_length=0)
    chain = _gpu_chain(now)
    return Pki(
        tdx_root=root,
        pck_ca=pck_ca,
        tcb_signing=_issue("DEVELOPMENT TCB Signing - NOT HARDWARE", now, ec.SECP256R1(), root),
        pck=_issue(
            "DEVELOPMENT PCK Certificate - NOT HARDWARE",
            now,
            ec.SECP256R1(),
            pck_ca,
            extension=x509.UnrecognizedExtension(x509.ObjectIdentifier(_SGX), _sgx_extension(secrets.token_bytes(16))),
        ),
        attestation=_issue("DEVELOPMENT attestation key - NOT HARDWARE", now, ec.SECP256R1(), pck_ca),
        gpu=chain[0],
        gpu_issuers=tuple(identity.certificate for identity in chain[1:]),
        seed=secrets.token_bytes(32),
    )


_IDENTITIES: Final = ("tdx_root", "pck_ca", "tcb_signing", "pck", "attestation", "gpu")


def load_pki(directory: Path) -> Pki:
    """The PKI in a directory that only its owner can read."""
    try:
        identities = {name: _load(directory, name) for name in _IDENTITIES}
        issuers = x509.load_pem_x509_certificates((directory / "gpu_issuers.crt").read_bytes())
        return Pki(**identities, gpu_issuers=tuple(issuers), seed=_private(directory / _SEED))
    except ValueError:
        raise _damaged(directory) from None
    except FileNotFoundError as failed:
        raise _damaged(directory) from failed


def _damaged(directory: Path) -> OperatorError:
    return OperatorError(f"the development PKI in {directory} is damaged; remove the directory to get a new one")


def _load(directory: Path, name: str) -> Identity:
    key = load_pem_private_key(_private(directory / f"{name}.key"), password=None)
    certificate = x509.load_pem_x509_certificate((directory / f"{name}.crt").read_bytes())
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise _damaged(directory)
    return Identity(key, certificate)


def _private(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise OperatorError(f"{path} can be read by others; make it private (chmod 600) or remove {path.parent}")
    return path.read_bytes()


def _install(pki: Pki, directory: Path) -> None:
    """Write a PKI beside its place and move it there at once. Whoever is second takes that of the first."""
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{DIRECTORY}-", dir=directory.parent))
    try:
        for name, data in _files(pki).items():
            with os.fdopen(os.open(fresh / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
        fresh.rename(directory)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        if not directory.exists():
            raise


def _files(pki: Pki) -> dict[str, bytes]:
    files = {"README.txt": _README.encode(), ROOTS_FILE: pki.roots_pem(), _SEED: pki.seed}
    files["gpu_issuers.crt"] = pem(pki.gpu_issuers)
    for name in _IDENTITIES:
        identity: Identity = getattr(pki, name)
        files[f"{name}.key"] = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        files[f"{name}.crt"] = pem([identity.certificate])
    return files


def _gpu_chain(now: datetime) -> list[Identity]:
    """Leaf first, in the shape of a real chain of five. Only the leaf's key is kept."""
    names = (
        "DEVELOPMENT Device Identity CA - NOT HARDWARE",
        f"DEVELOPMENT {GPU_CHIP} Identity - NOT HARDWARE",
        f"DEVELOPMENT {GPU_CHIP} Provisioner ICA 1 - NOT HARDWARE",
        f"DEVELOPMENT {GPU_CHIP} A01 GSP BROM - NOT HARDWARE",
    )
    serial = secrets.token_hex(9).upper()
    chain: list[Identity] = []
    for depth, name in enumerate(names):
        issuer = chain[0] if chain else None
        device = serial if depth == len(names) - 1 else None
        path_length = len(names) - 1 - depth
        chain.insert(0, _issue(name, now, ec.SECP384R1(), issuer, path_length=path_length, serial=device))
    fwid = x509.UnrecognizedExtension(_FWID_OID, GPU_FWID)
    name = f"DEVELOPMENT {GPU_CHIP} A01 GSP FMC LF - NOT HARDWARE"
    return [_issue(name, now, ec.SECP384R1(), chain[0], extension=fwid, serial=serial), *chain]


def _issue(
    name: str,
    now: datetime,
    curve: ec.EllipticCurve,
    issuer: Identity | None = None,
    *,
    path_length: int | None = None,
    extension: x509.UnrecognizedExtension | None = None,
    serial: str | None = None,
) -> Identity:
    """A new key and its certificate; without an issuer it signs itself, with a path length it is a CA."""
    key = ec.generate_private_key(curve)
    signer, issuer_name = (key, _name(name, serial)) if issuer is None else (issuer.key, issuer.certificate.subject)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name, serial))
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=path_length is not None, path_length=path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(_usage(ca=path_length is not None), critical=True)
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    algorithm = hashes.SHA384() if isinstance(signer.curve, ec.SECP384R1) else hashes.SHA256()
    return Identity(key, builder.sign(signer, algorithm))


def _name(common: str, serial: str | None) -> x509.Name:
    attributes = [
        x509.NameAttribute(NameOID.COMMON_NAME, common),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
        x509.NameAttribute(NameOID.COUNTRY_NAME, "ZZ"),
    ]
    if serial is not None:
        attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial))
    return x509.Name(attributes)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=not ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _sgx_extension(ppid: bytes) -> bytes:
    """The platform in a PCK certificate. Source: Intel SGX PCK Certificate and CRL Profile, section 1.3.5."""
    tcb = [_entry(f"2.{i + 1}", der.integer(svn)) for i, svn in enumerate(CPU_SVN)]
    tcb += [_entry("2.17", der.integer(PCE_SVN)), _entry("2.18", der.octets(CPU_SVN))]
    configuration = [_entry(f"7.{i}", der.boolean(value=True)) for i in (1, 2, 3)]
    return der.sequence(
        _entry("1", der.octets(ppid)),
        _entry("2", der.sequence(*tcb)),
        _entry("3", der.octets(PCE_ID)),
        _entry("4", der.octets(FMSPC)),
        _entry("5", der.enumerated(1)),
        _entry("6", der.octets(hashlib.sha256(ppid).digest()[:16])),
        _entry("7", der.sequence(*configuration)),
    )


def _entry(arc: str, value: bytes) -> bytes:
    return der.sequence(der.oid(f"{_SGX}.{arc}"), value)
