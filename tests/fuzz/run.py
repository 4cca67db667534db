"""Fuzzing with coverage feedback (atheris): ``python -m tests.fuzz.run TARGET… [--runs N] [--corpus FOLDER]``.

atheris has wheels for CPython 3.11 to 3.13 on Linux, so it isn't among the packages of the tests; ``make fuzz`` brings
an environment of its own. Each target runs in a process; findings are kept as ``crash-…`` files in the corpus.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run the targets one after the other; 1 where one of them broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--runs", type=int, default=600_000)
    parser.add_argument("--corpus", type=Path, default=Path(".cache/fuzz"))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        return _fuzz(asked.targets[0], asked.runs, asked.corpus)
    from tests.fuzz.targets import targets

    broken = []
    for name in asked.targets or list(targets()):
        command = [sys.executable, "-m", "tests.fuzz.run", name, "--inside"]
        command += ["--runs", str(asked.runs), "--corpus", str(asked.corpus)]
        if subprocess.run(command, check=False).returncode:
            broken.append(name)
    print("broken: " + ", ".join(broken) if broken else "nothing broke")
    return 1 if broken else 0


def _fuzz(name: str, runs: int, folder: Path) -> int:
    import atheris

    with atheris.instrument_imports(include=["confide.wire", "confide.verify", "confide.seal"]):
        from tests.fuzz.targets import targets, write_corpus
    target = targets()[name]
    place = folder / name
    write_corpus(target, place)
    arguments = ["fuzz", str(place), f"-runs={runs}", "-max_len=40000", "-timeout=20", "-print_final_stats=1"]
    arguments += [f"-artifact_prefix={place}/", "-rss_limit_mb=2048", "-verbosity=0"]
    atheris.Setup(arguments, lambda data: target(bytes(data)) and None)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
