"""Owners: whose session it is, which sessions are whose, and who is left alone.

A session hangs on its peer, so those of a peer are found at once. Those of a wider prefix are
looked for among all, a slice at a tick.
"""

from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_network
from itertools import islice
from typing import NamedTuple

from dpsd.core.events import Key
from dpsd.core.given import GATEWAY, HOST, POSTFIX
from dpsd.core.lists import ListName, Lists
from dpsd.core.peers import Network
from dpsd.core.policy import Policy
from dpsd.core.scores import Peer, Scores
from dpsd.core.session import Session
from dpsd.core.sessions import Sessions

SLICE = 2_000  # sessions that are looked through at a tick for those of a prefix


PRESSES = 0.25  # share of the slots that a peer holds which is named for it
PRESSED_FOR = 10.0  # seconds since a session of its was to end


class Pressing(NamedTuple):
    """A peer that can't be listed, and its open sessions; white: why it is; relay: whether those
    sessions are ended all the same."""

    peer: Network
    sessions: int
    white: str
    relay: bool


class Owners:
    """immune(network) tells which peers are never listed, though they aren't on the white list: the
    host's own addresses, its gateways and name servers.
    """

    def __init__(
        self, lists: Lists, scores: Scores, sessions: Sessions, immune: Callable[[Network], bool]
    ) -> None:
        self.immune = immune
        self._lists = lists
        self._scores = scores
        self._sessions = sessions
        self.now = 0.0  # the last tick
        self._pressers: dict[bytes, float] = {}  # see presses(): when last
        self._wide: list[Network] = []  # prefixes whose sessions are to be looked for
        self._searching: list[Network] = []  # and those for which that goes on
        self._searched: Iterator[Session] = iter(())

    def is_spared(self, session: Session) -> bool:
        """Whether a session is never ended: a white address's, or an immune one's. A gateway's is,
        unless somebody put that on the white list: behind it may be anybody."""
        address = ip_network(self._sessions.endpoints(session.key).peer)
        white = [*self._lists.all_covering(ListName.WHITE, address)]
        if any(each.reason == GATEWAY for each in white):
            spared = any(each.source not in (HOST, POSTFIX) for each in white)
        else:
            spared = bool(white) or self.immune(address)
        if spared:
            self.presses(session.peer)
        return spared

    def presses(self, peer: Peer) -> None:
        """A session of this peer's is of no use, and the peer can't be listed for it."""
        self._pressers[peer.key] = self.now

    def pressing(self, policy: Policy, now: float) -> list[Pressing]:
        """The peers that keep slots from others to no purpose and can't be listed for it: those
        that hold PRESSES of the slots."""
        few = PRESSES * min(pool.slots for pool in policy.pools)
        self._pressers = {k: at for k, at in self._pressers.items() if now - at < PRESSED_FOR}
        found = []
        for key in self._pressers:
            peer, network = self._scores.get(key), self._scores.size.network_of_key(key)
            if peer is not None and peer.open >= few:
                white = self._lists.covering(ListName.WHITE, network)
                why = "" if white is None else white.reason or white.source
                found.append(Pressing(network, peer.open, why, peer.relay))
        return found

    def sessions_of(self, network: Network) -> list[Key]:
        """The open sessions from a peer, but for those of addresses that are white. Those of a
        wider prefix are found in the ticks to come: see search()."""
        address, size = network.network_address.packed, self._scores.size
        if network.prefixlen < size.prefix(network.version) or (
            size.is_alone(address) and not size.is_peer(network)
        ):
            self._wide.append(network)
            return []
        peer = self._scores.get(size.key(address))
        if peer is None:
            return []
        keys = (key for key in peer.sessions if self._is_in(key, network))
        return [key for key in keys if not self._is_white(key)]

    def search(self, networks: Iterable[Network]) -> None:
        """Look for the open sessions from these in the ticks to come."""
        self._wide += networks

    def found(self) -> list[Key]:
        """Some more of those that are looked for, in one pass for the prefixes of a moment."""
        some = list(islice(self._searched, SLICE))
        if not some and self._wide:
            self._searching, self._wide = self._wide, []
            self._searched = iter([*self._sessions])
            some = list(islice(self._searched, SLICE))
        keys = [s.key for s in some if any(self._is_in(s.key, each) for each in self._searching)]
        return [key for key in keys if not self._is_white(key)]

    def _is_in(self, key: Key, network: Network) -> bool:
        address = self._sessions.endpoints(key).peer
        if len(address) * 8 != network.max_prefixlen:
            return False
        shift = network.max_prefixlen - network.prefixlen
        return int.from_bytes(address) >> shift == int(network.network_address) >> shift

    def _is_white(self, key: Key) -> bool:
        address = ip_network(self._sessions.endpoints(key).peer)
        return self._lists.covering(ListName.WHITE, address) is not None
