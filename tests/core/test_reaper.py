"""Whom the reaper takes first, and whom never."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dpsd.core.events import State
from dpsd.core.progress import Progress
from dpsd.core.reaper import reap
from dpsd.core.sessions import Session


def session(peer: str, useless: float | None, state: State = State.ESTABLISHED) -> Session:
    """A session of a peer that has been of no use for so long; None: no dump has told yet."""
    made = Session(object(), peer.encode(), 25, state, 0.0)
    if useless is not None:
        made.progress = Progress(until=100.0 - useless, at=100.0)
    return made


def peers(sessions: list[Session]) -> list[str]:
    return [s.peer.decode() for s in sessions]


def test_the_greediest_first_until_all_are_alike() -> None:
    held = [session("a", 9) for _ in range(5)] + [session("b", 99) for _ in range(3)]
    held += [session("c", 60)]
    assert peers(reap(held, 2, 2)) == ["a", "a"]
    assert Counter(peers(reap(held, 6, 2))) == {"a": 4, "b": 2}
    assert Counter(peers(reap(held, 100, 2))) == {"a": 5, "b": 3, "c": 1}


def test_of_equals_it_is_the_first_one_whatever_its_address() -> None:
    """So a replay under other names ends the same sessions."""
    for order in ("abc", "cab", "bca"):
        held = [session(peer, 9) for peer in order for _ in range(3)]
        assert peers(reap(held, 4, 2)) == [*order, order[0]]


def test_of_one_peer_the_least_useful_first() -> None:
    held = [session("a", 3), session("a", 30), session("a", 7)]
    assert [s.useless() for s in reap(held, 2, 2)] == [30, 7]


def test_what_is_of_use_counts_as_greed_but_is_never_ended() -> None:
    busy = [session("a", 0) for _ in range(50)]
    held = [*busy, session("a", 5), session("b", 99)]
    assert peers(reap(held, 1, 2)) == ["a"]
    assert peers(reap(held, 100, 2)) == ["a", "b"]
    assert reap(busy, 100, 2) == []


def test_never_those_not_looked_at_not_open_or_ended_already() -> None:
    ended = session("a", 50)
    ended.reaped = True
    held = [session("a", None), session("a", 50, State.FIN_WAIT), ended]
    assert reap(held, 100, 2) == []


def test_nobody_when_there_is_room() -> None:
    assert reap([session("a", 50)], 0, 2) == []
    assert reap([session("a", 50)], -5, 2) == []


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 100)), max_size=60),
    st.integers(-5, 70),
)
def test_as_many_as_wanted_and_only_useless_ones(held: list[tuple[str, float]], room: int) -> None:
    sessions = [session(peer, useless) for peer, useless in held]
    found = reap(sessions, room, 2.0)
    useless = sum(s.useless() > 2.0 for s in sessions)
    assert len(found) == len(set(map(id, found))) == max(0, min(room, useless))
    assert all(s.useless() > 2.0 for s in found)
