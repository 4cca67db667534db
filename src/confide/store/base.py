"""What the stores ask of a database, so that the same SQL serves SQLite and PostgreSQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from confide.errors import StoreError


class Rows(Protocol):
    """What a statement did."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""
        ...

    def fetchone(self) -> Any:
        """The next row it found, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """All rows it found."""
        ...


class Session(Protocol):
    """One connection, for one thread at a time. Parameters stand as ``?`` in statements.

    Outside of :meth:`begin` and :meth:`commit` statements only read, but for :meth:`insert`: one that meets a lost
    connection is tried again.
    What the driver raises comes through as it is: see :meth:`Database.mapped`.
    """

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Rows:
        """Run one statement."""
        ...

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], /) -> None:
        """Put rows into a table. Outside of a transaction it is one of its own: all of them are on the disk when this
        returns, or none is."""
        ...

    def check(self) -> None:
        """Raise if this can't be the database any more that was opened."""
        ...

    def begin(self) -> None:
        """Begin a transaction that writes."""
        ...

    def commit(self) -> None:
        """End it. When this returns, what it wrote is on the disk."""
        ...

    def rollback(self) -> None:
        """Undo it, if there is one; never raises."""
        ...

    def close(self) -> None:
        """Let go of it; closing twice is fine."""
        ...


class Closing(ABC):
    """Something that is closed at the end of a block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Let go of it; closing twice is fine."""


class Database(ABC):
    """Where a store is, and how its driver fails."""

    errors: ClassVar[tuple[type[Exception], ...]]
    """What the driver raises."""

    faults: ClassVar[tuple[type[Exception], ...]]
    """What one job of several can do wrong without the store being to blame."""

    taken: ClassVar[type[Exception]]
    """That a value which must be there once is there already."""

    remote: ClassVar[bool]
    """Whether to ask takes a network, so that nothing may wait for it on an event loop."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For people: what it is called in errors. It holds no password."""

    @abstractmethod
    def session(self) -> Session:
        """Open it, bring its schema up to date, and begin to use it. Wrap in :meth:`mapped`."""

    @abstractmethod
    def reason(self, failed: Exception) -> str:
        """What went wrong: names of tables and columns, never what they hold."""

    def failure(self, failed: Exception) -> StoreError:
        """What the driver raised in our words."""
        return StoreError(f"the store {self.name} can't be used: {self.reason(failed)}")

    @contextmanager
    def mapped(self) -> Iterator[None]:
        """What the driver raises as StoreError."""
        try:
            yield
        except self.errors as failed:
            raise self.failure(failed) from failed


def storable(text: str) -> bool:
    """Whether a name can be in a store: none of ours has a NUL, which PostgreSQL refuses, or a lone surrogate."""
    return text.isprintable()


@contextmanager
def writing(session: Session) -> Iterator[None]:
    """A transaction around what is done inside: all of it, or nothing."""
    session.begin()
    try:
        yield
        session.commit()
    except BaseException:
        session.rollback()
        raise
