"""Who is ended while slots run short, in which order, and who never is."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsd.core.auction import HIGHEST, MOST, TRIES, Auction
from dpsd.core.dumps import EVERYTHING
from dpsd.core.events import State, Word
from dpsd.core.numbers import (
    DOUBLING,
    IDLE,
    REPLY_FACTOR,
    REPLY_SLACK,
    SPARED,
)
from dpsd.core.policy import Pool
from dpsd.core.scores import Peer
from dpsd.core.session import Note, Session
from dpsd.core.turn import BOTH, DOUBT, GREETING, PEER, SERVER, UNFINISHED, Progress, Turn
from tests.core.transcript import GRACE, PLAIN, SIZE, STRESS_LASTS, Stage, peers

A, B, C = "203.0.113.1", "203.0.113.2", "203.0.113.3"
HELD = "SYN_RECV ESTABLISHED"
NOW = 1000.0
SCOPE = 25, 4  # of a look
FEW = 6  # sessions of a peer
POOL = Pool(frozenset(), 100)
POLICY = replace(PLAIN, useful_rate=100.0)
NUMBERS: Iterator[int] = count()


def crowd(peer: str, number: int, words: str = HELD, *, at: float = 0, first: int = 1) -> str:
    """So many sessions of a peer that do the same."""
    return "\n".join(f"{at} {peer}#{n} {words}" for n in range(first, first + number))


def peer(name: str) -> Peer:
    return Peer(name.encode(), 10.0, 0.0)


def session(of: Peer, value: float, own: float = 5.0, turn: Turn = PEER, **more: Any) -> Session:
    """A session worth so many bytes a second that had so many seconds of its own by now."""
    made = Session(next(NUMBERS), of, 25, State.ESTABLISHED, 0.0)
    of.sessions[made.key] = made
    progress = made.progress = Progress(NOW - own, True)
    progress.turn, progress.own, progress.useful, progress.at = turn, own, value * own, NOW
    progress.exact = True
    for name, what in more.items():
        setattr(progress, name, what)
    return made


def auction(*sessions: Session, demand: float = 1.5, policy: Any = POLICY) -> Auction:
    """One where these bid, and the price is that of the demand."""
    made = Auction()
    made.set_price(policy, POOL, int(demand * POOL.slots), False, NOW)
    for each in sessions:
        made.bid(each, SCOPE, NOW)
    return made


def take(
    found: Auction, room: int = 1000, spared: int = 0, spare: Collection[str] = ()
) -> list[Session]:
    return found.take(room, spared, FEW, lambda each: each.peer.key.decode() in spare, NOW)


def names(sessions: list[Session]) -> list[str]:
    return [each.peer.key.decode() for each in sessions]


# The order


def test_the_lowest_bid_goes_first_until_there_is_room() -> None:
    held = [session(peer(name), value) for name, value in (("b", 20), ("a", 10), ("c", 30))]
    assert names(take(auction(*held), 2)) == ["a", "b"]


def test_who_holds_many_bids_with_a_share_for_each_and_is_recounted_as_they_go() -> None:
    """Four worth 100 each are 25 each; when two of them are gone they are 50, and more than 40."""
    many, one = peer("many"), peer("one")
    held = [*(session(many, 100.0) for _ in range(4)), session(one, 40.0)]
    assert names(take(auction(*held), 4)) == ["many", "many", "one", "many"]


def test_nobody_goes_who_pays_the_price() -> None:
    policy = replace(POLICY, useful_rate=10.0)
    found = auction(session(peer("a"), 33.0), session(peer("b"), 34.0), policy=policy)
    assert found.price == pytest.approx(10.0 * 1.5**3)
    assert names(take(found)) == ["a"]


def test_nobody_goes_while_there_is_room() -> None:
    assert take(auction(session(peer("a"), 0.0)), 0) == []
    assert take(auction(session(peer("a"), 0.0)), -5) == []


def test_who_is_spared_stays() -> None:
    held = [session(peer(name), 0.0) for name in "ab"]
    assert names(take(auction(*held), spare="a")) == ["b"]


def test_who_is_ended_already_or_closes_isnt_ended_again() -> None:
    doomed, closing, left = (session(peer(name), 0.0) for name in "abc")
    found = auction(doomed, closing, left)
    doomed.doomed, closing.state = True, State.FIN_WAIT
    assert names(take(found)) == ["c"]


def test_nobody_bids_twice_in_a_look_at_the_table_or_with_an_old_one() -> None:
    first, second = session(peer("a"), 0.0), session(peer("b"), 0.0)
    found = Auction()
    found.set_price(POLICY, POOL, 150, False, NOW)
    found.begin_look([(25, 4), (25, 6)])
    found.bid(first, SCOPE, NOW)
    found.begin_look([(25, 4)])  # the next look
    found.bid(second, SCOPE, NOW)
    assert names(take(found)) == ["b"]


def test_a_look_at_one_scope_leaves_the_bids_of_others_whichever_came_first() -> None:
    """An auction may begin between the looks at IPv4 and at IPv6, and looks go on in turn."""
    found = Auction()
    found.set_price(POLICY, POOL, 150, False, NOW)
    found.begin_look([(25, 6)])
    for number in range(3):
        found.begin_look([(25, 4)])
        found.bid(session(peer(f"{number}"), 0.0), (25, 4), NOW)
        found.begin_look([(25, 6)])
        assert names(take(found)) == [f"{number}"]


def test_of_several_looks_the_lowest_bids_of_all_go_first() -> None:
    found = Auction()
    found.set_price(POLICY, POOL, 150, False, NOW)
    for number, worth in enumerate((30.0, 10.0, 20.0, 0.0)):
        found.bid(session(peer(str(number)), worth), (25, 4 + 2 * (number % 2)), NOW)
    assert names(take(found, 3)) == ["3", "1", "2"]


def test_a_dump_without_a_scope_takes_the_place_of_all_looks() -> None:
    found = auction(session(peer("a"), 0.0))
    found.begin_look([EVERYTHING])
    assert names(take(found)) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"), st.floats(0, 1000), st.floats(0, 9), st.sampled_from(Turn)
        ),
        max_size=40,
    ),
    st.integers(-3, 50),
    st.integers(0, 10),
)
def test_as_many_as_wanted_and_only_whom_it_may_be(
    held: list[tuple[str, float, float, Turn]], room: int, spared: int
) -> None:
    of = {name: peer(name) for name in "abcdef"}
    sessions = [session(of[name], value, own, turn) for name, value, own, turn in held]
    found = auction(*sessions)
    taken = take(found, room, spared)
    assert len(taken) == len({each.key for each in taken}) <= max(0, room)
    for each in taken:
        assert each.progress is not None
        assert each.progress.turn in {PEER, BOTH, UNFINISHED, DOUBT}
        assert each.progress.turn == DOUBT or found.overdue(each, NOW) is not None
    if all(each.open <= FEW for each in of.values()):  # who holds many isn't spared
        doubtful = sum(each.progress is not None and each.progress.turn == DOUBT for each in taken)
        assert doubtful <= max(0, sum(turn == DOUBT for *_, turn in held) - spared)


# Grace


@pytest.mark.parametrize(
    ("demand", "grace"), [(0.85, 4 * GRACE), (0.9, 2 * GRACE), (1.0, GRACE), (2.0, GRACE / 2)]
)
def test_grace_is_shorter_the_more_want_a_slot(demand: float, grace: float) -> None:
    found = auction(demand=demand).grace(session(peer("a"), 0.0))
    assert found.seconds == pytest.approx(grace)
    assert found.why


def test_nobody_is_ended_within_grace() -> None:
    grace = auction().grace(session(peer("a"), 0.0)).seconds
    hasty, late = session(peer("a"), 0.0, grace * 0.9), session(peer("b"), 0.0, grace)
    assert names(take(auction(hasty, late))) == ["b"]


def test_grace_is_longer_where_no_socket_told() -> None:
    found = auction()
    grace = found.grace(session(peer("a"), 0.0)).seconds * REPLY_FACTOR
    guessed = session(peer("a"), 0.0, grace * 0.9, exact=False)
    assert found.overdue(guessed, NOW) is None
    guessed = session(peer("a"), 0.0, grace, exact=False)
    assert found.overdue(guessed, NOW) is not None


def test_who_delivered_and_is_idle_goes_sooner() -> None:
    found = auction()
    short = found.grace(session(peer("a"), 0.0)).seconds * IDLE
    assert found.overdue(session(peer("a"), 0.0, short, spent=short), NOW) is None
    idle = session(peer("a"), 0.0, short * 1.01, spent=short * 1.01, mails=1)
    assert found.overdue(idle, NOW) is not None
    assert found.overdue(session(peer("a"), 0.0, short, turn=SERVER, mails=1), NOW) is None


@pytest.mark.parametrize("turn", [GREETING, SERVER])
def test_nobody_is_overdue_while_the_server_may_have_to_speak(turn: Turn) -> None:
    assert auction().overdue(session(peer("a"), 0.0, 60.0, turn), NOW) is None


def test_who_goes_on_before_it_was_answered_owes_the_end_of_what_it_says() -> None:
    """A byte now and then: no reply is due. But then it may have ended, and it is."""
    found = auction()
    trickles = session(peer("a"), 0.0, 9.0, SERVER, goes_on=True, since=NOW)
    assert found.overdue(trickles, NOW) == pytest.approx(9.0)
    assert found.overdue(trickles, NOW + REPLY_SLACK) is None


def test_who_came_back_gets_no_longer_grace_and_goes_also_while_there_is_room() -> None:
    """As long as stress lasts: what is of no use again wasn't worth waiting for."""
    back, new = peer("back"), peer("new")
    back.deferrals, back.held, back.ended_at = 1, POLICY.few + 1, -1.0
    held = [session(each, 0.0, 2.5 * GRACE) for each in (back, new)]
    calm = auction(*held, demand=0.85)
    assert calm.grace(held[0]).seconds == pytest.approx(2 * GRACE)
    assert calm.grace(held[0]).why != calm.grace(held[1]).why
    assert names(calm.returned(lambda _: False, NOW)) == ["back"]
    assert calm.returned(lambda _: False, NOW) == []
    assert auction(*held, demand=0.85).returned(lambda _: True, NOW) == []


# Doubt


def test_doubtful_ones_go_last_the_youngest_first_and_a_part_of_them_stays() -> None:
    doubts = [session(peer(f"d{n}"), 0.0, float(n), DOUBT) for n in (3, 1, 4, 2)]
    idle = session(peer("idle"), 90.0)
    assert names(take(auction(*doubts, idle), 3)) == ["idle", "d1", "d2"]
    assert names(take(auction(*doubts, idle), 9, spared=3)) == ["idle", "d1"]
    assert names(take(auction(*doubts), 9, spared=4)) == []


def test_of_doubtful_ones_those_of_a_peer_that_holds_many_go_first_and_none_of_them_stays() -> None:
    many = peer("many")
    held = [session(many, 0.0, 9.0, DOUBT) for _ in range(FEW + 2)]
    lone = [session(peer("lone"), 0.0, 5.0, DOUBT) for _ in range(3)]
    assert set(names(take(auction(*held, *lone), 5, spared=100))) == {"many"}
    assert names(take(auction(*lone), 5, spared=100)) == []


def test_of_doubtful_ones_those_that_came_back_go_before_others() -> None:
    """A stranger whose session of no use was ended is no better than others that wait as long."""
    back, delivers = peer("back"), peer("delivers")
    for each in (back, delivers):
        each.deferrals, each.ended_at = 1, -1.0
    delivers.mailed_at = -1.0
    doubts = [session(of, 0.0, own, DOUBT) for of, own in ((delivers, 1.0), (back, 9.0))]
    assert names(take(auction(*doubts), 1)) == ["back"]


def test_who_never_finished_what_it_says_is_as_one_who_is_silent() -> None:
    assert names(take(auction(session(peer("a"), 0.0, turn=UNFINISHED)))) == ["a"]


# The price


def priced(
    found: Auction, seconds: float, taken: int, silent: bool = False, at: float = 0
) -> float:
    """The price after so many seconds of quarter-second ticks."""
    for n in range(1, int(seconds * 4) + 1):
        found.set_price(POLICY, POOL, taken, silent, NOW + at + n / 4)
    return found.price


def test_the_price_rises_while_payers_keep_the_slots_and_falls_slowly() -> None:
    found = auction()
    start = found.price
    for _ in range(int(SPARED * POOL.slots) + 1):
        found.bid(session(peer("payer"), 1e9), SCOPE, NOW)
    risen = priced(found, 4 * DOUBLING, 150)
    assert risen == pytest.approx(start * 2**4, rel=0.01)
    found.begin_look([(25, 4)])
    found.begin_look([(25, 4)])
    found.begin_look([(25, 4)])  # nobody paid in the last two looks
    assert priced(found, 5 * DOUBLING, 150, at=4) == pytest.approx(risen / 2, rel=0.01)
    assert priced(found, 100 * DOUBLING, 150, at=9) == pytest.approx(start)


def test_the_price_has_a_bound() -> None:
    found = auction(*(session(peer("payer"), 1e12) for _ in range(60)))
    assert priced(found, 100 * DOUBLING, 150) == HIGHEST
    assert priced(found, 1, 100_000, at=100) == HIGHEST


@pytest.mark.parametrize(
    ("what", "payers", "taken", "silent"),
    [
        ("few payers: they may be honest", 25, 150, False),
        ("there is room", 60, 100, False),
        ("the server answers nobody", 60, 150, True),
    ],
)
def test_the_price_doesnt_rise(what: str, payers: int, taken: int, silent: bool) -> None:
    found = auction(*(session(peer("payer"), 1e9) for _ in range(payers)), demand=taken / 100)
    start = found.price
    assert priced(found, 5 * DOUBLING, taken, silent) == start, what


# Bounds


def test_no_more_are_ended_or_looked_at_together_than_the_kernel_ends_in_time() -> None:
    held = [session(peer(str(n)), 0.0) for n in range(MOST + 5)]
    assert len(take(auction(*held), 10 * MOST)) == MOST
    hasty = [session(peer(str(n)), 0.0, 0.15) for n in range(TRIES + 5)]
    found = auction(*hasty)
    assert take(found, 5) == []
    assert len(found._looks[SCOPE].bids) == 5


# With the engine: what the kernel tells


def test_slots_are_taken_from_who_makes_least_of_them() -> None:
    """The mail that moves stays, and so does who talks; whoever only holds a slot goes."""
    stage = Stage({"slots": 10, "block_at": 1e6}, dumps=1).play(crowd(A, 8))
    stage.play(f"0 {B} {HELD} says=100").play(f"0 {C} {HELD} says=20").play(f"0.5 {C} hears=20")
    for at in range(1, 20):
        stage.play(f"{at}.2 {B} says=9000").play(f"{at}.2 {C} says=300").play(f"{at}.4 {C} hears=9")
    assert peers(stage.ended) == {A}
    assert len(stage.ended) == 2  # to 80 %, and no more
    assert (stage.open(B), stage.open(C)) == (1, 1)


def test_room_is_made_within_two_seconds_and_all_the_time() -> None:
    stage = Stage({"slots": 20, "block_at": 1e6, "churn_burst": 1e3}, dumps=1)
    for second in range(30):
        stage.play("\n".join(f"{second} 10.7.{second}.{n} {HELD}" for n in range(20)))
    assert stage.until(32).states["ESTABLISHED"] <= 20


def test_slots_are_made_free_where_they_run_short() -> None:
    """Two services with slots of their own: the sessions to the other one stay."""
    pools = Pool(frozenset({25}), 4), Pool(frozenset({587}), 100)
    stage = Stage({"pools": pools, "block_at": 1e6}, dumps=1)
    stage.play(crowd(A, 6)).play("\n".join(f"0 {B}#{n}@587 {HELD}" for n in range(9)))
    assert stage.engine.pressure == 1.5
    stage.until(30)
    assert peers(stage.ended) == {A}
    assert stage.states["ESTABLISHED"] == 9 + 3


def test_nobody_is_ended_while_there_is_room_or_while_events_are_missing() -> None:
    stage = Stage({"slots": 10}, dumps=1).play(crowd(A, 8)).until(200)
    assert stage.doomed == []
    stage = Stage({"slots": 10}).play(crowd(A, 20)).play("1 kernel dump")
    stage.play("1 kernel LOST").until(40)
    assert stage.doomed == []


def test_white_and_immune_peers_are_never_ended() -> None:
    stage = Stage({"slots": 4}, dumps=1, white=(A,), immune=lambda n: n == SIZE.parse(B))
    stage.play(crowd(A, 5)).play(crowd(B, 5)).play(crowd(C, 2)).until(20)
    assert peers(stage.ended) == {C}


def test_who_waits_for_a_server_that_answers_nobody_keeps_a_quarter_of_the_slots_unpaid() -> None:
    """Who is answered next shows that the server is slow."""
    stage = Stage({"slots": 8, "block_at": 1e6}, dumps=1)
    asks = f"{HELD} says=40 hears=9"
    for n in range(12):
        stage.play(f"{n / 20} 10.7.0.{n} {asks}")
    stage.play("\n".join(f"{1 + n / 20} 10.7.0.{n} says=50" for n in range(12))).until(60)
    assert len(stage.engine.sessions) >= SPARED * 8
    assert stage.ended
    assert all(stage.evidence(f"10.7.0.{n}") == {} for n in range(12))


def test_who_is_asked_for_by_a_socket_that_knows_better_stays() -> None:
    """The guess was wrong: the peer spoke last, so it is the server's turn."""
    waits = Word(0.3, False, 90, 300, 0.01, 0, 0, True)
    stage = Stage({"slots": 4, "block_at": 1e6}, dumps=1, sockets=lambda *_: waits)
    stage.play(crowd(A, 8)).until(3)
    assert peers(stage.doomed) == {A}
    assert stage.ended == []


@pytest.mark.parametrize(
    ("what", "word", "ended"),
    [
        ("silent since", Word(9.0, True, 20, 300, 0.01, 0, 0, True), True),
        ("what it said wasn't read yet", Word(9.0, False, 20, 300, 0.01, 20, 0, True), False),
        ("it waits to be accepted", Word(9.0, False, 0, 0, 0.01, 0, 0, False), False),
        ("it was told something just now", Word(0.1, True, 20, 300, 0.01, 0, 0, True), False),
        ("late: it bids as doubtful first", Word(1.0, False, 90, 300, 0, 0, 0, True), False),
        ("no socket tells of it, as where there are none", None, True),
    ],
)
def test_what_the_socket_says(what: str, word: Word | None, ended: bool) -> None:
    stage = Stage({"slots": 4, "block_at": 1e6}, dumps=1, sockets=lambda *_: word)
    stage.play(crowd(A, 8)).until(2)
    assert stage.doomed, what
    assert bool(stage.ended) is ended, what


def test_a_session_whose_socket_is_gone_since_it_told_isnt_ended() -> None:
    """conntrack has it, the server has not: its end is about to be told."""
    told = Word(0.05, True, 20, 300, 0.01, 0, 0, True)
    stage = Stage(
        {"slots": 4, "block_at": 1e6},
        dumps=1,
        sockets=lambda _, now: told if now <= 2 else None,
    )
    stage.play(crowd(A, 8)).until(2)
    asked = set(stage.doomed)
    stage.until(3)
    assert asked
    assert not asked & set(stage.ended)


def test_a_session_that_is_over_since_the_look_is_not_counted_as_going() -> None:
    """conntrack was made to forget it: else there would seem to be room for ever."""
    stage = Stage({"slots": 4, "block_at": 1e6}, dumps=1).play(crowd(A, 8)).until(1)
    sessions, room = stage.engine.sessions, stage.engine._room
    gone, other, *_ = sessions
    room.bid([(Note.LOOKED, each, None) for each in (gone, other)], 1.0)
    sessions._finish(gone, [])
    assert room.doom(3.0) == [other.key]
    assert sessions.going(frozenset()) == 1


def test_those_that_could_not_be_ended_are_bid_for_again() -> None:
    """They keep their slots: so the pressure stays, and they are tried again."""
    stage = Stage({"slots": 4, "block_at": 1e6}, dumps=1, kills=False).play(crowd(A, 8)).until(2)
    ended = list(stage.ended)
    assert len(ended) == 5
    assert stage.engine.pressure == 2.0
    stage.until(6)
    assert len(stage.ended) == len(set(stage.ended))  # nobody twice
    again = stage.ended[:]
    stage.engine.not_ended(again)
    stage.until(8)
    assert set(again) & set(stage.ended[len(again) :])
    assert not stage.engine.judge.ended - set(stage.ended)


def test_demand_outlasts_the_crowd_for_a_while() -> None:
    stage = Stage({"slots": 4, "block_at": 1e6}, dumps=1).play(crowd(A, 8)).until(5)
    assert stage.engine.stress == 1.0
    assert stage.until(5 + STRESS_LASTS - 3).engine.stress == 1.0
    assert stage.until(5 + STRESS_LASTS + 3).engine.stress == 0.0
    assert stage.engine.price == 0.0


def test_a_peers_share_is_told_in_who_was_ended() -> None:
    """One with six and six with one: the six of the one are worth less, each."""
    stage = Stage({"slots": 10, "block_at": 1e6}, dumps=1).play(crowd(A, 6, f"{HELD} says=60"))
    for n in range(6):
        stage.play(f"0 10.7.0.{n} {HELD} says=60")
    stage.until(4)
    assert Counter(peers(stage.ended)) == {A: 1}


def test_who_never_speaks_on_a_port_for_tls_is_ended_once() -> None:
    """It has a bid, and nobody greeted it: one reason is enough."""
    stage = Stage({"slots": 10, "block_at": 1e6}, dumps=1)
    held = (f"203.0.113.1#{n}@465" for n in range(13))
    stage.play("\n".join(f"0 {each} SYN_RECV ESTABLISHED unanswered" for each in held)).until(8)
    assert stage.ended
    assert len(stage.ended) == len(set(stage.ended))
    assert len(stage.doomed) == len(set(stage.doomed))
