"""The engine: the one file that shows the whole way from events to verdicts.

    events -> sessions -> notes -> judge: scores -> policy -> verdicts (lists)

Pure: the same events and times give the same verdicts, live, in a replay and in a test. Times are
seconds of one clock that never goes back; entries' instants are on that clock too.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network
from math import inf
from typing import NamedTuple

from dpsd.core.events import EndpointsOf, Event, Key, State
from dpsd.core.judge import Guilty, Judge
from dpsd.core.knocks import Knocks
from dpsd.core.lingering import Lingering
from dpsd.core.lists import SCORE, Entry, ListName, Lists
from dpsd.core.peers import Network, PeerSize
from dpsd.core.policy import Policy
from dpsd.core.reaper import HURRIED, Haste, reap
from dpsd.core.sessions import Noted, Scope, Session, Sessions
from dpsd.core.siege import Siege
from dpsd.core.stalls import abandon
from dpsd.core.story import span, verdict
from dpsd.core.stress import Stress

STOOD_STILL = 3.0  # seconds between two ticks, in which the process, or the machine, did nothing
SWARM = 5  # so many peers with few useless sessions each for a slot are a swarm: slots / SWARM


@dataclass(frozen=True, slots=True)
class Verdict:
    """A new entry for a list, and the peer's sessions that are open now."""

    entry: Entry
    sessions: list[Key]


class Passed(NamedTuple):
    """What came of a tick: verdicts, sessions to end for want of slots, entries that are over; and
    the seconds since the last tick, if that was too long ago to judge anybody (else 0)."""

    verdicts: list[Verdict]
    ended: list[Key]
    over: list[Entry]
    missed: float


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
        self._stress = Stress()
        self.judge = Judge(policy, size, self.sessions, self._stress)
        self.scores = self.judge.scores
        self._knocks = Knocks()
        self._lingering = Lingering(self.sessions.lingering)
        self.blocks: dict[Network, list[float]] = {}  # when which peer was blocked by its score
        self.immune = immune
        self.lost = 0  # how often events were lost
        self._ticked = inf
        self.unseen: set[Scope] | None = None  # what is to be dumped; None: not yet known
        self._sieges: dict[frozenset[int], Siege] = defaultdict(Siege)  # by a pool's ports
        self.apply(policy)

    def apply(self, policy: Policy) -> None:
        """Go on with another policy."""
        self.policy = policy
        self.judge.apply(policy)
        self._stress.apply(policy)
        self._set_times()

    def _set_times(self) -> None:
        """How long sessions may take depends on how scarce slots are."""
        self.sessions.proper = self.policy.proper_times(self.stress)
        self.sessions.useful = self.policy.useful(self.stress)

    @property
    def stress(self) -> float:
        """How scarce slots are, from 0 to 1; it outlasts its cause for a while."""
        return self._stress.level

    @property
    def leaks(self) -> Mapping[str, float]:
        """Slot-seconds by which the server's own sessions overstayed, by TCP state."""
        return self.judge.leaks

    @property
    def pressure(self) -> float:
        """Sessions that keep a slot busy, as a share of the slots where they are scarcest."""
        return max(self.sessions.occupying(pool.ports) / pool.slots for pool in self.policy.pools)

    @property
    def pressed(self) -> list[int]:
        """The ports to look at often while slots run short: those with open sessions, and those
        that nobody may be judged without."""
        unseen = (port for port, _ in self.unseen or ())
        return sorted({*self.sessions.open_ports(), *unseen}) if self.stress else []

    @property
    def blind(self) -> bool:
        """Whether events are missing, so that nobody may be judged until dumps fill the gap."""
        return self.unseen is None or bool(self.unseen)

    def look(self, scopes: Iterable[Scope]) -> None:
        """Be blind until each of these (port, IP version) has been dumped completely.

        They are all that is protected; sessions to other ports are nobody's business any more.
        """
        self.unseen = set(scopes)
        self._lingering.skip()
        for _, session, _ in self.sessions.leave(self.unseen):
            self.judge.one_less(session)

    def feed(self, events: Sequence[Event], now: float) -> list[Verdict]:
        """Take events that arrived at `now`; the verdicts that follow."""
        sessions = self.sessions
        notes = sessions.feed(events, now)
        if sessions.losses != self.lost:
            self.lost, self.unseen = sessions.losses, None
            self.scores.forget_time_waits()  # their ends may have been lost
            self.judge.ended.clear()
        if sessions.swept:
            if self.unseen is not None:
                self.unseen.difference_update(sessions.swept)
            sessions.swept.clear()
        return self._judge(notes, now)

    def tick(self, now: float) -> Passed:
        """Let time pass, a few times a second. If none did for longer than STOOD_STILL, what peers
        did meanwhile is still to be read: as after lost events, nobody is judged until dumps."""
        missed, self._ticked = now - self._ticked, now
        stood = missed > STOOD_STILL
        if stood:
            self.unseen = None
        closing = (self.sessions.closing() + len(self._lingering)) / self.policy.slots
        self._stress.feel(self.policy, max(self.pressure, closing), now)
        self._set_times()
        verdicts = self._judge(self.sessions.tick(now), now)
        more, ended = self._reap(now)
        over = self.lists.expire(now)
        for entry in over:
            if entry.list == ListName.BLOCK:
                self.release(entry.peer)
        again = self._still_knocking(over, now)
        return Passed([*verdicts, *more, *again], ended, over, missed if stood else 0.0)

    def linger(self, keys: Iterable[Key], now: float) -> list[Verdict]:
        """Take the sessions that the server's sockets have closed and their peers haven't."""
        times = self.sessions.proper

        def proper(port: int) -> float:
            return times.get(port, times[0])[State.CLOSE_WAIT]

        return self._judge(self._lingering.take(keys, proper, now), now)

    def heard(self, words: Mapping[Key, tuple[float, bool]], now: float) -> None:
        """Take what the server's sockets tell: for how many seconds each last word could have been
        answered, and whether it was the server's."""
        self.sessions.heard(words, now)

    def knocked(self, packets: Mapping[Network, int], now: float) -> None:
        """Take how many packets of each listed peer were dropped since it was listed."""
        self._knocks.take(packets, self.policy.knock_rate, now)

    def _still_knocking(self, over: list[Entry], now: float) -> list[Verdict]:
        """Peers whose block is over, but which never stopped: they are listed for longer."""
        entries: dict[Network, Entry] = {}
        for entry in over:
            packets = self._knocks.by(entry.peer, now)
            if packets and entry.source == SCORE and self.lists.decisive(entry.peer) is None:
                why = f"never stopped knocking: {packets} packets dropped"
                entries[entry.peer] = self._list(entry.peer, why, now)
        return self._with_sessions(entries)

    def _reap(self, now: float) -> tuple[list[Verdict], list[Key]]:
        """Make room where slots run out: end useless sessions, and charge their peers."""
        if not self.stress or self.blind:
            return [], []
        policy, guilty, ended = self.policy, Guilty(), list[Key]()
        patience = partial(self.judge.patience, now=now)
        trust = partial(self.judge.trust, now=now)
        for pool in policy.pools:
            mine = [s for s in self.sessions if not pool.ports or s.port in pool.ports]
            # Those that are being ended already; to observe means that they stay.
            room = self.sessions.occupying(pool.ports) - sum(session.reaped for session in mine)
            room -= int(policy.stress_until * pool.slots)
            siege = self._sieges[pool.ports]
            swarming, besieged = now <= siege.swarm_until, now <= siege.until
            many = max(1, pool.slots // SWARM)
            after = policy.reap_after * (HURRIED if besieged else 1.0)
            if self.stress >= 1.0:
                abandon(mine, after, trust, self.sessions.server)
            haste = Haste(policy.reap_after, many, policy.few, swarming, besieged, patience)
            reaped, is_swarm = reap(mine, room, haste, self._is_spared)
            siege.take(len(reaped), pool.slots, is_swarm, now)
            for session in reaped:
                session.reaped = True
                self.judge.ended.add(session.key)
                ended.append(session.key)
                self.judge.crowded(session, swarming or is_swarm, guilty, now)
        return self._sentence(guilty, now), ended

    def _is_spared(self, session: Session) -> bool:
        """Whether a session is never ended: a white address's, or an immune one's."""
        address = ip_network(self.sessions.endpoints(session.key).peer)
        return self._is_white(session.key) or self.immune(address)

    def was_ended(self, keys: Iterable[Key]) -> None:
        """These sessions end because the host wants it: that is no doing of their peers."""
        self.judge.ended.update(keys)

    def forgive(self, network: Network) -> None:
        """An operator took peers off a list: what they did before counts no more."""
        self.blocks.pop(network, None)
        self.release(network)

    def release(self, network: Network) -> None:
        """Let peers that left a list start with a clean slate."""
        self.judge.prefixes.clear(network)
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
        self.judge.prefixes.prune(now)
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
        blind = self.blind
        guilty = self.judge.hear(notes, blind, now)
        return [] if blind or not guilty else self._sentence(guilty, now)

    def _sentence(self, guilty: Guilty, now: float) -> list[Verdict]:
        entries: dict[Network, Entry] = {}
        for network, prefix in guilty.prefixes.items():
            if self.lists.decisive(network) is None and not self.immune(network):
                why = (
                    f"{prefix.score:.0f} slot-seconds by {len(prefix.peers)} of its peers together"
                )
                entries[network] = self._list(network, why, now)
                self.judge.prefixes.clear(network)
        for key, peer in guilty.peers.items():
            network = self.size.network_of_key(key)
            decisive = self.lists.decisive(network)
            if decisive is not None or self.immune(network):
                peer.listed = decisive is not None and decisive.list != ListName.WHITE
                continue
            score, limit = self.scores.score(peer, now), self.judge.limit(peer, now)
            if score < limit:  # it delivered in the meantime
                continue
            why = verdict(score, limit, peer.evidence.values())
            entries[network] = self._list(network, why, now)
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
            self.judge.ended.update(keys)
        return [Verdict(entry, sessions[network]) for network, entry in entries.items()]

    def _list(self, network: Network, why: str, now: float) -> Entry:
        before = self.blocks.setdefault(network, [])
        name, until, rank = self.policy.sentence(before, now)
        if rank > 1:
            why += f"; block {rank} within {span(self.policy.black_within)}"
        before.append(now)
        if self.size.is_peer(network) and (peer := self.scores.get(self._key(network))) is not None:
            peer.listed = True
        entry = Entry(name, network, why, SCORE, now, until)
        self.lists.put(entry)
        return entry

    def _key(self, network: Network) -> bytes:
        return self.size.key(network.network_address.packed)


def _within(inner: Network, outer: Network) -> bool:
    if inner.version != outer.version or inner.prefixlen < outer.prefixlen:
        return False
    return inner.supernet(new_prefix=outer.prefixlen) == outer
