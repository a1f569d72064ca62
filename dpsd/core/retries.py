"""Retries while blocked: who goes on sending while everything it sends is dropped.

An honest server tries again now and then, with a few packets each time; an attacker goes on.
"""

from collections.abc import Mapping

from dpsd.core.peers import Network

RECENT = 90.0  # seconds for which a peer counts as one that goes on


def persistent(
    before: Mapping[Network, int], now: Mapping[Network, int], rate: float, seconds: float
) -> dict[Network, int]:
    """Whose dropped packets grew by at least `rate` a second within so many seconds; to how many
    were dropped in all."""
    least = rate * max(1.0, seconds)
    return {peer: n for peer, n in now.items() if n - before.get(peer, n) >= least}


class Retries:
    """Who went on lately."""

    def __init__(self) -> None:
        self._when: dict[Network, tuple[float, int]] = {}

    def take(self, persistent: Mapping[Network, int], now: float) -> None:
        """Take who goes on now, and how many of its packets were dropped in all."""
        for peer, packets in persistent.items():
            self._when.pop(peer, None)
            self._when[peer] = now, packets
        while self._when and now - self._when[oldest := next(iter(self._when))][0] > RECENT:
            del self._when[oldest]

    def by(self, peer: Network, now: float) -> int:
        """How many packets of it were dropped in all if it goes on, else 0."""
        at, packets = self._when.get(peer, (float("-inf"), 0))
        return packets if now - at <= RECENT else 0
