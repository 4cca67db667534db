"""From msgspec's one-line complaints to OpenAI's: the same message, ``param`` and ``code`` that their clients know.

msgspec says ``Expected `int` >= 1 - at `$.max_tokens```; OpenAI says ``Invalid 'max_tokens': integer below minimum
value. Expected a value >= 1, but got -678 instead.`` with code ``integer_below_min_value``. Values of the request are
repeated only where they are short, so that an error can't be used to reflect or to amplify a body.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from confide.errors import InvalidRequest

_PLACE: Final = re.compile(r"^(?P<what>.*?)(?: - at (?:key in )?`(?P<path>\$[^`]*)`)?$", re.DOTALL)
_BOUND: Final = re.compile(r"^Expected `(?P<kind>int|float)` (?P<sign>>=|<=|>|<) (?P<bound>\S+)$")
_LENGTH: Final = re.compile(r"^Expected `(?P<kind>array|str|object)` of length (?P<sign>>=|<=) (?P<bound>\d+)$")
_TYPE: Final = re.compile(r"^Expected `(?P<want>[^`]+)`(?:, got `(?P<got>[^`]+)`)?$")
_MISSING: Final = re.compile(r"^Object missing required field `(?P<name>\w+)`$")
_PATTERN: Final = re.compile(r"^Expected `str` matching regex '(?P<pattern>.*)'$")

_NOUNS: Final = {
    "str": "a string",
    "int": "an integer",
    "float": "a decimal",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_SUPPORTED: Final = {
    "role": "'system', 'developer', 'user', 'assistant', 'tool', and 'function'",
    "tool_choice": "'none', 'auto', and 'required'",
    "response_format.type": "'text', 'json_object', and 'json_schema'",
    "allowed_tools.tools[].type": "'function'",
    "tools[].type": "'function' and 'custom'",
    "tool_calls[].type": "'function'",
    "tool_choice.type": "'function', 'custom', and 'allowed_tools'",
    "function_call": "'none' and 'auto'",
    "content[].type": "'text', 'image_url', 'input_audio', and 'file'",
    "detail": "'auto', 'low', and 'high'",
    "mode": "'auto' and 'required'",
}
_LONGEST_ECHO: Final = 40
_LONGEST_LOOKUP: Final = 1 << 20
"""In a body longer than this no value is looked up: decoding all of it only to repeat one number isn't worth it."""


def explain(error: Exception, body: bytes, *, needs: str = "'model' and 'messages'") -> InvalidRequest:
    """The error that a client is told for what the decoder refused."""
    if isinstance(error, RecursionError):
        return InvalidRequest("The JSON body of your request is nested too deeply.")
    if not isinstance(error, msgspec.ValidationError):
        return InvalidRequest(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The API expects a JSON payload in UTF-8, but what was sent was not valid JSON.)"
        )
    match = _PLACE.match(str(error))
    what, path = (match["what"], match["path"]) if match else (str(error), None)
    param = _param(path)
    if param is None and not what.startswith("Object missing"):
        return InvalidRequest(f"Invalid body: expected a JSON object with the members {needs}.")
    return _classify(what, param or "", body)


def _param(path: str | None) -> str | None:
    """``$.messages[0].role`` as OpenAI writes it: ``messages[0].role``; None for the body itself."""
    if path is None:
        return None
    return path.removeprefix("$").removeprefix(".").replace("[...]", "") or None


def _classify(what: str, param: str, body: bytes) -> InvalidRequest:
    if match := _MISSING.match(what):
        return _missing(param, match["name"])
    if match := _BOUND.match(what):
        return _out_of_bounds(param, match, _lookup(body, param))
    if match := _LENGTH.match(what):
        return _wrong_length(param, match, _lookup(body, param))
    if match := _PATTERN.match(what):
        message = f"Invalid '{param}': string does not match pattern. Expected a string that matches the pattern"
        pattern = match["pattern"].replace("\\\\", "\\").removesuffix(r"\Z") + "$"
        return InvalidRequest(f"{message} '{pattern}'.", param=param, code="invalid_value")
    if what.startswith("Invalid "):
        return _unknown_value(param, _lookup(body, param))
    if match := _TYPE.match(what):
        return _wrong_type(param, match["want"], match["got"])
    return InvalidRequest(f"Invalid value for '{param}': {what[:200]}.", param=param, code="invalid_value")


def _missing(param: str, name: str) -> InvalidRequest:
    if not param and name == "model":
        return InvalidRequest("you must provide a model parameter", param="model", code="missing_required_parameter")
    full = f"{param}.{name}" if param else name
    return InvalidRequest(f"Missing required parameter: '{full}'.", param=full, code="missing_required_parameter")


def _out_of_bounds(param: str, match: re.Match[str], value: object) -> InvalidRequest:
    kind = {"int": "integer", "float": "decimal"}[match["kind"]]
    below = match["sign"].startswith(">")
    side = "below minimum" if below else "above maximum"
    got = f", but got {value} instead" if isinstance(value, int | float) and len(str(value)) <= _LONGEST_ECHO else ""
    bound = match["bound"].removesuffix(".0")
    return InvalidRequest(
        f"Invalid '{param}': {kind} {side} value. Expected a value {match['sign']} {bound}{got}.",
        param=param,
        code=f"{kind}_{side.replace(' ', '_').replace('minimum', 'min').replace('maximum', 'max')}_value",
    )


def _wrong_length(param: str, match: re.Match[str], value: Any) -> InvalidRequest:
    kind = {"array": "array", "str": "string", "object": "object"}[match["kind"]]
    bound, length = match["bound"], len(value) if isinstance(value, str | list | dict) else "another"
    one = "a" if kind == "string" else "an"
    if match["sign"] == "<=":
        return InvalidRequest(
            f"Invalid '{param}': {kind} too long. Expected {one} {kind} with maximum length {bound}, but got {one} "
            f"{kind} with length {length} instead.",
            param=param,
            code=f"{kind}_above_max_length",
        )
    return InvalidRequest(
        f"Invalid '{param}': empty {kind}. Expected {one} {kind} with minimum length {bound}, but got an empty {kind} "
        "instead.",
        param=param,
        code=f"empty_{kind}",
    )


def _unknown_value(param: str, value: object) -> InvalidRequest:
    shown = f": '{value}'" if isinstance(value, str) and len(value) <= _LONGEST_ECHO else f" for '{param}'"
    general = re.sub(r"\d+", "", param)
    supported = next((names for tail, names in _SUPPORTED.items() if general.endswith(tail)), None)
    return InvalidRequest(
        f"Invalid value{shown}." + (f" Supported values are: {supported}." if supported else ""),
        param=param,
        code="invalid_value",
    )


def _wrong_type(param: str, want: str, got: str | None) -> InvalidRequest:
    kinds = [_NOUNS.get(kind, kind) for kind in want.split(" | ") if kind != "null"]
    if param.endswith("content"):
        kinds = ["an array of objects" if kind == "an array" else kind for kind in kinds]
    expected = kinds[0] if len(kinds) == 1 else "one of " + " or ".join((", ".join(kinds[:-1]), kinds[-1]))
    instead = f", but got {_NOUNS.get(got, got)} instead" if got else ""
    return InvalidRequest(
        f"Invalid type for '{param}': expected {expected}{instead}.", param=param, code="invalid_type"
    )


def _lookup(body: bytes, param: str) -> Any:
    """The value at a dotted path; None where there is none. Only for messages, so it never raises."""
    if len(body) > _LONGEST_LOOKUP:
        return None
    try:
        value = msgspec.json.decode(body)
        for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", param):
            value = value[name] if name else value[int(index)]
    except (msgspec.MsgspecError, LookupError, TypeError, RecursionError, UnicodeDecodeError):
        return None
    return value
