"""How long the server takes to answer, and when it answers nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsd.core.latency import Latency, Server
from dpsd.core.numbers import (
    OTHERS,
    REPLY_FACTOR,
    REPLY_SLACK,
    STOOD_STILL,
)
from tests.core.transcript import STRESS_LASTS


def test_a_single_slow_reply_tells_little_and_some_tell_all() -> None:
    latency = Latency()
    latency.took(10.0, 1.0)
    assert latency.seconds == pytest.approx(3.0)
    for at in range(2, 30):
        latency.took(10.0, float(at))
    assert latency.seconds == pytest.approx(10.0, rel=0.01)
    assert latency.limit == pytest.approx(REPLY_FACTOR * 10 + REPLY_SLACK, rel=0.01)


def test_it_gets_shorter_as_replies_come_sooner_but_only_by_time() -> None:
    """A thousand quick replies to an attacker in a second tell no more than one."""
    slow = Latency(8.0, 0.0)
    for n in range(1000):
        slow.took(0.01, n / 1000)
    assert slow.seconds > 7.5
    slow.took(0.01, 1.0 + STRESS_LASTS)
    assert slow.seconds == pytest.approx(4.0, rel=0.05)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 60)), min_size=1, max_size=50))
def test_it_is_never_more_than_the_slowest_reply(replies: list[tuple[float, float]]) -> None:
    latency, now = Latency(), 0.0
    for wait, took in replies:
        now += wait
        latency.took(took, now)
        assert 0 <= latency.seconds <= max(took for _, took in replies)


def passed(server: Server, number: int, words: int, opened: float, asked: float) -> None:
    for n in range(number):
        server.answered(words, opened + n / 10, asked + n / 10)


def test_who_is_passed_over_by_as_many_as_it_takes() -> None:
    server = Server()
    for number in range(OTHERS):
        assert not server.passed_over(90, 5.0, 5.5)
        server.answered(90, 6.0 + number, 7.0)
    assert server.passed_over(90, 5.0, 5.5)
    assert not server.passed_over(90, 6.0, 6.5)  # the first of them didn't come later
    assert not server.passed_over(90, 5.0, 7.0)  # they didn't ask later
    assert server.passed_over(90, 7.0, 6.5, 1)
    server.answered(90, 1.0, 30.0)  # an old session's reply doesn't count, nor hides the others'
    assert server.passed_over(90, 5.0, 5.5)


def test_one_session_counts_once_however_often_it_is_answered() -> None:
    server = Server()
    for n in range(OTHERS + 2):
        server.answered(90, 6.0, 7.0 + n)
    assert not server.passed_over(90, 5.0, 5.5)


@pytest.mark.parametrize(
    ("what", "theirs", "mine", "passed_over"),
    [
        ("they didn't get as far", 40, 90, False),
        ("as far", 90, 90, True),
        ("further", 4000, 90, True),
        ("mails are mails", 1500, 500_000, True),
        ("commands aren't", 900, 4000, False),
    ],
)
def test_who_passes_over_got_as_far(what: str, theirs: int, mine: int, passed_over: bool) -> None:
    """Who takes recipient after recipient is answered at once, while the first one of a mail may
    have to wait."""
    server = Server()
    passed(server, OTHERS, theirs, 6.0, 7.0)
    assert server.passed_over(mine, 5.0, 5.5) is passed_over, what


def test_a_first_word_that_isnt_finished_is_told_by_whoever_asks_later() -> None:
    server = Server()
    passed(server, OTHERS, 300, 1.0, 7.0)
    assert server.passed_over(int(server.useful_rate), 5.0, 5.5)
    assert not server.passed_over(int(server.useful_rate) + 1, 5.0, 5.5)


def test_mails_have_a_latency_of_their_own() -> None:
    server = Server()
    server.latency(5000).took(30.0, 1.0)
    assert server.latency(40).seconds == 0


def test_a_server_is_silent_when_nobody_was_answered_for_longer_than_it_takes() -> None:
    server = Server()
    server.talk.took(0.1, 100.0)
    patience = server.talk.limit + STOOD_STILL
    assert not server.is_silent(99.9 + patience)
    assert server.is_silent(100.1 + patience)
    server.mail.seconds = 20.0  # it takes that long to look through a mail
    assert not server.is_silent(100.1 + patience)
