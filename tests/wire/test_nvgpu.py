"""GPU evidence: the SPDM exchange and its payload."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.wire import nvgpu
from confide.wire.binary import MalformedEvidence

VECTORS = Path(__file__).parent.parent / "vectors" / "evidence" / "nvidia"
REAL = {path.stem: bytes.fromhex(path.read_text().strip()) for path in sorted(VECTORS.glob("*.hex"))}
HOPPER = REAL["hopper_580"]
RECORD = 37 + 8
"""Where the first block of a real report starts."""

blocks = st.lists(
    st.builds(nvgpu.Measurement, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=60)),
    max_size=64,
    unique_by=lambda block: block.index,
).map(tuple)
fields = st.lists(
    st.builds(nvgpu.OpaqueField, st.integers(0, 65535), st.binary(max_size=60)),
    max_size=20,
    unique_by=lambda field: field.type,
).map(tuple)
exchanges = st.builds(
    nvgpu.Measurements,
    st.binary(min_size=32, max_size=32),
    blocks,
    st.binary(min_size=32, max_size=32),
    fields,
    st.binary(min_size=96, max_size=96),
    st.binary(min_size=2, max_size=2),
    st.integers(0, 255),
    st.binary(min_size=2, max_size=2),
)


def test_there_are_vectors() -> None:
    assert len(REAL) == 3


@pytest.mark.parametrize("name", REAL)
def test_real_evidence_is_built_again_byte_for_byte(name: str) -> None:
    parsed = nvgpu.parse_measurements(REAL[name])
    assert nvgpu.build_measurements(parsed) == REAL[name]
    assert parsed.signed() == REAL[name][:-96]


def test_fields_of_real_evidence() -> None:
    parsed = nvgpu.parse_measurements(HOPPER)
    assert parsed.nonce == HOPPER[4:36]
    assert [block.index for block in parsed.measurements] == list(range(1, 65))
    assert parsed.field(nvgpu.DRIVER_VERSION) == b"580.159.03\0"
    assert len(parsed.field(nvgpu.FWID) or b"") == 48
    assert parsed.field(60_000) is None


@pytest.mark.parametrize(
    ("offset", "byte", "complaint"),
    [
        (0, 0x12, "GET_MEASUREMENTS"),
        (1, 0xE1, "GET_MEASUREMENTS"),
        (37, 0x12, "MEASUREMENTS response"),
        (41, 63, "too many"),
        (41, 65, "needs"),
        (42, 0, "needs|too many"),
        (RECORD + 1, 2, "DMTF"),
        (RECORD + 2, 50, "needs"),
        (RECORD + 5, 47, "too many"),
        (RECORD, 2, "two measurements"),
    ],
)
def test_one_changed_byte_is_named(offset: int, byte: int, complaint: str) -> None:
    raw = bytearray(HOPPER)
    raw[offset] = byte
    with pytest.raises(MalformedEvidence, match=complaint):
        nvgpu.parse_measurements(bytes(raw))


def test_every_truncation_is_refused() -> None:
    for size in range(0, len(HOPPER), 7):
        with pytest.raises(MalformedEvidence):
            nvgpu.parse_measurements(HOPPER[:size])
    with pytest.raises(MalformedEvidence, match="1 bytes too many"):
        nvgpu.parse_measurements(HOPPER + b"\0")


def test_a_vendor_field_twice() -> None:
    field = nvgpu.OpaqueField(3, b"x")
    raw = nvgpu.build_measurements(nvgpu.Measurements(bytes(32), (), bytes(32), (field, field)))
    with pytest.raises(MalformedEvidence, match="same type"):
        nvgpu.parse_measurements(raw)


@given(exchanges)
def test_build_then_parse_is_the_identity(value: nvgpu.Measurements) -> None:
    assert nvgpu.parse_measurements(nvgpu.build_measurements(value)) == value


@given(st.lists(st.tuples(st.integers(0, len(HOPPER) - 1), st.integers(0, 255)), max_size=5))
def test_damaged_evidence_gives_a_value_or_the_exception(damage: list[tuple[int, int]]) -> None:
    raw = bytearray(HOPPER)
    for offset, byte in damage:
        raw[offset] = byte
    try:
        parsed = nvgpu.parse_measurements(bytes(raw))
    except MalformedEvidence:
        return
    assert nvgpu.build_measurements(parsed) == bytes(raw)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_value_or_the_exception(tail: bytes) -> None:
    try:
        nvgpu.parse_measurements(b"\x11\xe0\x01\xff" + tail)
    except MalformedEvidence:
        return


def test_a_payload_is_the_text_that_clients_know() -> None:
    payload = nvgpu.GpuPayload(bytes(32), (nvgpu.GpuEvidence("HOPPER", b"chain", b"report"),))
    text = nvgpu.build_payload(payload)
    assert text == (
        '{"nonce":"' + "00" * 32 + '","evidence_list":[{"certificate":"Y2hhaW4=","evidence":"cmVwb3J0",'
        '"arch":"HOPPER"}],"arch":"HOPPER"}'
    )
    assert nvgpu.parse_payload(text) == payload
    assert nvgpu.parse_payload(nvgpu.build_payload(nvgpu.GpuPayload(bytes(32), ()))).gpus == ()


def test_a_real_evidence_list_as_a_payload() -> None:
    items = json.loads((VECTORS / "hopper_590.list.json").read_text())
    text = json.dumps({"nonce": "11" * 32, "evidence_list": items, "arch": "HOPPER"})
    (gpu,) = nvgpu.parse_payload(text).gpus
    assert nvgpu.build_measurements(nvgpu.parse_measurements(gpu.evidence)) == gpu.evidence
    assert gpu.certificate == base64.b64decode(items[0]["certificate"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{}",
        '{"nonce":"00","evidence_list":[]}',
        '{"nonce":"zz","evidence_list":[]}',
        '{"nonce":"' + "00" * 32 + '","evidence_list":[{"certificate":"*","evidence":""}]}',
        '{"nonce":"' + "00" * 32 + '","evidence_list":[{"certificate":"é","evidence":""}]}',
        "[" * 100_000,
    ],
)
def test_payloads_that_are_none(text: str) -> None:
    with pytest.raises(MalformedEvidence, match="GPU payload"):
        nvgpu.parse_payload(text)
