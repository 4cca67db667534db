"""What every answer carries, and the last resort when something in this server breaks."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from confide.api.respond import internal_error, send_error

log = logging.getLogger("confide.api")

_VERSION: Final = (b"openai-version", b"2020-10-01")


class Envelope:
    """Adds what every answer carries, ``x-request-id`` among it; turns what nobody caught into a 500.

    Args:
        app: the routes.
        more: further headers of every answer, asked anew each time.
    """

    def __init__(self, app: ASGIApp, more: Callable[[], Iterable[tuple[bytes, bytes]]]) -> None:
        self._app = app
        self._more = more

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        started = complete = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started, complete
            if message["type"] == "http.response.start":
                started = True
                spent = int((time.perf_counter() - begun) * 1000)
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", b"req_" + secrets.token_hex(16).encode()),
                    (b"openai-processing-ms", str(spent).encode()),
                    _VERSION,
                    *self._more(),
                ]
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001 - the outermost boundary; its text may quote the request
            log.error("unexpected %s in %s", type(error).__name__, scope["method"])  # noqa: TRY400
            if complete:  # the framework has answered before it passed the error on
                return
            if started:
                raise RuntimeError("failed after the answer had begun") from None
            await send_error(send_with_headers, internal_error())
