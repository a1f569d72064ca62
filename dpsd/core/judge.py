"""The judge: from what the sessions' notes tell to what it costs their peers.

    notes -> evidence -> scores, prefixes -> who is guilty

What is charged and who is excused is said in evidence.py; here the facts are looked at. Who is
guilty gets a sentence from the engine.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from dpsd.core.events import Key, Measure, State
from dpsd.core.evidence import Excuse, Kind, Seen
from dpsd.core.numbers import (
    CROWDED,
    DEFER_GROWS,
    FEW_AT_ONCE,
    FEW_LATER,
    REPLY_FACTOR,
    WHO_DELIVERED,
)
from dpsd.core.payload import answered, is_mail, said
from dpsd.core.peers import Network
from dpsd.core.policy import Policy
from dpsd.core.prefixes import LONGEST, Prefix, Prefixes
from dpsd.core.pressure import Stress
from dpsd.core.scores import Peer, Scores
from dpsd.core.session import (
    CLOSE,
    CLOSE_WAIT,
    CLOSED,
    ESTABLISHED,
    FOUND,
    GONE,
    LEAK,
    LOOKED,
    OPENED,
    RESET,
    TIME_WAIT,
    Note,
    Noted,
    Session,
)
from dpsd.core.sessions import Sessions
from dpsd.core.turn import DOUBT, GREETING, SERVER, UNFINISHED, Progress

# States in which a session that was in TIME_WAIT is gone. NONE: an old kernel doesn't tell; CLOSE:
# a reset came after it.
OVER = frozenset((TIME_WAIT, State.NONE.value, CLOSE))


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

    def __init__(self, policy: Policy, scores: Scores, sessions: Sessions, stress: Stress) -> None:
        self.scores = scores
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
        scores.credit_half_life = policy.credit_half_life

    def limit(self, peer: Peer, now: float) -> float:
        """The score at which this peer is listed."""
        return self._policy.block_at * self.scores.patience(peer, now)

    def hear(self, notes: Iterable[Noted], blind: bool, now: float) -> Guilty:
        """Charge what the notes tell; the peers that have become too expensive.

        blind: events are missing, so that sessions may be over which seem to stay.
        """
        guilty, opened = Guilty(), 0
        for note, session, what in notes:
            if note is LOOKED:
                self._looked(session, now)
            elif note is OPENED:
                opened += 1
                if not self.scores.opened(session.peer, now):
                    self._churned(session.peer, session.port, guilty, now)
            elif note is CLOSED:
                self._closed(session, guilty, now)
            elif note is GONE and isinstance(what, Measure):
                self._measured(session, what, guilty, now)
            elif note is not FOUND:
                self._hear_rare(note, session, what, blind, guilty, now)
        self._stress.opened += opened
        return guilty

    def excuse(self, session: Session, now: float) -> Excuse | None:
        """Why a session that is ended to make room isn't charged to its peer; None: it is."""
        progress, has_few = session.progress, session.peer.open <= self._policy.few
        if progress is None or progress.turn == GREETING:
            return Excuse.NEVER_SERVED
        waits = progress.turn in (DOUBT, UNFINISHED)
        in_haste = progress.own <= self._policy.ample < self._sessions.server.talk.seconds
        excuses = {
            Excuse.REPLY_DUE: waits and self._may_be_due(session, progress, now),
            Excuse.DELIVERED: bool(progress.mails) and not waits,
            Excuse.MOVING: progress.turn == SERVER and in_haste,
            Excuse.UNREACHED: progress.unreached and has_few,
            Excuse.UNCOUNTED: not self._sessions.measured,
        }
        return next((excuse for excuse, holds in excuses.items() if holds), None)

    def _may_be_due(self, session: Session, progress: Progress, now: float) -> bool:
        """Whether the server may owe a reply to one that waits for longer than others."""
        if self._is_slow(progress, now):
            return True
        may_wait = progress.turn == DOUBT or self._holds_few(session.peer, progress)
        return may_wait and not self._begins_again(session, progress)

    def _holds_few(self, peer: Peer, progress: Progress) -> bool:
        """Whether a peer holds few sessions; who held more when some were ended lately doesn't, but
        with commands, whose replies vary more, unless it has half as many again."""
        few, server = self._policy.few, self._sessions.server
        if peer.held <= few:
            return peer.open <= few
        return server.latency(progress.asked) is server.talk and peer.open <= few // 2

    def _is_slow(self, progress: Progress, now: float) -> bool:
        """Whether the server is so slow that others' replies tell nothing: some commands take long,
        or the mail may still go through a content filter."""
        server = self._sessions.server
        is_mail = server.latency(progress.asked) is server.mail
        replies = server.filter if is_mail else server.talk
        if replies.seconds <= self._policy.ample:
            return False
        return not is_mail or now - progress.since <= replies.limit

    def _begins_again(self, session: Session, progress: Progress) -> bool:
        """Whether a peer with several sessions came back with another that it doesn't finish, while
        others have their replies."""
        peer, server = session.peer, self._sessions.server
        returned = session.since > peer.returned_since and peer.open > self._policy.few
        asked = progress.said - progress.begun
        return returned and server.passed_over(asked, progress.opened, progress.since, 1)

    def crowded(
        self, session: Session, own: float, demand: float, guilty: Guilty, now: float
    ) -> float:
        """Charge a session that is ended to make room, unless it is excused.

        own: seconds of its own time; demand: sessions that keep a slot or wait for one, for each
        slot. For how many seconds its peer may open no new session.
        """
        peer = session.peer
        peer.excuse = excuse = self.excuse(session, now)
        if excuse is Excuse.NEVER_SERVED:
            return 0.0
        if excuse is Excuse.DELIVERED:
            if demand < CROWDED or peer.holds(self._policy.few + 1) <= self._policy.few:
                return 0.0
            return self._wait(peer, now)
        if self.scores.spend(peer, 1.0, now):
            peer.excuse = excuse or Excuse.CREDIT
            return 0.0
        if excuse is None and now - peer.mailed_at <= self._policy.half_life:
            peer.excuse = Excuse.MAILED
            return self._wait(peer, now)
        returned = self._came_back(session)
        self._defer(peer, now)
        if excuse is None and session.progress is not None:
            cost = self._crowd_cost(peer, session.progress, own, returned)
            peer.charged += cost
            seen = Seen(session.port, own, peer.open, 0.0, self._stress.level)
            came = self._stress.began_at - self._policy.defer_for if session.progress.exact else inf
            if session.since > min(peer.returned_since, came):
                self._charge(peer, Kind.CROWD, "", cost, guilty, now, seen)
            else:
                peer.excuse = Excuse.FIRST
                self._charge_prefix(peer, cost, guilty, now)
        return peer.deferred_until - now

    def _crowd_cost(self, peer: Peer, progress: Progress, own: float, returned: bool) -> float:
        """What one of the sessions of a peer that are ended together costs it; returned: whether it
        came back at once."""
        cost = most = self._policy.crowd_cost * self._stress.level
        if peer.held <= self._policy.few:
            cost = most = most * (FEW_AT_ONCE if returned else FEW_LATER)
            if not progress.exact:  # nobody but the counters says that it was its turn
                cost = most = most / REPLY_FACTOR
        else:  # who was ended in haste may have been about to go on
            slow = self._sessions.server.talk.seconds * (1.0 if progress.exact else REPLY_FACTOR)
            haste = max(self._policy.ample, slow)
            cost *= min(1.0, own / haste)
            if peer.mailed_at > -inf:
                most *= WHO_DELIVERED
            elif own >= haste:
                most *= peer.deferrals
        return max(0.0, min(cost, most - peer.charged))

    def _came_back(self, session: Session) -> bool:
        """Whether its peer came back at once for no more than small talk."""
        peer, progress = session.peer, session.progress
        talked = progress is not None and progress.said > self._policy.empty_bytes
        return 0.0 <= session.since - peer.deferred_until <= self._policy.defer_for and not talked

    def _wait(self, peer: Peer, now: float) -> float:
        """Defer a peer that delivers mail, too: for the shortest time, however often."""
        seconds = self._policy.defer_for
        peer.deferred_until = max(peer.deferred_until, now + seconds)
        return seconds

    def _defer(self, peer: Peer, now: float) -> None:
        """Defer a peer for DEFER_GROWS times as long as the last time, if that isn't forgotten; for
        all its sessions that are ended together once. Those opened since then are charged."""
        if now < peer.deferred_until:
            return
        recent = now - peer.ended_at <= self._policy.half_life
        peer.returned_since = peer.ended_at if recent else inf
        peer.deferrals = peer.deferrals + 1 if recent else 1
        seconds = self._policy.defer_for * DEFER_GROWS ** (peer.deferrals - 1)
        peer.deferred_until = now + min(seconds, self._policy.block_for)
        peer.ended_at, peer.charged = now, 0.0
        peer.held = max(peer.open, peer.held) if recent else peer.open

    def prune(self, now: float) -> None:
        """Forget some of what doesn't matter any more; call it again and again."""
        self.scores.prune(now)
        for peer in self.scores.forgotten:
            if peer.delivers:
                self.prefixes.delivers(peer.key, -1)
        self.scores.forgotten.clear()
        self.prefixes.prune(now)

    def _looked(self, session: Session, now: float) -> None:
        progress = session.progress
        mails = progress.mails - progress.guessed - session.credited if progress is not None else 0
        if mails > 0:
            session.credited += mails
            self._earned(session.peer, float(mails), now)

    def _churned(self, peer: Peer, port: int, guilty: Guilty, now: float) -> None:
        if now - peer.mailed_at <= self._policy.half_life:  # a newsletter, however fast
            peer.excuse = Excuse.MAILED
            return
        seen = Seen(port, most=peer.opened, proper=self._policy.churn_rate)
        cost = self._policy.churn_cost * self._stress.hurry
        self._charge(peer, Kind.CHURN, "", cost, guilty, now, seen)

    def _charge(
        self, peer: Peer, kind: Kind, state: str, cost: float, guilty: Guilty, now: float,
        seen: Seen, count: int = 1,
    ) -> None:  # fmt: skip
        """Add evidence, unless the peer is listed already: it can't make it worse from there."""
        if self.scores.is_barred(peer):
            peer.excuse = Excuse.LISTED
            return
        if peer.listed:
            self.scores.clear(peer.key)
        if not cost:
            return
        peer.excuse = None
        limit = self._policy.block_at
        score = self.scores.charge(peer, kind, state, cost, now, count, seen)
        if score >= limit and score >= self.limit(peer, now):
            guilty.peers[peer.key] = peer
        else:
            self._charge_prefix(peer, cost, guilty, now)

    def _charge_prefix(self, peer: Peer, cost: float, guilty: Guilty, now: float) -> None:
        """Add it to what the wide prefixes around the peer cost."""
        if len(peer.key) > LONGEST:
            found = self.prefixes.charge(peer.key, cost, self._policy.block_at, now)
            if found is not None:
                guilty.prefixes[found.network] = found

    def _hear_rare(
        self, note: Note, session: Session, what: float | Measure | None, blind: bool,
        guilty: Guilty, now: float,
    ) -> None:  # fmt: skip
        if note is RESET:
            # Without counters a reset is charged when it comes; else GONE tells if it was of use.
            if self._sessions.measured is False and session.key not in self.ended:
                self._of_no_use(session, Kind.ABORT, guilty, now)
        elif not blind and isinstance(what, float):
            if note is LEAK:
                self.leaks[State(session.state).name] += what
            else:
                self._overstayed(session, what, guilty, now)

    def _overstayed(self, session: Session, seconds: float, guilty: Guilty, now: float) -> None:
        if session.doomed:  # nor would it be there any more, if it were ended for real
            return
        peer, is_open, stress = session.peer, session.state == ESTABLISHED, self._stress.level
        if not self._sessions.measured and session.state in (ESTABLISHED, CLOSE_WAIT):
            stress = 0.0  # nobody can earn credit, which honest clients need that notice late
        cost = seconds * self._policy.overstay_cost(stress, is_open)
        most = self._policy.overstay_most
        if peer.open <= self._policy.few:
            most /= max(1, peer.open)
        cost = max(0.0, min(cost, most - session.charged))
        first = not session.charged
        session.charged += cost
        stay, proper = self._sessions.stay(session, now)
        seen = Seen(session.port, longest=stay, proper=proper, stress=self._stress.level)
        state = State(session.state).name
        self._charge(peer, Kind.OVERSTAY, state, cost, guilty, now, seen, count=int(first))

    def _of_no_use(self, session: Session, kind: Kind, guilty: Guilty, now: float) -> None:
        """Charge a session that came for nothing, unless it is one of the few that are free."""
        policy, peer = self._policy, session.peer
        if self.scores.excuses(peer, policy.idle_rate, policy.idle_burst, now):
            peer.excuse = Excuse.FREE
            return
        cost = policy.abort_cost if kind == Kind.ABORT else policy.empty_cost
        # Others make the stress; a monitor's checks hold nothing.
        weight = self._stress.flood if peer.open <= policy.few else self._stress.hurry
        self._charge(peer, kind, "", cost * weight, guilty, now, Seen(session.port))

    def _measured(self, session: Session, measure: Measure, guilty: Guilty, now: float) -> None:
        """What the kernel counted of a whole session: was it of any use?"""
        policy, peer = self._policy, session.peer
        if session.state in OVER:
            self.scores.time_wait(peer, -1)
        if measure.octets is None or session.key in self.ended:
            self.ended.discard(session.key)
            return
        if session.state == ESTABLISHED:  # nobody closed it: it was taken from the table
            return
        version = self._sessions.version(session)
        spoken, reply = said(measure, version), answered(measure, version)
        progress = session.progress
        if progress and progress.turn in (SERVER, DOUBT, UNFINISHED) and spoken <= progress.said:
            return  # after its last word it only heard that the server had waited long enough
        if session.state != CLOSE and spoken > policy.empty_bytes:
            if is_mail(spoken, reply, policy.delivered_bytes) and not session.credited:
                self._earned(peer, 1.0, now)
        elif spoken <= policy.empty_bytes:
            if not reply:
                peer.excuse = Excuse.NEVER_SERVED
                return
            kind = Kind.ABORT if session.state == CLOSE else Kind.EMPTY
            self._of_no_use(session, kind, guilty, now)

    def _earned(self, peer: Peer, mails: float, now: float) -> None:
        peer.mailed_at = now
        self.scores.earn(peer, mails, self._policy.credit_most, now)
        if peer.credit > 1.0:
            self.has_delivered(peer)

    def has_delivered(self, peer: Peer) -> None:
        """Never list a prefix with this peer in it, while that is remembered."""
        if not peer.delivers:
            peer.delivers = True
            self.prefixes.delivers(peer.key, 1)

    def _closed(self, session: Session, guilty: Guilty, now: float) -> None:
        peer = session.peer
        if peer.listed and not peer.open:
            self.scores.changed.add(peer.key)  # so that it is told that none is left
        if session.state == TIME_WAIT:
            waiting = self.scores.time_wait(peer, 1)
            allowance = self._policy.time_wait_allowance
            if waiting > allowance:
                seen = Seen(session.port, most=waiting, proper=allowance)
                cost = self._policy.time_wait_cost
                self._charge(peer, Kind.TIME_WAIT, "", cost, guilty, now, seen)
