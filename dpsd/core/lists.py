"""The three lists: entries, precedence and expiry."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush

from dpsd.core.networks import Networks
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
        self._elements: dict[Element, float | None] = {}
        self._networks = {name: Networks[Entry]() for name in ListName}
        self._expiries: list[tuple[float, int, Entry]] = []
        self._serial = 0
        for entry in entries:
            self.put(entry)

    def replace(self, entries: Iterable[Entry]) -> None:
        """Have these entries instead."""
        for name in ListName:
            self._entries[name].clear()
            self._networks[name] = Networks()
        self._elements.clear()
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
        self._entries[entry.list][entry.peer] = entry
        self._elements[entry.list, entry.peer] = entry.expires_at
        self._networks[entry.list].put(entry.peer, entry)
        if entry.expires_at is not None:
            self._serial += 1  # so that the heap never compares entries
            heappush(self._expiries, (entry.expires_at, self._serial, entry))
        return Put(entry.list, entry.peer, entry.expires_at)

    def drop(self, name: ListName, peer: Network) -> Drop | None:
        """Remove the entry for exactly this network; None if there is none."""
        if self._entries[name].pop(peer, None) is None:
            return None
        del self._elements[name, peer]
        self._networks[name].drop(peer)
        return Drop(name, peer)

    def covering(self, name: ListName, peer: Network) -> Entry | None:
        """The entry of one list that holds the whole of a network; the widest if there are more."""
        return self._networks[name].around(peer)

    def holds(self, name: ListName, address: bytes) -> bool:
        """Whether an entry of one list holds this packed address."""
        return self._networks[name].holds(address)

    def all_covering(self, name: ListName, peer: Network) -> Iterator[Entry]:
        """The entries of one list that hold the whole of a network, the widest first."""
        return self._networks[name].all_around(peer)

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
        return self._elements.copy()
