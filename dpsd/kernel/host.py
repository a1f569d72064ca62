"""This host's own addresses, gateways and name servers: who is protected, and never listed."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address, ip_network
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from dpsd.core.peers import Network, parse_network
from dpsd.errors import KernelError

LOCAL_TABLE = 255  # RT_TABLE_LOCAL: what the kernel takes as addressed to itself
RTN_UNICAST, RTN_LOCAL = 1, 2


@dataclass(frozen=True)
class Host:
    """What the routing tables and resolv.conf say of this host.

    own: packed addresses; own_prefixes: whole local prefixes, 127.0.0.0/8 at least; gateways: of
    default routes.
    """

    own: frozenset[bytes] = frozenset()
    own_prefixes: tuple[Network, ...] = ()
    gateways: tuple[Network, ...] = ()
    name_servers: tuple[Network, ...] = ()

    def is_own(self, address: bytes) -> bool:
        """Whether a packed address is this host's."""
        return address in self.own or any(
            len(address) == prefix.max_prefixlen >> 3 and ip_address(address) in prefix
            for prefix in self.own_prefixes
        )

    def is_near(self, network: Network) -> bool:
        """Whether a network holds or touches one of the host's addresses, or a neighbour."""
        first = int(network.network_address)
        last = first | (1 << network.max_prefixlen - network.prefixlen) - 1
        return any(first <= end and begin <= last for begin, end in self._near[network.version])

    @cached_property
    def _near(self) -> dict[int, list[tuple[int, int]]]:
        """First and last address of all that is near, by IP version."""
        near: dict[int, set[tuple[int, int]]] = {4: set(), 6: set()}
        for address in self.own:
            number = int.from_bytes(address, "big")
            near[4 if len(address) == 4 else 6].add((number, number))
        for each in (*self.own_prefixes, *self.gateways, *self.name_servers):
            near[each.version].add((int(each.network_address), int(each.broadcast_address)))
        return {version: sorted(ranges) for version, ranges in near.items()}


def look(resolv_conf: Path = Path("/etc/resolv.conf")) -> Host:
    """What is so now, in this network namespace. Raises KernelError."""
    own: set[bytes] = set()
    prefixes: list[Network] = []
    gateways: set[Network] = set()
    try:
        with IPRoute() as routes:
            for family in (AF_INET, AF_INET6):
                for route in routes.get_routes(family=family):
                    if route["table"] == LOCAL_TABLE and route["type"] == RTN_LOCAL:
                        _add_local(route, own, prefixes)
                    elif route["type"] == RTN_UNICAST and not route["dst_len"]:
                        gateways.update(_gateways(route))
    except (OSError, NetlinkError) as problem:
        raise KernelError(f"the routing tables can't be read: {problem}") from None
    order = sorted(gateways, key=str)  # so that the same routes make the same host
    return Host(frozenset(own), tuple(prefixes), tuple(order), tuple(_name_servers(resolv_conf)))


def _add_local(route: Any, own: set[bytes], prefixes: list[Network]) -> None:
    network = ip_network((route.get_attr("RTA_DST"), route["dst_len"]))
    if network.prefixlen == network.max_prefixlen:
        own.add(network.network_address.packed)
    else:
        prefixes.append(network)


def _gateways(route: Any) -> Iterator[Network]:
    """Where a route leads: to one gateway, perhaps of the other IP version, or to several."""
    if (address := route.get_attr("RTA_GATEWAY")) is not None:
        yield parse_network(address)
    if (other := route.get_attr("RTA_VIA")) is not None:
        yield parse_network(other["addr"])
    for hop in route.get_attr("RTA_MULTIPATH") or ():
        yield from _gateways(hop)


def _name_servers(path: Path) -> list[Network]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []  # none are known: then none can be spared
    found = []
    for line in lines:
        match line.split():
            case ["nameserver", address, *_]:
                with suppress(ValueError):
                    found.append(parse_network(address.partition("%")[0]))
    return found
