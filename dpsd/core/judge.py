"""The judge: from what the sessions' notes tell to what it costs their peers.

    notes -> evidence -> scores, prefixes -> who is guilty

Who is guilty gets a sentence from the engine; here it is only found out.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from dpsd.core.events import Key, Measure, State
from dpsd.core.peers import Network, PeerSize
from dpsd.core.policy import Policy
from dpsd.core.prefixes import LONGEST, Prefix, Prefixes
from dpsd.core.progress import answers, greeted, is_mail, words
from dpsd.core.scores import MOST_TRUST, Kind, Peer, Scores, Seen
from dpsd.core.sessions import CLOSED, ESTABLISHED, GONE, OPENED, Note, Noted, Session, Sessions
from dpsd.core.stress import Stress

# Credit for a session that delivered nothing, but went and closed as it should, and the most of it.
REGULAR, REGULAR_MOST = 0.25, 3.0
FEW_MOST = 1.5  # times evidence.overstay_most is what they cost together by staying
# Times a session's cost that such a peer pays: as one of a swarm, which comes back within SOON
# seconds, or else. The honest whom a swarm is in the way of try again later.
SOON, AT_ONCE, LATER = 5.0, 1.35, 0.4
MUCH = 256  # bytes said that are more than the small talk of a swarm
TRUSTED = 2.0  # from this patience on a peer pays less for it
# States in which a session that was in TIME_WAIT is gone. NONE: an old kernel doesn't tell; CLOSE:
# a reset came after it.
OVER = frozenset((State.TIME_WAIT, State.NONE, State.CLOSE))
UNANSWERED = 0.5  # share of a session's cost while the server may owe it an answer


@dataclass(slots=True)
class Guilty:
    """Who reached the limit: peers by their key, and wide prefixes."""

    peers: dict[bytes, Peer] = field(default_factory=dict)
    prefixes: dict[Network, Prefix] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.peers or self.prefixes)


class Judge:
    """Owns scores and prefixes, and charges what the sessions did.

    leaks: slot-seconds by which the server's own sessions overstayed, by TCP state; ended: the
    sessions that were ended for their peers, whose ends are no doing of theirs.
    """

    def __init__(self, policy: Policy, size: PeerSize, sessions: Sessions, stress: Stress) -> None:
        self.scores = Scores(size, policy.half_life, policy.churn_rate, policy.churn_burst)
        self.prefixes = Prefixes(policy.half_life)
        self.leaks: dict[str, float] = defaultdict(float)
        self.ended: set[Key] = set()
        self._policy = policy
        self._sessions = sessions
        self._stress = stress

    def apply(self, policy: Policy) -> None:
        """Go on with another policy."""
        self._policy, scores = policy, self.scores
        scores.half_life = self.prefixes.half_life = policy.half_life
        scores.rate, scores.burst = policy.churn_rate, policy.churn_burst
        scores.trust_half_life = policy.trust_half_life

    def limit(self, peer: Peer, now: float) -> float:
        """The score at which this peer is listed."""
        return self._policy.block_at * self.scores.patience(peer, now)

    def patience(self, key: bytes, now: float) -> float:
        """How many times longer than a stranger's this peer's sessions may be of no use."""
        peer = self.scores.get(key)
        return 1.0 if peer is None else self.scores.patience(peer, now)

    def trust(self, key: bytes, now: float) -> float:
        """How many deliveries this peer has to its credit."""
        peer = self.scores.get(key)
        return 0.0 if peer is None else self.scores.trust(peer, now)

    def hear(self, notes: Iterable[Noted], blind: bool, now: float) -> Guilty:
        """Charge what the notes tell; the peers that have become too expensive.

        blind: events are missing, so that sessions may be over which seem to stay.
        """
        guilty, opened = Guilty(), 0
        for note, session, what in notes:
            if note == OPENED:
                opened += 1
                peer, allowed = self.scores.opened(session.peer, now)
                if not allowed:
                    seen = Seen(session.port, most=peer.opened, proper=self._policy.churn_rate)
                    cost = self._policy.churn_cost * self._stress.hurry
                    self._charge(peer, Kind.CHURN, "", cost, guilty, now, seen)
            elif note == CLOSED:
                self._closed(session, guilty, now)
            elif note == Note.FOUND:
                self.scores.peer(session.peer, now).open += 1
            else:
                self._hear_rare(note, session, what, blind, guilty, now)
        self._stress.opened += opened
        return guilty

    def crowded(self, session: Session, swarming: bool, guilty: Guilty, now: float) -> None:
        """Charge a session that was ended to make room, unless that may be nobody's fault.

        swarming: there is a swarm, or there was one just now.
        """
        progress, peer = session.progress, self.scores.peer(session.peer, now)
        server = self._sessions.server
        if progress is None or progress.blames_server(server):
            return
        if progress.is_mail and not progress.abandoned:
            return  # it only waited for its next mail
        if not self._sessions.measured:  # it may have been of use: without counters nobody knows
            return
        stress = self._stress.level
        cost = self._policy.crowd_cost * stress
        cost *= min(1.0, TRUSTED / self.scores.patience(peer, now))
        after = self._policy.reap_after
        if peer.open <= self._policy.few:
            if session.since <= peer.ended_at:  # its network may have failed: it didn't return
                return
            # Whom the greeting hasn't reached yet has a slow network, or a failing one.
            is_like_one = progress.reached and progress.said < MUCH
            returned = session.since - peer.ended_at <= SOON
            cost *= AT_ONCE if swarming and is_like_one and returned else LATER
        else:  # who was ended in a hurry may have been about to go on
            cost *= min(1.0, session.useless() / after) * (UNANSWERED if progress.waits() else 1.0)
        peer.ended_at = now
        seen = Seen(session.port, session.useless(), peer.open, after, stress)
        self._charge(peer, Kind.CROWD, "", cost, guilty, now, seen)

    def one_less(self, session: Session) -> Peer | None:
        """Count a session as open no more; its peer, if anything is remembered of it."""
        peer = self.scores.get(session.peer)
        if peer is not None:
            peer.open = max(0, peer.open - 1)
            if peer.listed and not peer.open:
                self.scores.changed.add(peer.key)  # so that it is told that none is left
        return peer

    def _charge(
        self, peer: Peer, kind: Kind, state: str, cost: float, guilty: Guilty, now: float,
        seen: Seen, count: int = 1,
    ) -> None:  # fmt: skip
        """Add evidence, unless the peer is listed already: it can't make it worse from there."""
        if peer.listed or not cost:
            return
        limit = self._policy.block_at
        score = self.scores.charge(peer, kind, state, cost, now, count, seen)
        if score >= limit and score >= self.limit(peer, now):
            guilty.peers[peer.key] = peer
        elif len(peer.key) > LONGEST:
            found = self.prefixes.charge(peer.key, cost, limit, self._has_trusted, now)
            if found is not None:
                guilty.prefixes[found[0]] = found[1]

    def _has_trusted(self, prefix: bytes) -> bool:
        """Whether any peer with this prefix has delivered mail."""
        return any(
            peer.trust > REGULAR_MOST and peer.key.startswith(prefix) for peer in self.scores
        )

    def _hear_rare(
        self, note: Note, session: Session, what: float | Measure | None, blind: bool,
        guilty: Guilty, now: float,
    ) -> None:  # fmt: skip
        peer = self.scores.peer(session.peer, now)
        if note == GONE and isinstance(what, Measure):
            self._measured(peer, session, what, guilty, now)
        elif note == Note.RESET:
            self._reset(peer, session, guilty, now)
        elif not blind and isinstance(what, float):
            state = State(session.state).name
            if note == Note.LEAK:
                self.leaks[state] += what
            else:
                self._overstayed(peer, session, what, guilty, now)

    def _overstayed(
        self, peer: Peer, session: Session, seconds: float, guilty: Guilty, now: float
    ) -> None:
        if session.reaped:  # nor would it be there any more, if it were ended for real
            return
        progress, is_open = session.progress, session.state == ESTABLISHED
        if is_open and progress and progress.blames_server(self._sessions.server):
            return
        if is_open and self._stress.level and self._is_borne_with(peer, session, now):
            return
        stress = self._stress.level
        if not self._sessions.measured and session.state in (ESTABLISHED, State.CLOSE_WAIT):
            stress = 0.0  # nobody can earn credit, which honest clients need that notice late
        cost = seconds * self._policy.overstay_cost(stress, is_open)
        most = self._policy.overstay_most
        if peer.open <= self._policy.few:
            most = min(most, FEW_MOST * most / max(1, peer.open))
        cost = max(0.0, min(cost, most - session.charged))
        first = not session.charged
        session.charged += cost
        state, seen = State(session.state).name, self._seen(session, now)
        self._charge(peer, Kind.OVERSTAY, state, cost, guilty, now, seen, count=int(first))

    def _is_borne_with(self, peer: Peer, session: Session, now: float) -> bool:
        """Whether an open session of no use isn't ended yet, because its peer has earned trust."""
        stay, proper = self._sessions.stay(session, now)
        return stay <= proper * self.scores.patience(peer, now)

    def _seen(self, session: Session, now: float) -> Seen:
        stay, proper = self._sessions.stay(session, now)
        return Seen(session.port, longest=stay, proper=proper, stress=self._stress.level)

    def _reset(self, peer: Peer, session: Session, guilty: Guilty, now: float) -> None:
        """Without counters a reset is charged when it comes; else GONE tells if it was of use."""
        if self._sessions.measured is False and session.key not in self.ended:
            self._of_no_use(peer, session, Kind.ABORT, guilty, now)

    def _of_no_use(
        self, peer: Peer, session: Session, kind: Kind, guilty: Guilty, now: float
    ) -> None:
        """Charge a session that came for nothing, unless it is one of the few that are free."""
        policy = self._policy
        if not self.scores.excuses(peer, policy.idle_rate, policy.idle_burst, now):
            cost = policy.abort_cost if kind == Kind.ABORT else policy.empty_cost
            cost *= max(policy.calm_cost, self._stress.hurry)
            self._charge(peer, kind, "", cost, guilty, now, Seen(session.port))

    def _measured(
        self, peer: Peer, session: Session, measure: Measure, guilty: Guilty, now: float
    ) -> None:
        """What the kernel counted of a whole session: was it of any use?"""
        policy = self._policy
        if session.state in OVER:
            peer.time_wait = max(0, peer.time_wait - 1)
        if measure.octets is None or session.key in self.ended:
            self.ended.discard(session.key)
            return
        if session.state == ESTABLISHED:  # nobody closed it: it was taken from the table
            return
        version = self._sessions.version(session)
        said = words(measure, version)
        progress = session.progress
        if progress and progress.is_mail and progress.owed and said <= progress.said:
            return  # after its last word it only heard that the server had waited long enough
        if session.state != State.CLOSE and said > policy.empty_bytes:
            delivered = is_mail(said, answers(measure, version), policy.delivered_bytes)
            worth, most = (1.0, MOST_TRUST) if delivered else (REGULAR, REGULAR_MOST)
            self.scores.credit(peer, worth, most, now)
        if said <= policy.empty_bytes and greeted(measure, version):  # else it waited in vain
            kind = Kind.ABORT if session.state == State.CLOSE else Kind.EMPTY
            self._of_no_use(peer, session, kind, guilty, now)

    def _closed(self, session: Session, guilty: Guilty, now: float) -> None:
        peer = self.one_less(session)
        if peer is not None and session.state == State.TIME_WAIT:
            peer.time_wait += 1
            allowance = self._policy.time_wait_allowance
            if peer.time_wait > allowance:
                seen = Seen(session.port, most=peer.time_wait, proper=allowance)
                cost = self._policy.time_wait_cost
                self._charge(peer, Kind.TIME_WAIT, "", cost, guilty, now, seen)
