"""Swarms: many peers of one wide IPv6 prefix that misbehave together.

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
IPV6_AT_LEAST = 7  # bytes: keys of peers longer than the widest prefix lie within one
LASTS = 600.0  # seconds for which a peer counts as one of them


@dataclass(slots=True)
class Swarm:
    """A prefix with guilty peers. score was right at `at`; peers: when each was last charged."""

    score: float = 0.0
    at: float = 0.0
    peers: dict[bytes, float] = field(default_factory=dict)


class Swarms:
    """All wide prefixes with guilty peers in them. Peers are at least /64 or longer."""

    def __init__(self, half_life: float) -> None:
        self.half_life = half_life
        self._swarms: dict[tuple[int, bytes], Swarm] = {}

    def charge(
        self, peer: bytes, cost: float, limit: float, has_trusted: Callable[[bytes], bool],
        now: float,
    ) -> tuple[Network, Swarm] | None:  # fmt: skip
        """Add what a peer cost; the widest prefix around it that is to be listed by now.

        limit: slot-seconds at which a single peer is listed; has_trusted(prefix): whether a peer
        within has delivered mail.
        """
        found = None
        for length, many in WIDE.items():
            prefix = peer[: length // 8]
            swarm = self._swarms.setdefault((length, prefix), Swarm(at=now))
            swarm.score = cost + swarm.score * math.exp2((swarm.at - now) / self.half_life)
            swarm.at = swarm.peers[peer] = now
            if swarm.score < many * limit or len(swarm.peers) < many:
                continue
            swarm.peers = {key: at for key, at in swarm.peers.items() if now - at <= LASTS}
            if len(swarm.peers) < many:
                continue
            if has_trusted(prefix):
                swarm.score = 0.0  # not asked again for every charge
            else:
                found = ip_network((prefix.ljust(16, b"\0"), length)), swarm
        return found

    def clear(self, network: Network) -> None:
        """Forget a prefix and all that lie within it: it was listed, or released."""
        prefix = network.network_address.packed[: network.prefixlen // 8]
        for length, key in list(self._swarms):
            if length >= network.prefixlen and key.startswith(prefix):
                del self._swarms[length, key]

    def prune(self, now: float) -> None:
        """Forget the prefixes where nothing happened for long."""
        for key, swarm in list(self._swarms.items()):
            if now - swarm.at > LASTS:
                del self._swarms[key]
