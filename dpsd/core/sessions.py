"""Sessions: what the kernel's events say about each connection to a protected port.

Goes in: events and the time. Comes out: notes, one for each thing about a session that may cost
its peer something or tells that it ended.

Nothing here looks at all sessions at once: who overstays is known by deadlines, what a dump didn't
have is found a slice at a time.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from math import inf

from dpsd.core.deadlines import Deadlines
from dpsd.core.dumps import Dumps, Scope
from dpsd.core.events import (
    ASSURED,
    BEGIN,
    CLOSE_INIT,
    DESTROY,
    END,
    ENTRY,
    LOST,
    UPDATE,
    EndpointsOf,
    Event,
    Key,
    Measure,
    State,
    Word,
)
from dpsd.core.latency import Server
from dpsd.core.payload import answered, said, shakes_again
from dpsd.core.port import Port
from dpsd.core.relays import Relays
from dpsd.core.scores import Scores
from dpsd.core.session import (
    CLOSE,
    CLOSED,
    CLOSING,
    ESTABLISHED,
    GONE,
    LAST_ACK,
    LOOKED,
    NOBODY,
    OPENED,
    PEER,
    RESET,
    SERVER,
    SYN_RECV,
    Note,
    Noted,
    Session,
    Side,
)
from dpsd.core.shards import LAST, Shards
from dpsd.core.turn import GREETING, Progress
from dpsd.core.ungreeted import Ungreeted

IMPLICIT_TLS = frozenset((465,))  # ports on which the peer speaks first (RFC 8314)
SLICE = 1_000  # sessions that are looked through at a tick for those that dumps didn't have
OVERSTAYS = 200  # sessions that are looked at together, whether they overstay: some 2 ms
QUEUED_FOR = 60.0  # seconds that a session may wait in the server's queue
CHARGED_EVERY = 1.0  # seconds between two looks at a session that overstays
BY_SOCKET = 1 << 62  # Session.round of those that only their sockets tell of: no dump misses them


class Sessions:
    """All sessions to the protected servers.

    protects(server's packed address, port) tells which these are. proper: seconds that a session
    may stay in each state (for ESTABLISHED: of its own time, without progress), by port, and under
    0 for all others; the engine sets it as pressure changes.
    """

    def __init__(
        self, endpoints: EndpointsOf, scores: Scores, protects: Callable[[bytes, int], bool]
    ) -> None:
        self.protects = protects
        self.proper: Mapping[int, Mapping[int, float]] = {0: {}}
        self.server = Server()
        self.established_for = 0.0  # the kernel's own ESTABLISHED timeout, if it is known
        self.dumps = Dumps()
        self.counts: dict[int, int] = defaultdict(int)  # by state
        self._ports: dict[int, Port] = defaultdict(Port)
        self.losses = 0  # how often events were lost
        self.tells_looks = False  # whether each look at an open session is noted
        self.endpoints = endpoints
        self._scores = scores
        self.size = scores.size
        self._open = Shards[Key, Session]()
        self._shortest: Mapping[int, Mapping[int, float]] = {0: {}}  # that they can become
        self._soonest: dict[int, float] = {0: 0.0}  # the shortest of a closing state, by port
        self._deadlines = Deadlines()
        self.ungreeted = Ungreeted()
        self.greeted: dict[int, float] = {}  # when the newest of the others was opened, by port
        self.relays = Relays()
        self.never_had: Collection[Key] = ()  # sessions that the server has no socket of
        self._check: Iterator[Session] = iter(())  # sessions that a dump should have had
        self._unchecked = False  # whether another such check is due
        self._kept: frozenset[Scope] | None = None  # of that check: who is in none of them leaves
        self._to_keep: frozenset[Scope] | None = None  # and of the next one; None: nobody leaves

    @property
    def measured(self) -> bool | None:
        """Whether the kernel counts bytes (nf_conntrack_acct); None while unknown."""
        return self.server.measured

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._open)

    def get(self, key: Key) -> Session | None:
        """An open session."""
        return self._open.get(key)

    def waiting(self, key: Key) -> Session | None:
        """An open session in which the server has said nothing yet."""
        session = self._open.get(key)
        return session if session is not None and session.waits is not None else None

    def by_state(self) -> dict[str, int]:
        """How many sessions are in each state; SYN_RECV: half-open, of unproven peers."""
        states = {State(state).name: n for state, n in sorted(self.counts.items()) if n}
        half_open = self.dumps.half_open
        return {State.SYN_RECV.name: half_open, **states} if half_open else states

    def occupying(self, ports: frozenset[int]) -> int:
        """How many sessions to these ports keep a slot, or wait for one."""
        return sum(at.keeping for port, at in self._ports.items() if not ports or port in ports)

    def served(self, ports: frozenset[int]) -> int:
        """How many of them the server has greeted: they have a slot."""
        return sum(at.served for port, at in self._ports.items() if not ports or port in ports)

    def going(self, ports: frozenset[int]) -> int:
        """How many of them are being ended."""
        return sum(at.going for port, at in self._ports.items() if not ports or port in ports)

    def doom(self, session: Session, doomed: bool) -> None:
        """An open session is being ended, or it isn't any more."""
        self._ports[session.port].going += doomed - session.doomed
        session.doomed = doomed

    def open_ports(self) -> list[int]:
        """The ports with sessions that nobody has begun to close."""
        return [port for port, at in self._ports.items() if at.established > 0]

    def closing(self) -> int:
        """How many sessions are in FIN_WAIT, CLOSE_WAIT or LAST_ACK."""
        return sum(self.counts[state] for state in CLOSING)

    def feed(self, events: Iterable[Event], now: float) -> list[Noted]:
        """Take events that arrived at `now` (seconds, never going back)."""
        notes: list[Noted] = []
        parts = self._open.parts
        for event in events:
            kind, key, status, state, a, b = event
            if kind != UPDATE:
                self._feed_rare(event, now, notes)
            elif (session := parts[hash(key) & LAST].get(key)) is not None:
                if state != session.state:
                    self._move(session, state, a, b, now, notes)
            elif state == ESTABLISHED and status & ASSURED:
                self._begin(key, OPENED, now, notes)
        return notes

    def tick(self, now: float) -> list[Noted]:
        """What became of some of the sessions that are being closed, and of those that a dump
        didn't have."""
        notes: list[Noted] = []
        for session in self._deadlines.due(now, OVERSTAYS):
            if session.state not in CLOSING or self._has_left(session):
                continue
            times = self._shortest.get(session.port, self._shortest[0])
            earliest = session.since + times.get(session.state, QUEUED_FOR)
            if earliest > now:
                self._deadlines.put(session, earliest)
            else:
                self._overstayed(session, now, notes)
        self._drop_missing(notes)
        return notes

    def set_shortest(self, shortest: Mapping[int, Mapping[int, float]]) -> None:
        """The shortest that the proper times can become, by port."""
        self._shortest = shortest
        self._soonest = {
            port: min(times.get(state, QUEUED_FOR) for state in CLOSING)
            for port, times in shortest.items()
        }

    def lingering(self, key: Key, now: float) -> Session | None:
        """A session that a socket tells of, unless it is followed already or isn't protected."""
        peer, server, _, port = self.endpoints(key)
        if self._open.get(key) is not None or not self.protects(server, port):
            return None
        return Session(key, self._scores.peer(self.size.key(peer), now), port, ESTABLISHED, now)

    def told(self, session: Session, word: Word, now: float) -> Progress:
        """Take what the server's socket knows of an open session."""
        progress = session.progress
        if progress is None:
            progress = session.progress = self._progress(session)
        progress.told(word, self.server, now)
        return progress

    def leave(self, scopes: Iterable[Scope]) -> None:
        """Drop, in the ticks to come, the sessions that no dump of these scopes shows, and those to
        servers that aren't protected any more: they aren't heard of again."""
        self._kept = self._to_keep = frozenset(scopes)
        self._check, self._unchecked = iter(()), True

    # What the server's sockets tell; see witness.py.

    def found_by_socket(self, key: Key, now: float, notes: list[Noted]) -> Session | None:
        """Begin a session that only its socket tells of; None if it isn't protected."""
        session = self._open.get(key) or self._begin(key, Note.FOUND, now, notes)
        if session is not None and not session.round:
            session.round = BY_SOCKET
        return session

    def gone_by_socket(self, session: Session, notes: list[Noted]) -> None:
        """Its socket is gone."""
        self._finish(session, notes)

    def peer_closed(self, session: Session, now: float, notes: list[Noted]) -> None:
        """Its peer has closed, as its socket tells, and the server hasn't."""
        self._move(session, State.CLOSE_WAIT, CLOSE_INIT, 0, now, notes)

    def heard(self, session: Session, said: int, answered: int, now: float) -> None:
        """Take the bytes of both sides, as its socket counts them."""
        progress = session.progress
        if progress is None:
            progress = session.progress = self._progress(session)
        progress.look(said, answered, self.server, now, progress.replies + 1)
        if answered and session.waits is not None:
            self._is_greeted(session)

    def lose(self, keys: Collection[Key]) -> None:
        """Take which sessions the server never had; those of the last time that aren't among them
        it has by now."""
        before, self.never_had = self.never_had, frozenset(keys)
        for key in (*before, *self.never_had):
            session = self.waiting(key)
            if session is not None and session.state == ESTABLISHED:
                self._keep(session, key not in self.never_had)

    def _counts_anew(self, session: Session, progress: Progress, measure: Measure) -> None:
        """An entry appears of what only its socket told of: conntrack counts from there on."""
        version = self.version(session)
        progress.said, progress.answered = said(measure, version), answered(measure, version)
        progress.replies = measure.reply_packets or 0

    def _feed_rare(self, event: Event, now: float, notes: list[Noted]) -> None:
        kind, key, status, state, _, measure = event
        if kind == DESTROY:
            self._destroyed(key, status, state, measure, now, notes)
        elif kind == ENTRY:
            self._refresh(event, now, notes)
        elif kind == BEGIN:
            self.dumps.begin((event[4], event[5]), self.losses, now)
        elif kind == END and event[4] == 0:
            self._end_of_dump(now, notes)
        elif kind == LOST:
            self.losses += 1

    def _begin(self, key: Key, note: Note, now: float, notes: list[Noted]) -> Session | None:
        address, server, peer_port, port = self.endpoints(key)
        if not self.protects(server, port):
            if note == OPENED:  # an own one, or somebody else's business
                self.relays.went_out(server, peer_port, now)
            return None
        peer = self._scores.peer(self.size.key(address), now)
        relays = self.relays
        if relays.outgoing and note == OPENED:
            relays.came_in(address, peer_port, peer.key, now)
        if peer.relay_since != relays.changes or relays.ports:
            relays.look_at(peer, port, now)
        session = Session(key, peer, port, ESTABLISHED, now)
        self._open.add(key, session)
        peer.sessions[key] = session
        self.ungreeted.add(session)
        self.counts[ESTABLISHED] += 1
        at = self._ports[port]
        at.established += 1
        at.keeping += 1
        notes.append((note, session, None))
        return session

    def _move(
        self, session: Session, state: int, flags: int, server_flags: int, now: float,
        notes: list[Noted],
    ) -> None:  # fmt: skip
        was, at = session.state, self._ports[session.port]
        session.state, session.since = state, now
        self.counts[was] -= 1
        self.counts[state] += 1
        if was == ESTABLISHED:
            at.established -= 1
        if state in CLOSING:
            if session.closer is NOBODY:
                session.closer = _closer(flags, server_flags)
            self._keep(session, session.closer is PEER and state != LAST_ACK)
            times = self._soonest
            due = now + (times[session.port] if session.port in times else times[0])
            if due < session.due:
                self._deadlines.put(session, due)
        elif state == ESTABLISHED:
            at.established += 1
            self._keep(session, True)
        else:
            if was == ESTABLISHED and state == CLOSE:
                notes.append((RESET, session, None))
            self._over(session, notes)

    def _keep(self, session: Session, keeps: bool) -> None:
        """An open session keeps its slot, or it doesn't."""
        if keeps != session.keeps:
            session.keeps = keeps
            at, change = self._ports[session.port], 1 if keeps else -1
            at.keeping += change
            if session.waits is None:
                at.served += change

    def _finish(self, session: Session, notes: list[Noted]) -> None:
        """The session is over in the state that it has."""
        if session.state == ESTABLISHED:
            self._ports[session.port].established -= 1
        self._over(session, notes)

    def _over(self, session: Session, notes: list[Noted]) -> None:
        self._open.remove(session.key)
        at = self._ports[session.port]
        at.keeping -= session.keeps
        at.going -= session.doomed
        if session.waits is None:
            at.served -= session.keeps
        self.ungreeted.drop(session)
        session.peer.sessions.pop(session.key, None)
        self._deadlines.drop(session)
        self.counts[session.state] -= 1
        notes.append((CLOSED, session, None))

    def _overstayed(self, session: Session, now: float, notes: list[Noted]) -> None:
        times = self.proper.get(session.port, self.proper[0])
        over = now - session.since - times.get(session.state, now)
        if over > 0:
            note = Note.OVERSTAY if session.blames_peer() else Note.LEAK
            since = max(session.charged_at, session.since)
            notes.append((note, session, min(over, now - since)))
            session.charged_at = now
        again = max(CHARGED_EVERY, min(-over, CHARGED_EVERY * 5))
        self._deadlines.put(session, now + again)

    def _destroyed(
        self, key: Key, status: int, state: int, measure: Measure, now: float, notes: list[Noted]
    ) -> None:
        session = self._open.get(key)
        if session is not None:
            self._finish(session, notes)
        if not status & ASSURED:
            return
        self.server.measured = measure.octets is not None
        address, server, _, port = self.endpoints(key)
        if self.protects(server, port):
            gone = session
            if gone is None:
                peer = self._scores.peer(self.size.key(address), now)
                gone = Session(key, peer, port, state, now)
            notes.append((GONE, gone, measure))

    def _refresh(self, event: Event, now: float, notes: list[Noted]) -> None:
        """Take one entry of a dump: a session that we missed, or news of one that we know."""
        _, key, status, state, (flags, server_flags), measure = event
        session = self._open.get(key)
        if session is None:
            if state == SYN_RECV:
                _, server, _, port = self.endpoints(key)
                if self.protects(server, port):
                    self.dumps.had_half_open()
                return
            if status & ASSURED and (state == ESTABLISHED or state in CLOSING):
                session = self._begin(key, Note.FOUND, now, notes)
        if session is None:
            return
        if session.round == BY_SOCKET and session.progress is not None:
            self._counts_anew(session, session.progress, measure)
        session.round = self.dumps.round
        if state != session.state:
            self._move(session, state, flags, server_flags, now, notes)
        if self.measured is None:
            self.server.measured = measure.octets is not None
        if session.state == ESTABLISHED:  # what the server says at its end is a farewell, no answer
            self._look(session, measure, now, notes)

    def _look(self, session: Session, measure: Measure, now: float, notes: list[Noted]) -> None:
        progress = session.progress
        if progress is None:
            progress = session.progress = self._progress(session)
        if measure.octets is not None:
            self.server.measured = True
            version = self.version(session)
            reply = answered(measure, version)
            spoken, replies = said(measure, version), measure.reply_packets or 0
            progress.look(spoken, reply, self.server, now, replies)
            if progress.answered:
                if session.waits is not None:
                    self._is_greeted(session)
            else:
                # When its queue is full the server drops the handshake's last packet, which the
                # peer and conntrack saw: it knows nothing of such a session.
                unheard = shakes_again(measure, version) or session.key in self.never_had
                queued = now - session.since > QUEUED_FOR and progress.turn == GREETING
                self._keep(session, not (unheard or queued))
        elif measure.remaining is not None:
            progress.kept(measure.remaining, self.established_for, now)
        stay, proper = self.stay(session, now)
        over, last = stay - proper, self.dumps.judged
        if over > 0 and now > last:
            notes.append((Note.OVERSTAY, session, min(over, now - last)))
        if self.tells_looks or progress.mails - progress.guessed > session.credited:
            notes.append((LOOKED, session, None))

    def _progress(self, session: Session) -> Progress:
        return Progress(session.since, session.port not in IMPLICIT_TLS)

    def _is_greeted(self, session: Session) -> None:
        """The server has said something."""
        if session.state == ESTABLISHED:
            self._keep(session, True)
        self.ungreeted.drop(session)
        port = session.port
        self._ports[port].served += session.keeps
        if session.since > self.greeted.get(port, -1.0):
            self.greeted[port] = session.since

    def _end_of_dump(self, now: float, notes: list[Noted]) -> None:
        """Whatever the table no longer has is over."""
        self.dumps.end(self.losses, now)
        self._unchecked = True
        self._drop_missing(notes)

    def _drop_missing(self, notes: list[Noted]) -> None:
        """Look through SLICE sessions for those that the last complete dump should have had."""
        some = list(islice(self._check, SLICE))
        if not some and self._unchecked:
            self._check, self._unchecked = iter(self._open), False
            self._kept, self._to_keep = self._to_keep, None
            some = list(islice(self._check, SLICE))
        lack = self.dumps.lack
        for session in some:
            gone = lack(session, self.version(session)) or self._has_left(session)
            if gone and self.get(session.key) is session:
                self._finish(session, notes)

    def _has_left(self, session: Session) -> bool:
        """Whether it isn't protected any more."""
        if self._kept is None:
            return False
        _, server, _, port = self.endpoints(session.key)
        return not ((port, self.version(session)) in self._kept and self.protects(server, port))

    def stay(self, session: Session, now: float) -> tuple[float, float]:
        """For how many seconds a session has been of no use, or is in its closing state; and how
        many are proper."""
        times = self.proper.get(session.port, self.proper[0])
        if session.state != ESTABLISHED:
            return now - session.since, times.get(session.state, 0.0)
        progress = session.progress
        if progress is None:
            return 0.0, inf
        return progress.idle_by(now), times.get(ESTABLISHED, inf)

    def version(self, session: Session) -> int:
        """The IP version of a session, 4 or 6."""
        return 4 if len(session.peer.key) == self.size.ipv4 >> 3 else 6


def _closer(flags: int, server_flags: int) -> Side:
    if flags & CLOSE_INIT:
        return PEER
    return SERVER if server_flags & CLOSE_INIT else NOBODY
