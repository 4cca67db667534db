"""The HTTP/1.1 connection: uvicorn's, but refusals below the application are OpenAI's error object as well."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from confide.api.envelope import Proven
from confide.errors import ApiError, InvalidRequest
from confide.wire.answers import error_body

MAX_HEADER_BYTES: Final = 64 * 1024


class HttpProtocol(HttpToolsProtocol):
    """Differs in what it says to a request that isn't HTTP, and in a bound on the size of the headers."""

    _header_bytes = 0

    def on_message_begin(self) -> None:
        """A request begins."""
        self._header_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Part of the request's target."""
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(name + value)
        super().on_header(name, value)

    def _count(self, data: bytes) -> None:
        self._header_bytes += len(data)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise ValueError("headers too large")  # the parser turns this into its own error, and that into a 400

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser refused, and close: nothing after it can be trusted to begin where it seems to."""
        error: ApiError = InvalidRequest(
            "The HTTP request is malformed: expected one valid HTTP/1.1 request with at most one Content-Length, no "
            f"Transfer-Encoding beside it, and at most {MAX_HEADER_BYTES} bytes of headers."
        )
        body = error_body(error)
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n"
        )
        app = self.config.app  # uvicorn has wrapped self.app
        more = app.every() if isinstance(app, Proven) else ()
        head += "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in more) + "\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()
