"""A program that is an engine: the stand-in, started with the words of one that it stands in for.

``python -m tests.simulator.engine_program DIALECT serve MODEL WORD… --uds PATH``. It prints every body that it gets.
``--faults JSON`` names what goes wrong, as :class:`~tests.simulator.engines.Faults` does.
"""

from __future__ import annotations

import json
import signal
import sys
import threading

from tests.simulator import engine_dialects as dialects
from tests.simulator.engines import standing_in


def main() -> None:
    """Serve until a signal."""
    dialect, words = sys.argv[1], sys.argv[2:]
    name = words[words.index("--served-model-name") + 1]
    print(f"loading {name}", flush=True)
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    listed = dialects.pages(dialect)["/v1/models"]
    pages = {"/health": {}, "/v1/models": {**listed, "data": [{**listed["data"][0], "id": name}]}}
    faults = json.loads(words[words.index("--faults") + 1]) if "--faults" in words else {}
    place = words[words.index("--uds") + 1]
    with standing_in(dialect, uds=place, known_models=False, pages=pages, **faults) as engine:
        told = 0
        while not ending.wait(0.02):
            for request in engine.chats[told:]:
                told += 1
                print(request.body.decode(), flush=True)


if __name__ == "__main__":
    main()
