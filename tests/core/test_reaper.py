"""Whom the reaper takes first, and whom never."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dpsd.core import reaper
from dpsd.core.events import State
from dpsd.core.progress import Progress
from dpsd.core.reaper import Haste
from dpsd.core.sessions import Session

PLAIN = Haste(after=2.0, swarm=1000)


def session(peer: str, useless: float | None, state: State = State.ESTABLISHED) -> Session:
    """A session of a peer that has been of no use for so long; None: no dump has told yet."""
    made = Session(object(), peer.encode(), 25, state, 0.0)
    if useless is not None:
        made.progress = Progress(until=100.0 - useless, at=100.0)
    return made


def reap(held: list[Session], room: int, haste: Haste) -> list[Session]:
    return reaper.reap(held, room, haste)[0]


def peers(sessions: list[Session]) -> list[str]:
    return [s.peer.decode() for s in sessions]


def test_the_greediest_first_until_all_are_alike() -> None:
    held = [session("a", 9) for _ in range(5)] + [session("b", 99) for _ in range(3)]
    held += [session("c", 60)]
    assert peers(reap(held, 2, PLAIN)) == ["a", "a"]
    assert Counter(peers(reap(held, 6, PLAIN))) == {"a": 4, "b": 2}
    assert Counter(peers(reap(held, 100, PLAIN))) == {"a": 5, "b": 3, "c": 1}


def test_of_equals_it_is_the_first_one_whatever_its_address() -> None:
    """So a replay under other names ends the same sessions."""
    for order in ("abc", "cab", "bca"):
        held = [session(peer, 9) for peer in order for _ in range(3)]
        assert peers(reap(held, 4, PLAIN)) == [*order, order[0]]


def test_of_one_peer_the_least_useful_first() -> None:
    held = [session("a", 3), session("a", 30), session("a", 7)]
    assert [s.useless() for s in reap(held, 2, PLAIN)] == [30, 7]


def test_what_is_of_use_counts_as_greed_but_is_never_ended() -> None:
    busy = [session("a", 0) for _ in range(50)]
    held = [*busy, session("a", 5), session("b", 99)]
    assert peers(reap(held, 1, PLAIN)) == ["a"]
    assert peers(reap(held, 100, PLAIN)) == ["a", "b"]
    assert reap(busy, 100, PLAIN) == []


def test_never_those_not_looked_at_not_open_or_ended_already() -> None:
    ended = session("a", 50)
    ended.reaped = True
    held = [session("a", None), session("a", 50, State.FIN_WAIT), ended]
    assert reap(held, 100, PLAIN) == []


def test_nobody_when_there_is_room() -> None:
    assert reap([session("a", 50)], 0, PLAIN) == []
    assert reap([session("a", 50)], -5, PLAIN) == []


def test_a_peer_with_one_session_gets_more_time() -> None:
    held = [session("a", 5), session("b", 5), session("b", 5), session("c", 7)]
    assert Counter(peers(reap(held, 100, PLAIN))) == {"b": 2, "c": 1}


def test_many_peers_with_few_useless_sessions_each_are_a_swarm() -> None:
    swarm = [session(f"swarm {n}", 1.5) for n in range(20)]
    other = [session("greedy", 1.5) for n in range(5)]
    assert reap(swarm[:19] + other, 100, Haste(2.0, swarm=20)) == []
    found, is_swarm = reaper.reap(swarm + other, 100, Haste(2.0, swarm=20))
    assert is_swarm
    assert len(found) == 25
    # Those that come back one by one are of the same swarm.
    assert len(reap(swarm[:3], 100, Haste(2.0, swarm=20, swarming=True))) == 3


def test_how_many_are_few_depends_on_the_slots() -> None:
    held = [session(f"swarm {n // 4}", 1.5) for n in range(80)]
    assert reap(held, 100, Haste(2.0, swarm=20)) == []
    assert len(reap(held, 100, Haste(2.0, swarm=20, few=4))) == 80


def test_a_peer_with_several_gets_less_time_under_a_siege() -> None:
    held = [session("a", 1.5), session("a", 0.5), session("lone", 5)]
    assert reap(held, 100, PLAIN) == []
    assert peers(reap(held, 100, Haste(2.0, 1000, besieged=True))) == ["a"]


def test_who_delivered_mail_gets_more_time() -> None:
    held = [session("a", 5), session("a", 5), session("b", 5), session("b", 5)]
    trusting = Haste(2.0, 1000, patience=lambda peer: 3.0 if peer == b"a" else 1.0)
    assert peers(reap(held, 100, trusting)) == ["b", "b"]


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 100)), max_size=60),
    st.integers(-5, 70),
)
def test_as_many_as_wanted_and_only_useless_ones(held: list[tuple[str, float]], room: int) -> None:
    sessions = [session(peer, useless) for peer, useless in held]
    found = reap(sessions, room, PLAIN)
    many = Counter(peers(sessions))
    useless = sum(s.useless() > (2.0 if many[s.peer.decode()] > 1 else 6.0) for s in sessions)
    assert len(found) == len(set(map(id, found))) == max(0, min(room, useless))
    assert all(s.useless() > 2.0 for s in found)
