"""Scores: what is charged adds up, fades, and is forgotten."""

from math import inf
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsd.core.evidence import Evidence, Kind
from dpsd.core.peers import PeerSize
from dpsd.core.scores import FOR_A_NEW_ONE, TIME_WAITS_END, Scores
from dpsd.core.session import Session
from tests.core.transcript import CREDIT_MOST, network

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
    peer, other = scores.peer(A, 0.0), scores.peer(B, 0.0)
    assert [scores.opened(peer, at) for at in opened_at] == allowed
    assert scores.opened(other, opened_at[-1])


def test_credit_cant_be_bought_by_volume(scores: Scores) -> None:
    """Row B3: whatever a peer delivers, it has credit for so many mails and no more."""
    peer = scores.peer(A, 0.0)
    borne = []
    for _ in range(1000):
        borne.append(scores.patience(peer, 0.0))
        scores.earn(peer, 1.0, CREDIT_MOST, 0.0)
    assert borne[:2] == [1.0, 2.0]
    assert borne == sorted(borne)
    assert scores.credit(peer, 0.0) == CREDIT_MOST
    assert scores.patience(peer, 0.0) < 4


def test_credit_fades(scores: Scores) -> None:
    peer = scores.peer(A, 0.0)
    scores.earn(peer, CREDIT_MOST, CREDIT_MOST, 0.0)
    assert scores.credit(peer, scores.credit_half_life) == pytest.approx(CREDIT_MOST / 2)
    assert scores.patience(peer, 1e9) == pytest.approx(1.0)


def test_a_mail_pays_for_a_session_until_it_has_faded_by_half(scores: Scores) -> None:
    for wait, pays in ((0.99, True), (1.01, False)):
        scores.clear(A)
        peer = scores.peer(A, 0.0)
        peer.credit = 0.0
        scores.earn(peer, 1.0, CREDIT_MOST, 0.0)
        assert scores.spend(peer, 1.0, wait * scores.credit_half_life) is pays


def test_what_earns_little_takes_no_credit_away(scores: Scores) -> None:
    """A session that only closed as it should, of a peer that has delivered mail."""
    peer = scores.peer(A, 0.0)
    scores.earn(peer, 3.0, CREDIT_MOST, 0.0)
    scores.earn(peer, 0.25, 1.0, 0.0)
    assert scores.credit(peer, 0.0) == 3.0


def test_credit_is_spent_until_there_is_none(scores: Scores) -> None:
    peer = scores.peer(A, 0.0)
    assert not scores.spend(peer, 1.0, 0.0)
    scores.earn(peer, 2.25, CREDIT_MOST, 0.0)
    assert [scores.spend(peer, 1.0, 0.0) for _ in range(4)] == [True, True, False, False]
    assert scores.credit(peer, 0.0) == 0.0


def test_the_store_is_told_of_whole_units_of_credit_and_of_what_is_spent(scores: Scores) -> None:
    peer = scores.peer(A, 0.0)
    for worth, told in ((0.75, set()), (0.5, {A}), (0.5, set())):
        scores.changed.clear()
        scores.earn(peer, worth, CREDIT_MOST, 0.0)
        assert scores.changed == told
    scores.spend(peer, 1.0, 0.0)
    assert scores.changed == {A}


def test_a_release_leaves_a_clean_slate(scores: Scores) -> None:
    peer = scores.peer(A, 0.0)
    scores.charge(peer, Kind.CHURN, "", 99.0, 0.0)
    peer.listed = True
    peer.deferrals, peer.deferred_until, peer.ended_at, peer.returned_since = 3, 45.0, 0.0, 0.0
    scores.clear(A)
    scores.clear(B)  # nobody
    assert (scores.score(peer, 0.0), peer.evidence, peer.listed) == (0.0, {}, False)
    assert (peer.deferrals, peer.deferred_until, peer.ended_at) == (0, -inf, -inf)
    assert peer.returned_since == inf


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
        ("credit", True),
        ("deferred", True),
        ("was ended", True),
        ("faded score", False),
        ("tokens", True),
    ],
)
def test_only_what_matters_is_remembered(scores: Scores, what: str, kept: bool) -> None:
    peer = scores.peer(A, 0.0)
    now = TIME_WAITS_END
    match what:
        case "open":
            peer.sessions["a session"] = cast(Session, None)
        case "time_wait":
            scores.time_wait(peer, 1)
        case "listed":
            peer.listed = True
        case "was ended":  # it may come back, and is deferred for longer then
            peer.ended_at = now - HALF_LIFE
        case "deferred":
            peer.deferred_until = now + 1.0
        case "score":
            scores.charge(peer, Kind.EMPTY, "", 1.0, now)
        case "credit":
            scores.earn(peer, 1.0, CREDIT_MOST, 0.0)
        case "faded score":
            scores.charge(peer, Kind.EMPTY, "", 1.0, 0.0)
        case "tokens":  # it has opened so much lately that its allowance isn't full
            scores.opened(peer, now)
    assert scores.prune(now) == (not kept)
    assert (scores.get(A) is not None) == kept
    assert len(scores) == kept


def test_a_lost_time_wait_is_not_remembered_for_ever(scores: Scores) -> None:
    scores.time_wait(scores.peer(A, 0.0), 1)
    assert scores.prune(TIME_WAITS_END) == 0
    assert scores.prune(TIME_WAITS_END + 1) == 1


def test_of_too_many_the_least_are_forgotten(
    scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(104):
        scores.earn(scores.peer(bytes((number,)), 0.0), 1.0 + number, 1000.0, 0.0)
    monkeypatch.setattr("dpsd.core.scores.MOST", 100)
    least = scores.get(b"\0")
    assert least is not None
    least.sessions["a session"] = cast(Session, None)  # whoever is there stays
    gone = 0
    while len(scores) > 100:
        gone += scores.prune(1000.0)
    kept = sorted(peer.key[0] for peer in scores)
    assert len(kept) == 104 - gone
    assert kept == [0, *range(gone + 1, 104)]
    scores.prune(1000.0)
    assert len(scores) == len(kept)


def test_there_are_never_many_more_however_fast_they_come(
    scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpsd.core.scores.MOST", 100)
    for number in range(1000):
        scores.peer(number.to_bytes(2), 0.0)
        assert len(scores) <= 100 + FOR_A_NEW_ONE


def test_who_left_a_list_by_the_way_starts_clean_when_it_is_looked_at(scores: Scores) -> None:
    """Its prefix was released, or the lists were read anew."""
    peer = scores.peer(A, 0.0)
    scores.charge(peer, Kind.CHURN, "", 99.0, 0.0)
    peer.listed = True
    scores.is_listed = lambda _: False
    scores.prune(0.0)
    assert (peer.listed, peer.score) == (False, 0.0)
