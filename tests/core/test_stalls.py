"""Which mails count as abandoned, and which may only wait for the server."""

import pytest

from dpsd.core.events import State
from dpsd.core.progress import Progress
from dpsd.core.server import Server
from dpsd.core.sessions import Session
from dpsd.core.stalls import PATIENCE, SEVERAL, abandon

AFTER = 2.0
LONG, SHORT = AFTER * PATIENCE + 1, AFTER * PATIENCE - 1


def session(peer: str, silent: float, *, said: int = 2000, owed: bool = True) -> Session:
    """A session of a peer that has not been answered for so long."""
    made = Session(object(), peer.encode(), 25, State.ESTABLISHED, 0.0)
    made.progress = Progress(
        until=100.0, at=100.0, greeted=True, said=said, owed_at=100.0 - silent, owed=owed,
        is_mail=said >= 1000,
    )  # fmt: skip
    return made


def queued(peer: str) -> Session:
    """One that nobody greeted yet."""
    return Session(object(), peer.encode(), 25, State.ESTABLISHED, 0.0)


def abandoned(*sessions: Session, trust: float = 0.0, server: Server | None = None) -> int:
    """How many of them."""
    abandon(sessions, AFTER, lambda _: trust, server or Server())
    return sum(bool(each.progress and each.progress.abandoned) for each in sessions)


def several(silent: float = LONG, **what: int | bool) -> list[Session]:
    return [session("a", silent, **what) for _ in range(SEVERAL + 1)]  # type: ignore[arg-type]


def test_several_mails_of_a_stranger_that_stall() -> None:
    stalled = several()
    assert abandoned(*stalled) == len(stalled)
    assert all(each.useless() == pytest.approx(LONG) for each in stalled)


@pytest.mark.parametrize(
    ("what", "sessions"),
    [
        ("a few may be the network's fault", several()[1:]),
        ("not for long", several(SHORT)),
        ("no mails: others judge them", several(said=100)),
        ("answered: they wait for their next mail", several(owed=False)),
        ("each of another peer", [session(str(n), LONG) for n in range(50)]),
    ],
)
def test_nobody_abandons(what: str, sessions: list[Session]) -> None:
    assert not abandoned(*sessions), what


def test_as_many_as_it_delivered_are_borne_with() -> None:
    assert not abandoned(*several(), trust=1.0)
    assert abandoned(*several(), *several(), trust=1.0)


def test_what_waits_in_the_queue_counts() -> None:
    assert abandoned(session("a", LONG), *(queued("a") for _ in range(SEVERAL))) == 1
    assert not abandoned(session("a", LONG), *(queued("b") for _ in range(SEVERAL)))


def test_a_trickle_counts_when_it_has_got_nowhere() -> None:
    trickling = several(SHORT)
    for each in trickling:
        assert each.progress
        each.progress.until -= AFTER + 1
    assert abandoned(*trickling)


def test_when_others_wait_as_well_it_may_be_the_server() -> None:
    others = [session(str(n), LONG) for n in range(2)]
    assert not abandoned(*several(), *others)
    assert abandoned(*several(), *others[:1]) == SEVERAL + 1


def test_a_server_that_takes_its_time_with_mails() -> None:
    slow = Server()
    slow.mails.seconds = LONG
    assert not abandoned(*several(), server=slow)
