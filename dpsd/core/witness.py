"""The second witness: what the server's own sockets tell of sessions that conntrack doesn't know,
and of those that the server never had.

Where the sockets are local, a session without an entry keeps its slot all the same: conntrack began
after it, was made to forget it (`conntrack -F`), or is told not to track it (notrack). It is
followed under the key that an entry would have, so that it is conntrack's again as soon as there is
one. And a full accept queue drops the last packet of a handshake, which the peer and conntrack saw:
such a session keeps no slot.

Which sockets there are is looked up in the kernel by the caller, as often as that may cost.
"""

from collections.abc import Collection, Container, Iterable, Mapping
from itertools import islice
from math import inf

from dpsd.core.events import Key, Measure, Word
from dpsd.core.session import ESTABLISHED, GONE, LOOKED, Note, Noted, Session
from dpsd.core.sessions import BY_SOCKET, Sessions

MOST = 20_000  # sessions that are followed by their sockets
SUSPECTS = 1_000  # sessions at a time that the server may never have had
SHAKEN = 1.0  # seconds since the handshake after which a session without a socket is a suspect


class Witness:
    """Follows the sessions that only their sockets tell of; but for half-closed ones."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._mine: dict[Key, Session] = {}
        self._translated: dict[Key, Session] = {}  # suspects that end elsewhere
        self._judged = inf

    def __len__(self) -> int:
        return len(self._mine)

    @property
    def never_had(self) -> int:
        """How many open sessions the server never had, as the last look told."""
        return len(self._sessions.never_had)

    def skip(self) -> None:
        """Nobody is judged for the time until the next look."""
        self._judged = inf

    def unseen(self, sockets: Iterable[Key]) -> list[Key]:
        """Those of these sockets' sessions that conntrack hasn't told of."""
        known, mine = self._sessions.get, self._mine
        return [key for key in sockets if key in mine or known(key) is None]

    def take(
        self, sockets: Container[Key], unseen: Collection[Key],
        words: Mapping[Key, Word | None], now: float,
    ) -> list[Noted]:  # fmt: skip
        """Follow the sessions that have a socket and no entry.

        sockets: all that have one; unseen: those without an entry; words: what some of these tell,
        None of one that its peer has closed.
        """
        last, self._judged = self._judged, now
        notes: list[Noted] = []
        before, self._mine = self._mine, {}
        for key in islice(unseen, MOST):
            session = before.pop(key, None)
            if session is None or self._sessions.get(key) is not session:
                session = self._sessions.found_by_socket(key, now, notes)
            if session is None or session.round != BY_SOCKET:
                continue  # not protected, or conntrack's by now
            self._mine[key] = session
            if key in words:
                self._look(session, words[key], last, now, notes)
        for key, session in before.items():
            if session.round != BY_SOCKET or self._sessions.get(key) is not session:
                continue  # conntrack has told of it
            if key in sockets:
                self._mine[key] = session  # until it does
            else:
                self._sessions.gone_by_socket(session, notes)
                notes.append((GONE, session, Measure()))  # nothing measured it
        return notes

    def _look(
        self, session: Session, word: Word | None, last: float, now: float, notes: list[Noted]
    ) -> None:
        sessions = self._sessions
        if word is None:
            if session.state == ESTABLISHED:
                sessions.peer_closed(session, now, notes)
            return
        if session.state != ESTABLISHED:
            return
        if sessions.server.measured is None:
            sessions.server.measured = True  # the sockets count
        sessions.heard(session, word.said, word.answered, now)
        progress = sessions.told(session, word, now)
        stay, proper = sessions.stay(session, now)
        if stay > proper and now > last:
            notes.append((Note.OVERSTAY, session, min(stay - proper, now - last)))
        if sessions.tells_looks or progress.mails - progress.guessed > session.credited:
            notes.append((LOOKED, session, None))

    def suspects(self, sockets: Collection[Key], looked_at: float) -> list[Key]:
        """Sessions that the server may never have had, some SUSPECTS: it has said nothing in them,
        and they have no socket, though the handshake was over before the look at the sockets."""
        sessions, found = self._sessions, list[Key]()
        for session in islice(sessions.ungreeted, 4 * SUSPECTS):
            key = session.key
            if looked_at - session.since < SHAKEN or key in sockets or key in self._translated:
                continue
            found.append(key)
            if len(found) == SUSPECTS:
                break
        return found

    def lose(self, suspects: Iterable[Key], here: Collection[Key]) -> None:
        """Take which of the suspects end here by their entries: the server never had those."""
        sessions = self._sessions
        self._translated = {
            key: session
            for key, session in self._translated.items()
            if sessions.waiting(key) is session
        }
        for key in suspects:
            session = sessions.waiting(key)
            if session is not None and key not in here:
                self._translated[key] = session
        sessions.lose(here)
