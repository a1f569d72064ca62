"""Scores: what each peer's sessions cost the server, in slot-seconds, and how that fades.

A slot-second is one place for a session, kept busy for a second to no purpose. A peer's score is
the sum of what its evidence cost, each part halved every half-life since. Credit is what it
brought lately: a unit for each mail up to policy.trust_most, so that it can't be bought by volume;
each session of no use spends some.
"""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from dpsd.core.events import Key, State
from dpsd.core.evidence import Evidence, Excuse, Kind, Seen
from dpsd.core.peers import Network, PeerSize
from dpsd.core.shards import Shards

if TYPE_CHECKING:
    from dpsd.core.session import Session

NEGLIGIBLE = 0.5  # slot-seconds; a lower score isn't worth keeping
MOST = 250_000  # peers to remember; whoever has a whole provider's prefixes could be more
TIME_WAITS_END = 600.0  # seconds after a peer's last session in which all have left TIME_WAIT
SLICE = 250  # peers that are looked at together, to forget those of whom nothing matters
FOR_A_NEW_ONE = 4  # and that many for each new one when there are MOST


class Peer:
    """What is remembered of one peer. `score` was right at `at`, `credit` at `credited_at`, `idle`
    (how many sessions of no use it had lately) at `idle_at`. sessions: the open ones. ended_at:
    when one or some of no use were last ended, deferred_until: up to when it may open no new one
    since, deferrals: how often that was so in a row, held: the most that it had open then, charged:
    slot-seconds for those ended since;
    returned_since: sessions that were opened later are charged when they are ended. excuse: why it
    wasn't charged for the last thing that it might have been charged for; delivers: whether it was
    seen to deliver mail again and again; relay: whether its sessions are other people's.
    """

    __slots__ = (
        *("at", "charged", "credit", "credited_at", "deferrals", "deferred_until", "delivers"),
        *("ended_at", "evidence", "held"),
        *("excuse", "idle", "idle_at", "key", "listed", "opened", "refilled", "score", "second"),
        *("mailed_at", "relay", "relay_since", "returned_since", "sessions"),
        *("time_wait", "time_wait_epoch", "tokens"),
    )

    def __init__(self, key: bytes, tokens: float, now: float) -> None:
        self.key = key
        self.score = 0.0
        self.at = now
        self.evidence: dict[tuple[Kind, str], Evidence] = {}
        self.sessions: dict[Key, Session] = {}
        self.opened = 0  # sessions since `second`, within which they are counted
        self.second = now
        self.time_wait = self.time_wait_epoch = 0
        self.tokens = tokens
        self.refilled = now
        self.credit = 0.0
        self.credited_at = now
        self.listed = self.delivers = self.relay = False
        self.ended_at = self.deferred_until = -math.inf
        self.deferrals = self.held = 0
        self.relay_since = -1  # as of which of Relays.changes it is known whether it is one
        self.charged = 0.0
        self.returned_since = math.inf
        self.idle = 0.0
        self.idle_at = now
        self.mailed_at = -math.inf  # when it last delivered mail
        self.excuse: Excuse | None = None

    @property
    def open(self) -> int:
        """How many sessions it has open."""
        return len(self.sessions)

    @property
    def rivals(self) -> int:
        """By how many sessions the worth of each of its own is divided."""
        return 1 if self.relay else max(1, len(self.sessions))

    def holds(self, most: int) -> int:
        """How many of them nobody has begun to close; counts no further than `most`, and looks no
        further than at twice as many of the newest."""
        some = islice(reversed(self.sessions.values()), 2 * most)
        return min(most, sum(session.state == State.ESTABLISHED for session in some))


class Scores:
    """All peers with something to remember, by their key (leading bytes of their address)."""

    def __init__(self, size: PeerSize, half_life: float, rate: float, burst: float) -> None:
        """half_life: seconds; rate, burst: sessions a second and at once that a peer may open."""
        self.size = size
        self.half_life = half_life
        self.rate = rate
        self.burst = burst
        self.credit_half_life = 14 * 86400.0
        self.changed: set[bytes] = set()  # whose score the store hasn't been told
        self.is_listed: Callable[[bytes], bool] = lambda _: True  # whether a `listed` one still is
        self.earned: Callable[[Peer, float, float], None] = lambda *_: None  # who hears of mails
        self.forgotten: list[Peer] = []  # by prune(); whoever reads it clears it
        self._peers = Shards[bytes, Peer]()
        self._epoch = 0  # of sessions in TIME_WAIT: those of an older one are forgotten
        self._round: Iterator[Peer] = iter(())  # those that prune() has yet to look at

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers)

    def get(self, key: bytes) -> Peer | None:
        """The peer, if anything is remembered of it."""
        return self._peers.get(key)

    def peer(self, key: bytes, now: float) -> Peer:
        """The peer, remembered from now on."""
        peer = self._peers.get(key)
        if peer is None:
            if len(self._peers) >= MOST:
                self.prune(now, FOR_A_NEW_ONE)
            peer = Peer(key, self.burst, now)
            self._peers.add(key, peer)
        return peer

    def is_barred(self, peer: Peer) -> bool:
        """Whether a peer was listed, and still is."""
        return peer.listed and self.is_listed(peer.key)

    def opened(self, peer: Peer, now: float) -> bool:
        """Count a new session of a peer; whether it came within the peer's allowance."""
        if now - peer.second >= 1.0:
            peer.second, peer.opened = now, 0
        peer.opened += 1
        tokens = min(peer.tokens + (now - peer.refilled) * self.rate, self.burst)
        peer.refilled = now
        if tokens >= 1:
            peer.tokens = tokens - 1
            return True
        peer.tokens = tokens
        return False

    def excuses(self, peer: Peer, rate: float, burst: float, now: float) -> bool:
        """Count a session of no use; whether it was one of those that cost a peer nothing.

        rate, burst: how many of them are free, a second and at once.
        """
        peer.idle = max(0.0, peer.idle - (now - peer.idle_at) * rate) + 1
        peer.idle_at = now
        if peer.idle <= burst:
            return True
        peer.idle = burst
        return False

    def score(self, peer: Peer, now: float) -> float:
        """A peer's score at a time not before its last evidence."""
        return peer.score * math.exp2((peer.at - now) / self.half_life)

    def charge(
        self, peer: Peer, kind: Kind, state: str, cost: float, now: float, count: int = 1,
        seen: Seen = Seen(),  # noqa: B008 - a tuple
    ) -> float:  # fmt: skip
        """Add evidence to a peer; its score after it."""
        peer.score = self.score(peer, now) + cost
        peer.at = now
        evidence = peer.evidence.get((kind, state))
        if evidence is None:
            evidence = peer.evidence[kind, state] = Evidence(kind, state, cost, count, now, now)
        else:
            evidence.cost += cost
            evidence.count += count
            evidence.at = now
        evidence.note(seen)
        self.changed.add(peer.key)
        return peer.score

    def earn(self, peer: Peer, worth: float, most: float, now: float) -> None:
        """Credit for what was of use, as far as `most` in all.

        The store is told of each whole unit: of every session would be most of its work.
        """
        self.earned(peer, worth, now)
        credit = self.credit(peer, now)
        if credit < most:
            peer.credit, peer.credited_at = min(most, credit + worth), now
            if int(peer.credit) > int(credit):
                self.changed.add(peer.key)

    def spend(self, peer: Peer, worth: float, now: float) -> bool:
        """Take credit away; whether there was enough of it. A mail that has faded counts as one for
        its half-life."""
        if not peer.credit:
            return False
        credit = self.credit(peer, now)
        peer.credit, peer.credited_at = max(0.0, credit - worth), now
        self.changed.add(peer.key)
        return credit >= worth / 2

    def credit(self, peer: Peer, now: float) -> float:
        """What a peer has to its credit, faded."""
        if not peer.credit:
            return 0.0
        return peer.credit * math.exp2((peer.credited_at - now) / self.credit_half_life)

    def patience(self, peer: Peer, now: float) -> float:
        """How many times the usual score a peer may reach: 1 for a stranger, at most 3.8."""
        return patience(self.credit(peer, now))

    def restore(self, network: Network, score: float, at: float, evidence: list[Evidence]) -> Peer:
        """Remember a peer from before the daemon was started."""
        peer = self.peer(self.size.key(network.network_address.packed), at)
        peer.score, peer.at = score, at
        peer.evidence = {(each.kind, each.state): each for each in evidence}
        return peer

    def clear(self, key: bytes) -> None:
        """Forget what a peer did: it was released."""
        peer = self._peers.get(key)
        if peer is not None:
            peer.score, peer.deferrals, peer.held = 0.0, 0, 0
            peer.deferred_until = peer.ended_at = -math.inf
            peer.returned_since = math.inf
            peer.evidence.clear()
            peer.listed = False
            self.changed.add(key)

    def time_wait(self, peer: Peer, more: int) -> int:
        """Count sessions in TIME_WAIT, more or (negative) less; how many there are."""
        if peer.time_wait_epoch != self._epoch:
            peer.time_wait, peer.time_wait_epoch = 0, self._epoch
        peer.time_wait = max(0, peer.time_wait + more)
        return peer.time_wait

    def forget_time_waits(self) -> None:
        """Nobody knows any more how many sessions of whom are in TIME_WAIT."""
        self._epoch += 1

    def prune(self, now: float, most: int = SLICE) -> int:
        """Look at some peers, and drop those of whom nothing is worth remembering; how many.

        When there are more than MOST, of these also those with the least score and credit.
        """
        some = list(islice(self._round, most))
        if not some:
            self._round = iter(self._peers)
            some = list(islice(self._round, most))
        kept, gone = list[Peer](), list[Peer]()
        for peer in some:
            (kept if self._matters(peer, now) else gone).append(peer)
        if len(self._peers) - len(gone) > MOST:
            idle = [peer for peer in kept if not (peer.sessions or peer.listed)]
            idle.sort(key=lambda peer: self.score(peer, now) + self.credit(peer, now))
            gone += idle[: len(idle) // 2 + 1]
        for peer in gone:
            self._peers.remove(peer.key)
        self.forgotten += gone
        return len(gone)

    def _matters(self, peer: Peer, now: float) -> bool:
        if peer.listed and not self.is_listed(peer.key):
            self.clear(peer.key)  # what it was listed with is no more
        if peer.sessions or peer.listed or peer.deferred_until > now:
            return True
        if now - peer.ended_at <= self.half_life:  # it may come back for longer than it waits
            return True
        waits = self.time_wait(peer, 0) and now - peer.refilled <= TIME_WAITS_END
        return bool(
            waits
            or now - peer.refilled <= self.burst / self.rate
            or self.score(peer, now) >= NEGLIGIBLE
            or self.credit(peer, now) >= 0.5
        )


def patience(credit: float) -> float:
    """How many times the usual score is borne of a peer with so much credit."""
    return 1.0 + math.log2(1.0 + credit)
