"""The frame in which an engine's stream is mended: bytes in, whole events out, one failure at most."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from confide.engine.remote import failures
from confide.engine.remote.dialect import Dialect
from confide.engine.remote.rules import broken
from confide.engine.remote.shapes import LONGEST_EVENT
from confide.errors import ApiError, EngineFailed
from confide.seal.events import Event, EventReader
from confide.wire.answers import Usage
from confide.wire.sse import DONE


class EventsMender(ABC):
    """A :class:`~confide.engine.remote.service.Mender` that leaves open what becomes of one event."""

    __slots__ = ("_begun", "_dialect", "_failure", "_reader", "_spent", "done")

    last: bytes = DONE

    def __init__(self, dialect: Dialect) -> None:
        self.done = False
        self._dialect = dialect
        self._spent = Usage()
        self._begun = False
        self._reader = EventReader(LONGEST_EVENT)
        self._failure: ApiError | None = None

    @property
    def usage(self) -> Usage:
        """Tokens until now."""
        return self._spent

    def feed(self, data: bytes) -> list[bytes]:
        """Take some bytes, and give the events that they complete.

        Raises:
            ApiError: the engine tells of an error, in its first event;
            EngineFailed: it does so later, or what it sends is no answer. What was complete before is given first, and
                the error is raised by the next call, this one's or :meth:`end`.
        """
        out: list[bytes] = []
        if self._failure is not None:
            raise self._failure
        if self.done:
            return out
        try:
            for found in self._reader.feed(data):
                if found.data is None:  # comments are the engine's way to keep a connection, not ours
                    continue
                if self._event(found, found.data, out):
                    self.done = True
                    break
                self._begun = True
        except ValueError:
            self._failure = broken("something that is no stream of events")
        except ApiError as error:
            self._failure = error
        if self._failure is not None and not out:
            raise self._failure
        return out

    def passes(self, write: Callable[[bytes], bool], data: bytes) -> bool:
        """None does, unless the API at hand says otherwise."""
        return False

    def _told(self, data: bytes) -> ApiError:
        """The error that an engine tells of: while nothing was sent to the client it may still become a status."""
        error = failures.from_event(data, self._dialect)
        return EngineFailed("The engine failed while it answered.") if self._begun else error

    def end(self) -> None:
        """The engine's answer has ended.

        Raises:
            EngineFailed: before it was complete. A missing end after a complete answer is forgiven.
        """
        if self._failure is not None:
            raise self._failure
        if not self._complete or (self._reader.pending and not self.done):
            raise EngineFailed("The engine stopped before the answer was complete.")

    @property
    @abstractmethod
    def _complete(self) -> bool:
        """Whether the client has all of the answer."""

    @abstractmethod
    def _event(self, found: Event, data: bytes, out: list[bytes]) -> bool:
        """Take one event, and add to ``out`` what the client gets for it; says whether it was the last.

        Raises:
            ApiError: what it says isn't part of an answer.
        """


def framed(found: Event, data: bytes, name: bytes = b"") -> bool:
    """Whether an event is written as the API has it, so that its bytes may pass: its name, and one line of data.

    A lone CR would end the line for others that read events; between JSON's values it may stand.
    """
    head = b"event: " + name + b"\n" if name else b""
    return found.raw == head + b"data: " + data + b"\n\n" and b"\r" not in found.raw
