"""Peers from text and packed addresses, and the reasons for what is refused."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsd.core.peers import SHORTEST, Network, PeerSize, parse_network

sizes = st.builds(
    PeerSize,
    st.integers(1, 4).map(lambda n: n * 8),
    st.integers(5, 16).map(lambda n: n * 8),
)
addresses = st.one_of(
    st.ip_addresses(v=4),
    st.ip_addresses(v=6).filter(lambda a: IPv6Address(a).ipv4_mapped is None),
)


@st.composite
def listable(draw: st.DrawFn) -> Network:
    """A network that may be put on a list."""
    address = draw(addresses)
    length = draw(st.integers(SHORTEST[address.version], address.max_prefixlen))
    return (
        ip_network((int(address), length), strict=False)
        if address.version == 4
        else (ip_network((address.packed, length), strict=False))
    )


@given(sizes, listable())
def test_what_is_shown_means_the_same_network(size: PeerSize, network: Network) -> None:
    mapped = isinstance(network.network_address, IPv6Address) and (
        network.network_address.ipv4_mapped is not None
    )
    if not mapped:
        assert size.parse(size.text(network)) == network


@given(sizes, addresses)
def test_a_bare_address_is_its_whole_peer(
    size: PeerSize, address: IPv4Address | IPv6Address
) -> None:
    peer = size.parse(str(address))
    assert size.is_peer(peer)
    assert address in peer
    assert size.network(address.packed) == peer
    assert size.network_of_key(size.key(address.packed)) == peer
    assert len(size.key(address.packed)) * 8 == peer.prefixlen


@given(sizes, addresses, addresses)
def test_one_key_is_one_peer(
    size: PeerSize, a: IPv4Address | IPv6Address, b: IPv4Address | IPv6Address
) -> None:
    if a.version == b.version:
        same = size.network(a.packed) == size.network(b.packed)
        assert (size.key(a.packed) == size.key(b.packed)) is same


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.1", "192.0.2.1/32"),
        ("  192.0.2.1 ", "192.0.2.1/32"),
        ("2001:DB8::5", "2001:db8::/64"),
        ("2001:db8::5/128", "2001:db8::5/128"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("2001::/16", "2001::/16"),
    ],
)
def test_parsed(text: str, network: str) -> None:
    assert PeerSize().parse(text) == ip_network(network)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "neither an IPv4 nor an IPv6"),
        ("mail.example.org", "neither an IPv4 nor an IPv6"),
        ("192.0.2", "neither"),
        ("192.0.2.1.5", "neither"),
        ("192.0.2.01", "neither"),
        ("192.0.2.1/", "prefix length must be 0 to 32"),
        ("192.0.2.1/33", "prefix length must be 0 to 32"),
        ("192.0.2.1/-1", "prefix length must be 0 to 32"),
        ("192.0.2.0/255.255.255.0", "prefix length must be 0 to 32"),
        ("192.0.2.0/\u0662", "prefix length must be 0 to 32"),
        ("2001:db8::/129", "prefix length must be 0 to 128"),
        ("192.0.2.1/24", r"did you mean 192\.0\.2\.0/24\?"),
        ("2001:db8::1/64", "did you mean 2001:db8::/64"),
        ("10.0.0.0/7", "has bits set|too wide"),
        ("0.0.0.0/0", "too wide for a list"),
        ("2000::/3", "too wide for a list"),
        ("fe80::1%eth0", "with a zone"),
    ],
)
def test_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        PeerSize().parse(text)


@pytest.mark.parametrize(("ipv4", "ipv6"), [(31, 64), (0, 64), (40, 64), (32, 32), (32, 136)])
def test_a_peer_is_whole_bytes(ipv4: int, ipv6: int) -> None:
    with pytest.raises(ValueError, match="whole number of bytes"):
        PeerSize(ipv4, ipv6)


def test_only_lists_have_a_shortest_prefix() -> None:
    assert parse_network("0.0.0.0/0") == ip_network("0.0.0.0/0")


@pytest.mark.parametrize("text", ["10.0.0.0/32", "2001:db8::/64", "2001:db8::/128"])
def test_shown_with_its_length_unless_it_is_one_address(text: str) -> None:
    assert PeerSize().text(ip_network(text)) == text.removesuffix("/32")


OWN = "2001:db8:25::25"


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("64:ff9b::203.0.113.7", "64:ff9b::cb00:7107/128"),
        ("2001:db8:25::77", "2001:db8:25::77/128"),
        ("2001:db8:25:1::77", "2001:db8:25:1::/64"),
        ("64:ff9b:1::203.0.113.7", "64:ff9b:1::/64"),
        ("203.0.113.7", "203.0.113.7/32"),
    ],
)
def test_where_many_share_a_prefix_each_address_is_a_peer(address: str, peer: str) -> None:
    """Rows A9 and A10: behind a NAT64, and in the server's own /64."""
    size = PeerSize().with_alone([ip_address(OWN).packed, ip_address("192.0.2.1").packed])
    packed, network = ip_address(address).packed, ip_network(peer)
    assert size.network(packed) == size.network_of_key(size.key(packed)) == network
    assert size.is_peer(network)
    assert size.is_whole(network) is (network.prefixlen in (32, 64))
    assert size.parse(address) == size.parse(size.text(network)) == network


def test_such_a_prefix_as_a_whole_is_no_peer() -> None:
    assert not PeerSize().is_peer(ip_network("64:ff9b::/64"))
    assert PeerSize().is_peer(ip_network("2001:db8:25::/64"))
