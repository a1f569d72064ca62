"""What is white because the configuration, the host or its mail server says so."""

from dataclasses import replace

from hypothesis import given as for_all
from hypothesis import strategies as st

from dpsd.core.given import CONFIG, HOST, POSTFIX, Given, changes, entry, given, may_overrule
from dpsd.core.lists import Entry, ListName
from dpsd.core.peers import Network, parse_network

BY_CONFIG = entry(parse_network("10.0.0.0/8"), CONFIG, "lists.white")
GATEWAY = entry(parse_network("192.0.2.1"), HOST, "gateway")
MYNETWORKS = entry(parse_network("192.0.2.0/24"), POSTFIX, "mynetworks")
OPERATORS = Entry(ListName.WHITE, parse_network("198.51.100.1"), "", "operator", 5.0)
NOTHING: frozenset[Network] = frozenset()


def test_the_first_who_says_it_is_named() -> None:
    same = replace(BY_CONFIG, source=HOST, reason="own address")
    inside = entry(parse_network("10.1.2.3"), POSTFIX, "mynetworks")
    found = given([BY_CONFIG, GATEWAY, same, MYNETWORKS, inside])
    assert list(found.entries.values()) == [BY_CONFIG, GATEWAY, MYNETWORKS]


def test_it_comes_and_goes_with_what_is_said() -> None:
    wanted = given([BY_CONFIG, GATEWAY])
    assert changes(wanted, [OPERATORS], NOTHING) == ([], [BY_CONFIG, GATEWAY])
    held = [OPERATORS, *(replace(each, created_at=7.0) for each in wanted.entries.values())]
    assert changes(wanted, held, NOTHING) == ([], [])
    assert changes(given([BY_CONFIG]), held, NOTHING) == ([held[2]], [])


def test_what_cannot_be_read_now_goes_on_to_hold() -> None:
    unread = given([BY_CONFIG], (CONFIG, HOST))
    assert changes(unread, [BY_CONFIG, GATEWAY, MYNETWORKS], NOTHING) == ([GATEWAY], [])


def test_another_reason_replaces_the_entry() -> None:
    now = replace(GATEWAY, reason="name server")
    assert changes(given([now]), [GATEWAY], NOTHING) == ([], [now])


def test_an_operators_white_entry_stays_in_its_place() -> None:
    own = replace(GATEWAY, source="operator", reason="mine")
    assert changes(given([GATEWAY]), [own], NOTHING) == ([], [])
    assert changes(given([]), [own], NOTHING) == ([], [])


def test_an_operators_block_comes_before_all_but_the_configuration() -> None:
    wanted = given([BY_CONFIG, GATEWAY, MYNETWORKS])
    overruled = {each.peer for each in (BY_CONFIG, GATEWAY)}
    assert changes(wanted, [], overruled) == ([], [BY_CONFIG, MYNETWORKS])
    assert changes(wanted, wanted.entries.values(), overruled) == ([GATEWAY], [])


def test_who_may_overrule() -> None:
    block = replace(GATEWAY, list=ListName.BLOCK, source="operator")
    assert may_overrule(block)
    assert may_overrule(replace(block, list=ListName.BLACK))
    assert not may_overrule(replace(block, source="score"))
    assert not may_overrule(replace(block, source="fail2ban:sasl"))
    assert not may_overrule(replace(block, list=ListName.WHITE))


_ENTRIES = st.lists(
    st.builds(
        entry,
        st.builds(
            lambda n, bits: parse_network(f"{n}.0.0.0/{bits}"), st.sampled_from((0, 64)), st.just(8)
        )
        | st.sampled_from([parse_network(f"64.0.0.{n}") for n in range(4)]),
        st.sampled_from((CONFIG, HOST, POSTFIX, "operator")),
        st.sampled_from("ab"),
    ),
    unique_by=lambda each: each.peer,
)


@for_all(_ENTRIES, _ENTRIES, st.sets(st.sampled_from((CONFIG, HOST, POSTFIX))))
def test_after_the_changes_there_is_nothing_to_change(
    said: list[Entry], white: list[Entry], known: set[str]
) -> None:
    wanted = given([each for each in said if each.source in known], known)
    gone, new = changes(wanted, white, NOTHING)
    after = {each.peer: each for each in white if each not in gone}
    after |= {each.peer: each for each in new}
    assert changes(wanted, after.values(), NOTHING) == ([], [])
    assert all(peer in after for peer in wanted.entries)
    assert isinstance(wanted, Given)
