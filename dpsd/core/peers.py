"""Peers: who is judged. An IPv4 address, or an IPv6 /64, unless configured otherwise.

Where many customers share a /64, each address is a peer of its own: behind a NAT64 (RFC 6052) all
of IPv4 has one, and in the server's own a neighbour may be anybody.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

NAT64 = bytes.fromhex("0064ff9b00000000")  # the first half of 64:ff9b::/96
# A prefix shorter than these is a good part of the Internet: no verdict on a peer.
SHORTEST = {4: 8, 6: 16}


@dataclass(frozen=True, slots=True)
class PeerSize:
    """The prefix lengths that make one peer; whole bytes, so that a peer's key is a slice.

    ipv4: 8 to 32, ipv6: 40 to 128, both multiples of 8; so the length of a key tells its version.
    alone: the first 8 bytes of the /64s in which each address is a peer of its own.
    """

    ipv4: int = 32
    ipv6: int = 64
    alone: frozenset[bytes] = frozenset([NAT64])

    def __post_init__(self) -> None:
        """Refuse lengths that aren't whole bytes, or that a key couldn't tell apart."""
        if self.ipv4 % 8 or not 8 <= self.ipv4 <= 32 or self.ipv6 % 8 or not 40 <= self.ipv6 <= 128:
            raise ValueError(
                "a peer is a whole number of bytes: /8 to /32, and /40 to /128 in IPv6"
            )

    def with_alone(self, addresses: Iterable[bytes]) -> "PeerSize":
        """The same, with the /64s of these packed addresses as such in which each is alone."""
        own = {address[:8] for address in addresses if len(address) == 16}
        return replace(self, alone=frozenset({NAT64, *own}))

    def is_alone(self, address: bytes) -> bool:
        """Whether a packed address is a peer of its own, though others share its prefix."""
        return len(address) == 16 and address[:8] in self.alone

    def prefix(self, version: int) -> int:
        """The prefix length of a peer of this IP version (4 or 6)."""
        return self.ipv4 if version == 4 else self.ipv6

    def key(self, address: bytes) -> bytes:
        """The peer's key: as many leading bytes of a packed address as its prefix has."""
        if len(address) == 4:
            return address[: self.ipv4 >> 3]
        return address if address[:8] in self.alone else address[: self.ipv6 >> 3]

    def network(self, address: bytes) -> Network:
        """The peer that a packed address (4 or 16 bytes) belongs to."""
        return self.network_of_key(self.key(address))

    def network_of_key(self, key: bytes) -> Network:
        """The peer that a key stands for."""
        version = 4 if len(key) == self.ipv4 >> 3 else 6
        if len(key) == 16:
            return IPv6Network(key)
        address = key.ljust(4 if version == 4 else 16, b"\0")
        return ip_network((address, self.prefix(version)))

    def is_peer(self, network: Network) -> bool:
        """Whether the network is exactly one peer, neither a wider prefix nor a part of a peer."""
        if network.prefixlen >= 64 and self.is_alone(network.network_address.packed):
            return network.prefixlen == 128
        return self.is_whole(network)

    def is_whole(self, network: Network) -> bool:
        """Whether it has the usual prefix length of a peer, as the hosts in nftables sets have."""
        return network.prefixlen == self.prefix(network.version)

    def parse(self, text: str) -> Network:
        """The network that an operator's PEER means: a bare address stands for its whole peer.

        Raises ValueError with the reason for anything else, for host bits behind a prefix and
        for prefixes shorter than /8 (IPv4) or /16 (IPv6).
        """
        text = text.strip()
        if "/" not in text:
            address = _address(text)
            if self.is_alone(address.packed):
                return ip_network(address)
            return ip_network((address, self.prefix(address.version)), strict=False)
        network = parse_network(text)
        if network.prefixlen < SHORTEST[network.version]:
            raise ValueError(
                f"{text}: a prefix shorter than /{SHORTEST[network.version]} is too wide for a list"
            )
        return network

    def text(self, network: Network) -> str:
        """How a network is shown; parse() of it gives the same network."""
        bare = network.prefixlen == network.max_prefixlen == self.prefix(network.version)
        return str(network.network_address if bare else network)


def parse_network(text: str) -> Network:
    """An address or a prefix as a network; ValueError with the reason and the likely meaning."""
    address, slash, length = text.strip().partition("/")
    base = _address(address)
    if not slash:
        return ip_network(base)
    if not length.isascii() or not length.isdigit() or int(length) > base.max_prefixlen:
        raise ValueError(f"{text}: the prefix length must be 0 to {base.max_prefixlen}")
    network = ip_network((base, int(length)), strict=False)
    if network.network_address != base:
        raise ValueError(f"{text}: has bits set behind the prefix; did you mean {network}?")
    return network


def _address(text: str) -> Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither an IPv4 nor an IPv6 address or prefix") from None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{text!r}: an address with a zone can't be listed")
        return address.ipv4_mapped or address
    return address
