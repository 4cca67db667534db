from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.wire import jcs
from confide.wire.jcs import InvalidJson, canonical, parse

# RFC 8785, appendix B: the bits of a double, and how ECMAScript writes it.
NUMBERS = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-jcs.MOST_INT, jcs.MOST_INT)
    | st.floats(-1e15, 1e15)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


@pytest.mark.parametrize(("bits", "text"), NUMBERS)
def test_numbers_of_the_rfc(bits: str, text: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(value) == text.encode()
    assert float(text) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks(value: float) -> None:
    with pytest.raises(InvalidJson, match="isn't finite"):
        canonical([value])


@given(values)
def test_what_is_written_reads_as_the_same_value(value: Any) -> None:
    data = canonical(value)
    assert json.loads(data) == value
    assert parse(data) == value
    assert canonical(parse(data)) == data


@given(values)
def test_every_spelling_has_one_canonical_form(value: Any) -> None:
    for spelling in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2)):
        assert canonical(parse(spelling.encode())) == canonical(value)


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        value = parse(data)
    except InvalidJson:
        return
    canonical(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (2**53, "beyond"),
        (-(2**53), "beyond"),
        ({1: 2}, "name must be a string"),
        ({"a": {None: 1}}, "name must be a string"),
        (b"bytes", "a bytes is no JSON value"),
        ([{1}], "a set is no JSON value"),
        ("\ud800", "lone surrogate"),
        ({"\udfff": 1}, "lone surrogate"),
        ([[]] * 2 + [json.loads("[" * 64 + "]" * 64)], "deeper than 64"),
    ],
)
def test_values_that_cannot_be_written(value: Any, reason: str) -> None:
    with pytest.raises(InvalidJson, match=reason):
        canonical(value)


@pytest.mark.parametrize("data", [b'{"a":' * 100_000, b"[" * 1_000_000])
def test_depth_that_would_exhaust_the_stack(data: bytes) -> None:
    with pytest.raises(InvalidJson, match=r"deeper than 64|not JSON"):
        parse(data)


def test_tuples_are_lists_and_booleans_are_no_numbers() -> None:
    assert canonical((True, False, 1, 0)) == b"[true,false,1,0]"


def test_digests_name_their_hash() -> None:
    assert jcs.digest({}) == jcs.sha256(b"{}")
    assert jcs.sha256(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
