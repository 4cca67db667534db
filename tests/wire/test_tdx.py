"""TDX quotes: real ones parse, parse then build is the identity, and no bytes do anything but that or one exception."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.wire import tdx
from confide.wire.binary import MalformedEvidence

VECTORS = Path(__file__).parent.parent / "vectors" / "evidence" / "intel"
REAL = sorted(path for path in VECTORS.glob("tdx_*.quote"))
V4 = (VECTORS / "tdx_v4.quote").read_bytes()
V5 = (VECTORS / "tdx_v5.quote").read_bytes()
WHOLE = len(V4.rstrip(b"\0")) + 1
"""The certificates of a quote end with one zero; more are padding."""


def test_there_are_vectors() -> None:
    assert len(REAL) == 5


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_quotes_are_built_again_byte_for_byte(path: Path) -> None:
    raw = path.read_bytes()
    assert tdx.build_quote(tdx.parse_quote(raw)) == raw


def test_fields_of_a_real_quote() -> None:
    quote = tdx.parse_quote(V4)
    assert quote.header.version == 4
    assert quote.header.qe_vendor_id.hex() == "939a7233f79c4ca9940a0db3957f0607"
    assert quote.report.report_data == V4[568:632]
    assert quote.report.mr_td == V4[184:232]
    assert quote.report.rtmrs == tuple(V4[376 + 48 * i : 424 + 48 * i] for i in range(4))
    assert quote.report.mr_service_td is None
    assert quote.signed() == V4[:632]
    assert quote.signature.certification.startswith(b"-----BEGIN CERTIFICATE-----")
    assert quote.signature.qe_report.isv_prod_id == 2
    assert quote.padding == 70


def test_a_version_5_quote_has_the_fields_of_tdx_1_5() -> None:
    quote = tdx.parse_quote(V5)
    assert quote.header.version == 5
    assert quote.report.tee_tcb_svn_2 == V5[638:654]
    assert quote.report.mr_service_td == V5[654:702]
    assert quote.signed() == V5[:702]


def test_a_version_5_quote_may_hold_a_1_0_report() -> None:
    quote = tdx.parse_quote(V4)
    v5 = replace(quote, header=replace(quote.header, version=5))
    assert tdx.parse_quote(tdx.build_quote(v5)) == v5


def test_a_debug_td_is_well_formed() -> None:
    assert tdx.parse_quote((VECTORS / "tdx_v4_debug.quote").read_bytes()).report.td_attributes[0] == 1


@pytest.mark.parametrize(
    ("offset", "byte", "complaint"),
    [
        (0, 3, "version 3"),
        (2, 3, "attestation key type 3"),
        (4, 0, "TEE type 0x0"),
        (632, 0, "signature"),
        (764, 5, "certification type 5"),
        (766, 0, "too many"),
        (1218, 31, "needs"),
        (1254, 0, "too many"),
        (len(V4) - 1, 1, "not zero"),
    ],
)
def test_one_changed_byte_is_named(offset: int, byte: int, complaint: str) -> None:
    raw = bytearray(V4)
    raw[offset] = byte
    with pytest.raises(MalformedEvidence, match=complaint):
        tdx.parse_quote(bytes(raw))


@pytest.mark.parametrize(("offset", "byte"), [(48, 4), (48, 1), (50, 0x89), (50, 0x87)])
def test_unknown_bodies_of_version_5_are_refused(offset: int, byte: int) -> None:
    raw = bytearray(V5)
    raw[offset] = byte
    with pytest.raises(MalformedEvidence, match="body"):
        tdx.parse_quote(bytes(raw))


def test_sgx_quotes_are_not_tdx_quotes() -> None:
    with pytest.raises(MalformedEvidence, match="version 3"):
        tdx.parse_quote((VECTORS / "sgx_v3.quote").read_bytes())


def test_every_truncation_is_refused() -> None:
    for size in range(WHOLE):
        with pytest.raises(MalformedEvidence):
            tdx.parse_quote(V4[:size])


def test_zeros_after_a_quote_are_padding() -> None:
    assert tdx.parse_quote(V4[:WHOLE]).padding == 0
    assert tdx.parse_quote(V4[:WHOLE] + bytes(3000)).padding == 3000


@given(st.binary(max_size=2000))
def test_any_bytes_give_a_quote_or_the_exception(raw: bytes) -> None:
    _total(raw)


@given(st.sampled_from([V4, V5]), st.lists(st.tuples(st.integers(0, 1300), st.binary(min_size=1, max_size=4))))
def test_damaged_quotes_give_a_quote_or_the_exception(raw: bytes, damage: list[tuple[int, bytes]]) -> None:
    damaged = bytearray(raw)
    for offset, data in damage:
        damaged[offset : offset + len(data)] = data
    _total(bytes(damaged))


def _total(raw: bytes) -> None:
    try:
        quote = tdx.parse_quote(raw)
    except MalformedEvidence:
        return
    assert tdx.build_quote(quote) == raw


def test_a_field_of_another_size_is_a_programming_error() -> None:
    quote = tdx.parse_quote(V4)
    with pytest.raises(ValueError, match="mr_td is 48 bytes long, not 47"):
        tdx.build_quote(replace(quote, report=replace(quote.report, mr_td=bytes(47))))


def test_a_1_5_report_needs_version_5() -> None:
    quote = tdx.parse_quote(V5)
    with pytest.raises(ValueError, match="version 5"):
        tdx.build_quote(replace(quote, header=replace(quote.header, version=4)))


def test_collateral_goes_through_json() -> None:
    text = (VECTORS / "tdx_v4.collateral.json").read_text()
    collateral = tdx.parse_collateral(text)
    assert collateral.as_json() == json.loads(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tcb_info":1}', "[" * 100_000, b"\xff"])
def test_collateral_that_is_none(text: str | bytes) -> None:
    with pytest.raises(MalformedEvidence, match="collateral"):
        tdx.parse_collateral(text)
