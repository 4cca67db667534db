"""The process that serves. ``confide serve`` reads the settings, fetches models, and then becomes this program.

The process stays the same, with its id and its terminal, and forgets the libraries of the command line, which need as
much memory as five hundred streams. Its orders come through a file in memory that nobody else can open.
"""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from confide import announcing
from confide.announcing import Announcement
from confide.config import Settings
from confide.errors import ConfideError

if TYPE_CHECKING:
    from confide.serving_models import Models

PROGRAM: Final = ("-P", "-m", "confide.serving")
"""What runs the orders. Without ``-P`` Python would import from the folder in which it is started."""
_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Orders:
    """What to serve, and what to say when that can begin."""

    settings: Settings
    models: Models
    announcement: Announcement


def become(orders: Orders, program: tuple[str, ...] = PROGRAM) -> NoReturn:
    """Go on as the program that serves.

    The arguments of this one follow, so that lists of processes still show them; they aren't read again.
    """
    file = os.memfd_create("confide-orders", os.MFD_CLOEXEC)
    with os.fdopen(file, "wb", closefd=False) as out:
        pickle.dump(orders, out)
    os.lseek(file, 0, os.SEEK_SET)
    os.set_inheritable(file, True)
    sys.stdout.flush()
    sys.stderr.flush()
    from subprocess import _args_from_interpreter_flags as flags  # type: ignore[attr-defined]

    os.execv(sys.executable, [sys.executable, *flags(), *program, str(file), *sys.argv[1:]])  # noqa: S606


def obey(file: int) -> int:
    """Serve as a file's orders say; the exit code.

    Args:
        file: the descriptor that :func:`become` passed on; it is closed.
    """
    with os.fdopen(file, "rb") as given:
        orders = pickle.load(given)  # noqa: S301 - this process wrote it
    try:
        from confide import server

        return server.run(orders.settings, orders.models, on_ready=orders.announcement)
    except ConfideError as wrong:
        announcing.fail(str(wrong), styled=orders.announcement.styled)
        return int(getattr(wrong, "exit_code", 1))
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(obey(int(sys.argv[1])))
