"""Deadlines: when to look at which session again.

Sessions with the same instant are kept together, and taken out when they are over: what is here is
due, however many came and went meanwhile.
"""

from heapq import heappop, heappush
from itertools import islice
from math import inf

from dpsd.core.session import Session


class Deadlines:
    """At most one for a session: its `due`."""

    def __init__(self) -> None:
        self._at: dict[float, dict[Session, None]] = {}
        self._instants: list[float] = []  # a heap; some may have nobody left

    def put(self, session: Session, at: float) -> None:
        """Look at it then, and not when it was due before."""
        self.drop(session)
        session.due = at
        sessions = self._at.get(at)
        if sessions is None:
            sessions = self._at[at] = {}
            heappush(self._instants, at)
        sessions[session] = None

    def drop(self, session: Session) -> None:
        """Don't look at it any more."""
        if session.due != inf:
            sessions = self._at[session.due]
            del sessions[session]
            if not sessions:
                del self._at[session.due]
            session.due = inf

    def due(self, now: float, most: int) -> list[Session]:
        """Take out those that are due, the earliest first; `most` at most."""
        found: list[Session] = []
        instants = self._instants
        while instants and instants[0] <= now and len(found) < most:
            sessions = self._at.get(instants[0])
            if sessions is None:
                heappop(instants)
                continue
            for session in [*islice(sessions, most - len(found))]:
                self.drop(session)
                found.append(session)
        return found
