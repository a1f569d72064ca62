"""Networks: which of very many hold an address or another network, by a look-up for each prefix
length that there is."""

from bisect import insort
from collections.abc import Iterator
from operator import itemgetter
from typing import Generic, TypeVar

from dpsd.core.peers import Network

T = TypeVar("T")
_LENGTH = itemgetter(0)


class Networks(Generic[T]):
    """Values by their network."""

    def __init__(self) -> None:
        # By IP version: prefix lengths, the widest first, and values by the bits of the prefix.
        self._lengths: dict[int, list[tuple[int, dict[int, T]]]] = {4: [], 6: []}

    def put(self, network: Network, value: T) -> None:
        """Add a value, or replace the one of the same network."""
        lengths, number = self._lengths[network.version], _bits(network)
        for length, values in lengths:
            if length == network.prefixlen:
                values[number] = value
                return
        insort(lengths, (network.prefixlen, {number: value}), key=_LENGTH)

    def drop(self, network: Network) -> None:
        """Remove the value of exactly this network, if there is one."""
        lengths = self._lengths[network.version]
        for index, (length, values) in enumerate(lengths):
            if length == network.prefixlen:
                values.pop(_bits(network), None)
                if not values:
                    del lengths[index]
                return

    def around(self, network: Network) -> T | None:
        """The value of the widest that holds the whole of a network."""
        return next(self.all_around(network), None)

    def all_around(self, network: Network) -> Iterator[T]:
        """The values of all that hold the whole of a network, the widest first."""
        number, most = int(network.network_address), network.max_prefixlen
        for length, values in self._lengths[network.version]:
            if length > network.prefixlen:
                break
            if (value := values.get(number >> most - length)) is not None:
                yield value

    def holds(self, address: bytes) -> bool:
        """Whether one of them holds this packed address."""
        number, most = int.from_bytes(address), len(address) * 8
        for length, values in self._lengths[4 if most == 32 else 6]:
            if number >> most - length in values:
                return True
        return False


def _bits(network: Network) -> int:
    return int(network.network_address) >> network.max_prefixlen - network.prefixlen
