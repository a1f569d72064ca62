"""Half-closed sessions that only the server's sockets know."""

from typing import Any

from dpsd.core.events import State
from dpsd.core.halfclosed import MOST, HalfClosed
from dpsd.core.scores import Peer
from dpsd.core.session import Note, Session
from tests.core.transcript import Stage

A, B = "203.0.113.1", "203.0.113.2"
HELD = "SYN_RECV ESTABLISHED"


def linger(stage: Stage, keys: list[Any], until: float) -> Stage:
    """The server's sockets tell every two seconds that these sessions are half closed."""
    while stage.now < until:
        stage.said += [(stage.now, each) for each in stage.engine.linger(keys, stage.now)]
        stage.until(stage.now + 2)
    return stage


def test_what_only_the_sockets_know_to_be_half_closed_costs_as_any() -> None:
    stage = Stage()
    linger(stage, [stage.key(f"{A}#{n}") for n in range(3)], 70)
    assert stage.evidence(A) == {"overstay CLOSE_WAIT": 24.0}  # 8 s beyond a minute, three times
    assert stage.open(A) == 3
    linger(stage, [], 74)
    assert stage.open(A) == 0
    assert stage.evidence(A) == {"overstay CLOSE_WAIT": 24.0}


def test_many_of_them_are_a_stress() -> None:
    """So they are proper for less time."""
    stage = Stage({"slots": 10})
    assert linger(stage, [stage.key(f"{A}#{n}") for n in range(10)], 30).listed == [A]


def test_those_that_conntrack_knows_or_nobody_protects_count_once() -> None:
    stage = Stage(dumps=5).play(f"0 {A} {HELD} FIN_WAIT/server CLOSE_WAIT")
    linger(stage, [stage.key(A), stage.key(f"{B}@80")], 70)
    assert stage.evidence(A) == {"overstay CLOSE_WAIT": 10.0}
    assert stage.evidence(B) == {}


def test_they_keep_no_slot() -> None:
    stage = Stage({"slots": 10})
    linger(stage, [stage.key(f"{A}#{n}") for n in range(10)], 4)
    assert stage.engine.pressure == 0.0


def test_no_more_are_followed_than_can_be_looked_at() -> None:
    """Row B4."""
    peer = Peer(b"peer", 1.0, 0.0)
    begun: list[Any] = []

    def begin(key: Any, now: float) -> Session:
        begun.append(key)
        return Session(key, peer, 25, State.ESTABLISHED, now)

    half_closed = HalfClosed(begin)
    notes = half_closed.take(range(10 * MOST), lambda _: 60.0, 0.0)
    assert len(notes) == len(half_closed) == len(begun) == peer.open == MOST
    assert {note for note, *_ in notes} == {Note.FOUND}
    notes = half_closed.take((), lambda _: 60.0, 1.0)
    assert len(notes) == MOST
    assert (len(half_closed), peer.open) == (0, 0)


def test_nobody_pays_for_a_time_in_which_nobody_looked() -> None:
    peer = Peer(b"peer", 1.0, 0.0)
    half_closed = HalfClosed(lambda key, now: Session(key, peer, 25, State.ESTABLISHED, now))
    half_closed.take([1], lambda _: 10.0, 0.0)
    half_closed.skip()
    assert half_closed.take([1], lambda _: 10.0, 900.0) == []
    ((note, _, seconds),) = half_closed.take([1], lambda _: 10.0, 902.0)
    assert (note, seconds) == (Note.OVERSTAY, 2.0)
