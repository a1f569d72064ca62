"""Owners: whose session it is, which sessions are whose, and who is left alone.

A session hangs on its peer, so those of a peer are found at once, unless they are very many. Those
of a wider prefix are looked for among all, a slice at a tick.
"""

from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_network
from itertools import islice

from dpsd.core.events import Key
from dpsd.core.lists import ListName, Lists
from dpsd.core.networks import Networks
from dpsd.core.peers import Network
from dpsd.core.scores import Scores
from dpsd.core.session import Session
from dpsd.core.sessions import Sessions

SLICE = 1_000  # sessions that are looked through at a tick for those of a prefix
TOGETHER = 500  # sessions of listed peers that are found at once, and then at each tick


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
        self._wide: list[Network] = []  # prefixes whose sessions are to be looked for
        self._searching = Networks[bool]()  # and those for which that goes on
        self._searched: Iterator[Session] = iter(())
        self._rest: list[Iterator[Key]] = []  # further sessions of listed peers
        self._spared: dict[bytes, bool] = {}  # addresses, as they were found lately

    def is_spared(self, session: Session) -> bool:
        """Whether a session is never ended: a white address's, or an immune one's."""
        address = self._sessions.endpoints(session.key).peer
        spared = self._spared.get(address)
        if spared is None:
            white = self._lists.holds(ListName.WHITE, address)
            spared = self._spared[address] = white or self.immune(ip_network(address))
        return spared

    def look_again(self) -> None:
        """Who is spared may have changed."""
        self._spared.clear()

    def sessions_of(self, network: Network, most: int = TOGETHER) -> list[Key]:
        """The open sessions from a peer, but for those of addresses that are white. Those beyond
        `most`, and those of a wider prefix, are found in the ticks to come: see found()."""
        size = self._scores.size
        peer = self._scores.get(size.key(network.network_address.packed))
        if network.prefixlen < size.prefix(network.version):
            self._wide.append(network)
            return []
        if peer is None:
            return []
        keys = iter([*peer.sessions])
        if not size.is_peer(network):
            keys = (key for key in keys if self._is_in(key, network))
        keys = (key for key in keys if not self._is_white(key))
        some = list(islice(keys, most))
        if len(some) == most:
            self._rest.append(keys)
        return some

    def search(self, networks: Iterable[Network]) -> None:
        """Look for the open sessions from these in the ticks to come."""
        self._wide += networks

    def found(self) -> list[Key]:
        """Some more of those that are looked for."""
        found = self._found_in_prefixes()
        while self._rest and len(found) < TOGETHER:
            some = list(islice(self._rest[-1], TOGETHER - len(found)))
            if not some:
                self._rest.pop()
            found += some
        return found

    def _found_in_prefixes(self) -> list[Key]:
        """One pass over all sessions for the prefixes of a moment, a slice at a time."""
        some = list(islice(self._searched, SLICE))
        if not some and self._wide:
            self._searching = Networks()
            for network in self._wide:
                self._searching.put(network, True)
            self._wide.clear()
            self._searched = iter([*self._sessions])
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
