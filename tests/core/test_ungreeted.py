"""Ungreeted: sessions in which the server has said nothing yet, in their order."""

from dpsd.core.scores import Peer
from dpsd.core.session import ESTABLISHED, Session
from dpsd.core.ungreeted import BATCH, Ungreeted


def many(number: int) -> tuple[Ungreeted, list[Session]]:
    ungreeted, peer = Ungreeted(), Peer(b"", 0.0, 0.0)
    sessions = [Session(n.to_bytes(4, "big"), peer, 25, ESTABLISHED, n) for n in range(number)]
    for session in sessions:
        ungreeted.add(session)
    return ungreeted, sessions


def test_they_are_told_in_the_order_of_their_begin() -> None:
    ungreeted, sessions = many(3 * BATCH)
    assert [*ungreeted] == sessions
    assert [*reversed(ungreeted)] == sessions[::-1]


def test_whoever_is_greeted_leaves_once() -> None:
    ungreeted, sessions = many(3)
    ungreeted.drop(sessions[1])
    ungreeted.drop(sessions[1])
    assert [*ungreeted] == [sessions[0], sessions[2]]
    assert sessions[1].waits is None


def test_batches_that_are_empty_are_forgotten() -> None:
    ungreeted, sessions = many(3 * BATCH)
    for session in sessions[1:]:
        ungreeted.drop(session)
    ungreeted.add(sessions[1])
    assert len(ungreeted._batches) == 2
    assert [*ungreeted] == sessions[:2]
