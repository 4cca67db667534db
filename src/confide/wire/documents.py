"""What the signed and hashed documents of ``aci/1`` have in common: the shapes of their members, and how they are read.

Source of the encodings: Attested Confidential Inference, ``aci/1``, appendix A.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from confide.errors import ConfideError
from confide.wire import jcs

API_VERSION: Final = "aci/1"

Version = Literal["aci/1"]
Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=4096)]
Seconds = Annotated[int, Meta(ge=0, le=jcs.MOST_INT)]
Json = dict[str, Any]


class InvalidDocument(ConfideError):
    """A document that breaks the protocol. Nothing that it says may be used."""

    kind = "document"

    def __init__(self, reason: str) -> None:
        super().__init__(f"invalid {self.kind}: {reason}")
        self.reason = reason


_S = TypeVar("_S", bound=Struct)


def read(data: bytes, invalid: type[InvalidDocument]) -> Any:
    """The JSON value of a document's bytes.

    Raises:
        InvalidDocument: of the class ``invalid``.
    """
    try:
        return jcs.parse(data)
    except jcs.InvalidJson as error:
        raise invalid(str(error)) from None


def shaped(value: Any, shape: type[_S], invalid: type[InvalidDocument]) -> _S:
    """A JSON value as the Struct that describes it, with nothing missing, unknown or of another type.

    Raises:
        InvalidDocument: of the class ``invalid``.
    """
    try:
        return msgspec.convert(value, shape, strict=True)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None


def plain(value: Struct) -> Json:
    """A Struct as the JSON value that it was, or will be, read from."""
    members: Json = msgspec.to_builtins(value)
    return members
