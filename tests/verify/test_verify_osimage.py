"""The measurement document of an OS image: what registers it gives, and everything that it may not be."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.wire.binary import MalformedEvidence
from confide.wire.eventlog import extend
from confide.wire.osimage import MOST_BYTES, parse_cbor, parse_image
from confide.wire.tdx import parse_quote
from tests.verify.dstack_maker import MEASUREMENT, VECTORS, digest, document

RECORDED = json.loads((VECTORS / "getquote_0_6.json").read_text())
DOCUMENT = json.loads(RECORDED["vm_config"])["tdx_measurement"]
LISTED = "measurement.tdx.cbor"


def test_the_recorded_document_gives_the_recorded_registers() -> None:
    image = parse_image(DOCUMENT)
    td = parse_quote(bytes.fromhex(RECORDED["quote"])).report
    assert image.image_hash.hex() == json.loads(RECORDED["vm_config"])["os_image_hash"]
    assert td.mr_td == image.mr_td[1]
    assert (td.rtmr1, td.rtmr2) == (image.rtmr1, image.rtmr2)


def test_registers_are_extended_by_the_image_in_order() -> None:
    image = parse_image(document())
    assert image.rtmr2 == extend(extend(bytes(48), digest("command line")), digest("initrd"))
    assert image.mr_td == (digest("firmware, one pass"), digest("firmware, two passes"))


def _with(path: str, value: Any) -> Any:
    changed = cbor2.loads(cbor2.dumps(MEASUREMENT))
    *parents, last = path.split(".")
    inner = changed
    for name in parents:
        inner = inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return changed


PATHS = (
    "image",
    "tdvf",
    "tdvf.mrtd",
    "version",
    "image.cmdline_sha384",
    "image.kernel_authenticode",
    "image.initrd_sha384",
    "tdvf.mrtd.single_pass",
    "tdvf.mrtd.two_pass",
)
WRONG = (None, 0, 4, "3", b"", bytes(47), bytes(49), "00" * 48, {})


@pytest.mark.parametrize("path", PATHS)
def test_a_member_that_is_missing_or_of_another_type_is_refused(path: str) -> None:
    for value in WRONG:
        with pytest.raises(MalformedEvidence, match="OS image"):
            parse_image(document(_with(path, value)))


@pytest.mark.parametrize("path", PATHS[4:])
def test_every_digest_counts(path: str) -> None:
    assert parse_image(document(_with(path, bytes(48)))) != parse_image(document())


def test_members_that_are_not_needed_are_left_unread() -> None:
    other = parse_image(document(_with("tdvf.td_hob", b"other")))
    assert (other.mr_td, other.rtmr1) == (parse_image(document()).mr_td, parse_image(document()).rtmr1)


@pytest.mark.parametrize("value", [7, [], "text", b"bytes", {}, {"version": 3}])
def test_a_measurement_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(MalformedEvidence):
        parse_image(document(value))


@pytest.mark.parametrize("name", ["checksum_file", "measurement"])
@pytest.mark.parametrize("value", [None, 7, "?", "AAA", "é", "\ud800", " ", "A" * (2 * MOST_BYTES + 4)])
def test_a_part_that_is_no_base64_is_refused(name: str, value: Any) -> None:
    with pytest.raises(MalformedEvidence):
        parse_image(document() | {name: value})


HASH = hashlib.sha256(cbor2.dumps(MEASUREMENT)).hexdigest()


@pytest.mark.parametrize(
    "checksums",
    [
        "",
        HASH,
        f"{HASH}  other.cbor",
        f"{HASH}  {LISTED}.bak",
        f"{HASH}  ./{LISTED}",
        f"{'00' * 32}  {LISTED}",
        f"{HASH[:-2]}  {LISTED}",
        f"zz{HASH[2:]}  {LISTED}",
        f"{HASH}  {LISTED}\n{HASH}  {LISTED}",
        f"{'00' * 32}  {LISTED}\n{HASH}  {LISTED}",
    ],
)
def test_a_checksum_file_that_does_not_list_the_measurement_once_is_refused(checksums: str) -> None:
    with pytest.raises(MalformedEvidence, match="checksum file"):
        parse_image(document(checksums=checksums.encode()))


def test_a_checksum_file_that_is_no_text_is_refused() -> None:
    with pytest.raises(MalformedEvidence, match="checksum file"):
        parse_image(document(checksums=b"\xff"))


# CBOR ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        cbor2.dumps([1]),
        cbor2.dumps(-1),
        cbor2.dumps(1.5),
        cbor2.dumps(None),
        cbor2.dumps(True),
        cbor2.dumps({1: 2}),
        cbor2.dumps({b"a": 2}),
        cbor2.dumps({"a": [1]}),
        cbor2.dumps(cbor2.CBORTag(35, "(a+)+$")),
        cbor2.dumps(2**80),
        cbor2.dumps({"a": {"b": {"c": {"d": {"e": 1}}}}}),
        cbor2.dumps({str(number): number for number in range(33)}),
        cbor2.dumps(1) + b"\0",
        bytes.fromhex("d81c a1 6161 d81d 00"),
        bytes.fromhex("bf616101ff"),
        bytes.fromhex("7f6161ff"),
        bytes.fromhex("5f4100ff"),
        bytes.fromhex("a2616101616102"),
        bytes.fromhex("a1616101")[:-1],
        bytes.fromhex("61ff"),
        bytes.fromhex("1c"),
        bytes.fromhex("5bffffffffffffffff"),
        bytes.fromhex("bbffffffffffffffff"),
        bytes.fromhex("9bffffffffffffffff"),
        b"\xa1" * 70_000,
        b"\x81" * 70_000,
        b"\xc1" * 70_000,
    ],
)
def test_cbor_of_any_other_kind_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        parse_cbor(data)


PLAIN = st.recursive(
    st.integers(0, 2**64 - 1) | st.text(max_size=300) | st.binary(max_size=300),
    lambda inner: st.dictionaries(st.text(max_size=30), inner, max_size=5),
    max_leaves=8,
)


def _depth(value: Any) -> int:
    return 1 + max(map(_depth, value.values()), default=0) if isinstance(value, dict) else 0


@settings(max_examples=150, derandomize=True, deadline=None)
@given(value=PLAIN.filter(lambda value: _depth(value) <= 4))
def test_plain_values_are_read_as_cbor2_reads_them(value: Any) -> None:
    assert parse_cbor(cbor2.dumps(value)) == value


@settings(max_examples=300, derandomize=True, deadline=None)
@given(data=st.binary(max_size=40))
def test_any_bytes_are_a_plain_value_or_refused(data: bytes) -> None:
    try:
        value = parse_cbor(data)
    except MalformedEvidence:
        return
    assert cbor2.loads(data) == value


def test_no_changed_byte_of_a_recorded_document_is_accepted() -> None:
    """Each byte of both parts: refused, or another image hash than the one that was recorded."""
    good = parse_image(DOCUMENT)
    tried = accepted = 0
    for name in DOCUMENT:
        data = base64.b64decode(DOCUMENT[name])
        for place in range(len(data)):
            changed = bytearray(data)
            changed[place] ^= 1 << place % 8
            try:
                image = parse_image(DOCUMENT | {name: base64.b64encode(changed).decode()})
            except MalformedEvidence:
                image = None
            tried += 1
            accepted += image is not None and image.image_hash == good.image_hash
    print(f"OS image: {tried} mutations tried, {accepted} accepted")
    assert accepted == 0
    assert tried > 300
