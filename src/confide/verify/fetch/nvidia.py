"""What NVIDIA publishes: reference measurements by id, and the keys of its attestation service.

Source: NVIDIA Attestation Suite, RIM service (``GET /v1/rim/{id}``) and remote attestation service
(``GET /.well-known/jwks.json``). Ids are made of text that devices report; only harmless characters reach a URL.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final

import httpx
import msgspec

from confide.verify.fetch.base import Refused, get
from confide.verify.material import Item
from confide.verify.nras import ISSUER
from confide.verify.nvidia_device import rim_ids
from confide.wire import rim
from confide.wire.nvgpu import GpuEvidence

RIM_SERVICE: Final = "https://rim.attestation.nvidia.com"
MOST_RIMS: Final = 32
_ID: Final = re.compile(r"NV_(GPU|SWITCH)_[A-Z0-9_.]{1,120}")


class _Answer(msgspec.Struct):
    rim: str


def rims_for(client: httpx.Client, devices: Iterable[GpuEvidence], *, service: str = RIM_SERVICE) -> list[Item]:
    """The manifests that the evidence of these GPUs or switches asks for, each once; those NVIDIA lacks are left out.

    Raises:
        Unreachable: the service gave no answer.
        Refused: it answered with something else than a manifest.
    """
    wanted = dict.fromkeys(name for device in devices for name in rim_ids(device))
    found = (fetch_rim(client, name, service=service) for name in list(wanted)[:MOST_RIMS])
    return [item for item in found if item is not None]


def fetch_rim(client: httpx.Client, name: str, *, service: str = RIM_SERVICE) -> Item | None:
    """One manifest by its id; None where the service answers with another status than 200, so has none.

    Raises:
        Unreachable: the service gave no answer.
        Refused: it answered with something else than a manifest, or the id is none.
    """
    if not _ID.fullmatch(name):
        raise Refused("this is no id of a reference manifest")
    url = f"{service}/v1/rim/{name}"
    try:
        body = get(client, url, most=2 * rim.MOST_BYTES).body
    except Refused:
        return None
    try:
        data = base64.b64decode(msgspec.json.decode(body, type=_Answer).rim, validate=True)
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError):
        raise Refused(f"{httpx.URL(url).host} sent no manifest for {name}") from None
    return Item("nvidia-rim", name, data, "network")


def nras_keys(client: httpx.Client, *, service: str = ISSUER) -> Item:
    """The keys under which NVIDIA's attestation service signs its tokens now; they change within days.

    Raises:
        Unreachable: the service gave no answer.
        Refused: it answered with another status than 200.
    """
    return Item("jwks", ISSUER, get(client, f"{service}/.well-known/jwks.json").body, "network")
