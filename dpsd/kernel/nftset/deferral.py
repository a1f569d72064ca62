"""Deferred peers: they may open no new session for some seconds.

Their SYNs are dropped silently, so that their systems send them again by themselves; sessions that
are open go on. Who is deferred stands in the kernel only, whose clock ends it.
"""

from collections.abc import Mapping
from time import monotonic

from dpsd.core.peers import Network, PeerSize
from dpsd.kernel.nftset.elements import ElementSocket
from dpsd.kernel.nftset.ruleset import DEFERRED

# Seconds. A system sends its SYN again after one second at first: less would hold up nobody.
_SHORTEST = 1.0
# Seconds for which a full set isn't tried again: the kernel takes 10 ms to refuse, and removes once
# a second what has expired.
_FULL_FOR = 1.0


class Deferral:
    """The elements of the sets defer4 and defer6. Not for two threads at a time."""

    def __init__(self, size: PeerSize, sets: ElementSocket) -> None:
        self._size = size
        self._sets = sets
        self._full_until: dict[str, float] = {}  # by set, steady clock

    def put(self, peers: Mapping[Network, float]) -> int:
        """Defer these for so many seconds, one at least; who is deferred already, for that long.

        One transaction for each IP version. Returns how many aren't deferred since a set has no
        room for all of its version. Raises KernelError or NotPermitted, ValueError for what isn't
        exactly one peer.
        """
        sets: dict[str, dict[bytes, float]] = {}
        for peer, seconds in peers.items():
            if not self._size.is_whole(peer):
                raise ValueError(f"{peer} is not one peer: it can't be deferred")
            times = sets.setdefault(DEFERRED[peer.version], {})
            times[peer.network_address.packed] = max(_SHORTEST, seconds)
        left = 0
        for name, times in sets.items():
            if monotonic() < self._full_until.get(name, 0.0):
                left += len(times)
            elif not self._sets.put(name, times):
                self._full_until[name] = monotonic() + _FULL_FOR
                left += len(times)
        return left

    def remove(self, peer: Network) -> None:
        """Defer it no longer, if it is deferred; what isn't one peer never is. KernelError."""
        if self._size.is_whole(peer):
            self._sets.remove(DEFERRED[peer.version], peer.network_address.packed)
