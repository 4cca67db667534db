"""Programs that a test interrupts run without coverage.

Coverage's tracer takes a lock for every function that is entered, in Python. An interrupt that is raised between that
lock and its release leaves it locked, and the next function that is entered waits for ever: once in some twenty
interrupts of a program that is busy. For the same reason nothing is saved by a handler of SIGTERM (``sigterm``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def unmeasured(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """That environment, without what starts coverage in a new process."""
    return {name: value for name, value in environment.items() if not name.startswith("COVERAGE_PROCESS_")}
