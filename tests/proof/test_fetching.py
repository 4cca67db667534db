"""What is committed is found at once, however many ask for receipts at that moment.

In WAL mode a connection sees the store as it was when its oldest running statement began. Threads that share one
connection therefore share an old view for as long as one of them reads, unless they take turns.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from confide.store.receipts import ReceiptRow, ReceiptStore, ReceiptWriter
from confide.store.sqlite import SqliteFile

READERS = 6
ROUNDS = 100


def test_a_receipt_is_found_as_soon_as_it_is_committed(tmp_path: Path) -> None:
    path = tmp_path / "confide.db"
    writer, ended = ReceiptWriter(SqliteFile(path)), threading.Event()
    lost: list[int] = []

    async def write_and_fetch(store: ReceiptStore) -> None:
        for number in range(ROUNDS):
            await writer.commit(ReceiptRow(f"r{number}", f"c{number}", "owner", 1, b"{}"))
            if await asyncio.to_thread(store.find, f"r{number}", owner="owner") is None:
                lost.append(number)

    def read(store: ReceiptStore) -> None:
        while not ended.is_set():
            store.find("r0", owner="owner")

    with ReceiptStore(SqliteFile(path)) as store:
        readers = [threading.Thread(target=read, args=(store,)) for _ in range(READERS)]
        for reader in readers:
            reader.start()
        try:
            asyncio.run(write_and_fetch(store))
        finally:
            ended.set()
            for reader in readers:
                reader.join()
            writer.close()
    assert lost == []
