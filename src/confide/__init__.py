"""Chat completions that people can check."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from confide.client.errors import (
        AnswerForged,
        AnswerTruncated,
        ClientError,
        KeysetChanged,
        Lapsed,
        MustVerifyAgain,
        NotVerified,
        PinMismatch,
        ProofFailed,
        ReceiptFailed,
    )
    from confide.client.service import VerifiedService, verified
    from confide.verify.policy import Policy
    from confide.verify.roots import read_development
    from confide.verify.verdict import Verdict

__version__ = "0.1.0"

_ERRORS = (
    *("AnswerForged", "AnswerTruncated", "ClientError", "KeysetChanged", "Lapsed", "MustVerifyAgain", "NotVerified"),
    *("PinMismatch", "ProofFailed", "ReceiptFailed"),
)
_PLACES = {
    "Policy": "confide.verify.policy",
    "Verdict": "confide.verify.verdict",
    "VerifiedService": "confide.client.service",
    "read_development": "confide.verify.roots",
    "verified": "confide.client.service",
    **dict.fromkeys(_ERRORS, "confide.client.errors"),
}
"""What applications use, and where it is. Nothing is loaded before it is asked for."""

__all__ = [
    "AnswerForged",
    "AnswerTruncated",
    "ClientError",
    "KeysetChanged",
    "Lapsed",
    "MustVerifyAgain",
    "NotVerified",
    "PinMismatch",
    "Policy",
    "ProofFailed",
    "ReceiptFailed",
    "Verdict",
    "VerifiedService",
    "__version__",
    "read_development",
    "verified",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
