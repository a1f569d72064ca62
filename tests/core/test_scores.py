"""Scores: what is charged adds up, fades, and is forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsd.core.peers import PeerSize
from dpsd.core.scores import MOST_TRUST, TIME_WAITS_END, Evidence, Kind, Scores
from tests.core.transcript import network

A, B = b"\xcb\x00\x71\x01", b"\xcb\x00\x71\x02"
HALF_LIFE = 100.0


@pytest.fixture
def scores() -> Scores:
    return Scores(PeerSize(), HALF_LIFE, rate=1.0, burst=3.0)


def test_a_score_halves_every_half_life(scores: Scores) -> None:
    peer = scores.peer(A, 0.0)
    assert scores.charge(peer, Kind.ABORT, "", 8.0, 0.0) == 8.0
    assert [scores.score(peer, at) for at in (0.0, 100.0, 200.0, 300.0)] == [8.0, 4.0, 2.0, 1.0]
    assert scores.charge(peer, Kind.ABORT, "", 8.0, 100.0) == 12.0


def test_evidence_is_told_as_it_was_charged(scores: Scores) -> None:
    peer = scores.peer(A, 0.0)
    scores.charge(peer, Kind.OVERSTAY, "LAST_ACK", 5.0, 10.0)
    scores.charge(peer, Kind.OVERSTAY, "LAST_ACK", 5.0, 500.0, count=0)
    scores.charge(peer, Kind.OVERSTAY, "FIN_WAIT", 1.0, 600.0)
    assert list(peer.evidence.values()) == [
        Evidence(Kind.OVERSTAY, "LAST_ACK", 10.0, 1, 10.0, 500.0),
        Evidence(Kind.OVERSTAY, "FIN_WAIT", 1.0, 1, 600.0, 600.0),
    ]
    assert scores.changed == {A}


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 1000))), st.floats(0, 1000))
def test_a_score_is_the_sum_of_what_each_part_faded_to(
    charges: list[tuple[float, float]], later: float
) -> None:
    scores = Scores(PeerSize(), HALF_LIFE, 1.0, 3.0)
    peer = scores.peer(A, 0.0)
    now, parts = 0.0, []
    for cost, wait in charges:
        now += wait
        scores.charge(peer, Kind.EMPTY, "", cost, now)
        parts.append((cost, now))
    end = now + later
    faded = sum(cost * 0.5 ** ((end - at) / HALF_LIFE) for cost, at in parts)
    assert scores.score(peer, end) == pytest.approx(faded, abs=1e-9)


@pytest.mark.parametrize(
    ("opened_at", "allowed"),
    [
        ([0, 0, 0, 0, 0], [True, True, True, False, False]),  # a burst of three
        ([0, 1, 2, 3, 4, 5, 6], [True] * 7),  # one a second for ever
        ([0, 0, 0, 0.5, 1.0, 1.5], [True, True, True, False, True, False]),
        ([0, 0, 0, 0, 1000, 1000, 1000, 1000], [True, True, True, False] * 2),
    ],
)
def test_a_peer_may_open_so_many(
    scores: Scores, opened_at: list[float], allowed: list[bool]
) -> None:
    assert [scores.opened(A, at)[1] for at in opened_at] == allowed
    assert scores.opened(B, opened_at[-1])[1]
    assert scores.peer(A, 0.0).open == len(opened_at)


def test_trust_buys_patience_and_no_more(scores: Scores) -> None:
    peer = scores.peer(A, 0.0)
    told = []
    for _ in range(1000):
        told.append(scores.patience(peer, 0.0))
        scores.credit(peer, 1.0, MOST_TRUST, 0.0)
    assert told[0] == 1.0
    assert told == sorted(told)
    assert told[1] == 2.0
    assert scores.trust(peer, 0.0) == MOST_TRUST
    assert scores.patience(peer, 0.0) < 7.1
    assert scores.patience(peer, 14 * 86400.0) < scores.patience(peer, 0.0)
    assert scores.patience(peer, 1e9) == pytest.approx(1.0)


def test_a_release_leaves_a_clean_slate(scores: Scores) -> None:
    peer = scores.peer(A, 0.0)
    scores.charge(peer, Kind.CHURN, "", 99.0, 0.0)
    peer.listed = True
    scores.clear(A)
    scores.clear(B)  # nobody
    assert (scores.score(peer, 0.0), peer.evidence, peer.listed) == (0.0, {}, False)


def test_what_was_restored_goes_on_fading(scores: Scores) -> None:
    evidence = [Evidence(Kind.CHURN, "", 40.0, 80, 0.0, 50.0)]
    scores.restore(network("203.0.113.1"), 40.0, 50.0, evidence)
    peer = scores.get(A)
    assert peer is not None
    assert scores.score(peer, 150.0) == 20.0
    assert peer.evidence[Kind.CHURN, ""].count == 80
    assert not scores.changed  # the store knows it already


@pytest.mark.parametrize(
    ("what", "kept"),
    [
        ("nothing", False),
        ("open", True),
        ("time_wait", True),
        ("listed", True),
        ("score", True),
        ("trust", True),
        ("faded score", False),
        ("tokens", True),
    ],
)
def test_only_what_matters_is_remembered(scores: Scores, what: str, kept: bool) -> None:
    peer = scores.peer(A, 0.0)
    now = TIME_WAITS_END
    match what:
        case "open" | "time_wait" | "listed":
            setattr(peer, what, 1)
        case "score":
            scores.charge(peer, Kind.EMPTY, "", 1.0, now)
        case "trust":
            scores.credit(peer, 1.0, MOST_TRUST, 0.0)
        case "faded score":
            scores.charge(peer, Kind.EMPTY, "", 1.0, 0.0)
        case "tokens":  # it has opened so much lately that its allowance isn't full
            scores.opened(A, now)
            peer.open = 0
    assert scores.prune(now) == (not kept)
    assert (scores.get(A) is not None) == kept
    assert len(scores) == kept


def test_a_lost_time_wait_is_not_remembered_for_ever(scores: Scores) -> None:
    scores.peer(A, 0.0).time_wait = 1
    assert scores.prune(TIME_WAITS_END) == 0
    assert scores.prune(TIME_WAITS_END + 1) == 1


def test_of_too_many_the_least_are_forgotten(
    scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpsd.core.scores.MOST", 100)
    for number in range(104):
        scores.credit(scores.peer(bytes((number,)), 0.0), 1.0 + number, 1000.0, 0.0)
    least = scores.get(b"\0")
    assert least is not None
    least.open = 1  # whoever is there stays
    assert scores.prune(1000.0) == 14
    assert sorted(peer.key[0] for peer in scores) == [0, *range(15, 104)]
