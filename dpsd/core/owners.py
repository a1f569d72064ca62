"""Owners: whose session it is, which sessions are whose, and who is left alone.

A session hangs on its peer, so those of a peer are found at once. Those of a wider prefix are
looked for among all, a slice at a tick.
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

SLICE = 2_000  # sessions that are looked through at a tick for those of a prefix


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

    def is_spared(self, session: Session) -> bool:
        """Whether a session is never ended: a white address's, or an immune one's."""
        address = self._sessions.endpoints(session.key).peer
        return self._lists.holds(ListName.WHITE, address) or self.immune(ip_network(address))

    def sessions_of(self, network: Network) -> list[Key]:
        """The open sessions from a peer, but for those of addresses that are white. Those of a
        wider prefix are found in the ticks to come: see search()."""
        size = self._scores.size
        peer = self._scores.get(size.key(network.network_address.packed))
        if network.prefixlen < size.prefix(network.version):
            self._wide.append(network)
            return []
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
            self._searching = Networks()
            for network in self._wide:
                self._searching.put(network, True)
            self._wide.clear()
            self._searched = iter([*self._sessions])
            some = list(islice(self._searched, SLICE))
        holds, endpoints = self._searching.holds, self._sessions.endpoints
        keys = [session.key for session in some if holds(endpoints(session.key).peer)]
        return [key for key in keys if not self._is_white(key)]

    def _is_in(self, key: Key, network: Network) -> bool:
        address = self._sessions.endpoints(key).peer
        if len(address) * 8 != network.max_prefixlen:
            return False
        shift = network.max_prefixlen - network.prefixlen
        return int.from_bytes(address) >> shift == int(network.network_address) >> shift

    def _is_white(self, key: Key) -> bool:
        return self._lists.holds(ListName.WHITE, self._sessions.endpoints(key).peer)
