"""Knocks: who goes on sending while everything it sends is dropped.

An honest server tries again now and then, with a few packets each time; an attacker goes on.
"""

from collections.abc import Mapping

from dpsd.core.peers import Network

RECENT = 90.0  # seconds for which a peer that knocked counts as knocking


class Knocks:
    """What the counters of the kernel's sets tell of the peers in them."""

    def __init__(self) -> None:
        self._counted: dict[Network, tuple[int, float]] = {}
        self._knocked: dict[Network, tuple[float, int]] = {}  # when last, packets in all

    def take(self, packets: Mapping[Network, int], rate: float, now: float) -> None:
        """Packets of each listed peer since it was listed; rate: how many a second are knocking."""
        for peer, count in packets.items():
            before, at = self._counted.get(peer, (0, None))
            if at is not None and count - before >= rate * max(1.0, now - at):
                self._knocked[peer] = now, count
        self._counted = {peer: (count, now) for peer, count in packets.items()}
        for peer in self._knocked.keys() - packets.keys():
            if now - self._knocked[peer][0] > RECENT:
                del self._knocked[peer]

    def by(self, peer: Network, now: float) -> int:
        """How many packets of it were dropped in all if it is knocking now, else 0."""
        at, count = self._knocked.get(peer, (float("-inf"), 0))
        return count if now - at <= RECENT else 0
