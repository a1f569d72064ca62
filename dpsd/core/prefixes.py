"""Prefixes: the peers of one wide IPv6 prefix may misbehave together.

Who holds a /56 or a /48 can come from another /64 every time, and no /64 ever gets expensive. So
what each costs is also added up for the prefixes around it. To be listed together they must cost
as much as that many peers, be that many, and nobody among them may have delivered mail.

All work is by look-up: a charge, a listing or a release costs the same however many there are.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_network
from itertools import islice

from dpsd.core.peers import NAT64, Network

WIDE = {56: 4, 48: 8}
"""Prefix length, to how many of its peers have to be guilty."""
LONGEST = max(WIDE) // 8  # bytes: a peer with a longer key lies within all of them
LASTS = 600.0  # seconds for which a peer counts as one of them
KEPT = 100  # peers of one
SLICE = 200  # prefixes that are looked at together, to forget them


@dataclass
class Prefix:
    """One with guilty peers. score was right at `at`; peers: when each was last charged, the latest
    last; of more than KEPT only these."""

    key: bytes
    score: float = 0.0
    at: float = 0.0
    peers: dict[bytes, float] = field(default_factory=dict)

    @cached_property
    def network(self) -> Network:
        """Its addresses; to make it takes longer than all else of a charge."""
        return ip_network((self.key.ljust(16, b"\0"), 8 * len(self.key)))


class Prefixes:
    """All wide prefixes with guilty peers in them."""

    def __init__(self, half_life: float) -> None:
        self.half_life = half_life
        self._prefixes: dict[bytes, Prefix] = {}  # by leading bytes
        self._within: dict[bytes, set[bytes]] = {}  # the narrower ones of each of the widest
        self._deliver: Counter[bytes] = Counter()  # peers within that have delivered mail

    def delivers(self, peer: bytes, number: int) -> None:
        """A peer has delivered mail (1), or is forgotten (-1)."""
        if len(peer) > LONGEST:
            for length in WIDE:
                key = peer[: length // 8]
                self._deliver[key] += number
                if self._deliver[key] <= 0:
                    del self._deliver[key]

    def charge(self, peer: bytes, cost: float, limit: float, now: float) -> Prefix | None:
        """Add what a peer cost; the widest prefix around it that is to be listed by now.

        limit: slot-seconds at which a single peer is listed.
        """
        found = None
        if peer.startswith(NAT64):  # the addresses of all of IPv4, which have nothing in common
            return None
        for length, many in WIDE.items():
            key = peer[: length // 8]
            prefix = self._prefixes.get(key)
            if prefix is None:
                prefix = self._prefixes[key] = Prefix(key, at=now)
                if length > min(WIDE):
                    self._within.setdefault(key[: min(WIDE) // 8], set()).add(key)
            prefix.score = cost + prefix.score * math.exp2((prefix.at - now) / self.half_life)
            prefix.at = now
            prefix.peers.pop(peer, None)
            prefix.peers[peer] = now
            while now - prefix.peers[oldest := next(iter(prefix.peers))] > LASTS:
                del prefix.peers[oldest]
            if len(prefix.peers) > KEPT:
                del prefix.peers[oldest]
            if prefix.score < many * limit or len(prefix.peers) < many or self._deliver[key]:
                continue
            found = prefix
        return found

    def have(self, network: Network, prefix: Prefix) -> bool:
        """Whether this is what is known of a wide prefix by now."""
        key = network.network_address.packed[: network.prefixlen // 8]
        return self._prefixes.get(key) is prefix

    def clear(self, network: Network) -> None:
        """Forget a prefix and all that lie within it: it was listed, or released."""
        if network.version == 4 or network.prefixlen > max(WIDE):
            return
        within = network.network_address.packed[: network.prefixlen // 8]
        self._drop(within)
        if network.prefixlen == min(WIDE):
            for key in [*self._within.get(within, ())]:
                self._drop(key)
        elif network.prefixlen < max(WIDE):  # rare: what an operator releases
            for key in [each for each in self._prefixes if each.startswith(within)]:
                self._drop(key)

    def _drop(self, key: bytes) -> None:
        self._prefixes.pop(key, None)
        widest = key[: min(WIDE) // 8]
        narrower = self._within.get(widest)
        if narrower is not None:
            narrower.discard(key)
            if not narrower:
                del self._within[widest]

    def prune(self, now: float) -> None:
        """Forget some of the prefixes where nothing happened for long; call it again and again."""
        for key in list(islice(self._prefixes, SLICE)):
            prefix = self._prefixes.pop(key)
            if now - prefix.at <= LASTS:
                self._prefixes[key] = prefix  # to the end of the queue
            else:
                self._drop(key)
