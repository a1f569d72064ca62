"""Sessions: what the kernel's events say about each connection to a protected port.

Goes in: events and the time. Comes out: notes, one for each thing about a session that may cost
its peer something or tells that it ended. Half-open connections are only counted, by dumps and for
the whole host: their source may be forged, so they are nobody's until the handshake is proven.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum

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
)
from dpsd.core.peers import PeerSize
from dpsd.core.policy import WAITING
from dpsd.core.progress import Progress, Useful
from dpsd.core.server import Server

# By names of the module: an attribute of an enum class takes eight times as long to look up.
SYN_RECV, ESTABLISHED = State.SYN_RECV, State.ESTABLISHED
LAST_ACK, CLOSE = State.LAST_ACK, State.CLOSE
CLOSING = frozenset((State.FIN_WAIT, State.CLOSE_WAIT, LAST_ACK))


QUICK = 2.0  # seconds in which a server answers all that a session says, up to QUIT
QUEUED_FOR = 60.0  # seconds that a session may wait in the server's queue


class Side(IntEnum):
    """Who sent the first FIN."""

    NONE = 0
    PEER = 1
    SERVER = 2


_NOBODY, _SERVER = Side.NONE, Side.SERVER


class Session:
    """One connection with a proven handshake.

    since: when it entered its state; progress: what dumps told of it, None before the first;
    charged: slot-seconds that its overstays cost its peer; reaped: whether it is being ended;
    round: the last dump that had it.
    """

    __slots__ = (
        *("charged", "closer", "key", "peer", "port"),
        *("progress", "reaped", "round", "since", "state"),
    )

    def __init__(self, key: Key, peer: bytes, port: int, state: int, now: float) -> None:
        self.key = key
        self.peer = peer
        self.port = port
        self.state = state
        self.since = now
        self.closer = _NOBODY
        self.progress: Progress | None = None
        self.charged = 0.0
        self.reaped = False
        self.round = 0

    def useless(self) -> float:
        """For how many seconds it made no progress, when a dump last told; 0 before the first."""
        return 0.0 if self.progress is None else self.progress.useless()

    def is_lost(self, now: float) -> bool:
        """Whether the server seems to know nothing of an open session: when its queue is full it
        drops the handshake's last packet, which the peer and conntrack saw."""
        if self.state != ESTABLISHED or self.progress is None or now - self.since < QUEUED_FOR:
            return False
        return not self.progress.greeted

    def blames_peer(self) -> bool:
        """Whether it is the peer that has to act next.

        The server's FIN waits for the peer's in FIN_WAIT and CLOSE_WAIT; the peer's for the
        server's. In LAST_ACK the side that sent FIN first owes the last acknowledgement.
        """
        if self.state == ESTABLISHED:
            return True
        return self.closer == (Side.PEER if self.state == LAST_ACK else Side.SERVER)


class Note(IntEnum):
    """What a note tells; behind it in the tuple come the session and a number or a Measure.

    OPENED: a handshake was proven. FOUND: a dump has it, opened who knows when. CLOSED: the session
    is over, in the state it now has. RESET: it was reset while ESTABLISHED. OVERSTAY, LEAK: it
    stayed the given seconds, since the last such note, beyond its proper time, and its peer (the
    server) is to blame. GONE: the kernel measured the whole of a session that ended before.
    """

    OPENED = 0
    CLOSED = 1
    RESET = 2
    OVERSTAY = 3
    LEAK = 4
    GONE = 5
    FOUND = 6


OPENED, CLOSED, GONE = Note.OPENED, Note.CLOSED, Note.GONE


Noted = tuple[Note, Session, float | Measure | None]
Scope = tuple[int, int]  # of a dump: port and IP version, 0 for all


class Sessions:
    """All sessions to the protected servers.

    protects(server's packed address, port) tells which these are. proper: seconds that a session
    may stay in each state (for ESTABLISHED: stay silent), by port, and under 0 for all others; the
    engine sets it as pressure changes.
    """

    def __init__(
        self, endpoints: EndpointsOf, size: PeerSize, protects: Callable[[bytes, int], bool]
    ) -> None:
        self.protects = protects
        self.proper: Mapping[int, Mapping[int, float]] = {0: {}}
        self.useful = Useful()
        self.server = Server()
        self.measured: bool | None = None  # does the kernel count bytes (nf_conntrack_acct)?
        self.established_for = 0.0  # the kernel's own ESTABLISHED timeout, if it is known
        self._half_open: dict[Scope, int] = {}  # as the last dump of each scope had them
        # Of which the server knows nothing, by port, as the last dump of each scope had them.
        self._lost: dict[Scope, Counter[int]] = {}
        self.counts: Counter[int] = Counter()
        self._established: Counter[int] = Counter()  # by port
        self.losses = 0  # how often events were lost
        self.swept: list[Scope] = []  # dumps that were complete; whoever reads it clears it
        self.scope: Scope = (0, 0)  # of the dump that runs or was the last
        self.endpoints = endpoints
        self._size = size
        self._open: dict[Key, Session] = {}
        self._closing: dict[Key, Session] = {}
        self._judged = 0.0
        self._round = 0
        self._round_began = 0.0
        self._losses_before = 0  # those before the dump that runs
        self._judged_idle: dict[Scope, float] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._open.values())

    def by_state(self) -> dict[str, int]:
        """How many sessions are in each state; SYN_RECV: half-open, of unproven peers."""
        states = {State(state).name: n for state, n in sorted(self.counts.items()) if n}
        return {State.SYN_RECV.name: self.half_open, **states} if self.half_open else states

    @property
    def half_open(self) -> int:
        """How many connections were half open when a dump last told. Their source may be forged."""
        return sum(self._half_open.values())

    def occupying(self, ports: frozenset[int]) -> int:
        """How many sessions to these ports keep a slot, or wait for one: all but those that the
        server has closed, and those that its queue lost."""
        open_now = sum(
            max(0, n - sum(lost[port] for lost in self._lost.values()))
            for port, n in self._established.items()
            if not ports or port in ports
        )
        return open_now + sum(
            session.closer == Side.PEER
            and session.state != LAST_ACK
            and (not ports or session.port in ports)
            for session in self._closing.values()
        )

    def open_ports(self) -> list[int]:
        """The ports with sessions that nobody has begun to close."""
        return [port for port, n in self._established.items() if n > 0]

    def closing(self) -> int:
        """How many sessions are in FIN_WAIT, CLOSE_WAIT or LAST_ACK."""
        return len(self._closing)

    def feed(self, events: Iterable[Event], now: float) -> list[Noted]:
        """Take events that arrived at `now` (seconds, never going back)."""
        notes: list[Noted] = []
        known = self._open.get
        for event in events:
            kind, key, status, state, a, b = event
            if kind != UPDATE:
                self._feed_rare(event, now, notes)
            elif (session := known(key)) is not None:
                if state != session.state:
                    self._move(session, state, a, b, now, notes)
            elif state == ESTABLISHED and status & ASSURED:
                self._begin(key, OPENED, now, notes)
        return notes

    def tick(self, now: float) -> list[Noted]:
        """What became of the sessions that are being closed, since the last tick."""
        last, self._judged = self._judged, now
        notes: list[Noted] = []
        times = general = self.proper[0]
        ports = self.proper if len(self.proper) > 1 else None
        for session in self._closing.values():
            if ports is not None:
                times = ports.get(session.port, general)
            over = now - session.since - times.get(session.state, now)
            if over > 0:
                note = Note.OVERSTAY if session.blames_peer() else Note.LEAK
                notes.append((note, session, min(over, now - last)))
        return notes

    def lingering(self, key: Key, now: float) -> Session | None:
        """A session that a socket tells of, unless it is followed already or isn't protected."""
        peer, server, _, port = self.endpoints(key)
        if key in self._open or not self.protects(server, port):
            return None
        return Session(key, self._size.key(peer), port, ESTABLISHED, now)

    def heard(self, words: Mapping[Key, tuple[float, bool]], now: float) -> None:
        """Take what the server's sockets tell: for how many seconds each last word could have been
        answered, and whether it was the server's."""
        for key, (ago, by_server) in words.items():
            session = self._open.get(key)
            if session and session.progress and session.state == ESTABLISHED and self.measured:
                session.progress.told(ago, by_server, now)

    def leave(self, scopes: Iterable[Scope]) -> list[Noted]:
        """Drop the sessions that no dump of these scopes shows, and those to servers that aren't
        protected any more: they aren't heard of again. Who is idle isn't judged for the time until
        the next dump."""
        kept = list(scopes)
        self._judged_idle.clear()
        notes: list[Noted] = []
        for session in list(self._open.values()):
            _, server, _, port = self.endpoints(session.key)
            if not (self.protects(server, port) and any(self._in(session, each) for each in kept)):
                self._finish(session, notes)
        return notes

    def states_of(self, peers: Iterable[bytes]) -> dict[bytes, dict[str, int]]:
        """How many sessions each of these peers has in each state."""
        found: dict[bytes, dict[str, int]] = {peer: {} for peer in peers}
        for session in self._open.values():
            if (states := found.get(session.peer)) is not None:
                name = State(session.state).name
                states[name] = states.get(name, 0) + 1
        return found

    def _feed_rare(self, event: Event, now: float, notes: list[Noted]) -> None:
        kind, key, status, state, _, measure = event
        if kind == DESTROY:
            self._destroyed(key, status, state, measure, now, notes)
        elif kind == ENTRY:
            self._refresh(event, now, notes)
        elif kind == BEGIN:
            self.scope, self._round_began = (event[4], event[5]), now
            self._round += 1
            self._half_open[self.scope] = 0
            self._losses_before = self.losses
        elif kind == END and event[4] == 0:
            self._end_of_dump(now, notes)
        elif kind == LOST:
            self.losses += 1

    def _begin(self, key: Key, note: Note, now: float, notes: list[Noted]) -> Session | None:
        peer, server, _, port = self.endpoints(key)
        if not self.protects(server, port):
            return None
        session = Session(key, self._size.key(peer), port, ESTABLISHED, now)
        self._open[key] = session
        self.counts[ESTABLISHED] += 1
        self._established[port] += 1
        notes.append((note, session, None))
        return session

    def _move(
        self, session: Session, state: int, flags: int, server_flags: int, now: float,
        notes: list[Noted],
    ) -> None:  # fmt: skip
        was, began = session.state, session.since
        session.state, session.since = state, now
        counts = self.counts
        counts[was] -= 1
        counts[state] += 1
        if state in CLOSING:
            if was == ESTABLISHED:
                self._closing[session.key] = session
                self._established[session.port] -= 1
            if not session.closer:
                session.closer = _closer(flags, server_flags)
                if session.closer == _SERVER and was == ESTABLISHED and now - began <= QUICK:
                    self.server.answered(0.0, False, now)  # no dump may have seen it
        elif state == ESTABLISHED:
            self._closing.pop(session.key, None)
            self._established[session.port] += 1
        else:
            if was == ESTABLISHED:
                self._established[session.port] -= 1
                if state == CLOSE:
                    notes.append((Note.RESET, session, None))
            self._finish(session, notes)

    def _finish(self, session: Session, notes: list[Noted]) -> None:
        del self._open[session.key]
        self._closing.pop(session.key, None)
        self.counts[session.state] -= 1
        if session.state == ESTABLISHED:
            self._established[session.port] -= 1
        notes.append((CLOSED, session, None))

    def _destroyed(
        self, key: Key, status: int, state: int, measure: Measure, now: float, notes: list[Noted]
    ) -> None:
        session = self._open.get(key)
        if session is not None:
            self._finish(session, notes)
        if not status & ASSURED:
            return
        self.measured = measure.octets is not None
        peer, server, _, port = self.endpoints(key)
        if self.protects(server, port):
            gone = session or Session(key, self._size.key(peer), port, state, now)
            notes.append((GONE, gone, measure))

    def _refresh(self, event: Event, now: float, notes: list[Noted]) -> None:
        """Take one entry of a dump: a session that we missed, or news of one that we know."""
        _, key, status, state, (flags, server_flags), measure = event
        session = self._open.get(key)
        if session is None:
            if state == SYN_RECV:
                self._half_open[self.scope] = self._half_open.get(self.scope, 0) + 1
                return
            if status & ASSURED and (state == ESTABLISHED or state in CLOSING):
                session = self._begin(key, Note.FOUND, now, notes)
        if session is None:
            return
        session.round = self._round
        if state != session.state:
            self._move(session, state, flags, server_flags, now, notes)
        if self.measured is None:
            self.measured = measure.octets is not None
        if session.state != ESTABLISHED:  # what the server says at its end is a farewell, no answer
            return
        progress = session.progress
        if progress is None:
            progress = session.progress = Progress(session.since, session.since)
        if measure.octets is not None:
            self.measured = True
            progress.measured(measure, self.version(session), self.useful, self.server, now)
        elif measure.remaining is not None:
            progress.heard(measure.remaining, self.established_for, now)

    def _end_of_dump(self, now: float, notes: list[Noted]) -> None:
        """Whatever the table no longer has is over; who stayed silent too long overstays."""
        last = self._judged_idle.get(self.scope, self._round_began)
        self._judged_idle[self.scope] = now
        general = self.proper[0]
        lost = self._lost[self.scope] = Counter()
        for session in list(self._open.values()):
            if not self._in(session, self.scope):
                continue
            if session.round != self._round and session.since < self._round_began:
                self._finish(session, notes)
            elif session.state == ESTABLISHED:
                lost[session.port] += bool(self.measured) and session.is_lost(now)
                times = self.proper.get(session.port, general)
                over = session.useless() - times.get(self._patience_for(session), now)
                if over > 0 and now > last:
                    notes.append((Note.OVERSTAY, session, min(over, now - last)))
        if self.losses == self._losses_before:
            self.swept.append(self.scope)

    def _in(self, session: Session, scope: Scope) -> bool:
        port, version = scope
        return port in (0, session.port) and version in (0, self.version(session))

    def delivered(self, session: Session) -> bool:
        """Whether a session was of use before, and may be waiting for its next mail."""
        return session.progress is not None and session.progress.is_mail

    def stay(self, session: Session, now: float) -> tuple[float, float]:
        """For how many seconds a session has been of no use, or is in its closing state; and how
        many are proper."""
        times = self.proper.get(session.port, self.proper[0])
        if session.state != ESTABLISHED:
            return now - session.since, times.get(session.state, 0.0)
        return session.useless(), times.get(self._patience_for(session), 0.0)

    def _patience_for(self, session: Session) -> int:
        """Whose proper time an open session has: that at rest, too, where the kernel counts no
        bytes. Who is silent may wait for its greeting then."""
        return WAITING if self.delivered(session) or not self.measured else ESTABLISHED

    def version(self, session: Session) -> int:
        """The IP version of a session, 4 or 6."""
        return 4 if len(session.peer) == self._size.ipv4 >> 3 else 6


def _closer(flags: int, server_flags: int) -> Side:
    if flags & CLOSE_INIT:
        return Side.PEER
    return Side.SERVER if server_flags & CLOSE_INIT else _NOBODY
