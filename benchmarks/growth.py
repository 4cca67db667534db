"""Whether what a request costs grows with what is stored: ``python benchmarks/growth.py [--write FILE]``.

CPU time of this process, its writing thread included; medians of several rounds, in which the sizes take turns. What
counts are the ratios of one run: each size beside the smallest. The stores are files as a server has them, in a
temporary folder; the engine answers at once, so that only our own cost shows.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.doubles import Client, ScriptedEngine, app_with, chat_body

from confide.seal.aci_v2 import seal_request, service_key
from confide.seal.client import SealedCall
from confide.seal.headers import Offer, negotiate
from confide.store.keys import KeyRing, KeyStore
from confide.store.receipts import ReceiptRow, ReceiptStore, ReceiptWriter
from confide.store.sqlite import SqliteFile
from confide.wire.aci import X25519_SUITE

ROUNDS: Final = 7
LARGEST: Final = 10_000_000
SMALL, MIDDLE = 1_000, 100_000
BYTES_PER_ROW: Final = 2_500
"""Of the file, with its indexes, and some to spare."""
DOCUMENT, PROOF = 837, 600
"""Bytes of a receipt and of its older proof, as the server writes them."""
BEGAN: Final = 1_700_000_000
"""When the first row was made; one more each second."""
PRUNED: Final = 2_000
"""Rows that retention deletes in each round."""
PATH: Final = "/v1/chat/completions"
ANSWER: Final = b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[]}'

Measure = Callable[[], Awaitable[float]]


# Measuring -----------------------------------------------------------------------------------------------------------


async def cpu(times: int, call: Callable[[int], Awaitable[object]]) -> float:
    """Microseconds of CPU of this process for each of so many calls."""
    before = time.process_time()
    for number in range(times):
        await call(number)
    return (time.process_time() - before) / times * 1e6


def repeated(times: int, call: Callable[[], Awaitable[object]]) -> Measure:
    """The same of a call that is the same each time."""
    return lambda: cpu(times, lambda _: call())


async def rounds(measures: Sequence[Measure]) -> list[float]:
    """The median of each, after one round that does not count; they take turns."""
    for measure in measures:
        await measure()
    taken = [[await measure() for measure in measures] for _ in range(ROUNDS)]
    return [median(column) for column in zip(*taken, strict=True)]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; all columns but the first are numbers."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratios(name: str, values: Sequence[float], unit: str) -> list[str]:
    """A row: each value, and how many times the first the last is."""
    return [name, *(f"{value:,.1f} {unit}" for value in values), f"{values[-1] / values[0]:.2f}"]


# Receipts ------------------------------------------------------------------------------------------------------------


def scrambled(number: int, digits: int) -> str:
    """What :func:`confide.store.ids.ordered_id` gave row ``number``, with digits that can be told again for chance."""
    return f"{BEGAN + number:08x}00{number * 2654435761 % 2**32:0{digits - 10}x}"


_ROWS: Final = f"""
WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :rows)
INSERT INTO receipt (receipt_id, chat_id, owner, created, document, legacy)
SELECT printf('rcpt-%08x00%014x', {BEGAN} + i, (i * 2654435761) & 4294967295),
    printf('chatcmpl-%08x00%022x', {BEGAN} + i, (i * 2654435761) & 4294967295),
    'key_' || (i % 1000), {BEGAN} + i, zeroblob({DOCUMENT}), zeroblob({PROOF})
FROM n
"""


def fill(path: Path, rows: int) -> None:
    """A store with so many receipts, written in one piece."""
    db = SqliteFile(path).session()
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -500000"):
        db.execute(f"PRAGMA {pragma}")
    db.execute("BEGIN")
    db.execute(_ROWS, {"rows": rows})
    db.execute("COMMIT")
    db.execute("PRAGMA journal_mode = WAL")
    db.close()


class Filled:
    """A store with so many receipts, and what is measured on it."""

    def __init__(self, path: Path, rows: int, closing: ExitStack) -> None:
        fill(path, rows)
        self.rows = rows
        self.writer = ReceiptWriter(SqliteFile(path))
        closing.callback(self.writer.close)
        self.reader = closing.enter_context(ReceiptStore(SqliteFile(path)))
        self._made = itertools.count(rows)
        self._kept_from = BEGAN

    async def commit(self, _: int = 0) -> None:
        """One more receipt, and its wait for the disk."""
        await self.writer.commit(self._row())

    async def commit_many(self, _: int) -> None:
        """32 answers that end at once."""
        await asyncio.gather(*(self.commit() for _ in range(32)))

    async def find_new(self, prefix: str, digits: int) -> None:
        """A receipt of the newest hundred, as a client does that has just got its answer."""
        self._find(f"{prefix}-{scrambled(random.randrange(self.rows - 100, self.rows), digits)}")

    async def find_any(self, prefix: str, digits: int) -> None:
        """A receipt of any age that is still there."""
        self._find(f"{prefix}-{scrambled(random.randrange(self._kept_from - BEGAN, self.rows), digits)}")

    def _find(self, name: str) -> None:
        assert self.reader.find(name, owner="key_1") is not None, name

    async def find_none(self) -> None:
        """An id that nobody has."""
        assert self.reader.find(f"rcpt-{secrets.token_hex(12)}", owner="key_1") is None

    async def prune(self) -> None:
        """What the hourly chore does, of a part of the oldest rows."""
        self._kept_from += PRUNED
        assert await self.writer.prune(now=self._kept_from, keep_seconds=0) == PRUNED

    def _row(self) -> ReceiptRow:
        number = next(self._made)
        ids = (f"rcpt-{scrambled(number, 24)}", f"chatcmpl-{scrambled(number, 32)}")
        return ReceiptRow(*ids, "key_1", BEGAN + number, bytes(DOCUMENT), bytes(PROOF))


async def receipts(stores: Sequence[Filled]) -> str:
    """CPU for each receipt, by how many there are."""
    measures: dict[str, Callable[[Filled], Measure]] = {
        "commit a receipt, alone": lambda one: lambda: cpu(200, one.commit),
        "commit 32 receipts that end at once": lambda one: lambda: cpu(20, one.commit_many),
        "look up a new one by receipt id": lambda one: repeated(300, partial(one.find_new, "rcpt", 24)),
        "look up a new one by response id": lambda one: repeated(300, partial(one.find_new, "chatcmpl", 32)),
        "look up one of any age": lambda one: repeated(300, partial(one.find_any, "rcpt", 24)),
        "look up an id that is not there": lambda one: repeated(300, one.find_none),
        "a whole request, its receipt committed": whole_request,
    }
    rows = [ratios(name, await rounds([measure(one) for one in stores]), "µs") for name, measure in measures.items()]
    return table(["", *(f"{one.rows:,} receipts" for one in stores), "last / first"], rows)


def whole_request(one: Filled) -> Measure:
    """A small chat request through the application, as a server does it."""
    app = app_with(ScriptedEngine(ANSWER), sink=one.writer)
    return repeated(100, partial(answered, app, chat_body()))


async def answered(app: Any, body: bytes, **headers: str) -> None:
    """A request to its end."""
    client = Client(body, headers=headers)
    await client.of(app)
    assert client.status == 200, client.body


# Retention -----------------------------------------------------------------------------------------------------------


async def waits(one: Filled, during: Callable[[], Awaitable[object]]) -> tuple[float, float, float]:
    """Milliseconds (p50, p99) that commits of 8 clients wait meanwhile, and how long it took."""
    taken: list[float] = []
    done = asyncio.Event()

    async def client() -> None:
        while not done.is_set():
            began = time.perf_counter()
            await one.commit()
            taken.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.004)

    clients = [asyncio.create_task(client()) for _ in range(8)]
    began = time.perf_counter()
    await during()
    seconds = time.perf_counter() - began
    done.set()
    await asyncio.gather(*clients)
    ordered = sorted(taken)
    return median(ordered), ordered[len(ordered) * 99 // 100], seconds


async def retention(stores: Sequence[Filled]) -> str:
    """How long answers wait for their commits while old receipts are deleted."""
    taken: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
    for _ in range(ROUNDS):
        for one in stores:
            took = await waits(one, one.prune)
            taken.setdefault((one.rows, "while rows are deleted"), []).append(took)
            quiet = await waits(one, lambda seconds=took[2]: asyncio.sleep(seconds))  # type: ignore[misc]
            taken.setdefault((one.rows, "without"), []).append(quiet)
    rows = []
    for (size, what), measured in taken.items():
        half, most, seconds = (median(column) for column in zip(*measured, strict=True))
        rate = f"{PRUNED / seconds:,.0f} rows/s" if what.startswith("while") else ""
        rows.append([f"{size:,} receipts, {what}", f"{half:.2f} ms", f"{most:.2f} ms", rate])
    return table(["", "wait p50", "wait p99", "deleted"], rows)


# Keys ----------------------------------------------------------------------------------------------------------------


class Keyed:
    """So many keys, one of them known, and a clock that can be moved on."""

    def __init__(self, path: Path, count: int, closing: ExitStack) -> None:
        self.count = count
        self._store = closing.enter_context(KeyStore(SqliteFile(path)))
        self._writer = ReceiptWriter(SqliteFile(path))
        closing.callback(self._writer.close)
        others = ((f"key_{number:012x}", f"name{number}", secrets.token_bytes(32)) for number in range(count - 1))
        db = SqliteFile(path).session()
        db.execute("BEGIN")
        db.executemany("INSERT INTO api_key (id, name, digest, created) VALUES (?, ?, ?, 1)", others)
        db.execute("COMMIT")
        db.close()
        self._now = 0.0
        self.ring = KeyRing(self._store, clock=lambda: self._now)
        self.known = self._store.create("known")

    async def find(self, _: int = 0) -> None:
        """A key that is known."""
        assert self.ring.find(self.known) is not None

    async def find_none(self, _: int) -> None:
        """A key that is not."""
        assert self.ring.find("sk-confide-unknown") is None

    async def find_after_a_receipt(self) -> float:
        """The first look-up in a second, after the same file was written to."""
        await self._writer.commit(ReceiptRow(f"rcpt-{secrets.token_hex(12)}", None, None, 1, b""))
        self._now += 2
        return await cpu(1, self.find)

    async def find_after_a_change(self) -> float:
        """The first look-up after a key was made."""
        self._store.create(f"new-{secrets.token_hex(8)}")
        self._now += 2
        return await cpu(1, self.find)


async def keys(rings: Sequence[Keyed]) -> str:
    """CPU to know who asks, by how many keys there are."""
    measures: dict[str, Callable[[Keyed], Measure]] = {
        "find a key": lambda one: lambda: cpu(1000, one.find),
        "find that there is none": lambda one: lambda: cpu(1000, one.find_none),
        "the first in a second; receipts were written": lambda one: one.find_after_a_receipt,
        "once after a key was made or revoked": lambda one: one.find_after_a_change,
        "a whole request": lambda one: keyed_request(one),
    }
    rows = [ratios(name, await rounds([measure(one) for one in rings]), "µs") for name, measure in measures.items()]
    return table(["", *(f"{one.count:,} keys" for one in rings), "last / first"], rows)


def keyed_request(one: Keyed) -> Measure:
    """A small chat request of a caller with a key."""
    app = app_with(ScriptedEngine(ANSWER), find=one.ring.find)
    return repeated(100, partial(answered, app, chat_body(), authorization=f"Bearer {one.known}"))


# Models and messages -------------------------------------------------------------------------------------------------


async def models(sizes: Sequence[int]) -> str:
    """CPU for each request, by how many models are served."""

    def apps() -> list[Any]:
        return [app_with(ScriptedEngine(ANSWER), more=[f"m{number}" for number in range(1, size)]) for size in sizes]

    requests = [repeated(100, partial(answered, app, chat_body())) for app in apps()]
    lists = [repeated(100, partial(listed, app)) for app in apps()]
    rows = [
        ratios("a whole request", await rounds(requests), "µs"),
        ratios("the list of models, all of them told", await rounds(lists), "µs"),
    ]
    return table(["", *(f"{size:,} model{'s' * (size > 1)}" for size in sizes), "last / first"], rows)


async def listed(app: Any) -> None:
    """``GET /v1/models``."""
    client = Client(method="GET", path="/v1/models")
    await client.of(app)
    assert client.status == 200


def conversation(turns: int) -> bytes:
    """So many questions with their answers, and one more question."""
    told = [
        {"role": role, "content": f"{role} {number} " + "x" * 200}
        for number in range(turns)
        for role in ("user", "assistant")
    ]
    return chat_body(messages=[*told, {"role": "user", "content": "now"}])


async def messages(sizes: Sequence[int]) -> str:
    """CPU for each turn of a conversation, by how many turns a request has."""
    app = app_with(ScriptedEngine(ANSWER), max_body_bytes=1 << 25)
    plain: list[Measure] = []
    sealed: list[Measure] = []
    key = service_key(X25519_SUITE, secrets.token_bytes(32))
    for size in sizes:
        body, times = conversation(size), max(5, 400 // size)
        plain.append(repeated(times, partial(answered, app, body)))
        call = seal_request(body, PATH, X25519_SUITE, key.identity.hex(), time.time())
        sealed.append(repeated(max(1, times // 5), partial(opened, call, Offer(aci=(key,)))))
    rows = []
    for name, measures in (("a whole request", plain), ("opening a sealed one (X25519)", sealed)):
        taken = await rounds(measures)
        per_turn = [one / size for one, size in zip(taken, sizes, strict=True)]
        rows += [ratios(name, taken, "µs"), ratios(f"{name}, for each turn", per_turn, "µs")]
    return table(["", *(f"{size:,} turns" for size in sizes), "last / first"], rows)


async def opened(call: SealedCall, offer: Offer) -> None:
    """What the server does with it before it is a request."""
    session = negotiate(call.headers.items(), offer, PATH, time.time())
    assert session is not None
    assert session.open(call.body).claimed(new=True).body


# The page ------------------------------------------------------------------------------------------------------------


def folder_for(rows: int, where: Path | None) -> Path:
    """A folder of this run, where that many rows have room."""
    made = Path(tempfile.mkdtemp(prefix="confide-growth-", dir=where))
    needed, free = rows * BYTES_PER_ROW, shutil.disk_usage(made).free
    if needed > free:
        made.rmdir()
        sys.exit(f"{made.parent} has {free >> 30} GiB free, and {rows:,} receipts need {needed >> 30}: see --largest")
    return made


async def page(largest: int, folder: Path) -> str:
    """The tables, stores closed again."""
    sizes = sorted({SMALL, MIDDLE, largest})
    with ExitStack() as closing:
        stores = [Filled(folder / f"receipts{size}.db", size, closing) for size in sizes]
        rings = [Keyed(folder / f"keys{size}.db", size, closing) for size in (10, 1_000, 100_000)]
        parts = {
            "RECEIPTS": await receipts(stores),
            "RETENTION": await retention([one for one in stores if one.rows >= MIDDLE]),
            "KEYS": await keys(rings),
            "MODELS": await models((1, 1_000)),
            "MESSAGES": await messages((10, 100, 1_000)),
        }
    return PAGE.format(rounds=ROUNDS, pruned=PRUNED, load=os.getloadavg()[0], cores=os.cpu_count(), **parts)


PAGE: Final = """# What grows, and what doesn't

`make bench-growth`, medians of {rounds} rounds in one run, in which the sizes take turns. CPU time of the process; in
each table the first size is the yardstick. Ratios travel between machines, microseconds don't. Whole requests go
through the application, without a socket, to an engine that answers at once.

## Receipts that are stored

{RECEIPTS}

Ids begin with the time, so that new rows, and those that retention deletes, lie beside each other in every index: what
is written does not depend on how many rows there are. What a look-up of any age costs is what it costs to read pages
that nobody has read for long, if need be from the disk; here they are chosen at random from the whole file.

## Answers, while old receipts are deleted

How long an answer waits for its receipt to be on the disk, with 8 clients, while {pruned:,} rows are deleted for being
older than `receipt_days`; and the same for as long without. This is wall time, and as good as what other work leaves of
the machine (load average {load:.0f} on {cores} cores when this was written).

{RETENTION}

## Keys

{KEYS}

The keys are in memory, and are read again when one of them changed, not when receipts were written to the same file.
Only that reading grows with them; it happens at most once a second.

## Models

{MODELS}

## Messages in a conversation

{MESSAGES}
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--largest", type=int, default=LARGEST, help="receipts of the largest store")
    parser.add_argument("--folder", type=Path, help="where stores are made, and removed; the system's temporary folder")
    asked = parser.parse_args()
    folder = folder_for(asked.largest, asked.folder)
    try:
        text = asyncio.run(page(asked.largest, folder))
    finally:
        shutil.rmtree(folder)
    print(text)
    if asked.write is not None:
        asked.write.write_text(text)


if __name__ == "__main__":
    main()
