"""The disjoint cover against its definition, address by address, in a space of 256 addresses."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from dpsd.core.cover import disjoint
from dpsd.core.peers import Network

BASE = 0x0A000000

expiries = st.none() | st.integers(1, 5).map(float)
prefixes = st.builds(
    lambda length, address: IPv4Network((BASE + address, length), strict=False),
    st.integers(24, 32),
    st.integers(0, 255),
)
nested = st.dictionaries(prefixes, expiries, max_size=12)


def latest(networks: dict[Network, float | None], address: int) -> float | None:
    """Until when an address is covered; 0: it isn't, None: for good."""
    covering = [
        float("inf") if until is None else until
        for network, until in networks.items()
        if int(network.network_address) <= address <= int(network.broadcast_address)
    ]
    last = max(covering, default=0.0)
    return None if last == float("inf") else last


@given(nested)
def test_every_address_is_covered_until_the_latest_expiry(
    networks: dict[Network, float | None],
) -> None:
    cover = disjoint(networks)
    for address in range(BASE, BASE + 256):
        assert latest(cover, address) == latest(networks, address)


@given(nested)
def test_elements_do_not_overlap(networks: dict[Network, float | None]) -> None:
    assert not any(a.overlaps(b) for a, b in combinations(disjoint(networks), 2))


@given(nested)
def test_a_cover_is_its_own_cover(networks: dict[Network, float | None]) -> None:
    cover = disjoint(networks)
    assert disjoint(cover) == cover


@given(nested)
def test_the_order_of_prefixes_does_not_matter(networks: dict[Network, float | None]) -> None:
    assert disjoint(dict(reversed(networks.items()))) == disjoint(networks)


@given(st.sets(prefixes.filter(lambda n: n.prefixlen == 28), max_size=12))
def test_prefixes_that_do_not_overlap_stay_as_they_are(networks: set[Network]) -> None:
    alone = dict.fromkeys(networks, 60.0)
    assert disjoint(alone) == alone


def test_a_longer_block_inside_a_shorter_one() -> None:
    wide, inside = IPv6Network("2001:db8::/32"), IPv6Network("2001:db8:1::/48")
    cover = disjoint({wide: 60.0, inside: None})
    assert cover.pop(inside) is None
    assert len(cover) == 16
    assert set(cover.values()) == {60.0}


def test_a_shorter_block_inside_a_longer_one_is_absorbed() -> None:
    wide, inside = ip_network("10.0.0.0/8"), ip_network("10.1.0.0/16")
    assert disjoint({wide: 60.0, inside: 59.0}) == disjoint({wide: 60.0, inside: 60.0})
    assert disjoint({wide: 60.0, inside: 59.0}) == {wide: 60.0}
