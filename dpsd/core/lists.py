"""The three lists: entries, precedence and expiry."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush

from dpsd.core.peers import Network

OPERATOR, SCORE = "operator", "score"
"""Sources of entries: a person, and the engine's own verdicts. Only what a person takes off a list
is forgiven."""


class ListName(StrEnum):
    """The lists, in the order in which they are checked."""

    WHITE = "white"
    BLACK = "black"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Entry:
    """One peer or prefix on one list. Times are seconds since the epoch; expires_at None: never."""

    list: ListName
    peer: Network
    reason: str
    source: str
    created_at: float
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """Put a network on a list until expires_at (None: for good), in place of what was there."""

    list: ListName
    peer: Network
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class Drop:
    """Take a network off a list."""

    list: ListName
    peer: Network


Change = Put | Drop
Element = tuple[ListName, Network]


class Lists:
    """The entries in force. At most one entry for a network on each list."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: dict[ListName, dict[Network, Entry]] = {name: {} for name in ListName}
        # How many entries have which (version, prefix length): what a look-up has to try.
        self._lengths: dict[ListName, Counter[tuple[int, int]]] = {
            name: Counter() for name in ListName
        }
        self._expiries: list[tuple[float, int, Entry]] = []
        self._serial = 0
        for entry in entries:
            self.put(entry)

    def replace(self, entries: Iterable[Entry]) -> None:
        """Have these entries instead."""
        for name in ListName:
            self._entries[name].clear()
            self._lengths[name].clear()
        self._expiries.clear()
        for entry in entries:
            self.put(entry)

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def __iter__(self) -> Iterator[Entry]:
        for entries in self._entries.values():
            yield from entries.values()

    def size(self, name: ListName) -> int:
        """How many entries a list has."""
        return len(self._entries[name])

    def on(self, name: ListName) -> Iterable[Entry]:
        """The entries of one list."""
        return self._entries[name].values()

    def get(self, name: ListName, peer: Network) -> Entry | None:
        """The entry for exactly this network."""
        return self._entries[name].get(peer)

    def put(self, entry: Entry) -> Put:
        """Add an entry or replace the one for the same network; the change for the kernel."""
        entries = self._entries[entry.list]
        if entry.peer not in entries:
            self._lengths[entry.list][entry.peer.version, entry.peer.prefixlen] += 1
        entries[entry.peer] = entry
        if entry.expires_at is not None:
            self._serial += 1  # so that the heap never compares entries
            heappush(self._expiries, (entry.expires_at, self._serial, entry))
        return Put(entry.list, entry.peer, entry.expires_at)

    def drop(self, name: ListName, peer: Network) -> Drop | None:
        """Remove the entry for exactly this network; None if there is none."""
        if self._entries[name].pop(peer, None) is None:
            return None
        lengths, length = self._lengths[name], (peer.version, peer.prefixlen)
        lengths[length] -= 1
        if not lengths[length]:
            del lengths[length]
        return Drop(name, peer)

    def covering(self, name: ListName, peer: Network) -> Entry | None:
        """The entry of one list that holds the whole of a network; the widest if there are more."""
        return next(self.all_covering(name, peer), None)

    def all_covering(self, name: ListName, peer: Network) -> Iterator[Entry]:
        """The entries of one list that hold the whole of a network, the widest first."""
        entries = self._entries[name]
        for version, length in sorted(self._lengths[name]):
            if version == peer.version and length <= peer.prefixlen:
                wider = peer if length == peer.prefixlen else peer.supernet(new_prefix=length)
                if (entry := entries.get(wider)) is not None:
                    yield entry

    def decisive(self, peer: Network) -> Entry | None:
        """The entry that decides on a network: white before black before block."""
        for name in ListName:
            if (entry := self.covering(name, peer)) is not None:
                return entry
        return None

    def expire(self, now: float, most: int = 1_000_000) -> list[Entry]:
        """Remove and return entries whose time is over, up to `most`. The kernel forgets them by
        itself."""
        over: list[Entry] = []
        while self._expiries and self._expiries[0][0] <= now and len(over) < most:
            entry = heappop(self._expiries)[2]
            if self._entries[entry.list].get(entry.peer) is entry:  # else it was replaced since
                self.drop(entry.list, entry.peer)
                over.append(entry)
        return over

    def elements(self) -> dict[Element, float | None]:
        """What has to be in the kernel, with the instants of expiry."""
        return {(entry.list, entry.peer): entry.expires_at for entry in self}
