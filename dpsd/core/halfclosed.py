"""Half-closed sessions: the server has closed, their peer doesn't, and only the sockets know it.

When a FIN is sent twice, conntrack takes the second one for the other side's and calls the session
closed (tcp_conntracks in net/netfilter/nf_conntrack_proto_tcp.c): its CLOSE_WAIT ends at once. That
is usual on a fast network, where the acknowledgement is delayed for longer than a lost packet is
waited for. The socket knows better: it stays in FIN_WAIT2 until the peer closes.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from math import inf

from dpsd.core.events import Key, State
from dpsd.core.session import Note, Noted, Session, Side

MOST = 2_000  # sessions that are followed; a slot they don't keep


class HalfClosed:
    """Those of them that conntrack doesn't show. begin(key): the session, if it is protected."""

    def __init__(self, begin: Callable[[Key, float], Session | None]) -> None:
        self._begin = begin
        self._sessions: dict[Key, Session] = {}
        self._judged = 0.0

    def __len__(self) -> int:
        return len(self._sessions)

    def skip(self) -> None:
        """Nobody is judged for the time until the next look."""
        self._judged = inf

    def take(self, keys: Iterable[Key], proper: Callable[[int], float], now: float) -> list[Noted]:
        """Take the keys of all that linger now, MOST of them at most; proper(port): seconds that
        they may."""
        last, self._judged = self._judged, now
        before, self._sessions = self._sessions, {}
        notes: list[Noted] = []
        for key in islice(keys, MOST):
            session = before.pop(key, None)
            if session is None and (session := self._begin(key, now)) is not None:
                session.state, session.closer = State.CLOSE_WAIT, Side.SERVER
                session.peer.sessions[key] = session
                notes.append((Note.FOUND, session, None))
            if session is not None:
                self._sessions[key] = session
                over = now - session.since - proper(session.port)
                if over > 0 and now > last:
                    notes.append((Note.OVERSTAY, session, min(over, now - last)))
        for key, session in before.items():
            if session.peer.sessions.get(key) is session:
                del session.peer.sessions[key]
            notes.append((Note.CLOSED, session, None))
        return notes
