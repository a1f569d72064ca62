"""Scores: what each peer's sessions cost the server, in slot-seconds, and how that fades.

A slot-second is one place for a session, kept busy for a second to no purpose. A peer's score is
the sum of what its evidence cost, each part halved every half-life since.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from dpsd.core.peers import Network, PeerSize

NEGLIGIBLE = 0.5  # slot-seconds; a lower score isn't worth keeping
MOST_TRUST = 63.0  # deliveries that count; a spammer delivers too
MOST = 250_000  # peers to remember; whoever has a whole provider's prefixes could be more
TIME_WAITS_END = 600.0  # seconds after a peer's last session in which all have left TIME_WAIT


class Kind(StrEnum):
    """What a peer did."""

    OVERSTAY = "overstay"
    CHURN = "churn"
    ABORT = "abort"
    EMPTY = "empty"
    CROWD = "crowd"
    TIME_WAIT = "time_wait"


@dataclass(slots=True)
class Evidence:
    """Everything of one kind in one TCP state ("" where none matters) since a peer was clean.

    cost: slot-seconds as charged, not faded; count: sessions; first, at: when it began
    and was last added to, seconds since the epoch; ports: of the servers. longest: seconds, the
    longest that one session stayed, and stress: how scarce slots were then (0 to 1). most: how
    many there were at a time (churn: opened within a second). proper: what would have been proper
    then, seconds where it is about a time, else a number. 0 where there is nothing to tell.
    """

    kind: Kind
    state: str
    cost: float
    count: int
    first: float
    at: float
    longest: float = 0.0
    most: int = 0
    proper: float = 0.0
    stress: float = 0.0
    ports: tuple[int, ...] = ()


class Seen(NamedTuple):
    """What was seen of the session that a charge is about; as in Evidence."""

    port: int = 0
    longest: float = 0.0
    most: int = 0
    proper: float = 0.0
    stress: float = 0.0


UNSEEN = Seen()


class Peer:
    """What is remembered of one peer. `score` was right at `at`, `trust` at `trusted_at`, `idle`
    (how many sessions of no use it had lately) at `idle_at`. ended_at: when it last paid for a
    session that was ended."""

    __slots__ = (
        *(
            "at",
            "ended_at",
            "evidence",
            "idle",
            "idle_at",
            "key",
            "listed",
            "open",
            "opened",
            "refilled",
        ),
        *("score", "second"),
        *("time_wait", "tokens", "trust", "trusted_at"),
    )

    def __init__(self, key: bytes, tokens: float, now: float) -> None:
        self.key = key
        self.score = 0.0
        self.at = now
        self.evidence: dict[tuple[Kind, str], Evidence] = {}
        self.open = 0
        self.opened = 0  # sessions since `second`, within which they are counted
        self.second = now
        self.time_wait = 0
        self.tokens = tokens
        self.refilled = now
        self.trust = 0.0
        self.trusted_at = now
        self.listed = False
        self.ended_at = float("-inf")
        self.idle = 0.0
        self.idle_at = now


class Scores:
    """All peers with something to remember, by their key (leading bytes of their address)."""

    def __init__(self, size: PeerSize, half_life: float, rate: float, burst: float) -> None:
        """half_life: seconds; rate, burst: sessions a second and at once that a peer may open."""
        self.size = size
        self.half_life = half_life
        self.rate = rate
        self.burst = burst
        self.trust_half_life = 14 * 86400.0
        self.changed: set[bytes] = set()  # whose score the store hasn't been told
        self._peers: dict[bytes, Peer] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def get(self, key: bytes) -> Peer | None:
        """The peer, if anything is remembered of it."""
        return self._peers.get(key)

    def peer(self, key: bytes, now: float) -> Peer:
        """The peer, remembered from now on."""
        peer = self._peers.get(key)
        if peer is None:
            peer = self._peers[key] = Peer(key, self.burst, now)
        return peer

    def opened(self, key: bytes, now: float) -> tuple[Peer, bool]:
        """Count a new session of a peer; whether it came within the peer's allowance."""
        peer = self._peers.get(key)
        if peer is None:
            peer = self.peer(key, now)
        peer.open += 1
        if now - peer.second >= 1.0:
            peer.second, peer.opened = now, 0
        peer.opened += 1
        tokens = min(peer.tokens + (now - peer.refilled) * self.rate, self.burst)
        peer.refilled = now
        if tokens >= 1:
            peer.tokens = tokens - 1
            return peer, True
        peer.tokens = tokens
        return peer, False

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
        self,
        peer: Peer,
        kind: Kind,
        state: str,
        cost: float,
        now: float,
        count: int = 1,
        seen: Seen = UNSEEN,
    ) -> float:
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
        _note(evidence, seen)
        self.changed.add(peer.key)
        return peer.score

    def credit(self, peer: Peer, worth: float, most: float, now: float) -> None:
        """Count a session that was of use and closed as it should be, as far as `most` in all.

        The store is told of each whole credit: of every session would be most of its work.
        """
        trust = self.trust(peer, now)
        if trust <= most - worth:
            peer.trust = trust + worth
            peer.trusted_at = now
            if int(peer.trust) > int(trust):
                self.changed.add(peer.key)

    def trust(self, peer: Peer, now: float) -> float:
        """How many deliveries a peer has to its credit, each faded since."""
        if not peer.trust:
            return 0.0
        return peer.trust * math.exp2((peer.trusted_at - now) / self.trust_half_life)

    def patience(self, peer: Peer, now: float) -> float:
        """How many times the usual score a peer may reach: 1 for a stranger, at most 7."""
        return patience(self.trust(peer, now))

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
            peer.score = 0.0
            peer.evidence.clear()
            peer.listed = False
            self.changed.add(key)

    def forget_time_waits(self) -> None:
        """Nobody knows any more how many sessions of whom are in TIME_WAIT."""
        for peer in self._peers.values():
            peer.time_wait = 0

    def prune(self, now: float) -> int:
        """Drop the peers of whom nothing is worth remembering, or least when they are more than
        MOST; how many."""
        for peer in self._peers.values():
            if peer.time_wait and now - peer.refilled > TIME_WAITS_END:
                peer.time_wait = 0  # the end of one may not have been told
        idle = [
            peer.key
            for peer in self._peers.values()
            if not (peer.open or peer.time_wait or peer.listed)
            and now - peer.refilled > self.burst / self.rate
            and self.score(peer, now) < NEGLIGIBLE
            and self.trust(peer, now) < 0.5
        ]
        for key in idle:
            del self._peers[key]
        if len(self._peers) > MOST:
            idle += self._forget_least(len(self._peers) - MOST * 9 // 10, now)
        return len(idle)

    def _forget_least(self, many: int, now: float) -> list[bytes]:
        gone = [peer for peer in self._peers.values() if not (peer.open or peer.listed)]
        gone.sort(key=lambda peer: self.score(peer, now) + self.trust(peer, now))
        keys = [peer.key for peer in gone[:many]]
        for key in keys:
            del self._peers[key]
        return keys


def patience(trust: float) -> float:
    """How many times the usual score is borne of a peer with so many deliveries to its credit."""
    return 1.0 + math.log2(1.0 + trust)


def _note(evidence: Evidence, seen: Seen) -> None:
    """Keep what is the most remarkable of all that was seen."""
    if seen.longest > evidence.longest or (not seen.longest and seen.most > evidence.most):
        evidence.proper, evidence.stress = seen.proper, seen.stress
        evidence.longest = seen.longest
    evidence.most = max(evidence.most, seen.most)
    if seen.port and seen.port not in evidence.ports:
        evidence.ports = (*evidence.ports, seen.port)
