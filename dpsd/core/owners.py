"""Owners: whose session it is, which sessions are whose, and who is left alone.

A session hangs on its peer, so those of a peer are found at once. Those of a wider prefix, or of a
peer with very many, are looked for among all, a slice at a tick. All are looked for once more, a
moment later: what the kernel let in just before a block may be heard of just after it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_network
from itertools import islice
from typing import NamedTuple

from dpsd.core.events import Key
from dpsd.core.given import GATEWAY, HOST, POSTFIX
from dpsd.core.lists import ListName, Lists
from dpsd.core.networks import Networks
from dpsd.core.peers import Network
from dpsd.core.policy import Policy
from dpsd.core.scores import Scores
from dpsd.core.session import Session
from dpsd.core.sessions import Sessions

SLICE = 500  # sessions that are looked through at a tick for those of a prefix
TOGETHER = (
    500  # sessions of a peer that are found at once; peers that are looked at again at a tick
)
AGAIN_AFTER = 1.0  # seconds until sessions are looked for once more
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
    host's own addresses, its gateways and name servers. pressers: peers of no use that can't be
    listed, and when one of their sessions was last to end.
    """

    def __init__(
        self, lists: Lists, scores: Scores, sessions: Sessions, immune: Callable[[Network], bool]
    ) -> None:
        self.immune = immune
        self._lists = lists
        self._scores = scores
        self._sessions = sessions
        self._wide: list[Network] = []  # whose sessions are to be looked for among all
        self._searching = Networks[bool]()  # and those for which that goes on
        self._searched: Iterator[Session] = iter(())
        self._again = deque[tuple[float, Network]]()  # when they are looked for again, and whose
        self._spared: dict[bytes, bool] = {}  # addresses, as they were found lately
        self.pressers: dict[bytes, float] = {}
        self._now = 0.0  # as of the last tick

    def is_spared(self, session: Session) -> bool:
        """Whether a session is never ended: a white address's, or an immune one's. A gateway's is,
        unless somebody put that on the white list: behind it may be anybody."""
        address = self._sessions.endpoints(session.key).peer
        spared = self._spared.get(address)
        if spared is None:
            spared = self._spared[address] = self._spares(address)
        if spared:
            self.pressers[session.peer.key] = self._now
        return spared

    def _spares(self, address: bytes) -> bool:
        network = ip_network(address)
        if not self._lists.holds(ListName.WHITE, address):
            return self.immune(network)
        white = [*self._lists.all_covering(ListName.WHITE, network)]
        behind = any(each.reason == GATEWAY for each in white)
        return not behind or any(each.source not in (HOST, POSTFIX) for each in white)

    def look_again(self, now: float) -> None:
        """Who is spared may have changed."""
        self._spared.clear()
        self._now = now

    def pressing(self, policy: Policy, now: float) -> list[Pressing]:
        """The peers that keep slots from others to no purpose and can't be listed for it: those
        that hold PRESSES of the slots."""
        few = PRESSES * min(pool.slots for pool in policy.pools)
        self.pressers = {k: at for k, at in self.pressers.items() if now - at < PRESSED_FOR}
        found = []
        for key in self.pressers:
            peer, network = self._scores.get(key), self._scores.size.network_of_key(key)
            if peer is not None and peer.open >= few:
                white = self._lists.covering(ListName.WHITE, network)
                why = "" if white is None else white.reason or white.source
                found.append(Pressing(network, peer.open, why, peer.relay))
        return found

    def sessions_of(self, network: Network, most: int = TOGETHER) -> list[Key]:
        """The open sessions from a peer, but for those of addresses that are white. Those beyond
        `most`, those of a wider prefix, and those heard of only now, are found in the ticks to
        come: see found()."""
        self._again.append((self._now + AGAIN_AFTER, network))
        return self._sessions_of(network, most)

    def _sessions_of(self, network: Network, most: int) -> list[Key]:
        size = self._scores.size
        address = network.network_address.packed
        peer = self._scores.get(size.key(address))
        shared = size.is_alone(address) and not size.is_peer(network)
        if network.prefixlen < size.prefix(network.version) or shared:
            self._wide.append(network)
            return []
        if peer is None:
            return []
        if peer.open > most:
            self._wide.append(network)
        keys = [*islice(peer.sessions, most)]
        if not size.is_peer(network):
            keys = [key for key in keys if self._is_in(key, network)]
        return [key for key in keys if not self._is_white(key)]

    def search(self, networks: Iterable[Network]) -> None:
        """Look for the open sessions from these in the ticks to come."""
        self._wide += networks

    def found(self, now: float) -> list[Key]:
        """Let time pass; some more of those that are looked for."""
        self._now = now
        found = self._found_among_all()
        for _ in range(TOGETHER):
            left = TOGETHER - len(found)
            if left <= 0 or not self._again or self._again[0][0] > now:
                break
            found += self._sessions_of(self._again.popleft()[1], left)
        return found

    def _found_among_all(self) -> list[Key]:
        """One pass over all sessions for the networks of a moment, a slice at a time."""
        some = list(islice(self._searched, SLICE))
        if not some and self._wide:
            self._searching = Networks()
            for network in self._wide:
                self._searching.put(network, True)
            self._wide.clear()
            self._searched = iter(self._sessions)
            some = list(islice(self._searched, SLICE))
        holds, spares = self._searching.holds, self._lists.holds
        keys = [(session.key, self._sessions.endpoints(session.key).peer) for session in some]
        return [key for key, peer in keys if holds(peer) and not spares(ListName.WHITE, peer)]

    def _is_in(self, key: Key, network: Network) -> bool:
        address = self._sessions.endpoints(key).peer
        if len(address) * 8 != network.max_prefixlen:
            return False
        shift = network.max_prefixlen - network.prefixlen
        return int.from_bytes(address) >> shift == int(network.network_address) >> shift

    def _is_white(self, key: Key) -> bool:
        return self._lists.holds(ListName.WHITE, self._sessions.endpoints(key).peer)
