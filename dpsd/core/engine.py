"""The engine: the one file that shows the whole way from events to verdicts.

    events -> sessions -> notes -> judge: scores -> sentences: verdicts (lists)
                 |
                 +-> bids -> room: doomed -> (the sockets are asked) -> ended

Pure: the same events and times give the same verdicts, live, in a replay and in a test. Times are
seconds of one clock that never goes back; entries' instants are on that clock too. Whatever there
may be very many of is worked off a slice at a tick.
"""

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import NamedTuple

from dpsd.core.capacity import Capacity
from dpsd.core.dumps import EVERYTHING, Scope
from dpsd.core.events import EndpointsOf, Event, Key, State, Word
from dpsd.core.halfclosed import HalfClosed
from dpsd.core.judge import Guilty, Judge
from dpsd.core.lists import Entry, ListName, Lists
from dpsd.core.numbers import STOOD_STILL
from dpsd.core.owners import Owners, Pressing
from dpsd.core.peers import Network, PeerSize
from dpsd.core.policy import Policy
from dpsd.core.pressure import Stress
from dpsd.core.room import Room
from dpsd.core.scores import Scores
from dpsd.core.sentences import Sentences, Verdict
from dpsd.core.session import Noted
from dpsd.core.sessions import Sessions
from dpsd.core.witness import Witness

OVER = 200  # entries whose time is over that are taken off the lists at a tick


class Passed(NamedTuple):
    """What came of a tick: verdicts; sessions that should end for want of slots, about which the
    sockets are to be asked, for settle(); sessions of who is listed that are to end; entries that
    are over; and the seconds since the last tick, if that was too long ago to judge anybody."""

    verdicts: list[Verdict]
    doomed: list[Key]
    listed: list[Key]
    over: list[Entry]
    missed: float


class Settled(NamedTuple):
    """What came of asking: verdicts, the sessions to end now, and which peers may open no new
    session for how many seconds."""

    verdicts: list[Verdict]
    ended: list[Key]
    deferred: list[tuple[Network, float]]


class Engine:
    """Owns sessions, scores and lists. Nothing else changes them while it runs.

    immune(network): see Owners.
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
            self.lists.decisive(self.size.network_of_key(key)) is not None
        )
        self.sessions = Sessions(endpoints, self.scores, protects)
        self._stress = Stress()
        self.judge = Judge(policy, self.scores, self.sessions, self._stress)
        self.owners = Owners(lists, self.scores, self.sessions, immune)
        self.sentences = Sentences(policy, lists, self.judge, self.owners)
        self._room = Room(policy, self.sessions, self.judge, self.owners)
        self._half_closed = HalfClosed(self.sessions.lingering)
        self.witness = Witness(self.sessions)
        self.relays = self.sessions.relays
        self.scores.earned = self.relays.earned
        self.capacity = Capacity(self.sessions)
        self.lost = 0  # how often events were lost
        self._ticked = inf
        self.unseen: set[Scope] | None = None  # what is to be dumped; None: not yet known
        self._scopes: set[Scope] | None = None
        self.apply(policy)

    def live_among(self, addresses: Iterable[bytes]) -> None:
        """In the /64s of these packed addresses, the host's own, each address is a peer."""
        self.size = self.size.with_alone(addresses)
        self.scores.size = self.size
        self.sessions.size = self.size

    def apply(self, policy: Policy) -> None:
        """Go on with another policy."""
        self._given = policy
        policy = replace(policy, pools=self.capacity.pools(policy.pools))
        self.policy = self.sentences.policy = self._room.policy = policy
        self.judge.apply(policy)
        self._stress.apply(policy)
        server = self.sessions.server
        server.mail_bytes, server.useful_rate = policy.delivered_bytes, policy.useful_rate
        for latency in (server.talk, server.mail, server.filter):
            latency.lasts = policy.stress_lasts
        self.sessions.set_shortest(policy.proper_times(1.0))
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
        return self._room.price if self.stress else 0.0

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
        self.sessions.dumps.skip()
        self.witness.skip()
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
        if swept := sessions.dumps.swept:
            if self.unseen is not None and EVERYTHING in swept:
                self.unseen.clear()
            elif self.unseen is not None:
                self.unseen.difference_update(swept)
            swept.clear()
        if begun := sessions.dumps.begun:
            self._room.begin_look(begun)
            begun.clear()
        if self.stress:
            self._room.bid(notes, now)
        return self._judge(notes, now)

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
        notes = [*self.sessions.tick(now), *self._half_closed.overstays()]
        verdicts = self._judge(notes, now)
        doomed = self._room.doom(now) if self.stress and not self.blind else self._room.skip()
        over = self.lists.expire(now, OVER)
        for entry in over:
            if entry.list == ListName.BLOCK:
                self.release(entry.peer)
        again = self.sentences.on_retries(over, now)
        self.judge.prune(now)
        self.sentences.forget(now)
        found = self.owners.found(now)
        return Passed([*verdicts, *again], doomed, found, over, missed if stood else 0.0)

    def settle(
        self, doomed: Iterable[Key], words: Mapping[Key, Word] | None, now: float
    ) -> Settled:
        """End those of the doomed sessions that are still of no use when their sockets were asked.

        words: what these say; None: there are none to be asked here.
        """
        guilty = Guilty()
        ended, deferred = self._room.settle(doomed, words, guilty, now)
        return Settled(self.sentences.on(guilty, now), ended, deferred)

    def not_ended(self, keys: Iterable[Key]) -> None:
        """These sessions could not be ended: they keep their slots."""
        self._room.not_ended(keys)

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
            self._room.bid(notes, now)
        return self._judge(notes, now)

    def retried(self, persistent: Mapping[Network, int], now: float) -> None:
        """Take which listed peers went on sending, and how many of their packets were dropped."""
        self.sentences.retried(persistent, now)

    def pressing(self, now: float) -> list[Pressing]:
        """The peers that keep slots from others to no purpose and can't be listed for it; nobody
        while there is room."""
        return self.owners.pressing(self.policy, now) if self.stress else []

    def was_ended(self, keys: Iterable[Key]) -> None:
        """These sessions end because the host wants it: that is no doing of their peers."""
        self.judge.ended.update(keys)

    def forgive(self, network: Network) -> None:
        """An operator took peers off a list: what they did before counts no more."""
        self.sentences.blocks.pop(network, None)
        self.release(network)

    def release(self, network: Network) -> None:
        """Let peers that left a list start with a clean slate; those of a prefix do when they are
        heard of next."""
        self.judge.prefixes.clear(network)
        if self.size.is_peer(network):
            self.scores.clear(self.size.key(network.network_address.packed))

    def sessions_of(self, network: Network) -> list[Key]:
        """The open sessions from a peer, but for those of addresses that are white. Those of a
        wider prefix, and those heard of only now, are found in the ticks to come: see
        Passed.listed."""
        return self.owners.sessions_of(network)

    def search(self, networks: Iterable[Network]) -> None:
        """Look for the open sessions from these in the ticks to come: see Passed.listed."""
        self.owners.search(networks)

    def _judge(self, notes: list[Noted], now: float) -> list[Verdict]:
        """Charge what the notes tell; list the peers that have become too expensive."""
        blind = self.blind
        guilty = self.judge.hear(notes, blind, now)
        if blind or not (guilty or self.sentences.waiting):
            return []
        return self.sentences.on(guilty, now)
