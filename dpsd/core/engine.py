"""The engine: the one file that shows the whole way from events to verdicts.

    events -> sessions -> notes -> judge: scores -> policy -> verdicts (lists)
                 |
                 +-> bids -> auction -> doomed -> (the sockets are asked) -> ended

Pure: the same events and times give the same verdicts, live, in a replay and in a test. Times are
seconds of one clock that never goes back; entries' instants are on that clock too. Whatever there
may be very many of is worked off a slice at a tick.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from itertools import islice
from math import inf
from typing import NamedTuple

from dpsd.core.auction import Auction
from dpsd.core.capacity import Capacity
from dpsd.core.events import EndpointsOf, Event, Key, State, Word
from dpsd.core.evidence import Excuse
from dpsd.core.given import GATEWAY, HOST, POSTFIX
from dpsd.core.halfclosed import HalfClosed
from dpsd.core.judge import Guilty, Judge
from dpsd.core.lists import SCORE, Entry, ListName, Lists
from dpsd.core.numbers import SPARED, STOOD_STILL
from dpsd.core.peers import Network, PeerSize
from dpsd.core.policy import Policy
from dpsd.core.pressure import Stress
from dpsd.core.retries import Retries
from dpsd.core.scores import Peer, Scores
from dpsd.core.sessions import (
    ESTABLISHED,
    EVERYTHING,
    LOOKED,
    OPENED,
    Noted,
    Scope,
    Session,
    Sessions,
)
from dpsd.core.story import span, verdict
from dpsd.core.turn import DOUBT, GREETING
from dpsd.core.witness import Witness

SLICE = 2_000  # sessions that are looked through at a tick for those of a prefix
OVER = 200  # entries whose time is over that are taken off the lists at a tick
PRESSES = 0.25  # share of the slots that a peer holds which is named for it
PRESSED_FOR = 10.0  # seconds since a session of its was to end
RECALLED = 500  # earlier blocks that are looked at together, to forget them


@dataclass(frozen=True, slots=True)
class Verdict:
    """A new entry for a list, and the peer's sessions that are open now."""

    entry: Entry
    sessions: list[Key]


class Passed(NamedTuple):
    """What came of a tick: verdicts; sessions that should end for want of slots, about which the
    sockets are to be asked, for settle(); sessions of listed prefixes that are to end; entries that
    are over; and the seconds since the last tick, if that was too long ago to judge anybody."""

    verdicts: list[Verdict]
    doomed: list[Key]
    listed: list[Key]
    over: list[Entry]
    missed: float


class Pressing(NamedTuple):
    """A peer that can't be listed, and its open sessions; white: why it is; relay: whether those
    sessions are ended all the same."""

    peer: Network
    sessions: int
    white: str
    relay: bool


class Settled(NamedTuple):
    """What came of asking: verdicts, the sessions to end now, and which peers may open no new
    session for how many seconds."""

    verdicts: list[Verdict]
    ended: list[Key]
    deferred: list[tuple[Network, float]]


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
        self.scores = Scores(size, policy.half_life, policy.churn_rate, policy.churn_burst)
        self.scores.is_listed = lambda key: (
            self.lists.decisive(size.network_of_key(key)) is not None
        )
        self.sessions = Sessions(endpoints, self.scores, protects)
        self._stress = Stress()
        self.judge = Judge(policy, self.scores, self.sessions, self._stress)
        self._retries = Retries()
        self._half_closed = HalfClosed(self.sessions.lingering)
        self.witness = Witness(self.sessions)
        self.relays = self.sessions.relays
        self.scores.earned = self.relays.earned
        self.pressers: dict[bytes, float] = {}  # spared peers of no use, and relays: when last
        self.capacity = Capacity(self.sessions)
        self.blocks: dict[Network, list[float]] = {}  # when which peer was blocked by its score
        self.immune = immune
        self.lost = 0  # how often events were lost
        self._ticked = inf
        self.unseen: set[Scope] | None = None  # what is to be dumped; None: not yet known
        self._scopes: set[Scope] | None = None
        self._auctions: dict[frozenset[int], Auction] = defaultdict(Auction)  # by a pool's ports
        self._unwelcome: list[Session] = []  # of deferred peers, since the last tick
        self._wide: list[Network] = []  # listed prefixes whose sessions are to be looked for
        self._searching: list[Network] = []  # and those for which that goes on
        self._searched: Iterator[Session] = iter(())
        self.apply(policy)

    def live_among(self, addresses: Iterable[bytes]) -> None:
        """In the /64s of these packed addresses, the host's own, each address is a peer."""
        self.size = self.size.with_alone(addresses)
        self.scores.size = self.size
        self.sessions.size = self.size

    def apply(self, policy: Policy) -> None:
        """Go on with another policy."""
        self._given = policy
        policy = self.policy = replace(policy, pools=self.capacity.pools(policy.pools))
        self.judge.apply(policy)
        self._stress.apply(policy)
        server = self.sessions.server
        server.mail_bytes, server.useful_rate = policy.delivered_bytes, policy.useful_rate
        self.sessions.shortest = policy.proper_times(1.0)
        self._set_times()

    def _set_times(self) -> None:
        """How long sessions may take depends on how scarce slots are."""
        self.sessions.proper = self.policy.proper_times(self.stress)

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
    def price(self) -> float:
        """Bytes a second that a session has to be worth, where slots are scarcest; 0 at rest."""
        return max((a.price for a in self._auctions.values()), default=0.0) if self.stress else 0.0

    @property
    def ticked(self) -> float:
        """When time passed last."""
        return self._ticked

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
        self._half_closed.skip()
        self.witness.skip()
        self.sessions.skip_idle()
        if self.unseen != self._scopes:
            self._scopes = set(self.unseen)
            self.sessions.leave(self.unseen)

    def feed(self, events: Sequence[Event], now: float) -> list[Verdict]:
        """Take events that arrived at `now`; the verdicts that follow."""
        sessions = self.sessions
        notes = sessions.feed(events, now)
        if sessions.losses != self.lost:
            self.lost, self.unseen = sessions.losses, None
            self.scores.forget_time_waits()  # their ends may have been lost
            self.judge.ended.clear()
        if sessions.swept:
            if self.unseen is not None and EVERYTHING in sessions.swept:
                self.unseen.clear()
            elif self.unseen is not None:
                self.unseen.difference_update(sessions.swept)
            sessions.swept.clear()
        if sessions.begun:
            for auction in self._auctions.values():
                auction.begin_look(sessions.begun)
            sessions.begun.clear()
        if self.stress:
            self._bid(notes, now)
        return self._judge(notes, now)

    def _bid(self, notes: Sequence[Noted], now: float) -> None:
        """While slots run short: take bids of the sessions that were looked at, and note new ones
        of peers that may open none."""
        for note, session, _ in notes:
            if note == LOOKED and not session.lost:
                for pool in self.policy.pools:
                    if not pool.ports or session.port in pool.ports:
                        self._auctions[pool.ports].bid(session, now)
            elif note == OPENED and session.peer.deferred_until > now:
                self._unwelcome.append(session)

    def tick(self, now: float) -> Passed:
        """Let time pass, a few times a second. If none did for longer than STOOD_STILL, what peers
        did meanwhile is still to be read: as after lost events, nobody is judged until dumps."""
        missed, self._ticked = now - self._ticked, now
        stood = missed > STOOD_STILL
        if stood:
            self.unseen = None
        self.relays.tick(now)
        if not self.blind and self.capacity.look(now):
            self.apply(self._given)
        closing = (self.sessions.closing() + len(self._half_closed)) / self.policy.slots
        self._stress.feel(self.policy, max(self.pressure, closing), now)
        self._set_times()
        self.sessions.tells_looks = self.stress > 0
        verdicts = self._judge(self.sessions.tick(now), now)
        doomed = self._doom(now)
        over = self.lists.expire(now, OVER)
        for entry in over:
            if entry.list == ListName.BLOCK:
                self.release(entry.peer)
        again = self._still_trying(over, now)
        self._forget(now)
        return Passed([*verdicts, *again], doomed, self._search(), over, missed if stood else 0.0)

    def _doom(self, now: float) -> list[Key]:
        """Who should leave, where slots run short."""
        unwelcome, self._unwelcome = self._unwelcome, []
        if not self.stress or self.blind:
            return []
        doomed = [s for s in unwelcome if s.state == ESTABLISHED and not self._is_spared(s)]
        for pool in self.policy.pools:
            auction, taken = self._auctions[pool.ports], self.sessions.occupying(pool.ports)
            silent = self.sessions.server.is_silent(now)
            auction.set_price(self.policy, pool, taken, silent, now)
            if auction.demand > self.policy.stress_at:
                going = self.sessions.going(pool.ports) + len(doomed)
                room = taken - going - int(self.policy.stress_until * pool.slots)
                spared = int(SPARED * pool.slots)
                doomed += auction.take(room, spared, self.policy.few, self._is_spared, now)
            else:
                doomed += auction.returned(self._is_spared, now)
        for session in doomed:
            self.sessions.doom(session, True)
        return [session.key for session in doomed]

    def settle(
        self, doomed: Iterable[Key], words: Mapping[Key, Word] | None, now: float
    ) -> Settled:
        """End those of the doomed sessions that are still of no use when their sockets were asked.

        words: what these say; None: there are none to be asked here.
        """
        guilty, ended = Guilty(), list[Key]()
        deferred: dict[Network, float] = {}
        barred: dict[bytes, Peer] = {}
        for key in doomed:
            session = self.sessions.get(key)
            if session is None:
                continue
            self.sessions.doom(session, False)
            if session.state != ESTABLISHED or self.scores.is_barred(session.peer):
                continue
            own = self._own(session, words, now)
            if own is None:
                continue
            ended += self._end(session)
            if session.peer.relay:  # listing or deferring it would cost others
                self.pressers[session.peer.key] = now
                continue
            demand = self._auction_of(session).demand
            seconds = self.judge.crowded(session, own, demand, guilty, now)
            if seconds > 0:
                network = self.size.network_of_key(session.peer.key)
                deferred[network] = max(seconds, deferred.get(network, 0.0))
                if session.peer.excuse not in (Excuse.DELIVERED, Excuse.MAILED):
                    barred[session.peer.key] = session.peer
        ended += self._end_waiting(barred.values())
        return Settled(self._sentence(guilty, now), ended, list(deferred.items()))

    def _own(self, session: Session, words: Mapping[Key, Word] | None, now: float) -> float | None:
        """Seconds of its own time that a doomed session let pass, or for which its reply is due; 0
        if its peer may have no new one now; None: it isn't to end after all."""
        progress = session.progress
        if session.peer.deferred_until > now and (progress is None or progress.turn == GREETING):
            return 0.0
        if words is not None:
            word = words.get(session.key)
            if word is None and progress is not None and progress.exact:  # its socket is gone
                return None
            if word is not None:
                if not word.accepted and session.peer.deferred_until <= now:
                    return None
                progress = self.sessions.told(session, word, now)
        if progress is not None and progress.turn == DOUBT:
            return now - progress.since
        return self._auction_of(session).overdue(session, now)

    def _auction_of(self, session: Session) -> Auction:
        """Where its slot is scarcest."""
        pools = (p.ports for p in self.policy.pools if not p.ports or session.port in p.ports)
        return max((self._auctions[ports] for ports in pools), key=lambda each: each.demand)

    def _end_waiting(self, barred: Iterable[Peer]) -> list[Key]:
        """End the sessions of these peers that the server hasn't greeted yet; looks at SLICE."""
        ended: list[Key] = []
        theirs = (session for peer in barred for session in peer.sessions.values())
        for each in list(islice(theirs, SLICE)):
            if each.progress is None or each.progress.turn == GREETING:
                ended += [] if self._is_spared(each) else self._end(each)
        return ended

    def _end(self, session: Session) -> list[Key]:
        if session.doomed or session.state != ESTABLISHED:
            return []
        self.sessions.doom(session, True)
        self.judge.ended.add(session.key)
        return [session.key]

    def not_ended(self, keys: Iterable[Key]) -> None:
        """These sessions could not be ended: they keep their slots."""
        for key in keys:
            session = self.sessions.get(key)
            if session is not None:
                self.sessions.doom(session, False)
                self.judge.ended.discard(key)

    def linger(self, keys: Iterable[Key], now: float) -> list[Verdict]:
        """Take the sessions that the server's sockets have closed and their peers haven't."""
        times = self.sessions.proper

        def proper(port: int) -> float:
            return times.get(port, times[0])[State.CLOSE_WAIT]

        return self._judge(self._half_closed.take(keys, proper, now), now)

    def see(
        self, sockets: Container[Key], unseen: Collection[Key],
        words: Mapping[Key, Word | None], now: float,
    ) -> list[Verdict]:  # fmt: skip
        """Take the sessions that only the server's sockets tell of; see Witness.take()."""
        notes = self.witness.take(sockets, unseen, words, now)
        if self.stress:
            self._bid(notes, now)
        return self._judge(notes, now)

    def retried(self, persistent: Mapping[Network, int], now: float) -> None:
        """Take which listed peers went on sending, and how many of their packets were dropped."""
        self._retries.take(persistent, now)

    def _still_trying(self, over: list[Entry], now: float) -> list[Verdict]:
        """Peers whose block is over, but which never stopped: they are listed for longer."""
        entries: dict[Network, Entry] = {}
        for entry in over:
            packets = self._retries.by(entry.peer, now)
            if packets and entry.source == SCORE and self.lists.decisive(entry.peer) is None:
                why = f"went on while it was blocked: {packets} packets dropped"
                entries[entry.peer] = self._list(entry.peer, why, now)
        return self._with_sessions(entries)

    def _is_spared(self, session: Session) -> bool:
        """Whether a session is never ended: a white address's, or an immune one's. A gateway's is,
        unless somebody put that on the white list: behind it may be anybody."""
        address = ip_network(self.sessions.endpoints(session.key).peer)
        white = [*self.lists.all_covering(ListName.WHITE, address)]
        if any(each.reason == GATEWAY for each in white):
            spared = any(each.source not in (HOST, POSTFIX) for each in white)
        else:
            spared = bool(white) or self.immune(address)
        if spared:
            self.pressers[session.peer.key] = self._ticked
        return spared

    def pressing(self, now: float) -> list[Pressing]:
        """The peers that keep slots from others to no purpose and can't be listed for it: those
        that hold PRESSES of the slots, while these run short."""
        few = PRESSES * min(pool.slots for pool in self.policy.pools)
        self.pressers = {k: at for k, at in self.pressers.items() if now - at < PRESSED_FOR}
        found = []
        for key in self.pressers if self.stress else ():
            peer, network = self.scores.get(key), self.size.network_of_key(key)
            if peer is not None and peer.open >= few:
                white = self.lists.covering(ListName.WHITE, network)
                why = "" if white is None else white.reason or white.source
                found.append(Pressing(network, peer.open, why, peer.relay))
        return found

    def was_ended(self, keys: Iterable[Key]) -> None:
        """These sessions end because the host wants it: that is no doing of their peers."""
        self.judge.ended.update(keys)

    def forgive(self, network: Network) -> None:
        """An operator took peers off a list: what they did before counts no more."""
        self.blocks.pop(network, None)
        self.release(network)

    def release(self, network: Network) -> None:
        """Let peers that left a list start with a clean slate; those of a prefix do when they are
        heard of next."""
        self.judge.prefixes.clear(network)
        if self.size.is_peer(network):
            self.scores.clear(self.size.key(network.network_address.packed))

    def _forget(self, now: float) -> None:
        """Forget some of what doesn't matter any more."""
        self.judge.prune(now)
        for network in list(islice(self.blocks, RECALLED)):
            times = self.blocks.pop(network)
            recent = [at for at in times if now - at <= self.policy.black_within]
            if recent:
                self.blocks[network] = recent  # to the end of the queue

    def sessions_of(self, network: Network) -> list[Key]:
        """The open sessions from a peer, but for those of addresses that are white. Those of a
        wider prefix are looked for in the ticks to come: see Passed.listed."""
        address, size = network.network_address.packed, self.size
        peer = self.scores.get(size.key(address))
        shared = size.is_alone(address) and not size.is_peer(network)
        if network.prefixlen < self.size.prefix(network.version) or shared:
            self._wide.append(network)
            return []
        if peer is None:
            return []
        keys = (key for key in peer.sessions if self._is_in(key, network))
        return [key for key in keys if not self._is_white(key)]

    def search(self, networks: Iterable[Network]) -> None:
        """Look for the open sessions from these in the ticks to come: see Passed.listed."""
        self._wide += networks

    def _search(self) -> list[Key]:
        """Some more of the sessions of listed prefixes: one pass over all for those of a moment."""
        some = list(islice(self._searched, SLICE))
        if not some and self._wide:
            self._searching, self._wide = self._wide, []
            self._searched = iter([*self.sessions])
            some = list(islice(self._searched, SLICE))
        keys = [s.key for s in some if any(self._is_in(s.key, each) for each in self._searching)]
        return [key for key in keys if not self._is_white(key)]

    def _is_in(self, key: Key, network: Network) -> bool:
        address = self.sessions.endpoints(key).peer
        if len(address) * 8 != network.max_prefixlen:
            return False
        shift = network.max_prefixlen - network.prefixlen
        return int.from_bytes(address) >> shift == int(network.network_address) >> shift

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
            if decisive is not None or self.immune(network) or peer.relay:
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
        verdicts = [Verdict(entry, self.sessions_of(peer)) for peer, entry in entries.items()]
        for each in verdicts:
            self.judge.ended.update(each.sessions)
        return verdicts

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
