"""The page of verification steps: what each proves, and the tests that break it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from confide.verify.audit import catalogue
from confide.verify.verdict import Step

ROOT = Path(__file__).parent.parent


def page() -> str:
    """All steps of the catalogue, group by group."""
    tests = names_of_tests()
    groups = []
    for group in catalogue():
        rows = ["| step | what is asked | what it proves | tests that break it |", "| --- | --- | --- | --- |"]
        rows += [
            f"| `{step.id}` | {_cell(step.title)} | {_cell(step.proves)} | {_tests(step, tests)} |"
            for step in group.steps
        ]
        groups.append(f"## {group.name}: {group.title}\n\nSource: {group.source}\n\n" + "\n".join(rows) + "\n")
    return f"""# Verification steps

Every check has a number, which is the same in the code, in the output of `confide verify` and `confide audit`, and
here. It passes, fails, or is not checked, with a reason. What a policy doesn't ask for may be "not checked" without
harm; what it needs may not. The last column names the tests that break the step, or leave out what it needs, and see
that this step says so.

{chr(10).join(groups)}"""


def names_of_tests() -> list[str]:
    """The ids of the tests of the verifier, which name the steps that they break.

    Raises:
        RuntimeError: they can't be collected.
    """
    command = [sys.executable, "-m", "pytest", "tests/verify", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"tests/verify can't be collected: {done.stdout[-500:]}")
    return [line for line in done.stdout.splitlines() if "::" in line]


def _tests(step: Step, tests: list[str]) -> str:
    group, _, number = step.id.partition(".")
    named = re.compile(rf"(?<![a-z]){group}[._]{number}(?!\d)")
    found = [name for name in tests if named.search(name)]
    if not found:
        raise RuntimeError(f"no test names the step {step.id}")
    functions = dict.fromkeys(name.partition("[")[0] for name in found)
    return "<br>".join(f"[{name.partition('::')[2]}](../../{name.partition('::')[0]})" for name in functions)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
