"""What verification costs in CPU: ``python benchmarks/verify.py [--write FILE]``, beside the bare signatures in it.

CPU time of this process, medians of several rounds. The yardstick of each row is the least that anybody must do for
it: the same number of signature verifications by the same library, and nothing else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.verify.making import (
    MODEL,
    REQUEST,
    RESPONSE,
    made_bundle,
    made_exchange,
    made_options,
    made_receipt,
    made_report,
)

from confide.verify.receipt import verify_receipt
from confide.verify.report import verify_report
from confide.verify.verdict import ExitCode, Ledger
from confide.wire import jcs

ROUNDS = 9
GPUS = 8
CHAIN = 5
"""Certificates of a GPU's chain; each is one P-384 signature, and the evidence one more."""
RECEIPTS = 500
AUDITS = 5
FEW, MOST = 1_000, 100_000
MOST_NAMES = 30_000
"""Of one file; file systems have a limit."""


def cpu(call: Callable[[], object]) -> float:
    """Milliseconds of CPU of this process, the median of the rounds."""
    call()
    spent = []
    for _ in range(ROUNDS):
        before = time.process_time()
        call()
        spent.append((time.process_time() - before) * 1000)
    return statistics.median(spent)


def report() -> tuple[float, float]:
    """A report with GPUs, and as many P-384 signatures as their evidence has."""
    made = made_report(gpus=GPUS)
    saved, context = made.saved(), made.context()
    key = ec.generate_private_key(ec.SECP384R1())
    message = bytes(1024)
    signature = key.sign(message, ec.ECDSA(hashes.SHA384()))
    public = key.public_key()

    def bare() -> None:
        for _ in range(GPUS * (CHAIN + 1)):
            public.verify(signature, message, ec.ECDSA(hashes.SHA384()))

    return cpu(lambda: verify_report(Ledger(), context, saved)), cpu(bare)


def receipts() -> tuple[float, float]:
    """Receipts, and as many Ed25519 signatures."""
    made = made_report()
    document, context, established = made_receipt(), made.context(), made.established()
    asked, answered = jcs.sha256(REQUEST), jcs.sha256(RESPONSE)
    key = Ed25519PrivateKey.generate()
    message = bytes(700)
    signature, public = key.sign(message), key.public_key()

    def ours() -> None:
        for _ in range(RECEIPTS):
            verify_receipt(
                Ledger(),
                context,
                established,
                document,
                request_digest=asked,
                response_digest=answered,
                model=MODEL,
            )

    def bare() -> None:
        for _ in range(RECEIPTS):
            public.verify(signature, message)

    return cpu(ours), cpu(bare)


def start(*arguments: str) -> float:
    """Milliseconds of wall time of a program, the median of the rounds."""
    spent = []
    for _ in range(ROUNDS):
        before = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        spent.append((time.perf_counter() - before) * 1000)
    return statistics.median(spent)


# Audits of folders ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One ``confide audit``: seconds of wall time, of CPU, and of CPU of the busiest process; and the memory of its
    largest process in MB."""

    wall: float
    cpu: float
    busiest: float
    memory: float


class Folders:
    """Folders of bundles, and somebody who audits them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._options = made_options(folder)

    def made(self, count: int, *, reports: int = 1) -> Path:
        """So many bundles, each with one answer. They are names of few files, and of each report there are many."""
        folder = self._folder / f"{count}-{reports}"
        folder.mkdir()
        files = [folder / f"{number}.bundle" for number in range(reports * (1 + count // MOST_NAMES))]
        for number, file in enumerate(files):
            file.write_bytes(made_bundle(made_report(f"{number % reports:064x}"), made_exchange()).encode())
        for number in range(count):
            (folder / f"{number:07}.json").hardlink_to(files[number % len(files)])
        return folder

    def audited(self, folder: Path, jobs: int) -> Run:
        """Audit them all; a verdict that isn't as it must be ends the benchmark."""
        command = [sys.executable, "-m", "confide", "audit", str(folder), *self._options, "--jobs", str(jobs)]
        began = time.perf_counter()
        seen: dict[str, float] = {}
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            ended = 0
            while not ended:
                time.sleep(0.02)
                seen |= cpu_of_all(running.pid)
                ended, status, used = os.wait4(running.pid, os.WNOHANG)
            running.returncode = os.waitstatus_to_exitcode(status)
        if running.returncode != ExitCode.DEVELOPMENT:
            sys.exit(f"confide audit ended with {running.returncode}")
        spent = used.ru_utime + used.ru_stime
        return Run(time.perf_counter() - began, spent, max(seen.values()), used.ru_maxrss / 1024)


def cpu_of_all(pid: int) -> dict[str, float]:
    """Seconds of CPU of a process and of those that it started, as far as they are there."""
    found = {}
    with suppress(OSError):
        others = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one in (str(pid), *others):
            user, system = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:13]
            found[one] = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return found


def speed(folders: Folders) -> str:
    """How many bundles a second, in one process and in two, start included."""
    lines = []
    for what, count, reports in (("of one report", 2_000, 1), ("of a report for each", 300, 50)):
        folder = folders.made(count, reports=reports)
        runs = [[folders.audited(folder, jobs) for jobs in (1, 2)] for _ in range(AUDITS)]
        one, two = (statistics.median(count / run.wall for run in column) for column in zip(*runs, strict=True))
        ratio = statistics.median(first.wall / second.wall for first, second in runs)
        spent = [statistics.median(run.cpu for run in column) / count * 1e6 for column in zip(*runs, strict=True)]
        shared = statistics.median(first.busiest / second.busiest for first, second in runs)
        rates = (f"{one:,.0f}/s", f"{two:,.0f}/s", f"{ratio:.2f}", f"{shared:.2f}")
        cells = (*rates, *(f"{each:,.0f} µs" for each in spent))
        lines.append(f"| {count:,} bundles {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def memory(folders: Folders, most: int) -> str:
    """The memory of the largest process, by how many bundles there are."""
    lines = []
    for jobs in (1, 2):
        few, many = (folders.audited(folders.made(count + jobs), jobs).memory for count in (FEW, most))
        lines.append(f"| {jobs} | {few:.0f} MB | {many:.0f} MB | {many / few:.2f} |")
    return "\n".join(lines)


def audits(most: int) -> str:
    """The section of the page."""
    with tempfile.TemporaryDirectory(prefix="confide-audits-") as here:
        folders = Folders(Path(here))
        return f"""## Folders of bundles

`confide audit FOLDER`, medians of {AUDITS} runs that take turns, from the start of the program to its end. Each bundle
has one answer with its receipt. A process verifies a report that several bundles hold once.

| | one process | two | two / one | by CPU | CPU for a bundle | with two |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
{speed(folders)}

The rates and their ratio are wall time on {os.cpu_count()} cores, and as good as what other work leaves of them (load
average {os.getloadavg()[0]:.0f} when this was measured). "By CPU" is what one process uses, divided by what the busiest
one uses where there are two: how much faster it is where both cores are free. What a bundle costs in CPU includes the
start of each process.

The memory of its largest process, which holds the names in one folder after the other, and no outcomes:

| processes | {FEW:,} bundles | {most:,} bundles | ratio |
| --- | ---: | ---: | ---: |
{memory(folders, most)}
"""


# The page ------------------------------------------------------------------------------------------------------------


def page(most: int) -> str:
    """The tables."""
    whole, bare_whole = report()
    many, bare_many = (one / RECEIPTS * 1000 for one in receipts())
    shown, empty = start("-m", "confide", "--help"), start("-c", "pass")
    rows = [
        (f"a report with {GPUS} GPUs, dstack log and stapled collateral, CPU", whole, bare_whole, "ms", "under 100 ms"),
        ("a receipt, CPU", many, bare_many, "µs", f"1,000 a second ({1e6 / many:.0f} here)"),
        ("`confide --help`, wall", shown, empty, "ms", "under 200 ms"),
    ]
    table = [
        f"| {what} | {ours:.1f} {unit} | {bare:.1f} {unit} | {ours / bare:.2f} | {goal} |"
        for what, ours, bare, unit, goal in rows
    ]
    return f"""# What verification costs

`make bench-verify`, medians of {ROUNDS} rounds in one run. The yardstick is the least that the row needs: its
signatures by the same library, or an empty Python. Ratios travel between machines, milliseconds don't.

| what | measured | yardstick | ratio | goal |
| --- | ---: | ---: | ---: | --- |
{chr(10).join(table)}

The goals are milliseconds, and were set where an empty Python starts in 8.1 ms. There the rows had 22.1 ms, 121.5 µs
and 106.5 ms, and the ratios 1.43, 2.07 and 13.18; a slower machine or hour can miss the last goal with the same ratio.

{audits(most)}"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--most", type=int, default=MOST, help="bundles of the largest folder")
    asked = parser.parse_args()
    text = page(asked.most)
    print(text)
    if asked.write is not None:
        asked.write.write_text(text)


if __name__ == "__main__":
    main()
