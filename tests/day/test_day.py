"""No honest peer is listed in an hour of all weathers; and attackers among them are.

For more: python -m tests.day --hours 24 --seeds 10
"""

from functools import cache

import pytest

from tests.day.attackers import ATTACKERS, SIEGES, sieges, stalls, swarms
from tests.day.day import WEATHERS, Folk, day
from tests.day.world import Seen

DAYS: dict[str, tuple[int, bool, bool, tuple[Folk, ...]]] = {
    "one": (1, True, True, ()),
    "elsewhere": (2, True, False, ()),
    "uncounted": (3, False, True, ()),
    "besieged": (1, True, True, (sieges,)),
    "uncounted, besieged": (9, False, True, (sieges,)),
    "stalled": (21, True, True, (stalls,)),
    "swarmed": (11, True, True, (swarms,)),
}
"""Seed; whether the kernel counts bytes, and the server is on this host; and who else is there."""
KINDS = (
    *("single", "provider", "newsletter", "list", "callout", "monitor", "check", "backup"),
    *("hoster", "big", "satellite", "failing", "site", "office", "cgnat", "mobile", "pool"),
)


@cache
def played(name: str) -> Seen:
    """What such a day was like. Played once for all tests."""
    seed, counts, sockets, more = DAYS[name]
    return day(seed, counts=counts, sockets=sockets, more=more).seen


@pytest.mark.parametrize("name", DAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_nobody_honest_is_listed(name: str, kind: str) -> None:
    assert [str(each) for each in played(name).listings if kind in each.kinds] == []


@pytest.mark.parametrize("name", DAYS)
def test_every_listing_is_of_a_kind_that_is_known(name: str) -> None:
    kinds = {kind for each in played(name).listings for kind in each.kinds or ["?"]}
    assert kinds <= {*KINDS, "siege"}


@pytest.mark.parametrize("name", DAYS)
def test_the_day_is_a_big_one(name: str) -> None:
    seen = played(name)
    assert seen.sessions.keys() == seen.peers.keys() >= {*KINDS}
    assert sum(map(len, seen.peers.values())) > 4000
    assert seen.sessions.total() > 20_000
    assert seen.events > 100_000
    assert min(seen.versions[4], seen.versions[6]) > 4000
    assert min(seen.sessions.values()) >= 3


@pytest.mark.parametrize("name", DAYS)
def test_the_day_has_calm_hours_and_others(name: str) -> None:
    seen = played(name)
    assert seen.pressures.keys() == {weather.name for weather, _ in WEATHERS}
    assert 300 < seen.stressed < 2400  # seconds
    assert sorted(seen.pressures["calm"])[len(seen.pressures["calm"]) // 2] < 0.8
    assert max(seen.pressures["busy"]) > 0.8


def test_there_are_days_when_peers_wait_for_a_slot() -> None:
    days = [played(name) for name in DAYS]
    assert max(seen.ungreeted for seen in days) > 20
    assert max(max(seen.pressures["slow disk"]) for seen in days) > 1.0


def test_who_besieges_a_calm_server_is_gone_in_seconds() -> None:
    """Two of the sieges, listed when they come back; in the other weathers nobody could tell them
    from the honest so soon."""
    listings = played("besieged").listings
    for began in (SIEGES[0], SIEGES[1]):
        found = [each for each in listings if began <= each.at < began + 40 and each.kinds]
        assert sum(":" not in each.peer for each in found) >= 15  # of 20; IPv6: as prefixes
        assert any("/56" in each.peer or "/48" in each.peer for each in found)


def test_mails_that_are_never_finished_are_listed_too() -> None:
    """When they come back for more, and others' mails are answered meanwhile: some of each siege's
    20 to most of them, as it happens."""
    found = [each for each in played("stalled").listings if each.kinds]
    assert sum(":" not in each.peer for each in found) >= 20


def test_attackers_among_them_are_listed() -> None:
    """So that whoever lists nobody fails as well."""
    seen = day(4, hours=0.34, more=ATTACKERS).seen
    listed = {each.peer for each in seen.listings}
    assert listed >= {
        *("10.66.0.1", "2001:db8:42:1::/64"),
        *("10.67.0.1", "2001:db8:43:1::/64"),
        *("10.68.0.1", "2001:db8:44:1::/64"),
    }
