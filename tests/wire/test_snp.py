"""SEV-SNP reports and certificate tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.wire import snp
from confide.wire.binary import MalformedEvidence

VECTORS = Path(__file__).parent.parent / "vectors" / "evidence" / "amd"
MILAN = (VECTORS / "milan_v2.report").read_bytes()
VLEK = (VECTORS / "vlek_v3.report").read_bytes()
certificates = st.builds(snp.SnpCertificates, *[st.none() | st.binary(max_size=50)] * 4)


@pytest.mark.parametrize("raw", [MILAN, VLEK], ids=["milan", "vlek"])
def test_real_reports_are_built_again_byte_for_byte(raw: bytes) -> None:
    report = snp.parse_report(raw)
    assert snp.build_report(report) == raw
    assert report.signed() == raw[: snp.SIGNED_SIZE]


def test_fields_of_a_real_report() -> None:
    report = snp.parse_report(MILAN)
    assert (report.version, report.signature_algorithm) == (2, 1)
    assert report.report_data == MILAN[0x50:0x90]
    assert report.measurement == MILAN[0x90:0xC0]
    assert report.chip_id == MILAN[0x1A0:0x1E0]
    assert report.reported_tcb == report.committed_tcb == report.launch_tcb
    assert not any(report.signature_r[48:])


@pytest.mark.parametrize("raw", [b"", MILAN[:-1], MILAN + b"\0", b"\x01" + MILAN[1:], b"\x06" + MILAN[1:]])
def test_reports_that_are_none(raw: bytes) -> None:
    with pytest.raises(MalformedEvidence, match="SEV-SNP report"):
        snp.parse_report(raw)


@given(st.binary(min_size=1180, max_size=1184).map(lambda tail: b"\x03\0\0\0" + tail))
def test_any_bytes_give_a_report_or_the_exception(raw: bytes) -> None:
    try:
        report = snp.parse_report(raw)
    except MalformedEvidence:
        return
    assert snp.build_report(report) == raw


@given(certificates)
def test_a_table_is_read_as_it_was_written(value: snp.SnpCertificates) -> None:
    assert snp.parse_certificates(snp.build_certificates(value)) == value


def test_unknown_entries_of_a_table_are_left_out() -> None:
    table = bytes(range(1, 17)) + (48).to_bytes(4, "little") + (2).to_bytes(4, "little") + bytes(24) + b"xy"
    assert snp.parse_certificates(table) == snp.SnpCertificates()


def test_a_real_certificate_in_a_table() -> None:
    vcek = (VECTORS / "vcek.der").read_bytes()
    assert snp.parse_certificates(snp.build_certificates(snp.SnpCertificates(vcek=vcek)) + bytes(4000)).vcek == vcek


def test_an_entry_beyond_the_table() -> None:
    table = snp.build_certificates(snp.SnpCertificates(vcek=b"abc"))
    with pytest.raises(MalformedEvidence, match="ends at"):
        snp.parse_certificates(table[:-1])


def test_a_certificate_twice() -> None:
    head = snp.build_certificates(snp.SnpCertificates(vcek=b""))[:24]
    with pytest.raises(MalformedEvidence, match="two entries for the vcek"):
        snp.parse_certificates(head + head + bytes(24))


@given(st.binary(max_size=200))
def test_any_table_gives_certificates_or_the_exception(table: bytes) -> None:
    try:
        snp.parse_certificates(table)
    except MalformedEvidence:
        return
