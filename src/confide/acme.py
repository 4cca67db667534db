"""Certificates from an authority that speaks ACME (RFC 8555), by certbot's library, for the workload's own key.

Only the request for a certificate and the certificate itself leave or enter; both are public. The authority looks at
``http://DOMAIN/.well-known/acme-challenge/`` (HTTP-01), which is answered for as long as an order is open.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec

from confide.errors import ConfigError, OperatorError
from confide.tls import checked_chain, csr

if TYPE_CHECKING:
    from acme import client as acme_client
    from acme import messages

DEADLINE: Final = timedelta(seconds=120)
RETRY_SECONDS: Final = 3600
"""After an order, whatever became of it, none is made for an hour, also by other workers or after a restart."""


class NoCertificate(OperatorError):
    """The authority issued none; the text says why."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Whom to ask, and where its questions are answered. To ask is to agree to its terms of service.

    Args:
        directory: the URL of the ACME directory.
        contact: an address for its mail.
        host: the IPv4 address on which HTTP-01 is answered; all of them if empty.
        port: the port; an authority asks port 80.
    """

    directory: str
    contact: str | None = None
    host: str = ""
    port: int = 80


class Renewal:
    """Keeps a file with a valid chain. Call :meth:`refresh` now and then; one worker at a time makes an order.

    Args:
        authority: who issues.
        key: the workload's TLS key.
        domains: what the certificate is for; at least one.
        file: where the chain is kept; its folder exists.
        clock: Unix time.

    Raises:
        ConfigError: there is no domain, or the library isn't installed.
    """

    def __init__(
        self,
        authority: Authority,
        key: ec.EllipticCurvePrivateKey,
        domains: Sequence[str],
        file: Path,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not domains:
            raise ConfigError("An authority issues certificates for names: set tls_domains.")
        if importlib.util.find_spec("acme") is None:
            raise ConfigError("Certificates by ACME need a library: pip install 'confide[acme]'")
        self._authority = authority
        self._key = key
        self._domains = domains
        self._file = file
        self._clock = clock

    async def refresh(self) -> None:
        """Have a certificate issued if there is none, or less than a third of its time is left.

        Raises:
            NoCertificate: none was issued; the next call after an hour tries again.
        """
        if self.due():
            await asyncio.to_thread(self._renew)

    def due(self) -> bool:
        """Whether the file needs a certificate."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        try:
            leaf = checked_chain(self._file.read_bytes(), self._key.public_key(), self._domains, now)[0]
        except (ConfigError, OSError):
            return True
        lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc
        return now > leaf.not_valid_after_utc - lifetime / 3

    def _renew(self) -> None:
        with _turn(self._file.with_suffix(".attempt"), self._clock()) as ours:
            if ours and self.due():
                chain = obtain(self._authority, self._key, self._domains)
                self._check(chain)
                _replace(self._file, chain)

    def _check(self, chain: bytes) -> None:
        try:
            checked_chain(chain, self._key.public_key(), self._domains, datetime.fromtimestamp(self._clock(), UTC))
        except ConfigError as error:
            raise NoCertificate(f"The authority issued what can't be served: {error}") from None


def obtain(authority: Authority, key: ec.EllipticCurvePrivateKey, domains: Sequence[str]) -> bytes:
    """A new chain in PEM for this key. Takes up to two minutes.

    Raises:
        NoCertificate: the authority refused, or can't be reached, or couldn't reach us.
    """
    from acme import errors, messages
    from josepy.errors import Error as JoseError
    from requests import RequestException

    try:
        client = _registered(authority)
        with _answering(authority) as answers:
            order = client.new_order(csr(key, domains))
            for authorization in order.authorizations:
                _prove(client, authorization, answers)
            return client.poll_and_finalize(order, datetime.now() + DEADLINE).fullchain_pem.encode()
    except (errors.Error, messages.Error, JoseError, RequestException, OSError, KeyError, ValueError) as error:
        raise NoCertificate(f"No certificate from {authority.directory}: {_said(error)}") from error


def _registered(authority: Authority) -> acme_client.ClientV2:
    """A client with an account that lives as long as its order: there is no account key to keep."""
    from acme import client, messages
    from josepy.jwa import ES256
    from josepy.jwk import JWKEC
    from josepy.util import ComparableECKey

    account_key = JWKEC(key=ComparableECKey(ec.generate_private_key(ec.SECP256R1())))
    network = client.ClientNetwork(account_key, alg=ES256, user_agent="confide")
    made = client.ClientV2(client.ClientV2.get_directory(authority.directory, network), network)
    made.new_account(messages.NewRegistration.from_data(email=authority.contact, terms_of_service_agreed=True))
    return made


def _prove(
    client: acme_client.ClientV2, authorization: messages.AuthorizationResource, answers: dict[str, bytes]
) -> None:
    """Show that we are the host that a name leads to."""
    from acme import challenges, errors

    for body in authorization.body.challenges:
        if isinstance(body.chall, challenges.HTTP01):
            response, text = body.response_and_validation(client.net.key)
            answers[body.chall.path] = text.encode()
            client.answer_challenge(body, response)
            return
    raise errors.Error(f"it offers no HTTP-01 for {authorization.body.identifier.value}")


def _said(error: Exception) -> str:
    from acme import errors

    if isinstance(error, errors.ValidationError):
        problems = [one.error for failed in error.failed_authzrs for one in failed.body.challenges if one.error]
        return "; ".join(str(problem.detail) for problem in problems)
    return str(error) or type(error).__name__


# HTTP-01 -------------------------------------------------------------------------------------------------------------


@contextmanager
def _answering(authority: Authority) -> Iterator[dict[str, bytes]]:
    """A server that says what is put into the mapping, by path, and nothing else."""
    answers: dict[str, bytes] = {}
    server = _Answers((authority.host, authority.port), answers)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Answers(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], answers: Mapping[str, bytes]) -> None:
        self.answers = answers
        super().__init__(address, _Answer)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that breaks off is none of our business."""


class _Answer(BaseHTTPRequestHandler):
    timeout = 10
    server: _Answers

    def do_GET(self) -> None:
        body = self.server.answers.get(self.path)
        self.send_response_only(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *args: object) -> None:
        pass


# Files ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _turn(path: Path, now: float) -> Iterator[bool]:
    """Whether it is on us to make an order: nobody is making one, nor made one within the hour."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        last = path.stat()
        ours = not last.st_size or now - last.st_mtime >= RETRY_SECONDS
        if ours:
            file.truncate(1)
            os.utime(path, (now, now))
        yield ours


def _replace(file: Path, data: bytes) -> None:
    """Put data into a file so that readers see all of it or what was there before."""
    new = file.with_suffix(".new")
    new.write_bytes(data)
    new.replace(file)
