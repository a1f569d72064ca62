"""This host's own addresses, which a list must never lock out."""

import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from dpsd.core.peers import Network, PeerSize

# A leaf of the routing table that is one local address; whole local prefixes aren't of interest.
_LEAF = re.compile(r"\|-- ([0-9.]+)\n +/32 host LOCAL")


def addresses(proc: Path = Path("/proc/net")) -> list[Network]:
    """Every address of this network namespace. Empty where there is no /proc."""
    ipv4 = _LEAF.findall(_text(proc / "fib_trie"))
    ipv6 = [line.split()[0] for line in _text(proc / "if_inet6").splitlines()]
    return [
        *map(IPv4Network, dict.fromkeys(ipv4)),  # each is there twice, in two tables
        *(IPv6Network(int(address, 16)) for address in ipv6),
    ]


def neighbours(size: PeerSize) -> PeerSize:
    """The same size of a peer, but for neighbours in this host's own /64s: each is one."""
    return size.with_alone(each.network_address.packed for each in addresses())


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # IPv6 is off, or /proc isn't mounted
        return ""
