"""``confide proxy``: a local OpenAI endpoint in front of one verified service, for programs that can't be changed.

It listens on loopback addresses only, answers only requests that name it as ``Host`` (a web page can point a name of
its own at 127.0.0.1), takes only JSON, and allows no other origin. What goes on behind it are the transports of
:mod:`confide.client.transport`: a failed proof becomes an error of its own type or, when an answer has begun, a
connection that is cut before its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import httpx

from confide.client import http1
from confide.client.address import is_loopback
from confide.client.errors import ClientError, Misused, MustVerifyAgain, PinMismatch, ProofFailed
from confide.client.http1 import Head, Peer, Refused
from confide.client.renewal import Renewal
from confide.client.service import VerifiedService
from confide.errors import ApiError, ConfideError, OperatorError
from confide.wire import conversation, messages, responses, texts, vectors
from confide.wire.failing import OPENAI, ErrorForm
from confide.wire.openai import parse_chat

log = logging.getLogger("confide.client.proxy")

_PREFIX: Final = "/v1/"
_METHODS: Final = ("GET", "HEAD", "POST")
_NOT_FORWARDED: Final = frozenset(
    {
        *("host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length"),
        *("proxy-authorization", "proxy-connection", "accept-encoding", "expect", "cookie", "origin", "referer"),
    }
)
_NOT_RETURNED: Final = frozenset(
    {*("connection", "keep-alive", "transfer-encoding", "upgrade", "trailer", "set-cookie", "date"), "content-length"}
)
NO_RETRY: Final = {"X-Should-Retry": "false"}
"""SDKs repeat requests after a 502; after a failed proof they must not."""


_READERS: Final[dict[str, Callable[[bytes], object]]] = {
    "/v1/chat/completions": lambda body: conversation.check(parse_chat(body)),
    "/v1/completions": lambda body: texts.check_completion(texts.parse_completion(body)),
    "/v1/embeddings": lambda body: vectors.check_embedding(vectors.parse_embedding(body)),
    "/v1/responses": lambda body: responses.check_response(responses.parse_response(body)),
    "/v1/messages": lambda body: messages.check_message(messages.parse_message(body)),
}


class VerificationFailed(ApiError):
    """502: an answer had no good proof, or the connection ended at another key."""

    status = 502
    type = "verification_failed"


class VerifyAgain(ApiError):
    """503: what was established counts no longer."""

    status = 503
    type = "verification_required"


class UpstreamFailed(ApiError):
    """502: the service gave no answer."""

    status = 502
    type = "upstream_error"


class Denied(ApiError):
    """403: a request that no program on this machine makes by itself."""

    status = 403
    type = "invalid_request_error"


@dataclass(frozen=True, slots=True)
class ProxyLimits:
    """``body`` in bytes; the others in seconds: for a request to arrive, for a client to take a piece of an answer,
    and between two requests on one connection. ``connections`` at the same time."""

    body: int = 32 * 1024 * 1024
    request: float = 60.0
    write: float = 60.0
    idle: float = 75.0
    connections: int = 256


def serve_proxy(
    service: VerifiedService,
    host: str = "127.0.0.1",
    port: int = 8787,
    *,
    limits: ProxyLimits = ProxyLimits(),
    on_ready: Callable[[str], object] = lambda _: None,
) -> int:
    """Serve until SIGINT or SIGTERM.

    Args:
        service: what to forward to; it was verified when it was made.
        host: a loopback address, or ``localhost``.
        port: 0 for any free one.
        limits: bounds for clients.
        on_ready: called with the base URL when requests can come.

    Returns:
        The exit code of the process: 0, or 1 where any proof failed.

    Raises:
        OperatorError: the address isn't a loopback one, or can't be had.
    """
    return asyncio.run(_serve(Proxy(service, limits), host, port, on_ready))


async def _serve(proxy: Proxy, host: str, port: int, on_ready: Callable[[str], object]) -> int:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with proxy.listening(host, port) as url:
        on_ready(url)
        await stop.wait()
    return proxy.exit_code


class Proxy:
    """The proxy itself. ``exit_code`` is 1 from the first failed proof on."""

    def __init__(self, service: VerifiedService, limits: ProxyLimits) -> None:
        self._service = service
        self._limits = limits
        self._renewal = Renewal(service)
        self._names: frozenset[str] = frozenset()
        self._clients: set[asyncio.Task[None]] = set()
        self._upstream: httpx.AsyncClient | None = None
        self.exit_code = 0

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[str]:
        """Listen, and give the base URL.

        Raises:
            OperatorError: the address isn't a loopback one, or can't be had.
        """
        if not is_loopback(host):
            raise Misused(f"the proxy serves this machine only: {host} is no loopback address (try 127.0.0.1)")
        try:
            server = await asyncio.start_server(self._connected, host, port, limit=http1.PIECE)
        except OSError as failed:
            raise OperatorError(f"can't listen on {host} port {port}: {failed.strerror or failed}") from failed
        port = server.sockets[0].getsockname()[1]
        self._names = frozenset(f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]"))
        if port == 80:
            self._names |= {"localhost", "127.0.0.1", "[::1]"}
        async with self._service.async_http_client() as self._upstream, server:
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
            server.close()
            await self._end_clients()

    async def _end_clients(self) -> None:
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    # Connections -----------------------------------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= self._limits.connections:
            writer.transport.abort()
            return
        self._clients.add(task)
        peer = Peer(reader, writer, idle=self._limits.idle, request=self._limits.request, write=self._limits.write)
        try:
            while await self._one(peer):
                pass
        except (ConnectionError, TimeoutError, http1.Gone, asyncio.CancelledError):
            peer.abort()  # cancelled only when the proxy ends, and nobody waits for more than that
        finally:
            self._clients.discard(task)
            peer.close()

    async def _one(self, peer: Peer) -> bool:
        """One request of a connection; whether another may follow."""
        began = time.monotonic()
        try:
            head = await peer.head()
            if head is None:
                return False
            body = await self._read(peer, head)
        except Refused as refused:
            await peer.error(ApiError(str(refused), status=refused.status, type="invalid_request_error"), last=True)
            return False
        except ApiError as error:
            await peer.error(error, last=True)
            return False
        status = await peer.unless_gone(self._answer(peer, head, body))
        facts = {"method": head.method, "status": status, "milliseconds": int((time.monotonic() - began) * 1000)}
        log.info("forwarded", extra=facts)
        return peer.next()

    async def _read(self, peer: Peer, head: Head) -> bytes:
        self._check(head)
        return await peer.body(self._limits.body)

    def _check(self, head: Head) -> None:
        """Who asks for what, before a byte of a body is read."""
        if (head.one("host") or "").lower() not in self._names:
            raise Denied("The Host header must name this proxy: localhost, 127.0.0.1 or [::1], with its port.")
        if head.one("origin") is not None:
            raise Denied("This proxy answers no web pages.")
        if head.method not in _METHODS:
            raise ApiError(f"Not allowed to {head.method} here.", status=405, type="invalid_request_error")
        path = head.target.partition("?")[0]
        if not path.startswith(_PREFIX) or {".", ".."} & set(unquote(path).split("/")):
            raise ApiError("Invalid URL: this proxy serves /v1 only.", status=404, type="invalid_request_error")
        if head.method == "POST":
            media_type = (head.one("content-type") or "").partition(";")[0].strip().lower()
            if media_type != "application/json":
                raise ApiError("The body must be application/json.", status=415, type="invalid_request_error")

    # Requests --------------------------------------------------------------------------------------------------------

    async def _answer(self, peer: Peer, head: Head, body: bytes) -> int:
        """Forward one request and its answer; the status that was sent."""
        try:
            return await self._forward(peer, head, body)
        except ConfideError as error:
            self._note(error)
            if peer.has_begun:  # a clean end would look like an answer
                peer.abort()
                return 0
            refusal = (_malformed(head, body) if isinstance(error, Misused) else None) or _refusal(error)
            await peer.error(refusal, form=_form(head))
            return refusal.status
        except httpx.HTTPError as failed:
            log.warning("the service gave no answer", extra={"error": type(failed).__name__})
            if peer.has_begun:
                peer.abort()
                return 0
            missed = UpstreamFailed(f"The service gave no whole answer: {type(failed).__name__}.")
            await peer.error(missed, form=_form(head))
            return UpstreamFailed.status

    async def _forward(self, peer: Peer, head: Head, body: bytes) -> int:
        try:
            await self._renewal.ready()
            return await self._exchange(peer, head, body)
        except MustVerifyAgain as changed:
            self._renewal.begin(changed)
            raise

    async def _exchange(self, peer: Peer, head: Head, body: bytes) -> int:
        assert self._upstream is not None
        url = httpx.URL(self._service.base_url).copy_with(raw_path=head.target.encode("ascii"))
        headers = [pair for pair in head.headers if pair[0] not in _NOT_FORWARDED]
        if self._service.api_key is not None:
            headers = [pair for pair in headers if pair[0] not in ("authorization", "x-api-key")]
        headers.append(("accept-encoding", "identity"))  # bytes go on as they come
        request = self._upstream.build_request(head.method, url, headers=headers, content=body or None)
        response = await self._upstream.send(request, stream=True)
        try:
            pieces = response.aiter_raw()
            first = await anext(pieces, b"")  # what isn't streamed comes only after its proof
            kept = [pair for pair in response.headers.multi_items() if pair[0].lower() not in _NOT_RETURNED]
            await peer.begin(response.status_code, kept, is_head=head.method == "HEAD")
            await peer.piece(first)
            async for piece in pieces:
                await peer.piece(piece)
            await peer.end()
        finally:
            await response.aclose()
        return response.status_code

    def _note(self, error: ConfideError) -> None:
        """Log what happened without its text, which may quote somebody."""
        reason = error.reason if isinstance(error, ClientError) else ""
        facts = {"error": type(error).__name__, "reason": reason}
        if isinstance(error, ProofFailed | PinMismatch):
            self.exit_code = 1
            log.error("a proof failed; the answer was not completed", extra=facts)
        elif isinstance(error, MustVerifyAgain):
            log.warning("the service must be verified again", extra=facts)
        else:
            log.warning("a request was refused", extra=facts)


def _form(head: Head) -> ErrorForm:
    """How the endpoint that was asked tells of errors."""
    return messages.ANTHROPIC if head.target.partition("?")[0] == "/v1/messages" else OPENAI


def _malformed(head: Head, body: bytes) -> ApiError | None:
    """What the service would have said of a request that is none, and so was not sent."""
    read = _READERS.get(head.target.partition("?")[0])
    if read is None:
        return None
    try:
        read(body)
    except ApiError as error:
        return error
    return None


def _refusal(error: ConfideError) -> ApiError:
    """What an SDK is told."""
    if isinstance(error, MustVerifyAgain):
        return VerifyAgain(f"The service must be verified again: {error}.", headers={"Retry-After": "1"})
    if isinstance(error, Misused):
        return ApiError(f"Refused by this proxy: {error}.", status=400, type="invalid_request_error", headers=NO_RETRY)
    return VerificationFailed(f"Not verified, so not forwarded: {error}.", headers=NO_RETRY)
