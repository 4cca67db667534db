"""The client's side of one request: seal it, and open its answer.

Every field of an answer is authentic for this request, this place and (where the protocol has associated data) this
answer. No version of the protocol numbers the fields of a stream; so what can be seen without that is checked here
(no field twice, none after its choice has finished, no end before every choice has finished, no answer without an
end), and the rest is what the hash in the signed receipt is for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from confide.seal import jsontext
from confide.seal.curves import PrivateKey, Randomness
from confide.seal.ecies import NONCE_SIZE, TAG_SIZE, Opener
from confide.seal.errors import BadBlob, BadJson, CannotSeal, Forged, Truncated
from confide.seal.events import Event, EventReader
from confide.seal.fields import DROPPED, Path, Rule, dotted, replace_fields
from confide.seal.requests import seal_fields
from confide.seal.terms import Head, KeyPairs, Terms


@dataclass(frozen=True, slots=True)
class SealedCall:
    """A request to be sent. ``restored`` is its plaintext as the service restores it and as ACI receipts hash it."""

    headers: dict[str, str]
    body: bytes
    opener: ResponseOpener
    restored: bytes = field(repr=False)


def seal_call(
    body: bytes, terms: Terms, service: bytes, pair: PrivateKey, headers: dict[str, str], random: Randomness
) -> SealedCall:
    """Seal a request for a service's point; the answer will be sealed to ``pair``.

    Raises:
        CannotSeal: it has no content, or no model.
        BadKey: the service's key can't be used.
    """
    try:
        payload = jsontext.decode_object(body)
    except BadJson:
        raise CannotSeal("The request isn't a JSON object.") from None
    model = payload.get("model")
    if not isinstance(model, str) or not terms.binding.allows(model):
        raise CannotSeal("The request names no model that it could be bound to.")
    pairs = KeyPairs(terms, service, random)

    def seal_text(path: Path, text: str) -> str:
        return pairs.next().seal(text.encode(), terms.binding.request(model, path))

    sealed = seal_fields(terms.endpoint.member, payload, seal_text)
    opener = ResponseOpener(terms, pair, model)
    return SealedCall(headers, jsontext.encode(sealed), opener, jsontext.encode(payload))


class ResponseOpener:
    """Opens one answer: a whole body, or a stream in pieces of any size. After a failure every call fails."""

    def __init__(self, terms: Terms, pair: PrivateKey, model: str) -> None:
        self._terms = terms
        self._model = model
        self._opener = Opener(terms.suite, pair)
        self._events = EventReader()
        self._seen: set[str] = set()
        self._unfinished: set[int] = set()
        self._finished: set[int] = set()
        self._error = False
        self._ended = False
        self._failed = False

    def whole(self, body: bytes) -> bytes:
        """The plaintext of a body that isn't streamed.

        Raises:
            Forged: a field isn't authentic.
        """
        with self._step():
            self._ended = True
            return self._opened(body)

    def feed(self, data: bytes) -> bytes:
        """The plaintext of the events that these bytes complete.

        Raises:
            Forged: a field isn't authentic, or stands where it can't.
            Truncated: the stream says that it ends before it has.
        """
        with self._step():
            return b"".join([self._event(event) for event in self._events.feed(data)])

    def end(self) -> None:
        """Ask whether the answer is complete, when the connection has ended. Whoever reads a stream must ask.

        Raises:
            Truncated: it isn't.
            Forged: it failed before.
        """
        if self._failed:
            raise Forged("The answer has failed before.")
        if not (self._ended or self._error) or self._events.pending:
            self._failed = True
            raise Truncated("The stream stopped before its end.")

    @contextmanager
    def _step(self) -> Iterator[None]:
        if self._failed:
            raise Forged("The answer has failed before.")
        self._failed = True  # until the step is complete
        try:
            yield
        except (BadJson, ValueError):
            raise Forged("The answer isn't well-formed.") from None
        self._failed = False

    def _event(self, event: Event) -> bytes:
        if event.data is None:
            return event.raw
        if self._ended:
            raise Forged("Data follows the end of the stream.")
        if not event.is_done:
            return event.with_data(self._opened(event.data))
        if self._unfinished and not self._error:
            raise Truncated("The stream ended before all of its choices had finished.")
        self._ended = True
        return event.with_data(b"[DONE]")

    def _opened(self, text: bytes) -> bytes:
        answer = jsontext.decode_object(text)
        head = Head(*(name if isinstance(name := answer.get(key), str) else "" for key in ("id", "model")))
        self._error = self._error or answer.get("error") is not None
        self._check_order(answer)

        def open_(path: Path, rule: Rule, value: Any) -> Any:
            return self._field(head, path, rule, value)

        replace_fields(self._terms.endpoint.answer, answer, open_)
        return jsontext.encode(answer)

    def _check_order(self, answer: dict[str, Any]) -> None:
        choices = answer.get("choices")
        for place, choice in enumerate(choices if isinstance(choices, list) else ()):
            if not isinstance(choice, dict):
                raise Forged("A choice isn't an object.")
            index = choice.get("index")
            name = index if type(index) is int else place
            if name in self._finished:
                raise Forged(f"Choice {name} goes on after it has finished.")
            self._unfinished.add(name)
            if choice.get("finish_reason") is not None:
                self._unfinished.discard(name)
                self._finished.add(name)

    def _field(self, head: Head, path: Path, rule: Rule, value: Any) -> Any:
        if rule is Rule.SOME_TEXT and value == "":
            return value
        if rule is Rule.REST and not self._looks_sealed(value):
            return value if value in ("", [], {}) else DROPPED
        if not isinstance(value, str):
            raise Forged(f"{dotted(path)} isn't encrypted.")
        plaintext = self._open(value, head, path)
        return plaintext if rule in (Rule.TEXT, Rule.SOME_TEXT) else jsontext.decode(plaintext)

    def _open(self, value: str, head: Head, path: Path) -> str:
        try:
            opened = self._opener.open(value, self._terms.binding.response(self._model, head, path)).decode()
        except (BadBlob, UnicodeDecodeError):
            raise Forged(f"{dotted(path)} isn't what the service encrypted for this request.") from None
        unique = value[2 * self._terms.suite.curve.point_size :].lower()  # a point can be written in two ways
        unique = unique[: 2 * NONCE_SIZE] + unique[-2 * TAG_SIZE :]
        if unique in self._seen:
            raise Forged(f"{dotted(path)} repeats a field.")
        self._seen.add(unique)
        return opened

    def _looks_sealed(self, value: object) -> bool:
        return isinstance(value, str) and len(value) >= self._opener.shortest and not value.strip("0123456789abcdef")
