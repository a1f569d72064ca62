"""The engine: the one file that shows the whole way from events to verdicts.

    events -> sessions -> notes -> scores -> policy -> verdicts (lists)

Pure: the same events and times give the same verdicts, live, in a replay and in a test. Times are
seconds of one clock that never goes back; entries' instants are on that clock too.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import NamedTuple

from dpsd.core.events import EndpointsOf, Event, Key, Measure, State
from dpsd.core.knocks import Knocks
from dpsd.core.lists import Entry, ListName, Lists
from dpsd.core.peers import Network, PeerSize
from dpsd.core.policy import Policy
from dpsd.core.progress import greeted, words
from dpsd.core.reaper import Haste, reap
from dpsd.core.scores import MOST_TRUST, Kind, Peer, Scores, Seen
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
from dpsd.core.swarm import IPV6_AT_LEAST, Swarm, Swarms


@dataclass(frozen=True, slots=True)
class Verdict:
    """A new entry for a list, and the peer's sessions that are open now."""

    entry: Entry
    sessions: list[Key]


STRESS_LASTS = 30.0  # seconds that stress and swarms outlast their cause: attackers come back
OPENED_OVER = 2.0  # seconds over which the rate of new sessions is smoothed
SWARM = 4  # so many peers with few useless sessions each for a slot are a swarm: slots / SWARM
FEW = 16  # up to a slot in so many a peer holds few: its sessions count once until it comes back
# Credit for a session that delivered nothing, but went and closed as it should, and the most of it.
REGULAR, REGULAR_MOST = 0.25, 3.0
FEW_MOST = 1.5  # times evidence.overstay_most is what they cost together by staying
ALONE = 0.6  # share of a session's cost for such a peer, unless there is a swarm
TRUSTED = 2.0  # from this patience on a peer pays less for it
UNANSWERED = 0.5  # share of a session's cost while the server may owe it an answer


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
        self.swarms = Swarms(policy.half_life)
        self._knocks = Knocks()
        self.blocks: dict[Network, list[float]] = {}  # when which peer was blocked by its score
        self.immune = immune
        self.lost = 0  # how often events were lost
        self.leaks: dict[str, float] = defaultdict(float)  # the server's overstays, by state
        self.unseen: set[Scope] | None = None  # what is to be dumped; None: not yet known
        self.stress = 0.0
        self.flood = 0.0
        self._stressed_at = 0.0
        self._swarmed_at = float("-inf")
        self._ticked_at = 0.0
        self._opened = 0  # since the last tick
        self._rate = 0.0  # of new sessions a second, from everybody
        self._ended: set[Key] = set()  # sessions that were ended for their peers
        self.apply(policy)

    def apply(self, policy: Policy) -> None:
        """Go on with another policy."""
        self.policy = policy
        scores = self.scores
        scores.half_life = self.swarms.half_life = policy.half_life
        self.flood = policy.flood(self._rate)
        scores.rate, scores.burst = policy.churn_rate, policy.churn_burst
        self.sessions.proper = policy.proper_times(self.stress)
        self.sessions.useful = policy.useful(self.stress)
        scores.trust_half_life = policy.trust_half_life

    @property
    def pressure(self) -> float:
        """Sessions that keep a slot busy, as a share of the slots where they are scarcest."""
        return max(self.sessions.occupying(pool.ports) / pool.slots for pool in self.policy.pools)

    @property
    def hurry(self) -> float:
        """How much many sessions matter, from 0 to 1: slots run short, or sessions flood in."""
        return max(self.stress, self.flood)

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
        self.sessions.useful = self.policy.useful(self.stress)
        verdicts = self._judge(self.sessions.tick(now), now)
        more, ended = self._reap(now)
        over = self.lists.expire(now)
        for entry in over:
            if entry.list == ListName.BLOCK:
                self.release(entry.peer)
        again = self._still_knocking(over, now)
        return Passed([*verdicts, *more, *again], ended, over)

    def knocked(self, packets: Mapping[Network, int], now: float) -> None:
        """Take how many packets of each listed peer were dropped since it was listed."""
        self._knocks.take(packets, self.policy.knock_rate, now)

    def _still_knocking(self, over: list[Entry], now: float) -> list[Verdict]:
        """Peers whose block is over, but which never stopped: they are listed for longer."""
        entries: dict[Network, Entry] = {}
        for entry in over:
            packets = self._knocks.by(entry.peer, now)
            if packets and entry.source == "score" and self.lists.decisive(entry.peer) is None:
                why = f"never stopped knocking: {packets} packets dropped"
                entries[entry.peer] = self._list(entry.peer, why, now)
                peer = self.scores.get(self._key(entry.peer))
                if peer is not None and self.size.is_peer(entry.peer):
                    peer.listed = True
        return self._with_sessions(entries)

    def _feel(self, now: float) -> None:
        """Set the stress: it rises at once with the pressure, and stays for a while behind it."""
        passed = now - self._ticked_at
        if passed > 0:
            share = min(1.0, passed / OPENED_OVER)
            self._rate += (self._opened / passed - self._rate) * share
            self._ticked_at, self._opened = now, 0
            self.flood = self.policy.flood(self._rate)
        closing = self.sessions.closing() / self.policy.slots
        stress = self.policy.stress(max(self.pressure, closing))
        if stress >= self.stress or now - self._stressed_at > STRESS_LASTS:
            self.stress = stress
        if stress >= self.stress:
            self._stressed_at = now

    def _reap(self, now: float) -> tuple[list[Verdict], list[Key]]:
        """Make room where slots run out: end useless sessions, and charge their peers."""
        if not self.stress or self.blind:
            return [], []
        policy, guilty, ended = self.policy, _Guilty(), list[Key]()
        for pool in policy.pools:
            mine = [s for s in self.sessions if not pool.ports or s.port in pool.ports]
            # Those that are being ended already; to observe means that they stay.
            room = self.sessions.occupying(pool.ports) - sum(session.reaped for session in mine)
            room -= int(policy.stress_until * pool.slots)
            swarming = now - self._swarmed_at <= STRESS_LASTS
            many = max(1, pool.slots // SWARM)
            haste = Haste(policy.reap_after, many, swarming, self._patience)
            reaped, is_swarm = reap(mine, room, haste, self._is_spared)
            if is_swarm:
                self._swarmed_at = now
            for session in reaped:
                session.reaped = True
                self._ended.add(session.key)
                ended.append(session.key)
                self._crowded(session, guilty, now)
        return self._sentence(guilty, now), ended

    def _crowded(self, session: Session, guilty: "_Guilty", now: float) -> None:
        """Charge a session that was ended to make room, unless that may be nobody's fault."""
        progress, peer = session.progress, self.scores.peer(session.peer, now)
        if progress is None or self.sessions.delivered(session):
            return  # it only waited for its next mail
        server = self.sessions.server
        if progress.blames_server(server):
            return
        if not self.sessions.measured:  # it may have been of use: without counters nobody knows
            return
        cost = self.policy.crowd_cost * self.stress * (UNANSWERED if progress.waits() else 1.0)
        cost *= min(1.0, TRUSTED / self.scores.patience(peer, now))
        if self._holds_few(peer):
            if session.since <= peer.ended_at:  # its network may have failed: it didn't return
                return
            if now - self._swarmed_at > STRESS_LASTS:
                cost *= ALONE
        peer.ended_at = now
        after = self.policy.reap_after
        seen = Seen(session.port, session.useless(), peer.open, after, self.stress)
        self._charge(peer, Kind.CROWD, "", cost, guilty, now, seen)

    def _holds_few(self, peer: Peer) -> bool:
        """Whether a peer has so few open sessions that their stalling may be its network's."""
        return peer.open <= max(1, self.policy.slots // FEW)

    def _patience(self, key: bytes) -> float:
        """How many times longer than a stranger's this peer's sessions may be of no use."""
        peer = self.scores.get(key)
        return 1.0 if peer is None else self.scores.patience(peer, self._ticked_at)

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
        self.swarms.clear(network)
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
        self.swarms.prune(now)
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
        guilty = _Guilty()
        for note, session, what in notes:
            if note == OPENED:
                self._opened += 1
                peer, allowed = self.scores.opened(session.peer, now)
                if not allowed:
                    seen = Seen(session.port, most=peer.opened, proper=self.policy.churn_rate)
                    cost = self.policy.churn_cost * self.hurry
                    self._charge(peer, Kind.CHURN, "", cost, guilty, now, seen)
            elif note == CLOSED:
                self._closed(session, guilty, now)
            elif note == Note.FOUND:
                self.scores.peer(session.peer, now).open += 1
            else:
                self._judge_rare(note, session, what, guilty, now)
        return [] if not guilty or self.blind else self._sentence(guilty, now)

    def _charge(
        self, peer: Peer, kind: Kind, state: str, cost: float, guilty: "_Guilty", now: float,
        seen: Seen, count: int = 1,
    ) -> None:  # fmt: skip
        """Add evidence, unless the peer is listed already: it can't make it worse from there."""
        if peer.listed or not cost:
            return
        limit = self.policy.block_at
        score = self.scores.charge(peer, kind, state, cost, now, count, seen)
        if score >= limit and score >= self._limit(peer, now):
            guilty.peers[peer.key] = peer
        elif len(peer.key) > IPV6_AT_LEAST:
            found = self.swarms.charge(peer.key, cost, limit, self._has_trusted, now)
            if found is not None:
                guilty.swarms[found[0]] = found[1]

    def _limit(self, peer: Peer, now: float) -> float:
        """The score at which this peer is listed."""
        return self.policy.block_at * self.scores.patience(peer, now)

    def _has_trusted(self, prefix: bytes) -> bool:
        """Whether any peer with this prefix has delivered mail."""
        return any(
            peer.trust > REGULAR_MOST and peer.key.startswith(prefix) for peer in self.scores
        )

    def _judge_rare(
        self, note: Note, session: Session, what: float | Measure | None, guilty: "_Guilty",
        now: float,
    ) -> None:  # fmt: skip
        peer = self.scores.peer(session.peer, now)
        if note == GONE and isinstance(what, Measure):
            self._measured(peer, session, what, guilty, now)
        elif note == Note.RESET:
            self._reset(peer, session, guilty, now)
        elif not self.blind and isinstance(what, float):
            state = State(session.state).name
            if note == Note.LEAK:
                self.leaks[state] += what
            else:
                self._overstayed(peer, session, what, guilty, now)

    def _overstayed(
        self, peer: Peer, session: Session, seconds: float, guilty: "_Guilty", now: float
    ) -> None:
        if session.reaped:  # nor would it be there any more, if it were ended for real
            return
        progress, server = session.progress, self.sessions.server
        if session.state == State.ESTABLISHED and progress and progress.blames_server(server):
            return
        is_open = session.state == State.ESTABLISHED
        cost = seconds * self.policy.overstay_cost(self.stress, is_open)
        most = self.policy.overstay_most
        if self._holds_few(peer):
            most = min(most, FEW_MOST * most / max(1, peer.open))
        cost = max(0.0, min(cost, most - session.charged))
        first = not session.charged
        session.charged += cost
        state, seen = State(session.state).name, self._seen(session, now)
        self._charge(peer, Kind.OVERSTAY, state, cost, guilty, now, seen, count=int(first))

    def _seen(self, session: Session, now: float) -> Seen:
        stay, proper = self.sessions.stay(session, now)
        return Seen(session.port, longest=stay, proper=proper, stress=self.stress)

    def _reset(self, peer: Peer, session: Session, guilty: "_Guilty", now: float) -> None:
        """Without counters a reset is charged when it comes; else GONE tells if it was of use."""
        if self.sessions.measured is False and session.key not in self._ended:
            self._of_no_use(peer, session, Kind.ABORT, guilty, now)

    def _of_no_use(
        self, peer: Peer, session: Session, kind: Kind, guilty: "_Guilty", now: float
    ) -> None:
        """Charge a session that came for nothing, unless it is one of the few that are free."""
        policy = self.policy
        if not self.scores.excuses(peer, policy.idle_rate, policy.idle_burst, now):
            cost = policy.abort_cost if kind == Kind.ABORT else policy.empty_cost
            cost *= max(policy.calm_cost, self.hurry)
            self._charge(peer, kind, "", cost, guilty, now, Seen(session.port))

    def _measured(
        self, peer: Peer, session: Session, measure: Measure, guilty: "_Guilty", now: float
    ) -> None:
        """What the kernel counted of a whole session: was it of any use?"""
        policy = self.policy
        if session.state in (State.TIME_WAIT, State.NONE):  # NONE: an old kernel doesn't tell
            peer.time_wait = max(0, peer.time_wait - 1)
        if measure.octets is None or session.key in self._ended:
            self._ended.discard(session.key)
            return
        if session.state == ESTABLISHED:  # nobody closed it: it was taken from the table
            return
        version = self.sessions.version(session)
        said = words(measure, version)
        if session.state != State.CLOSE and said > policy.empty_bytes:
            delivered = said >= policy.delivered_bytes
            worth, most = (1.0, MOST_TRUST) if delivered else (REGULAR, REGULAR_MOST)
            self.scores.credit(peer, worth, most, now)
        if said <= policy.empty_bytes and greeted(measure, version):  # else it waited in vain
            kind = Kind.ABORT if session.state == State.CLOSE else Kind.EMPTY
            self._of_no_use(peer, session, kind, guilty, now)

    def _closed(self, session: Session, guilty: "_Guilty", now: float) -> None:
        peer = self._one_less(session)
        if peer is not None and session.state == State.TIME_WAIT:
            peer.time_wait += 1
            allowance = self.policy.time_wait_allowance
            if peer.time_wait > allowance:
                seen = Seen(session.port, most=peer.time_wait, proper=allowance)
                cost = self.policy.time_wait_cost
                self._charge(peer, Kind.TIME_WAIT, "", cost, guilty, now, seen)

    def _one_less(self, session: Session) -> Peer | None:
        peer = self.scores.get(session.peer)
        if peer is not None:
            peer.open = max(0, peer.open - 1)
            if peer.listed and not peer.open:
                self.scores.changed.add(peer.key)  # so that it is told that none is left
        return peer

    def _sentence(self, guilty: "_Guilty", now: float) -> list[Verdict]:
        entries: dict[Network, Entry] = {}
        for network, swarm in guilty.swarms.items():
            if self.lists.decisive(network) is None and not self.immune(network):
                why = f"{swarm.score:.0f} slot-seconds by {len(swarm.peers)} of its peers together"
                entries[network] = self._list(network, why, now)
                self.swarms.clear(network)
        for key, peer in guilty.peers.items():
            network = self.size.network_of_key(key)
            decisive = self.lists.decisive(network)
            if decisive is not None or self.immune(network):
                peer.listed = decisive is not None and decisive.list != ListName.WHITE
                continue
            score, limit = self.scores.score(peer, now), self._limit(peer, now)
            if score < limit:  # it delivered in the meantime
                continue
            why = verdict(score, limit, peer.evidence.values())
            entries[network] = self._list(network, why, now)
            peer.listed = True
        return self._with_sessions(entries)

    def _with_sessions(self, entries: dict[Network, Entry]) -> list[Verdict]:
        """Verdicts with the sessions to end, which count for nothing more from now on."""
        sessions: dict[Network, list[Key]] = {}
        by_peer: dict[bytes, list[Key]] = {}
        for network in entries:
            if self.size.is_peer(network):
                sessions[network] = by_peer[self._key(network)] = []
            else:
                sessions[network] = self.sessions_of(network)
        if by_peer:
            for session in self.sessions:
                if session.peer in by_peer and not self._is_white(session.key):
                    by_peer[session.peer].append(session.key)
        for keys in sessions.values():
            self._ended.update(keys)
        return [Verdict(entry, sessions[network]) for network, entry in entries.items()]

    def _list(self, network: Network, why: str, now: float) -> Entry:
        before = self.blocks.setdefault(network, [])
        name, until, rank = self.policy.sentence(before, now)
        if rank > 1:
            why += f"; block {rank} within {span(self.policy.black_within)}"
        before.append(now)
        entry = Entry(name, network, why, "score", now, until)
        self.lists.put(entry)
        return entry

    def _key(self, network: Network) -> bytes:
        return self.size.key(network.network_address.packed)


@dataclass(slots=True)
class _Guilty:
    """Who reached the limit: peers by their key, and wide prefixes."""

    peers: dict[bytes, Peer] = field(default_factory=dict)
    swarms: dict[Network, Swarm] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.peers or self.swarms)


def _within(inner: Network, outer: Network) -> bool:
    if inner.version != outer.version or inner.prefixlen < outer.prefixlen:
        return False
    return inner.supernet(new_prefix=outer.prefixlen) == outer
