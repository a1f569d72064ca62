"""This host's own addresses, gateways and name servers: who is protected, and never listed."""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address, ip_network
from pathlib import Path
from socket import AF_INET, AF_INET6, AF_NETLINK, SOCK_RAW, SOL_SOCKET, socket
from struct import Struct, pack, unpack_from
from typing import NamedTuple

from dpsd.core.peers import Network, parse_network
from dpsd.errors import KernelError

LOCAL_TABLE = 255  # RT_TABLE_LOCAL: what the kernel takes as addressed to itself
RTN_UNICAST, RTN_LOCAL = 1, 2

WIDEST_LINK = {4: 16, 6: 64}  # prefix lengths: what is wider is nobody's own network
# RFC 1918, 6598, 3927, 4193 and 4291: what no stranger on the Internet has.
PRIVATE = tuple(
    parse_network(each)
    for each in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"),
        *("fc00::/7", "fe80::/10"),
    )
)

_SOL_NETLINK, _ADD_MEMBERSHIP, _STRICT_CHECK, _SO_ATTACH_FILTER = 270, 1, 12, 26
_IPV4_ROUTE, _IPV6_ROUTE = 7, 11  # RTNLGRP_*
_ERROR, _DONE, _NEWLINK, _GETLINK = 2, 3, 16, 18  # message types
_NEWADDR, _GETADDR, _NEWROUTE, _GETROUTE = 20, 22, 24, 26
_LINKINFO, _INFO_KIND = 18, 1  # IFLA_*
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_DST, _GATEWAY, _MULTIPATH, _VIA = 1, 5, 9, 18  # RTA_*
_PATIENCE = 5.0  # seconds for each part of the kernel's answer
_HEAD = Struct("=IH")  # the length and type of a message

# Passes on what is about a route of length 0 (rtm_dst_len) or a local one (rtm_type).
_FILTER = b"".join(
    pack("=HBBI", *instruction)
    for instruction in (
        *((0x30, 0, 0, 17), (0x15, 2, 0, 0), (0x30, 0, 0, 23), (0x15, 0, 1, RTN_LOCAL)),
        *((0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)),
    )
)


@dataclass(frozen=True)
class Host:
    """What the routing tables and resolv.conf say of this host.

    own: packed addresses; own_prefixes: whole local prefixes, 127.0.0.0/8 at least; gateways: of
    default routes; links: private networks of its bridges' addresses, to which its containers and
    virtual machines are connected.
    """

    own: frozenset[bytes] = frozenset()
    own_prefixes: tuple[Network, ...] = ()
    gateways: tuple[Network, ...] = ()
    name_servers: tuple[Network, ...] = ()
    links: tuple[Network, ...] = ()

    def is_relay(self, network: Network) -> bool:
        """Whether a peer is a gateway, or on a private network of one of this host's bridges."""
        return network in self.gateways or any(_within(network, each) for each in self.links)

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
    """What is so now, in this network namespace. Raises KernelError.

    Of 200,000 routes it takes a quarter of a second.
    """
    own: set[bytes] = set()
    prefixes: list[Network] = []
    gateways: set[Network] = set()
    links, bridges = dict[Network, None](), _bridges()
    for family in (AF_INET, AF_INET6):
        for address, network, interface in _addresses(family):
            own.add(address)
            narrow = network.prefixlen >= WIDEST_LINK[network.version]
            if interface in bridges and narrow and _is_private(network):
                links[network] = None
        for route in _routes(family, LOCAL_TABLE):
            if route.table == LOCAL_TABLE and route.type == RTN_LOCAL:
                _add_local(route, own, prefixes)
        for route in _routes(family, 0):
            if route.type == RTN_UNICAST:
                gateways.update(_gateways(route.attributes))
    order = sorted(gateways, key=str)  # so that the same routes make the same host
    servers = tuple(_name_servers(resolv_conf))
    return Host(frozenset(own), tuple(prefixes), tuple(order), servers, tuple(links))


def _is_private(network: Network) -> bool:
    return any(_within(network, each) for each in PRIVATE)


def _within(network: Network, wider: Network) -> bool:
    return network.version == wider.version and network.subnet_of(wider)  # type: ignore[arg-type]


class Changes:
    """Tells whether a default route or a local one changed, of however many routes others do."""

    def __init__(self) -> None:
        self._socket = socket(AF_NETLINK, SOCK_RAW, 0)
        self._socket.setblocking(False)
        held = ctypes.create_string_buffer(_FILTER, len(_FILTER))
        program = pack("HxxxxxxP", len(_FILTER) // 8, ctypes.addressof(held))
        self._socket.setsockopt(SOL_SOCKET, _SO_ATTACH_FILTER, program)
        self._socket.bind((0, 0))
        for group in (_IPV4_ROUTE, _IPV6_ROUTE):
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def close(self) -> None:
        """Look no more."""
        self._socket.close()

    def any(self) -> bool:
        """Whether one changed since the last call."""
        changed = False
        while True:
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return True
            changed = True


class _Route(NamedTuple):
    """A route of RTM_NEWROUTE; attributes: each payload by type."""

    table: int
    type: int
    length: int
    attributes: dict[int, bytes]


def _routes(family: int, table: int) -> Iterator[_Route]:
    """The routes of one table (0: the default routes of all). KernelError."""
    wanted = RTN_LOCAL if table else 0  # a filter of the kernel's; 0: none
    asked = pack("=8BI", family, 0, 0, 0, table, 0, 0, wanted, 0)
    for answer, start, end in _told(_GETROUTE, asked, _NEWROUTE):
        if table or not answer[start + 17]:
            yield _route(answer, start, end)


def _bridges() -> set[int]:
    """The interfaces that are bridges, by their index. KernelError."""
    return {
        int(unpack_from("=i", answer, start + 20)[0])
        for answer, start, end in _told(_GETLINK, bytes(16), _NEWLINK)
        if _kind(_attributes(answer[start + 32 : end])) == b"bridge"
    }


def _kind(link: dict[int, bytes]) -> bytes:
    return _attributes(link.get(_LINKINFO, b"")).get(_INFO_KIND, b"").rstrip(b"\0")


def _addresses(family: int) -> Iterator[tuple[bytes, Network, int]]:
    """The addresses of all interfaces, each with the network that it is in, and the interface's
    index. KernelError.

    Those of interfaces in a VRF aren't in the table of local routes.
    """
    for answer, start, end in _told(_GETADDR, pack("=4BI", family, 0, 0, 0, 0), _NEWADDR):
        found = _attributes(answer[start + 24 : end])
        address = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b""))
        if len(address) in (4, 16):
            length, interface = unpack_from("=xB2xI", answer, start + 16)
            network = ip_network((found.get(_IFA_ADDRESS, address), length), strict=False)
            yield address, network, interface


def _told(kind: int, asked: bytes, told: int) -> Iterator[tuple[bytes, int, int]]:
    """The messages of one type in the kernel's answer to a dump request: the bytes, and where each
    begins and ends. KernelError."""
    request = pack("=IHHII", 16 + len(asked), kind, 0x301, 0, 0) + asked
    try:
        with socket(AF_NETLINK, SOCK_RAW, 0) as asking:
            asking.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
            asking.settimeout(_PATIENCE)
            asking.send(request)
            while True:
                answer = asking.recv(1 << 16)
                start, end = 0, len(answer)
                while start + 20 <= end:
                    size, kind = _HEAD.unpack_from(answer, start)
                    if kind == told:
                        yield answer, start, start + size
                    elif kind in {_DONE, _ERROR}:
                        (failure,) = unpack_from("=i", answer, start + 16)
                        if failure:
                            raise OSError(-failure, os.strerror(-failure))
                        return
                    start += (size + 3) & ~3
    except OSError as problem:
        raise KernelError(f"the routing tables can't be read: {problem}") from None


def _route(data: bytes, start: int, end: int) -> _Route:
    attributes = _attributes(data[start + 28 : end])
    return _Route(data[start + 20], data[start + 23], data[start + 17], attributes)


def _attributes(data: bytes) -> dict[int, bytes]:
    found, start = dict[int, bytes](), 0
    while start + 4 <= len(data):
        size, kind = unpack_from("=HH", data, start)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[start + 4 : start + size]
        start += (size + 3) & ~3
    return found


def _add_local(route: _Route, own: set[bytes], prefixes: list[Network]) -> None:
    destination = route.attributes.get(_DST)
    if destination is None:
        return
    network = ip_network((destination, route.length))
    if network.prefixlen == network.max_prefixlen:
        own.add(network.network_address.packed)
    else:
        prefixes.append(network)


def _gateways(attributes: dict[int, bytes]) -> Iterator[Network]:
    """Where a route leads: to one gateway, perhaps of the other IP version, or to several."""
    if (address := attributes.get(_GATEWAY)) is not None:
        yield parse_network(str(ip_address(address)))
    if (other := attributes.get(_VIA)) is not None:  # two bytes of family before it
        yield parse_network(str(ip_address(other[2:])))
    hops, start = attributes.get(_MULTIPATH, b""), 0
    while start + 8 <= len(hops):  # struct rtnexthop: length, flags, hops, interface
        (size,) = unpack_from("=H", hops, start)
        if size < 8:
            return
        yield from _gateways(_attributes(hops[start + 8 : start + size]))
        start += (size + 3) & ~3


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
