"""What ends a conversation with a verified service, each with an exit code and a sentence for a person.

None of them is an ``httpx`` exception, on purpose. SDKs take those for trouble with the network and send the request
again; a proof that failed is no trouble with the network, and nothing may be sent again because of it.
"""

from __future__ import annotations

from confide.errors import OperatorError
from confide.verify.verdict import Finding, Verdict


class ClientError(OperatorError):
    """The root of these. ``reason`` is short, constant and free of content, so that a log may hold it."""

    exit_code = 1
    reason: str = "failed"


class Misused(ClientError):
    """A request that this client does not make: to another origin, not sealable, too large."""

    exit_code = 2
    reason = "misused"


class NotVerified(ClientError):
    """The service did not prove what the policy asks for. Nothing was sent but requests for its report."""

    reason = "not verified"

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(f"{verdict.subject} is not verified: {_summary(verdict)}")
        self.verdict = verdict
        self.exit_code = verdict.exit_code


class NoReport(ClientError):
    """The service answered, and showed no attestation report that is known here."""

    exit_code = 5
    reason = "no report"


class PinMismatch(ClientError):
    """A TLS connection to a key that the attested keyset does not list. It was closed before anything was sent."""

    reason = "pin mismatch"

    def __init__(self, host: str, found: str, expected: frozenset[str]) -> None:
        listed = ", ".join(sorted(expected)) or "no key"
        super().__init__(f"{host} shows the TLS key {found}, and the attested keyset lists {listed} for it")
        self.host = host
        self.found = found
        self.expected = expected


# Verify again --------------------------------------------------------------------------------------------------------


class MustVerifyAgain(ClientError):
    """What was established counts no longer; everything is refused until ``verify_again()``."""

    reason = "verify again"


class KeysetChanged(MustVerifyAgain):
    """The service names another keyset than the one that was verified."""

    reason = "keyset changed"

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"the service names the keyset {found[:80]}, and {expected} was verified; verify it again")
        self.found = found
        self.expected = expected


class Lapsed(MustVerifyAgain):
    """The verified keyset is past its ``not_after``."""

    reason = "lapsed"

    def __init__(self, not_after: int) -> None:
        super().__init__(f"the verified keyset counted until {not_after} (Unix seconds); verify the service again")
        self.not_after = not_after


# Answers -------------------------------------------------------------------------------------------------------------


class ProofFailed(ClientError):
    """An answer without good proof. What was given to the application before must not be used either."""

    reason = "proof failed"


class ReceiptFailed(ProofFailed):
    """No receipt, or one that is not about these bytes. ``findings`` has the steps that did not pass."""

    def __init__(self, text: str, findings: tuple[Finding, ...] = ()) -> None:
        super().__init__(text)
        self.findings = findings
        self.reason = ", ".join(sorted({finding.step for finding in findings})) or "no receipt"

    @classmethod
    def of(cls, findings: tuple[Finding, ...]) -> ReceiptFailed:
        """From the steps that did not pass."""
        first = findings[0]
        return cls(f"the proof of an answer failed at {first.step} ({first.title}): {first.detail}", findings)


class NotSealed(ProofFailed):
    """An answer in clear to a request that was encrypted."""

    reason = "answer not sealed"


class AnswerForged(ProofFailed):
    """An answer that is not what the service sealed, or not well-formed."""

    reason = "answer forged"


class AnswerTruncated(ProofFailed):
    """An answer that ended before its end."""

    reason = "answer truncated"


def _summary(verdict: Verdict) -> str:
    problems = verdict.problems()
    if not problems:
        return verdict.verdict
    first = problems[0]
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{verdict.verdict}: {first.step} ({first.title}): {first.detail or first.outcome.value}{more}"
