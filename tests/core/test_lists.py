"""The lists against a model of them."""

from ipaddress import IPv4Network, ip_network

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dpsd.core.lists import Drop, Element, Entry, ListName, Lists, Put
from dpsd.core.peers import Network, parse_network

BASE = 0x0A000000
names = st.sampled_from(ListName)
expiries = st.none() | st.integers(1, 100).map(float)
networks = st.builds(
    lambda length, address: IPv4Network((BASE + address, length), strict=False),
    st.integers(29, 32),
    st.integers(0, 7),
)
states = st.dictionaries(st.tuples(names, networks), expiries, max_size=8)


def entry(name: ListName, peer: Network, until: float | None = None) -> Entry:
    return Entry(name, peer, "test", "operator", 0.0, until)


class ListsAndModel(RuleBasedStateMachine):
    """Puts, drops and expiries in any order; the model tries every entry on every question."""

    def __init__(self) -> None:
        super().__init__()
        self.lists = Lists()
        self.model: dict[Element, Entry] = {}
        self.now = 0.0

    @rule(name=names, peer=networks, stays=expiries)
    def put(self, name: ListName, peer: Network, stays: float | None) -> None:
        new = entry(name, peer, None if stays is None else self.now + stays)
        assert self.lists.put(new) == Put(name, peer, new.expires_at)
        self.model[name, peer] = new

    @rule(name=names, peer=networks)
    def drop(self, name: ListName, peer: Network) -> None:
        known = self.model.pop((name, peer), None) is not None
        assert self.lists.drop(name, peer) == (Drop(name, peer) if known else None)

    @rule(passed=st.integers(1, 60))
    def expire(self, passed: int) -> None:
        self.now += passed
        over = {
            element: known
            for element, known in self.model.items()
            if known.expires_at is not None and known.expires_at <= self.now
        }
        expired = self.lists.expire(self.now)
        assert {(each.list, each.peer): each for each in expired} == over
        assert len(expired) == len(over)
        for element in over:
            del self.model[element]

    @rule(peer=networks)
    def ask(self, peer: Network) -> None:
        covering = [
            known
            for known in self.model.values()
            if known.peer.supernet_of(peer)  # type: ignore[arg-type]
        ]
        order = list(ListName)
        covering.sort(key=lambda known: (order.index(known.list), known.peer.prefixlen))
        assert self.lists.decisive(peer) == (covering[0] if covering else None)
        for name in ListName:
            first = next((known for known in covering if known.list == name), None)
            assert self.lists.covering(name, peer) == first
            assert self.lists.get(name, peer) == self.model.get((name, peer))

    @invariant()
    def same_entries(self) -> None:
        assert {(each.list, each.peer): each for each in self.lists} == self.model
        assert len(self.lists) == len(self.model) == sum(map(self.lists.size, ListName))
        assert self.lists.elements() == {e: known.expires_at for e, known in self.model.items()}


TestListsAndModel = ListsAndModel.TestCase


def test_white_goes_before_black_before_block_whatever_the_width() -> None:
    host = parse_network("10.1.2.3")
    lists = Lists([entry(ListName.BLOCK, host)])
    for name, wider in ((ListName.BLACK, "10.1.0.0/16"), (ListName.WHITE, "10.0.0.0/8")):
        lists.put(entry(name, parse_network(wider)))
        decisive = lists.decisive(host)
        assert decisive is not None
        assert decisive.list == name


def test_an_ipv4_entry_says_nothing_of_ipv6() -> None:
    lists = Lists([entry(ListName.BLOCK, parse_network("0.0.0.0/0"))])
    assert lists.decisive(parse_network("::1")) is None


def test_other_entries_take_the_place_of_all() -> None:
    lists = Lists([Entry(ListName.WHITE, ip_network("10.0.0.0/8"), "", "config", 0.0)])
    other = Entry(ListName.BLOCK, ip_network("192.0.2.0/24"), "", "score", 0.0, 9.0)
    lists.replace([other])
    assert (list(lists), lists.elements()) == ([other], {(other.list, other.peer): 9.0})
    assert not lists.holds(ListName.WHITE, bytes((10, 0, 0, 1)))
    assert lists.holds(ListName.BLOCK, bytes((192, 0, 2, 1)))
    assert lists.covering(ListName.WHITE, ip_network("10.0.0.1")) is None
    assert lists.expire(9.0) == [other]
