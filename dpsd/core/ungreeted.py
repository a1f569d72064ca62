"""Ungreeted: the open sessions in which the server has said nothing yet, in their order.

They are kept by the batch, so that no dict grows large (see shards.py), and each knows its own.
"""

from collections.abc import Iterator

from dpsd.core.events import Key
from dpsd.core.session import Session

BATCH = 2_000  # sessions


class Ungreeted:
    """A session is here while its `waits` is set."""

    def __init__(self) -> None:
        self._batches: list[dict[Key, Session]] = [{}]
        self._room = BATCH  # of the newest

    def add(self, session: Session) -> None:
        """One that began after all others."""
        if not self._room:
            self._batches = [*filter(None, self._batches), {}]
            self._room = BATCH
        self._room -= 1
        session.waits = self._batches[-1]
        session.waits[session.key] = session

    def drop(self, session: Session) -> None:
        """It waits no more; nothing happens if it didn't."""
        if session.waits is not None:
            del session.waits[session.key]
            session.waits = None

    def __iter__(self) -> Iterator[Session]:
        """The oldest first; nothing may be added or dropped meanwhile."""
        for batch in self._batches:
            yield from batch.values()

    def __reversed__(self) -> Iterator[Session]:
        """The newest first."""
        for batch in reversed(self._batches):
            yield from reversed(batch.values())
