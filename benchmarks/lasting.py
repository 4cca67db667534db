"""``confide``, but with keys that count as lasting, as those that a platform like dstack releases: for measurements.

The keys still end with the process, so that nobody should serve with it. Run it as ``python -m benchmarks.lasting``.
"""

from __future__ import annotations

from confide import server
from confide.cli import main
from confide.identity.roles import EphemeralKeys


class LastingKeys(EphemeralKeys):
    """Says that its keys will be there after a restart."""

    lasting = True


if __name__ == "__main__":
    vars(server)["EphemeralKeys"] = LastingKeys
    main()
