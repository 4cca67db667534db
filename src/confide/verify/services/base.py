"""What an adapter is: one format of reports, where services of that kind show them, and who verifies them."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import urlencode

import msgspec
from msgspec import UNSET, Struct, UnsetType

from confide.errors import OperatorError
from confide.verify.context import Context
from confide.verify.saved import Established, SavedReport
from confide.verify.verdict import Ledger


class UnknownService(OperatorError):
    """A report in no format that is known here, or a name that is no adapter's."""

    exit_code = 2


class Adapter(Protocol):
    """One format of reports."""

    @property
    def name(self) -> str:
        """What bundles and commands call it."""
        ...

    def path(self, nonce: str, model: str | None = None) -> str:
        """The path and query of the report for a nonce (64 hex digits), and for a model where the service needs one."""
        ...

    def recognises(self, document: bytes) -> bool:
        """Whether a document claims to be of this format. It says nothing about whether it is good."""
        ...

    def verify(self, ledger: Ledger, context: Context, saved: SavedReport) -> Established | None:
        """Check a report; whose signatures count if the verdict is good, None where the report establishes nothing."""
        ...


class Marks(Struct, frozen=True):
    """The members by which formats are told apart; their values are left unread."""

    api_version: msgspec.Raw | UnsetType = UNSET
    signing_address: msgspec.Raw | UnsetType = UNSET
    intel_quote: msgspec.Raw | UnsetType = UNSET
    attestation_type: msgspec.Raw | UnsetType = UNSET
    all_attestations: msgspec.Raw | UnsetType = UNSET
    model_name: msgspec.Raw | UnsetType = UNSET
    gateway_attestation: msgspec.Raw | UnsetType = UNSET
    model_attestations: msgspec.Raw | UnsetType = UNSET
    format: Any = None

    def has(self, *names: str) -> bool:
        """Whether all these members are there."""
        return all(getattr(self, name) is not UNSET for name in names)


def marks(document: bytes) -> Marks:
    """The marks of a document; none where it is no JSON object."""
    try:
        return msgspec.json.decode(document, type=Marks)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Marks()


def query(path: str, **members: str | None) -> str:
    """A path with the members of a query that are given."""
    return f"{path}?{urlencode({name: value for name, value in members.items() if value is not None})}"
