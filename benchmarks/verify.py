"""What verification costs in CPU: ``python benchmarks/verify.py [--write FILE]``, beside the bare signatures in it.

CPU time of this process, medians of several rounds. The yardstick of each row is the least that anybody must do for
it: the same number of signature verifications by the same library, and nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.verify.making import MODEL, REQUEST, RESPONSE, made_receipt, made_report

from confide.verify.receipt import verify_receipt
from confide.verify.report import verify_report
from confide.verify.verdict import Ledger
from confide.wire import jcs

ROUNDS = 9
GPUS = 8
CHAIN = 5
"""Certificates of a GPU's chain; each is one P-384 signature, and the evidence one more."""
RECEIPTS = 500


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


def page() -> str:
    """The table."""
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
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    text = page()
    print(text)
    if asked.write is not None:
        asked.write.write_text(text)


if __name__ == "__main__":
    main()
