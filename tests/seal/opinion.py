"""A second opinion on sealing: nothing of ``confide.seal``, only primitives and ``json``; and what vectors share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

NOW = 1_750_000_000
NONCE = bytes(range(32)).hex()
SHORT_NONCE = "nonce-0123456789abcd"
CHAT = "/v1/chat/completions"
X = "x25519-aes-256-gcm-hkdf-sha256"
K = "secp256k1-aes-256-gcm-hkdf-sha256"
INFO = {X: b"aci.e2ee.v2.x25519", K: b"aci.e2ee.v2.secp256k1"}
INFO |= {"ecdsa": b"ecdsa_encryption", "ed25519": b"ed25519_encryption"}

SERVICE = {
    X: "03" * 32,
    K: "05" * 32,
    "ecdsa": "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "ed25519": "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
}
CLIENT = {X: "11" * 32, K: "12" * 32, "ecdsa": "13" * 32, "ed25519": "14" * 32}


def montgomery(public: bytes) -> bytes:
    """Ed25519's public key on the other curve."""
    p = 2**255 - 19
    y = int.from_bytes(public, "little") & (2**255 - 1)
    return ((1 + y) * pow(1 - y, p - 2, p) % p).to_bytes(32, "little")


def public(algo: str, secret: str) -> bytes:
    """The public half as it stands in headers."""
    raw = bytes.fromhex(secret)
    if algo == X:
        return x25519.X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()
    if algo == "ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()
    key = ec.derive_private_key(int(secret, 16), ec.SECP256K1()).public_key()
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def agree(algo: str, ephemeral: str, recipient: bytes) -> tuple[bytes, bytes]:
    """The point in front of the ciphertext, and the shared secret."""
    if algo in (X, "ed25519"):
        point = recipient if algo == X else montgomery(recipient)
        mine = x25519.X25519PrivateKey.from_private_bytes(bytes.fromhex(ephemeral))
        shared = mine.exchange(x25519.X25519PublicKey.from_public_bytes(point))
        return mine.public_key().public_bytes_raw(), shared
    key = ec.derive_private_key(int(ephemeral, 16), ec.SECP256K1())
    peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), recipient)
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return point, key.exchange(ec.ECDH(), peer)


def seal(algo: str, recipient: bytes, text: str, aad: str | None, ephemeral: str, nonce: bytes) -> str:
    """One field."""
    point, shared = agree(algo, ephemeral, recipient)
    key = HKDF(hashes.SHA256(), 32, None, INFO[algo]).derive(shared)
    return (point + nonce + AESGCM(key).encrypt(nonce, text.encode(), aad.encode() if aad else None)).hex()


def canonical(**members: object) -> str:
    """RFC 8785 for strings and integers."""
    return json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def request_aad(algo: str, path: str, /, **other: object) -> str:
    """The associated data of a request's field; any member may be another one."""
    usual = {"purpose": "aci.e2ee.request.v2", "algo": algo, "model": "demo", "field": path, "nonce": NONCE, "ts": NOW}
    return canonical(**(usual | other))


def response_aad(algo: str, path: str, /, **other: object) -> str:
    """The associated data of an answer's field."""
    return request_aad(algo, path, **({"purpose": "aci.e2ee.response.v2", "id": "chatcmpl-1"} | other))


def old_request_aad(algo: str, /, message: object = 0, part: object = "-", **other: object) -> str:
    """The older protocol's version 2."""
    given = {"model": "demo", "n": SHORT_NONCE, "ts": NOW, "algo": algo} | other
    return f"v2|req|algo={given['algo']}|model={given['model']}|m={message}|c={part}|n={given['n']}|ts={given['ts']}"


def old_response_aad(algo: str, choice: object, field: str, /, **other: object) -> str:
    """The same for answers."""
    given = {"model": "demo", "id": "chatcmpl-1", "n": SHORT_NONCE, "ts": NOW} | other
    return (
        f"v2|resp|algo={algo}|model={given['model']}|id={given['id']}|choice={choice}|field={field}"
        f"|n={given['n']}|ts={given['ts']}"
    )


@dataclass
class Numbers:
    """New ephemeral keys and nonces, always the same ones."""

    label: str
    count: int = 0

    def __call__(self) -> tuple[str, bytes]:
        self.count += 1
        digest = hashlib.sha256(f"{self.label}/{self.count}".encode()).digest()
        return digest.hex(), digest[:12]
