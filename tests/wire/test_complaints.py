"""OpenAI's words for what msgspec says, also for messages that no request of ours brings about today."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.wire.complaints import explain

BODY = b'{"a":{"b":[{"c":5000},"x"]},"long":"' + b"y" * 41 + b'","short":"z"}'


def told(message: str, body: bytes = BODY) -> tuple[str, str | None, str | None]:
    error = explain(msgspec.ValidationError(message), body)
    return error.message, error.param, error.code


@pytest.mark.parametrize(
    ("said", "message", "param", "code"),
    [
        (
            "Expected `int` <= 9 - at `$.a.b[0].c`",
            "Invalid 'a.b[0].c': integer above maximum value. Expected a value <= 9, but got 5000 instead.",
            "a.b[0].c",
            "integer_above_max_value",
        ),
        (
            "Expected `float` < 1.0 - at `$.a.b[0].c`",
            "Invalid 'a.b[0].c': decimal above maximum value. Expected a value < 1, but got 5000 instead.",
            "a.b[0].c",
            "decimal_above_max_value",
        ),
        (
            "Expected `float` > 0.5 - at `$.a.nowhere`",
            "Invalid 'a.nowhere': decimal below minimum value. Expected a value > 0.5.",
            "a.nowhere",
            "decimal_below_min_value",
        ),
        (
            "Expected `int` >= 1 - at `$.a[...].b`",
            "Invalid 'a.b': integer below minimum value. Expected a value >= 1.",
            "a.b",
            "integer_below_min_value",
        ),
        (
            "Expected `str` of length >= 1 - at `$.a`",
            "Invalid 'a': empty string. Expected a string with minimum length 1, but got an empty string instead.",
            "a",
            "empty_string",
        ),
        (
            "Expected `array` of length <= 1 - at `$.a.b`",
            "Invalid 'a.b': array too long. Expected an array with maximum length 1, but got an array with length 2 "
            "instead.",
            "a.b",
            "array_above_max_length",
        ),
        (
            "Expected `int | str | null`, got `array` - at `$.a`",
            "Invalid type for 'a': expected one of an integer or a string, but got an array instead.",
            "a",
            "invalid_type",
        ),
        (
            "Expected `int | str | bool`, got `null` - at `$.a`",
            "Invalid type for 'a': expected one of an integer, a string or a boolean, but got null instead.",
            "a",
            "invalid_type",
        ),
        ("Expected `str` - at `key in `$.a`", "Invalid body", None, None),
        ("Expected `str` - at key in `$.a`", "Invalid type for 'a': expected a string.", "a", "invalid_type"),
        ("Invalid enum value 'z' - at `$.short`", "Invalid value: 'z'.", "short", "invalid_value"),
        ("Invalid enum value '…' - at `$.long`", "Invalid value for 'long'.", "long", "invalid_value"),
        (
            "Object missing required field `b` - at `$.a`",
            "Missing required parameter: 'a.b'.",
            "a.b",
            "missing_required_parameter",
        ),
        (
            "Object missing required field `b`",
            "Missing required parameter: 'b'.",
            "b",
            "missing_required_parameter",
        ),
        ("Something new - at `$.a`", "Invalid value for 'a': Something new.", "a", "invalid_value"),
        ("Something new", "Invalid body", None, None),
        ("Expected `object`, got `array`", "Invalid body", None, None),
    ],
)
def test_each_kind_of_complaint(said: str, message: str, param: str | None, code: str | None) -> None:
    got = told(said)
    assert got[0].startswith(message)
    assert got[1:] == (param, code)


def test_a_complaint_of_a_new_kind_is_cut() -> None:
    message, param, _ = told("n" * 5000 + " - at `$.a`")
    assert param == "a"
    assert len(message) < 300


@pytest.mark.parametrize(
    "error",
    [msgspec.DecodeError("JSON is malformed"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")],
)
def test_what_was_not_json(error: Exception) -> None:
    got = explain(error, b"secret")
    assert got.message.startswith("We could not parse the JSON body of your request. (HINT: ")
    assert (got.param, got.code) == (None, None)
    assert "secret" not in got.message


def test_depth() -> None:
    got = explain(RecursionError(), b"[" * 9)
    assert (got.message, got.param, got.code) == ("The JSON body of your request is nested too deeply.", None, None)


def test_no_value_is_looked_up_in_a_long_body() -> None:
    said = "Expected `int` <= 9 - at `$.n`"
    short = b'{"n":12,"x":"' + b"y" * 1000 + b'"}'
    long = b'{"n":12,"x":"' + b"y" * (1 << 20) + b'"}'
    assert told(said, short)[0].endswith("<= 9, but got 12 instead.")
    assert told(said, long)[0].endswith("<= 9.")


@pytest.mark.parametrize("digits", [41, 4299, 4300, 4301, 100_000])
def test_a_long_number_is_not_repeated(digits: int) -> None:
    body = b'{"n":' + b"9" * digits + b"}"
    assert told("Expected `int` <= 9 - at `$.n`", body)[0].endswith("Expected a value <= 9.")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300), st.text("$.[]`a0…\n", max_size=40), st.binary(max_size=100))
def test_whatever_is_said_about_whatever_body(said: str, path: str, body: bytes) -> None:
    for text in (said, f"{said} - at `{path}`", f"Expected `int` >= {path} - at `${path}`"):
        assert len(explain(msgspec.ValidationError(text), body).message) < 1000
