"""One request to a verified service and its answer, without any I/O: the transports move the bytes.

In the order in which it happens:

1. What was established still counts, the URL is the service's, and the request is one that can be made.
2. The body is sealed, where requests are.
3. The answer's head names the same keyset, and encryption where the request was encrypted.
4. Every byte of the answer is hashed as it came off the wire, then opened, then given on; the end is held back.
5. The receipt is fetched and checked against both hashes (ACI 7 and 9.3); then the end is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx
import msgspec

from confide.client.errors import (
    AnswerForged,
    AnswerTruncated,
    Misused,
    NotSealed,
    ProofFailed,
    ReceiptFailed,
)
from confide.client.sealing import hashed, seal
from confide.client.tail import ENDS, Tail, answer_id
from confide.client.trust import Checked, Standing, Trust
from confide.seal.client import SealedCall
from confide.seal.errors import BadKey, CannotSeal, Forged, Truncated
from confide.seal.headers import KNOWN
from confide.verify.bundle import Exchange as Kept
from confide.verify.legacy import verify_signature
from confide.verify.receipt import MOST_SESSIONS, verify_receipt
from confide.verify.verdict import Ledger, Outcome
from confide.wire import jcs
from confide.wire.documents import InvalidDocument
from confide.wire.receipt import Receipt, UpstreamVerified, parse_receipt

MOST_REQUEST: Final = 64 * 1024 * 1024
MOST_ANSWER: Final = 64 * 1024 * 1024
"""Bytes of an answer that is not streamed, which is kept until it is checked. Streams have no limit."""
MOST_PROOF: Final = 4 * 1024 * 1024
WITHOUT_BODY: Final = frozenset({"GET", "HEAD"})
_WAITS: Final = (0.2, 0.5, 1.0)
"""Seconds before a receipt that isn't there yet is asked for again: other services store theirs a little later."""
_TRANSIENT: Final = frozenset({0, 404, 429, 500, 502, 503})
_REPLACED: Final = ("content-length", "transfer-encoding", "accept-encoding")


@dataclass(frozen=True, slots=True)
class Ask:
    """A GET for part of a proof, after ``wait`` seconds."""

    path: str
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came; ``status`` is 0 where nothing did, or too much."""

    status: int
    body: bytes


NO_REPLY: Final = Reply(0, b"")

Proof = Generator[Ask, Reply, bytes]


class Exchange:
    """One POST. ``request`` is what goes out.

    Raises:
        Misused: it can't be made here, or can't be sealed.
        ProofFailed: it repeats one by itself whose answer had no good proof.
    """

    def __init__(self, trust: Trust, standing: Standing, request: httpx.Request, body: bytes) -> None:
        self._trust = trust
        self.standing = standing
        self._path = request.url.path
        self._body_digest = jcs.sha256(body)
        trust.refuse_repetition(self._body_digest, request.headers)
        self._model = _model_in(body)
        self._call = self._sealed(request, body)
        key = standing.seal_key
        self._hashed = body if self._call is None or key is None else hashed(self._call, key)
        self.request = self._outgoing(request, body)
        self._hash = hashlib.sha256()
        self._wire: list[bytes] = []
        self._size = 0
        self._tail: Tail | None = None
        self._receipt_id: str | None = None

    # The request -----------------------------------------------------------------------------------------------------

    def _sealed(self, request: httpx.Request, body: bytes) -> SealedCall | None:
        if own := sorted(name for name in KNOWN if name in request.headers):
            raise Misused(f"the request brings its own {', '.join(own)}; this client encrypts by itself")
        key = self.standing.seal_key
        if key is None:
            return None
        try:
            return seal(body, self._path, key, self._trust.clock())
        except CannotSeal as cannot:
            raise Misused(f"the request can't be encrypted, so it isn't sent: {cannot}") from None
        except BadKey as bad:
            raise Misused(f"the service's encryption key can't be used: {bad}") from None

    def _outgoing(self, request: httpx.Request, body: bytes) -> httpx.Request:
        headers = httpx.Headers([pair for pair in request.headers.raw if pair[0].lower().decode() not in _REPLACED])
        headers["Accept-Encoding"] = "identity"
        if self._call is not None:
            headers.update(self._call.headers)
        content = body if self._call is None else self._call.body
        return httpx.Request(
            request.method, request.url, headers=headers, content=content, extensions=request.extensions
        )

    @property
    def authorization(self) -> dict[str, str]:
        """Whoever made the request may fetch its receipt, and nobody else. Anthropic's clients have another header."""
        given, key = self.request.headers.get("authorization"), self.request.headers.get("x-api-key")
        if given is None and key is not None:
            given = f"Bearer {key}"
        return {} if given is None else {"Authorization": given}

    # The answer ------------------------------------------------------------------------------------------------------

    def answered(self, status: int, headers: httpx.Headers) -> bool:
        """Look at the head of the answer: whether there is something to check. Refusals go on as they are.

        Raises:
            KeysetChanged: the service names another keyset.
            ProofFailed: there can be no proof of this answer.
        """
        self._trust.saw(self.standing, headers)
        with self._remembered():
            if 300 <= status < 400 or status < 200:
                raise AnswerForged(f"the service answered {status}, and this client goes nowhere else")
            if status >= 400:
                return False
            if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
                raise AnswerForged("the answer is compressed, though it was asked for as it is")
            if self._call is not None and headers.get("x-e2ee-applied", "").lower() != "true":
                raise NotSealed("the service answered in clear to an encrypted request")
            self._receipt_id = headers.get("x-receipt-id")
            if self.standing.established.keyset is not None and not self._receipt_id:
                raise ReceiptFailed("the service gave an answer that has no receipt")
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        self._tail = Tail(self._path) if media_type == "text/event-stream" else None
        return True

    def headers(self, headers: httpx.Headers) -> httpx.Headers:
        """The headers of the answer as the application sees it."""
        dropped = () if self._call is None else ("content-length",)
        return httpx.Headers([pair for pair in headers.raw if pair[0].lower().decode() not in dropped])

    def feed(self, data: bytes) -> bytes:
        """Take bytes off the wire; give what may go on.

        Raises:
            ProofFailed: it isn't the answer.
        """
        self._hash.update(data)
        with self._remembered():
            if self._tail is None or self._trust.keep is not None:
                self._wire.append(data)
                self._size += len(data)
            if self._tail is None:
                if self._size > MOST_ANSWER:
                    raise ReceiptFailed(f"an answer of more than {MOST_ANSWER} bytes can't be checked as a whole")
                return b""
            return self._tail.push(data if self._call is None else self._call.opener.feed(data))

    def proof(self) -> Proof:
        """What is left when the wire's last byte was fed: the proof, then the end of the answer.

        Yields:
            What to fetch; send what came.

        Returns:
            The bytes that were held back.

        Raises:
            ProofFailed: they must not be given on.
        """
        with self._remembered():
            rest = self._rest()
            ledger = Ledger()
            if self.standing.established.keyset is None:
                name, receipt, kept = yield from self._signature(ledger)
            else:
                name, receipt, kept = yield from self._receipt(ledger)
            self._tell(Checked(name, self._model, self._call is not None, receipt, tuple(ledger.findings)), kept)
            return rest

    def _rest(self) -> bytes:
        """The end of the answer, if it is complete."""
        tail, call = self._tail, self._call
        if tail is None:
            body = b"".join(self._wire)
            return body if call is None else call.opener.whole(body)
        if call is not None:
            call.opener.end()
        if tail.is_torn or (not tail.is_done and self._path in ENDS):
            raise AnswerTruncated("the stream stopped before its end")
        return tail.release()

    # Proofs ----------------------------------------------------------------------------------------------------------

    @property
    def _digests(self) -> dict[str, str]:
        return {"request_digest": jcs.sha256(self._hashed), "response_digest": "sha256:" + self._hash.hexdigest()}

    def _receipt(self, ledger: Ledger) -> Generator[Ask, Reply, tuple[str, Receipt, dict[str, Any]]]:
        assert self._receipt_id is not None
        document = yield from _fetched(f"/v1/aci/receipts/{quote(self._receipt_id, safe='')}", "the receipt")
        sessions = yield from self._sessions(document)
        receipt = verify_receipt(
            ledger,
            self.standing.at(self._trust.clock()),
            self.standing.established,
            document,
            **self._digests,
            model=self._model,
            sessions=sessions,
        )
        _settle(ledger)
        assert receipt is not None
        if receipt.facts.receipt_id != self._receipt_id:
            raise ReceiptFailed("the service gave another receipt than the one that the answer names")
        if not self._path.endswith(receipt.facts.endpoint):
            raise ReceiptFailed(f"the receipt is for {receipt.facts.endpoint[:80]}, and {self._path} was asked")
        return self._receipt_id, receipt, {"receipt": document, "sessions": sessions}

    def _sessions(self, document: bytes) -> Generator[Ask, Reply, dict[str, bytes]]:
        """The sessions that an aggregator's receipt cites; a receipt that can't be read cites none."""
        if self.standing.established.serving == "direct":
            return {}
        found: dict[str, bytes] = {}
        for name in _cited(document)[:MOST_SESSIONS]:
            known = self._trust.session(name)
            if known is None:
                known = yield from _fetched(f"/v1/aci/sessions/{name}", "the session that the receipt cites")
                self._trust.keep_session(name, known)
            found[name] = known
        return found

    def _signature(self, ledger: Ledger) -> Generator[Ask, Reply, tuple[str, None, dict[str, Any]]]:
        """The older surface: one signature over both hashes, by the id of the answer. Where a service signs nothing,
        the connection to its attested key is all the proof there is."""
        name = answer_id(b"".join(self._wire)) if self._tail is None else self._tail.first_id
        signers = self.standing.established.signers
        if not signers:
            return name or "", None, {}
        if name is None:
            raise ReceiptFailed("the answer has no id, by which its signature could be found")
        query = urlencode({"model": self._model or "", "signing_algo": signers[0].algorithm})
        answer = yield from _fetched(f"/v1/signature/{quote(name, safe='')}?{query}", "the signature")
        context = self.standing.at(self._trust.clock())
        verify_signature(ledger, context, self.standing.established, answer, **self._digests, model=self._model)
        _settle(ledger)
        return name, None, {"signature": answer}

    def _tell(self, checked: Checked, proof: dict[str, Any]) -> None:
        if self._trust.keep is not None:
            request, response = self._hashed, b"".join(self._wire)
            kept = Kept(
                id=checked.id, sealed=checked.sealed, model=self._model, request=request, response=response, **proof
            )
            self._trust.keep(kept)
        if self._trust.on_receipt is not None:
            self._trust.on_receipt(checked)

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        """Failures under our own names, and not forgotten."""
        try:
            yield
        except ProofFailed as failure:
            self._trust.failed(self._body_digest, failure)
            raise
        except (Forged, Truncated, ValueError) as wrong:
            kind = AnswerTruncated if isinstance(wrong, Truncated) else AnswerForged
            named = kind(f"the answer is not what the service sent: {wrong}")
            self._trust.failed(self._body_digest, named)
            raise named from None


def _fetched(path: str, what: str) -> Generator[Ask, Reply, bytes]:
    """A part of a proof, which may come a little late."""
    status = 0
    for wait in (0.0, *_WAITS):
        reply = yield Ask(path, wait)
        if reply.status == 200:
            return reply.body
        status = reply.status
        if status not in _TRANSIENT:
            break
    raise ReceiptFailed(f"{what} can't be had: the service answered {status or 'nothing'}")


def _settle(ledger: Ledger) -> None:
    """A proof is good where every step that counts passed."""
    problems = [one for one in ledger.findings if one.outcome is Outcome.FAIL]
    problems += [one for one in ledger.findings if one.outcome is Outcome.NOT_CHECKED and one.required]
    if problems or not ledger.findings:
        raise ReceiptFailed.of(tuple(problems)) if problems else ReceiptFailed("nothing was checked")


def _cited(document: bytes) -> list[str]:
    try:
        events = parse_receipt(document).facts.events
    except InvalidDocument:
        return []
    found = [event.session_id for event in events if isinstance(event, UpstreamVerified)]
    return list(dict.fromkeys(name for name in found if isinstance(name, str)))


def _model_in(body: bytes) -> str | None:
    try:
        value: Any = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    model = value.get("model") if isinstance(value, dict) else None
    return model if isinstance(model, str) else None


def check_request(standing: Standing, request: httpx.Request) -> None:
    """Only the service's own origin, and only what this client knows how to check.

    Raises:
        Misused: something else.
    """
    if not standing.address.holds(request.url):
        raise Misused(f"this client talks only to {standing.address.origin}, not to {request.url.host}")
    if request.method not in WITHOUT_BODY and request.method != "POST":
        raise Misused(f"this client makes no {request.method} requests")
