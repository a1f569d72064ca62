"""Ending sessions by challenge ACKs, step by step, with a server that is made up: no kernel."""

import errno
from collections.abc import Iterable, Mapping

import pytest

from dpsd.errors import KernelError, NotPermitted
from dpsd.kernel.ending.challenges import AT_ONCE, KNOCKS, PAUSE, SILENCES, Challenges, Outcomes
from dpsd.kernel.ending.entries import Place
from dpsd.kernel.ending.outcome import ENDED, GONE, Fate, Outcome, Why
from dpsd.kernel.ending.rule import LASTS, answer, element

LIMIT = 0.5  # seconds between two challenge ACKs of a session


def place(number: int, port: int = 40_000) -> Place:
    return Place(b"%d" % number, b"\xc6\x33\x64\2", 25, b"\x0a\x63\0\1", port + number)


class Server:
    """Has these sessions. deaf: resets don't reach it; full: it answers no SYN for a new session;
    silent: it answers nothing; refused: an errno instead of a SYN.
    """

    def __init__(self, *places: Place) -> None:
        self.sessions = {element(each) for each in places}
        self.deaf = self.full = self.silent = False
        self.refused = 0
        self.problem: KernelError | NotPermitted | None = None
        self.now = 0.0
        self.knocks = self.most = 0
        self.added: set[bytes] = set()
        self.asked: list[Place] = []
        self.told: list[Place] = []
        self._packets: dict[bytes, int] = {}
        self._gone: set[bytes] = set()
        self._challenged: dict[bytes, float] = {}

    def add(self, places: Iterable[Place]) -> None:
        if self.problem is not None:
            raise self.problem
        self.added |= {element(each) for each in places}
        self.most = max(self.most, len(self.added))

    def remove(self, places: Iterable[Place]) -> None:
        self.added -= {element(each) for each in places}

    def read(self) -> tuple[Mapping[bytes, int], set[bytes]]:
        if self.problem is not None:
            raise self.problem
        return self._packets, self._gone

    def numbers(self) -> Mapping[bytes, tuple[int, int]]:
        return {answer(each): (7, 8) for each in self.asked if element(each) in self._packets}

    def reset_peer(self, place: Place, sequence: int, expected: int) -> None:
        assert (sequence, expected) == (7, 8)
        assert element(place) not in self.sessions
        self.told.append(place)

    def knock(self, place: Place) -> int:
        assert element(place) in self.added
        self.knocks += 1
        self.asked.append(place)
        if self.refused or self.silent:
            return self.refused
        which = element(place)
        if which not in self.sessions:
            if not self.full:
                self._packets[which] = self._packets.get(which, 0) + 1
                self._gone.add(which)
        elif self.now - self._challenged.get(which, -1.0) >= LIMIT:
            self._challenged[which] = self.now
            self._packets[which] = self._packets.get(which, 0) + 1
            if not self.deaf:
                self.sessions.discard(which)
        return 0


def play(server: Server, *places: Place) -> Outcomes:
    """Until all is settled, as fast as the steps are due."""
    ending = Challenges(server)
    outcomes = ending.begin(places, server.now)
    while (due := ending.due) is not None:
        assert due > server.now
        server.now = due
        settled = ending.step(server.now)
        assert not settled.keys() & outcomes.keys()
        outcomes |= settled
    assert not server.added
    return outcomes


def test_a_session_is_ended_and_that_is_verified() -> None:
    one = place(1)
    server = Server(one)
    assert play(server, one) == {one.key: ENDED}
    assert server.knocks == 2
    assert server.now < LIMIT


def test_what_the_server_does_not_have_is_gone() -> None:
    one, other = place(1), place(2)
    server = Server(one)
    assert play(server, one, other) == {one.key: ENDED, other.key: GONE}
    assert server.told == [one]


def test_resets_that_do_not_arrive_are_tried_again_and_then_told() -> None:
    one = place(1)
    server = Server(one)
    server.deaf = True
    assert play(server, one)[one.key].why is Why.STAYS
    assert server.knocks == KNOCKS
    assert server.now < LASTS  # of the elements in the sets


def test_nobody_answers() -> None:
    one = place(1)
    server = Server(one)
    server.silent = True
    assert play(server, one)[one.key] == Outcome(Fate.NOT_ENDED, Why.NO_ANSWER)
    assert server.knocks == SILENCES
    assert server.now < PAUSE * SILENCES + 1


def test_who_answered_and_then_is_silent_has_lost_it() -> None:
    one = place(1)
    server = Server(one)
    server.full = True
    assert play(server, one) == {one.key: ENDED}


@pytest.mark.parametrize(
    ("failure", "port", "why"),
    [
        (errno.EACCES, 25, Why.LOW_PORT),
        (errno.EACCES, 40_000, Why.NOT_PERMITTED),
        (errno.EPERM, 25, Why.NOT_PERMITTED),
        (errno.EHOSTUNREACH, 40_000, Why.NO_ROUTE),
        (errno.EADDRNOTAVAIL, 40_000, Why.PORT_IN_USE),
        (errno.EINVAL, 40_000, Why.REFUSED),
    ],
)
def test_a_question_that_the_kernel_refuses(failure: int, port: int, why: Why) -> None:
    one = place(0, port)
    server = Server(one)
    server.refused = failure
    assert play(server, one)[one.key].why is why
    assert server.knocks == 1


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (KernelError("no such thing"), Why.NO_RULE),
        (NotPermitted("run as root"), Why.NOT_PERMITTED),
    ],
)
def test_without_the_rule_nothing_is_asked(problem: KernelError | NotPermitted, why: Why) -> None:
    one = place(1)
    server = Server(one)
    server.problem = problem
    assert play(server, one) == {one.key: Outcome(Fate.NOT_ENDED, why, str(problem))}
    assert server.knocks == 0


def test_the_sets_are_never_overfull() -> None:
    places = [place(number, 0) for number in range(3 * AT_ONCE)]
    server = Server(*places)
    outcomes = play(server, *places)
    assert set(outcomes.values()) == {ENDED}
    assert server.most <= AT_ONCE
