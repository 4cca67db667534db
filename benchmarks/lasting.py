"""``confide``, but with keys that count as lasting, as those that a platform like dstack releases: for measurements.

The keys still end with the process, so that nobody should serve with it. Run it as ``python -m benchmarks.lasting``.
"""

from __future__ import annotations

import sys
from functools import partial

from confide import serving
from confide.identity.roles import EphemeralKeys


class LastingKeys(EphemeralKeys):
    """Says that its keys will be there after a restart."""

    lasting = True


def main() -> int:
    """The command line; or, with the descriptor of orders in place of a command, the server that it becomes."""
    if sys.argv[1].isdigit():
        from confide import server

        vars(server)["EphemeralKeys"] = LastingKeys
        return serving.obey(int(sys.argv[1]))
    from confide import cli
    from confide.cli import serve

    vars(serve)["become"] = partial(serving.become, program=("-m", "benchmarks.lasting"))
    return cli.run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
