"""What can go wrong with sealed messages, as the client of a server and as the user of a client are told.

Source: E2EE v2 of the ACI specification, section 9, for the ten types that every generation shares; the last one here,
``e2ee_invalid_signing_algo``, is the older protocol's. Texts are fixed, so that no answer tells why a tag was wrong.
"""

from __future__ import annotations

from confide.errors import ApiError, ConfideError

# What a server answers -----------------------------------------------------------------------------------------------


class SealError(ApiError):
    """400: the request asks for end-to-end encryption, and something about that is wrong."""

    status = 400
    text = "The encrypted request is invalid."

    def __init__(self, text: str | None = None) -> None:
        super().__init__(text or self.text)


class HeaderMissing(SealError):
    """Some but not all of the headers are there."""

    type = "e2ee_header_missing"
    text = "A header that end-to-end encryption needs is missing."


class InvalidVersion(SealError):
    """A version that this service does not terminate."""

    type = "e2ee_invalid_version"
    text = "This version of end-to-end encryption is not supported here."


class InvalidPublicKey(SealError):
    """A public key that the algorithm does not allow."""

    type = "e2ee_invalid_public_key"
    text = "A public key in the headers is not valid for the algorithm."


class ModelKeyMismatch(SealError):
    """The request is encrypted to somebody else's key, or to an expired one."""

    type = "e2ee_model_key_mismatch"
    text = "X-Model-Pub-Key is not a key of this service. Fetch a new attestation report."


class InvalidNonce(SealError):
    """The nonce has the wrong form."""

    type = "e2ee_invalid_nonce"
    text = "X-E2EE-Nonce must be 64 hexadecimal characters."


class InvalidTimestamp(SealError):
    """The timestamp has the wrong form, or is too old or too new."""

    type = "e2ee_invalid_timestamp"
    text = "X-E2EE-Timestamp must be the current Unix time in seconds, within 300 seconds."


class ReplayDetected(SealError):
    """The nonce was used before."""

    type = "e2ee_replay_detected"
    text = "This X-E2EE-Nonce was used before."


class InvalidPayloadModel(SealError):
    """No model to bind the fields to."""

    type = "e2ee_invalid_payload_model"
    text = "The request needs 'model' as a string."


class DecryptionFailed(SealError):
    """A field can't be decrypted; which one and why is not said."""

    type = "e2ee_decryption_failed"
    text = "The encrypted fields of the request can't be decrypted."


class UnsupportedEndpoint(SealError):
    """No encrypted fields are defined for this path."""

    type = "e2ee_unsupported_endpoint"
    text = "End-to-end encryption is not defined for this endpoint."


class InvalidSigningAlgo(SealError):
    """The older protocol's algorithm is unknown."""

    type = "e2ee_invalid_signing_algo"
    text = "X-Signing-Algo must be 'ecdsa' or 'ed25519'."


class SealingFailed(ApiError):
    """500: the answer can't be encrypted, so it isn't sent."""

    status = 500

    def __init__(self) -> None:
        super().__init__("The answer can't be encrypted.", code="e2ee_encryption_failed")


# What a client finds -------------------------------------------------------------------------------------------------


class OpenError(ConfideError):
    """A sealed answer that must not be used."""


class Forged(OpenError):
    """A field, or the order of the fields, is not what the service sealed for this request."""


class Truncated(OpenError):
    """The answer ended before its end."""


class CannotSeal(ConfideError):
    """A request without anything that could be encrypted, or with content that would stay readable."""


# What the primitives say, for whoever calls them to map --------------------------------------------------------------


class BadKey(ConfideError):
    """Not a key of this curve, or one that must not be used."""


class BadBlob(ConfideError):
    """Not a ciphertext for this key and this place."""


class BadJson(ConfideError):
    """Not the JSON that is needed."""
