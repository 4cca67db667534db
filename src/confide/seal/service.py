"""The server's side of one request: open it, let it in once, seal its answer.

Each step is a type of its own, so that none can be left out: :class:`Session` (the headers are checked) gives
:class:`Unclaimed` (the body is opened), which gives :class:`OpenedRequest` (it isn't a replay), which gives
:class:`ResponseSealer`. The body of a request that may be a replay can't be reached.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from confide.seal import jsontext
from confide.seal.alike import SealedAlike
from confide.seal.curves import Randomness
from confide.seal.ecies import Opener
from confide.seal.errors import (
    BadBlob,
    BadJson,
    BadKey,
    DecryptionFailed,
    InvalidPayloadModel,
    ReplayDetected,
    SealingFailed,
)
from confide.seal.events import Event, EventReader
from confide.seal.fields import DROPPED, Path, Rule, replace_fields
from confide.seal.requests import open_fields
from confide.seal.terms import Head, KeyPairs, ReplayMark, ReplayMarks, ServiceKey, Terms


@dataclass(frozen=True, slots=True)
class Session:
    """What the headers of a request say, all of it checked. ``client`` is the point to which the answer is sealed."""

    terms: Terms
    key: ServiceKey
    client: bytes
    mark: ReplayMark | None

    def open(self, body: bytes) -> Unclaimed:
        """Decrypt every sealed field.

        Raises:
            InvalidPayloadModel: no model.
            DecryptionFailed: anything else.
        """
        try:
            payload = jsontext.decode_object(body)
            model = self._model(payload)
            if not self._open_fields(payload, model):
                raise DecryptionFailed
            restored = jsontext.encode(payload)
        except (BadJson, BadBlob):
            raise DecryptionFailed from None
        hashed = body if self.terms.hashes_wire else restored
        return Unclaimed(self.mark, OpenedRequest(self.terms, self.client, model, restored, hashed))

    def _model(self, payload: dict[str, Any]) -> str:
        model = payload.get("model")
        if not isinstance(model, str) or not self.terms.binding.allows(model):
            raise InvalidPayloadModel
        return model

    def _open_fields(self, payload: dict[str, Any], model: str) -> int:
        opener, binding = Opener(self.terms.suite, self.key.private), self.terms.binding

        def open_text(path: Path, text: str) -> str:
            try:
                return opener.open(text, binding.request(model, path)).decode()
            except UnicodeDecodeError:
                raise BadBlob("not text") from None

        return open_fields(self.terms.endpoint.member, payload, self.terms.parts, open_text)


class Unclaimed:
    """A request that was decrypted, and may be a replay."""

    def __init__(self, mark: ReplayMark | None, opened: OpenedRequest) -> None:
        self.mark = mark
        self._opened = opened

    def claim(self, marks: ReplayMarks) -> OpenedRequest:
        """The request, if it is the first of its kind.

        Raises:
            ReplayDetected: it isn't.
            Exception: what the memory raises when it can't say.
        """
        return self.claimed(new=self.mark is None or marks.add(self.mark.nonce, self.mark.expires))

    def claimed(self, *, new: bool) -> OpenedRequest:
        """The same for who has asked the memory already, or has no :attr:`mark` to ask about."""
        if not new:
            raise ReplayDetected
        return self._opened


@dataclass(frozen=True, slots=True)
class OpenedRequest:
    """A request to be answered. ``body`` is the compact JSON of the restored request; ``hashed`` is what to hash."""

    terms: Terms
    client: bytes
    model: str
    body: bytes = field(repr=False)
    hashed: bytes = field(repr=False)

    def sealer(self, random: Randomness = os.urandom) -> ResponseSealer:
        """What seals the answer. One for each answer."""
        return ResponseSealer(self.terms, self.client, self.model, random)


class ResponseSealer:
    """Seals one answer: a whole body, or events in the order in which they leave.

    Nothing leaves that wasn't understood: what comes out is written anew from what was read. Compact JSON whose fields
    are all plain or null comes out as it was. After a failure every call fails.
    """

    def __init__(self, terms: Terms, client: bytes, model: str, random: Randomness) -> None:
        self.headers = terms.response_headers
        self._terms = terms
        self._model = model
        self._pairs = KeyPairs(terms, client, random)
        self._events = EventReader()
        self._alike = SealedAlike()
        self._ended = False
        self._failed = False

    def whole(self, body: bytes) -> bytes:
        """A body that isn't streamed.

        Raises:
            SealingFailed: it isn't sealed, and must not be sent.
        """
        return self._step(self._whole, body)

    def feed(self, data: bytes) -> bytes:
        """Some bytes of a stream; what comes out are whole events, so it may be nothing.

        Raises:
            SealingFailed: the stream ends here, as an error.
        """
        return self._step(self._fed, data)

    def end(self) -> None:
        """Say that the stream is complete; safe to repeat.

        Raises:
            SealingFailed: it isn't: an event has begun and not ended, or there was a failure.
        """
        if self._failed or self._events.pending:
            self._failed = True
            raise SealingFailed
        self._ended = True

    def _step(self, step: Callable[[bytes], bytes], data: bytes) -> bytes:
        if self._failed:
            raise SealingFailed
        self._failed = True  # until the step is complete
        try:
            out = step(data)
        except (BadJson, BadKey, ValueError):
            raise SealingFailed from None
        self._failed = False
        return out

    def _whole(self, body: bytes) -> bytes:
        if self._ended:
            raise ValueError("a second answer")
        self._ended = True
        return self._sealed(body)

    def _fed(self, data: bytes) -> bytes:
        if not (self._ended or self._events.pending):
            alike = self._alike.sealed(data, self._pairs)
            if alike:
                return alike
        return b"".join([self._event(event) for event in self._events.feed(data)])

    def _event(self, event: Event) -> bytes:
        if event.data is None:
            return event.raw
        if self._ended or not self._terms.endpoint.streams:
            raise ValueError("data where none may be")
        if event.is_done:
            self._ended = True
            return event.with_data(b"[DONE]")
        self._alike.forget()
        out = event.with_data(self._sealed(event.data))
        self._alike.learn(event.raw, out)
        return out

    def _sealed(self, text: bytes) -> bytes:
        answer = jsontext.decode_object(text)
        head = Head(*(name if isinstance(name := answer.get(key), str) else "" for key in ("id", "model")))

        def seal(path: Path, rule: Rule, value: Any) -> Any:
            return self._field(head, path, rule, value)

        replace_fields(self._terms.endpoint.answer, answer, seal)
        return jsontext.encode(answer)

    def _field(self, head: Head, path: Path, rule: Rule, value: Any) -> Any:
        if rule is Rule.SOME_TEXT and value == "":
            return DROPPED
        if rule is Rule.REST and value in ("", [], {}):
            return value
        if rule in (Rule.TEXT, Rule.SOME_TEXT):
            if not isinstance(value, str):
                raise ValueError("not a string")
            plaintext = value.encode()
        else:
            plaintext = jsontext.encode(value)
        aad = self._terms.binding.response(self._model, head, path)
        sealed = self._pairs.next().seal(plaintext, aad)
        self._alike.saw(value, aad, sealed)
        return sealed
