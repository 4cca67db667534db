"""What is fetched from NVIDIA, over a transport in memory."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest

from confide.verify.fetch.base import Refused, Unreachable
from confide.verify.fetch.nvidia import MOST_RIMS, RIM_SERVICE, fetch_rim, nras_keys, rims_for
from confide.verify.nras import ISSUER
from confide.wire import nvgpu
from confide.wire.nvgpu import GpuEvidence
from tests.verify.nvidia_maker import DRIVER_RIM, VBIOS_RIM, Factory

FACTORY = Factory()


def client(answer: Callable[[httpx.Request], httpx.Response], seen: list[str] | None = None) -> httpx.Client:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.method == "GET"
        if seen is not None:
            seen.append(str(request.url))
        return answer(request)

    return httpx.Client(transport=httpx.MockTransport(handle))


def published(request: httpx.Request) -> httpx.Response:
    name = request.url.path.rsplit("/", 1)[-1]
    return httpx.Response(200, json={"id": name, "rim": base64.b64encode(name.encode()).decode(), "sha256": "x"})


def test_each_manifest_of_the_devices_is_fetched_once() -> None:
    seen: list[str] = []
    devices = [FACTORY.device().evidence() for _ in range(3)]
    items = rims_for(client(published, seen), devices)
    assert seen == [f"{RIM_SERVICE}/v1/rim/{name}" for name in (DRIVER_RIM, VBIOS_RIM)]
    assert [(one.kind, one.key, one.data, one.source) for one in items] == [
        ("nvidia-rim", name, name.encode(), "network") for name in (DRIVER_RIM, VBIOS_RIM)
    ]


def test_switch_and_another_service() -> None:
    seen: list[str] = []
    rims_for(client(published, seen), [FACTORY.device("LS_10").evidence()], service="https://mirror.example/x")
    assert seen == ["https://mirror.example/x/v1/rim/NV_SWITCH_BIOS_5612_0002_890_9610550001"]


def test_hostile_evidence_reaches_no_url() -> None:
    seen: list[str] = []
    texts = (b"../../../admin\0", b"1.2?x=\0", b"1.2#\0", b"1.2\r\nHost: a\0", b"1.2/3\0", b"\xff\0", b"\0")
    devices = [FACTORY.device(fields={nvgpu.DRIVER_VERSION: text, nvgpu.PROJECT: text}).evidence() for text in texts]
    devices += [GpuEvidence("HOPPER", b"", b""), replace(devices[0], certificate=b"x")]
    assert rims_for(client(published, seen), devices) == []
    assert seen == []


def test_only_so_many_are_fetched() -> None:
    seen: list[str] = []
    devices = [
        FACTORY.device(fields={nvgpu.DRIVER_VERSION: b"1.%d\0" % number, nvgpu.PROJECT: None}).evidence()
        for number in range(MOST_RIMS + 5)
    ]
    rims_for(client(published, seen), devices)
    assert len(seen) == MOST_RIMS


def test_manifest_that_nvidia_lacks_is_left_out() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(404) if "DRIVER" in request.url.path else published(request)

    items = rims_for(client(answer), [FACTORY.device().evidence()])
    assert [item.key for item in items] == [VBIOS_RIM]


@pytest.mark.parametrize("name", ["", "NV_GPU_", "NV_GPU_a", "../x", "NV_GPU_A/B", "NV_GPU_A?B", "NV_GPU_" + "A" * 200])
def test_strange_id_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        fetch_rim(client(published), name)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"rim": 1}', b'{"rim": "*"}', b'{"rim": "AAA"}', b"[" * 10_000, b"\xff"]
)
def test_answer_that_is_no_manifest_is_refused(body: bytes) -> None:
    with pytest.raises(Refused, match=r"rim\.attestation\.nvidia\.com"):
        fetch_rim(client(lambda _: httpx.Response(200, content=body)), DRIVER_RIM)


def test_answer_that_is_too_long_or_none() -> None:
    with pytest.raises(Unreachable):
        fetch_rim(client(lambda _: httpx.Response(200, content=b" " * (3 << 20))), DRIVER_RIM)

    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route", request=request)

    with pytest.raises(Unreachable):
        rims_for(client(broken), [FACTORY.device().evidence()])


def test_keys_of_the_service() -> None:
    seen: list[str] = []
    keys = json.dumps({"keys": []}).encode()
    item = nras_keys(client(lambda _: httpx.Response(200, content=keys), seen))
    assert (item.kind, item.key, item.data, item.source) == ("jwks", ISSUER, keys, "network")
    assert seen == ["https://nras.attestation.nvidia.com/.well-known/jwks.json"]
    with pytest.raises(Refused):
        nras_keys(client(lambda _: httpx.Response(503)), service="https://mirror.example")
