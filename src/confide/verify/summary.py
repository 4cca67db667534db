"""Steps that stand for a whole group: what became of the findings that somebody else's checks recorded."""

from __future__ import annotations

from collections.abc import Sequence

from confide.verify.verdict import CheckFailed, Finding, NotChecked, Outcome

_MOST_NAMED = 6


def stands(findings: Sequence[Finding], what: str, *, required: bool = True) -> None:
    """Pass where every step that counts passed, and one at least.

    Raises:
        CheckFailed: one failed.
        NotChecked: one is missing, or all; ``required`` says whether the policy needs them.
    """
    failed = [finding.step for finding in findings if finding.outcome is Outcome.FAIL]
    if failed:
        raise CheckFailed(f"{what}: {_named(failed)} failed")
    unmade = [f.step for f in findings if f.outcome is Outcome.NOT_CHECKED and f.required]
    if unmade:
        raise NotChecked(f"{what}: {_named(unmade)} could not be made", required=required)
    if not any(finding.outcome is Outcome.PASS for finding in findings):
        reason = next((finding.detail for finding in findings if finding.detail), "nothing to check")
        raise NotChecked(f"{what}: {reason}", required=required)


def _named(steps: Sequence[str]) -> str:
    named = tuple(dict.fromkeys(steps))
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    return ", ".join(named[:_MOST_NAMED]) + more
