"""Prefixes: the peers of one wide IPv6 prefix may misbehave together.

Who holds a /56 or a /48 can come from another /64 every time, and no /64 ever gets expensive. So
what each costs is also added up for the prefixes around it. To be listed together they must cost
as much as that many peers, be that many, and nobody among them may have delivered mail.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_network

from dpsd.core.peers import Network

WIDE = {56: 4, 48: 8}
"""Prefix length, to how many of its peers have to be guilty."""
LONGEST = max(WIDE) // 8  # bytes: a peer with a longer key lies within all of them
LASTS = 600.0  # seconds for which a peer counts as one of them


@dataclass(slots=True)
class Prefix:
    """One with guilty peers. score was right at `at`; peers: when each was last charged."""

    score: float = 0.0
    at: float = 0.0
    peers: dict[bytes, float] = field(default_factory=dict)


class Prefixes:
    """All wide prefixes with guilty peers in them."""

    def __init__(self, half_life: float) -> None:
        self.half_life = half_life
        self._prefixes: dict[tuple[int, bytes], Prefix] = {}

    def charge(
        self, peer: bytes, cost: float, limit: float, has_trusted: Callable[[bytes], bool],
        now: float,
    ) -> tuple[Network, Prefix] | None:  # fmt: skip
        """Add what a peer cost; the widest prefix around it that is to be listed by now.

        limit: slot-seconds at which a single peer is listed; has_trusted(prefix): whether a peer
        within has delivered mail.
        """
        found = None
        for length, many in WIDE.items():
            key = peer[: length // 8]
            prefix = self._prefixes.setdefault((length, key), Prefix(at=now))
            prefix.score = cost + prefix.score * math.exp2((prefix.at - now) / self.half_life)
            prefix.at = prefix.peers[peer] = now
            if prefix.score < many * limit or len(prefix.peers) < many:
                continue
            prefix.peers = {each: at for each, at in prefix.peers.items() if now - at <= LASTS}
            if len(prefix.peers) < many:
                continue
            if has_trusted(key):
                prefix.score = 0.0  # not asked again for every charge
            else:
                found = ip_network((key.ljust(16, b"\0"), length)), prefix
        return found

    def clear(self, network: Network) -> None:
        """Forget a prefix and all that lie within it: it was listed, or released."""
        within = network.network_address.packed[: network.prefixlen // 8]
        for length, key in list(self._prefixes):
            if length >= network.prefixlen and key.startswith(within):
                del self._prefixes[length, key]

    def prune(self, now: float) -> None:
        """Forget the prefixes where nothing happened for long."""
        for key, prefix in list(self._prefixes.items()):
            if now - prefix.at > LASTS:
                del self._prefixes[key]
