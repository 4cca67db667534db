"""What the echo says on the endpoints beside chat completions: what it was told, as vLLM would and we mend it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from confide.engine.base import Call
from confide.engine.remote.dialect import VLLM
from confide.engine.remote.engine import SERVICES
from confide.engine.remote.offers import OFFERS
from confide.errors import EngineFailed
from confide.wire.answers import Usage
from confide.wire.messages import MessagesRequest
from confide.wire.responses import ResponsesRequest
from confide.wire.sse import DONE
from confide.wire.texts import CompletionRequest
from tests.simulator import engine_endpoints as theirs

ALSO: Final = {path: offer.members for path, offer in OFFERS["vllm"].items()}


def ordered(request: Any) -> str:
    """What it is told to do besides echoing."""
    if isinstance(request, MessagesRequest):
        return str((request.metadata or {}).get("user_id", ""))
    return request.user or ""


def told(request: Any) -> str:
    """The text that is echoed."""
    if isinstance(request, CompletionRequest):
        return str(request.prompts[0])
    if isinstance(request, ResponsesRequest):
        content: Any = request.input if isinstance(request.input, str) else getattr(request.items[-1], "content", "")
    elif isinstance(request, MessagesRequest):
        content = request.messages[-1].content
    else:
        content = ""
    return content if isinstance(content, str) else "".join(getattr(part, "text", "") for part in content)


class OtherEcho:
    """One echo under way: what vLLM would write, mended as an engine's is."""

    def __init__(self, call: Call[Any], what: str, number: int) -> None:
        self._call = call
        self._what, self._number = what, number
        self._service = SERVICES[type(call.request)]
        self._path = f"/v1{self._service.path}"
        self._body: dict[str, Any] = json.loads(call.body) | {"request_id": call.id, "model": call.model}
        self._body.pop("max_tokens", None)
        self.usage = Usage(len(call.body), 1)
        self.last = b""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        text = told(self._call.request)
        if not self._call.request.stream:
            await self._at_pace(0)
            answer = theirs.whole("vllm", self._path, self._body, text)
            body, self.usage = self._service.whole(self._call, VLLM, json.dumps(answer, ensure_ascii=False).encode())
            yield body
            return
        mender = self._service.stream(self._call, VLLM)
        for count, payload in enumerate(theirs.stream("vllm", self._path, self._body, text)):
            await self._at_pace(count)
            event = payload if isinstance(payload, bytes) else b"data: " + json.dumps(payload).encode() + b"\n\n"
            for piece in mender.feed(event):
                yield piece
        if self._path not in theirs.NAMED:
            mender.feed(DONE)
        mender.end()
        self.last, self.usage = mender.last, mender.usage

    async def _at_pace(self, count: int) -> None:
        if self._what == "slow":
            await asyncio.sleep(self._number / 1000)
        if self._what in ("fail", "crash", "hang") and count >= self._number:
            if self._what == "fail":
                raise EngineFailed("The engine broke.")
            if self._what == "crash":
                raise RuntimeError(f"what a foreign library says: {self._call.body!r}")
            await asyncio.sleep(3600)

    async def aclose(self) -> None:
        if self._what == "badend":
            raise RuntimeError(f"what a foreign library says: {self._call.body!r}")
