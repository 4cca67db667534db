"""The page of errors. A status, a code or a type that the code can give and that has no words here stops the build.

Words for what is gone are not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import collect

STATUSES: Final = {
    400: (
        "the request is malformed, or asks for what can't be honoured",
        "change the request; `param` names the member",
    ),
    401: (
        "no API key, or not one of this server",
        "send `Authorization: Bearer KEY` with a key of `confide keys create`",
    ),
    403: (
        "a server without keys was asked under another name than localhost; or the local proxy refuses a request that "
        "a web page made",
        "use the loopback address",
    ),
    404: ("no such model, path, receipt, keyset or signing address", "`GET /v1/models` lists the models"),
    405: ("the path exists, not with this method", "use the method in `Allow`"),
    412: (
        "the request demands attested upstream sessions (`provider.aci_*`), and this server computes the answer itself",
        "leave those members out",
    ),
    413: ("the body is longer than `max_body_bytes`", "send less"),
    415: ("the local proxy takes JSON only", "send `Content-Type: application/json`"),
    429: (
        "the queue, the engine or the rate of reports is at its limit",
        "wait for `Retry-After` seconds, then repeat",
    ),
    500: ("a bug of this server, or an answer that could not be encrypted", "report it; repeating may help"),
    502: ("the engine failed, or broke the contract that was asked for", "repeat; the operator reads the log"),
    503: (
        "not now: overloaded, stopping, the store is away, the model is starting, or the machine gives no evidence",
        "wait for `Retry-After` seconds, then repeat",
    ),
}

_SHORTER: Final = "give one of at least one entry"
CODES: Final = {
    "array_above_max_length": ("a list has too many entries", "shorten it; the message has the limit"),
    "context_length_exceeded": ("prompt and answer don't fit the model's context", "shorten the conversation"),
    "decimal_above_max_value": ("a number is too large", "the message has the limit"),
    "decimal_below_min_value": ("a number is too small", "the message has the limit"),
    "e2ee_encryption_failed": ("the answer can't be encrypted, so it isn't sent", "report it"),
    "empty_array": ("a list must not be empty", _SHORTER),
    "empty_object": ("an object must not be empty", "give at least one member"),
    "empty_string": ("a string must not be empty", "give at least one character"),
    "endpoint_not_offered": ("the model is served, and not on this path", "the message says on which it is"),
    "image_parse_error": ("an image is damaged", "send it anew, from a program that can open it"),
    "image_too_large": ("an image has too many bytes or pixels", "scale it down; the message has the limit"),
    "integer_above_max_value": ("a whole number is too large", "the message has the limit"),
    "integer_below_min_value": ("a whole number is too small", "the message has the limit"),
    "invalid_api_key": ("the API key is not one of this server, or it was revoked", "ask the operator for a key"),
    "invalid_function_parameters": (
        "a tool's schema can't be guaranteed: it is no JSON Schema, or has a keyword that decoding can't hold",
        "the message names the keyword; simplify the schema",
    ),
    "invalid_image_format": ("an image is not png, jpeg, webp or a still gif", "convert it"),
    "invalid_image_url": (
        "an image URL is no data URL, or it can't be fetched, or fetching is off (`fetch_images`)",
        "send the image as a data URL",
    ),
    "invalid_json_schema": ("as `invalid_function_parameters`, for `response_format`", "simplify the schema"),
    "invalid_type": ("a member has another JSON type than it must have", "the message says which"),
    "invalid_value": ("a member has a value that is not allowed", "the message lists what is"),
    "method_not_allowed": ("the path exists, not with this method", "use the method in `Allow`"),
    "missing_required_parameter": ("a member is missing", "`param` names it"),
    "model_not_found": ("no model of that name is served", "`GET /v1/models` lists them"),
    "not_found": ("the page was updated, and has no such file any more", "reload it"),
    "object_above_max_length": ("an object has too many members", "the message has the limit"),
    "rate_limit_exceeded": ("too many requests wait, or too many reports were asked for", "wait for `Retry-After`"),
    "request_too_large": ("the body is longer than `max_body_bytes`", "send less, such as smaller images"),
    "string_above_max_length": ("a string is too long", "the message has the limit"),
    "too_many_images": ("more images than a request may have", "the message has the limit"),
    "unsupported_content_encoding": ("the body is compressed", "send it without compression"),
    "unsupported_content_type": ("the body is not declared as JSON", "send `Content-Type: application/json`"),
    "unsupported_parameter": (
        "a member that promises something about the output, which the model can't honour",
        "leave it out; [the list of members](chat.md) says what is honoured",
    ),
    "unsupported_value": ("a value that the model can't honour, such as an image where it doesn't see", "see `param`"),
}

TYPES: Final = {
    "e2ee_decryption_failed": "a sealed field can't be decrypted; which one and why is not said",
    "e2ee_header_missing": "some but not all of the headers are there, or the key takes sealed requests only",
    "e2ee_invalid_nonce": "`X-E2EE-Nonce` has the wrong form",
    "e2ee_invalid_payload_model": "the sealed request has no `model` to bind its fields to",
    "e2ee_invalid_public_key": "a public key in the headers is not one of the algorithm",
    "e2ee_invalid_signing_algo": "`X-Signing-Algo` is not `ecdsa` or `ed25519`",
    "e2ee_invalid_timestamp": "`X-E2EE-Timestamp` is malformed, or more than 300 seconds from the server's time",
    "e2ee_invalid_version": "a version, or a variant of NEAR's proxy, that is not spoken here",
    "e2ee_model_key_mismatch": "sealed to a key that is not, or no longer, this server's: fetch a new report",
    "e2ee_replay_detected": "the nonce was used before: seal the request anew, with another",
    "e2ee_unsupported_endpoint": "this path has no sealed form",
    "invalid_request_error": "the client must change something",
    "invalid_signing_algo": "the older surface: `signing_algo` is not `ecdsa` or `ed25519`",
    "not_found": "no such receipt, keyset, signature or signing address, or it is another key's",
    "requests": "too many of them",
    "server_error": "not the client's fault",
    "session_not_accepted": "no session with an upstream can satisfy the request",
    "upstream_error": "`confide proxy`: the service gave no whole answer",
    "verification_failed": "`confide proxy`: a proof failed; `X-Should-Retry: false` tells SDKs not to repeat",
    "verification_required": "`confide proxy`: what was established counts no longer, and could not be renewed",
}


def page() -> str:
    """All statuses, codes and types.

    Raises:
        RuntimeError: one of them has no words here.
    """
    codes, types = collect.codes(), collect.types()
    statuses = set().union(*codes.values(), *types.values())
    _described("statuses", statuses, STATUSES)
    _described("codes", set(codes), CODES)
    _described("types", set(types), TYPES)
    by_status = [f"| {status} | {STATUSES[status][0]} | {STATUSES[status][1]} |" for status in sorted(statuses)]
    by_code = [f"| `{code}` | {_all(codes[code])} | {CODES[code][0]} | {CODES[code][1]} |" for code in sorted(codes)]
    by_type = [f"| `{kind}` | {_all(types[kind])} | {TYPES[kind]} |" for kind in sorted(types)]
    return f"""# Errors

Every error is OpenAI's object, unless the page of its endpoint says otherwise:

```json
{{"error": {{"message": "…", "type": "…", "param": null, "code": null}}}}
```

`message` is for people and may change. Programs look at the status, then at `code`, then at `type`. `param` is the
dotted path of the member that is wrong (`messages[0].role`). A message may repeat a short value of a parameter; none
holds a prompt, a completion, a key, a path of the machine or an address of its network. What an engine behind the
server says is never passed on: it is told in the server's own words.

An error after an answer has begun can't be a status: a stream of chat completions has an event
`data: {{"error": …}}` and then `[DONE]`, and its receipt has the event `response.aborted`. An answer that ends without
`[DONE]` is not whole.

The tables are read from the code.

## Statuses

| status | what it means | what to do |
| --- | --- | --- |
{chr(10).join(by_status)}

## Codes

Many errors have no code (`null`): then the status says all there is.

| code | status | when | what to do |
| --- | --- | --- | --- |
{chr(10).join(by_code)}

## Types

Errors of sealed requests have a type of their own and no code.

| type | status | when |
| --- | --- | --- |
{chr(10).join(by_type)}
"""


def _described(what: str, found: set[str] | set[int], described: Mapping[str, object] | Mapping[int, object]) -> None:
    if missing := found - set(described):
        raise RuntimeError(f"docs/errors.py has no words for the {what} {', '.join(sorted(map(str, missing)))}")


def _all(statuses: set[int]) -> str:
    return ", ".join(map(str, sorted(statuses)))
