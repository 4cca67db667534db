"""What dstack's host writes into MRCONFIGID before a TD starts: a commitment to the application and its keys' provider.

Source: the public dstack repository, ``dstack-types``, ``mr_config.rs``. The first byte is the version and 32 bytes
follow, then zeros. The guest refuses to start its application where the commitment is not to what it was given.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

import msgspec
from Crypto.Hash import keccak
from msgspec import Meta, Struct

from confide.wire.binary import MalformedEvidence

SIZE: Final = 48
MOST_BYTES: Final = 64 * 1024
KINDS: Final = {"none": 0, "local-sgx": 1, "kms": 2, "tpm": 3}
"""The names of key providers in events, and their bytes in version 2."""
_EVENT_NAMES: Final = {"none": "none", "local": "local-sgx", "kms": "kms", "tpm": "tpm"}
_DOMAIN: Final = b"dstack-mr-config-v3:\0"

_Hex = Annotated[str, Meta(pattern=r"^([0-9a-f]{2}){0,1024}\Z")]


class Document(Struct, frozen=True, forbid_unknown_fields=True):
    """The document behind version 3, members in lower-case hex. What it leaves out it doesn't bind."""

    compose_hash: _Hex
    key_provider: Literal["none", "local", "kms", "tpm"]
    version: Literal[3] = 3
    app_id: _Hex | None = None
    instance_id: _Hex | None = None
    key_provider_id: _Hex | None = None
    gpu_policy_hash: _Hex | None = None
    init_script_hashes: Annotated[tuple[_Hex, ...], Meta(max_length=64)] | None = None

    @property
    def provider_name(self) -> str:
        """The key provider's name as events have it."""
        return _EVENT_NAMES[self.key_provider]


def version_1(compose_hash: bytes) -> bytes:
    """The register for an application description."""
    return _register(1, compose_hash)


def version_2(compose_hash: bytes, app_id: bytes, provider: str, provider_id: bytes) -> bytes:
    """The register for an application and the provider of its keys.

    Raises:
        MalformedEvidence: there is no such kind of provider.
    """
    if provider not in KINDS:
        raise MalformedEvidence(f"a key provider {provider!r}; {', '.join(KINDS)} are known")
    described = b"".join((compose_hash, app_id, bytes([KINDS[provider]]), provider_id))
    return _register(2, keccak.new(digest_bits=256, data=described).digest())


def version_3(document: bytes) -> bytes:
    """The register for the exact bytes of a document."""
    return _register(3, hashlib.sha256(_DOMAIN + document).digest())


def parse_document(data: bytes) -> Document:
    """The document of version 3.

    Raises:
        MalformedEvidence: it is none.
    """
    if len(data) > MOST_BYTES:
        raise MalformedEvidence(f"mr_config: {len(data)} bytes; at most {MOST_BYTES} are read")
    try:
        return msgspec.json.decode(data, type=Document)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as failed:
        raise MalformedEvidence(f"mr_config: {failed}") from None


def _register(version: int, digest: bytes) -> bytes:
    return (bytes([version]) + digest).ljust(SIZE, b"\0")
