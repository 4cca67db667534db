"""A man in the middle: ends TLS with a certificate that its victims trust, over a key of its own."""

from __future__ import annotations

import socket
import ssl
import threading

import trustme

HOST = "127.0.0.1"


class Interceptor:
    """Ends TLS on loopback, keeps what it is sent after the handshake, and answers every request with an empty 200."""

    def __init__(self, authority: trustme.CA) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate = authority.issue_cert(HOST, "localhost")
        certificate.configure_cert(self.context)
        self.der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
        self.received = bytearray()
        self.connections = 0
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Interceptor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _run(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            raw.settimeout(5)
            try:
                with self.context.wrap_socket(raw, server_side=True) as connection:
                    while data := connection.recv(65536):
                        self.received += data
                        if b"\r\n\r\n" in data:
                            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            except OSError:
                continue
