"""A process of its own between us and an engine that we started, so that none outlives us, however we end.

Run as a file (``python -I -S guard.py SECONDS PROGRAM WORD…``), with the standard library alone. Its standard input is
a pipe of which we hold the other end: when that closes, since we closed it or died, by ``kill -9`` or whatever else,
the engine and all processes of its group get SIGTERM, and after so many seconds SIGKILL. When the engine ends by
itself, what is left of its group ends as well. Exit code: the engine's, or 128 and the number of the signal.

What it can't reach: a process of an engine that made a process group of its own. Such engines (Ray) are attached.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def _with_its_parent(guard: int) -> None:
    """In the engine, before its program: end when the guard is killed. Linux knows that, others don't."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != guard:  # it was killed before
            os._exit(1)


def _kill(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _when_it_closes(engine: subprocess.Popen[bytes], grace: float) -> None:
    while os.read(0, 4096):
        pass
    _kill(engine.pid, signal.SIGTERM)
    try:
        engine.wait(grace)
    except subprocess.TimeoutExpired:
        _kill(engine.pid, signal.SIGKILL)


def main(grace: float, command: list[str]) -> int:
    """Start the engine and wait for its end."""
    try:
        engine = subprocess.Popen(  # noqa: S603 - the operator's own program, and no shell
            command,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=partial(_with_its_parent, os.getpid()),  # safe: there is one thread until now
        )
    except OSError as failed:
        print(f"can't be started: {failed.strerror or failed}", file=sys.stderr)  # noqa: T201 - before any content
        return 127
    signal.signal(signal.SIGTERM, lambda *_: _kill(engine.pid, signal.SIGTERM))
    threading.Thread(target=_when_it_closes, args=(engine, grace), daemon=True).start()
    code = engine.wait()
    _kill(engine.pid, signal.SIGKILL)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
