"""The engine: the one file that shows the whole way from events to verdicts.

    events -> sessions -> notes -> scores -> policy -> verdicts (lists)

Pure: the same events and times give the same verdicts, live, in a replay and in a test. Times are
seconds of one clock that never goes back; entries' instants are on that clock too.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import NamedTuple

from dpsd.core.events import EndpointsOf, Event, Key, Measure, State
from dpsd.core.lists import Entry, ListName, Lists
from dpsd.core.peers import Network, PeerSize
from dpsd.core.policy import Policy
from dpsd.core.progress import words
from dpsd.core.reaper import reap
from dpsd.core.scores import Kind, Peer, Scores, Seen
from dpsd.core.sessions import (
    CLOSED,
    ESTABLISHED,
    GONE,
    OPENED,
    Note,
    Noted,
    Scope,
    Session,
    Sessions,
)
from dpsd.core.story import span, verdict


@dataclass(frozen=True, slots=True)
class Verdict:
    """A new entry for a list, and the peer's sessions that are open now."""

    entry: Entry
    sessions: list[Key]


STRESS_LASTS = 30.0  # seconds that stress outlasts the pressure: attackers come back


class Passed(NamedTuple):
    """What came of a tick: verdicts, sessions to end for want of slots, entries that are over."""

    verdicts: list[Verdict]
    ended: list[Key]
    over: list[Entry]


class Engine:
    """Owns sessions, scores and lists. Nothing else changes them while it runs.

    immune(network) tells which peers are never listed, though they aren't on the white list: the
    host's own addresses, its gateways and name servers.
    """

    def __init__(
        self,
        policy: Policy,
        size: PeerSize,
        lists: Lists,
        endpoints: EndpointsOf,
        protects: Callable[[bytes, int], bool],
        immune: Callable[[Network], bool] = lambda _: False,
    ) -> None:
        self.policy = policy
        self.size = size
        self.lists = lists
        self.sessions = Sessions(endpoints, size, protects)
        self.scores = Scores(size, policy.half_life, policy.churn_rate, policy.churn_burst)
        self.blocks: dict[Network, list[float]] = {}  # when which peer was blocked by its score
        self.immune = immune
        self.lost = 0  # how often events were lost
        self.leaks: dict[str, float] = defaultdict(float)  # the server's overstays, by state
        self.unseen: set[Scope] | None = None  # what is to be dumped; None: not yet known
        self.stress = 0.0
        self._stressed_at = 0.0
        self._ended: set[Key] = set()  # sessions that were ended for their peers
        self.apply(policy)

    def apply(self, policy: Policy) -> None:
        """Go on with another policy."""
        self.policy = policy
        scores = self.scores
        scores.half_life = policy.half_life
        scores.rate, scores.burst = policy.churn_rate, policy.churn_burst
        self.sessions.proper = policy.proper_times(self.stress)
        self.sessions.useful_rate = policy.useful_rate
        self.sessions.patient = policy.proper[State.ESTABLISHED]
        self.sessions.delivered_bytes = policy.delivered_bytes
        scores.trust_half_life = policy.trust_half_life

    @property
    def pressure(self) -> float:
        """Sessions that keep a slot busy, as a share of the slots."""
        return self.sessions.occupying() / self.policy.slots

    @property
    def blind(self) -> bool:
        """Whether events are missing, so that nobody may be judged until dumps fill the gap."""
        return self.unseen is None or bool(self.unseen)

    def look(self, scopes: Iterable[Scope]) -> None:
        """Be blind until each of these (port, IP version) has been dumped completely.

        They are all that is protected; sessions to other ports are nobody's business any more.
        """
        self.unseen = set(scopes)
        for _, session, _ in self.sessions.leave(self.unseen):
            self._one_less(session)

    def feed(self, events: Sequence[Event], now: float) -> list[Verdict]:
        """Take events that arrived at `now`; the verdicts that follow."""
        sessions = self.sessions
        notes = sessions.feed(events, now)
        if sessions.losses != self.lost:
            self.lost, self.unseen = sessions.losses, None
            self.scores.forget_time_waits()  # their ends may have been lost
            self._ended.clear()
        if sessions.swept:
            if self.unseen is not None:
                self.unseen.difference_update(sessions.swept)
            sessions.swept.clear()
        return self._judge(notes, now)

    def tick(self, now: float) -> Passed:
        """Let time pass, about once a second."""
        self._feel(now)
        self.sessions.proper = self.policy.proper_times(self.stress)
        verdicts = self._judge(self.sessions.tick(now), now)
        more, ended = self._reap(now)
        over = self.lists.expire(now)
        for entry in over:
            if entry.list == ListName.BLOCK:
                self.release(entry.peer)
        return Passed([*verdicts, *more], ended, over)

    def _feel(self, now: float) -> None:
        """Set the stress: it rises at once with the pressure, and stays for a while behind it."""
        closing = self.sessions.closing() / self.policy.slots
        stress = self.policy.stress(max(self.pressure, closing))
        if stress >= self.stress or now - self._stressed_at > STRESS_LASTS:
            self.stress = stress
        if stress >= self.stress:
            self._stressed_at = now

    def _reap(self, now: float) -> tuple[list[Verdict], list[Key]]:
        """Make room when slots run out: end useless sessions, and charge their peers."""
        policy = self.policy
        # Those that are being ended already; to observe means that they stay.
        room = self.sessions.occupying() - sum(session.reaped for session in self.sessions)
        room -= int(policy.stress_until * policy.slots)
        if not self.stress or self.blind or room <= 0:
            return [], []
        reaped = reap(self.sessions, room, policy.reap_after, self._is_spared)
        guilty: dict[bytes, Peer] = {}
        for session in reaped:
            session.reaped = True
            self._ended.add(session.key)
            peer = self.scores.peer(session.peer, now)
            if not self.sessions.delivered(session):  # else it only waits for its next mail
                cost = policy.crowd_cost * self.stress
                seen = Seen(
                    session.port, session.useless(), peer.open, policy.reap_after, self.stress
                )
                score = self._charge(peer, Kind.CROWD, "", cost, now, seen=seen)
                if score >= policy.block_at * self.scores.patience(peer, now):
                    guilty[peer.key] = peer
        return self._sentence(guilty, now), [session.key for session in reaped]

    def _is_spared(self, session: Session) -> bool:
        """Whether a session is never ended: a white address's, or an immune one's."""
        address = ip_network(self.sessions.endpoints(session.key).peer)
        return self._is_white(session.key) or self.immune(address)

    def was_ended(self, keys: Iterable[Key]) -> None:
        """These sessions end because the host wants it: that is no doing of their peers."""
        self._ended.update(keys)

    def forgive(self, network: Network) -> None:
        """An operator took peers off a list: what they did before counts no more."""
        self.blocks.pop(network, None)
        self.release(network)

    def release(self, network: Network) -> None:
        """Let peers that left a list start with a clean slate."""
        if self.size.is_peer(network):
            self.scores.clear(self._key(network))
            return
        for peer in self.scores:
            if peer.listed and _within(self.size.network_of_key(peer.key), network):
                self.scores.clear(peer.key)

    def prune(self, now: float) -> None:
        """Forget what doesn't matter any more."""
        for peer in self.scores:
            if peer.listed and self.lists.decisive(self.size.network_of_key(peer.key)) is None:
                self.scores.clear(peer.key)  # its entry went with all lists, when they were reread
        self.scores.prune(now)
        for network, times in list(self.blocks.items()):
            recent = [at for at in times if now - at <= self.policy.black_within]
            if recent:
                self.blocks[network] = recent
            else:
                del self.blocks[network]

    def sessions_of(self, network: Network) -> list[Key]:
        """The open sessions from a peer or prefix, but for those of addresses that are white."""
        packed, bits = network.network_address.packed, network.prefixlen
        shift = network.max_prefixlen - bits
        wanted = int.from_bytes(packed, "big") >> shift
        found = []
        for session in self.sessions:
            address = self.sessions.endpoints(session.key).peer
            if len(address) == len(packed) and int.from_bytes(address, "big") >> shift == wanted:
                found.append(session.key)
        return [key for key in found if not self._is_white(key)]

    def _is_white(self, key: Key) -> bool:
        address = ip_network(self.sessions.endpoints(key).peer)
        return self.lists.covering(ListName.WHITE, address) is not None

    def _judge(self, notes: list[Noted], now: float) -> list[Verdict]:
        """Charge what the notes tell; list the peers that have become too expensive."""
        guilty: dict[bytes, Peer] = {}
        limit = self.policy.block_at
        for note, session, what in notes:
            if note == OPENED:
                peer, allowed = self.scores.opened(session.peer, now)
                if allowed:
                    continue
                seen = Seen(session.port, most=peer.opened, proper=self.policy.churn_rate)
                score = self._charge(peer, Kind.CHURN, "", self.policy.churn_cost, now, seen=seen)
            elif note == CLOSED:
                self._closed(session, now)
                continue
            elif note == Note.FOUND:
                self.scores.peer(session.peer, now).open += 1
                continue
            else:
                peer = self.scores.peer(session.peer, now)
                score = self._charge_rare(note, peer, session, what, now)
            if score >= limit and score >= limit * self.scores.patience(peer, now):
                guilty[peer.key] = peer
        return [] if not guilty or self.blind else self._sentence(guilty, now)

    def _charge(
        self,
        peer: Peer,
        kind: Kind,
        state: str,
        cost: float,
        now: float,
        *,
        seen: Seen,
        count: int = 1,
    ) -> float:
        """Add evidence, unless the peer is listed already: it can't make it worse from there."""
        if peer.listed or not cost:
            return 0.0
        return self.scores.charge(peer, kind, state, cost, now, count, seen)

    def _charge_rare(
        self, note: Note, peer: Peer, session: Session, what: float | Measure | None, now: float
    ) -> float:
        if note == GONE and isinstance(what, Measure):
            return self._measured(peer, session, what, now)
        if note == Note.RESET:
            return self._reset(peer, session, now)
        if self.blind or not isinstance(what, float):
            return 0.0
        state = State(session.state).name
        if note == Note.LEAK:
            self.leaks[state] += what
            return 0.0
        cost = what * self.policy.overstay_cost(self.stress)
        if session.state != State.ESTABLISHED:
            cost = max(0.0, min(cost, self.policy.closing_most - session.charged))
        first = not session.charged
        session.charged += cost
        seen = self._seen(session, now)
        return self._charge(peer, Kind.OVERSTAY, state, cost, now, count=int(first), seen=seen)

    def _seen(self, session: Session, now: float) -> Seen:
        stay, proper = self.sessions.stay(session, now)
        return Seen(session.port, longest=stay, proper=proper, stress=self.stress)

    def _reset(self, peer: Peer, session: Session, now: float) -> float:
        """Without counters a reset is charged when it comes; else GONE tells if it was of use."""
        if self.sessions.measured is not False or session.key in self._ended:
            return 0.0
        seen = Seen(session.port)
        return self._charge(peer, Kind.ABORT, "", self.policy.abort_cost, now, seen=seen)

    def _measured(self, peer: Peer, session: Session, measure: Measure, now: float) -> float:
        """What the kernel counted of a whole session: was it of any use?"""
        policy = self.policy
        if session.state in (State.TIME_WAIT, State.NONE):  # NONE: an old kernel doesn't tell
            peer.time_wait = max(0, peer.time_wait - 1)
        if measure.octets is None or session.key in self._ended:
            self._ended.discard(session.key)
            return 0.0
        if session.state == ESTABLISHED:  # nobody closed it: it was taken from the table
            return 0.0
        said = words(measure, self.sessions.version(session))
        if said >= policy.delivered_bytes and session.state != State.CLOSE:
            self.scores.delivered(peer, now)
        if said > policy.empty_bytes:
            return 0.0
        seen = Seen(session.port)
        if session.state == State.CLOSE:
            return self._charge(peer, Kind.ABORT, "", policy.abort_cost, now, seen=seen)
        return self._charge(peer, Kind.EMPTY, "", policy.empty_cost, now, seen=seen)

    def _closed(self, session: Session, now: float) -> None:
        peer = self._one_less(session)
        if peer is not None and session.state == State.TIME_WAIT:
            peer.time_wait += 1
            allowance = self.policy.time_wait_allowance
            if peer.time_wait > allowance:
                seen = Seen(session.port, most=peer.time_wait, proper=allowance)
                cost = self.policy.time_wait_cost
                self._charge(peer, Kind.TIME_WAIT, "", cost, now, seen=seen)

    def _one_less(self, session: Session) -> Peer | None:
        peer = self.scores.get(session.peer)
        if peer is not None:
            peer.open = max(0, peer.open - 1)
            if peer.listed and not peer.open:
                self.scores.changed.add(peer.key)  # so that it is told that none is left
        return peer

    def _sentence(self, guilty: dict[bytes, Peer], now: float) -> list[Verdict]:
        entries: dict[bytes, Entry] = {}
        for key, peer in guilty.items():
            network = self.size.network_of_key(key)
            decisive = self.lists.decisive(network)
            if decisive is not None or self.immune(network):
                peer.listed = decisive is not None and decisive.list != ListName.WHITE
                continue
            entries[key] = self._list(network, peer, now)
        sessions: dict[bytes, list[Key]] = {key: [] for key in entries}
        if entries:
            for session in self.sessions:
                if session.peer in sessions and not self._is_white(session.key):
                    sessions[session.peer].append(session.key)
                    self._ended.add(session.key)
        return [Verdict(entry, sessions[key]) for key, entry in entries.items()]

    def _list(self, network: Network, peer: Peer, now: float) -> Entry:
        before = self.blocks.setdefault(network, [])
        name, until, rank = self.policy.sentence(before, now)
        limit = self.policy.block_at * self.scores.patience(peer, now)
        reason = verdict(self.scores.score(peer, now), limit, peer.evidence.values())
        if rank > 1:
            reason += f"; block {rank} within {span(self.policy.black_within)}"
        before.append(now)
        peer.listed = True
        entry = Entry(name, network, reason, "score", now, until)
        self.lists.put(entry)
        return entry

    def _key(self, network: Network) -> bytes:
        return self.size.key(network.network_address.packed)


def _within(inner: Network, outer: Network) -> bool:
    if inner.version != outer.version or inner.prefixlen < outer.prefixlen:
        return False
    return inner.supernet(new_prefix=outer.prefixlen) == outer
