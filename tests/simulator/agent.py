"""A guest agent on a real unix socket that says what a test tells it to, byte for byte if need be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

Reply = bytes | dict[str, Any]
Handler = Callable[[str, dict[str, Any]], Awaitable[Reply]]


def response(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """A whole HTTP answer."""
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def agent(path: Path, handler: Handler) -> AsyncIterator[list[str]]:
    """The agent, and the methods that it was asked."""
    asked: list[str] = []
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            size = next(int(line[15:]) for line in head.splitlines() if line.lower().startswith("content-length:"))
            method = head.split(" ")[1].removeprefix("/")
            asked.append(method)
            reply = await handler(method, json.loads(await reader.readexactly(size)))
            writer.write(reply if isinstance(reply, bytes) else response(json.dumps(reply).encode()))
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(connected, path)
    try:
        yield asked
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
