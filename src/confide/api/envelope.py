"""What every answer carries, and the last resort when something in this server breaks."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from confide.api.respond import internal_error, send_error
from confide.logs import place_of
from confide.store.ids import random_hex

log = logging.getLogger("confide.api")

_VERSION: Final = (b"openai-version", b"2020-10-01")


class Envelope:
    """Adds OpenAI's headers to every answer; turns what nobody caught into a 500; logs that a request was answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        started = complete = False
        request_id = f"req_{random_hex()}"
        status = 0

        def send_with_headers(message: Message) -> Awaitable[None]:  # no coroutine of its own, for every chunk has one
            nonlocal started, complete, status
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                spent = int((time.perf_counter() - begun) * 1000)
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"openai-processing-ms", str(spent).encode()),
                    _VERSION,
                ]
            else:
                complete = not message.get("more_body", False)
            return send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001 - the outermost boundary; its text may quote the request
            cause = {"error": type(error).__name__, "place": place_of(error.__traceback__)}
            log.error("unexpected exception", extra=cause)  # noqa: TRY400
            if complete:  # the framework has answered before it passed the error on
                return
            if started:
                raise RuntimeError("failed after the answer had begun") from None
            await send_error(send_with_headers, internal_error())
        finally:
            if log.isEnabledFor(logging.INFO):
                spent = int((time.perf_counter() - begun) * 1000)
                facts: dict[str, object] = {"request_id": request_id, "status": status, "milliseconds": spent}
                facts |= {"method": scope["method"], "route": _route(scope)}
                log.info("answered", extra=facts)


def _route(scope: Scope) -> str:
    """Which of our routes it was; never the path, which is the client's to choose."""
    endpoint = scope.get("endpoint")
    return str(getattr(endpoint, "__name__", type(endpoint).__name__)) if endpoint is not None else "none"


class Proven:
    """The outermost layer: adds to every answer, a preflight's too, what it doesn't say itself. ``every`` gives it."""

    def __init__(self, app: ASGIApp, every: Callable[[], Iterable[tuple[bytes, bytes]]]) -> None:
        self._app = app
        self.every = every

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                said = [*message.get("headers", ())]
                names = {name for name, _ in said}
                said += [field for field in self.every() if field[0] not in names]
                message["headers"] = said
            return send(message)

        await self._app(scope, receive, send_with_headers)
